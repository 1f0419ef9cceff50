"""Learners of teams, each a Tianshou algorithm with ``for_env``."""

from robustmarl.algorithms.actor_critic import ExploringPolicy
from robustmarl.algorithms.coma import COMA
from robustmarl.algorithms.dop import DOP
from robustmarl.algorithms.eir_mappo import (
    EARMAPPO,
    EIRMAPPO,
    ByzantineAttack,
    ByzantinePolicy,
    TrueTypeMAPPO,
    TypedPolicy,
)
from robustmarl.algorithms.ippo import IPPO
from robustmarl.algorithms.iql import IQL
from robustmarl.algorithms.maddpg import M3DDPG, MADDPG
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.obs_adversary import ObsAdversaryPPO
from robustmarl.algorithms.own_action_values import OwnActionValues
from robustmarl.algorithms.policies import ActorPolicy, DeterministicPolicy, QPolicy, TeamPolicy
from robustmarl.algorithms.qmix import QMIX
from robustmarl.algorithms.rmaac import RMAAC
from robustmarl.algorithms.team import TeamAlgorithm, TeamTrainingStats
from robustmarl.algorithms.vdn import VDN

__all__ = [
    "COMA",
    "DOP",
    "EARMAPPO",
    "EIRMAPPO",
    "IPPO",
    "IQL",
    "M3DDPG",
    "MADDPG",
    "MAPPO",
    "QMIX",
    "RMAAC",
    "VDN",
    "ActorPolicy",
    "ByzantineAttack",
    "ByzantinePolicy",
    "DeterministicPolicy",
    "ExploringPolicy",
    "ObsAdversaryPPO",
    "OwnActionValues",
    "QPolicy",
    "TeamAlgorithm",
    "TeamPolicy",
    "TeamTrainingStats",
    "TrueTypeMAPPO",
    "TypedPolicy",
]
