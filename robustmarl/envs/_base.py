"""What the parallel environments here share: spaces made once, and who may act."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from pettingzoo import ParallelEnv
from typing_extensions import override

from robustmarl._checks import check
from robustmarl.typing import StepResult

__all__ = ["CheckedEnv", "masked_spaces"]


class CheckedEnv(ParallelEnv[str, Any, Any], ABC):
    """An environment whose spaces are made once, and that refuses steps of the wrong agents."""

    @override
    def observation_space(self, agent: str) -> Space[Any]:
        return self.observation_spaces[agent]

    @override
    def action_space(self, agent: str) -> Space[Any]:
        return self.action_spaces[agent]

    @override
    def step(self, actions: dict[str, Any]) -> StepResult:
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

    @abstractmethod
    def _step(self, actions: dict[str, Any]) -> StepResult:
        """Play one step; ``actions`` has one of every living agent."""


def masked_spaces(
    agents: Iterable[str], seen: Box, actions: int
) -> tuple[dict[str, Space[Any]], dict[str, Space[Any]]]:
    """Return observation spaces, ``seen`` beside an action mask, and action spaces."""
    agents = list(agents)
    return (
        {a: Dict({"observation": seen, "action_mask": MultiBinary(actions)}) for a in agents},
        {a: Discrete(actions) for a in agents},
    )
