"""Environments: PettingZoo parallel environments that state what a team needs to know.

Importing this module needs no optional package; constructors say which they miss.
"""

from robustmarl.envs.chase import predator_prey, tag
from robustmarl.envs.lbf import foraging, foraging_from_id
from robustmarl.envs.magent import battle, pursuit
from robustmarl.envs.matrix import MatrixGame, SignalMatching, TwoStepGame, climbing
from robustmarl.envs.merge import MergeEngine, Traffic, merge
from robustmarl.envs.mpe import spread
from robustmarl.envs.particles import formation, gather, tram_spread
from robustmarl.envs.skirmish import (
    PaddedSkirmish,
    SkirmishEngine,
    SkirmishMap,
    UnitType,
    skirmish,
)
from robustmarl.envs.smac import smac
from robustmarl.envs.toy import ToyEngine, ToyGame
from robustmarl.joint import describe, flatten_obs

__all__ = [
    "MatrixGame",
    "MergeEngine",
    "PaddedSkirmish",
    "SignalMatching",
    "SkirmishEngine",
    "SkirmishMap",
    "ToyEngine",
    "ToyGame",
    "Traffic",
    "TwoStepGame",
    "UnitType",
    "battle",
    "climbing",
    "describe",
    "flatten_obs",
    "foraging",
    "foraging_from_id",
    "formation",
    "gather",
    "merge",
    "predator_prey",
    "pursuit",
    "skirmish",
    "smac",
    "spread",
    "tag",
    "tram_spread",
]
