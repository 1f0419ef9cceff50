"""Weaker adversaries: the worst few agents of a team, and a budget of attacked steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from robustmarl.attacks import APGD, ObsAttack, SquareSearch, UniformNoise
from robustmarl.evaluation.suite import Case
from robustmarl.perturbers import ObsPerturber

__all__ = ["scout", "worst_agents"]

EXHAUSTIVE = 12
"""Up to so many subsets all are tried; beyond, agents are added one by one."""


def scout(case: Case) -> ObsAttack:
    """Return a cheap attack that tells agents apart: what a team gives an attacker to follow."""
    if case.asked and case.gradients and not case.spec.continuous:
        return APGD(ball=case.ball, loss="margin", steps=10)
    if case.asked:
        if case.spec.continuous:
            return SquareSearch(ball=case.ball, queries=30)
        return SquareSearch(ball=case.ball, queries=30, loss="margin")
    return UniformNoise(ball=case.ball)


def worst_agents(case: Case, count: int, score: Callable[[ObsPerturber], float]) -> tuple[str, ...]:
    """Return the agents whose attack costs the team the most.

    All subsets are tried up to twelve of them. Else they are found greedily: the worst one, then
    the worst beside it.

    Args:
        case: the team; its attacked agents are not looked at.
        count: of agents, in [1, N].
        score: plays the team under an attack and returns its mean score.
    """
    names = case.spec.agents
    attack = scout(case)

    def left(agents: tuple[str, ...]) -> float:
        return score(replace(case, agents=agents).on(attack))

    if math.comb(len(names), count) <= EXHAUSTIVE:
        return min(combinations(names, count), key=left)
    chosen: tuple[str, ...] = ()
    for _ in range(count):
        chosen = min(((*chosen, name) for name in names if name not in chosen), key=left)
    return tuple(name for name in names if name in chosen)
