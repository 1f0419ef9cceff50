"""A softmax that explores uniformly in training."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check_number
from robustmarl._seeding import Draws, inverse
from robustmarl.joint import MASKED, TeamSpec, at_actions
from robustmarl.networks import Agents
from robustmarl.policies.actor import ActorPolicy
from robustmarl.schedules import Schedule, as_schedule

__all__ = ["ExploringPolicy"]


class ExploringPolicy(ActorPolicy):
    r"""Softmax over logits, mixed in training with the uniform policy over available actions.

    .. math:: \pi_\epsilon = (1 - \epsilon)\,\mathrm{softmax}(l) + \epsilon / m

    Args:
        spec: the team's; discrete actions.
        network: its agents.
        exploration: epsilon in [0, 1] over time.
        deterministic_eval: act greedily outside training.
    """

    def __init__(
        self,
        spec: TeamSpec,
        network: Agents,
        exploration: float | Schedule,
        deterministic_eval: bool = False,
    ) -> None:
        super().__init__(spec, network, deterministic_eval)
        self.exploration = as_schedule("ExploringPolicy.exploration", exploration, 0.0, 1.0)

    @property
    def epsilon(self) -> float:
        """The present share of the uniform policy, in training."""
        value = self.exploration(self.counted(self.exploration.unit))
        return check_number("ExploringPolicy.exploration()", value, 0.0, 1.0)

    def log_policy(
        self, output: Tensor, mask: Tensor | None = None, *, explore: bool = True
    ) -> Tensor:
        """Return log-probabilities (..., A) of logits (..., A).

        Args:
            output: logits, ``MASKED`` where unavailable.
            mask: what exploration chooses from; None is all that is not masked in ``output``.
            explore: act as in training.
        """
        logp = torch.log_softmax(output, dim=-1)
        epsilon = self.epsilon if explore else 0.0
        if epsilon == 0.0:
            return logp
        mask = output > 0.5 * MASKED if mask is None else mask
        uniform = mask / mask.sum(-1, keepdim=True).clamp(min=1)  # padding has none
        mixed = (1.0 - epsilon) * logp.exp() + epsilon * uniform
        return torch.where(mask, mixed, 1.0).log().masked_fill(~mask, MASKED)

    def log_prob(self, output: Tensor, act: Tensor, agents: Tensor | None = None) -> Tensor:
        """Return log-probabilities of ``act`` (...,) as chosen in training."""
        return at_actions(self.log_policy(output), act)

    def entropy(self, output: Tensor, agents: Tensor | None = None) -> Tensor:
        """Return entropies (...,) in nats of the policy that acts in training."""
        logp = self.log_policy(output)
        return -(logp.exp() * logp).sum(dim=-1)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return drawn actions and their log-probabilities (E, N)."""
        logp = self.log_policy(output, mask, explore=training)
        if self.deterministic_eval and not training:
            act = logp.argmax(dim=-1)
        else:
            act = inverse(logp.exp(), draws.uniform(logp.shape[1]))
        return act, at_actions(logp, act)
