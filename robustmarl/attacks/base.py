"""The protocol of observation attacks."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from robustmarl._checks import check, check_kind
from robustmarl._seeding import Draws
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.victims import VictimView

__all__ = ["ObsAttack", "check_attack", "draws_of", "needs_victim"]


@runtime_checkable
class ObsAttack(Protocol):
    """A small value object of settings, called with the victim's view.

    An attack that never asks the victim may say so by a class attribute ``needs_victim = False``;
    it can then be used where there is none.
    """

    @property
    def ball(self) -> LinfBall:
        """What it may change."""

    def with_epsilon(self, epsilon: Coordinates) -> Self:
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


def check_attack(where: str, attack: object) -> None:
    """Raise ``TypeError`` unless ``attack`` is an :class:`ObsAttack`."""
    rule = "an ObsAttack with `ball`, `with_epsilon` and `__call__`"
    check_kind(where, attack, ObsAttack, rule)


def draws_of(name: str, draws: Draws | None, obs: Tensor) -> Draws:
    """Return the random numbers of M rows ``obs``, (M, D): fresh ones for None.

    Raises:
        ValueError: unless there is a key for each row; of one all rows would be moved alike.
    """
    if draws is None:
        return Draws.fresh(len(obs), obs.device)
    rows, keys = len(obs), len(draws.keys)
    if keys != rows:  # in every step of every environment: nothing is worded that nobody reads
        check(False, f"{name}.draws", f"of {rows} keys, one per observation", keys)
    return draws


def needs_victim(attack: ObsAttack) -> bool:
    """Return whether ``attack`` asks the victim, as those do that do not say otherwise."""
    return bool(getattr(attack, "needs_victim", True))
