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

    Example:
        >>> from robustmarl import envs, training
        >>> team = IPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        critic = Critic(spec.obs_size, spec.num_agents, hidden=hidden)
        return {"critic": critic, "critic_input": "seen"}
