"""Lower bounds on how far the greedy action stays ahead, whatever is observed in a ball."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_kind
from robustmarl.budgets import LinfBall
from robustmarl.networks import SeparateAgents, TeamNetwork
from robustmarl.networks.calculus.bounds import Interval
from robustmarl.networks.calculus.leads import BoundMethod, lead_bounds
from robustmarl.networks.calculus.plan import Plan
from robustmarl.victims import LossRows, NetworkVictim

__all__ = ["BoundMethod", "certified", "margin_bounds", "possible_actions"]


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
    mask = rows.rows.mask
    available = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    possible = available.clone()
    led = _lead_bounds(victim, rows, ball, None, "tightest") > 0.0  # (M, leader, A)
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
    parts = [network]
    if isinstance(network, SeparateAgents):
        parts = [network.of(agent) for agent in range(network.num_agents)]
    rule = "a network of layers that bounds are known of"
    remedy = (
        "Where weights are parametrized (spectral_norm, weight_norm), bound a copy after "
        "torch.nn.utils.parametrize.remove_parametrizations."
    )
    known = all(part.plan() is not None for part in parts)
    check(known, where, rule, type(parts[0]).__name__, remedy)


def _greedy_bounds(
    name: str, victim: NetworkVictim, rows: LossRows, ball: LinfBall, method: BoundMethod
) -> Tensor:
    check_boundable(name, victim, rows, ball)
    with torch.no_grad():  # a label has no gradient
        greedy = rows.view(victim).logits(rows.obs).argmax(dim=-1, keepdim=True)
    margins = _lead_bounds(victim, rows, ball, greedy, method).squeeze(1)
    margins.scatter_(-1, greedy, torch.inf)
    mask = rows.rows.mask
    return margins if mask is None else margins.masked_fill(~mask, torch.inf)


def _lead_bounds(
    victim: NetworkVictim,
    rows: LossRows,
    ball: LinfBall,
    leaders: Tensor | None,
    method: BoundMethod,
) -> Tensor:
    """Return lower bounds of the lead of ``leaders``, (M, L), over every action, (M, L, A).

    None are all actions in order.
    """
    network = victim.network
    if not isinstance(network, SeparateAgents):
        return _of_network(network, rows, ball, leaders, method)
    every, agents = torch.arange(len(rows), device=rows.obs.device), rows.rows.agents
    agents = torch.zeros_like(every) if agents is None else agents.to(every.device)
    size = network.num_actions
    found = rows.obs.new_zeros(len(rows), size if leaders is None else leaders.shape[1], size)
    for agent in range(network.num_agents):
        index = every[agents == agent]
        chosen = None if leaders is None else leaders[index]
        part = _of_network(network.of(agent), rows.select(index), ball, chosen, method)
        found = found.index_copy(0, index, part)
    return found


def _of_network(
    network: TeamNetwork,
    rows: LossRows,
    ball: LinfBall,
    leaders: Tensor | None,
    method: BoundMethod,
) -> Tensor:
    plan = network.plan()
    assert isinstance(plan, Plan)  # see check_victim
    low, high = ball.box(rows.obs)
    beside = rows.rows  # what the policy acts on beside observations
    if beside.obs_mask is not None:  # padding is not attacked
        low, high = (torch.where(beside.obs_mask, end, rows.obs) for end in (low, high))
    added = network.extra(beside.agents, beside.last_act, beside.side).added
    box = Interval(low, high)
    return lead_bounds(plan, box, leaders, method=method, added=added, hidden=beside.hidden)
