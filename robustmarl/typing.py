"""Names shared by the whole package."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

__all__ = [
    "Array",
    "Env",
    "ResetResult",
    "RobustnessWarning",
    "StepResult",
    "TeamReward",
    "Unit",
]

Env: TypeAlias = ParallelEnv[str, Any, Any]
"""A PettingZoo parallel environment whose agents are named by strings."""

ResetResult: TypeAlias = tuple[dict[str, Any], dict[str, dict[str, Any]]]
"""Observations and infos, per agent."""

StepResult: TypeAlias = tuple[
    dict[str, Any],
    dict[str, float],
    dict[str, bool],
    dict[str, bool],
    dict[str, dict[str, Any]],
]
"""Observations, rewards, terminations, truncations and infos, per agent."""

Array: TypeAlias = NDArray[np.float32]
"""A float32 numpy array."""

TeamReward: TypeAlias = Literal["sum", "mean"]
"""How per-agent rewards make the team's reward; ``mean`` of a shared reward is that reward."""

Unit: TypeAlias = Literal["updates", "episodes", "env_steps"]
"""What a counter counts."""


class RobustnessWarning(UserWarning):
    """An attack or an evaluation is not what it seems: no gradient, no use of the budget, ..."""
