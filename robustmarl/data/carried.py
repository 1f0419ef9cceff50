"""What goes on from one segment of episodes to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.data.staging import Piece
from robustmarl.joint import StepContext, TeamSpec

__all__ = ["Carried"]


class Carried:
    """What a collector carries from one collection to the next; nothing where they are whole.

    Args:
        spec: the team's.
        size: E.
        segments: whether episodes go on over the end of a collection.

    Attributes:
        segments: likewise.
        context: what the last tick showed and nobody has acted on yet; None where nothing is under
            way.
    """

    def __init__(self, spec: TeamSpec, size: int, segments: bool) -> None:
        self._spec, self._size, self.segments = spec, size, segments
        self.context: StepContext | None = None
        # what the policy brought along over the last border, (E, ...), by the batch's names
        self._brought: dict[str, Tensor] = {}

    def ticks(self, n_step: int | None, buffer: EpisodeBuffer | None) -> int:
        """Return how often environments are stepped so that it is ``n_step`` times in all.

        Raises:
            ValueError: if that is no whole number, or the buffer's pieces are shorter.
        """
        where, size = "JointCollector.collect.n_step", self._size
        rule = f"a multiple of {size}, the number of environments, for segments"
        check(n_step is not None and n_step % size == 0, where, rule, n_step)
        assert n_step is not None
        if buffer is not None and buffer.steps < self._spec.horizon:
            rule = f"at most {buffer.steps * size}: the buffer holds pieces of {buffer.steps} steps"
            check(n_step <= buffer.steps * size, where, rule, n_step)
        return n_step // size

    def take(self) -> StepContext | None:
        """Return the context on which to go on, once; None where nothing is under way."""
        context, self.context = self.context, None
        return context

    def before(self, piece: Piece) -> dict[str, Tensor]:
        """Return what the policy brought along to the first of these steps, (K, ...), by name.

        That is nothing where an episode began with them. The pieces say so themselves: where they
        are handed over late, other episodes may have begun in their rows.
        """
        none = {"act_before": 0 if self._spec.continuous else -1}
        before = {}
        for name, values in self._brought.items():
            of_rows = values[torch.from_numpy(piece.rows).to(values.device)]
            begins = torch.from_numpy(piece.steps == 0).to(values.device)
            begins = begins.view(-1, *[1] * (values.dim() - 1))
            before[name] = torch.where(begins, none.get(name, 0), of_rows)
        return before

    def note(self, last_act: Tensor, hidden: Tensor | None) -> None:
        """Take note of what the policy brings along to the step that comes next."""
        if not self.segments:
            return
        self._brought = {"act_before": last_act.clone()}  # which may be a script's own
        if hidden is not None:
            self._brought["hidden_before"] = hidden
