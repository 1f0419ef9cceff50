"""Lower bounds on how far the greedy action stays ahead, whatever is observed in a ball."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_kind
from robustmarl.budgets import LinfBall
from robustmarl.networks import SeparateAgents, TeamNetwork
from robustmarl.networks.calculus.bounds import (
    Interval,
    activation_lines,
    interval_bounds,
    interval_lead_bounds,
    linear_lower_bounds,
)
from robustmarl.networks.calculus.plan import Affine, Plan
from robustmarl.victims import LossRows, NetworkVictim

__all__ = ["BoundMethod", "certified", "margin_bounds", "possible_actions"]

BoundMethod = Literal["interval", "linear", "tightest"]
"""Intervals alone; per entry the better of them and of linear relaxations between intervals
(CROWN-IBP); or likewise with relaxations between bounds that are linear themselves (CROWN)."""

CACHED, LEAST_ROWS = 2**16, 64
"""Numbers in all rows' matrices at once, and how many rows are worth a step of their own."""


def margin_bounds(
    victim: NetworkVictim, rows: LossRows, ball: LinfBall, *, method: BoundMethod = "tightest"
) -> Tensor:
    r"""Return lower bounds of the greedy action's lead over each other one, (M, A).

    .. math:: \min_{\hat o \in B_\epsilon(o)} z_y(\hat o) - z_a(\hat o), \qquad
              y = \arg\max_a z_a(o)

    over logits or Q-values z. Entries of the greedy action itself and of unavailable ones are
    infinite. Memory and side inputs are as the rows have them: of a recurrent network one step is
    bounded, not what follows from it. The bounds carry gradients for the network's weights.

    Args:
        victim: a team's live view; discrete actions.
        rows: clean observations, (M, D), and all else that its policy acts on.
        ball: what may change.
        method: ``"interval"`` is the cheap bound alone. The others take, per entry, the better of
            it and of linear relaxations: with activations between intervals, ``"linear"``, or
            between bounds that are linear themselves, ``"tightest"`` and much dearer.

    Raises:
        TypeError: for a victim that is no team's network.
        ValueError: for continuous actions, a network whose layers cannot be read, an unknown
            method, or a ball that does not fit the observations.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, victims
        >>> team = algorithms.QMIX.for_env(envs.TwoStepGame(), seed=0)
        >>> rows = victims.LossRows(obs=torch.eye(3))
        >>> point = margin_bounds(team.victim(), rows, budgets.LinfBall(epsilon=0.0))
        >>> wider = margin_bounds(team.victim(), rows, budgets.LinfBall(epsilon=0.1))
        >>> bool((point.min(1).values >= wider.min(1).values).all()), point.isinf().sum(1)
        (True, tensor([1, 1, 1]))
    """
    check_choice("margin_bounds.method", method, get_args(BoundMethod))
    return _greedy_bounds("margin_bounds", victim, rows, ball, method)


