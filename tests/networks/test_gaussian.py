"""Densities and entropies against torch's."""

import torch
from torch.distributions import Normal

from robustmarl import algorithms, budgets, envs, perturbers
from robustmarl.adversaries.squashed import SquashedDirector
from robustmarl.networks.gaussian import (
    bounded_log_std,
    gaussian_entropy,
    gaussian_log_density,
)
from robustmarl.networks.squashed import SquashedNetwork


def test_density_and_entropy_are_those_of_torchs_normal():
    torch.manual_seed(0)
    sample, mean = torch.randn(2, 5, 3, dtype=torch.float64)
    log_std = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    normal = Normal(mean, log_std.exp())
    torch.testing.assert_close(gaussian_log_density(sample, mean, log_std), normal.log_prob(sample))
    torch.testing.assert_close(gaussian_entropy(log_std), normal.entropy()[0])


def test_inside_the_bounds_it_is_a_clamp_gradients_and_all():
    log_std = torch.linspace(-5.0, 2.0, 50)
    upstream = torch.randn(50, generator=torch.Generator().manual_seed(0))
    found = []
    for bounded in (bounded_log_std, lambda x: x.clamp(-5.0, 2.0)):
        given = log_std.clone().requires_grad_()
        values = bounded(given)
        values.backward(upstream)
        found.append((values.detach(), given.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_outside_gradients_that_lead_back_pass():
    log_std = torch.tensor([2.1, 2.1, -5.1, -5.1], requires_grad=True)
    values = bounded_log_std(log_std)
    assert values.tolist() == [2.0, 2.0, -5.0, -5.0]
    values.backward(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert log_std.grad.tolist() == [1.0, 0.0, 0.0, -1.0]  # a step goes against them


def test_a_deviation_that_grew_too_large_shrinks_again():
    log_std = torch.full((3,), 2.5, requires_grad=True)
    optim = torch.optim.SGD([log_std], lr=0.1)
    for _ in range(20):
        optim.zero_grad()
        bounded = bounded_log_std(log_std)
        (-gaussian_log_density(torch.zeros(3), torch.zeros(3), bounded).sum()).backward()
        optim.step()
    assert bool((log_std < 1.0).all())


def test_so_it_is_wherever_a_deviation_is_learned():
    env = envs.spread(agents=2, continuous_actions=True)
    team = algorithms.MAPPO.for_env(env, hidden=(4,)).policy
    actor = perturbers.GaussianObsAdversary(budgets.LinfBall(epsilon=0.1), 3, hidden=(4,))
    size = team.spec.num_actions
    network = SquashedNetwork(team.spec.obs_size, 2, size, hidden=(4,))
    director = SquashedDirector(team.spec, network)
    output = torch.cat([torch.zeros(2, size), torch.full((2, size), 2.5)], dim=-1).requires_grad_()
    with torch.no_grad():
        for given in (team.network.log_std, actor.log_std):
            given.fill_(2.5)
    (-team.log_prob(torch.zeros(2, size), torch.zeros(2, size)).mean()).backward()
    (-actor.log_prob(torch.zeros(1, 3), actor.mean(torch.zeros(1, 3)).detach()).mean()).backward()
    (-director.log_prob(output, torch.zeros(2, size)).mean()).backward()
    for gradient in (team.network.log_std.grad, actor.log_std.grad, output.grad[:, size:]):
        assert bool((gradient > 0.0).all())
