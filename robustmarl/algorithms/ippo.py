"""IPPO: every agent's critic sees what the agent saw."""

from __future__ import annotations

from robustmarl.algorithms.ppo_based import CriticParts, PPOBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings
from robustmarl.networks import Critic

__all__ = ["IPPO"]


class IPPO(PPOBased):
    """Independent PPO [DeWitt2020]_ with shared parameters; see :class:`PPOBased`.

    The critic is V(o, agent id) on ``obs.seen``; ``for_env`` takes ``critic_hidden``.
    """

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        critic = Critic(spec.obs_size, spec.num_agents, hidden=hidden)
        return {"critic": critic, "critic_input": "seen"}
