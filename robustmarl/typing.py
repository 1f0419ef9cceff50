"""Names shared by the whole package."""

from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from tianshou.algorithm.algorithm_base import Algorithm

__all__ = [
    "Actions",
    "AnyAlgorithm",
    "AnySpace",
    "Array",
    "Env",
    "Infos",
    "Obs",
    "Options",
    "ResetResult",
    "RobustnessWarning",
    "StepResult",
    "TeamReward",
    "Unit",
    "Values",
    "Wrapper",
]

Env: TypeAlias = ParallelEnv[str, Any, Any]
"""A PettingZoo parallel environment whose agents are named by strings."""

Wrapper: TypeAlias = BaseParallelWrapper[str, Any, Any]
"""What wraps such an environment."""

AnySpace: TypeAlias = gymnasium.Space[Any]
"""A space of whatever."""

AnyAlgorithm: TypeAlias = Algorithm[Any, Any]
"""An algorithm of Tianshou's or of this package, with whatever trainer."""

Values: TypeAlias = NDArray[Any]
"""A numpy array of whatever dtype."""

Obs: TypeAlias = dict[str, Any]
"""Raw observations per agent: arrays, or mappings with ``observation`` and ``action_mask``."""

Actions: TypeAlias = dict[str, Any]
"""Actions per agent: indices, or vectors in the agent's box."""

Infos: TypeAlias = dict[str, dict[str, Any]]
"""Infos by name, per agent."""

Options: TypeAlias = dict[str, Any]
"""Options of a reset."""

ResetResult: TypeAlias = tuple[Obs, Infos]
"""Observations and infos, per agent."""

StepResult: TypeAlias = tuple[Obs, dict[str, float], dict[str, bool], dict[str, bool], Infos]
"""Observations, rewards, terminations, truncations and infos, per agent."""

Array: TypeAlias = NDArray[np.float32]
"""A float32 numpy array."""

TeamReward: TypeAlias = Literal["sum", "mean"]
"""How per-agent rewards make the team's reward; ``mean`` of a shared reward is that reward."""

Unit: TypeAlias = Literal["updates", "episodes", "env_steps"]
"""What a counter counts."""


class RobustnessWarning(UserWarning):
    """An attack or an evaluation is not what it seems: no gradient, no use of the budget, ..."""
