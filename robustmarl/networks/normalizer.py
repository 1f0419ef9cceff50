"""Values in units of their own spread."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmarl._checks import check_number

__all__ = ["ValueNormalizer"]


# The least variance: with returns that hardly differ, a value's unit stays 0.01 or more.
_MIN_VARIANCE = 1e-4


class ValueNormalizer(nn.Module):
    """Running mean and standard deviation of returns, as buffers.

    Averages that forget exponentially, divided by the weight that they have gathered so far, so
    that the first ones are not drawn towards zero.

    Args:
        decay: how much of the averages an update keeps, in [0, 1); 0.99 remembers some 100 of them.

    Raises:
        ValueError: for a ``decay`` out of range.

    Example:
        >>> import torch
        >>> normalizer = ValueNormalizer()
        >>> normalizer.update(torch.tensor([8.0, 12.0]), torch.tensor([True, True]))
        >>> normalizer.normalize(torch.tensor([8.0, 12.0])).round(decimals=2)
        tensor([-1.,  1.])
    """

    mean: Tensor
    second: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = check_number("ValueNormalizer.decay", decay, 0.0, 1.0, open_high=True)
        for name in ("mean", "second", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def update(self, returns: Tensor, mask: Tensor) -> None:
        """Take in returns (...,) where ``mask`` (...,); where it is nowhere, nothing changes."""
        values = returns[mask].double()
        if not len(values):
            return
        keep = self.decay
        self.mean.mul_(keep).add_((1.0 - keep) * values.mean())
        self.second.mul_(keep).add_((1.0 - keep) * values.square().mean())
        self.weight.mul_(keep).add_(1.0 - keep)

    def _moments(self) -> tuple[float, float]:
        """Return mean and standard deviation; 0 and 1 before the first update."""
        weight = float(self.weight)
        if weight == 0.0:
            return 0.0, 1.0
        mean, second = float(self.mean) / weight, float(self.second) / weight
        return mean, max(second - mean * mean, _MIN_VARIANCE) ** 0.5

    def normalize(self, values: Tensor) -> Tensor:
        """Return values (...,) in units of the returns' spread, around their mean."""
        mean, std = self._moments()
        return (values - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """Undo :meth:`normalize`."""
        mean, std = self._moments()
        return values * std + mean
