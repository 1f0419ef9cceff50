"""magent2's Battle and Adversarial Pursuit: many agents, two teams, a native batch.

``battle`` and ``pursuit`` make one game of ``Rules``, ``MagentEngine`` plays many of them as
arrays, and ``Charge`` is an opponent for Battle. Playing needs magent2, importing this does not.
"""

# rules says what is played, _game plays one game in magent2's memory, engine many of them,
# parallel makes an environment of one, render draws, and script is Charge.

from robustmarl.envs.magent.engine import MagentEngine
from robustmarl.envs.magent.parallel import MagentParallelEnv, battle, pursuit
from robustmarl.envs.magent.render import picture
from robustmarl.envs.magent.rules import BattleRules, PursuitRules, Rules
from robustmarl.envs.magent.script import Charge

__all__ = [
    "BattleRules",
    "Charge",
    "MagentEngine",
    "MagentParallelEnv",
    "PursuitRules",
    "Rules",
    "battle",
    "picture",
    "pursuit",
]
