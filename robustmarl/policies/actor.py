"""Stochastic and deterministic actors."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check_flag, check_number
from robustmarl._seeding import Draws, inverse
from robustmarl.joint import TeamSpec, at_actions
from robustmarl.networks import Agents
from robustmarl.networks.gaussian import (
    bounded_log_std,
    gaussian_entropy,
    gaussian_log_density,
)
from robustmarl.policies.base import TeamPolicy
from robustmarl.schedules import Schedule, as_schedule

__all__ = ["ActorPolicy", "DeterministicPolicy"]


class ActorPolicy(TeamPolicy):
    """Softmax over logits, or a Gaussian around means in [-1, 1]; evaluated as trained.

    Args:
        spec: the team's.
        network: its agents.
        deterministic_eval: act greedily outside training; a team trained to mix may fail so.

    Example:
        >>> from robustmarl import envs, evaluation, joint, networks
        >>> network = networks.AgentNetwork(obs_size=5, num_agents=2, num_actions=2)
        >>> policy = ActorPolicy(joint.spec_of(envs.ToyGame()), network)
        >>> evaluation.rollout(policy, envs.ToyGame, episodes=2).lengths
        array([100, 100])
    """

    def __init__(self, spec: TeamSpec, network: Agents, deterministic_eval: bool = False) -> None:
        super().__init__(spec, network)
        where = f"{type(self).__name__}.deterministic_eval"
        self.deterministic_eval = check_flag(where, deterministic_eval)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return drawn actions and their log-probabilities (E, N)."""
        if self.spec.continuous:
            return self._select_box(output, draws, training)
        logp = torch.log_softmax(output, dim=-1)
        if self.deterministic_eval and not training:
            act = logp.argmax(dim=-1)
        else:
            act = inverse(logp.exp(), draws.uniform(logp.shape[1]))
        return act, at_actions(logp, act)

    def _select_box(
        self, mean: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        act = mean
        if training or not self.deterministic_eval:
            noise = draws.normal(mean.shape[1] * mean.shape[2]).view(mean.shape)
            act = mean + noise * self._log_std().exp()
        act = self.without_padding(act)
        return act, self.log_prob(mean, act)

    def log_prob(self, output: Tensor, act: Tensor, agents: Tensor | None = None) -> Tensor:
        """Return log-probabilities of ``act`` given outputs; see :meth:`entropy`.

        Args:
            output: logits or means, (..., A).
            act: action indices (...,) or vectors (..., A).
            agents: whose they are, int64 (...,); None: (..., N) in the team's order.
        """
        if self.spec.continuous:
            log_std = self._log_std(agents)
            each = gaussian_log_density(act, output, log_std)
            return self.without_padding(each, agents).sum(dim=-1)
        logp = torch.log_softmax(output, dim=-1)
        return at_actions(logp, act)

    def entropy(self, output: Tensor, agents: Tensor | None = None) -> Tensor:
        """Return entropies (...,) in nats, over the action coordinates that each agent has.

        Args:
            output: logits or means, (..., A).
            agents: whose they are, int64 (...,); None: (..., N) in the team's order.
        """
        if self.spec.continuous:
            each = gaussian_entropy(self._log_std(agents))
            return self.without_padding(each, agents).sum(dim=-1).expand(output.shape[:-1])
        logp = torch.log_softmax(output, dim=-1)
        return -(logp.exp() * logp).sum(dim=-1)

    def _log_std(self, agents: Tensor | None = None) -> Tensor:
        """Return log standard deviations, (A,) or one row per agent asked about."""
        log_std = self.network.log_std
        assert log_std is not None  # continuous networks have one
        if agents is not None and log_std.dim() == 2:  # a network of its own for every agent
            log_std = log_std[agents]
        return bounded_log_std(log_std)


class DeterministicPolicy(TeamPolicy):
    r"""Actions :math:`\mu(o)` in [-1, 1]; in training with Gaussian noise, clipped to the box.

    Args:
        spec: the team's; continuous actions.
        network: its agents, with ``squash``.
        exploration: the noise's standard deviation >= 0 over time, in units of the box's half.
    """

    def __init__(self, spec: TeamSpec, network: Agents, exploration: float | Schedule) -> None:
        super().__init__(spec, network)
        self.exploration = as_schedule("DeterministicPolicy.exploration", exploration, 0.0)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return actions (E, N, A), and None: they have no density."""
        value = self.exploration(self.counted(self.exploration.unit))
        scale = check_number("DeterministicPolicy.exploration()", value, 0.0)
        if not training or scale == 0.0:
            return self.without_padding(output), None
        noise = draws.normal(output.shape[1] * output.shape[2]).view(output.shape)
        return self.without_padding((output + scale * noise).clamp(-1.0, 1.0)), None
