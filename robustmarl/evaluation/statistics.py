"""Intervals in which the training seed, not the episode, is the unit of replication.

Episodes of one trained team tell how well that team plays; only other training seeds tell how
well the method trains. Intervals are therefore over seeds, and where there is one seed only they
say that they speak of one team.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_index,
    check_int,
    check_kind,
    check_number,
)

__all__ = [
    "Estimate",
    "Limits",
    "Scores",
    "bootstrap",
    "check_level",
    "check_limits",
    "clopper_pearson",
    "interval",
    "iqm",
    "limits_of",
    "per_seed",
    "t_band",
    "widened",
]

Floats: TypeAlias = NDArray[np.float64]

Scores: TypeAlias = Mapping[int, ArrayLike] | Sequence[ArrayLike]
"""Per training seed the scores of its episodes, (M,), M possibly different per seed."""

Limits: TypeAlias = tuple[float, float]
"""The lowest and the highest value that a figure can take."""

Statistic: TypeAlias = Literal["iqm"] | Callable[..., ArrayLike]

_BLOCK = 1 << 22  # random numbers held at once
_LEVEL = 0.95


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


def interval(
    scores: Scores, *, level: float = _LEVEL, limits: tuple[float, float] | None = None
) -> Estimate:
    r"""Return the mean over training seeds with an interval that covers it as often as it says.

    With per-seed means :math:`\bar x_s` over :math:`M_s` episodes the figure is their mean
    :math:`\bar x`: every seed weighs the same, however many episodes it played. The interval is
    Student's,

    .. math:: \bar x \pm t_{S-1}\, \frac{\mathrm{sd}(\bar x_1, \ldots, \bar x_S)}{\sqrt S}

    cut to ``limits``, and no narrower than what the episodes alone leave open where seeds agree by
    chance: :math:`\pm\, t \sqrt{\sum_s v_s / M_s} / S` with the variances :math:`v_s` within
    seeds, or, for lost and won, the exact interval over all episodes. With true rates of seeds
    from Beta(8, 2), Beta(2, 2) or Beta(2, 8) and 200 episodes each, 95 % intervals cover .93, .94
    and .93 with three seeds, .93 to .94 with five. No interval helps where few seeds in many fail
    and none did so here: with one in five, three seeds cover half.

    With one seed only its episodes are left: the interval is exact for lost and won
    (:func:`clopper_pearson`), else Student's over episodes, and is about that one team, not about
    the method, as ``method`` says. Of a single score that is no share nothing is known: the ends
    are ``limits``, or infinite.

    Args:
        scores: per seed the episodes' scores, (M_s,); a mapping from seed or a sequence.
        level: nominal coverage, in (0, 1).
        limits: the range of the metric. None is [0, 1] where all scores are 0 or 1, which are
            taken for lost and won, else without limits. Within other limits 0 and 1 are scores
            like any others; those of a return are ``(-inf, inf)`` where nothing is known of it.

    Raises:
        TypeError: for bare numbers in place of one array per seed.
        ValueError: if there is no seed, a seed without episodes, or a score that is not finite
            or outside ``limits``.

    Example:
        >>> print(interval({0: [1, 1, 1, 0], 1: [1, 1, 1, 1], 2: [1, 1, 1, 0]}))
        0.83 [0.47, 1.00]
    """
    level = check_level("interval.level", level)
    seeds = per_seed("interval", scores)
    every = np.concatenate(seeds)
    limits = check_limits("interval.limits", limits)
    shares = limits in (None, (0.0, 1.0)) and bool(np.isin(every, (0.0, 1.0)).all())
    bottom, top = _ends("interval.limits", limits, every, shares)
    means = np.array([one.mean() for one in seeds])
    low, high = _left_open(seeds, level, shares)
    if len(seeds) > 1:
        band = t_band(means, level)
        low, high = min(low, float(band[0])), max(high, float(band[1]))
        method = "Student t over training seeds"
    else:
        kind = "Clopper-Pearson" if shares else "Student t"
        method = f"{kind} over the episodes of one team: of that team only"
    return Estimate(
        mean=float(means.mean()),
        low=max(low, bottom),
        high=min(high, top),
        n_seeds=len(seeds),
        n_episodes=len(every),
        level=level,
        method=method,
    )


def t_band(means: Floats, level: float = _LEVEL) -> Floats:
    """Return the ends of Student's intervals over seeds, (2, ...), given means (S, ...), S > 1."""
    size = len(means)
    reach = special.stdtrit(size - 1, (1.0 + level) / 2.0) / math.sqrt(size)
    half = reach * means.std(axis=0, ddof=1)
    return np.stack([means.mean(axis=0) - half, means.mean(axis=0) + half])


