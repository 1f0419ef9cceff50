"""Unavailable actions."""

from __future__ import annotations

__all__ = ["MASKED"]

MASKED = -1e9
"""Logit of an unavailable action: finite, so that 0 * log 0 stays 0, and softmax gives 0."""
