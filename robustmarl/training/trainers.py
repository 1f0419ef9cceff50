"""Tianshou's trainers, counting whole episodes, with one progress bar for the whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypedDict, TypeGuard, cast

import tqdm
from tianshou.algorithm.algorithm_base import TrainingStats
from tianshou.data import CollectStats
from tianshou.data.collector import CollectStatsBase
from tianshou.trainer import (
    OffPolicyTrainer,
    OffPolicyTrainerParams,
    OnlineTrainer,
    OnPolicyTrainer,
    OnPolicyTrainerParams,
    Trainer,
)
from tianshou.utils import BaseLogger
from torch.optim.lr_scheduler import LRScheduler

from robustmarl.data import SlowCopy
from robustmarl.data.stats import TeamCollectStats
from robustmarl.joint import TeamSpec
from robustmarl.perturbers.base import Perturber
from robustmarl.policies.base import TeamPolicy

__all__ = [
    "EpisodeOffPolicyParams",
    "EpisodeOffPolicyTrainer",
    "EpisodeOnPolicyTrainer",
    "EpisodeTrainer",
    "Trainable",
    "TrainerCounters",
    "check_trainable",
    "is_trainable",
]


class Trainable(Protocol):
    """What :func:`run` trains: a team's algorithm, alone or with others that learn beside it.

    Every :class:`~robustmarl.learning.TeamAlgorithm` is one, and so is
    :class:`AdversarialTraining`. It is a Tianshou algorithm, on- or off-policy.
    """

    seed: int
    """Of minibatches; a resumed run sets it."""

    lr_schedulers: list[LRScheduler]
    """Of its optimizers, Tianshou's; a checkpoint keeps their state."""

    @property
    def policy(self) -> TeamPolicy:
        """The policy that plays the team while it learns."""

    @property
    def spec(self) -> TeamSpec:
        """The team's."""

    @property
    def off_policy(self) -> bool:
        """Whether it learns from a replay buffer, or from the newest episodes only."""

    @property
    def takes_segments(self) -> bool:
        """Whether it learns from pieces of episodes, given memory and actions from before them."""

    def perturbers(self) -> Sequence[Perturber]:
        """Return the perturbers that play while it trains, behind those that the run is given."""

    def state_dict(self) -> dict[str, object]:
        """Return all weights and optimizers."""

    def load_state_dict(self, state_dict: Mapping[str, object]) -> object:
        """Load what :meth:`state_dict` returned, and leave it as it was."""


_TRAINABLE = (
    "seed",
    "lr_schedulers",
    "policy",
    "spec",
    "off_policy",
    "takes_segments",
    "perturbers",
    "state_dict",
    "load_state_dict",
)


def is_trainable(algorithm: object) -> TypeGuard[Trainable]:
    """Return whether ``algorithm`` is :class:`Trainable`.

    It is asked for names: since Python 3.12 ``isinstance`` looks past a policy that torch keeps
    among an algorithm's modules.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> is_trainable(team), is_trainable(team.policy)
        (True, False)
    """
    return not isinstance(algorithm, type) and all(hasattr(algorithm, name) for name in _TRAINABLE)


def check_trainable(where: str, algorithm: object) -> None:
    """Raise ``TypeError`` unless ``algorithm`` is :class:`Trainable`."""
    if not is_trainable(algorithm):
        raise TypeError(
            f"{where} must be a robustmarl algorithm, got {type(algorithm).__name__}. "
            "Train Tianshou's own with Tianshou's trainer."
        )


class TrainerCounters(TypedDict):
    """What a trainer has counted; a resumed run goes on from there."""

    epoch: int
    env_step: int
    update_step: int
    episodes: int


class _OnEnvSteps:
    """A logger that is told of updates and intervals by environment steps, as of all else.

    Counts of their own cannot be told apart from steps where a continued run is to purge what it
    will log again, and curves over different counts do not compare.
    """

    def __init__(self, logger: BaseLogger, now: Callable[[], int]) -> None:
        self._inner, self._now = logger, now

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def log_update_data(self, log_data: dict[str, object], step: int) -> None:
        self._inner.log_update_data(log_data, self._now())

    def log_info_data(self, log_data: dict[str, object], step: int) -> None:
        self._inner.log_info_data(log_data, self._now())