def clopper_pearson(successes: int, n: int, level: float = _LEVEL) -> Estimate:
    r"""Return the exact interval of a share: one trained team, ``n`` episodes.

    Its ends are the rates under which as few, or as many, successes have probability
    :math:`(1 - level)/2`: it covers at least as often as it says, whatever the rate.

    Args:
        successes: episodes won, in [0, n].
        n: episodes played, >= 1.
        level: nominal coverage, in (0, 1).

    Example:
        >>> print(clopper_pearson(9, 10))
        0.90 [0.55, 1.00]
    """
    level = check_level("clopper_pearson.level", level)
    n = check_int("clopper_pearson.n", n, 1)
    successes = check_int("clopper_pearson.successes", successes, 0, n)
    tail, failures = (1.0 - level) / 2.0, n - successes
    # quantiles of the Beta distribution; scipy.stats finds the same by search, 50 times slower
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1.0 - tail) if failures else 1.0
    return Estimate(
        mean=successes / n,
        low=float(low),
        high=float(high),
        n_seeds=1,
        n_episodes=n,
        level=level,
        method="Clopper-Pearson",
    )


def bootstrap(
    scores: Scores,
    *,
    level: float = _LEVEL,
    resamples: int = 2000,
    seed: int = 0,
    statistic: Statistic = "iqm",
) -> Estimate:
    r"""Return a two-level bootstrap interval of a statistic of seeds' means, for what is no mean.

    A resample draws S seeds with replacement, then for every drawn seed s its :math:`M_s`
    episodes with replacement (anew if the seed is drawn twice), and applies the statistic T to
    their means. The quantiles of T are those of S seeds drawn from S, not from the method: their
    distances from the figure are widened by :math:`\sqrt{S/(S-1)}\; t_{S-1}/z`, without which
    intervals called 95 % cover about 75 % with three seeds and 85 % with five. With one seed
    episodes stand in their place, and the interval is about that team only.

    For the mean itself :func:`interval` is to be preferred.

    Args:
        scores: per seed the episodes' scores, (M_s,); a mapping from seed or a sequence.
        level: nominal coverage, in (0, 1).
        resamples: number of resamples, >= 1.
        seed: of the resampling; same seed, same interval.
        statistic: T: ``"iqm"``, or a function like ``numpy.median`` that takes an array (..., S)
            and ``axis``.

    Raises:
        TypeError: for bare numbers in place of one array per seed.
        ValueError: if there is no seed, a seed without episodes, or a score that is not finite.

    Example:
        >>> print(bootstrap({0: [1, 1, 1, 0], 1: [1, 1, 1, 1]}).mean)
        0.875
    """
    level = check_level("bootstrap.level", level)
    resamples = check_int("bootstrap.resamples", resamples, 1)
    seed = check_int("bootstrap.seed", seed, 0)
    if not callable(statistic):
        check_choice("bootstrap.statistic", statistic, ("iqm",))
    seeds = per_seed("bootstrap", scores)
    function = statistic if callable(statistic) else iqm
    rng = np.random.default_rng(seed)
    means = np.array([one.mean() for one in seeds])
    drawn = rng.integers(len(seeds), size=(resamples, len(seeds)))
    values = np.empty(drawn.shape)
    for index, episodes in enumerate(seeds):
        chosen = drawn == index
        values[chosen] = _resampled_means(episodes, int(chosen.sum()), rng)
    figure = float(np.asarray(function(means, axis=-1)))
    drawn_from = len(seeds) if len(seeds) > 1 else len(seeds[0])
    low, high = widened(
        figure, np.asarray(function(values, axis=-1)), drawn_from, drawn_from - 1, level
    )
    kind = "two-level bootstrap"
    if len(seeds) == 1:
        kind = "bootstrap over the episodes of one team: of that team only"
    name = "IQM" if isinstance(statistic, str) else getattr(statistic, "__name__", "statistic")
    return Estimate(
        mean=figure,
        low=low,
        high=high,
        n_seeds=len(seeds),
        n_episodes=sum(len(one) for one in seeds),
        level=level,
        method=f"{kind}, {name}, {resamples} resamples",
    )


def widened(
    figure: float, values: Floats, drawn_from: int, freedom: int, level: float
) -> tuple[float, float]:
    """Return the quantiles of resampled figures, widened for what resampling leaves out.

    Args:
        figure: of the sample itself.
        values: of resamples, (B,).
        drawn_from: n, how many were drawn with replacement from as many: their variance is too
            small by (n - 1) / n.
        freedom: degrees of freedom of what estimates the spread.
        level: nominal coverage.
    """
    if drawn_from < 2:
        return -math.inf, math.inf
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    tail = (1.0 + level) / 2.0
    factor = math.sqrt(drawn_from / (drawn_from - 1))
    factor *= special.stdtrit(freedom, tail) / special.ndtri(tail)
    below, above = max(figure - low, 0.0), max(high - figure, 0.0)
    return float(figure - factor * below), float(figure + factor * above)


