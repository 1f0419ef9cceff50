"""What the steps of a learner from the newest episodes take in, whole or in minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["Samples"]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """B episodes of T steps, or B steps as episodes of one.

    Attributes:
        seen: what the agents acted on, (B, T, N, D).
        clean: what they would have seen without an attack, (B, T, N, D).
        mask: available actions, (B, T, N, A).
        act: what they did, (B, T, N) or (B, T, N, A).
        acting: agent-steps that the actor learns from, bool (B, T, N).
        valued: where the critic learns, bool (B, T, K).
        last_act: the actions before each step, like ``act``; None if agents do not see them.
        side: further inputs of the actor by name, (B, T, N, ...) each.
    """

    seen: Tensor
    clean: Tensor
    mask: Tensor
    act: Tensor
    acting: Tensor
    valued: Tensor
    last_act: Tensor | None
    side: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.seen)

    def steps(self, valid: Tensor) -> Self:
        """Return every step that is ``valid``, bool (B, T), as an episode of one step."""
        return self._mapped(lambda values: values[valid].unsqueeze(1))

    def minibatches(
        self, valid: Tensor, size: int | None, generator: torch.Generator
    ) -> Iterator[Self]:
        """Yield all of it, in a random order, in parts of about equal length.

        Args:
            valid: the steps that were played, bool (B, T).
            size: so many of them per part, as nearly as may be; None is all at once.
            generator: of the order, on the CPU. A single part keeps its order, and draws nothing.
        """
        parts = 1
        if size is not None:
            parts = min(max(1, round(int(valid.sum()) / size)), len(self))
        if parts == 1:
            yield self
            return
        order = torch.randperm(len(self), generator=generator).to(self.seen.device)
        for index in order.chunk(parts):
            yield self.select(index)

    def select(self, index: Tensor) -> Self:
        """Return the episodes of these indices, int64 (K,)."""
        return self._mapped(lambda values: values[index])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        kept = {name: change(x) for name, x in vars(self).items() if isinstance(x, Tensor)}
        side = {name: change(values) for name, values in self.side.items()}
        return replace(self, side=side, **kept)
