"""Between an agent's box of actions and [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_unit"]


def to_unit(act: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return actions (..., A) of a box as coordinates of which -1 is the low end, and 1 the high.

    What lies outside of the box lies outside of [-1, 1]. A coordinate of which the box leaves one
    value only is 0, whatever it is given: nothing depends on it, so that it has no gradient.

    Args:
        act: in the box's units, (..., A).
        low: lowest actions, (A,).
        high: highest ones, (A,).
    """
    wide = high > low
    unit = (act - low) * 2.0 / torch.where(wide, high - low, 1.0) - 1.0
    return torch.where(wide, unit, 0.0)
