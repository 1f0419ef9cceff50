"""What a run saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustmarl._checks import check

__all__ = ["History"]


@dataclass
class History:
    """What a run saw, one entry per interval.

    Attributes:
        env_steps: environment steps at the end of each interval.
        train: per figure (``return``, and the environment's metrics) the mean over the
            interval's episodes, NaN where none ended.
        tests: per test name and figure, ``"clean/return"``, the mean over its episodes.
        episodes: episodes played in training.
        resumed: whether it continued from a checkpoint.
    """

    env_steps: list[int] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=dict)
    tests: dict[str, list[float]] = field(default_factory=dict)
    episodes: int = 0
    resumed: bool = False

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (environment steps, values) of a figure of ``train`` or ``tests``.

        Intervals in which no episode ended, such as the start, are left out.
        """
        known = [*self.train, *self.tests]
        check(name in known, "History.curve.name", f"one of {known}", name)
        values = np.asarray(self.train.get(name) or self.tests[name])
        known_at = np.isfinite(values)
        return np.asarray(self.env_steps)[known_at], values[known_at]
