"""What learns against a team."""

from robustmarl.adversaries.obs_ppo import ObsAdversaryPPO

__all__ = ["ObsAdversaryPPO"]
