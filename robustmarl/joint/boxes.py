"""Between an agent's box of actions and [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.typing import Array, Values

__all__ = ["in_box", "to_unit"]


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


def in_box(unit: Array, box: Box) -> Values:
    """Return coordinates in [-1, 1], (A,), as an action in ``box``, of its dtype.

    Rounding does not leave the box, and integers are the nearest ones.
    """
    dtype = box.dtype
    wide = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
    low, high = box.low.astype(wide), box.high.astype(wide)
    action = low + (np.clip(unit, -1.0, 1.0) + 1.0) * 0.5 * (high - low)
    if wide is not dtype:
        action = np.rint(action)
    clipped: NDArray[Any] = np.clip(action, low, high).astype(dtype)
    return clipped
