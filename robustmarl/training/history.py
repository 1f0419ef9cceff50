"""What a run saw, and how its figures are recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from tianshou.utils import BaseLogger

from robustmarl._checks import check
from robustmarl.data import JointCollector
from robustmarl.data.stats import TeamCollectStats
from robustmarl.training.files import whole

__all__ = ["Figures", "History", "Recorder"]


class Figures(TypedDict):
    """What a :class:`History` holds, as a checkpoint keeps it."""

    env_steps: list[int]
    train: dict[str, list[float]]
    tests: dict[str, list[float]]
    episodes: int
    resumed: bool


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

    Example:
        >>> history = History(env_steps=[100, 200], train={"return": [0.5, 1.0]})
        >>> history.curve("return")
        (array([100, 200]), array([0.5, 1. ]))
    """

    env_steps: list[int] = field(default_factory=list)
    train: dict[str, list[float]] = field(default_factory=dict)
    tests: dict[str, list[float]] = field(default_factory=dict)
    episodes: int = 0
    resumed: bool = False

    def curve(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return (environment steps, values) of a figure of ``train`` or ``tests``.

        Intervals in which no episode ended, such as the start, are left out.
        """
        known = [*self.train, *self.tests]
        check(name in known, "History.curve.name", f"one of {known}", name)
        values = np.asarray(self.train.get(name) or self.tests[name])
        known_at = np.isfinite(values)
        return np.asarray(self.env_steps)[known_at], values[known_at]

    def figures(self) -> Figures:
        """Return what it holds."""
        return {
            "env_steps": self.env_steps,
            "train": self.train,
            "tests": self.tests,
            "episodes": self.episodes,
            "resumed": self.resumed,
        }

    def restore(self, figures: Figures) -> None:
        """Take over what an interrupted run saw."""
        self.env_steps, self.episodes = figures["env_steps"], figures["episodes"]
        self.train, self.tests = figures["train"], figures["tests"]
        self.resumed = True

    def write(self, path: Path) -> None:
        """Write JSON so that no reader sees a part of it; null stands for NaN."""
        with whole(path) as part:
            part.write_text(json.dumps(_strict(self.figures()), indent=1, allow_nan=False))


class Recorder:
    """Records what the episodes of a run and its tests show.

    Args:
        history: what it adds to.
        metrics: the environment's own figures, beside the return.
        testers: test name to what plays its episodes.
        episodes: per test.
        logger: Tianshou's, which is told the tests' figures.
    """

    def __init__(
        self,
        history: History,
        metrics: tuple[str, ...],
        testers: Mapping[str, JointCollector],
        episodes: int,
        logger: BaseLogger,
    ) -> None:
        self.history = history
        self._testers, self._episodes, self._logger = testers, episodes, logger
        self._rounds: dict[str, list[NDArray[np.float64]]] = {
            name: [] for name in ("return", *metrics)
        }

    def collected(self, stats: TeamCollectStats) -> None:
        """Take note of the episodes that ended in a round."""
        if not stats.n_collected_episodes:
            return
        for name, values in _per_episode(stats).items():
            self._rounds[name].append(values)

    def record(self, env_step: int, episodes: int) -> None:
        """Test, and add an entry: at ``env_step`` steps and ``episodes`` episodes of training."""
        history = self.history
        history.env_steps.append(env_step)
        history.episodes = episodes
        for name, rounds in self._rounds.items():
            mean = float(np.concatenate(rounds).mean()) if rounds else math.nan
            history.train.setdefault(name, []).append(mean)
            rounds.clear()
        figures = self._test()
        for name in {**figures, **history.tests}:
            # A resumed run may test other things than the one it continues: then there are gaps.
            before = [math.nan] * (len(history.env_steps) - 1)
            history.tests.setdefault(name, before).append(figures.get(name, math.nan))
        if figures:
            self._logger.log_test_data(dict(figures), env_step)

    def _test(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for test, collector in self._testers.items():
            collector.episodes_begun = 0  # the same episodes each time, so that curves compare
            played = _per_episode(collector.collect(n_episode=self._episodes))
            figures |= {f"{test}/{name}": float(one.mean()) for name, one in played.items()}
        return figures


def _per_episode(stats: TeamCollectStats) -> dict[str, NDArray[np.float64]]:
    return {"return": stats.returns, **stats.metrics}


def _strict(value: object) -> object:
    """Return ``value`` with None for NaN, which strict JSON does not know."""
    if isinstance(value, dict):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
