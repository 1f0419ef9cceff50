"""TRAM's directions: random, variance-based and return-based [Wu2022]_."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from robustmarl._checks import check_choice, check_int, check_tensor
from robustmarl.attacks.poison.view import PoisonView
from robustmarl.networks.calculus.scores import (
    ActorJacobian,
    Scope,
    gram,
    score_gram,
    score_products,
)

__all__ = ["JAttack", "PoisonAttack", "RandomAttack", "VarianceAttack", "shift_direction"]

_ROUNDING = 1e-12  # of the largest weight: shorter directions are none

Terms = Literal["auto", "own", "own+cross", "gradient", "joint"]


def shift_direction(policy: Tensor, weight: Tensor) -> Tensor:
    r"""Return how :math:`\sum_a \pi'(a) w(a)` grows with the logits, (R, m); rows sum to 0.

    .. math:: \nabla_\delta F(a) = \pi(a) \bigl(w(a) - \textstyle\sum_b \pi(b) w(b)\bigr)

    Rows in which it vanishes up to rounding (constant ``weight``) are exactly zero.

    Args:
        policy: :math:`\pi`, (R, m).
        weight: w, (R, m); what it holds where the policy is 0 does not matter.
    """
    check_tensor("shift_direction.policy", policy)
    check_tensor("shift_direction.weight", weight, policy)
    weight = torch.where(policy > 0, weight, 0.0)
    direction = policy * (weight - (policy * weight).sum(-1, keepdim=True))
    # Of constant weights float64 leaves about 1e-16 of them, which a unit vector would blow up to
    # a direction; 1e-12 is far above that, and far below what any learner's weights differ by.
    rounding = weight.abs().amax(-1, keepdim=True) * _ROUNDING
    return torch.where(direction.norm(dim=-1, keepdim=True) > rounding, direction, 0.0)


@runtime_checkable
class PoisonAttack(Protocol):
    """A direction in logit space; any callable will do.

    An attack that asks for advantages says so by a class attribute ``needs_advantages = True``.
    """

    def __call__(self, view: PoisonView) -> Tensor:
        """Return a direction per step, (R, A), of any length; a zero row attacks nothing."""


@dataclass(frozen=True, kw_only=True)
class RandomAttack:
    """A direction drawn anew each step, uniform on the sphere of available actions.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, perturbers
        >>> team = algorithms.MAPPO.for_env(envs.ToyGame(), seed=0)
        >>> poison = perturbers.ActionPoisonPerturber(
        ...     RandomAttack(), learner=team, agent="agent_0", kl_budget=0.1, when="always"
        ... )
        >>> counters = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=poison).counters
        >>> counters["0/attacked"], round(counters["0/kl"], 3)  # steps, and nats in each
        (200.0, 0.1)
    """

    needs_advantages = False

    def __call__(self, view: PoisonView) -> Tensor:
        """Return normal draws, (R, A)."""
        return view.draws.normal(view.mask.shape[1])


@dataclass(frozen=True, kw_only=True)
class VarianceAttack:
    r"""Raise the second moment of the team's policy gradient (variance-based TRAM, Eq. 9).

    .. math:: w(a) = E_{a_{-k}} \Bigl\| \sum_i A_i s_i(a_i) \Bigr\|^2
              = A_k(a)^2 \|s_k(a)\|^2 + 2 A_k(a) \langle s_k(a), C \rangle + \text{const}

    with :math:`s_i = \nabla_\theta \log\pi_i` and C the others' expected gradient; the right-hand
    side holds where advantages depend on an agent's own action only.

    Args:
        scope: ``"full"`` differentiates all of the actor's parameters, as the paper; ``"head"``
            its last layer's.
        terms: ``"own"`` is the first term, ``"own+cross"`` both, which parameters shared by the
            team need; ``"gradient"`` the expectation; ``"joint"`` the expectation of the
            paper's literal :math:`(\sum_i A_i) \sum_i s_i`; ``"auto"`` is ``"own+cross"`` where
            it is exact, else ``"gradient"``.
        samples: draws of the others' actions in an estimate, >= 1; where listing all of them
            costs the critic no more, they are listed, and nothing is estimated.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, perturbers
        >>> team = algorithms.COMA.for_env(envs.ToyGame(), seed=0)
        >>> poison = perturbers.ActionPoisonPerturber(
        ...     VarianceAttack(), learner=team, agent="agent_0", kl_budget=0.1, when="always"
        ... )
        >>> counters = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=poison).counters
        >>> counters["0/attacked"], round(counters["0/kl"], 3)  # steps, and nats in each
        (200.0, 0.1)
    """

    scope: Scope = "full"
    terms: Terms = "auto"
    samples: int = 16

    needs_advantages = True

    def __post_init__(self) -> None:
        check_choice("VarianceAttack.scope", self.scope, get_args(Scope))
        check_choice("VarianceAttack.terms", self.terms, get_args(Terms))
        check_int("VarianceAttack.samples", self.samples, 1)

    def __call__(self, view: PoisonView) -> Tensor:
        """Return the direction, (R, A)."""
        terms = self.terms
        if terms == "auto":
            terms = "own+cross" if view.additive else "gradient"
        estimated = terms in ("gradient", "joint")
        weight = self._estimate(view) if estimated else self._weigh_scores(view, terms)
        return shift_direction(view.policy.double(), weight.double())

    def _weigh_scores(self, view: PoisonView, terms: Terms) -> Tensor:
        r"""Return the right-hand side, (R, A), without its constant.

        Scores are kept as blocks of their layers' Jacobians: with J_a the gradient of logit a,
        :math:`s(a) = J_a - \sum_b \pi(b) J_b`, so that Gram matrices of the J are all it takes.
        """
        # Where agents have networks of their own there is no cross term. Where there is one, the
        # team's forward pass comes first, and serves the attacked agent, too.
        crosses = terms == "own+cross" and view.shared and view.others
        team = view.jacobian(self.scope) if crosses else None
        attacked, policy = view.attacked_jacobian(self.scope), view.policy
        if view.additive:
            advantages = view.own_advantages
            advantage, square = advantages[:, view.agent], advantages[:, view.agent].square()
        else:
            drawn = view.advantages(view.sample_others(self.samples)[:, 0])
            advantage = drawn[:, :, view.agent].mean(0)
            square = drawn[:, :, view.agent].square().mean(0)
            advantages = drawn.mean(0)
        blocks = attacked.blocks()
        products = gram(blocks, blocks)[:, 0, :, 0]  # <J_a, J_b>
        with_mean = (products * policy.unsqueeze(1)).sum(-1)  # <J_a, sum_b pi(b) J_b>
        norms = products.diagonal(dim1=1, dim2=2) - 2.0 * with_mean
        norms = norms + (policy * with_mean).sum(-1, keepdim=True)  # ||s(a)||^2
        weight = square * norms
        if not isinstance(team, ActorJacobian):
            return weight
        others = view.others
        # C: as advantages have mean 0 under the policy, sum_a pi A s(a) = sum_a pi A J_a.
        flow = (view.policies[:, others] * advantages[:, others]).unsqueeze(2)
        expected = team.agents(others).blocks(flow)
        cross = gram(blocks, expected)[:, 0, :, :, 0].sum(-1)  # <J_a, C>
        cross = cross - (policy * cross).sum(-1, keepdim=True)  # <s(a), C>
        return weight + 2.0 * advantage * cross

    def _estimate(self, view: PoisonView) -> Tensor:
        r"""Return the expectation, (R, A): with G the scores' Gram matrix, of :math:`A^T G A`."""
        outcomes = view.outcomes(self.samples)
        rows, num_agents, size = view.policies.shape
        taken = outcomes.taken
        if self.terms == "joint":  # every score is weighted by the sum of all advantages
            taken = taken.sum(-1, keepdim=True).expand_as(taken)
        products = score_gram(view.jacobian(self.scope), view.policies)
        products = products.reshape(rows, num_agents * size, num_agents * size)
        weights = taken.new_zeros(*taken.shape, size)
        weights = weights.scatter_(-1, outcomes.joint.unsqueeze(-1), taken.unsqueeze(-1))
        weights = weights.view(rows, -1, num_agents * size)  # 0 for actions that are not taken
        square = ((weights @ products) * weights).sum(-1).view(rows, -1, size)
        return (outcomes.chance.unsqueeze(-1) * square).sum(1)


