"""Which agents are attacked, where that is drawn anew for every episode."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from robustmarl._checks import check, check_int, check_names, keep
from robustmarl._seeding import Draws

__all__ = ["AttackedAgents", "RandomAgents"]


@dataclass(frozen=True)
class RandomAgents:
    """Some of a team's agents, drawn when an episode begins, all sets equally likely.

    Args:
        number: how many, >= 1.
        among: names of those to draw from; None is all.

    Raises:
        ValueError: for a number below 1, or more than there are names.
    """

    number: int
    among: Collection[str] | None = None

    def __post_init__(self) -> None:
        keep(self, number=check_int("RandomAgents.number", self.number, 1))
        if self.among is not None:
            names = check_names("RandomAgents.among", self.among, self.among)
            rule = "at least one name, or None for all"
            check(len(names) > 0, "RandomAgents.among", rule, self.among)
            keep(self, among=names)
            self.check_size(len(names))

    def check_size(self, size: int) -> None:
        """Raise ``ValueError`` unless there are as many agents to draw from."""
        rule = f"at most {size}, the agents to draw from"
        check(self.number <= size, "RandomAgents.number", rule, self.number)

    def rows(self, draws: Draws, eligible: Tensor, numbers: Tensor | None, size: int) -> Tensor:
        """Return who is drawn, bool (E, N).

        Args:
            draws: of the episodes, E rows.
            eligible: whom to draw from, bool (N,).
            numbers: each agent's number among those that draw, int64 (N,); None is its index.
            size: how many draw.
        """
        order = draws.uniform(size)
        if numbers is not None:
            order = order[:, numbers]
        order = torch.where(eligible, order, torch.inf)
        rank = order.argsort(dim=1, stable=True).argsort(dim=1)
        return (rank < self.number) & eligible


AttackedAgents: TypeAlias = Collection[str] | RandomAgents | None
"""Who is attacked: those named, some that are drawn, or, None, all."""
