"""What the collector steps: E environments in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.joint.spec import TeamSpec

__all__ = ["VectorEngine"]


class VectorEngine(Protocol):
    """What the collector steps: arrays that ``begin`` and ``advance`` overwrite in place.

    A natively batched engine offers the same on its own device, without a Python loop.
    """

    spec: TeamSpec
    tensors: dict[str, Tensor]
    """``obs mask state alive rew_agents`` as in ``TeamSpec.empty(E)``, ``terminated``,
    ``truncated`` (E,) bool, ``metrics`` (E, len(spec.metrics))."""

    def __len__(self) -> int:
        """Return E."""

    def begin(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Start new episodes in ``rows``, each from its seed."""

    def advance(self, act: Tensor, rows: NDArray[np.int64]) -> None:
        """Step the environments ``rows`` with their rows of ``act`` (E, N) or (E, N, A)."""

    def close(self) -> None:
        """Release the environments."""
