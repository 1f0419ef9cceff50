"""Bounds hold for every point of a ball, and are exact where the network is affine."""

import itertools
from typing import get_args

import pytest
import torch
from torch import nn

from robustmarl import algorithms, envs
from robustmarl._seeding import Draws
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.certify import BoundMethod, certified, margin_bounds, possible_actions
from robustmarl.joint import spec_of
from robustmarl.networks import AgentNetwork
from robustmarl.networks.calculus import leads as calculus_leads
from robustmarl.networks.calculus.bounds import (
    Interval,
    activation_lines,
    interval_bounds,
    linear_lower_bounds,
)
from robustmarl.networks.calculus.plan import Plan
from robustmarl.victims import FunctionVictim, LossRows, NetworkVictim, Rows

D = torch.float64
KINDS = {
    "relu": {"hidden": (16, 12)},
    "tanh": {"hidden": (16, 12), "activation": "tanh"},
    "norm": {"hidden": (16, 12), "layer_norm": True},
    "gru": {"hidden": (12,), "recurrent": True, "last_action": True},
}


def team(kind, seed=0):
    torch.manual_seed(seed)
    network = AgentNetwork(5, 3, 4, **KINDS[kind]).to(D)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # bent enough that relaxations matter
    return NetworkVictim(network, continuous=False)


def rows_of(victim, count=20):
    generator = torch.Generator().manual_seed(1)
    width = victim.hidden_size
    mask = torch.rand(count, 4, generator=generator) < 0.8
    mask[:, 0] = True
    rows = Rows(
        mask=mask,
        hidden=torch.randn(count, width, generator=generator, dtype=D) if width else None,
        last_act=torch.randint(-1, 4, (count,), generator=generator) if width else None,
        agents=torch.arange(count) % 3,
    )
    return LossRows(obs=torch.randn(count, 5, generator=generator, dtype=D), rows=rows)


def leads(view, obs, greedy):
    logits = view.logits(obs)
    return logits.gather(-1, greedy) - logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5])
def test_no_point_of_the_ball_lies_below_the_bound(kind, epsilon):
    victim, ball = team(kind), LinfBall(epsilon=epsilon)
    rows = rows_of(victim)
    view, bounds = rows.view(victim), margin_bounds(victim, rows, ball)
    greedy = view.logits(rows.obs).argmax(-1, keepdim=True)
    generator = torch.Generator().manual_seed(2)
    signs = torch.randint(0, 2, (200, *rows.obs.shape), generator=generator).to(D) * 2 - 1
    corners = rows.obs + epsilon * signs
    inside = [
        rows.obs + epsilon * (2 * torch.rand(rows.obs.shape, generator=generator, dtype=D) - 1)
        for _ in range(200)
    ]
    attack = PGD(ball=ball, steps=20, restarts=3, random_start=True, loss="margin")
    worst = attack(view, rows.obs.clone(), Draws(torch.arange(len(rows))))
    for point in (*corners, *inside, worst):
        assert bool((leads(view, point, greedy) >= bounds - 1e-9)[bounds.isfinite()].all())
    flipped = view.logits(worst).argmax(-1) != greedy[:, 0]
    assert not bool((flipped & certified(victim, rows, ball)).any())


@pytest.mark.parametrize("kind", KINDS)
def test_no_budget_leaves_the_lead_itself(kind):
    victim = team(kind)
    rows = rows_of(victim)
    greedy = rows.view(victim).logits(rows.obs).argmax(-1, keepdim=True)
    bounds = margin_bounds(victim, rows, LinfBall(epsilon=0.0))
    expected = leads(rows.view(victim), rows.obs, greedy)
    assert torch.allclose(bounds[bounds.isfinite()], expected[bounds.isfinite()], atol=1e-9)


def test_dearer_bounds_are_no_looser():
    victim, ball = team("relu"), LinfBall(epsilon=0.05)
    rows = rows_of(victim)
    bounds = [margin_bounds(victim, rows, ball, method=m) for m in get_args(BoundMethod)]
    for looser, tighter in itertools.pairwise(bounds):
        finite = tighter.isfinite()
        assert bool((tighter >= looser - 1e-9)[finite].all())
        assert bool((tighter > looser + 1e-6)[finite].any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5])
def test_no_point_of_the_ball_makes_an_action_greedy_that_is_said_not_to_be(kind, epsilon):
    victim, ball = team(kind), LinfBall(epsilon=epsilon)
    rows = rows_of(victim)
    view, possible = rows.view(victim), possible_actions(victim, rows, ball)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        draw = torch.rand(rows.obs.shape, generator=generator, dtype=D)
        greedy = view.logits(rows.obs + epsilon * (2 * draw - 1)).argmax(-1, keepdim=True)
        assert bool(possible.gather(-1, greedy).all())
    assert not bool((possible & ~rows.rows.mask).any())
    alone = possible.sum(-1) == 1
    assert torch.equal(alone, certified(victim, rows, ball))
    assert bool(alone.all()) or epsilon > 0.0


