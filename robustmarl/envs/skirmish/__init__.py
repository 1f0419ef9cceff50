"""StarCraft-like micro-battles, batched, with SMAC's interface.

``skirmish`` makes one battle, ``SkirmishEngine`` steps many of them as arrays. ``SkirmishMap``
and ``UnitType`` describe battles of your own.
"""

# To read it from the ground up: rules has the numbers of the game, units and maps who
# there is and who fights whom, formations where they start, layout what an observation, a
# state and an action are made of. tables turns a map into arrays, battles holds the state of
# many battles, dynamics plays a step of them, referee says what it was worth, encoder
# what agents see of it. engine puts these together, parallel makes one battle of it, padded
# shows a small map as a large one, and render draws. compiled has begin, step and show once more,
# for numba.

from robustmarl.envs.skirmish.engine import SkirmishEngine
from robustmarl.envs.skirmish.maps import MAPS, SkirmishMap
from robustmarl.envs.skirmish.padded import PaddedSkirmish
from robustmarl.envs.skirmish.parallel import SkirmishParallelEnv, skirmish
from robustmarl.envs.skirmish.render import picture, save_replay
from robustmarl.envs.skirmish.rules import DIFFICULTIES
from robustmarl.envs.skirmish.units import UNITS, UnitType

__all__ = [
    "DIFFICULTIES",
    "MAPS",
    "UNITS",
    "PaddedSkirmish",
    "SkirmishEngine",
    "SkirmishMap",
    "SkirmishParallelEnv",
    "UnitType",
    "picture",
    "save_replay",
    "skirmish",
]
