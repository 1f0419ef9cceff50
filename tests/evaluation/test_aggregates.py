"""Figures over tasks, against their definitions."""

import numpy as np
import pytest
from scipy import stats

from robustmarl.evaluation import iqm, performance_profile, task_iqm

TASKS = {
    "a": [[0.0, 0.2], [0.4, 0.4], [1.0]],
    "b": [[0.9], [0.5], [0.7]],
}
MEANS = np.array([[0.1, 0.4, 1.0], [0.9, 0.5, 0.7]])


class TestTaskIqm:
    def test_is_the_trimmed_mean_of_all_runs(self):
        found = task_iqm(TASKS)
        assert found.mean == pytest.approx(stats.trim_mean(MEANS, 0.25, axis=None))
        assert found.mean == pytest.approx((0.4 + 0.5 + 0.7 + 0.9) / 4)  # one of six off each end
        assert (found.n_seeds, found.n_episodes) == (3, 8)
        assert found.method == "bootstrap stratified by task, IQM, 2000 resamples"

    def test_tasks_are_strata(self):
        """Seeds that agree within tasks leave no width, however far apart tasks are."""
        found = task_iqm({"a": [[0.0]] * 3, "b": [[1.0]] * 3})
        assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_same_seed_same_interval(self):
        assert task_iqm(TASKS) == task_iqm(TASKS)
        assert task_iqm(TASKS, resamples=50) != task_iqm(TASKS, resamples=50, seed=1)

    @pytest.mark.parametrize("seeds", [3, 10])
    def test_covers_as_it_says(self, seeds):
        rng, alpha = np.random.default_rng(1), np.linspace(2.0, 8.0, 5)
        truth = iqm(rng.beta(alpha, 4.0, (40_000, 5)).ravel())
        covered = 0
        for _ in range(300):
            drawn = rng.beta(alpha, 4.0, (seeds, 5))
            found = task_iqm({str(k): drawn[:, k, None] for k in range(5)}, resamples=300)
            covered += found.low <= truth <= found.high
        assert covered / 300 >= 0.92

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"task_iqm\.scores must be of two seeds per task"):
            task_iqm({"a": [[0.0], [1.0]], "b": [[0.5]]})
        with pytest.raises(ValueError, match=r"task_iqm\.scores must be non-empty"):
            task_iqm({})


class TestPerformanceProfile:
    def test_is_the_share_of_runs_strictly_above(self):
        found = performance_profile(TASKS, [-1.0, 0.1, 0.45, 0.7, 1.0])
        assert found.share.tolist() == pytest.approx([1.0, 5 / 6, 4 / 6, 2 / 6, 0.0])
        assert found.low[0] == pytest.approx(0.025 ** (1 / 6))
        assert (found.high[0], found.low[-1]) == (1.0, 0.0)
        assert found.high[-1] == pytest.approx(1.0 - 0.025 ** (1 / 6))
        middle = stats.binomtest(4, 6).proportion_ci(method="exact")
        assert (found.low[2], found.high[2]) == pytest.approx((middle.low, middle.high))

    def test_of_tasks_it_is_the_share_of_means_above(self):
        found = performance_profile(TASKS, [0.4, 0.6, 0.8], of="tasks")
        assert found.share.tolist() == [1.0, 0.5, 0.0]  # means .5 and .7

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"thresholds must be finite numbers, \(P,\)"):
            performance_profile(TASKS, [])
        with pytest.raises(ValueError, match=r"performance_profile\.of must be one of"):
            performance_profile(TASKS, [0.5], of="seeds")
