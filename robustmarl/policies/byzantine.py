"""Policies that play for Byzantine agents."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check, check_flag, check_int, check_kind, speaking_for
from robustmarl._seeding import seeded
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.networks import AgentNetwork
from robustmarl.policies.actor import ActorPolicy

__all__ = ["ByzantinePolicy"]


class ByzantinePolicy(ActorPolicy):
    """An adversary that plays for Byzantine agents: a stochastic actor shared by all of them.

    It sees its own clean observation, its index and, with ``sees_actions``, what the others are
    about to do (one-hot, or their vectors), as a released EIR-MAPPO adversary in training. An
    observation with N more or fewer entries, type slots, is cut or filled with zeros.

    Args:
        spec: the team's.
        sees_actions: whether it sees the others' intended actions of the step.
        hidden: widths of the hidden layers.
        layer_norm: normalise before each activation.
        seed: of the initial weights; torch's global generator is left as it was.
    """

    def __init__(
        self,
        spec: TeamSpec,
        *,
        sees_actions: bool = False,
        hidden: tuple[int, ...] = (128, 128, 128),
        layer_norm: bool = True,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.spec", spec, TeamSpec, "a TeamSpec", "Write spec_of(env).")
        sees_actions = check_flag(f"{name}.sees_actions", sees_actions)
        seed = check_int(f"{name}.seed", seed, 0)
        sizes = spec.obs_size, spec.num_agents, spec.num_actions
        with speaking_for(self, AgentNetwork), seeded(seed, "byzantine"):
            network = AgentNetwork(
                *sizes,
                hidden=hidden,
                layer_norm=layer_norm,
                continuous=spec.continuous,
                output_gain=0.01,  # the first policy is nearly uniform, as PPOBased's
            )
            # torch's own draw of a linear layer that reads all agents' actions
            fan_in = spec.num_agents * spec.num_actions
            table = torch.empty(fan_in, hidden[0]).uniform_(-1.0, 1.0) * fan_in**-0.5
        super().__init__(spec, network)
        self.sees_actions = sees_actions
        self.others_table = nn.Parameter(table) if sees_actions else None

    def check_spec(self, spec: TeamSpec) -> None:
        """Raise ``ValueError`` unless agents and actions are those it was made for."""
        made_for = self.spec
        names = ("num_agents", "action_sizes", "continuous")
        differences = [
            f"{name}: {getattr(made_for, name)!r} != {getattr(spec, name)!r}"
            for name in names
            if getattr(made_for, name) != getattr(spec, name)
        ]
        check(
            not differences,
            "ByzantinePolicy",
            "made for this team's spaces",
            ", ".join(differences),
        )
        self._check_size(spec.obs_size)

    def _check_size(self, size: int) -> None:
        made_for, slots = self.spec.obs_size, self.spec.num_agents
        rule = f"made for observations of size {size}, or {slots} type slots more or fewer"
        check(abs(made_for - size) in (0, slots), "ByzantinePolicy", rule, made_for)

    def infer(
        self, context: StepContext, act: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return unmasked outputs (E, N, A) for all agents as if all were Byzantine, and None."""
        agents = self._agents.expand(context.seen.shape[:2])
        if act is not None:
            act = act.unsqueeze(1).expand(-1, len(self._agents), *act.shape[1:])
        return self.outputs(context.seen, agents, act), None

    def outputs(self, obs: Tensor, agents: Tensor, act: Tensor | None) -> Tensor:
        """Return outputs (..., A) for observations (..., D) of ``agents`` (...,).

        Args:
            obs: clean observations, with or without type slots.
            agents: whose they are, int64.
            act: the team's intended actions, (..., N) or (..., N, A); used with ``sees_actions``.
        """
        self._check_size(obs.shape[-1])
        missing = self.spec.obs_size - obs.shape[-1]
        obs = F.pad(obs, (0, missing)) if missing > 0 else obs[..., : self.spec.obs_size]
        extra = self.network.extra(agents, None)
        if self.others_table is not None and act is not None:
            extra = extra.plus(self._others(act, agents) @ self.others_table)
        return self.network.step(obs, extra, None)[0]

    def _others(self, act: Tensor, agents: Tensor) -> Tensor:
        """Return the others' actions, one-hot or as they are, (..., N * A), zero for oneself."""
        if not self.spec.continuous:
            act = F.one_hot(act, self.spec.num_actions).to(self.network.first.weight.dtype)
        oneself = F.one_hot(agents, self.spec.num_agents).to(act.dtype).unsqueeze(-1)
        return (act * (1.0 - oneself)).flatten(-2)
