"""What terms on observations that an attack finds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

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
    """

    attack: ObsAttack
    weight: float | Schedule
    max_rows: int | None = 256

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_attack(f"{name}.attack", self.attack)
        keep(self, weight=as_schedule(f"{name}.weight", self.weight, 0.0))
        if self.max_rows is not None:
            keep(self, max_rows=check_int(f"{name}.max_rows", self.max_rows, 1))

    @abstractmethod
    def loss(self, victim: Victim, rows: LossRows, draws: Draws) -> Tensor:
        """Return the unweighted penalty; see :class:`~robustmarl.losses.Term`."""


@torch.no_grad()
def attacked(attack: ObsAttack, view: VictimView, obs: Tensor, draws: Draws | None) -> Tensor:
    """Return what ``attack`` makes of ``obs`` (M, D), which is left as it is."""
    return attack(view, obs.clone(), draws)  # an attack may write into what it is given
