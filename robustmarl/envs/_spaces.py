"""Spaces that are made once: what the parallel environments here share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from pettingzoo import ParallelEnv
from typing_extensions import override

__all__ = ["FixedSpaces", "masked_spaces"]


class FixedSpaces(ParallelEnv[str, Any, Any]):
    """Answers with the spaces it was made with: an agent's is always the same object."""

    @override
    def observation_space(self, agent: str) -> Space[Any]:
        return self.observation_spaces[agent]

    @override
    def action_space(self, agent: str) -> Space[Any]:
        return self.action_spaces[agent]


def masked_spaces(
    agents: Iterable[str], seen: Box, actions: int
) -> tuple[dict[str, Space[Any]], dict[str, Space[Any]]]:
    """Return observation spaces, ``seen`` beside an action mask, and action spaces."""
    agents = list(agents)
    return (
        {a: Dict({"observation": seen, "action_mask": MultiBinary(actions)}) for a in agents},
        {a: Discrete(actions) for a in agents},
    )
