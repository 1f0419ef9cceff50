r"""TRAM [Wu2022]_: where to shift an agent's action distribution, and how far.

Everything here is about R attacked steps of one agent with m actions. A direction is a vector in
logit space; the perturbed policy is :math:`\pi' = \mathrm{softmax}(l + \beta\hat\delta)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check_choice, check_int
from robustmarl._seeding import Draws
from robustmarl.attacks.base import StepContext
from robustmarl.attacks.scores import (
    ActorJacobian,
    Scope,
    SeparateJacobian,
    gram,
    linearize,
    score_gram,
    score_products,
)
from robustmarl.networks import Agents, SeparateAgents

__all__ = [
    "JAttack",
    "Outcomes",
    "PoisonAttack",
    "PoisonView",
    "Poisoned",
    "RandomAttack",
    "VarianceAttack",
    "kl_scale",
    "log_likelihood",
    "poison",
    "shift_direction",
]

Terms = Literal["auto", "own", "own+cross", "gradient", "joint"]

BSN1, BSN2 = 55, 15
"""Algorithm 1: at most so many doublings, and so many halvings after them."""

_FAN = 15  # points per round of the bracket search, which settle 4 halvings at once

Array64 = NDArray[np.float64]

AdvantageFn = Callable[[StepContext, Tensor, Tensor], Tensor]
"""Maps (context of R steps, logits (R, N, A), joint actions (K, R, N)) to (K, R, N, A)."""


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


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """What :func:`poison` made of R steps, in float64.

    Attributes:
        policy: the perturbed policy, (R, m).
        scale: beta, (R,); ``2.0**55`` where the budget cannot be used up.
        kl: KL(perturbed || clean) in nats, (R,), never above the budget.
        log_policy: the clean log-policy, (R, m).
        effective: whether there was a direction at all, bool (R,).
    """

    policy: Tensor
    scale: Tensor
    kl: Tensor
    log_policy: Tensor
    effective: Tensor


def poison(logits: Tensor, mask: Tensor, direction: Tensor, kl_budget: float) -> Poisoned:
    r"""Return the policy shifted along ``direction`` as far as the budget goes.

    Where the whole mass on the direction's best available action costs no more than the budget,
    the supremum over :math:`\beta` is taken at once: one-hot, ties in proportion to the policy.

    Args:
        logits: (R, m).
        mask: available actions, bool (R, m).
        direction: of any length, (R, m); masked entries do not matter, zero rows do nothing.
        kl_budget: :math:`KL^U` > 0, nats.
    """
    # In numpy: at R x m numbers, calling torch costs several times the arithmetic.
    device, available = logits.device, mask.cpu().numpy()
    log_policy = np.where(available, logits.double().cpu().numpy(), -np.inf)
    log_policy = log_policy - _log_sum(log_policy)
    unit = np.where(available, direction.double().cpu().numpy(), 0.0)
    length = np.sqrt(np.square(unit).sum(-1, keepdims=True))
    effective = length[:, 0] > 0.0
    unit = unit / np.where(effective[:, None], length, 1.0)
    # Shifted so that the best action's is 0: ties stay exact at any scale.
    unit = unit - np.where(available, unit, -np.inf).max(-1, keepdims=True)
    top = available & (unit == 0.0)
    on_top = np.where(top, log_policy, -np.inf)
    highest = -_log_sum(on_top)[:, 0]
    saturated = effective & (highest <= kl_budget)
    scale = np.where(saturated, 2.0**BSN1, 0.0)
    search = np.flatnonzero(effective & ~saturated)
    if len(search):
        scale[search] = _kl_scale(log_policy[search], unit[search], kl_budget)
    moved = np.where(saturated[:, None], on_top, log_policy + scale[:, None] * unit)
    moved = moved - _log_sum(moved)
    moved = np.where(effective[:, None], moved, log_policy)
    kl = np.where(saturated, highest, _kl(scale[:, None], log_policy, unit)[:, 0])
    of = {"policy": np.exp(moved), "scale": scale, "kl": kl, "log_policy": log_policy}
    made = {name: torch.from_numpy(values).to(device) for name, values in of.items()}
    return Poisoned(**made, effective=torch.from_numpy(effective).to(device))


def kl_scale(log_policy: Tensor, unit: Tensor, kl_budget: float) -> Tensor:
    r"""Return the largest feasible :math:`\beta` of Algorithm 1, (R,), float64.

    The algorithm doubles an upper end until it is infeasible and halves the bracket down to
    :math:`2^{-15}`. KL grows with :math:`\beta`, so the ends can all be tried at once, and the
    halvings four at a time: the same points of the same grid.

    Args:
        log_policy: :math:`\log\pi`, (R, m) float64, -inf where unavailable.
        unit: :math:`\hat\delta`, (R, m) float64; adding a constant to a row changes nothing.
        kl_budget: :math:`KL^U` > 0, nats.
    """
    logp, direction = log_policy.cpu().numpy(), unit.cpu().numpy()
    direction = direction - np.where(np.isfinite(logp), direction, -np.inf).max(-1, keepdims=True)
    return torch.from_numpy(_kl_scale(logp, direction, kl_budget)).to(log_policy.device)


def _kl_scale(log_policy: Array64, unit: Array64, kl_budget: float) -> Array64:
    def feasible(scale: Array64) -> Array64:
        """Return how many of (R, K) growing scales are, up to the first that is not."""
        good = _kl(scale, log_policy, unit) <= kl_budget
        return np.where(good.all(-1), good.shape[1], good.argmin(-1)).astype(np.float64)

    ends = 2.0 ** np.arange(BSN1)
    doublings = feasible(np.broadcast_to(ends, (len(unit), BSN1)))
    width = 2.0**doublings
    halvings = BSN2 + np.minimum(doublings, BSN1 - 1)
    low = np.zeros_like(width)
    steps = np.arange(1.0, _FAN + 1.0)
    for done in range(0, int(halvings.max()), 4):
        # The last round may have fewer halvings left: its finer points are off the grid.
        left = np.clip(halvings - done, 0, 4)
        step = width * 0.5 ** (done + left)
        found = feasible(low[:, None] + step[:, None] * steps)
        low = low + step * np.minimum(found, 2.0**left - 1.0)
    return low


def _log_sum(values: Array64) -> Array64:
    """Return log sum exp over the last axis, which is kept."""
    highest = values.max(-1, keepdims=True)
    return np.asarray(highest + np.log(np.exp(values - highest).sum(-1, keepdims=True)))


def _kl(scale: Array64, log_policy: Array64, unit: Array64) -> Array64:
    r"""Return KL of the policies at ``scale`` (R, K) from the clean one, (R, K).

    .. math:: KL = \beta \sum_a \pi'(a)\hat\delta(a) - \log\sum_a \pi(a) e^{\beta\hat\delta(a)}

    The best action's ``unit`` is 0, so nothing cancels at large scales.
    """
    shifted = log_policy[:, None] + scale[..., None] * unit[:, None]
    highest = shifted.max(-1, keepdims=True)
    mass = np.exp(shifted - highest)
    total = mass.sum(-1)
    mean = (mass * unit[:, None]).sum(-1) / total
    return np.maximum(scale * mean - np.log(total) - highest[..., 0], 0.0)


def log_likelihood(log_policy: Tensor, poisoned: Tensor, attack_frequency: float = 1.0) -> Tensor:
    r"""Return how likely what was played looks to who knows the clean policy (Eq. 3), (R,).

    .. math:: L = f_A \sum_a \pi'(a) \log\pi(a) + (1 - f_A) \sum_a \pi(a) \log\pi(a)

    Natural logarithm; closer to 0 is harder to notice.

    Args:
        log_policy: :math:`\log\pi`, (R, m).
        poisoned: :math:`\pi'`, (R, m).
        attack_frequency: :math:`f_A`.
    """
    mixed = attack_frequency * poisoned + (1.0 - attack_frequency) * log_policy.exp()
    return torch.where(mixed > 0, mixed * log_policy, 0.0).sum(-1)


@dataclass(frozen=True)
class Outcomes:
    """Joint actions of N agents: K alternatives of the others by each own action.

    Attributes:
        joint: int64 (R, K, A, N).
        taken: every agent's advantage of its action there, (R, K, A, N).
        chance: how likely the others' alternatives are, (R, K); rows sum to 1.
    """

    joint: Tensor
    taken: Tensor
    chance: Tensor


@lru_cache(maxsize=32)
def _joint_tables(n: int, size: int, agent: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all joint actions, and how to know every agent's values from few of them.

    An agent's values depend on what the others do. Joint actions whose indices sum to 0 modulo
    ``size`` have every choice of any N - 1 agents once, so they suffice for all N agents.

    Returns:
        joint actions (K, A, N), K alternatives of the others by each action of ``agent``; those
        that suffice, (K, N); where in their values, flat (K, N, A), each agent's is, (K, A, N);
        and where in the flat policies (N, A) the others' actions are, (K, N - 1).
    """
    agents, others = torch.arange(n), [i for i in range(n) if i != agent]
    place = size ** torch.arange(n - 2, -1, -1)
    free = torch.arange(size ** (n - 1)).unsqueeze(1) // place % size
    words = torch.cat([free, (-free.sum(1, keepdim=True)) % size], dim=1)
    joint = torch.empty(len(free), size, n, dtype=torch.int64)
    joint[..., others] = free.unsqueeze(1)
    joint[..., agent] = torch.arange(size)
    # Agent i's word differs from the joint action in i's own index only.
    word = joint.unsqueeze(-2).repeat(1, 1, n, 1)
    word[..., agents, agents] = (joint - joint.sum(-1, keepdim=True)) % size
    row = (word[..., :-1] * place).sum(-1)
    entry = (row * n + agents) * size + joint
    return joint, words, entry, torch.tensor(others, dtype=torch.int64) * size + free


