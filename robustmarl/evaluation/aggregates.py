"""Figures over several tasks: the interquartile mean of runs, and performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustmarl._checks import check, check_choice, check_int
from robustmarl.evaluation.comparisons import TaskScores, tasks_of
from robustmarl.evaluation.resampling import iqm, widened
from robustmarl.evaluation.statistics import Estimate, check_level, floats, per_seed

__all__ = ["Profile", "performance_profile", "task_iqm"]

Floats: TypeAlias = NDArray[np.float64]


def task_iqm(
    scores: TaskScores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    r"""Return the interquartile mean over the runs of all tasks, seeds' means [Agarwal2021]_.

    A resample draws every task's S seeds from its own, with replacement: tasks are strata, they
    are not drawn. The distances of its quantiles from the figure are widened by
    :math:`\sqrt{S/(S-1)}\; t/z` with one degree of freedom less per task than it has seeds: in a
    simulation of five tasks with three seeds 95 % intervals cover .93, without it .85.

    Args:
        scores: task to seed to episodes' scores, on a scale that tasks share.
        level: nominal coverage, in (0, 1).
        resamples: number of resamples, >= 1.
        seed: of the resampling; same seed, same interval.

    Raises:
        ValueError: if there is no task, or one without two seeds; for scores that
            :func:`~robustmarl.evaluation.interval` refuses.

    Example:
        >>> print(task_iqm({"3m": [[1.0], [0.8]], "8m": [[0.6], [0.0]]}).mean)
        0.7
    """
    level = check_level("task_iqm.level", level)
    resamples = check_int("task_iqm.resamples", resamples, 1)
    seed = check_int("task_iqm.seed", seed, 0)
    runs = tasks_of("task_iqm.scores", scores)
    sizes = [len(means) for means in runs.values()]
    check(min(sizes) > 1, "task_iqm.scores", "of two seeds per task or more", sizes)
    rng = np.random.default_rng(seed)
    drawn = [
        means[rng.integers(len(means), size=(resamples, len(means)))] for means in runs.values()
    ]
    figure = float(iqm(np.concatenate([*runs.values()])))
    values = iqm(np.concatenate(drawn, axis=1))
    low, high = widened(figure, values, min(sizes), sum(sizes) - len(sizes), level)
    return Estimate(
        mean=figure,
        low=low,
        high=high,
        n_seeds=min(sizes),
        n_episodes=sum(len(one) for task in scores.values() for one in per_seed("task_iqm", task)),
        level=level,
        method=f"bootstrap stratified by task, IQM, {resamples} resamples",
    )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The share of runs above each threshold, with pointwise intervals.

    Attributes:
        thresholds: tau, (P,).
        share: of the runs with a score above tau, (P,).
        low: lower ends, (P,).
        high: upper ends, (P,).
        level: nominal coverage at each point.
    """

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats
    level: float


def performance_profile(
    scores: TaskScores,
    thresholds: Sequence[float] | Floats,
    *,
    of: Literal["runs", "tasks"] = "runs",
    level: float = 0.95,
) -> Profile:
    r"""Return a performance profile [Agarwal2021]_.

    .. math:: \hat F(\tau) = \frac{1}{\sum_k S_k} \sum_k \sum_{s=1}^{S_k} [x_{ks} > \tau]

    over the seeds' means x of all tasks k; with ``of="tasks"`` the share of tasks whose mean over
    seeds is above :math:`\tau`. Intervals are Clopper and Pearson's, of as many draws: runs of
    several tasks vary less than draws from one distribution, so that they cover at least as often
    as they say. Of tasks they are about tasks drawn like these.

    Args:
        scores: task to seed to episodes' scores.
        thresholds: :math:`\tau`, in units of scores.
        of: ``"runs"`` or ``"tasks"``.
        level: nominal coverage at each point, in (0, 1).

    Raises:
        ValueError: if there is no task or threshold; for scores that
            :func:`~robustmarl.evaluation.interval` refuses.

    Example:
        >>> scores = {"3m": {0: [1.0], 1: [0.8]}, "8m": {0: [0.6], 1: [0.0]}}
        >>> performance_profile(scores, [0.5, 0.9]).share
        array([0.75, 0.25])
    """
    level = check_level("performance_profile.level", level)
    check_choice("performance_profile.of", of, ("runs", "tasks"))
    tau = floats("performance_profile.thresholds", thresholds)
    some = tau.ndim == 1 and tau.size > 0 and bool(np.isfinite(tau).all())
    check(some, "performance_profile.thresholds", "finite numbers, (P,)", thresholds)
    runs = tasks_of("performance_profile.scores", scores)
    if of == "tasks":
        values = np.array([means.mean() for means in runs.values()])
    else:
        values = np.concatenate([*runs.values()])
    above, size = (values[:, None] > tau).sum(axis=0), len(values)
    tail = (1.0 - level) / 2.0
    ends = (  # NaN where none is above, or all are
        special.betaincinv(above, size - above + 1, tail),
        special.betaincinv(above + 1, size - above, 1.0 - tail),
    )
    return Profile(
        thresholds=tau,
        share=above / size,
        low=np.where(above == 0, 0.0, ends[0]),
        high=np.where(above == size, 1.0, ends[1]),
        level=level,
    )
