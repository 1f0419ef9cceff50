"""MI-FGSM against its equations, FGSM and PGD."""

import pytest
import torch

from robustmarl.attacks import MIFGSM, PGD
from robustmarl.budgets import LinfBall
from robustmarl.networks.layers import feed_forward
from robustmarl.testing.attacks import check_attack
from robustmarl.victims import FunctionVictim

BALL = LinfBall(epsilon=0.5)


class Told:
    """A view whose gradients are given, one per step."""

    continuous, mask, agents = False, None, None

    def __init__(self, *gradients):
        self.gradients = [torch.tensor(rows, dtype=torch.float64) for rows in gradients]

    def input_gradient(self, obs, loss):
        return self.gradients.pop(0)


def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = feed_forward((6, 16, 16, 4), "tanh")
    for parameter in network.parameters():
        parameter.data.mul_(3.0)  # bent enough for steps to disagree
    return FunctionVictim(network).at()


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_two_actions_and_a_linear_victim_end_in_the_corner():
    """The gradient never turns: o - eps sign(w_y - w_other), in any number of steps."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]], dtype=torch.float64)
    obs = torch.tensor([[0.3, -0.7, 0.1], [-0.4, 0.9, 0.2]], dtype=torch.float64)
    label = (obs @ weight.T).argmax(-1)

    for steps in (1, 4, 10):
        found = MIFGSM(ball=BALL, steps=steps)(FunctionVictim(lambda x: x @ weight.T).at(), obs)
        torch.testing.assert_close(found, obs - 0.5 * (weight[label] - weight[1 - label]).sign())


def test_momentum_accumulates_gradients_of_norm_one():
    """Rows of any scale: g = (.25, .75), then (-.25, .5) + g / 2 = ..., worked out by hand.

    Row 0, decay 1/2: units (.25, .75), (-.5, -.5), (.75, .25) give g = (.25, .75), (-.375, -.125),
    (.5625, .1875): steps ++, --, ++. Row 1 is 1000 times row 0 in its first step, and turns in
    its second one: units (.25, .75), (-.9, .1) give (.25, .75), (-.775, .475); then zero
    gradient, and it goes on as before.
    """
    view = Told(
        [[1.0, 3.0], [1e3, 3e3]],
        [[-2.0, -2.0], [-9.0, 1.0]],
        [[0.03, 0.01], [0.0, 0.0]],
    )
    obs = torch.zeros(2, 2, dtype=torch.float64)

    found = MIFGSM(ball=BALL, steps=3, step_size=0.1, decay=0.5)(view, obs)
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.1], [-0.1, 0.3]], dtype=torch.float64))


def test_a_row_without_gradient_stays():
    found = MIFGSM(ball=BALL, steps=2)(Told(*[[[0.0, 0.0]]] * 2), torch.ones(1, 2).double())

    assert torch.equal(found, torch.ones(1, 2).double())


def test_one_step_is_fgsm():
    assert torch.equal(
        MIFGSM(ball=BALL, steps=1)(mlp(), normal(64, 6)), PGD.fgsm(BALL)(mlp(), normal(64, 6))
    )


def test_without_momentum_it_is_pgd_of_the_same_steps():
    pgd = PGD(ball=BALL, steps=8, step_size=0.5 / 8)(mlp(), normal(64, 6))

    assert torch.equal(MIFGSM(ball=BALL, steps=8, decay=0.0)(mlp(), normal(64, 6)), pgd)
    assert not torch.equal(MIFGSM(ball=BALL, steps=8)(mlp(), normal(64, 6)), pgd)


def test_default_steps_cover_the_radius_of_each_coordinate():
    attack = MIFGSM(ball=LinfBall(epsilon=(0.4, 0.8)), steps=4)

    found = attack(Told(*[[[1.0, -1.0]]] * 4), torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[0.4, -0.8]], dtype=torch.float64))


@pytest.mark.parametrize("settings", [{}, {"random_start": True, "restarts": 2}, {"target": 1}])
def test_contract(settings):
    check_attack(lambda epsilon: MIFGSM(ball=LinfBall(epsilon=epsilon), **settings))


def test_rejects():
    with pytest.raises(ValueError, match=r"MIFGSM\.decay must be a number >= 0, got -1\."):
        MIFGSM(ball=BALL, decay=-1.0)
    with pytest.raises(ValueError, match=r"MIFGSM\.steps must be an int >= 1, got 0\."):
        MIFGSM(ball=BALL, steps=0)
