"""MAPPO: a centralised critic sees the clean global state."""

from __future__ import annotations

from robustmarl.algorithms.ppo_based import CriticParts, PPOBased
from robustmarl.joint import TeamSpec
from robustmarl.learning.settings import OpenSettings
from robustmarl.networks import Critic

__all__ = ["MAPPO"]


class MAPPO(PPOBased):
    """Multi-agent PPO [Yu2022]_; see :class:`PPOBased`.

    The critic is V(s) for a team reward, V(s, agent id) for the agents' own rewards or a state
    per agent; states are normalised by LayerNorm. ``for_env`` takes ``critic_hidden``.
    """

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        # Agents in one state differ in value only by what each earns, or sees of the state.
        per_agent = spec.state_layout == "per_agent" or settings.get("reward") == "agents"
        agents = spec.num_agents if per_agent else 0
        critic = Critic(spec.state_size, agents, hidden=hidden, layer_norm=True)
        return {"critic": critic, "critic_input": "state"}
