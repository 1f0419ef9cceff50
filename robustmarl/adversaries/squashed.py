"""A director of continuous actions: it draws vectors from a squashed Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check, check_flag, check_kind
from robustmarl._seeding import Draws
from robustmarl.joint import TeamSpec
from robustmarl.networks.gaussian import bounded_log_std
from robustmarl.networks.squashed import SquashedNetwork, squashed_log_density, unsquashed
from robustmarl.policies import TeamPolicy

__all__ = ["SquashedDirector"]


class SquashedDirector(TeamPolicy):
    r"""Targets :math:`\hat a = \tanh u`, :math:`u \sim N(\mu(o), \sigma(o)^2)`, for every agent.

    A policy that names actions for others and takes none: what attacks ask of a victim, its mean,
    is half of its outputs.

    Args:
        spec: the team's that it attacks; continuous actions.
        network: means and log standard deviations, (..., 2A).
        deterministic_eval: name :math:`\tanh \mu` outside training.
    """

    network: SquashedNetwork

    def __init__(
        self, spec: TeamSpec, network: SquashedNetwork, deterministic_eval: bool = False
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.network", network, SquashedNetwork, "a SquashedNetwork")
        super().__init__(spec, network)
        check(spec.continuous, f"{name}.spec", "of continuous actions", "one of discrete actions")
        self.deterministic_eval = check_flag(f"{name}.deterministic_eval", deterministic_eval)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return targets (E, N, A), and their log-densities (E, N)."""
        mean, _ = self.halves(output)
        noise = None
        if training or not self.deterministic_eval:
            noise = draws.normal(mean.shape[1] * mean.shape[2]).view(mean.shape)
        return self.named(output, noise)

    def named(self, output: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return targets (..., N, A) and their log-densities (..., N), with gradient.

        Args:
            output: of the network, (..., N, 2A).
            noise: standard normal, (..., N, A); None names the squashed means.
        """
        mean, log_std = self.halves(output)
        u = mean if noise is None else mean + noise * log_std.exp()
        logp = self.without_padding(squashed_log_density(u, mean, log_std)).sum(dim=-1)
        return self.without_padding(torch.tanh(u)), logp

    def log_prob(self, output: Tensor, act: Tensor) -> Tensor:
        """Return log-densities (..., N) of targets ``act`` (..., N, A), given outputs."""
        each = squashed_log_density(unsquashed(act), *self.halves(output))
        return self.without_padding(each).sum(dim=-1)

    def halves(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations, (..., A) each, of outputs (..., 2A)."""
        mean, log_std = output.chunk(2, dim=-1)
        return mean, bounded_log_std(log_std)
