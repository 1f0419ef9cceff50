"""Scores of one victim under one attack."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import check_index, check_kind, speaking_for
from robustmarl.evaluation.statistics import Estimate, Limits, interval, per_seed

__all__ = ["Cell"]


class Cell:
    """Scores of one victim under one attack.

    Args:
        scores: per training seed the episodes' scores, (M,).
        level: nominal coverage of the interval, in (0, 1).
        limits: the range of the metric; see :func:`~robustmarl.evaluation.interval`.

    Raises:
        ValueError: if there is no seed, a seed without episodes, or a score that is not finite
            or outside ``limits``.

    Example:
        >>> cell = Cell({0: [1, 0, 1, 1], 1: [1, 1, 1, 1], 2: [1, 1, 0, 1]})
        >>> print(cell.estimate)
        0.83 [0.36, 1.00]
    """

    def __init__(
        self,
        scores: Mapping[int, ArrayLike],
        *,
        level: float = 0.95,
        limits: Limits | None = None,
    ) -> None:
        check_kind("Cell.scores", scores, Mapping, "a mapping from training seeds to scores")
        per_seed("Cell", scores)
        self.scores: dict[int, NDArray[np.float64]] = {
            check_index("Cell.scores", seed): np.array(values, dtype=np.float64)
            for seed, values in scores.items()
        }
        self.level, self.limits = level, limits
        with speaking_for("Cell", interval):
            self.estimate  # noqa: B018 - refuses bad scores here, where they are given

    @cached_property
    def estimate(self) -> Estimate:
        """The mean over seeds with its interval."""
        return interval(self.scores, level=self.level, limits=self.limits)

    def __repr__(self) -> str:
        sizes = {seed: len(values) for seed, values in self.scores.items()}
        return f"Cell({self.estimate}, episodes={sizes})"

    def __eq__(self, other: object) -> bool:
        """Return whether raw scores, level and limits are the same."""
        if not isinstance(other, Cell):
            return NotImplemented
        settings = [(one.scores.keys(), one.level, one.limits) for one in (self, other)]
        return settings[0] == settings[1] and all(
            np.array_equal(values, other.scores[seed]) for seed, values in self.scores.items()
        )

    def plain(self) -> dict[str, object]:
        """Return what JSON can hold of it; see :meth:`of_plain`."""
        scores = {str(seed): values.tolist() for seed, values in self.scores.items()}
        # JSON has no infinity
        limits = (
            {}
            if self.limits is None
            else {"limits": [x if isfinite(x) else None for x in self.limits]}
        )
        return {"level": self.level, **limits, "scores": scores}

    @classmethod
    def of_plain(cls, content: Mapping[str, Any]) -> Cell:
        """Return the cell of which :meth:`plain` returned ``content``."""
        scores = {int(seed): values for seed, values in content["scores"].items()}
        limits: Limits | None = None
        if (ends := content.get("limits")) is not None:
            bottom, top = ends
            limits = -inf if bottom is None else bottom, inf if top is None else top
        return cls(scores, level=content["level"], limits=limits)

    __hash__ = None  # type: ignore[assignment]  # holds arrays
