"""Whole episodes of joint experience: collecting, storing, sampling."""

from robustmarl.data.buffer import EpisodeBuffer
from robustmarl.data.collector import JointCollector, TeamCollectStats
from robustmarl.data.controllers import (
    Controller,
    RandomController,
    ScriptedController,
    SlowCopy,
)

__all__ = [
    "Controller",
    "EpisodeBuffer",
    "JointCollector",
    "RandomController",
    "ScriptedController",
    "SlowCopy",
    "TeamCollectStats",
]