class EpisodeTrainer(OnlineTrainer):  # type: ignore[type-arg]
    """Shows all epochs in one bar of environment steps, and hands over what was collected.

    Mixed in left of Tianshou's on- or off-policy trainer.

    Args:
        algorithm: what is trained.
        params: Tianshou's.
        bar: of environment steps; None shows nothing.
        followers: opponents of self-play by their team, which follow the learner once per round.
        team: the learner's.
        rounds: after so many it has :attr:`ended`; None is never.
        on_collect: called once per round with the statistics of its episodes.
    """

    def __init__(
        self,
        algorithm: Trainable,
        params: EpisodeOffPolicyParams | OnPolicyTrainerParams,
        *,
        bar: tqdm.tqdm | None = None,
        followers: Mapping[str, SlowCopy] | None = None,
        team: str = "",
        rounds: int | None = None,
        on_collect: Callable[[TeamCollectStats], None] | None = None,
    ) -> None:
        super().__init__(algorithm, params)
        self._rounds = rounds
        self._bar = tqdm.tqdm(disable=True) if bar is None else bar
        self._followers, self._team, self._on_collect = followers or {}, team, on_collect
        self._played = 0
        self._logger = cast(BaseLogger, _OnEnvSteps(self._logger, lambda: self._played))

    @property
    def _pbar(self) -> Callable[..., tqdm.tqdm]:
        """Give Tianshou, which makes a bar per epoch and closes it, the run's one bar instead."""
        kept_open = nullcontext(self._bar)
        return cast("Callable[..., tqdm.tqdm]", lambda *args, **kwargs: kept_open)

    @property
    def ended(self) -> bool:
        """Whether as many rounds were played as there are to be: Tianshou's update steps."""
        return self._rounds is not None and self._current_update_step >= self._rounds

    def _training_step(self) -> OnlineTrainer._TrainingStepResult:
        result = super()._training_step()
        stats = cast(TeamCollectStats, result.get_collect_stats())
        for team, opponent in self._followers.items():
            earned = stats.earned  # nothing where none asks who is ahead
            opponent.follow(not earned or earned[self._team] > earned[team])
        if self._on_collect is not None:
            self._on_collect(stats)
        if not self.ended:
            return result
        return self._TrainingStepResult(
            collect_stats=stats, training_stats=result.get_training_stats(), is_training_done=True
        )

    def _collect_training_data(self) -> CollectStats:
        stats = super()._collect_training_data()
        self._played = self._env_step + stats.n_collected_steps  # which Tianshou counts after it
        return stats

    def _create_epoch_pbar_data_dict(
        self, training_step_result: Trainer._TrainingStepResult
    ) -> dict[str, str]:
        """Show the return of the round's episodes and how long they were."""
        stats = training_step_result.get_collect_stats()
        if stats is None or stats.returns_stat is None or stats.lens_stat is None:
            return {}
        return {"return": f"{stats.returns_stat.mean:.2f}", "length": f"{stats.lens_stat.mean:.0f}"}

    def run_interval(self, env_steps: int) -> None:
        """Play and learn for at least ``env_steps`` steps, in whole rounds: an epoch.

        Episodes begin anew with it, so that between two of them there is nothing to keep.
        """
        self.params.training_collector.reset(reset_buffer=False, reset_stats=False)
        self.params.epoch_num_steps = env_steps
        self.execute_epoch()

    def restore(self, counters: TrainerCounters) -> None:
        """Go on from what :meth:`counters` returned."""
        self._epoch, self._env_step = counters["epoch"], counters["env_step"]
        self._current_update_step = counters["update_step"]
        self._env_episode = counters["episodes"]

    def counters(self) -> TrainerCounters:
        """Return what was counted so far."""
        return {
            "epoch": self._epoch,
            "env_step": self._env_step,
            "update_step": self._current_update_step,
            "episodes": self._env_episode,
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


class EpisodeOffPolicyTrainer(EpisodeTrainer, OffPolicyTrainer):
    """Updates ``updates_per_episode`` times per collected episode, but at least once a round."""

    params: EpisodeOffPolicyParams

    def _update_step(self, collect_stats: CollectStatsBase) -> TrainingStats:
        buffer = self.params.training_collector.buffer
        stats = TrainingStats()
        if len(buffer) < self.params.learning_starts:
            return stats
        wanted = round(self.params.updates_per_episode * collect_stats.n_collected_episodes)
        for _ in range(max(1, wanted)):
            stats = self.algorithm.update(sample_size=self.params.batch_size, buffer=buffer)
            self._policy_update_time += stats.train_time
        # Only the last update of a round is logged: averaging all costs more than it tells.
        self._update_moving_avg_stats_and_log_update_data(stats)
        return stats


class EpisodeOnPolicyTrainer(EpisodeTrainer, OnPolicyTrainer):
    """Tianshou's on-policy trainer: all collected episodes are learned from, then dropped."""
