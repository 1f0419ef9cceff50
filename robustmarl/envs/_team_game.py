"""A parallel environment of a small team that shares one reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import SupportsIndex

import numpy as np
from gymnasium.spaces import Box, Discrete
from typing_extensions import override

from robustmarl._checks import check_seed
from robustmarl.envs._base import CheckedEnv, read_index
from robustmarl.typing import Array, ResetResult, StepResult

__all__ = ["TeamGame"]


class TeamGame(CheckedEnv[Array, SupportsIndex], ABC):
    """Base of games that are small enough to enumerate.

    Subclasses set their tables, then answer :meth:`_begin`, :meth:`_play`, :meth:`_views` and
    :meth:`state`.

    Args:
        name: what ``metadata["name"]`` says.
        actions: number of actions per agent.
        obs_box: of every agent's observation, shape (D,).
        state_space: of :meth:`state`, shape (S,) or (N, S).
        horizon: the most steps of an episode.
        time_limit: whether reaching the horizon truncates (else it terminates).
    """

    render_mode = None

    def __init__(
        self,
        *,
        name: str,
        actions: tuple[int, ...],
        obs_box: Box,
        state_space: Box,
        horizon: int,
        time_limit: bool,
    ) -> None:
        self.metadata = {
            "name": name,
            "render_modes": [],
            "team_reward": "mean",
            "horizon": horizon,
        }
        self.possible_agents = [f"agent_{i}" for i in range(len(actions))]
        self.agents = []
        self.action_spaces = {
            agent: Discrete(n) for agent, n in zip(self.possible_agents, actions, strict=True)
        }
        self.observation_spaces = {
            agent: Box(obs_box.low, obs_box.high, dtype=np.float32)
            for agent in self.possible_agents
        }
        self.state_space = state_space
        self._action_sizes, self._horizon, self._time_limit = actions, horizon, time_limit
        self._rng = np.random.default_rng()
        self._steps = 0

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        if seed is not None:
            self._rng = np.random.default_rng(check_seed("reset.seed", seed))
        self._steps = 0
        self.agents = self.possible_agents[:]
        self._begin()
        return self._observe(), {agent: {} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents = self.agents
        sizes = zip(agents, self._action_sizes, strict=True)
        reward = self._play(tuple(read_index(agent, actions[agent], size) for agent, size in sizes))
        self._steps += 1
        over = self._steps >= self._horizon
        if over:
            self.agents = []
        return (
            self._observe(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, over and not self._time_limit),
            dict.fromkeys(agents, over and self._time_limit),
            {agent: {} for agent in agents},
        )

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """The number of each agent's actions."""
        return self._action_sizes

    def _observe(self) -> dict[str, Array]:
        return dict(zip(self.possible_agents, self._views(), strict=True))

    @abstractmethod
    def _begin(self) -> None:
        """Draw the first state."""

    @abstractmethod
    def _play(self, joint: tuple[int, ...]) -> float:
        """Move on by one joint action, and return the team's reward."""

    @abstractmethod
    def _views(self) -> Array:
        """Return all observations, shape (N, D), in a new array."""
