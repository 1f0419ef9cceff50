"""Unavailable actions."""

from __future__ import annotations

import numpy as np

__all__ = ["MASKED", "has_nan"]

MASKED = -1e9
"""Logit of an unavailable action: finite, so that 0 * log 0 stays 0, and softmax gives 0."""


def has_nan(mask: object) -> bool:
    """Return whether a mask has NaN, which as a flag would be true."""
    values = np.asarray(mask)
    return values.dtype.kind == "f" and bool(np.isnan(values).any())
