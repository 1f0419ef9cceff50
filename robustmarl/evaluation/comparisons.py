"""Whether one method is better than another: signed ranks, and the probability of improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from robustmarl._checks import check, check_choice
from robustmarl.evaluation.statistics import Estimate, Scores, check_level, floats, per_seed

__all__ = ["SignedRank", "TaskScores", "probability_of_improvement", "signed_rank", "tasks_of"]

Floats: TypeAlias = NDArray[np.float64]

TaskScores: TypeAlias = Mapping[str, Scores]
"""Per task and training seed the scores of its episodes, (M,)."""

_DECIMALS = 10  # differences below this are rounding of printed figures, hence zero
_STEP = 1e-9


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """Result of a Wilcoxon signed-rank test.

    Attributes:
        pvalue: two-sided.
        better: whether the pairs that the first sample wins have the larger sum of ranks: which way
            the p-value points. A mean may point the other way, for one large difference's sake.
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


def signed_rank(
    a: ArrayLike, b: ArrayLike, *, method: Literal["exact", "normal"] = "exact"
) -> SignedRank:
    """Return the two-sided Wilcoxon signed-rank test of paired figures.

    Pairs are two methods' figures under the same attacks, or on the same training seeds. Pairs
    without a difference are dropped; equal differences share their ranks. ``"exact"`` counts the
    signs that the differences could have had, shared ranks included; with six pairs no p-value is
    below 1/32, with five none is below 1/16.

    Zhou et al. (2025) print the stars of an exact test where all pairs differ, and otherwise of
    the ``"normal"`` approximation without continuity correction: that rule reproduces most stars
    of their Tables 1, 2 and 5, a rank-sum test does not. With five wins and a tie it gives a star
    (p = .043) where the exact test gives none (p = .063).

    Args:
        a: figures of the first method, (K,), larger is better.
        b: figures of the second, (K,).
        method: ``"exact"`` or ``"normal"``.

    Raises:
        ValueError: for samples of different lengths, empty ones, or values that are not finite.

    Example:
        >>> signed_rank([0.9, 0.8, 0.7, 0.9, 0.8, 0.6], [0.5, 0.6, 0.4, 0.8, 0.1, 0.0])
        SignedRank(pvalue=0.03125, better=True, n=6, method='exact')
    """
    check_choice("signed_rank.method", method, ("exact", "normal"))
    first, second = floats("signed_rank.a", a), floats("signed_rank.b", b)
    for where, sample in (("signed_rank.a", first), ("signed_rank.b", second)):
        check(sample.ndim == 1 and sample.size > 0, where, "a sample (K,)", sample.tolist())
        check(bool(np.isfinite(sample).all()), where, "finite", sample.tolist())
    rule = f"{len(first)} numbers, as many as there are in a"
    check(len(first) == len(second), "signed_rank.b", rule, second.tolist())
    difference = np.round(first - second, _DECIMALS)
    difference = difference[difference != 0.0]
    n = len(difference)
    if n == 0:
        return SignedRank(pvalue=1.0, better=False, n=0, method="none")
    better = bool(np.sign(difference) @ stats.rankdata(np.abs(difference)) > 0.0)
    if method == "exact":
        return SignedRank(pvalue=_exact_pvalue(difference), better=better, n=n, method="exact")
    pvalue = stats.wilcoxon(difference, correction=False, method="asymptotic").pvalue
    return SignedRank(pvalue=float(pvalue), better=better, n=n, method="normal")


def _exact_pvalue(difference: Floats) -> float:
    """Return the share of all signs under which the rank sum is as far from its middle."""
    ranks = np.rint(2.0 * stats.rankdata(np.abs(difference))).astype(int)  # shared ones: halves
    total = int(ranks.sum())
    ways = np.zeros(total + 1)  # of reaching each sum of positive ranks; halved at every pair
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] = (ways[rank:] + ways[: total + 1 - rank]) / 2.0
        ways[:rank] /= 2.0
    far = abs(2 * int(ranks[difference > 0.0].sum()) - total)
    sums = 2 * np.arange(total + 1) - total
    return float(min(ways[np.abs(sums) >= far].sum(), 1.0))


