"""Intervals in which the training seed, not the episode, is the unit of replication.

Episodes of one trained team tell how well that team plays; only other training seeds tell how
well the method trains. Intervals are therefore over seeds, and where there is one seed only they
say that they speak of one team.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustmarl._checks import (
    check,
    check_each,
    check_int,
    check_kind,
    check_number,
)

__all__ = [
    "Estimate",
    "Floats",
    "Limits",
    "Scores",
    "are_shares",
    "check_level",
    "check_limits",
    "clopper_pearson",
    "ends_of",
    "floats",
    "interval",
    "limits_of",
    "per_seed",
    "side_by_side",
    "t_band",
    "wilson",
]

Floats: TypeAlias = NDArray[np.float64]

Scores: TypeAlias = Mapping[int, ArrayLike] | Sequence[ArrayLike]
"""Per training seed the scores of its episodes, (M,), M possibly different per seed."""

Limits: TypeAlias = tuple[float, float]
"""The lowest and the highest value that a figure can take."""

LEVEL = 0.95


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
    scores: Scores, *, level: float = LEVEL, limits: tuple[float, float] | None = None
) -> Estimate:
    r"""Return the mean over training seeds with an interval that covers it as often as it says.

    With per-seed means :math:`\bar x_s` over :math:`M_s` episodes the figure is their mean
    :math:`\bar x`: every seed weighs the same, however many episodes it played. The interval has
    two parts, what seeds differ by (Student's) and what they have in common,

    .. math::

        \bar x \pm \sqrt{\Big(t_{S-1} \frac{\mathrm{sd}(\bar x_1, \ldots, \bar x_S)}{\sqrt S}
        \Big)^2 + t_{M-1}^2 \frac{\max(c, 0)}{M}}, \qquad
        c = \frac{1}{S (S-1)} \sum_{s \neq t} \mathrm{cov}_m(x_{sm}, x_{tm}),

    as evaluations play the same episodes with every team, and what is easy for one may be easy for
    all: the spread of seeds does not show that. Of teams that played differing numbers of episodes
    :math:`c` is not known and taken for 0; of episodes that are not the same it is 0 by itself.

    The interval is cut to ``limits``, and no narrower than what episodes leave open where seeds
    agree by chance: Student's over the episodes' means over seeds, or, for lost and won, the exact
    interval of as many independent episodes as the :math:`S M` are worth (between M and
    :math:`S M` of them by their covariances, one more episode that all win and one that all
    lose added, so that teams which never lost are worth M).

    With true rates of seeds from Beta(8, 2), Beta(2, 2) or Beta(2, 8) and 200 episodes each, 95 %
    intervals cover .92 to .95 with three seeds or five. Of teams that are alike and share what is
    easy (win rate .7, five seeds, latent correlation .5 and .9) they cover .96; by the spread of
    seeds alone .86 and .70. No interval helps where few seeds in many fail and none did so here:
    with one in five, three seeds cover half.

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
        0.83 [0.25, 1.00]
    """
    level = check_level("interval.level", level)
    seeds = per_seed("interval", scores)
    every = np.concatenate(seeds)
    limits = check_limits("interval.limits", limits)
    shares = are_shares(limits, every)
    bottom, top = ends_of("interval.limits", limits, every, shares)
    means = np.array([one.mean() for one in seeds])
    low, high = _left_open(seeds, level, shares)
    if len(seeds) > 1:
        middle, band = float(means.mean()), t_band(means, level)
        half = math.hypot(float(band[1] - band[0]) / 2.0, _in_common(seeds, level))
        low, high = min(low, middle - half), max(high, middle + half)
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


def t_band(means: Floats, level: float = LEVEL) -> Floats:
    """Return the ends of Student's intervals over seeds, (2, ...), given means (S, ...), S > 1."""
    size = len(means)
    reach = special.stdtrit(size - 1, (1.0 + level) / 2.0) / math.sqrt(size)
    half = reach * means.std(axis=0, ddof=1)
    return np.stack([means.mean(axis=0) - half, means.mean(axis=0) + half])


def clopper_pearson(successes: int, n: int, level: float = LEVEL) -> Estimate:
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
    successes, n, level = _counted("clopper_pearson", successes, n, level)
    ends = _exact(successes, n - successes, level)
    return _of_one_team(successes, n, level, ends, "Clopper-Pearson")


def wilson(successes: int, n: int, level: float = LEVEL) -> Estimate:
    r"""Return Wilson's interval of a share: one trained team, ``n`` episodes.

    Its ends are the rates p that the share :math:`\hat p` is z standard errors away from,
    :math:`|\hat p - p| = z \sqrt{p(1-p)/n}`: it covers as often as it says on average over rates,
    where :func:`clopper_pearson`, mostly wider, does at every rate. Of the episodes of several
    trained teams it would say nothing, as these are not alike: there is :func:`interval`.

    Args:
        successes: episodes won, in [0, n].
        n: episodes played, >= 1.
        level: nominal coverage, in (0, 1).

    Example:
        >>> print(wilson(9, 10))
        0.90 [0.60, 0.98]
    """
    successes, n, level = _counted("wilson", successes, n, level)
    share, square = successes / n, float(special.ndtri((1.0 + level) / 2.0)) ** 2
    # of one half, towards which the share is drawn
    weight = square / (n + square) if math.isfinite(square) else 1.0
    middle = (1.0 - weight) * share + weight / 2.0
    half = math.sqrt(weight * (1.0 - weight) * share * (1.0 - share) + weight**2 / 4.0)
    low = middle - half if successes else 0.0  # exact, where rounding is not
    high = middle + half if successes < n else 1.0
    return _of_one_team(successes, n, level, (low, high), "Wilson")


def _counted(name: str, successes: int, n: int, level: float) -> tuple[int, int, float]:
    """Return a function's arguments, checked."""
    level, n = check_level(f"{name}.level", level), check_int(f"{name}.n", n, 1)
    return check_int(f"{name}.successes", successes, 0, n), n, level


def _of_one_team(
    successes: int, n: int, level: float, ends: tuple[float, float], method: str
) -> Estimate:
    low, high = ends
    return Estimate(
        mean=successes / n,
        low=low,
        high=high,
        n_seeds=1,
        n_episodes=n,
        level=level,
        method=method,
    )


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


def floats(where: str, values: ArrayLike) -> Floats:
    """Return numbers as an array."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = None
    if found is None or values is None:
        raise TypeError(f"{where} must be numbers, got {values!r}.")
    return found


def _exact(successes: float, failures: float, level: float) -> tuple[float, float]:
    """Return Clopper and Pearson's ends, also between whole numbers."""
    tail = (1.0 - level) / 2.0
    # quantiles of the Beta distribution; scipy.stats finds the same by search, 50 times slower
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1.0 - tail) if failures else 1.0
    return float(low), float(high)


