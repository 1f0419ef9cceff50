"""PettingZoo wrappers that attack; each takes a parallel environment and returns one."""

from robustmarl.wrappers.action_poison import ActionPoisonWrapper
from robustmarl.wrappers.bayesian_type import BayesianTypeWrapper
from robustmarl.wrappers.obs_adversary import ObsAdversaryWrapper

__all__ = ["ActionPoisonWrapper", "BayesianTypeWrapper", "ObsAdversaryWrapper"]
