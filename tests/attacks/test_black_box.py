"""Random search finds closed forms, and what a masked gradient hides."""

from dataclasses import replace

import pytest
import torch

from robustmarl._seeding import Draws
from robustmarl.attacks import APGD, PGD, SPSA, Margin, RandomSearch, SquareSearch
from robustmarl.budgets import LinfBall
from robustmarl.testing.attacks import check_attack
from robustmarl.victims import FunctionVictim, Rows

BALL = LinfBall(epsilon=0.5)
WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]], dtype=torch.float64)
OBS = torch.tensor([[0.3, -0.7, 0.1], [-0.4, 0.9, 0.2]], dtype=torch.float64)
KINDS = (RandomSearch, SquareSearch)


def quantised(obs):
    return torch.round(obs * 4) / 4 @ WEIGHT.T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [lambda x: x @ WEIGHT.T, quantised])
def test_the_worst_corner_of_a_linear_victim_is_found(kind, function):
    """Also through rounding, which has no gradient: PGD stays where it is."""
    torch.manual_seed(0)
    view = FunctionVictim(function).at()
    label = view.logits(OBS).argmax(-1)
    corner = OBS - 0.5 * (WEIGHT[label] - WEIGHT[1 - label]).sign()
    found = kind(ball=BALL, queries=200, loss="margin")(view, OBS)
    loss = Margin(label)
    # of a step function many points are as good as the corner
    torch.testing.assert_close(loss(view.logits(found)), loss(view.logits(corner)))
    if function is quantised:
        assert torch.equal(PGD(ball=BALL)(view, OBS), OBS)
    else:
        torch.testing.assert_close(found, corner)


@pytest.mark.parametrize("lead", [10.0, 60.0, 120.0, 1000.0])
@pytest.mark.parametrize("attack", [*(kind(ball=BALL) for kind in KINDS), SPSA(ball=BALL)])
def test_how_sure_the_victim_is_does_not_matter(attack, lead):
    """Adding a number to a logit changes the margin by it, and hides nothing."""
    obs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    weight = WEIGHT.float()

    def found(lead, attack=attack):
        view = FunctionVictim(lambda x: x @ weight.T + torch.tensor([lead, 0.0])).at()
        return attack(view, obs, Draws(torch.arange(20)))

    way = found(lead) - obs
    assert (way @ (weight[1] - weight[0]) > 0.3 * 0.5 * (weight[1] - weight[0]).abs().sum()).all()
    assert torch.equal(found(lead), found(lead, replace(attack, loss="margin")))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_where_nothing_is_gained(kind):
    view = FunctionVictim(lambda obs: obs * 0.0).at()
    assert torch.equal(kind(ball=BALL, queries=20, loss="margin")(view, OBS), OBS)
    assert torch.equal(SPSA(ball=BALL, loss="margin")(view, OBS), OBS)


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@pytest.mark.parametrize("attack", [*KINDS, SPSA, APGD])
def test_nothing_is_changed_where_there_is_no_choice(attack, loss):
    """All other actions are unavailable, whatever the logit of the one that is left."""
    torch.manual_seed(0)
    mask = torch.tensor([[False, True], [True, True]])
    view = FunctionVictim(lambda obs: obs @ WEIGHT.T).at(Rows(mask=mask))
    found = attack(ball=BALL, loss=loss, restarts=3)(view, OBS)
    assert (found != OBS).any(-1).tolist() == [False, True]


def linear(weight):
    """Return a victim whose margin towards action 1 is linear in its observation."""
    return FunctionVictim(lambda obs: torch.stack([0.0 * obs[:, 0], obs @ weight], dim=-1)).at()


def test_spsa_estimates_the_gradient_of_a_linear_loss():
    """Its mean is the gradient, its variance the sum over the others' squares; both per radius."""
    radius = torch.tensor([0.5, 0.1, 0.2, 0.0], dtype=torch.float64)
    weight = torch.tensor([1.0, -4.0, 3.0, 7.0], dtype=torch.float64)
    rows, pairs = 20_000, 2
    obs = torch.zeros(rows, 4, dtype=torch.float64)
    attack = SPSA(ball=LinfBall(epsilon=tuple(radius.tolist())), pairs=pairs, loss="margin")
    torch.manual_seed(0)
    draws = Draws.fresh(rows, obs.device)
    loss = Margin(torch.ones(rows, dtype=torch.int64), targeted=True)
    found = attack.slope(linear(weight), obs, obs, loss, draws)
    slope = weight * radius
    variance = (slope.square().sum() - slope.square()) / pairs
    error = (variance / rows).sqrt()
    assert ((found.mean(0) - slope).abs() < 5.0 * error).all()
    torch.testing.assert_close(found.var(0), variance, rtol=0.05, atol=0.0)


