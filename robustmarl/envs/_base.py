"""What the parallel environments here share: spaces made once, and who may act."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from typing_extensions import override

from robustmarl._checks import check, check_index, check_seed
from robustmarl._seeding import mix
from robustmarl.typing import StepResult

__all__ = [
    "CheckedEnv",
    "EpisodeSeeds",
    "MaskedObs",
    "Spaces",
    "masked_spaces",
    "read_action",
    "read_index",
]

ObsT = TypeVar("ObsT")
ActionT = TypeVar("ActionT")

MaskedObs: TypeAlias = dict[str, NDArray[np.generic]]
"""An ``observation`` (D,) and an ``action_mask`` (A,)."""

Spaces: TypeAlias = dict[str, Space[Any]]
"""A space per agent. What it draws is not told: ints, say, are as good as ``Discrete``'s int64."""


class CheckedEnv(ParallelEnv[str, ObsT, ActionT], ABC):
    """An environment whose spaces are made once, and that refuses steps of the wrong agents.

    A subclass's ``reset`` sets ``_begun``, and what has nothing to tell before asks
    :meth:`_check_begun`.
    """

    _begun = False

    @override
    def observation_space(self, agent: str) -> Space[ObsT]:
        return self.observation_spaces[agent]

    @override
    def action_space(self, agent: str) -> Space[ActionT]:
        return self.action_spaces[agent]

    @override
    def step(self, actions: Mapping[str, ActionT]) -> StepResult:
        agents, named = self.agents, list(actions)
        served = all(agent in actions for agent in agents)
        if not served or len(named) > len(agents):
            remedy = "Nobody plays before reset, nor after an episode's end. Call reset."
            check(bool(agents), "step.actions", "empty", named, remedy)
            check(served, "step.actions", f"one per living agent, {agents}", named)
            strange = [name for name in named if name not in self.possible_agents]
            check(not strange, "step.actions", f"of agents among {self.possible_agents}", strange)
        if not agents:
            return {}, {}, {}, {}, {}
        return self._step(actions)

    def _check_begun(self, what: str) -> None:
        """Raise ``RuntimeError`` before the first reset; ``what`` is what was called."""
        if not self._begun:
            raise RuntimeError(f"{what} must come after reset, got no game. Call reset() first.")

    @abstractmethod
    def _step(self, actions: Mapping[str, ActionT]) -> StepResult:
        """Play one step; ``actions`` has one of every living agent."""


class EpisodeSeeds:
    """Seeds of the episodes of one environment of an engine, which knows no others."""

    def __init__(self) -> None:
        self._seed, self._episode = secrets.randbits(62), 0

    def next(self, seed: int | None) -> int:
        """Return the next episode's seed: the one that is given, else one counted on from it."""
        if seed is not None:
            self._seed, self._episode = check_seed("reset.seed", seed), 0
            return self._seed
        self._episode += 1
        return mix(self._seed, self._episode)


def masked_spaces(agents: Iterable[str], seen: Box, actions: int) -> tuple[Spaces, Spaces]:
    """Return observation spaces, ``seen`` beside an action mask, and action spaces."""
    agents = list(agents)
    return (
        {a: Dict({"observation": seen, "action_mask": MultiBinary(actions)}) for a in agents},
        {a: Discrete(actions) for a in agents},
    )


def read_index(agent: str, action: SupportsIndex, size: int) -> int:
    """Return an agent's action as an int in [0, size).

    Raises:
        TypeError: if the action is not an integer.
        ValueError: if it is out of range.
    """
    if type(action) is int and 0 <= action < size:  # the usual case, told at once
        return action
    where = f"step.actions[{agent!r}]"
    number = check_index(where, action)
    check(0 <= number < size, where, f"an index below {size}", number)
    return number


def read_action(
    agent: str, action: SupportsIndex, mask: NDArray[np.generic], *, refuse: bool
) -> tuple[int, bool]:
    """Return an agent's action as an int, and whether ``mask`` (A,) has it available.

    Raises:
        TypeError: if the action is not an integer.
        ValueError: if it is not available, with ``refuse``.
    """
    where = f"step.actions[{agent!r}]"
    number = check_index(where, action)
    available = 0 <= number < len(mask) and bool(mask[number])
    remedy = "See its action_mask, or pass illegal='replace'."
    check(available or not refuse, where, "an available action", number, remedy)
    return number, available
