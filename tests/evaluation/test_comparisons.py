"""Signed ranks against all signs, and the probability of improvement against all pairs."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustmarl.evaluation import probability_of_improvement, signed_rank

RUNS = st.lists(st.integers(0, 4), min_size=2, max_size=5)


class TestSignedRank:
    def test_six_wins_are_exact_and_earn_a_star(self):
        found = signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0] * 6)
        assert (found.pvalue, found.method, found.n) == (1 / 32, "exact", 6)
        assert found.star()

    def test_of_a_tie_the_other_pairs_are_left(self):
        found = signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.7], [0, 0, 0, 0, 0, 0.7])
        assert (found.pvalue, found.method, found.n) == (1 / 16, "exact", 5)
        assert not found.star()

    def test_five_wins_and_a_tie_by_the_normal_approximation(self):
        """W = 15 of mean 7.5 and variance 13.75."""
        wins = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7]
        found = signed_rank(wins, [0, 0, 0, 0, 0, 0.7], method="normal")
        expected = 2 * stats.norm.sf(7.5 / math.sqrt(13.75))
        assert found.pvalue == pytest.approx(expected)
        assert expected == pytest.approx(0.0431, abs=5e-5)
        assert (found.method, found.n) == ("normal", 5)

    def test_refuses_other_methods(self):
        with pytest.raises(ValueError, match=r"signed_rank\.method must be one of"):
            signed_rank([1.0], [0.0], method="sign")

    def test_five_wins_are_not_enough(self):
        assert signed_rank([1, 2, 3, 4, 5], [0] * 5).pvalue == 1 / 16

    def test_equal_differences_share_their_ranks(self):
        """Ranks 1.5, 1.5, 3, one of the first negative: sums 0, 1.5, 1.5, 3, 3, 4.5, 4.5, 6."""
        found = signed_rank([1.0, -1.0, 2.0], [0.0] * 3)
        assert found.pvalue == 6 / 8  # of all but the two in the middle

    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
    def test_is_the_share_of_all_signs(self, values):
        size = np.abs([v for v in values if v != 0])
        found = signed_rank(values, [0] * len(values))
        assert found.n == len(size)
        if len(size) == 0:
            return
        ranks, sign = stats.rankdata(size), np.sign([v for v in values if v != 0])
        every = np.array(list(product([-1, 1], repeat=len(size)))) @ ranks
        assert found.pvalue == pytest.approx(np.mean(np.abs(every) >= abs(sign @ ranks) - 1e-9))

    @given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=12, unique=True), st.randoms())
    def test_without_ties_it_is_the_exact_test(self, values, random):
        signed = [value * random.choice([-1, 1]) for value in values]
        if len(np.unique(np.round(np.abs(signed), 10))) < len(signed):
            return
        expected = stats.wilcoxon(signed, method="exact").pvalue
        assert signed_rank(signed, [0.0] * len(signed)).pvalue == pytest.approx(expected)

    def test_is_symmetric_but_for_who_is_better(self):
        a, b = [0.9, 0.8, 0.3, 0.4, 0.9, 0.5], [0.1, 0.7, 0.4, 0.2, 0.1, 0.2]
        ab, ba = signed_rank(a, b), signed_rank(b, a)
        assert ab.pvalue == ba.pvalue
        assert (ab.better, ba.better) == (True, False)

    @pytest.mark.parametrize("method", ["exact", "normal"])
    def test_one_large_win_among_twelve_losses_earns_no_star(self, method):
        losses = [-0.1 - 0.001 * i for i in range(12)]
        found = signed_rank([*losses, 10.0], [0.0] * 13, method=method)
        assert found.pvalue < 0.05
        assert not found.better
        assert signed_rank([0.0] * 13, [*losses, 10.0], method=method).star()

    def test_ranks_that_balance_are_nobodys(self):
        found = signed_rank([3.0, -1.0, -2.0], [0.0] * 3)
        assert (found.pvalue, found.better) == (1.0, False)

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


def runs(means):
    """Return seeds with two episodes around each mean."""
    return [[mean - 1.0, mean + 1.0] for mean in means]


class TestProbabilityOfImprovement:
    def test_counts_pairs_and_halves_ties(self):
        """(1, 2) against (1, 0, 3): 1 ties, beats 0; 2 beats 1 and 0; of 6 pairs 3.5."""
        found = probability_of_improvement({"a": runs([1, 2])}, {"a": runs([1, 0, 3])})
        assert found.mean == pytest.approx(3.5 / 6)
        assert (found.n_seeds, found.n_episodes) == (2, 10)

    def test_is_the_mean_over_tasks(self):
        ours, theirs = {"a": runs([1, 2]), "b": runs([5])}, {"b": runs([4]), "a": runs([2, 2])}
        assert probability_of_improvement(ours, theirs).mean == pytest.approx((0.25 + 1.0) / 2)

    @given(RUNS, RUNS)
    def test_is_what_the_rank_sum_test_counts(self, ours, theirs):
        found = probability_of_improvement({"a": runs(ours)}, {"a": runs(theirs)})
        u = stats.mannwhitneyu(ours, theirs, alternative="greater").statistic
        assert found.mean == pytest.approx(u / (len(ours) * len(theirs)))
        assert -1e-9 <= found.low <= found.mean <= found.high <= 1.0 + 1e-9

    @given(RUNS, RUNS)
    def test_turns_round(self, ours, theirs):
        one = probability_of_improvement({"a": runs(ours)}, {"a": runs(theirs)})
        other = probability_of_improvement({"a": runs(theirs)}, {"a": runs(ours)})
        mirrored = (1.0 - other.mean, 1.0 - other.high, 1.0 - other.low)
        assert (one.mean, one.low, one.high) == pytest.approx(mirrored)

    def test_ends_solve_the_score_equation(self):
        found = probability_of_improvement({"a": runs([3, 4, 9])}, {"a": runs([1, 3, 5])})
        reach = stats.t.ppf(0.975, 4)
        for p in (found.low, found.high):
            spread = 1.0 + 2.0 * ((1.0 - p) / (2.0 - p) + p / (1.0 + p))
            variance = p * (1.0 - p) / 9 * spread
            assert abs(found.mean - p) == pytest.approx(reach * math.sqrt(variance))

    def test_keeps_a_width_where_all_pairs_agree(self):
        found = probability_of_improvement({"a": runs([7, 8, 9])}, {"a": runs([1, 2, 3])})
        assert (found.mean, found.high) == (1.0, 1.0)
        assert found.low < 0.6

    @pytest.mark.parametrize("tasks", [3, 6, 7, 10, 11, 49])
    def test_wins_on_all_of_many_tasks_are_certain(self, tasks):
        """A sum of k times 1 / k is less than 1 for some k."""
        ours, theirs = ({f"{i}": runs(means) for i in range(tasks)} for means in ([7, 8], [1, 2]))
        won, lost = (
            probability_of_improvement(ours, theirs),
            probability_of_improvement(theirs, ours),
        )
        assert (won.mean, won.high) == (1.0, 1.0)
        assert (lost.mean, lost.low) == (0.0, 0.0)
        assert lost.high == pytest.approx(1.0 - won.low)

    @pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
    def test_covers_as_it_says(self, shift):
        rng, truth = np.random.default_rng(0), stats.norm.cdf(shift / math.sqrt(2))
        covered = 0
        for _ in range(400):
            ours, theirs = rng.normal(shift, 1.0, 3), rng.normal(0.0, 1.0, 3)
            found = probability_of_improvement({"a": runs(ours)}, {"a": runs(theirs)})
            covered += found.low <= truth <= found.high
        assert covered / 400 >= 0.94

    def test_refuses(self):
        one = {"a": runs([1, 2])}
        with pytest.raises(ValueError, match=r"second must be of the tasks \['a'\], got \['b'\]"):
            probability_of_improvement(one, {"b": runs([1])})
        with pytest.raises(ValueError, match="must be of several seeds"):
            probability_of_improvement({"a": runs([1])}, {"a": runs([1])})
        with pytest.raises(TypeError, match=r"first must be a mapping from tasks, got list"):
            probability_of_improvement([[1.0]], one)
        with pytest.raises(ValueError, match=r"first must be non-empty"):
            probability_of_improvement({}, {})
