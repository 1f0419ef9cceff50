"""Tianshou's trainers, counting whole episodes, with one progress bar for the whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import tqdm
from tianshou.algorithm.algorithm_base import TrainingStats
from tianshou.trainer import (
    OffPolicyTrainer,
    OffPolicyTrainerParams,
    OnPolicyTrainer,
    Trainer,
)

from robustmarl.data import SlowCopy

__all__ = [
    "EpisodeOffPolicyParams",
    "EpisodeOffPolicyTrainer",
    "EpisodeOnPolicyTrainer",
    "RunBar",
]


class RunBar(Trainer):  # type: ignore[type-arg]
    """Shows all epochs in one bar of environment steps, and keeps what was collected."""

    bar: Any = None
    followers: Sequence[SlowCopy] = ()

    @property
    def _pbar(self) -> Callable[..., Any]:
        if self.bar is None:
            self.bar = tqdm.tqdm(disable=True)

        def epoch(*args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
            return nullcontext(self.bar)

        return epoch

    def _training_step(self) -> Any:
        result = super()._training_step()  # type: ignore[safe-super]
        for copy in self.followers:
            copy.follow()
        return result

    def _create_epoch_pbar_data_dict(self, training_step_result: Any) -> dict[str, str]:
        """Show the return of the round's episodes and how long they were."""
        stats = training_step_result.get_collect_stats()
        if stats.returns_stat is None or stats.lens_stat is None:
            return {}
        return {"return": f"{stats.returns_stat.mean:.2f}", "length": f"{stats.lens_stat.mean:.0f}"}

    def restore(self, epoch: int, env_step: int, update_step: int, episodes: int) -> None:
        """Set the counters of a resumed run."""
        self._epoch, self._env_step = epoch, env_step
        self._current_update_step, self._env_episode = update_step, episodes

    def counters(self) -> dict[str, int]:
        """Return the arguments of :meth:`restore`."""
        return {
            "epoch": self._epoch,
            "env_step": self._env_step,
            "update_step": self._current_update_step,
            "episodes": cast(Any, self)._env_episode,
        }


@dataclass(kw_only=True)
class EpisodeOffPolicyParams(OffPolicyTrainerParams):
    """Tianshou's parameters, with updates counted per collected episode.

    Attributes:
        updates_per_episode: gradient updates per episode played, > 0.
        learning_starts: do not update before the buffer holds so many episodes.
    """

    updates_per_episode: float = 1.0
    learning_starts: int = 32


class EpisodeOffPolicyTrainer(RunBar, OffPolicyTrainer):
    """Updates ``updates_per_episode`` times per collected episode."""

    params: EpisodeOffPolicyParams

    def _update_step(self, collect_stats: Any) -> TrainingStats:
        buffer = self.params.training_collector.buffer
        stats: TrainingStats = TrainingStats()
        if len(buffer) < self.params.learning_starts:
            return stats
        updates = max(
            1, round(self.params.updates_per_episode * collect_stats.n_collected_episodes)
        )
        for _ in range(updates):
            stats = self.algorithm.update(sample_size=self.params.batch_size, buffer=buffer)
            self._policy_update_time += stats.train_time
        self._stat_log(stats)
        return stats

    def _stat_log(self, stats: TrainingStats) -> None:
        """Log the last update of a round: averaging every one costs more than it tells."""
        self._update_moving_avg_stats_and_log_update_data(stats)


class EpisodeOnPolicyTrainer(RunBar, OnPolicyTrainer):
    """Tianshou's on-policy trainer: all collected episodes are learned from, then dropped."""
