"""A small game in which agents differ, come late and leave early."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from pettingzoo import ParallelEnv

from robustmarl.typing import Actions, AnySpace, Array, Obs, Options, ResetResult, StepResult

__all__ = ["UnevenGame"]


class UnevenGame(ParallelEnv[str, Array, object]):
    """Three agents of different sizes; one appears after a step, one leaves after three.

    Episodes take four or five steps. An agent earns its action, or the sum of its box.

    Args:
        continuous: whether actions are vectors.
    """

    metadata = {"name": "uneven", "team_reward": "sum", "horizon": 5}  # noqa: RUF012 - PettingZoo's
    render_mode = None
    _obs_sizes = {"small": 2, "late": 5, "short": 4}  # noqa: RUF012 - read only
    _action_sizes = {"small": 2, "late": 4, "short": 3}  # noqa: RUF012
    _rng: Generator

    def __init__(self, *, continuous: bool = False) -> None:
        self.possible_agents = list(self._obs_sizes)
        self.agents: list[str] = []
        self.continuous = continuous
        self.observation_spaces = {
            agent: Box(-1.0, 1.0, (size,), np.float32) for agent, size in self._obs_sizes.items()
        }
        self.action_spaces = {
            agent: Box(-2.0, 1.0, (size,), np.float32) if continuous else Discrete(size)
            for agent, size in self._action_sizes.items()
        }

    def observation_space(self, agent: str) -> AnySpace:
        """Return a box around what the agent observes."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> AnySpace:
        """Return the agent's indices or box."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        """Begin an episode without the agent that comes late."""
        self._rng = np.random.default_rng(seed)
        self._steps, self._length = 0, int(self._rng.integers(4, 6))
        self.agents = [agent for agent in self.possible_agents if agent != "late"]
        return self._observe(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: Actions) -> StepResult:
        """Play a step."""
        acted, self._steps = self.agents, self._steps + 1
        over = self._steps == self._length
        gone = {agent: agent == "short" and self._steps == 3 for agent in acted}
        stay = [] if over else [agent for agent in acted if not gone[agent]]
        came = ["late"] if self._steps == 1 else []
        self.agents = [agent for agent in self.possible_agents if agent in (*stay, *came)]
        shown = [*acted, *came]
        return (
            self._observe(shown),
            {agent: float(np.sum(actions.get(agent, 0.0))) for agent in shown},
            dict.fromkeys(shown, False) | gone,
            {agent: over and not gone.get(agent, False) for agent in shown},
            {agent: {} for agent in shown},
        )

    def _observe(self, agents: list[str]) -> Obs:
        return {
            agent: self._rng.uniform(-1.0, 1.0, self._obs_sizes[agent]).astype(np.float32)
            for agent in agents
        }
