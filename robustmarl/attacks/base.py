"""The protocol of observation attacks, and what one tick of E environments looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from robustmarl._seeding import Draws
from robustmarl.perturbation import Coordinates, LinfBall
from robustmarl.victims import VictimView

__all__ = ["ObsAttack", "StepContext"]


@runtime_checkable
class ObsAttack(Protocol):
    """A small value object of settings, called with the victim's view.

    An attack that never asks the victim may say so by a class attribute ``needs_victim = False``;
    it can then be used where there is none.
    """

    @property
    def ball(self) -> LinfBall:
        """What it may change."""

    def at(self, epsilon: Coordinates) -> Self:
        """Return the same attack at another radius."""

    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return adversarial observations in the ball.

        Args:
            view: the victim, bound to the same M rows.
            obs: clean observations, (M, D); not modified.
            draws: the rows' random numbers; None draws from torch's global generator.

        Returns:
            float tensor (M, D), detached, same dtype and device as ``obs``.
        """


@dataclass(kw_only=True)
class StepContext:
    """One tick of E environments with N agents, before they act.

    Attributes:
        obs: clean observations (E, N, D).
        seen: what the agents see so far, (E, N, D); the same tensor while nothing perturbs.
        mask: available actions (E, N, A).
        state: global state (E, S) or (E, N, S).
        alive: (E, N).
        last_act: (E, N) int64, -1 at the first step, or (E, N, A) float, zeros at the first step.
        hidden: the acting policy's hidden state before this step, (E, N, H), or None.
        step: steps since the episode began, int64 (E,).
        keys: the episodes' random keys, int64 (E,).
        live: environments that play in this tick, bool (E,).
        terminal: environments whose observation is their episode's last, bool (E,).
        types: which agents are Byzantine, bool (E, N), None where none can be. The truth: for
            adversaries, oracles and labels, never for a defender's own decisions.
    """

    obs: Tensor
    seen: Tensor
    mask: Tensor
    state: Tensor
    alive: Tensor
    last_act: Tensor
    hidden: Tensor | None
    step: Tensor
    keys: Tensor
    live: Tensor
    terminal: Tensor
    types: Tensor | None = None
