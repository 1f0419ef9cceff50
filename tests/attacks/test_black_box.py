"""Random search finds closed forms, and what a masked gradient hides."""

import pytest
import torch

from robustmarl.attacks import APGD, PGD, Margin, RandomSearch, SquareSearch
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


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_where_nothing_is_gained(kind):
    view = FunctionVictim(lambda obs: obs * 0.0).at()
    assert torch.equal(kind(ball=BALL, queries=20, loss="margin")(view, OBS), OBS)


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@pytest.mark.parametrize("attack", [*KINDS, APGD])
def test_nothing_is_changed_where_there_is_no_choice(attack, loss):
    """All other actions are unavailable, whatever the logit of the one that is left."""
    torch.manual_seed(0)
    mask = torch.tensor([[False, True], [True, True]])
    view = FunctionVictim(lambda obs: obs @ WEIGHT.T).at(Rows(mask=mask))
    found = attack(ball=BALL, loss=loss, restarts=3)(view, OBS)
    assert (found != OBS).any(-1).tolist() == [False, True]


def test_the_share_of_coordinates_moved_shrinks():
    attack = SquareSearch(ball=BALL, share=0.8)
    points = [attack._share_at(way) for way in (0.0, 0.0015, 0.3, 0.9)]
    assert points == pytest.approx([0.8, 0.4, 0.8 / 2**6, 0.8 / 2**9])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"target": 1, "loss": "margin"}, {"restarts": 2}])
def test_contract(kind, settings):
    check_attack(lambda eps: kind(ball=LinfBall(epsilon=eps), queries=30, **settings))


def test_rejects():
    with pytest.raises(ValueError, match=r"RandomSearch\.queries must be an int >= 1, got 0\."):
        RandomSearch(ball=BALL, queries=0)
    with pytest.raises(ValueError, match=r"SquareSearch\.share must be a number in \(0, 1\]"):
        SquareSearch(ball=BALL, share=0.0)
    with pytest.raises(TypeError, match=r"SquareSearch\.ball must be a LinfBall"):
        SquareSearch(ball=0.5)
