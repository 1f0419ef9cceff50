"""Who plays a team: a policy, a random team, a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from robustmarl._seeding import Draws
from robustmarl.attacks.base import StepContext
from robustmarl.spec import TeamSpec
from robustmarl.victims import MASKED, Victim

__all__ = ["Controller", "RandomController", "ScriptedController", "categorical"]


class Controller(Protocol):
    """Plays one team's N agents in E environments at once."""

    @property
    def hidden_size(self) -> int:
        """H, 0 without memory."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return logits or means (E, N, A) for ``context.seen`` and the next hidden state."""

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions (E, N) or (E, N, A), and their log-probabilities (E, N) or None."""

    def victim(self) -> Victim | None:
        """Return the view of it that attacks may query; None if there is none."""

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless it can play this team."""


def categorical(logits: Tensor, draws: Draws) -> Tensor:
    """Return indices (E, N) drawn from softmax(logits), (E, N, A), by inverse distribution."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    point = draws.uniform(logits.shape[1]).unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative <= point).sum(dim=-1)


class RandomController:
    """Uniform over available actions, or over the box: the random baseline.

    Args:
        spec: the team it plays.
        device: where it computes.
    """

    hidden_size = 0

    def __init__(self, spec: TeamSpec, device: torch.device | str = "cpu") -> None:
        self.spec, self.device = spec, torch.device(device)

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return flat logits (E, N, A)."""
        return torch.zeros_like(context.mask, dtype=torch.float32), None

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return uniform actions."""
        if self.spec.continuous:
            unit = draws.uniform(output.shape[1] * output.shape[2]).view(output.shape)
            return unit * 2.0 - 1.0, None
        return categorical(output.masked_fill(~mask, MASKED), draws), None

    def victim(self) -> Victim | None:
        """Return None: there is nothing to query."""
        return None

    def check_spec(self, spec: TeamSpec) -> None:
        """Accept any team of the same size."""
        if difference := self.spec.describe_difference(spec):
            raise ValueError(f"RandomController.spec must be the team's, got {difference}.")


class ScriptedController(RandomController):
    """A script: any function of what the team sees.

    Args:
        spec: the team it plays.
        script: maps a :class:`~robustmarl.attacks.base.StepContext` to actions, (E, N) int64 or
            (E, N, A) float.
        device: where it computes.
    """

    def __init__(
        self,
        spec: TeamSpec,
        script: Callable[[StepContext], Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(spec, device)
        self.script = script

    def infer(self, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """Return the script's actions as logits with all mass on one action, or as means."""
        act = self.script(context)
        if self.spec.continuous:
            return act, None
        logits = torch.full(context.mask.shape, MASKED, device=act.device)
        return logits.scatter_(-1, act.unsqueeze(-1), 0.0), None

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scripted actions."""
        return (output if self.spec.continuous else output.argmax(dim=-1)), None