def test_spsa_of_one_coordinate_is_the_derivative():
    obs = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64).unsqueeze(-1)
    attack = SPSA(ball=BALL, pairs=1, probe=0.2)
    loss = Margin(torch.ones(5, dtype=torch.int64), targeted=True)
    view = linear(torch.tensor([-3.0], dtype=torch.float64))
    found = attack.slope(view, obs, obs, loss, Draws.fresh(5, obs.device))
    torch.testing.assert_close(found, torch.full_like(obs, -3.0 * 0.5))


def test_spsa_steps_are_adams():
    """Of a constant gradient Adam takes steps of full length: two of .3 radii, cut at the ball."""
    view = linear(torch.tensor([2.0], dtype=torch.float64))
    obs = torch.full((1, 1), -5.0, dtype=torch.float64)
    for steps, reached in ((1, 0.3), (2, 0.6), (4, 1.0)):
        attack = SPSA(ball=BALL, steps=steps, step_size=0.3, loss="margin")
        torch.testing.assert_close(attack(view, obs), obs + 0.5 * reached)


def test_spsa_reaches_the_corner_of_a_linear_victim():
    weight = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = weight.sign() + weight
    view, obs = linear(weight), torch.zeros(4, 30, dtype=torch.float64) - weight.sign()
    torch.manual_seed(0)
    found = SPSA(ball=BALL, steps=30, pairs=60, loss="margin")(view, obs)
    torch.testing.assert_close(found, obs + 0.5 * weight.sign())


def test_spsa_finds_what_rounding_hides():
    """A probe as wide as a step sees past it; nothing outside the ball is asked about."""
    asked = []

    def rounded(obs):
        asked.append(obs)
        return quantised(obs)

    torch.manual_seed(0)
    view = FunctionVictim(rounded).at()
    label = view.logits(OBS).argmax(-1)
    corner = OBS - 0.5 * (WEIGHT[label] - WEIGHT[1 - label]).sign()
    found = SPSA(ball=BALL, steps=20, pairs=32, probe=0.5, loss="margin")(view, OBS)
    loss = Margin(label)
    torch.testing.assert_close(loss(quantised(found)), loss(quantised(corner)))
    assert all(((obs - OBS).abs() <= 0.5 + 1e-12).all() for obs in asked)


def test_the_share_of_coordinates_moved_shrinks():
    attack = SquareSearch(ball=BALL, share=0.8)
    points = [attack._share_at(way) for way in (0.0, 0.0015, 0.3, 0.9)]
    assert points == pytest.approx([0.8, 0.4, 0.8 / 2**6, 0.8 / 2**9])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"target": 1, "loss": "margin"}, {"restarts": 2}])
def test_contract(kind, settings):
    check_attack(lambda eps: kind(ball=LinfBall(epsilon=eps), queries=30, **settings))


@pytest.mark.parametrize("settings", [{}, {"target": 1, "loss": "margin"}, {"restarts": 2}])
def test_contract_of_spsa(settings):
    check_attack(lambda eps: SPSA(ball=LinfBall(epsilon=eps), steps=3, pairs=2, **settings))


def test_rejects():
    with pytest.raises(ValueError, match=r"SPSA\.pairs must be an int >= 1, got 0\."):
        SPSA(ball=BALL, pairs=0)
    with pytest.raises(ValueError, match=r"SPSA\.probe must be a number in \(0, 1\]"):
        SPSA(ball=BALL, probe=2.0)
    with pytest.raises(ValueError, match=r"SPSA\.step_size must be a number > 0"):
        SPSA(ball=BALL, step_size=0.0)
    with pytest.raises(ValueError, match=r"RandomSearch\.queries must be an int >= 1, got 0\."):
        RandomSearch(ball=BALL, queries=0)
    with pytest.raises(ValueError, match=r"SquareSearch\.share must be a number in \(0, 1\]"):
        SquareSearch(ball=BALL, share=0.0)
    with pytest.raises(TypeError, match=r"SquareSearch\.ball must be a LinfBall"):
        SquareSearch(ball=0.5)
