"""Hooks around one step of a team."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustmarl.joint import StepContext, TeamSpec
from robustmarl.victims import Victim

__all__ = ["Perturber", "Place"]


@dataclass(frozen=True)
class Place:
    """A perturber's place among those that act on one team.

    Attributes:
        depth: its position, 0 for the innermost; names its random streams.
        name: under which its records are kept, its own among them.
    """

    depth: int
    name: str


class Perturber:
    """Hooks around one step of a team; each returns its input unchanged here.

    Order in a step: ``on_obs``, ``shown`` -> policy -> ``on_logits`` -> sample -> explore ->
    ``on_act`` -> environment. ``on_obs`` is also called on terminal observations.
    """

    kind: ClassVar[str] = "perturber"
    """Its name in a stack, while no other of the kind is there."""

    act_told: Literal["intended", "executed"] = "intended"
    """Which action the learner is told where ``on_act`` changes it, and the agents remember.

    With ``"executed"`` it is told that action's log-probability under its own policy, too,
    whatever ``on_logits`` made of it.
    """

    place: Place = Place(0, kind)
    """Where it acts; until it is bound, that of one alone."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.place = Place(0, cls.kind)

    @property
    def changes_actions(self) -> bool:
        """Whether ``on_act`` may change what is executed."""
        return type(self).on_act is not Perturber.on_act

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Prepare for a team: its spec, the acting policy, and the place in the stack."""
        self.place = place

    def on_obs(self, context: StepContext) -> Tensor:
        """Return what the agents see, (E, N, D), given ``context.seen``."""
        return context.seen

    def shown(self, context: StepContext) -> None:
        """Take note of what the whole stack showed: ``context.seen``."""

    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Return the logits or means (E, N, A) from which actions are drawn."""
        return logits

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions, (E, N) or (E, N, A) as ``act``."""
        return act

    def record(self) -> Mapping[str, Tensor]:
        """Return what is to be kept of this step by name, (E, ...) each.

        The batch has it as ``records[place.name]``.
        """
        return {}

    def counters(self) -> dict[str, float]:
        """Return figures since ``bind``: how often it acted, how often in vain."""
        return {}
