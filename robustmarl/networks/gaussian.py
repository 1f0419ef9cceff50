"""Gaussians with a deviation per coordinate."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["gaussian_entropy", "gaussian_log_density"]


def gaussian_log_density(sample: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    r"""Return each coordinate's log-density, (..., D): their sum over D is the vector's.

    .. math:: \log N(u; \mu, \sigma) = -\frac{(u - \mu)^2}{2\sigma^2} - \log\sigma
              - \tfrac12 \log 2\pi

    Args:
        sample: u, (..., D).
        mean: :math:`\mu`, (..., D).
        log_std: :math:`\log\sigma`, (D,) or (..., D).
    """
    deviations = (sample - mean) * (-log_std).exp()
    return -0.5 * deviations * deviations - log_std - 0.5 * math.log(2.0 * math.pi)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    r"""Return each coordinate's entropy in nats, :math:`\log\sigma + \tfrac12 \log 2\pi e`.

    Args:
        log_std: :math:`\log\sigma`, of any shape.
    """
    return log_std + 0.5 * math.log(2.0 * math.pi * math.e)
