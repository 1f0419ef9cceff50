"""Closed forms, degenerate cases and one small coverage study."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustmarl.evaluation import Estimate, bootstrap, iqm, signed_rank, wilson

SEEDS = st.dictionaries(
    st.integers(0, 99),
    st.lists(st.floats(-100, 100), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)


class TestEstimate:
    def test_prints_mean_and_interval_with_the_same_digits(self):
        one = Estimate(mean=0.93, low=0.88, high=0.97, n_seeds=5, n_episodes=500)
        assert str(one) == "0.93 [0.88, 0.97]"

    def test_large_figures_lose_decimals(self):
        one = Estimate(mean=-123.456, low=-1234.5, high=99.5, n_seeds=1, n_episodes=1)
        assert str(one) == "-123.5 [-1234, 99.50]"


class TestBootstrap:
    def test_a_constant_has_no_width(self):
        found = bootstrap({0: [0.5] * 8, 1: [0.5] * 3})
        assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_seeds_weigh_the_same_however_many_episodes_they_played(self):
        assert bootstrap({0: [1.0], 1: [0.0] * 9}).mean == 0.5

    def test_counts_and_names_what_it_did(self):
        found = bootstrap({3: [1.0, 2.0], 7: [1.0]}, resamples=50, level=0.9)
        assert (found.n_seeds, found.n_episodes, found.level) == (2, 3, 0.9)
        assert found.method == "two-level bootstrap, 50 resamples"

    def test_a_single_seed_is_said_to_be_one(self):
        found = bootstrap([[0.0, 1.0]])
        assert found.method == "bootstrap over the episodes of one seed, 2000 resamples"

    def test_seeds_differ_but_episodes_do_not(self):
        """Resampling 2 constant seeds gives 0, 1/2, 1 with 1/4, 1/2, 1/4."""
        scores = {0: [0.0] * 5, 1: [1.0] * 5}
        wide = bootstrap(scores, level=0.95)
        assert (wide.low, wide.high) == (0.0, 1.0)
        narrow = bootstrap(scores, level=0.4)  # quantiles .3 and .7
        assert (narrow.low, narrow.high) == (0.5, 0.5)

    def test_one_seed_of_two_episodes(self):
        """Resampling {0, 1} twice gives 0, 1/2, 1 with 1/4, 1/2, 1/4."""
        found = bootstrap([[0.0, 1.0]], level=0.4)
        assert (found.low, found.high) == (0.5, 0.5)
        found = bootstrap([[0.0, 1.0]], level=0.6)  # quantiles .2 and .8
        assert (found.low, found.high) == (0.0, 1.0)

    def test_the_spread_between_seeds_counts_even_if_every_seed_is_sure(self):
        sure = bootstrap({s: [float(s % 2)] * 100 for s in range(4)})
        pooled = bootstrap([[0.0, 1.0] * 200])
        assert sure.high - sure.low > 4 * (pooled.high - pooled.low)

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        scores = {0: np.arange(50.0), 1: np.arange(50.0) ** 1.5}
        whole = bootstrap(scores, resamples=300)
        monkeypatch.setattr("robustmarl.evaluation.statistics._BLOCK", 500)
        assert bootstrap(scores, resamples=300) == whole

    def test_same_seed_same_interval_and_other_seed_another(self):
        scores = {0: np.arange(40.0), 1: np.arange(40.0) + 3}
        assert bootstrap(scores) == bootstrap(scores)
        assert bootstrap(scores) != bootstrap(scores, seed=1)

    def test_iqm_over_seeds_ignores_an_outlier(self):
        scores = [[0.0], [1.0], [1.0], [100.0]]
        found = bootstrap(scores, statistic="iqm")
        assert found.mean == 1.0
        assert found.method == "two-level bootstrap of the IQM, 2000 resamples"

    def test_takes_a_function(self):
        found = bootstrap([[0.0], [1.0], [5.0]], statistic=np.median)
        assert found.mean == 1.0
        assert "of the median" in found.method

    @given(SEEDS)
    def test_a_higher_level_is_never_narrower_and_the_ends_are_in_range(self, scores):
        found = [bootstrap(scores, level=level, resamples=100) for level in (0.5, 0.8, 0.99)]
        for inner, outer in pairwise(found):
            assert outer.low <= inner.low <= inner.high <= outer.high
        values = [v for one in scores.values() for v in one]
        assert min(values) - 1e-9 <= found[-1].low <= found[-1].high <= max(values) + 1e-9

    @given(SEEDS, st.floats(-10, 10))
    def test_shifts_with_the_scores(self, scores, shift):
        found = bootstrap(scores, resamples=50)
        moved = bootstrap({s: np.array(v) + shift for s, v in scores.items()}, resamples=50)
        assert moved.mean == pytest.approx(found.mean + shift, abs=1e-9)
        assert moved.low == pytest.approx(found.low + shift, abs=1e-9)

    def test_covers_the_truth_about_as_often_as_it_says(self):
        """Twelve seeds with sd 1, five episodes each with sd 1 around them."""
        rng = np.random.default_rng(0)
        covered = 0
        for _ in range(200):
            seeds = rng.normal(0.0, 1.0, 12)[:, None] + rng.normal(0.0, 1.0, (12, 5))
            found = bootstrap(list(seeds), resamples=300)
            covered += found.low <= 0.0 <= found.high
        assert 0.88 <= covered / 200 <= 0.99

    @pytest.mark.parametrize(
        ("kwargs", "text"),
        [
            ({"scores": {}}, r"bootstrap\.scores must be non-empty"),
            ({"scores": [[]]}, r"seed number 0, must be of shape \(M,\) with M >= 1"),
            ({"scores": [[1.0], [math.nan]]}, "seed number 1, must be finite"),
            ({"scores": [[1.0]], "level": 1.0}, r"bootstrap\.level must be a number in \(0, 1\)"),
            ({"scores": [[1.0]], "level": 0.0}, r"bootstrap\.level must be"),
            ({"scores": [[1.0]], "resamples": 0}, r"bootstrap\.resamples must be an int >= 1"),
            ({"scores": [[1.0]], "statistic": "mode"}, r"must be one of \['mean', 'iqm'\]"),
        ],
    )
    def test_refuses(self, kwargs, text):
        with pytest.raises(ValueError, match=text):
            bootstrap(**kwargs)

    def test_refuses_bare_numbers(self):
        with pytest.raises(TypeError, match=r"must be one array of episodes per seed"):
            bootstrap([0.1, 0.2])


class TestWilson:
    def test_half_of_500(self):
        z = stats.norm.ppf(0.975)
        half = z * math.sqrt(0.25 / 500 + z**2 / (4 * 500**2)) / (1 + z**2 / 500)
        found = wilson(250, 500)
        assert found.low == pytest.approx(0.5 - half)
        assert found.high == pytest.approx(0.5 + half)
        assert half == pytest.approx(0.0437, abs=5e-5)

    @pytest.mark.parametrize("n", [1, 10, 500])
    def test_all_or_nothing_keeps_a_width(self, n):
        """At p = 1 the lower end is n / (n + z^2), at p = 0 the upper one z^2 / (n + z^2)."""
        z2 = stats.norm.ppf(0.975) ** 2
        assert wilson(n, n).low == pytest.approx(n / (n + z2))
        assert wilson(n, n).high == pytest.approx(1.0)
        assert wilson(0, n).high == pytest.approx(z2 / (n + z2))

    @given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_ends_solve_the_score_equation(self, case):
        k, n = case
        z2 = stats.norm.ppf(0.9) ** 2
        for p in (wilson(k, n, 0.8).low, wilson(k, n, 0.8).high):
            assert (k / n - p) ** 2 == pytest.approx(z2 * p * (1 - p) / n, abs=1e-9)

    def test_refuses_more_wins_than_games(self):
        with pytest.raises(ValueError, match=r"wilson\.successes must be .* \[0, 3\], got 4"):
            wilson(4, 3)


class TestIqm:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [([1, 2, 4], 7 / 3), ([0, 1, 3, 100], 2.0), ([9, 1, 2, 3, 4, 5, 6, -9], 3.5), ([5], 5.0)],
    )
    def test_small_cases(self, values, expected):
        assert iqm(values) == pytest.approx(expected)

    def test_axis(self):
        assert iqm([[0, 1, 3, 100], [1, 1, 1, 1]]).tolist() == [2.0, 1.0]


class TestSignedRank:
    def test_six_wins_are_exact_and_earn_a_star(self):
        found = signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0] * 6)
        assert (found.pvalue, found.method, found.n) == (1 / 32, "exact", 6)
        assert found.star()

    def test_five_wins_and_a_tie_use_the_normal_approximation(self):
        """W = 15 of mean 7.5 and variance 13.75."""
        found = signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.7], [0, 0, 0, 0, 0, 0.7])
        expected = 2 * stats.norm.sf(7.5 / math.sqrt(13.75))
        assert found.pvalue == pytest.approx(expected)
        assert expected == pytest.approx(0.0431, abs=5e-5)
        assert (found.method, found.n) == ("normal", 5)

    def test_five_wins_are_not_enough(self):
        assert signed_rank([1, 2, 3, 4, 5], [0] * 5).pvalue == 1 / 16

    def test_is_symmetric_but_for_who_is_better(self):
        a, b = [0.9, 0.8, 0.3, 0.4, 0.9, 0.5], [0.1, 0.7, 0.4, 0.2, 0.1, 0.2]
        ab, ba = signed_rank(a, b), signed_rank(b, a)
        assert ab.pvalue == ba.pvalue
        assert (ab.better, ba.better) == (True, False)

    def test_six_losses_earn_no_star(self):
        assert not signed_rank([0] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).star()

    def test_equal_samples(self):
        found = signed_rank([0.3, 0.4], [0.3, 0.4])
        assert (found.pvalue, found.method, found.star()) == (1.0, "none", False)

    def test_rounding_of_printed_figures_is_a_tie(self):
        assert signed_rank([0.1 + 0.2, 1.0], [0.3, 0.5]).n == 1

    @pytest.mark.parametrize("pair", [([1.0], [1.0, 2.0]), ([], []), ([math.inf], [1.0])])
    def test_refuses(self, pair):
        with pytest.raises(ValueError, match=r"signed_rank\.(a|b) must be"):
            signed_rank(*pair)
