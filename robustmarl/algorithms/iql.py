"""IQL: every agent learns its own Q-values."""

from __future__ import annotations

from robustmarl.algorithms.value_based import ValueBased

__all__ = ["IQL"]


class IQL(ValueBased):
    """Independent Q-learning [Tan1993]_ with shared parameters, on team or own rewards."""
