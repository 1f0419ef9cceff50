"""Gaussians with a deviation per coordinate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["bounded_log_std", "gaussian_entropy", "gaussian_log_density"]

# The bounds of CleanRL's SAC, there from denisyarats/pytorch_sac: exp neither dies nor explodes.
_LEAST, _MOST = -5.0, 2.0


class _Bounded(torch.autograd.Function):
    """A clamp that what has left the bounds can come back from."""

    @staticmethod
    def forward(log_std: Tensor) -> Tensor:
        return log_std.clamp(_LEAST, _MOST)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor
    ) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (log_std,) = ctx.saved_tensors
        # a descent goes against its gradient
        outward = (log_std > _MOST) & (gradient < 0.0) | (log_std < _LEAST) & (gradient > 0.0)
        return torch.where(outward, 0.0, gradient)


def bounded_log_std(log_std: Tensor) -> Tensor:
    r"""Return log standard deviations within [-5, 2], of the same shape.

    A plain clamp has gradient 0 outside, where a step of an optimizer may lead: what is there
    would never change again. This one lets pass what leads back when a loss is minimised.

    Args:
        log_std: :math:`\log\sigma`, of any shape.
    """
    bounded: Tensor = _Bounded.apply(log_std)
    return bounded


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
