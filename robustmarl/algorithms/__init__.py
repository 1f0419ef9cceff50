"""Learners of teams, each a Tianshou algorithm with ``for_env``."""

from robustmarl.algorithms.ippo import IPPO
from robustmarl.algorithms.iql import IQL
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.obs_adversary import ObsAdversaryPPO
from robustmarl.algorithms.policies import ActorPolicy, QPolicy, TeamPolicy
from robustmarl.algorithms.qmix import QMIX
from robustmarl.algorithms.team import TeamAlgorithm, TeamTrainingStats
from robustmarl.algorithms.vdn import VDN

__all__ = [
    "IPPO",
    "IQL",
    "MAPPO",
    "QMIX",
    "VDN",
    "ActorPolicy",
    "ObsAdversaryPPO",
    "QPolicy",
    "TeamAlgorithm",
    "TeamPolicy",
    "TeamTrainingStats",
]