def iqm(x: ArrayLike, axis: int = -1) -> Floats:
    """Return the interquartile mean: the mean without the lowest and the highest quarter.

    Of n values ``int(n / 4)`` are cut at each end, so that of fewer than four none is.

    Args:
        x: values, any shape.
        axis: the axis to average over.

    Example:
        >>> float(iqm([0.0, 0.5, 0.6, 10.0]))
        0.55
    """
    values, axis = floats("iqm.x", x), check_index("iqm.axis", axis)
    check(values.size > 0, "iqm.x", "at least one number", x)
    rule = f"one of the {values.ndim} axes"
    check(-values.ndim <= axis < values.ndim, "iqm.axis", rule, axis)
    means: Floats = stats.trim_mean(values, 0.25, axis=axis)
    return means


def per_seed(where: str, scores: Scores) -> list[Floats]:
    """Return one array (M_s,) of finite scores per seed, checked; errors name ``where``."""
    where = f"{where}.scores"
    rule = "one array of episodes per seed, a mapping or a sequence"
    check_kind(where, scores, Mapping | list | tuple | np.ndarray, rule)
    values = list(scores.values() if isinstance(scores, Mapping) else scores)
    if values and all(np.ndim(one) == 0 for one in values):
        raise TypeError(
            f"{where} must be one array of episodes per seed, got bare numbers, {values!r}. "
            "Write [scores] for one seed, or [[score] for score in scores] for one per seed."
        )
    seeds = [floats(where, one) for one in values]
    check(len(seeds) > 0, where, "non-empty", scores)
    for index, one in enumerate(seeds):
        of_seed = f"{where}, of seed number {index},"
        check(one.ndim == 1 and one.size > 0, of_seed, "of shape (M,) with M >= 1", one.tolist())
        bad = np.flatnonzero(~np.isfinite(one))
        check(bad.size == 0, of_seed, "finite", f"{one[bad[:1]]} at episode {bad[:1]}")
    return seeds


def _resampled_means(episodes: Floats, count: int, rng: np.random.Generator) -> Floats:
    size = len(episodes)
    rows = max(1, _BLOCK // size)
    found = [
        episodes[rng.integers(size, size=(min(rows, count - start), size))].mean(axis=1)
        for start in range(0, count, rows)
    ]
    return np.concatenate(found) if found else np.empty(0)


def floats(where: str, values: ArrayLike) -> Floats:
    """Return numbers as an array."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = None
    if found is None or values is None:
        raise TypeError(f"{where} must be numbers, got {values!r}.")
    return found


def _left_open(seeds: list[Floats], level: float, shares: bool) -> tuple[float, float]:
    """Return the ends of what episodes leave open about these teams' mean."""
    if shares:
        every = np.concatenate(seeds)
        exact = clopper_pearson(int(every.sum()), len(every), level)
        return exact.low, exact.high
    mean = float(np.mean([one.mean() for one in seeds]))
    freedom = sum(len(one) - 1 for one in seeds)
    if freedom == 0:  # an episode each: with several seeds, their spread has to do
        return (mean, mean) if len(seeds) > 1 else (-math.inf, math.inf)
    variance = sum(one.var(ddof=1) / len(one) for one in seeds if len(one) > 1)
    half = special.stdtrit(freedom, (1.0 + level) / 2.0) * math.sqrt(variance) / len(seeds)
    return float(mean - half), float(mean + half)


def check_limits(where: str, limits: Limits | None) -> Limits | None:
    """Return the range of a metric, two floats, or None."""
    if limits is None:
        return None
    rule = "the lowest and the highest value, or None"
    ends = check_each(where, limits, partial(check_number, infinite=True), rule)
    check(len(ends) == 2 and ends[0] < ends[-1], where, rule, limits)
    return ends[0], ends[1]


def limits_of(metric: str, limits: Limits | None) -> Limits | None:
    """Return the range as given; a return has no ends then, and its 0 and 1 are no shares."""
    return (-math.inf, math.inf) if limits is None and metric == "return" else limits


def _ends(where: str, limits: Limits | None, scores: Floats, shares: bool) -> Limits:
    """Return the lowest and the highest value, which scores have to lie between."""
    if limits is None:
        return (0.0, 1.0) if shares else (-math.inf, math.inf)
    bottom, top = limits
    seen = float(scores.min()), float(scores.max())
    check(bottom <= seen[0] and seen[1] <= top, where, f"around all scores, {seen}", limits)
    return bottom, top


def check_level(where: str, level: float) -> float:
    """Return a nominal coverage, in (0, 1)."""
    level = check_number(where, level, 0.0, 1.0, open_low=True)
    check(level < 1.0, where, "a number in (0, 1)", level)
    return level


def _figure(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 100.0 else f"{value:.1f}" if size < 1000.0 else f"{value:.0f}"
