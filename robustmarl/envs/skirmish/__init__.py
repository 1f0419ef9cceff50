"""StarCraft-like micro-battles, batched, with SMAC's interface.

``skirmish`` makes one battle, ``SkirmishEngine`` steps many of them as arrays. ``SkirmishMap``
and ``UnitType`` describe battles of your own.
"""

from robustmarl.envs.skirmish.engine import DIFFICULTIES, SkirmishEngine
from robustmarl.envs.skirmish.maps import MAPS, UNITS, SkirmishMap, UnitType
from robustmarl.envs.skirmish.parallel import SkirmishParallelEnv, skirmish
from robustmarl.envs.skirmish.render import picture, save_replay

__all__ = [
    "DIFFICULTIES",
    "MAPS",
    "UNITS",
    "SkirmishEngine",
    "SkirmishMap",
    "SkirmishParallelEnv",
    "UnitType",
    "picture",
    "save_replay",
    "skirmish",
]
