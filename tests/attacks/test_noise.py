"""Noise: moments, budgets, and that nobody is asked."""

import math

import pytest
import torch

from robustmarl._seeding import Draws
from robustmarl.attacks import GaussianNoise, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.testing.attacks import check_attack

EPSILON = 0.25


class Unaskable:
    def __getattr__(self, name):
        raise AssertionError(f"noise asked the victim for {name}")


def draws(rows, seed=0):
    return Draws(torch.arange(rows) * 7919 + seed)


def test_uniform_moments_without_asking_the_victim():
    """400,000 draws: mean 0 +- 2e-3, variance eps^2 / 3 = .020833."""
    obs = torch.zeros(4000, 100)
    delta = UniformNoise(ball=LinfBall(epsilon=EPSILON))(Unaskable(), obs, draws(4000))

    assert abs(delta.mean().item()) < 2e-3
    assert delta.var().item() == pytest.approx(EPSILON**2 / 3, rel=0.01)
    assert delta.abs().max() <= EPSILON
    assert delta.unique().numel() > 380_000  # rows and coordinates differ


def test_gaussian_moments_without_asking_the_victim():
    """Clipping N(0, s^2) at 2 s keeps the mean at 0 and .7737 of the variance."""
    obs = torch.zeros(4000, 100)
    delta = GaussianNoise(ball=LinfBall(epsilon=EPSILON))(Unaskable(), obs, draws(4000))

    tail = 1 - math.erf(2 / math.sqrt(2))
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = (1 - tail) - 4 * density + 4 * tail
    assert abs(delta.mean().item()) < 2e-3
    assert delta.var().item() == pytest.approx(variance * (EPSILON / 2) ** 2, rel=0.01)
    assert (delta.abs() == EPSILON).float().mean().item() == pytest.approx(tail, rel=0.05)


def test_gaussian_std_per_coordinate():
    ball = LinfBall(epsilon=100.0)
    delta = GaussianNoise(ball=ball, std=(0.0, 1.0, 3.0))(
        None, torch.zeros(20_000, 3), draws(20_000)
    )

    assert delta[:, 0].abs().max() == 0.0
    torch.testing.assert_close(delta.std(0)[1:], torch.tensor([1.0, 3.0]), rtol=0.03, atol=0)


@pytest.mark.parametrize("kind", [UniformNoise, GaussianNoise])
def test_contract(kind):
    check_attack(lambda epsilon: kind(ball=LinfBall(epsilon=epsilon)))


@pytest.mark.parametrize("kind", [UniformNoise, GaussianNoise])
def test_draws_differ_between_rows_and_seeds_and_repeat_with_them(kind):
    attack, obs = kind(ball=LinfBall(epsilon=1.0)), torch.zeros(5, 4)
    one = attack(None, obs, draws(5))

    assert torch.equal(one, attack(None, obs, draws(5)))
    assert not torch.isclose(one, attack(None, obs, draws(5, seed=1))).any()
    assert not torch.isclose(one[0], one[1]).any()


@pytest.mark.parametrize("kind", [UniformNoise, GaussianNoise])
def test_without_draws_torchs_generator_decides(kind):
    attack, obs = kind(ball=LinfBall(epsilon=1.0)), torch.zeros(5, 4)
    torch.manual_seed(3)
    one = attack(None, obs)
    torch.manual_seed(3)

    assert torch.equal(one, attack(None, obs))
    assert not torch.equal(one, attack(None, obs))


def test_rejects_a_negative_std():
    with pytest.raises(ValueError, match=r"GaussianNoise\.std must be a number >= 0"):
        GaussianNoise(ball=LinfBall(epsilon=0.1), std=-1.0)
