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

    RoMFAC's M attacked agents: tables over M go on to 64 where a team of Pursuit has 32 agents.

    Args:
        number: how many, >= 0; all of them where there are fewer.
        among: names of those to draw from; None is all.

    Raises:
        ValueError: for a negative number, or no names.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> one = perturbers.ObsPerturber(noise, agents=RandomAgents(1))
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=one).counters["0/attacked"]
        200.0
    """

    number: int
    among: Collection[str] | None = None

    def __post_init__(self) -> None:
        keep(self, number=check_int("RandomAgents.number", self.number, 0))
        if self.among is not None:
            names = check_names("RandomAgents.among", self.among, self.among)
            rule = "at least one name, or None for all"
            check(len(names) > 0, "RandomAgents.among", rule, self.among)
            keep(self, among=names)

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
