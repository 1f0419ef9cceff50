"""Closed forms, degenerate cases, and how often intervals cover what they are about."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustmarl.evaluation import Estimate, bootstrap, clopper_pearson, interval, iqm, wilson

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


class TestInterval:
    def test_three_seeds_by_hand(self):
        """Means 1, 2, 3 have deviation 1; t with two degrees of freedom is 4.3027."""
        found = interval([[1.0], [2.0], [3.0]])
        half = 4.3026527297 / math.sqrt(3)
        assert (found.mean, found.low) == (2.0, pytest.approx(2.0 - half))
        assert found.high == pytest.approx(2.0 + half)
        assert found.method == "Student t over training seeds"
        assert (found.n_seeds, found.n_episodes, found.level) == (3, 3, 0.95)

    def test_seeds_weigh_the_same_however_many_episodes_they_played(self):
        assert interval({0: [1.0], 1: [0.0] * 9}).mean == 0.5

    def test_shares_stay_in_their_range(self):
        found = interval([[1.0] * 10, [0.0] * 10])
        assert (found.low, found.high) == (0.0, 1.0)
        free = interval([[2.0] * 10, [0.0] * 10])
        assert free.low < 0.0 < 2.0 < free.high
        cut = interval([[2.0] * 10, [0.0] * 10], limits=(0.0, 3.0))
        assert (cut.low, cut.high) == (0.0, 3.0)

    def test_teams_that_do_the_same_in_the_same_episodes_are_worth_one(self):
        one, three = (interval([[0.0, 4.0, 5.0, 7.0]] * seeds) for seeds in (1, 3))
        assert (three.low, three.high) == pytest.approx((one.low, one.high))
        assert three.n_episodes == 12
        one, three = (interval([[1.0] * 150 + [0.0] * 50] * seeds) for seeds in (1, 3))
        assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=0.01)

    def test_seeds_that_agree_by_chance_leave_what_episodes_leave(self):
        """Means are equal, scores of one episode turned: all episodes count, by themselves."""
        first, second = [0.0, 4.0, 5.0, 7.0], [7.0, 5.0, 4.0, 0.0]
        error = math.sqrt(2 * np.var(first, ddof=1) / 4) / 2
        found = interval([first, second])
        assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 6) * error)
        won = interval([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
        exact = clopper_pearson(4, 8)
        assert (won.low, won.high) == pytest.approx((exact.low, exact.high))

    def test_who_never_lost_may_have_met_only_what_is_easy_for_all(self):
        won = interval([[1.0] * 50, [1.0] * 50])
        assert (won.low, won.high) == pytest.approx((0.025 ** (1 / 50), 1.0))
        apart = interval([[1.0] * 50, [1.0] * 49])  # not the same episodes: all 99 count
        assert apart.low == pytest.approx(0.025 ** (1 / 99))

    def test_adds_what_seeds_differ_by_and_what_they_share(self):
        """Seeds 0 and 2 around the same episodes -1, 1: means by 2, covariance 2, nothing else."""
        found = interval([[-1.0, 1.0], [1.0, 3.0]])
        reach = stats.t.ppf(0.975, 1)
        of_seeds, shared = reach * math.sqrt(2.0) / math.sqrt(2.0), reach * math.sqrt(2.0 / 2.0)
        assert found.high - found.mean == pytest.approx(math.hypot(of_seeds, shared))

    @pytest.mark.parametrize("latent", [0.0, 0.5, 0.9])
    def test_covers_of_teams_to_whom_the_same_is_easy(self, latent):
        """Five teams that win .7 of 50 episodes, with latent difficulties in common."""
        rng, covered = np.random.default_rng(1), 0
        for _ in range(400):
            shared, own = rng.standard_normal(50), rng.standard_normal((5, 50))
            hard = math.sqrt(latent) * shared + math.sqrt(1.0 - latent) * own
            found = interval(list((hard < stats.norm.ppf(0.7)).astype(float)))
            covered += found.low <= 0.7 <= found.high
        assert covered / 400 >= 0.93

    def test_one_team_is_exact_and_said_to_be_one(self):
        found, exact = interval([[1.0, 0.0, 1.0, 1.0]]), clopper_pearson(3, 4)
        assert (found.low, found.high) == (exact.low, exact.high)
        assert found.method == "Clopper-Pearson over the episodes of one team: of that team only"
        other = interval([[1.0, 2.0, 3.0]])
        assert other.high == pytest.approx(2.0 + 4.3026527297 / math.sqrt(3))
        assert other.method == "Student t over the episodes of one team: of that team only"

    def test_of_a_single_score_nothing_is_known(self):
        found = interval([[3.0]])
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert str(found) == "3.00 [-inf, inf]"
        cut = interval([[3.0]], limits=(0.0, 5.0))
        assert (cut.low, cut.high) == (0.0, 5.0)

    @pytest.mark.parametrize(("a", "b"), [(8, 2), (2, 2), (2, 8)])
    def test_covers_as_it_says_with_three_seeds(self, a, b):
        """Seeds' true rates are drawn from a Beta distribution, episodes are won at these."""
        rng, trials = np.random.default_rng(a), 2000
        rates = rng.beta(a, b, (trials, 3, 1))
        won = (rng.random((trials, 3, 100)) < rates).astype(float)
        found = [interval(list(seeds)) for seeds in won]
        covered = np.mean([one.low <= a / (a + b) <= one.high for one in found])
        assert covered >= 0.92

    @pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
    def test_covers_one_team_exactly(self, rate):
        """The probability of covering, summed over all numbers of episodes won."""
        covered = 0.0
        for won in range(41):
            found = interval([[1.0] * won + [0.0] * (40 - won)])
            covered += stats.binom.pmf(won, 40, rate) * (found.low <= rate <= found.high)
        assert covered >= 0.95

    @given(SEEDS)
    def test_a_higher_level_is_never_narrower_and_holds_the_mean(self, scores):
        found = [interval(scores, level=level) for level in (0.5, 0.8, 0.99)]
        for inner, outer in pairwise(found):
            assert outer.low <= inner.low <= inner.high <= outer.high
        slack = 1e-9 * (1.0 + abs(found[0].mean))
        assert found[0].low - slack <= found[0].mean <= found[0].high + slack

    @given(SEEDS, st.floats(2, 10))
    def test_shifts_with_the_scores(self, scores, shift):
        scores = {seed: [9.5, *values] for seed, values in scores.items()}  # no lost and won
        found = interval(scores)
        moved = interval({s: np.array(v) + shift for s, v in scores.items()})
        assert moved.mean == pytest.approx(found.mean + shift, abs=1e-9)
        assert moved.low == pytest.approx(found.low + shift, abs=1e-6)

    def test_scores_that_happen_to_be_0_and_1_need_not_be_lost_and_won(self):
        """Of returns in [0, 10] one that is 1 says nothing about those that would be 9."""
        returns = [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        found = interval(returns, limits=(0.0, 10.0))
        shifted = interval([[x + 1.0 for x in one] for one in returns], limits=(0.0, 11.0))
        assert found.high == pytest.approx(shifted.high - 1.0)
        assert found.high > 1.0
        alone = interval([[1.0]], limits=(0.0, 10.0))
        assert (alone.low, alone.high) == (0.0, 10.0)
        assert interval(returns, limits=(0.0, 1.0)) == interval(returns)

    @pytest.mark.parametrize(
        ("kwargs", "text"),
        [
            ({"scores": {}}, r"interval\.scores must be non-empty"),
            ({"scores": [[]]}, r"seed number 0, must be of shape \(M,\) with M >= 1"),
            ({"scores": [[1.0], [math.nan]]}, "seed number 1, must be finite"),
            ({"scores": [[1.0]], "level": 1.0}, r"interval\.level must be a number in \(0, 1\)"),
            ({"scores": [[1.0]], "level": 0.0}, r"interval\.level must be"),
            ({"scores": [[1.0]], "limits": (1, 0)}, r"interval\.limits must be the lowest and"),
            ({"scores": [[5.0]], "limits": (0, 1)}, r"interval\.limits must be around all scores"),
        ],
    )
    def test_refuses(self, kwargs, text):
        with pytest.raises(ValueError, match=text):
            interval(**kwargs)

    def test_refuses_bare_numbers(self):
        with pytest.raises(TypeError, match=r"interval\.scores must be one array of episodes per"):
            interval([0.1, 0.2])


class TestBootstrap:
    def test_a_constant_has_no_width(self):
        found = bootstrap({0: [0.5] * 8, 1: [0.5] * 3})
        assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_counts_and_names_what_it_did(self):
        found = bootstrap({3: [1.0, 2.0], 7: [1.0]}, resamples=50, level=0.9)
        assert (found.n_seeds, found.n_episodes, found.level) == (2, 3, 0.9)
        assert found.method == "two-level bootstrap, IQM, 50 resamples"

    def test_a_single_seed_is_said_to_be_one(self):
        found = bootstrap([[0.0, 1.0]])
        assert "the episodes of one team: of that team only, IQM" in found.method
        assert bootstrap([[2.0]]).high == math.inf

    def test_seeds_differ_but_episodes_do_not(self):
        """Resampling 2 constant seeds gives 0, 1/2, 1; widened by sqrt 2 and t over z."""
        scores = {0: [0.0] * 5, 1: [1.0] * 5}
        free = (-math.inf, math.inf)
        wide = bootstrap(scores, limits=free)
        reach = 0.5 * math.sqrt(2) * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
        assert (wide.low, wide.high) == pytest.approx((0.5 - reach, 0.5 + reach))
        cut = bootstrap(scores)  # of lost and won
        assert (cut.low, cut.high) == (0.0, 1.0)
        narrow = bootstrap(scores, level=0.4, limits=free)  # quantiles .3 and .7
        assert (narrow.low, narrow.high) == (0.5, 0.5)

    def test_episodes_are_drawn_for_all_teams_alike(self):
        """Five teams that do the same in the same episodes tell no more than one of them."""
        scores = np.random.default_rng(0).normal(size=30)
        one, five = bootstrap([scores]), bootstrap([scores] * 5)
        widths = [found.high - found.low for found in (one, five)]
        factor = math.sqrt(5 / 4) * stats.t.ppf(0.975, 4)  # what few seeds are widened by
        factor /= math.sqrt(30 / 29) * stats.t.ppf(0.975, 29)
        assert widths[1] == pytest.approx(factor * widths[0], rel=0.1)
        apart = bootstrap([np.roll(scores, 6 * k) for k in range(5)])
        assert apart.high - apart.low < 0.7 * widths[1]

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        scores = {0: np.arange(50.0), 1: np.arange(50.0) ** 1.5}
        whole = bootstrap(scores, resamples=300)
        monkeypatch.setattr("robustmarl.evaluation.resampling._BLOCK", 500)
        assert bootstrap(scores, resamples=300) == whole

    def test_same_seed_same_interval_and_other_seed_another(self):
        scores = {0: np.arange(40.0), 1: np.arange(40.0) + 3}
        assert bootstrap(scores) == bootstrap(scores)
        assert bootstrap(scores) != bootstrap(scores, seed=1)

    def test_iqm_over_seeds_ignores_an_outlier(self):
        assert bootstrap([[0.0], [1.0], [1.0], [100.0]]).mean == 1.0

    def test_takes_a_function(self):
        found = bootstrap([[0.0], [1.0], [5.0]], statistic=np.median)
        assert found.mean == 1.0
        assert "bootstrap, median" in found.method

    @given(SEEDS)
    def test_a_higher_level_is_never_narrower(self, scores):
        found = [bootstrap(scores, level=level, resamples=100) for level in (0.5, 0.8, 0.99)]
        for inner, outer in pairwise(found):
            assert outer.low <= inner.low <= inner.high <= outer.high

    @pytest.mark.parametrize("seeds", [3, 12])
    def test_covers_the_truth_as_it_says(self, seeds):
        """Seeds with sd 1, five episodes each with sd 1 around them."""
        rng = np.random.default_rng(0)
        covered = 0
        for _ in range(300):
            drawn = rng.normal(0.0, 1.0, seeds)[:, None] + rng.normal(0.0, 1.0, (seeds, 5))
            found = bootstrap(list(drawn), resamples=300)
            covered += found.low <= 0.0 <= found.high
        assert covered / 300 >= 0.92

    @pytest.mark.parametrize(
        ("kwargs", "text"),
        [
            ({"scores": {}}, r"bootstrap\.scores must be non-empty"),
            ({"scores": [[1.0]], "resamples": 0}, r"bootstrap\.resamples must be an int >= 1"),
            ({"scores": [[1.0]], "statistic": "mode"}, r"must be one of \['iqm'\]"),
        ],
    )
    def test_refuses(self, kwargs, text):
        with pytest.raises(ValueError, match=text):
            bootstrap(**kwargs)


class TestClopperPearson:
    @pytest.mark.parametrize("n", [1, 10, 500])
    def test_all_or_nothing_keeps_a_width(self, n):
        """All won at p has probability p^n: the lower end is the n-th root of the tail."""
        assert clopper_pearson(n, n).low == pytest.approx(0.025 ** (1 / n))
        assert clopper_pearson(n, n).high == 1.0
        assert clopper_pearson(0, n).high == pytest.approx(1.0 - 0.025 ** (1 / n))

    @given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_ends_have_the_tails_that_they_should(self, case):
        k, n = case
        found = clopper_pearson(k, n, 0.8)
        if k > 0:
            assert stats.binom.sf(k - 1, n, found.low) == pytest.approx(0.1)
        if k < n:
            assert stats.binom.cdf(k, n, found.high) == pytest.approx(0.1)

    def test_refuses_more_wins_than_games(self):
        with pytest.raises(
            ValueError, match=r"clopper_pearson\.successes must be .* \[0, 3\], got 4"
        ):
            clopper_pearson(4, 3)


class TestWilson:
    @settings(deadline=None)
    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_ends_are_z_standard_errors_away(self, case):
        k, n = case
        found = wilson(k, n)
        for end in (found.low, found.high):
            away = n * (k / n - end) ** 2
            assert away == pytest.approx(1.959963984540054**2 * end * (1 - end), abs=1e-9)
        assert 0.0 <= found.low <= k / n <= found.high <= 1.0

    def test_all_and_nothing(self):
        """All won: n / (n + z^2)."""
        square = 1.959963984540054**2
        assert wilson(10, 10).low == pytest.approx(10 / (10 + square))
        assert wilson(0, 10).high == pytest.approx(square / (10 + square))
        assert (wilson(0, 10).low, wilson(10, 10).high) == (0.0, 1.0)

    @pytest.mark.parametrize(
        ("level", "ends"), [(1.0 - 2.0**-53, (0.0, 1.0)), (2.0**-99, (0.3, 0.3))]
    )
    def test_levels_next_to_one_and_to_nothing(self, level, ends):
        found = wilson(3, 10, level)
        assert (found.low, found.high) == pytest.approx(ends)

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