@dataclass(frozen=True, kw_only=True)
class JAttack:
    r"""Lower what the next policy step gains (return-based TRAM, Eq. 13).

    .. math:: w(a) = E_{a_{-k}} \Bigl\langle G, \sum_i A_i s_i(a_i) \Bigr\rangle

    with G the ascent direction of the actor's last step: the gradient that its parameters hold.
    Before the first update there is none, and nothing is attacked.

    Args:
        scope: see :class:`VarianceAttack`.
        samples: see :class:`VarianceAttack`; for advantages that depend on the others.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, perturbers
        >>> team = algorithms.COMA.for_env(envs.ToyGame(), seed=0)
        >>> poison = perturbers.ActionPoisonPerturber(
        ...     JAttack(), learner=team, agent="agent_0", when="always"
        ... )
        >>> counters = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=poison).counters
        >>> counters["0/attacked"], counters["0/kl"]  # nothing was learnt yet that could be lowered
        (200.0, 0.0)
    """

    scope: Scope = "full"
    samples: int = 16

    needs_advantages = True

    def __post_init__(self) -> None:
        check_choice("JAttack.scope", self.scope, get_args(Scope))
        check_int("JAttack.samples", self.samples, 1)

    def __call__(self, view: PoisonView) -> Tensor:
        """Return the direction, (R, A)."""
        if not view.has_gradient:
            return torch.zeros_like(view.policy)
        if view.additive:
            policy = view.policy.unsqueeze(1)
            gain = score_products(view.attacked_jacobian(self.scope), policy)[:, 0]
            weight = view.own_advantages[:, view.agent] * gain
        else:
            outcomes = view.outcomes(self.samples)
            gain = score_products(view.jacobian(self.scope), view.policies)
            offsets = torch.arange(gain.shape[1], device=gain.device) * gain.shape[2]
            index = (outcomes.joint + offsets).flatten(1)  # of each agent's action in flat (N, A)
            taken_gain = gain.flatten(1).gather(1, index).view(outcomes.taken.shape)
            total = (outcomes.taken * taken_gain).sum(-1)
            weight = (outcomes.chance.unsqueeze(-1) * total).sum(1)
        return -shift_direction(view.policy.double(), weight.double())
