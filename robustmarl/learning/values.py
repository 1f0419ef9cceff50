"""What a critic says of episodes: values, advantages, returns, and the loss it learns by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import check_choice
from robustmarl.joint import JointBatch, JointObs, TeamSpec
from robustmarl.learning.returns import gae, masked_mean
from robustmarl.networks import Critic
from robustmarl.networks.normalizer import ValueNormalizer

__all__ = ["CriticInput", "Reward", "Valuation", "state_critic"]

CriticInput = Literal["seen", "state"]

Reward = Literal["team", "agents"]


@dataclass(frozen=True, kw_only=True)
class Valuation:
    """A critic of a team, with how its values become advantages; it owns no weights.

    Attributes:
        critic: values (..., K) of inputs (..., K, size), K = 1 or N.
        normalizer: of values in units of the returns' running spread, or None.
        critic_input: what it reads, ``"seen"`` or ``"state"``.
        reward: ``"team"``, or ``"agents"`` for each agent's own.
        gamma: discount in [0, 1].
        gae_lambda: in [0, 1].
        huber_delta: error from which on the loss grows linearly, or None for the square.
    """

    critic: Critic
    normalizer: ValueNormalizer | None
    critic_input: CriticInput
    reward: Reward
    gamma: float
    gae_lambda: float
    huber_delta: float | None

    def inputs(self, obs: JointObs) -> Tensor:
        """Return what the critic reads, (B, T+1, K, size)."""
        if self.critic_input == "seen":
            return obs.seen
        if obs.state.dim() == 4:
            return obs.state
        state = obs.state.unsqueeze(2)
        num_values = 1 if self.critic.id_table is None else obs.obs.shape[2]
        return state.expand(-1, -1, num_values, -1)

    def values(self, obs: JointObs, side: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return V, (B, T+1, K), in units of rewards.

        Args:
            obs: the episodes' observations.
            side: further inputs of the critic by name, (B, T+1, N, ...) each.
        """
        value: Tensor = self.critic(self.inputs(obs), **(side or {}))
        return value if self.normalizer is None else self.normalizer.denormalize(value)

    def advantages(
        self, batch: JointBatch, side: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return GAE advantages and returns, (B, T, K) each; ``side`` as of :meth:`values`."""
        value = self.values(batch.obs, side)
        reward, bootstrap, going_on = batch.earned(self.reward)
        advantage = gae(reward, value, bootstrap, going_on, self.gamma, self.gae_lambda)
        return advantage, advantage + value[:, :-1]

    def rows(self, batch: JointBatch, returns: Tensor) -> Tensor:
        """Return which of ``returns``, (B, T, K), the critic learns from: bool (B, T, K).

        Of agents' own those of the living, whoever acts for them: an adversary asks for them, too.
        """
        return batch.earning(self.reward).expand_as(returns)

    @torch.no_grad()
    def targets(self, returns: Tensor, rows: Tensor) -> Tensor:
        """Return what the critic learns, (B, T, K), once the normalizer has taken in ``rows``."""
        if self.normalizer is None:
            return returns
        self.normalizer.update(returns, rows)
        return self.normalizer.normalize(returns)

    def fit(
        self,
        batch: JointBatch,
        returns: Tensor,
        rows: Tensor,
        step: Callable[[Tensor], None],
        steps: int,
        side: Mapping[str, Tensor] | None = None,
    ) -> float:
        """Let the critic learn alone, and return its mean loss.

        Args:
            batch: the episodes.
            returns: in units of rewards, (B, T, K).
            rows: which of them are learned, bool (B, T, K).
            step: takes an optimizer step on a loss.
            steps: how many, >= 1.
            side: as of :meth:`values`.
        """
        targets = self.targets(returns, rows)
        inputs = self.inputs(batch.obs)[:, :-1]
        side = {name: values[:, :-1] for name, values in (side or {}).items()}
        losses = []
        for _ in range(steps):
            value = self.critic(inputs, **side).expand_as(targets)
            loss = masked_mean(self.error(value, targets), rows)
            step(loss)
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def error(self, value: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each value: the square of the error, or Huber's."""
        if self.huber_delta is None:
            return (value - target).square()
        return F.huber_loss(value, target, reduction="none", delta=self.huber_delta)


def state_critic(spec: TeamSpec, reward: Reward, hidden: tuple[int, ...]) -> Critic:
    """Return V(s) for a team reward; V(s, agent id) for agents' own, or states per agent.

    States, whose scale is unknown, are normalised by LayerNorm.
    """
    check_choice("state_critic.reward", reward, get_args(Reward))
    per_agent = spec.state_layout == "per_agent" or reward == "agents"
    agents = spec.num_agents if per_agent else 0
    return Critic(spec.state_size, agents, hidden=hidden, layer_norm=True)
