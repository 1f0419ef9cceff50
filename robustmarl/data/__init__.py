"""Whole episodes of joint experience: collecting, storing, sampling."""

from robustmarl.data.adapted import AnyPolicy, PolicyController, Script, as_controller
from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.data.collector import JointCollector, TeamCollectStats
from robustmarl.data.controllers import (
    Controller,
    RandomController,
    ScriptedController,
    SlowCopy,
)
from robustmarl.data.perturbed import PerturbedController

__all__ = [
    "AnyPolicy",
    "Controller",
    "EpisodeBuffer",
    "JointCollector",
    "PerturbedController",
    "PolicyController",
    "RandomController",
    "Script",
    "ScriptedController",
    "SlowCopy",
    "TeamCollectStats",
    "as_controller",
]