def side_by_side(seeds: list[Floats]) -> Floats | None:
    """Return the scores as one array (S, M) if the m-th of all may be of the same episode."""
    of_one_size = len(seeds) > 1 and len({len(one) for one in seeds}) == 1
    return np.stack(seeds) if of_one_size and len(seeds[0]) > 1 else None


def _in_common(seeds: list[Floats], level: float) -> float:
    """Return the half-width of what the same episodes do to the means of all seeds."""
    scores = side_by_side(seeds)
    if scores is None:
        return 0.0
    size, episodes = scores.shape
    of_means = scores.mean(axis=0).var(ddof=1)
    covariance = (size * of_means - scores.var(axis=1, ddof=1).mean()) / (size - 1)
    reach = special.stdtrit(episodes - 1, (1.0 + level) / 2.0)
    return float(reach * math.sqrt(max(covariance, 0.0) / episodes))


def _left_open(seeds: list[Floats], level: float, shares: bool) -> tuple[float, float]:
    """Return the ends of what episodes leave open about these teams' mean."""
    scores, mean = side_by_side(seeds), float(np.mean([one.mean() for one in seeds]))
    if shares:
        won, played = sum(float(one.sum()) for one in seeds), sum(len(one) for one in seeds)
        worth = 1.0 if scores is None else _worth(scores)
        return _exact(won / worth, (played - won) / worth, level)
    freedom = sum(len(one) - 1 for one in seeds)
    if freedom == 0:  # an episode each: with several seeds, their spread has to do
        return (mean, mean) if len(seeds) > 1 else (-math.inf, math.inf)
    variance = sum(one.var(ddof=1) / len(one) for one in seeds if len(one) > 1) / len(seeds) ** 2
    if scores is not None:
        together = scores.mean(axis=0).var(ddof=1) / scores.shape[1]
        if together > variance:
            variance, freedom = together, scores.shape[1] - 1
    half = special.stdtrit(freedom, (1.0 + level) / 2.0) * math.sqrt(variance)
    return float(mean - half), float(mean + half)


def _worth(wins: Floats) -> float:
    """Return how many of the episodes played, (S, M), are worth one independent episode: 1 to S."""
    size = len(wins)
    padded = np.concatenate([wins, np.zeros((size, 1)), np.ones((size, 1))], axis=1)
    alone = padded.var(axis=1, ddof=1).mean() / size  # of their mean, were they independent
    return float(np.clip(padded.mean(axis=0).var(ddof=1) / alone, 1.0, size))


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


def are_shares(limits: Limits | None, scores: Floats) -> bool:
    """Return whether scores are taken for lost and won."""
    return limits in (None, (0.0, 1.0)) and bool(np.isin(scores, (0.0, 1.0)).all())


def ends_of(where: str, limits: Limits | None, scores: Floats, shares: bool) -> Limits:
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
