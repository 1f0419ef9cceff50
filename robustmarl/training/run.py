"""One call that trains: collector, buffer, trainer, progress, logs, tests, checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeAlias

import tqdm
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils import BaseLogger, LazyLogger, TensorboardLogger
from torch.utils.tensorboard import SummaryWriter

from robustmarl._checks import check, check_function, check_int, check_kind, speaking_for
from robustmarl._seeding import mix, stream_id
from robustmarl._signatures import advised
from robustmarl.attacks.base import ObsAttack
from robustmarl.data import Controller, EpisodeBuffer, JointCollector
from robustmarl.data.perturbed import follower_of
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.joint import TeamSpec
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.stack import listed
from robustmarl.training.files import locked
from robustmarl.training.fingerprint import fingerprint
from robustmarl.training.history import History, Recorder
from robustmarl.training.progress import progress_bar
from robustmarl.training.resume import CHECKPOINT, HISTORY, RunState, checkpoint_of
from robustmarl.training.settings import Attacks, Log, OffPolicy, OnPolicy, Tests
from robustmarl.training.trainers import (
    EpisodeOffPolicyParams,
    EpisodeOffPolicyTrainer,
    EpisodeOnPolicyTrainer,
    EpisodeTrainer,
    Trainable,
    check_trainable,
)
from robustmarl.typing import RobustnessWarning

__all__ = ["Callback", "run"]

Callback: TypeAlias = Callable[[History], bool | None]
"""What :func:`run` calls at the end of every interval; True stops the run."""

INTERVALS = 20
"""Into how many intervals a run is cut unless it is told: enough points for a learning curve."""

SHORT_EPISODE = 4
"""A round counted in steps begins with room for episodes of so many steps; see ``_buffer``."""


@advised(learn=(OffPolicy, OnPolicy), tests=(Tests,), log=(Log,))
def run(
    algorithm: Trainable,
    make_env: EnvMaker,
    *,
    env_steps: int,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, Controller] | None = None,
    perturb: Attacks = (),
    interval: int | None = None,
    learn: OffPolicy | OnPolicy | None = None,
    tests: Tests | Mapping[str, Attacks] | None = None,
    log: Log | None = None,
    callback: Callback | None = None,
) -> History:
    """Train ``algorithm`` and return its history.

    Every ``interval`` the run is tested and, with a ``logdir``, checkpointed: a run that is
    killed loses no more than that, and with ``resume=True`` continues bit for bit.

    Args:
        algorithm: a robustmarl algorithm, or :class:`AdversarialTraining`; changed in place.
        make_env: builds one environment, or a batched engine.
        env_steps: environment steps to play, >= 1; the last round may exceed it, and
            ``OnPolicy.rounds`` may end the run before.
        num_envs: environments side by side, >= 1.
        seed: of episodes and sampling, >= 0; tests use streams of their own.
        team: name of the team that learns, where there are several.
        opponents: controllers of the other teams: trained or slowly following ones
            (:class:`~robustmarl.data.SlowCopy`, self-play), scripts, and perturbed ones
            (:class:`~robustmarl.data.PerturbedController`).
        perturb: attacks on the team while it trains: adversarial training. The victim is the
            learner itself, live.
        interval: steps between tests and checkpoints, >= 1; None is a twentieth of the run. With
            ``OnPolicy.segment_length`` at least those of an episode of full length in each
            environment, since episodes begin anew after it.
        learn: how it learns, :class:`OffPolicy` or :class:`OnPolicy` after its kind; None is
            that with its defaults.
        tests: what the team is tested under, :class:`Tests` or name to attacks; None tests
            nothing.
        log: where figures and checkpoints go, and what is shown; None shows a bar only.
        callback: called with the history at the end of every interval, when it is tested and
            checkpointed; the run stops if it returns True.

    Warns:
        RobustnessWarning: if an off-policy run ends before its first update: nothing was learned.

    Raises:
        ValueError: for bad numbers, a ``logdir`` that holds another run or that another process
            writes to, a checkpoint that does not fit or was written under other settings, and
            weights that are not finite: those are never checkpointed.
        TypeError: for an algorithm that is not one of ours, or settings of a wrong kind.

    Example:
        >>> from robustmarl import algorithms, envs, training
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> history = run(team, envs.climbing, env_steps=100, log=training.Log(progress=False))
        >>> history.episodes
        100
    """
    check_trainable("run.algorithm", algorithm)
    env_steps = check_int("run.env_steps", env_steps, 1)
    num_envs = check_int("run.num_envs", num_envs, 1)
    seed = check_int("run.seed", seed, 0)
    if interval is not None:
        interval = check_int("run.interval", interval, 1)
    learn, tests, log = _learn_of(algorithm, learn), _tests_of(tests), _log_of(log)
    if callback is not None:
        check_function("run.callback", callback, "a function of the history")
    if opponents is not None:
        rule = "a mapping from teams to what plays them"
        check_kind("run.opponents", opponents, Mapping, rule)
    given = listed("run.perturb", perturb)
    tested = {
        name: listed(f"run.tests[{name!r}]", attacks) for name, attacks in tests.attacks.items()
    }
    _check_apart([*given, *(one for several in tested.values() for one in several)])
    settings = fingerprint(
        seed=seed,
        num_envs=num_envs,
        team=team,
        opponents=dict(opponents or {}),
        perturb=given,
        plays=algorithm.perturbers(),
        # a run may be made longer, by steps or by rounds
        learn=replace(learn, rounds=None) if isinstance(learn, OnPolicy) else learn,
        algorithm=algorithm,
        schedules=algorithm.lr_schedulers,
    )

    with ExitStack() as closing:
        closing.enter_context(_interruptible(log))
        if log.folder is not None:
            closing.enter_context(locked("Log.logdir", log.folder, (CHECKPOINT, HISTORY)))
        saved = checkpoint_of(log)
        with speaking_for("run", vector_env), speaking_for("run", TeamSpec):
            env = vector_env(make_env, num_envs, algorithm.policy.device)
            closing.callback(env.close)
            spec = env.spec.of_team(team)
        interval = _interval(interval, env_steps, learn, num_envs * spec.horizon)
        buffer = _buffer(learn, spec, algorithm, num_envs, seed)
        # The trainer is part of reference cycles: by itself the buffer's memory would go late.
        closing.callback(lambda: buffer.data.clear())
        with speaking_for("run", JointCollector):
            collector = JointCollector(
                algorithm.policy,
                env,
                buffer,
                team=team,
                opponents=opponents,
                perturb=[*given, *algorithm.perturbers()],
                seed=_stream(seed, "train"),
                segments=isinstance(learn, OnPolicy) and learn.segment_length is not None,
            )
        testers: dict[str, JointCollector] = {}
        for name, attacks in tested.items():
            testers[name] = JointCollector(
                algorithm.policy,
                vector_env(make_env, min(num_envs, tests.episodes), algorithm.policy.device),
                team=team,
                opponents=opponents,
                perturb=attacks,
                seed=_stream(seed, "test"),
            )
            closing.callback(testers[name].close)
        begun = 0 if saved is None else saved["trainer"]["env_step"]
        logger = _logger(log, interval, begun, closing)
        history = History()
        recorder = Recorder(history, collector.spec.metrics, testers, tests.episodes, logger)
        bar = _bar(log, algorithm, env_steps, begun)
        closing.callback(bar.close)
        copies = {name: follower_of(one) for name, one in (opponents or {}).items()}
        followers = {name: one for name, one in copies.items() if one is not None}
        trainer = _trainer_of(algorithm)(
            algorithm,
            _params(learn, collector, num_envs, logger),
            bar=bar,
            followers=followers,
            team=collector.team,
            rounds=None if isinstance(learn, OffPolicy) else learn.rounds,
            on_collect=recorder.collected,
        )
        trainer.reset(reset_collectors=False)
        state = RunState(algorithm, collector, buffer, trainer, followers, history, settings)
        if saved is None:
            recorder.record(0, 0)
        else:
            state.restore(saved)
            if log.folder is not None:
                state.write_history(log.folder)
        while (done := trainer.counters()["env_step"]) < env_steps and not trainer.ended:
            trainer.run_interval(min(interval, env_steps - done))
            recorder.record(trainer.counters()["env_step"], trainer.counters()["episodes"])
            if log.folder is not None:
                state.save(log.folder)
            if callback is not None and bool(callback(history)):
                break
        _warn_of_nothing(learn, trainer.counters()["episodes"])
    return history


def _warn_of_nothing(learn: OffPolicy | OnPolicy, episodes: int) -> None:
    """Say so where a run was over before its first update."""
    if isinstance(learn, OffPolicy) and episodes < learn.learning_starts:
        warnings.warn(
            f"run: nothing was learned: it ended after {episodes} episodes, and the first update "
            f"comes after OffPolicy.learning_starts={learn.learning_starts}. Play longer, or begin "
            "earlier.",
            RobustnessWarning,
            stacklevel=4,  # run is wrapped
        )


def _learn_of(algorithm: Trainable, learn: OffPolicy | OnPolicy | None) -> OffPolicy | OnPolicy:
    """Return the settings, those of its kind by default, which must suit the algorithm."""
    kind = OffPolicy if algorithm.off_policy else OnPolicy
    if learn is None:
        return kind()
    if not isinstance(learn, kind):
        how = "off-policy" if algorithm.off_policy else "on-policy"
        raise TypeError(
            f"run.learn must be {kind.__name__}(...) for {type(algorithm).__name__}, which learns "
            f"{how}, got {learn!r}."
        )
    if isinstance(learn, OnPolicy) and not algorithm.takes_segments:
        rule = f"None for {type(algorithm).__name__}, which learns from whole episodes"
        check(learn.segment_length is None, "OnPolicy.segment_length", rule, learn.segment_length)
    return learn


def _interval(
    interval: int | None, env_steps: int, learn: OffPolicy | OnPolicy, episodes: int
) -> int:
    """Return the steps between two tests; ``episodes`` are those of one in each environment."""
    carries = isinstance(learn, OnPolicy) and learn.segment_length is not None
    least = episodes if carries else 1
    if interval is None:
        return max(math.ceil(env_steps / INTERVALS), least)
    rule = f">= {least}, an episode of full length in each environment, while segments are played"
    remedy = "Episodes begin anew after an interval, and their ends would not be seen."
    check(interval >= least, "run.interval", rule, interval, remedy)
    return interval


def _tests_of(tests: Tests | Mapping[str, Attacks] | None) -> Tests:
    if isinstance(tests, Tests):
        return tests
    rule = "Tests(...), a mapping from names to attacks, or None"
    check_kind("run.tests", tests, Mapping | None, rule)
    for name, attacks in (tests or {}).items():
        check_kind("run.tests", name, str, rule)
        listed(f"run.tests[{name!r}]", attacks)
    return Tests(tests or {})


def _log_of(log: Log | None) -> Log:
    if log is None:
        return Log()
    if not isinstance(log, Log):
        raise TypeError(f"run.log must be Log(...) or None, got {log!r}. Write Log({log!r}).")
    return log


def _check_apart(given: Sequence[ObsAttack | Perturber]) -> None:
    own_state = [one for one in given if isinstance(one, Perturber)]
    apart = len({id(one) for one in own_state}) == len(own_state)
    rule = "given perturbers of their own, which keep counters and memory"
    check(apart, "run.tests", rule, "one object twice")


def _stream(seed: int, name: str) -> int:
    """Return the seed of a stream of its own, not negative."""
    return mix(seed, stream_id(name)) & (2**62 - 1)


def _buffer(
    learn: OffPolicy | OnPolicy, spec: TeamSpec, algorithm: Trainable, num_envs: int, seed: int
) -> EpisodeBuffer:
    device = algorithm.policy.device
    if isinstance(learn, OffPolicy):
        size, limit = learn.buffer_episodes, learn.buffer_bytes
        buffer = EpisodeBuffer(spec, size, max_bytes=limit, device=device, seed=seed)
        learn.check_holds(buffer.capacity, learn.episodes_per_round or num_envs)
        return buffer
    size, steps = learn.episodes_per_round or num_envs, None
    if learn.segment_length is not None:
        # An episode takes a tick more than it has steps.
        ticks, steps = learn.segment_length, min(learn.segment_length, spec.horizon)
        size = num_envs * (2 + ticks // (1 + min(SHORT_EPISODE, spec.horizon)))
    elif learn.steps_per_round is not None:
        # When the steps are played, one more is under way in every environment.
        size = num_envs + learn.steps_per_round // SHORT_EPISODE
    # How many episodes a round has is not known before: where they are shorter, it grows.
    grows = learn.segment_length is not None or learn.steps_per_round is not None
    return EpisodeBuffer(spec, size, steps=steps, grows=grows, device=device, seed=seed)


def _params(
    learn: OffPolicy | OnPolicy, collector: JointCollector, num_envs: int, logger: BaseLogger
) -> EpisodeOffPolicyParams | OnPolicyTrainerParams:
    episodes = learn.episodes_per_round or num_envs
    if isinstance(learn, OffPolicy):
        return EpisodeOffPolicyParams(
            training_collector=collector,
            collection_step_num_env_steps=None,
            collection_step_num_episodes=episodes,
            logger=logger,
            verbose=False,
            batch_size=learn.batch_size,
            updates_per_episode=learn.updates_per_episode,
            learning_starts=learn.learning_starts,
        )
    steps = learn.steps_per_round
    if learn.segment_length is not None:
        steps = learn.segment_length * num_envs
    return OnPolicyTrainerParams(
        training_collector=collector,
        collection_step_num_env_steps=steps,
        collection_step_num_episodes=episodes if steps is None else None,
        logger=logger,
        verbose=False,
        batch_size=learn.batch_size,
        update_step_num_repetitions=learn.epochs,
    )


def _trainer_of(algorithm: Trainable) -> type[EpisodeTrainer]:
    return EpisodeOffPolicyTrainer if algorithm.off_policy else EpisodeOnPolicyTrainer


@contextmanager
def _interruptible(log: Log) -> Iterator[None]:
    """End an interrupted run with a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if log.folder is None:
            text = "interrupted; nothing was kept. Log(logdir) keeps checkpoints."
        elif (path := log.folder / CHECKPOINT).exists():
            folder = str(log.logdir)
            text = f"interrupted; to go on from {path}, pass log=Log({folder!r}, resume=True)."
        else:
            text = f"interrupted before the first checkpoint in {log.folder}."
        raise KeyboardInterrupt(text) from None


def _logger(log: Log, interval: int, begun: int, closing: ExitStack) -> BaseLogger:
    if log.logger is not None:
        return log.logger
    if log.folder is None:
        return LazyLogger()
    # What was logged after the checkpoint from which a run goes on is played, and logged, again.
    writer = SummaryWriter(str(log.folder), purge_step=begun + 1 if begun else None)
    closing.callback(writer.close)
    return TensorboardLogger(
        writer,
        training_interval=min(interval, 1000),  # steps, Tianshou's default where not longer
        update_interval=1,  # counts rounds, not updates
    )


def _bar(log: Log, algorithm: Trainable, env_steps: int, done: int) -> tqdm.tqdm:
    return progress_bar(
        total=env_steps,
        initial=min(done, env_steps),
        disable=not log.progress,
        position=log.bar_position,
        unit="step",
        desc=log.progress if isinstance(log.progress, str) else type(algorithm).__name__,
    )
