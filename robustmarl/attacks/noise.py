"""Random noise: the attack that knows nothing, and every table's reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from robustmarl._checks import check_kind, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.base import draws_of
from robustmarl.budgets import Coordinates, LinfBall, check_coordinates
from robustmarl.victims import VictimView

__all__ = ["GaussianNoise", "UniformNoise"]


@dataclass(frozen=True, kw_only=True)
class UniformNoise:
    r"""Uniform noise :math:`\delta_d \sim U[-\epsilon_d, \epsilon_d]`: "RN" of ATSA's tables.

    Args:
        ball: what may change; ``epsilon`` in observation units.

    Example:
        >>> UniformNoise(ball=LinfBall(epsilon=0.25)).with_epsilon(0.5).ball.epsilon
        0.5
    """

    ball: LinfBall = field(kw_only=False)
    needs_victim: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kind("UniformNoise.ball", self.ball, LinfBall, "a LinfBall")

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same noise at another radius."""
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return noisy observations (M, D); ``view`` is not queried."""
        self.ball.check_size("UniformNoise", obs.shape[-1])
        if self.ball.is_zero:
            return obs.detach()
        draws = draws_of("UniformNoise", draws, obs)
        return self.ball.sample(obs.detach(), draws)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    r"""Normal noise clipped to the ball, :math:`clip(N(0, \sigma^2), -\epsilon, \epsilon)`.

    Args:
        ball: what may change; ``epsilon`` in observation units.
        std: :math:`\sigma`, observation units, >= 0, one number or one per coordinate; None is
            half the radius, so that 95 % of the draws need no clipping. Kept by ``with_epsilon``
            when given.

    Raises:
        ValueError: for a negative or NaN ``std``.
        TypeError: for a ``std`` that is not made of numbers.

    Example:
        >>> obs, ball = torch.zeros(1000, 4), LinfBall(epsilon=0.5)
        >>> shown = GaussianNoise(ball=ball, std=10.0)(None, obs)  # nearly all of it is clipped
        >>> shown.min(), shown.max()
        (tensor(-0.5000), tensor(0.5000))
    """

    ball: LinfBall = field(kw_only=False)
    std: Coordinates | None = None
    needs_victim: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_kind("GaussianNoise.ball", self.ball, LinfBall, "a LinfBall")
        if self.std is not None:
            keep(self, std=check_coordinates("GaussianNoise.std", self.std, 0.0))

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same noise at another radius."""
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return noisy observations (M, D); ``view`` is not queried."""
        self.ball.check_size("GaussianNoise", obs.shape[-1])
        if self.ball.is_zero:
            return obs.detach()
        draws = draws_of("GaussianNoise", draws, obs)
        clean = obs.detach()
        std = self.ball.radius(clean) / 2 if self.std is None else clean.new_tensor(self.std)
        noise = draws.normal(clean.shape[-1]).to(clean.dtype) * std
        return self.ball.project(clean + noise, clean)
