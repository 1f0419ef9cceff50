"""MAPPO: a centralised critic sees the clean global state."""

from __future__ import annotations

from robustmarl.algorithms.ppo_based import CriticParts, PPOBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings
from robustmarl.learning.values import state_critic

__all__ = ["MAPPO"]


class MAPPO(PPOBased):
    """Multi-agent PPO [Yu2022]_; see :class:`PPOBased`.

    The critic is V(s) for a team reward, V(s, agent id) for the agents' own rewards or a state
    per agent; states are normalised by LayerNorm. ``for_env`` takes ``critic_hidden``.

    Example:
        >>> from robustmarl import envs, training
        >>> team = MAPPO.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        critic = state_critic(spec, settings.get("reward", "team"), hidden)
        return {"critic": critic, "critic_input": "state"}
