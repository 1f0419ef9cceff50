"""Squashed Gaussians: against numeric integration, and where tanh is 1 to the last bit."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from robustmarl.networks.squashed import SquashedNetwork, squashed_log_density, unsquashed

DOUBLE = {"dtype": torch.float64}


def density(a, mean, std):
    """Return the density of a = tanh u at one number."""
    u, one = torch.tensor(math.atanh(a), **DOUBLE), torch.tensor(math.log(std), **DOUBLE)
    return math.exp(squashed_log_density(u, torch.tensor(mean, **DOUBLE), one))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.8), (0.2, 2.0)])
def test_it_is_a_density_and_that_of_the_gaussian_before(mean, std):
    """It integrates to 1; up to x as the Gaussian does up to atanh x."""
    ends = -1 + 1e-12, 1 - 1e-12
    whole, _ = quad(density, *ends, args=(mean, std), limit=400, points=(-0.99, 0.0, 0.99))
    assert whole == pytest.approx(1.0, abs=1e-4)
    for x in (-0.6, 0.1, 0.8):
        part, _ = quad(density, ends[0], x, args=(mean, std), limit=400, points=(-0.99,))
        assert part == pytest.approx(norm.cdf((math.atanh(x) - mean) / std), abs=1e-4)


def test_its_entropy_is_that_of_the_gaussian_less_the_stretching():
    """H = H_gauss + E log(1 - tanh^2 u), by drawing and by integration."""
    mean, std = 0.4, 0.6
    u = mean + std * torch.randn(400_000, generator=torch.Generator().manual_seed(0), **DOUBLE)
    drawn = -squashed_log_density(u, torch.tensor(mean), torch.tensor(math.log(std)))
    stretch, _ = quad(lambda x: norm.pdf(x, mean, std) * math.log(1 - math.tanh(x) ** 2), -5.0, 5.0)
    exact = 0.5 * math.log(2 * math.pi * math.e) + math.log(std) + stretch
    assert float(drawn.mean()) == pytest.approx(exact, abs=5e-3)


@pytest.mark.parametrize("u", [-60.0, -20.0, 20.0, 60.0])
def test_nothing_is_lost_where_tanh_is_one(u):
    """log(1 - tanh^2 u) is log 4 - 2 |u| there, in float32, and has its slope."""
    point = torch.tensor(u, requires_grad=True)
    found = squashed_log_density(point, torch.tensor(u), torch.tensor(0.0))
    exact = -0.5 * math.log(2 * math.pi) - math.log(4.0) + 2 * abs(u)
    assert float(found.detach()) == pytest.approx(exact, rel=1e-5)
    found.backward()
    assert float(point.grad) == pytest.approx(2.0 * math.copysign(1.0, u), rel=1e-6)


def test_ends_count_as_a_little_inside():
    found = unsquashed(torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.7]))
    edge = math.atanh(0.999)
    assert found.tolist() == pytest.approx([-edge, 0.0, math.atanh(0.5), edge, edge], rel=1e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_network_has_a_mean_and_a_deviation_for_each_coordinate(recurrent):
    torch.manual_seed(0)
    network = SquashedNetwork(
        3, 2, 4, hidden=(8,), recurrent=recurrent, last_action=True, output_gain=0.01
    )
    obs, last = torch.randn(5, 6, 2, 3), torch.randn(5, 6, 2, 4)
    output, _ = network.unroll(obs, last)
    assert output.shape == (5, 6, 2, 8)
    assert network.log_std is None
    assert float(output.detach().abs().max()) < 0.2
    step, hidden = network.step(obs[:, 0], network.extra(network.team, last[:, 0]), None)
    torch.testing.assert_close(step, output[:, 0])
    assert (hidden is not None) is recurrent