def test_affine_networks_are_bounded_exactly():
    """The least lead of an affine map is its lead minus epsilon times the 1-norm of the rows."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 4, dtype=D)
    plan, obs = Plan.of(layer), torch.randn(6, 5, dtype=D)
    box = Interval(obs - 0.3, obs + 0.3)
    combinations = torch.randn(6, 2, 4, dtype=D)
    forward = interval_bounds(plan, box)
    lines = activation_lines(plan, box, forward)
    found = linear_lower_bounds(plan, box, combinations, lines)
    rows = combinations @ layer.weight
    exact = (combinations @ layer(obs).unsqueeze(-1)).squeeze(-1) - 0.3 * rows.abs().sum(-1)
    torch.testing.assert_close(found, exact)
    reached = forward[-1]
    torch.testing.assert_close(reached.low, layer(obs) - 0.3 * layer.weight.abs().sum(1))


def test_linear_bounds_are_tighter_than_intervals_on_small_balls():
    victim, ball = team("relu"), LinfBall(epsilon=0.05)
    rows = rows_of(victim)
    network, bound = victim.network, rows.rows
    plan, box = network.plan(), Interval(*ball.box(rows.obs))
    added = network.extra(bound.agents, None).added
    each = torch.eye(4, dtype=D)[None]
    reached = interval_bounds(plan, box, added)
    lines = activation_lines(plan, box, reached, added)
    linear = linear_lower_bounds(plan, box, each, lines, added)
    assert float((linear - reached[-1].low).mean().detach()) > 0.0
    of_each_row = linear_lower_bounds(plan, box, each.expand(len(rows), 4, 4), lines, added)
    torch.testing.assert_close(linear, of_each_row)


@pytest.mark.parametrize("method", get_args(BoundMethod))
def test_bounds_and_gradients_of_rows_are_those_of_fewer_rows(method, monkeypatch):
    """Whoever plays, and with memory: rows are bounded some at a time where they are many."""
    for kind in KINDS:
        victim, ball = team(kind), LinfBall(epsilon=0.1)
        rows = rows_of(victim)
        weights = list(victim.network.parameters())

        def bounded(victim=victim, rows=rows, ball=ball, weights=weights):
            found = margin_bounds(victim, rows, ball, method=method)
            total = found[found.isfinite()].sum()
            return found, torch.autograd.grad(total, weights, allow_unused=True)

        whole, gradient = bounded()
        with monkeypatch.context() as patch:
            patch.setattr(calculus_leads, "CACHED", 1)
            patch.setattr(calculus_leads, "LEAST_ROWS", 7)
            parts, of_parts = bounded()
        torch.testing.assert_close(parts, whole)
        for one, other in zip(of_parts, gradient, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


def test_padding_and_fixed_coordinates_do_not_move():
    victim = team("relu")
    rows = rows_of(victim)
    real = torch.ones(len(rows), 5, dtype=torch.bool)
    real[:, 3:] = False
    obs = torch.where(real, rows.obs, 0.0)
    padded = LossRows(obs=obs, rows=Rows(agents=rows.rows.agents, obs_mask=real))
    plain = LossRows(obs=obs, rows=Rows(agents=rows.rows.agents))
    fixed = LinfBall(epsilon=0.2, fixed=(False, False, False, True, True))
    one = margin_bounds(victim, padded, LinfBall(epsilon=0.2))
    torch.testing.assert_close(one, margin_bounds(victim, plain, fixed))


@pytest.mark.parametrize("hidden", [(8, 8), (8, 6)])
def test_rows_that_name_no_agent_are_the_first_agents(hidden):
    torch.manual_seed(0)
    victim = NetworkVictim(AgentNetwork(5, 3, 4, hidden=hidden).to(D), continuous=False)
    obs, ball = torch.randn(20, 5, dtype=D), LinfBall(epsilon=0.1)
    none = margin_bounds(victim, LossRows(obs=obs, rows=Rows()), ball)
    first = torch.zeros(20, dtype=torch.int64)
    torch.testing.assert_close(
        none, margin_bounds(victim, LossRows(obs=obs, rows=Rows(agents=first)), ball)
    )


def test_a_trained_teams_rows_are_certified_at_small_radii():
    game = envs.TwoStepGame()
    algorithm = algorithms.QMIX.for_env(game, seed=0)
    size = spec_of(game).obs_size
    rows = LossRows(obs=torch.eye(size)[:2], rows=Rows(agents=torch.tensor([0, 1])))
    assert certified(algorithm.victim(), rows, LinfBall(epsilon=0.0)).all()
    assert not certified(algorithm.victim(), rows, LinfBall(epsilon=100.0)).any()


def test_what_cannot_be_bounded_is_refused():
    rows = LossRows(obs=torch.zeros(2, 5))
    with pytest.raises(TypeError, match=r"margin_bounds\.victim must be a NetworkVictim"):
        margin_bounds(FunctionVictim(nn.Linear(5, 4)), rows, LinfBall(epsilon=0.1))
    continuous = NetworkVictim(AgentNetwork(5, 3, 4, continuous=True), continuous=True)
    with pytest.raises(ValueError, match="of discrete actions"):
        margin_bounds(continuous, rows, LinfBall(epsilon=0.1))
    computed = team("relu")
    nn.utils.parametrizations.weight_norm(computed.network.first)
    with pytest.raises(ValueError, match=r"after torch\.nn\.utils\.parametrize\.remove_par"):
        margin_bounds(computed, rows, LinfBall(epsilon=0.1))
    with pytest.raises(ValueError, match="5 numbers, the observation size"):
        margin_bounds(team("relu"), rows_of(team("relu")), LinfBall(epsilon=(0.1, 0.2)))
