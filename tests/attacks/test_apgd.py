"""APGD against its checkpoints, closed forms and PGD."""

import pytest
import torch
import torchattacks

from robustmarl.attacks import APGD, PGD, CrossEntropy, FunctionLoss
from robustmarl.attacks.apgd import _checkpoints
from robustmarl.budgets import LinfBall
from robustmarl.networks.layers import feed_forward
from robustmarl.testing.attacks import check_attack
from robustmarl.victims import FunctionVictim

BALL = LinfBall(epsilon=0.5)
NEAR = FunctionLoss(lambda mean: -(mean - 0.3).square().sum(-1))  # highest at .3


def itself(obs):
    return obs


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = feed_forward((6, 16, 16, 4), "tanh")
    for parameter in made.parameters():
        parameter.data.mul_(3.0)  # bent enough for steps to disagree
    return made


def mlp():
    return FunctionVictim(network()).at()


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_checkpoints_are_the_papers():
    """Of 100 iterations: 22, 41, 57, 70, 80, 87, 93, 99 (Croce and Hein, 2020, Sec. 3.2)."""
    assert [*_checkpoints(100)] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [*_checkpoints(100).values()] == [22, 19, 16, 13, 10, 7, 6, 6]


def test_two_actions_and_a_linear_victim_end_in_the_corner():
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]], dtype=torch.float64)
    obs = torch.tensor([[0.3, -0.7, 0.1], [-0.4, 0.9, 0.2]], dtype=torch.float64)
    label = (obs @ weight.T).argmax(-1)
    for steps in (1, 4, 20):
        found = APGD(ball=BALL, steps=steps)(FunctionVictim(lambda x: x @ weight.T).at(), obs)
        torch.testing.assert_close(found, obs - 0.5 * (weight[label] - weight[1 - label]).sign())


def test_steps_are_halved_until_a_maximum_inside_the_ball_is_met():
    """PGD's steps of .125 swing about it, and stop where the last one left them."""
    view = FunctionVictim(itself, continuous=True).at()
    obs = torch.zeros(1, 1, dtype=torch.float64)
    assert float(APGD(ball=BALL, steps=40, loss=NEAR)(view, obs)) == pytest.approx(0.3, abs=0.01)
    assert abs(float(PGD(ball=BALL, loss=NEAR)(view, obs)) - 0.3) > 0.04


def test_by_hand():
    """From 0 with steps of 1 in a ball of 2; checkpoints of 10 steps are 3, 5, 6, 7, 8, 9.

    x_1 = 1; then z = 0, and x_2 = 1 - .75 + .25 = .5, below the peak at .6, where x_1's loss was
    lower, x_0's too; x_3 = .5 + .75 - .125 = 1.125. At the checkpoint two of three steps raised
    the loss (x_1 and x_2), fewer than .75 * 3: on from .5, the best one, with steps of .5.
    """
    peak = FunctionLoss(lambda mean: -(mean - 0.6).abs().sum(-1))
    view = FunctionVictim(itself, continuous=True).at()
    obs = torch.zeros(1, 1, dtype=torch.float64)
    ball = LinfBall(epsilon=2.0)
    visited = []

    class Spied(APGD):
        def step(self, walk):
            visited.append(float(walk.found))
            super().step(walk)

    Spied(ball=ball, steps=10, step_size=1.0, loss=peak)(view, obs)
    # x_4 = .5 + .75 * .5 + .25 (.5 - x_2), and x_2 is .5 itself
    assert visited[:5] == pytest.approx([0.0, 1.0, 0.5, 1.125, 0.875])


def test_one_step_is_fgsm():
    obs = normal(64, 6)
    assert torch.equal(APGD(ball=BALL, steps=1)(mlp(), obs), PGD.fgsm(BALL)(mlp(), obs))


def test_a_run_never_ends_below_its_start_and_finds_more_than_pgd():
    view, obs = mlp(), normal(256, 6)
    loss = CrossEntropy(view.logits(obs).argmax(-1))
    clean, pgd, apgd = (
        loss(view.logits(x))
        for x in (obs, PGD(ball=BALL, steps=20)(view, obs), APGD(ball=BALL)(view, obs))
    )
    assert bool((apgd >= clean).all())
    assert apgd.mean() > pgd.mean()


