"""Counts per episode, for perturbers that measure."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.joint import StepContext

__all__ = ["EpisodeCounts"]

Floats: TypeAlias = NDArray[np.float64]


class EpisodeCounts:
    """Sums of K numbers over each episode, in the order in which episodes began.

    Args:
        size: K.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums: dict[int, Floats] = {}  # by the episodes' keys

    def add(self, context: StepContext, values: Tensor) -> None:
        """Add a tick's numbers, (E, K), of the environments that play in it."""
        live = (context.live & ~context.terminal).tolist()
        numbers = values.double().cpu().numpy()
        # Environments begin in their order, and a dict remembers the order of its keys.
        for playing, key, of_env in zip(live, context.keys.tolist(), numbers, strict=True):
            if playing:
                known = self._sums.get(key)
                self._sums[key] = of_env if known is None else known + of_env

    def sums(self) -> Floats:
        """Return the sums, (episodes, K)."""
        return np.array([*self._sums.values()]).reshape(-1, self._size)