def probability_of_improvement(
    first: TaskScores, second: TaskScores, *, level: float = 0.95
) -> Estimate:
    r"""Return how probable it is that a run of the first method beats one of the second.

    With the means :math:`x_i`, :math:`y_j` of seeds it is the average over tasks of

    .. math:: \frac{1}{m n} \sum_{i=1}^m \sum_{j=1}^n
        \bigl[x_i > y_j\bigr] + \tfrac12 \bigl[x_i = y_j\bigr]

    [Agarwal2021]_. The interval has all rates p from which the figure is no further than
    :math:`t \sqrt{V(p)}`, with the variance of that sum for exponential distributions,

    .. math:: V(p) = \frac{p (1 - p)}{m n} \Bigl[1 + \bigl(\tfrac{m + n}{2} - 1\bigr)
        \Bigl(\frac{1 - p}{2 - p} + \frac{p}{1 + p}\Bigr)\Bigr],

    [Newcombe2006]_, summed over independent tasks, and Student's t in place of Newcombe's z: with
    three seeds each, 95 % intervals then cover .96 and more, with z .90. They keep a width where
    all pairs agree, where a bootstrap has none.

    Args:
        first: task to seed to episodes' scores; larger is better.
        second: of the same tasks.
        level: nominal coverage, in (0, 1).

    Raises:
        ValueError: for other tasks, or scores as :func:`~robustmarl.evaluation.interval`
            refuses; if no method has two seeds.

    Example:
        >>> one, other = {"3m": [[0.9], [0.8], [0.5]]}, {"3m": [[0.7], [0.5], [0.4]]}
        >>> print(probability_of_improvement(one, other))
        0.83 [0.24, 0.99]
    """
    level = check_level("probability_of_improvement.level", level)
    ours = tasks_of("probability_of_improvement.first", first)
    theirs = tasks_of("probability_of_improvement.second", second)
    same = ours.keys() == theirs.keys()
    check(same, "probability_of_improvement.second", f"of the tasks {[*ours]}", [*theirs])
    rates, sizes = [], []
    for task, means in ours.items():
        sign = np.sign(means[:, None] - theirs[task][None, :])
        rates.append(float((1.0 + sign).mean()) / 2.0)
        sizes.append((len(means), len(theirs[task])))
    share = float(np.mean(rates))  # exactly 0 or 1 where all tasks are, unlike a sum of k-ths
    freedom = sum(m + n - 2 for m, n in sizes)
    check(freedom > 0, "probability_of_improvement.first", "of several seeds", sizes)
    reach = float(special.stdtrit(freedom, (1.0 + level) / 2.0))

    def variance(p: float) -> float:
        spread = (1.0 - p) / (2.0 - p) + p / (1.0 + p)
        each = [p * (1.0 - p) / (m * n) * (1.0 + ((m + n) / 2.0 - 1.0) * spread) for m, n in sizes]
        return sum(each) / len(sizes) ** 2

    def excess(p: float) -> float:
        return abs(share - p) - reach * math.sqrt(variance(p))

    # A step away from the figure: at 0 and 1 the variance is zero, and so is the excess.
    low = 0.0 if share == 0.0 else float(optimize.brentq(excess, 0.0, share - _STEP))
    high = 1.0 if share == 1.0 else float(optimize.brentq(excess, share + _STEP, 1.0))
    return Estimate(
        mean=share,
        low=low,
        high=high,
        n_seeds=min(min(pair) for pair in sizes),
        n_episodes=sum(_episodes(scores) for scores in (first, second)),
        level=level,
        method="Newcombe's score interval of a probability of improvement",
    )


def tasks_of(where: str, scores: TaskScores) -> dict[str, Floats]:
    """Return per task the means of its seeds, (S,), checked; errors name ``where``."""
    if not isinstance(scores, Mapping):
        kind = type(scores).__name__
        raise TypeError(f"{where} must be a mapping from tasks, got {kind}. Write {{'task': ...}}.")
    check(len(scores) > 0, where, "non-empty", scores)
    return {
        task: np.array([one.mean() for one in per_seed(f"{where}[{task!r}]", of_task)])
        for task, of_task in scores.items()
    }


def _episodes(scores: TaskScores) -> int:
    return sum(len(one) for task in scores.values() for one in per_seed("scores", task))
