"""Learners of teams, each a Tianshou algorithm with ``for_env``."""

from robustmarl.algorithms.a2c import A2C
from robustmarl.algorithms.coma import COMA
from robustmarl.algorithms.dop import DOP
from robustmarl.algorithms.eir_mappo import EARMAPPO, EIRMAPPO, TrueTypeMAPPO
from robustmarl.algorithms.facmac import FACMAC
from robustmarl.algorithms.ippo import IPPO
from robustmarl.algorithms.iql import IQL
from robustmarl.algorithms.maddpg import M3DDPG, MADDPG
from robustmarl.algorithms.mappo import MAPPO
from robustmarl.algorithms.mfac import MFAC
from robustmarl.algorithms.own_action_values import OwnActionValues
from robustmarl.algorithms.qmix import QMIX
from robustmarl.algorithms.qplex import QPLEX
from robustmarl.algorithms.rmaac import RMAAC
from robustmarl.algorithms.romfac import RoMFAC
from robustmarl.algorithms.vdn import VDN

__all__ = [
    "A2C",
    "COMA",
    "DOP",
    "EARMAPPO",
    "EIRMAPPO",
    "FACMAC",
    "IPPO",
    "IQL",
    "M3DDPG",
    "MADDPG",
    "MAPPO",
    "MFAC",
    "QMIX",
    "QPLEX",
    "RMAAC",
    "VDN",
    "OwnActionValues",
    "RoMFAC",
    "TrueTypeMAPPO",
]
