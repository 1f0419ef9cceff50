"""Intervals and tests in which the training seed, not the episode, is the unit of replication.

Episodes of one trained team tell how well that team plays; only other training seeds tell how
well the method trains. Intervals therefore resample seeds first and episodes second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustmarl._checks import check, check_choice, check_index, check_int, check_kind, check_number

__all__ = ["Estimate", "Scores", "SignedRank", "bootstrap", "iqm", "signed_rank", "wilson"]

Floats: TypeAlias = NDArray[np.float64]

Scores: TypeAlias = Mapping[int, ArrayLike] | Sequence[ArrayLike]
"""Per training seed the scores of its episodes, (M,), M possibly different per seed."""

Statistic: TypeAlias = Literal["mean", "iqm"] | Callable[..., ArrayLike]

_BLOCK = 1 << 22  # random numbers held at once
_DECIMALS = 10  # differences below this are rounding of printed figures, hence zero


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        mean: the figure itself; a mean unless ``method`` says otherwise.
        low: lower end of the interval.
        high: upper end.
        n_seeds: training seeds behind it.
        n_episodes: episodes behind it, all seeds together.
        level: nominal coverage, in (0, 1).
        method: how the interval was made, in words.

    Example:
        >>> print(Estimate(mean=0.93, low=0.88, high=0.97, n_seeds=5, n_episodes=500))
        0.93 [0.88, 0.97]
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    n_episodes: int
    level: float = 0.95
    method: str = ""

    def __str__(self) -> str:
        """Return ``mean [low, high]`` with the same digits throughout."""
        return f"{_figure(self.mean)} [{_figure(self.low)}, {_figure(self.high)}]"


def bootstrap(
    scores: Scores,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    statistic: Statistic = "mean",
) -> Estimate:
    r"""Return a two-level percentile bootstrap interval of a statistic over training seeds.

    With per-seed means :math:`\bar x_s` over :math:`M_s` episodes the figure is
    :math:`T(\bar x_1, \ldots, \bar x_S)`: every seed weighs the same, however many episodes it
    played. A resample draws S seeds with replacement, then for every drawn seed s its
    :math:`M_s` episodes with replacement (anew if the seed is drawn twice), and applies T. The
    interval lies between the :math:`(1 \mp level)/2` quantiles of T.

    With a single seed only its episodes are resampled: the interval is then about that one
    trained team, not about the method, and ``method`` says so. Below about five seeds a
    percentile interval is too narrow; it is a lower bound on what is not known.

    Args:
        scores: per seed the episodes' scores, (M_s,); a mapping from seed or a sequence.
        level: nominal coverage, in (0, 1).
        resamples: number of resamples, >= 1.
        seed: of the resampling; same seed, same interval.
        statistic: T: ``"mean"``, ``"iqm"``, or a function like ``numpy.median`` that takes an
            array (..., S) and ``axis``.

    Raises:
        ValueError: if there is no seed, a seed without episodes, or a score that is not finite.

    Example:
        >>> print(bootstrap({0: [1, 1, 1, 0], 1: [1, 1, 1, 1]}, statistic="iqm").mean)
        0.875
    """
    level = _check_level("bootstrap.level", level)
    resamples = check_int("bootstrap.resamples", resamples, 1)
    seed = check_int("bootstrap.seed", seed, 0)
    if not callable(statistic):
        check_choice("bootstrap.statistic", statistic, ("mean", "iqm"))
    seeds = _per_seed(scores)
    named: dict[str, Callable[..., ArrayLike]] = {"mean": np.mean, "iqm": iqm}
    function = statistic if callable(statistic) else named[statistic]
    rng = np.random.default_rng(seed)
    means = np.array([one.mean() for one in seeds])
    drawn = rng.integers(len(seeds), size=(resamples, len(seeds)))
    values = np.empty(drawn.shape)
    for index, episodes in enumerate(seeds):
        chosen = drawn == index
        values[chosen] = _resampled_means(episodes, int(chosen.sum()), rng)
    low, high = np.quantile(
        np.asarray(function(values, axis=-1)), [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    )
    kind = "two-level bootstrap" if len(seeds) > 1 else "bootstrap over the episodes of one seed"
    name = statistic if isinstance(statistic, str) else getattr(statistic, "__name__", "statistic")
    of = "" if name == "mean" else f" of the {'IQM' if name == 'iqm' else name}"
    return Estimate(
        mean=float(np.asarray(function(means, axis=-1))),
        low=float(low),
        high=float(high),
        n_seeds=len(seeds),
        n_episodes=sum(len(one) for one in seeds),
        level=level,
        method=f"{kind}{of}, {resamples} resamples",
    )


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    r"""Return Wilson's score interval of a share: one trained team, ``n`` episodes.

    The ends solve :math:`(\hat p - p)^2 = z^2 p (1 - p) / n`. Unlike a bootstrap's, they stay
    apart when every episode was won.

    Args:
        successes: episodes won, in [0, n].
        n: episodes played, >= 1.
        level: nominal coverage, in (0, 1).
    """
    level = _check_level("wilson.level", level)
    n = check_int("wilson.n", n, 1)
    successes = check_int("wilson.successes", successes, 0, n)
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Estimate(
        mean=successes / n,
        low=float(interval.low),
        high=float(interval.high),
        n_seeds=1,
        n_episodes=n,
        level=level,
        method="Wilson's score interval",
    )


def iqm(x: ArrayLike, axis: int = -1) -> Floats:
    """Return the interquartile mean: the mean without the lowest and the highest quarter.

    Of n values ``int(n / 4)`` are cut at each end, so that of fewer than four none is.

    Args:
        x: values, any shape.
        axis: the axis to average over.
    """
    values, axis = _floats("iqm.x", x), check_index("iqm.axis", axis)
    check(values.size > 0, "iqm.x", "at least one number", x)
    rule = f"one of the {values.ndim} axes"
    check(-values.ndim <= axis < values.ndim, "iqm.axis", rule, axis)
    means: Floats = stats.trim_mean(values, 0.25, axis=axis)
    return means


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """Result of a Wilcoxon signed-rank test.

    Attributes:
        pvalue: two-sided.
        better: whether the first sample's mean is the larger one.
        n: pairs that differ.
        method: ``"exact"``, ``"normal"``, or ``"none"`` where no pair differs.
    """

    pvalue: float
    better: bool
    n: int
    method: Literal["exact", "normal", "none"]

    def star(self, level: float = 0.05) -> bool:
        """Return whether the first sample is better and the difference significant."""
        return self.better and self.pvalue < level


def signed_rank(a: ArrayLike, b: ArrayLike) -> SignedRank:
    """Return the two-sided Wilcoxon signed-rank test of paired figures, as in the ATSA paper.

    Pairs are two methods' figures under the same attacks, or on the same training seeds. The
    p-value is exact where all pairs differ; otherwise ties are dropped and the normal
    approximation without continuity correction is used. This rule reproduces most of the
    stars of Zhou et al. (2025), Tables 1, 2 and 5; a rank-sum test does not. With six pairs no
    exact p-value is below 1/32.

    Args:
        a: figures of the first method, (K,), larger is better.
        b: figures of the second, (K,).

    Raises:
        ValueError: for samples of different lengths, empty ones, or values that are not finite.
    """
    first, second = _floats("signed_rank.a", a), _floats("signed_rank.b", b)
    for where, sample in (("signed_rank.a", first), ("signed_rank.b", second)):
        check(sample.ndim == 1 and sample.size > 0, where, "a sample (K,)", sample.tolist())
        check(bool(np.isfinite(sample).all()), where, "finite", sample.tolist())
    rule = f"{len(first)} numbers, as many as there are in a"
    check(len(first) == len(second), "signed_rank.b", rule, second.tolist())
    difference = np.round(first - second, _DECIMALS)
    n = int(np.count_nonzero(difference))
    better = bool(difference.mean() > 0.0)
    if n == 0:
        return SignedRank(pvalue=1.0, better=False, n=0, method="none")
    if n == len(difference):
        pvalue = stats.wilcoxon(difference, method="exact").pvalue
        return SignedRank(pvalue=float(pvalue), better=better, n=n, method="exact")
    pvalue = stats.wilcoxon(
        difference, zero_method="wilcox", correction=False, method="approx"
    ).pvalue
    return SignedRank(pvalue=float(pvalue), better=better, n=n, method="normal")


def _per_seed(scores: Scores) -> list[Floats]:
    rule = "one array of episodes per seed, a mapping or a sequence"
    check_kind("bootstrap.scores", scores, Mapping | list | tuple | np.ndarray, rule)
    values = list(scores.values() if isinstance(scores, Mapping) else scores)
    if values and all(np.ndim(one) == 0 for one in values):
        raise TypeError(
            "bootstrap.scores must be one array of episodes per seed, got bare numbers, "
            f"{values!r}. "
            "Write [scores] for one seed, or [[score] for score in scores] for one per seed."
        )
    seeds = [_floats("bootstrap.scores", one) for one in values]
    check(len(seeds) > 0, "bootstrap.scores", "non-empty", scores)
    for index, one in enumerate(seeds):
        where = f"bootstrap.scores, of seed number {index},"
        check(one.ndim == 1 and one.size > 0, where, "of shape (M,) with M >= 1", one.tolist())
        bad = np.flatnonzero(~np.isfinite(one))
        check(bad.size == 0, where, "finite", f"{one[bad[:1]]} at episode {bad[:1]}")
    return seeds


def _resampled_means(episodes: Floats, count: int, rng: np.random.Generator) -> Floats:
    size = len(episodes)
    rows = max(1, _BLOCK // size)
    found = [
        episodes[rng.integers(size, size=(min(rows, count - start), size))].mean(axis=1)
        for start in range(0, count, rows)
    ]
    return np.concatenate(found) if found else np.empty(0)


def _floats(where: str, values: ArrayLike) -> Floats:
    """Return numbers as an array."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = None
    if found is None or values is None:
        raise TypeError(f"{where} must be numbers, got {values!r}.")
    return found


def _check_level(where: str, level: float) -> float:
    level = check_number(where, level, 0.0, 1.0, open_low=True)
    check(level < 1.0, where, "a number in (0, 1)", level)
    return level


def _figure(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 100.0 else f"{value:.1f}" if size < 1000.0 else f"{value:.0f}"