class PoisonView:
    """R attacked steps of one agent, and what a white-box adversary knows of them.

    Everything is computed when first asked for.

    Attributes:
        logits: of all N agents, (R, N, A), about -1e9 where unavailable.
        policies: their softmax.
        agent: index of the attacked one.
        mask: its available actions, bool (R, A).
        additive: whether an agent's advantages depend on its own action only.

    Args:
        network: the team's actor, or one per agent; logits are a multiple of its outputs.
        context: R steps.
        logits: (R, N, A).
        agent: index of the attacked one.
        draws: makes R rows of random numbers, when first asked.
        advantage: advantages, or values, of every own action given joint actions.
        additive: whether they ignore the others' actions.
    """

    def __init__(
        self,
        network: Agents,
        context: StepContext,
        logits: Tensor,
        agent: int,
        draws: Callable[[], Draws],
        advantage: AdvantageFn | None,
        additive: bool,
    ) -> None:
        self.logits, self.agent, self.additive = logits, agent, additive
        self.policies = torch.softmax(logits, dim=-1)
        self.mask = context.mask[:, agent]
        self._network, self._context, self._advantage = network, context, advantage
        self._draws = draws
        self._jacobians: dict[Scope, ActorJacobian | SeparateJacobian] = {}
        self._own: dict[Scope, ActorJacobian] = {}

    @property
    def policy(self) -> Tensor:
        """The attacked agent's policy, (R, A)."""
        return self.policies[:, self.agent]

    @cached_property
    def draws(self) -> Draws:
        """R rows of random numbers."""
        return self._draws()

    @property
    def others(self) -> list[int]:
        """Indices of the other agents."""
        return [i for i in range(self.logits.shape[1]) if i != self.agent]

    @property
    def shared(self) -> bool:
        """Whether agents share parameters; if not, their gradients are orthogonal."""
        return not isinstance(self._network, SeparateAgents)

    @property
    def has_gradient(self) -> bool:
        """Whether the actor was updated yet."""
        return any(p.grad is not None for p in self._network.parameters())

    def advantages(self, act: Tensor) -> Tensor:
        """Return advantages of every own action, (K, R, N, A), given joint actions (K, R, N)."""
        if self._advantage is None:
            raise TypeError("PoisonView.advantages must be given by a learner, got None.")
        values = self._advantage(self._context, self.logits, act)
        values = values.masked_fill(~self._context.mask, 0.0)
        return values - (self.policies * values).sum(-1, keepdim=True)

    @cached_property
    def own_advantages(self) -> Tensor:
        """Advantages of all agents' own actions where they are additive, (R, N, A)."""
        none = torch.zeros_like(self._context.alive, dtype=torch.int64)
        return self.advantages(none.unsqueeze(0))[0]

    def jacobian(self, scope: Scope) -> ActorJacobian | SeparateJacobian:
        """Return all agents' d logits / d parameters, (R, N) rows."""
        if scope not in self._jacobians:
            self._jacobians[scope] = self._linearize(scope, slice(None))
        return self._jacobians[scope]

    def own_jacobian(self, scope: Scope) -> ActorJacobian:
        """Return the attacked agent's, (R, 1) rows."""
        if scope not in self._own:
            jacobian = self._jacobians.get(scope)
            if isinstance(jacobian, ActorJacobian):
                self._own[scope] = jacobian.agents((self.agent,))
            else:
                found = self._linearize(scope, slice(self.agent, self.agent + 1))
                self._own[scope] = found if isinstance(found, ActorJacobian) else found.parts[0]
        return self._own[scope]

    def outcomes(self, samples: int) -> Outcomes:
        """Return what the others may do beside each own action.

        All of it, each once, where a critic looks at no more joint actions for that than for
        ``samples`` draws; else that many draws.
        """
        rows, n, size = self.policies.shape
        if size ** (n - 1) > samples * size:
            joint = self.sample_others(samples)
            values = self.advantages(joint.flatten(0, 1)).view(*joint.shape, size)
            taken = values.gather(-1, joint.unsqueeze(-1)).squeeze(-1)
            chance = taken.new_full((rows, samples), 1.0 / samples)
            return Outcomes(joint.permute(2, 0, 1, 3), taken.permute(2, 0, 1, 3), chance)
        tables = (t.to(self.logits.device) for t in _joint_tables(n, size, self.agent))
        joint, words, entry, other = tables
        values = self.advantages(words.unsqueeze(1).expand(-1, rows, -1))
        taken = values.transpose(0, 1).flatten(1)[:, entry]
        chance = self.policies.flatten(1)[:, other].prod(-1)
        return Outcomes(joint.expand(rows, -1, -1, -1), taken, chance)

    def sample_others(self, samples: int) -> Tensor:
        """Return joint actions (K, A, R, N): K draws of the others by each own action."""
        rows, n, size = self.policies.shape
        cumulative = self.policies.cumsum(dim=-1)
        uniform = self.draws.uniform(samples * n).view(rows, samples, n).transpose(0, 1)
        point = uniform.unsqueeze(-1) * cumulative[..., -1:]
        drawn = (cumulative <= point).sum(-1)
        joint = drawn.unsqueeze(1).repeat(1, size, 1, 1)
        joint[..., self.agent] = torch.arange(size, device=joint.device)[:, None]
        return joint

    def _linearize(self, scope: Scope, where: slice) -> ActorJacobian | SeparateJacobian:
        context = self._context
        seen = context.seen[:, where]
        return linearize(
            self._network,
            seen,
            torch.arange(self.logits.shape[1], device=seen.device)[where],
            context.last_act[:, where],
            None if context.hidden is None else context.hidden[:, where],
            scope,
        )


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


def rows_of(context: StepContext, rows: Tensor) -> StepContext:
    """Return the context of the environments ``rows``, int64 (R,)."""
    values = {f.name: getattr(context, f.name) for f in fields(context)}
    picked: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
    return StepContext(**picked)
