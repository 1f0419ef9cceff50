"""Densities and entropies against torch's."""

import torch
from torch.distributions import Normal

from robustmarl.networks.gaussian import gaussian_entropy, gaussian_log_density


def test_density_and_entropy_are_those_of_torchs_normal():
    torch.manual_seed(0)
    sample, mean = torch.randn(2, 5, 3, dtype=torch.float64)
    log_std = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    normal = Normal(mean, log_std.exp())
    torch.testing.assert_close(gaussian_log_density(sample, mean, log_std), normal.log_prob(sample))
    torch.testing.assert_close(gaussian_entropy(log_std), normal.entropy()[0])