@torch.no_grad()
def certified(victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> Tensor:
    """Return for which rows no attack in the ball changes the greedy action, bool (M,).

    True is a proof, up to rounding; False is not: the bounds may be too loose. Arguments and
    errors are those of :func:`margin_bounds`.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, victims
        >>> team = algorithms.QMIX.for_env(envs.TwoStepGame(), seed=0)
        >>> rows = victims.LossRows(obs=torch.eye(3))
        >>> certified(team.victim(), rows, budgets.LinfBall(epsilon=0.0))
        tensor([True, True, True])
        >>> certified(team.victim(), rows, budgets.LinfBall(epsilon=10.0))
        tensor([False, False, False])
    """
    return (_greedy_bounds("certified", victim, rows, ball, "tightest") > 0.0).all(dim=-1)


@torch.no_grad()
def possible_actions(victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> Tensor:
    """Return which actions may be greedy somewhere in the ball, bool (M, A).

    An available action is left out if another one is proven to lead it wherever the observation
    moves. So False is a proof, up to rounding, and True is not. The greedy action on the clean
    observation is always among them. Arguments and errors are those of :func:`margin_bounds`.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, victims
        >>> team = algorithms.QMIX.for_env(envs.TwoStepGame(), seed=0)
        >>> rows = victims.LossRows(obs=torch.eye(3))
        >>> possible_actions(team.victim(), rows, budgets.LinfBall(epsilon=0.0)).sum(1)
        tensor([1, 1, 1])
        >>> possible_actions(team.victim(), rows, budgets.LinfBall(epsilon=10.0)).sum(1)
        tensor([2, 2, 2])
    """
    check_boundable("possible_actions", victim, rows, ball)
    logits = rows.view(victim).logits(rows.obs)
    mask, size = rows.rows.mask, logits.shape[-1]
    available = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    possible = available.clone()
    every = torch.arange(size, device=logits.device).expand(len(logits), size)
    led = _lead_bounds(victim, rows, ball, every, "tightest") > 0.0  # (M, leader, A)
    possible &= ~(led & available.unsqueeze(-1)).any(dim=1)
    # Rounding must not leave out what is played now.
    return possible.scatter(-1, logits.argmax(dim=-1, keepdim=True), True)


def check_boundable(name: str, victim: NetworkVictim, rows: LossRows, ball: LinfBall) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``name`` can bound these rows."""
    check_victim(name, victim)
    check_kind(f"{name}.rows", rows, LossRows, "LossRows")
    check_kind(f"{name}.ball", ball, LinfBall, "a LinfBall")
    ball.check_size(name, rows.obs.shape[-1])


def check_victim(name: str, victim: NetworkVictim) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``name`` can bound this network's outputs."""
    where = f"{name}.victim"
    check_kind(where, victim, NetworkVictim, "a NetworkVictim", "Write algorithm.victim().")
    check(not victim.continuous, where, "of discrete actions", "a continuous one")
    network = victim.network
    one = network.of(0) if isinstance(network, SeparateAgents) else network
    rule = "a network of layers that bounds are known of"
    check(one.plan() is not None, where, rule, type(one).__name__)


def _greedy_bounds(
    name: str, victim: NetworkVictim, rows: LossRows, ball: LinfBall, method: BoundMethod
) -> Tensor:
    check_boundable(name, victim, rows, ball)
    with torch.no_grad():  # a label has no gradient
        greedy = rows.view(victim).logits(rows.obs).argmax(dim=-1, keepdim=True)
    margins = _lead_bounds(victim, rows, ball, greedy, method).squeeze(1)
    margins = margins.scatter(-1, greedy, torch.inf)
    mask = rows.rows.mask
    return margins if mask is None else margins.masked_fill(~mask, torch.inf)


def _lead_bounds(
    victim: NetworkVictim, rows: LossRows, ball: LinfBall, leaders: Tensor, method: BoundMethod
) -> Tensor:
    """Return lower bounds of the lead of ``leaders``, (M, L), over every action, (M, L, A)."""
    network = victim.network
    if not isinstance(network, SeparateAgents):
        return _of_network(network, rows, ball, leaders, method)
    every, agents = torch.arange(len(rows), device=rows.obs.device), rows.rows.agents
    agents = torch.zeros_like(every) if agents is None else agents.to(every.device)
    found = rows.obs.new_zeros(*leaders.shape, network.num_actions)
    for agent in range(network.num_agents):
        index = every[agents == agent]
        part = _of_network(network.of(agent), rows.select(index), ball, leaders[index], method)
        found = found.index_copy(0, index, part)
    return found


def _of_network(
    network: TeamNetwork, rows: LossRows, ball: LinfBall, leaders: Tensor, method: BoundMethod
) -> Tensor:
    plan = network.plan()
    assert isinstance(plan, Plan)  # see check_victim
    many = (
        len(rows)
        if method == "interval" or rows.obs.device.type != "cpu"
        else _at_once(plan, method)
    )
    if len(rows) <= many:
        return _of_plan(network, plan, rows, ball, leaders, method)
    every = torch.arange(len(rows), device=rows.obs.device)
    parts = (
        _of_plan(network, plan, rows.select(index), ball, leaders[index], method)
        for index in every.split(many)
    )
    return torch.cat(list(parts))


def _at_once(plan: Plan, method: BoundMethod) -> int:
    """Return how many rows a CPU bounds at once by linear relaxations.

    Each of them has a matrix, of as many numbers as combinations times units. Where all rows' are
    larger than a cache, or than what the system lets a process keep, each step waits for memory.
    """
    sizes = [
        layer.module.out_features for layer in (plan.first, *plan.rest) if isinstance(layer, Affine)
    ]
    combinations = max(sizes[1:], default=1) if method == "tightest" else sizes[-1]
    return max(LEAST_ROWS, CACHED // (combinations * max(sizes)))


def _of_plan(
    network: TeamNetwork,
    plan: Plan,
    rows: LossRows,
    ball: LinfBall,
    leaders: Tensor,
    method: BoundMethod,
) -> Tensor:
    low, high = ball.box(rows.obs)
    beside = rows.rows  # what the policy acts on beside observations
    if beside.obs_mask is not None:  # padding is not attacked
        low, high = (torch.where(beside.obs_mask, end, rows.obs) for end in (low, high))
    box = Interval(low, high)
    added = network.extra(beside.agents, beside.last_act, beside.side).added
    forward = interval_bounds(plan, box, added, beside.hidden)
    each = leaders.split(1, dim=-1)
    margins = torch.stack([interval_lead_bounds(plan, box, forward, one) for one in each], dim=1)
    if method == "interval":
        return margins
    # Whoever leads, the activations' lines are the same.
    lines = activation_lines(plan, box, forward, added, refine=method == "tightest")
    if lines is None:
        return margins
    one_hot = torch.eye(margins.shape[-1], dtype=margins.dtype, device=margins.device)
    leads = (one_hot[one] - one_hot for one in each)  # (M, A, A): row a is z_y - z_a
    tighter = [linear_lower_bounds(plan, box, one, lines, added) for one in leads]
    return torch.maximum(margins, torch.stack(tighter, dim=1))
