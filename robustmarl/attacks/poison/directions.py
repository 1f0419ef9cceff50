"""TRAM's directions: random, variance-based and return-based [Wu2022]_."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from robustmarl._checks import check_choice, check_int
from robustmarl.attacks.poison.view import PoisonView
from robustmarl.networks.calculus.scores import (
    ActorJacobian,
    Scope,
    gram,
    score_gram,
    score_products,
)

__all__ = ["JAttack", "PoisonAttack", "RandomAttack", "VarianceAttack", "shift_direction"]

Terms = Literal["auto", "own", "own+cross", "gradient", "joint"]


def shift_direction(policy: Tensor, weight: Tensor) -> Tensor:
    r"""Return how :math:`\sum_a \pi'(a) w(a)` grows with the logits, (R, m); rows sum to 0.

    .. math:: \nabla_\delta F(a) = \pi(a) \bigl(w(a) - \textstyle\sum_b \pi(b) w(b)\bigr)

    Rows in which it vanishes up to rounding (constant ``weight``) are exactly zero.

    Args:
        policy: :math:`\pi`, (R, m).
        weight: w, (R, m); what it holds where the policy is 0 does not matter.
    """
    weight = torch.where(policy > 0, weight, 0.0)
    found = policy * (weight - (policy * weight).sum(-1, keepdim=True))
    small = weight.abs().amax(-1, keepdim=True) * 1e-12
    return torch.where(found.norm(dim=-1, keepdim=True) > small, found, 0.0)


@runtime_checkable
class PoisonAttack(Protocol):
    """A direction in logit space; any callable will do.

    An attack that asks for advantages says so by a class attribute ``needs_advantages = True``.
    """

    def __call__(self, view: PoisonView) -> Tensor:
        """Return a direction per step, (R, A), of any length; a zero row attacks nothing."""


@dataclass(frozen=True, kw_only=True)
class RandomAttack:
    """A direction drawn anew each step, uniform on the sphere of available actions."""

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
        weight = self._estimate(view) if terms in ("gradient", "joint") else self._own(view, terms)
        return shift_direction(view.policy.double(), weight.double())

    def _own(self, view: PoisonView, terms: Terms) -> Tensor:
        # Its forward pass serves the attacked agent, too. Separate parameters have no cross term.
        cross = terms == "own+cross" and view.shared and view.others
        team = view.jacobian(self.scope) if cross else None
        own, policy = view.own_jacobian(self.scope), view.policy
        if view.additive:
            every = view.own_advantages
            advantage, square = every[:, view.agent], every[:, view.agent].square()
        else:
            every = view.advantages(view.sample_others(self.samples)[:, 0])
            advantage = every[:, :, view.agent].mean(0)
            square = every[:, :, view.agent].square().mean(0)
            every = every.mean(0)
        blocks = own.blocks()
        products = gram(blocks, blocks)[:, 0, :, 0]
        mean = (products * policy.unsqueeze(1)).sum(-1)
        norms = products.diagonal(dim1=1, dim2=2) - 2.0 * mean
        norms = norms + (policy * mean).sum(-1, keepdim=True)
        weight = square * norms
        if not isinstance(team, ActorJacobian):
            return weight
        where = view.others
        others, pi = team.agents(where), view.policies[:, where]
        flow = others.blocks((pi * every[:, where]).unsqueeze(2))
        along = gram(blocks, flow)[:, 0, :, :, 0].sum(-1)
        along = along - (policy * along).sum(-1, keepdim=True)
        return weight + 2.0 * advantage * along

    def _estimate(self, view: PoisonView) -> Tensor:
        found = view.outcomes(self.samples)
        rows, n, size = view.policies.shape
        taken = found.taken
        if self.terms == "joint":
            taken = taken.sum(-1, keepdim=True).expand_as(taken)
        products = score_gram(view.jacobian(self.scope), view.policies)
        products = products.reshape(rows, n * size, n * size)
        weights = taken.new_zeros(*taken.shape, size)
        weights = weights.scatter_(-1, found.joint.unsqueeze(-1), taken.unsqueeze(-1))
        weights = weights.view(rows, -1, n * size)
        square = ((weights @ products) * weights).sum(-1).view(rows, -1, size)
        return (found.chance.unsqueeze(-1) * square).sum(1)


@dataclass(frozen=True, kw_only=True)
class JAttack:
    r"""Lower what the next policy step gains (return-based TRAM, Eq. 13).

    .. math:: w(a) = E_{a_{-k}} \Bigl\langle G, \sum_i A_i s_i(a_i) \Bigr\rangle

    with G the ascent direction of the actor's last step: the gradient that its parameters hold.
    Before the first update there is none, and nothing is attacked.

    Args:
        scope: see :class:`VarianceAttack`.
        samples: see :class:`VarianceAttack`; for advantages that depend on the others.
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
            gain = score_products(view.own_jacobian(self.scope), policy)[:, 0]
            weight = view.own_advantages[:, view.agent] * gain
        else:
            found = view.outcomes(self.samples)
            gain = score_products(view.jacobian(self.scope), view.policies)
            offsets = torch.arange(gain.shape[1], device=gain.device) * gain.shape[2]
            index = (found.joint + offsets).flatten(1)
            each = found.taken * gain.flatten(1).gather(1, index).view(found.taken.shape)
            weight = (found.chance.unsqueeze(-1) * each.sum(-1)).sum(1)
        return -shift_direction(view.policy.double(), weight.double())
