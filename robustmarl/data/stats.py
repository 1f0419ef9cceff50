"""What a collection tells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tianshou.data import CollectStats

__all__ = ["TeamCollectStats"]


@dataclass(kw_only=True)
class TeamCollectStats(CollectStats):
    """Tianshou's statistics of a collection, and the environment's own figures.

    Attributes:
        metrics: per name of ``spec.metrics`` one figure per episode.
        counters: per perturber its counters, e.g. ``0/attacked``.
    """

    metrics: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
