"""PettingZoo wrappers that attack; each takes a parallel environment and returns one."""

from robustmarl.wrappers.obs_adversary import ObsAdversaryWrapper

__all__ = ["ObsAdversaryWrapper"]
