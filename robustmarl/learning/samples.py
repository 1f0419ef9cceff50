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
    """B episodes of T steps; or B steps as episodes of one, once they are selected.

    Attributes:
        seen: what the agents acted on, (B, T, N, D).
        clean: what they would have seen without an attack, (B, T, N, D).
        mask: available actions, (B, T, N, A).
        act: what they did, (B, T, N) or (B, T, N, A).
        acting: agent-steps that the actor learns from, bool (B, T, N).
        valued: where the critic learns, bool (B, T, K).
        last_act: the actions before each step, like ``act``; None if agents do not see them.
        side: further inputs of the actor by name, (B, T, N, ...) each.
        hidden: the actor's memory before the first step, (B, N, H); None is empty, or none.
        places: which steps they are, episodes and times, int64 (K,) each; None are all episodes.
    """

    seen: Tensor
    clean: Tensor
    mask: Tensor
    act: Tensor
    acting: Tensor
    valued: Tensor
    last_act: Tensor | None
    side: Mapping[str, Tensor]
    hidden: Tensor | None = None
    places: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.seen if self.places is None else self.places[0])

    def steps(self, valid: Tensor) -> Self:
        """Return every step that is ``valid``, bool (B, T), as an episode of one step.

        Nothing is copied before it is selected: observations of a large team take megabytes.
        """
        rows, times = valid.nonzero().unbind(1)
        return replace(self, places=(rows, times))

    def minibatches(
        self, valid: Tensor, size: int | None, generator: torch.Generator
    ) -> Iterator[Self]:
        """Yield all of it, in a random order, in parts of about equal length.

        Args:
            valid: the steps that were played, bool (B, T).
            size: so many of them per part, as nearly as may be; None is all at once.
            generator: of the order, on the CPU. A single part keeps its order, and draws nothing.
        """
        parts = self._parts(valid, size)
        if parts == 1:
            yield self._copied()
            return
        order = torch.randperm(len(self), generator=generator).to(self.seen.device)
        for index in order.chunk(parts):
            yield self.select(index)

    def for_epochs(self, valid: Tensor, size: int | None) -> Self:
        """Return the same to draw minibatches of several times: a single part is copied once."""
        return self._copied() if self._parts(valid, size) == 1 else self

    def _parts(self, valid: Tensor, size: int | None) -> int:
        if size is None:
            return 1
        return min(max(1, round(int(valid.sum()) / size)), len(self))

    def _copied(self) -> Self:
        return self if self.places is None else self._at(*self.places)

    def select(self, index: Tensor) -> Self:
        """Return the episodes, or steps, of these indices, int64 (K,)."""
        if self.places is None:
            return self._mapped(lambda values: values[index])
        rows, times = self.places
        return self._at(rows[index], times[index])

    def _at(self, rows: Tensor, times: Tensor) -> Self:
        return self._mapped(lambda values: values[rows, times].unsqueeze(1))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[tuple[object, ...], Tensor] = {}

        def once(values: Tensor) -> Tensor:
            # What nobody attacks is seen as it is: two views of one memory, and one copy.
            key = values.data_ptr(), values.shape, values.stride(), values.dtype
            if key not in changed:
                changed[key] = change(values)
            return changed[key]

        kept = {name: once(x) for name, x in vars(self).items() if isinstance(x, Tensor)}
        side = {name: once(values) for name, values in self.side.items()}
        return replace(self, side=side, places=None, **kept)
