"""What terms on observations that an attack finds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from robustmarl._checks import check_int, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.base import ObsAttack, check_attack
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.victims import LossRows, Victim, VictimView

__all__ = ["AttackTerm", "attacked"]


@dataclass(frozen=True, kw_only=True)
class AttackTerm(ABC):
    """Settings of a term on the observations that an attack finds; it implements :meth:`loss`.

    Args:
        attack: finds them with the present network.
        weight: >= 0, a number or a schedule.
        max_rows: estimate the term on at most so many rows, >= 1; None takes all.
        epsilon: the attack's radius >= 0, a number or a schedule; None is the attack's own. While
            it is 0 the term is off. It is of all coordinates but those that the ball has ``fixed``.
    """

    attack: ObsAttack
    weight: float | Schedule
    max_rows: int | None = 256
    epsilon: float | Schedule | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_attack(f"{name}.attack", self.attack)
        keep(self, weight=as_schedule(f"{name}.weight", self.weight, 0.0))
        if self.max_rows is not None:
            keep(self, max_rows=check_int(f"{name}.max_rows", self.max_rows, 1))
        if self.epsilon is not None:
            keep(self, epsilon=as_schedule(f"{name}.epsilon", self.epsilon, 0.0))

    def with_epsilon(self, epsilon: float) -> Self:
        """Return the same with the attack at this radius, constant."""
        return replace(self, attack=self.attack.with_epsilon(epsilon), epsilon=None)

    @abstractmethod
    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return the unweighted penalty; see :class:`~robustmarl.losses.Term`."""


@torch.no_grad()
def attacked(attack: ObsAttack, view: VictimView, obs: Tensor, draws: Draws | None) -> Tensor:
    """Return what ``attack`` makes of ``obs`` (M, D), which is left as it is."""
    return attack(view, obs.clone(), draws)  # an attack may write into what it is given
