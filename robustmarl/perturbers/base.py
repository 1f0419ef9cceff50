"""Hooks around one step of a team."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from robustmarl.joint import StepContext, TeamSpec
from robustmarl.victims import Victim

__all__ = ["Perturber"]


class Perturber:
    """Hooks around one step of a team; each returns its input unchanged here.

    Order in a step: ``on_obs``, ``shown`` -> policy -> ``on_logits`` -> sample -> explore ->
    ``on_act`` -> environment. ``on_obs`` is also called on terminal observations.
    """

    act_told: Literal["intended", "executed"] = "intended"
    """Which action the learner is told where ``on_act`` changes it.

    With ``"executed"`` it is told that action's log-probability under its own policy, too,
    whatever ``on_logits`` made of it.
    """

    def bind(self, spec: TeamSpec, policy: Victim | None, depth: int) -> None:
        """Prepare for a team: its spec, the acting policy, and the position in the stack."""

    def on_obs(self, context: StepContext) -> Tensor:
        """Return what the agents see, (E, N, D), given ``context.seen``."""
        return context.seen

    def shown(self, context: StepContext) -> None:
        """Take note of what the whole stack showed: ``context.seen``."""

    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Return the logits or means (E, N, A) from which actions are drawn."""
        return logits

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions, shape as ``act``."""
        return act

    def record(self) -> dict[str, Tensor]:
        """Return further keys of this step for the batch, each (E, ...)."""
        return {}

    def counters(self) -> dict[str, float]:
        """Return figures since ``bind``: how often it acted, how often in vain."""
        return {}