def test_random_answers_are_averaged():
    """Of three gradients two point left, but the third is longest: directions are of norm 1."""

    class Told:
        continuous, mask, agents = True, None, None
        left = [torch.tensor([[x]]) for x in (-1.0, 5.0, -1.0)]  # noqa: RUF012

        def input_gradient(self, obs, loss):
            return self.left.pop()

        def output(self, obs):
            return obs

    attack = APGD(ball=BALL, steps=1, samples=3, loss=FunctionLoss(lambda mean: -mean.sum(-1)))
    assert attack(Told(), torch.zeros(1, 1)).item() == -0.5


def test_the_loss_is_that_of_the_point_reached_however_often_views_ask_for_its_gradient():
    class Asking:
        continuous, mask, agents = True, None, None

        def __init__(self, before):
            self.view, self.before = mlp(), before

        def input_gradient(self, obs, loss):
            for decoy in self.before:
                loss.gradient(decoy * self.view.output(obs))
            return self.view.input_gradient(obs, loss)

        def output(self, obs):
            return self.view.output(obs)

    obs, attack = normal(50, 6), APGD(ball=BALL, loss=NEAR)
    once, often = (attack(Asking(before), obs) for before in ([], [-1.0, 5.0]))
    assert torch.equal(once, often)
    assert torch.equal(once, attack(mlp(), obs))


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
def test_observations_keep_their_type(loss):
    obs, attack = normal(50, 6), APGD(ball=BALL, loss=loss)
    exact = attack(FunctionVictim(network().double()).at(), obs)
    assert exact.dtype == torch.float32
    assert torch.isclose(exact, attack(mlp(), obs)).float().mean() > 0.9


@pytest.mark.parametrize(
    "settings",
    [{}, {"random_start": True, "restarts": 2}, {"target": 1, "loss": "dlr"}, {"samples": 2}],
)
def test_contract(settings):
    check_attack(lambda epsilon: APGD(ball=LinfBall(epsilon=epsilon), steps=6, **settings))


@pytest.mark.parametrize("loss", ["dlr", "kl", "expected"])
def test_contract_of_losses(loss):
    """In float64: of saturated rows KL sees nothing but rounding otherwise."""
    exact = network().double()
    check_attack(
        lambda eps: APGD(ball=LinfBall(epsilon=eps), steps=6, loss=loss, random_start=True),
        victim=FunctionVictim(lambda obs: exact(obs.double()).to(obs.dtype)),
    )


def test_rejects():
    with pytest.raises(ValueError, match=r"APGD\.samples must be an int >= 1, got 0\."):
        APGD(ball=BALL, samples=0)
    with pytest.raises(ValueError, match=r"APGD\.loss must be able to move .* got 'kl'"):
        APGD(ball=BALL, loss="kl")
    with pytest.raises(ValueError, match=r"APGD\.target must be None where the loss is a critic"):
        APGD(ball=BALL, loss="expected", target=1)


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
def test_follows_the_authors_code(loss):
    """As torchattacks has it: the same points, but for rows in which one of its details decides.

    It compares the first loss with one of zero, and takes three quarters of the steps exactly for
    too few.
    """
    exact = network().double()
    obs = torch.rand(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = torchattacks.APGD(
        torch.nn.Sequential(torch.nn.Flatten(), exact),
        eps=0.2,
        steps=100,
        loss={"cross_entropy": "ce"}.get(loss, loss),
    )
    label = exact(obs).argmax(-1)
    torch.manual_seed(1)
    found, _, highest, _ = theirs.attack_single_run(obs.view(64, 1, 1, 6), label)
    torch.manual_seed(1)
    noise = 2.0 * torch.rand(64, 1, 1, 6).view(64, 6) - 1.0

    class SameStart(APGD):
        def start(self, view, obs, draws):
            return self.ball.project(obs + 0.2 * noise / noise.abs().amax(-1, keepdim=True), obs)

    ball = LinfBall(epsilon=0.2, low=0.0, high=1.0)
    attack = SameStart(ball=ball, steps=100, loss=loss, random_start=True)
    ours = attack(FunctionVictim(exact).at(), obs)
    same = ((ours - found.view(64, 6)).abs() < 1e-6).all(-1)
    assert same.double().mean() > 0.95  # 1 and .98; wrong constants leave .9 or .3
    value = attack.output_loss(FunctionVictim(exact).at(), obs)(exact(ours))
    torch.testing.assert_close(value.mean(), highest.mean().double(), rtol=1e-2, atol=1e-3)
