"""One call that trains: collector, buffer, trainer, progress, logs, tests, checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tqdm
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils import BaseLogger, LazyLogger, TensorboardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from robustmarl._checks import check, check_int, check_number
from robustmarl._seeding import mix, stream_id
from robustmarl.attacks.base import ObsAttack
from robustmarl.data import Controller, EpisodeBuffer, JointCollector, SlowCopy
from robustmarl.envs.vector import vector_env
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers.base import Perturber
from robustmarl.training.adversarial import AdversarialTraining
from robustmarl.training.checkpoints import load_checkpoint, save_checkpoint
from robustmarl.training.history import History
from robustmarl.training.trainers import (
    EpisodeOffPolicyParams,
    EpisodeOffPolicyTrainer,
    EpisodeOnPolicyTrainer,
)
from robustmarl.typing import Env

__all__ = ["run"]

CHECKPOINT = "checkpoint.pt"


def run(
    algorithm: Any,
    make_env: Callable[[], Env] | Any,
    *,
    env_steps: int,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, Controller] | None = None,
    perturb: Sequence[ObsAttack | Perturber] = (),
    episodes_per_round: int | None = None,
    steps_per_round: int | None = None,
    updates_per_episode: float = 1.0,
    batch_size: int | None = None,
    epochs: int = 4,
    buffer_episodes: int = 5000,
    buffer_bytes: int | None = None,
    learning_starts: int = 32,
    interval: int | None = None,
    tests: Mapping[str, Sequence[ObsAttack | Perturber]] | None = None,
    test_episodes: int = 32,
    logdir: str | Path | None = None,
    resume: bool = False,
    progress: bool | str = True,
    bar_position: int = 0,
) -> History:
    """Train ``algorithm`` and return its history.

    Every ``interval`` the run is tested and, with a ``logdir``, checkpointed: a run that is
    killed loses no more than that, and with ``resume=True`` continues bit for bit.

    Args:
        algorithm: a robustmarl algorithm, or :class:`AdversarialTraining`; changed in place.
        make_env: builds one environment, or a batched engine.
        env_steps: environment steps to play, >= 1; the last round may exceed it.
        num_envs: environments side by side, >= 1.
        seed: of episodes and sampling, >= 0; tests use streams of their own.
        team: the team that learns, where there are several.
        opponents: controllers of the other teams.
        perturb: attacks on the team while it trains: adversarial training. The victim is the
            learner itself, live.
        episodes_per_round: episodes collected between updates, >= 1; None is ``num_envs``.
        steps_per_round: collect whole episodes of at least so many steps between updates
            instead (on-policy), >= 1; keeps batches of one size while episodes get shorter.
        updates_per_episode: gradient updates per episode (off-policy), > 0.
        batch_size: episodes per update (off-policy; None is 32), or steps per minibatch
            (on-policy; None is everything at once).
        epochs: passes over the collected episodes (on-policy), >= 1.
        buffer_episodes: capacity of the replay buffer (off-policy).
        buffer_bytes: the same in bytes.
        learning_starts: episodes in the buffer before the first update (off-policy).
        interval: steps between tests and checkpoints, >= 1; None is a twentieth of the run.
        tests: name to perturbations under which the team is tested; None tests nothing.
        test_episodes: episodes per test, >= 1.
        logdir: folder for TensorBoard logs, ``history.json`` and the checkpoint.
        resume: continue from the checkpoint in ``logdir`` if there is one.
        progress: show a progress bar; a text names it.
        bar_position: line of the bar, where several runs share a terminal.

    Raises:
        ValueError: for bad numbers, a ``logdir`` that holds another run, or a checkpoint that
            does not fit.
        TypeError: for an algorithm that is not one of ours.
    """
    env_steps = check_int("run.env_steps", env_steps, 1)
    check_int("run.seed", seed, 0)
    check_int("run.epochs", epochs, 1)
    check_int("run.test_episodes", test_episodes, 1)
    check_int("run.learning_starts", learning_starts, 1)
    check_number("run.updates_per_episode", updates_per_episode, 0.0, open_low=True)
    check_int("run.num_envs", num_envs, 1)
    if batch_size is not None:
        check_int("run.batch_size", batch_size, 1)
    rounds = num_envs if episodes_per_round is None else episodes_per_round
    check_int("run.episodes_per_round", rounds, 1)
    given = [*perturb, *(p for several in (tests or {}).values() for p in several)]
    own_state = [p for p in given if isinstance(p, Perturber)]
    apart = len({id(p) for p in own_state}) == len(own_state)
    rule = "given perturbers of their own, which keep counters and memory"
    check(apart, "run.tests", rule, "one object twice")
    by_steps = steps_per_round is not None
    if steps_per_round is not None:
        check_int("run.steps_per_round", steps_per_round, 1)
        alone = episodes_per_round is None
        check(alone, "run.steps_per_round", "given without episodes_per_round", steps_per_round)
    interval = math.ceil(env_steps / 20) if interval is None else interval
    check_int("run.interval", interval, 1)
    known = isinstance(algorithm, TeamAlgorithm | AdversarialTraining)
    if not known:
        raise TypeError(
            f"run.algorithm must be a robustmarl algorithm, got {type(algorithm).__name__}. "
            "Train Tianshou's own with Tianshou's trainer."
        )
    off_policy = algorithm.off_policy
    check(not resume or logdir is not None, "run.logdir", "given to resume", logdir)
    rule = "left out for an off-policy algorithm, which updates per episode"
    check(not (by_steps and off_policy), "run.steps_per_round", rule, steps_per_round)
    path = None if logdir is None else Path(logdir) / CHECKPOINT
    saved = None
    if path is not None and path.exists():
        remedy = "Pass resume=True to continue it, or another logdir."
        check(resume, "run.logdir", "without a checkpoint of an earlier run", str(logdir), remedy)
        saved = load_checkpoint(path)

    env = vector_env(make_env, num_envs)
    spec = env.spec.of_team(team)
    largest = rounds if steps_per_round is None else num_envs + steps_per_round // 4
    capacity: dict[str, Any] = {"episodes": buffer_episodes if off_policy else largest}
    if off_policy and buffer_bytes is not None:
        capacity["max_bytes"] = buffer_bytes
    buffer = EpisodeBuffer(spec, device=algorithm.policy.device, seed=seed, **capacity)
    if off_policy:
        rule = f"at most {buffer.capacity}, the episodes that the buffer holds"
        check(learning_starts <= buffer.capacity, "run.learning_starts", rule, learning_starts)
    collector = JointCollector(
        algorithm.policy,
        env,
        buffer,
        team=team,
        opponents=opponents,
        perturb=[*perturb, *algorithm.perturbers()],
        seed=mix(seed, stream_id("train")) & (2**62 - 1),
    )
    testers = {
        name: JointCollector(
            algorithm.policy,
            vector_env(make_env, min(num_envs, test_episodes)),
            team=team,
            opponents=opponents,
            perturb=perturbations,
            seed=mix(seed, stream_id("test")) & (2**62 - 1),
        )
        for name, perturbations in (tests or {}).items()
    }
    logger: BaseLogger = LazyLogger()
    if logdir is not None:
        Path(logdir).mkdir(parents=True, exist_ok=True)
        logger = TensorboardLogger(
            SummaryWriter(str(logdir)),
            training_interval=min(interval, 1000),
            update_interval=1,  # counts rounds, not updates
        )
    common: dict[str, Any] = {
        "training_collector": collector,
        "collection_step_num_env_steps": steps_per_round,
        "collection_step_num_episodes": None if by_steps else rounds,
        "logger": logger,
        "verbose": False,
        "show_progress": False,
        "epoch_num_steps": interval,
    }
    trainer: EpisodeOffPolicyTrainer | EpisodeOnPolicyTrainer
    if off_policy:
        trainer = EpisodeOffPolicyTrainer(
            algorithm,
            EpisodeOffPolicyParams(
                **common,
                batch_size=batch_size or 32,
                updates_per_episode=updates_per_episode,
                learning_starts=learning_starts,
            ),
        )
    else:
        trainer = EpisodeOnPolicyTrainer(
            algorithm,
            OnPolicyTrainerParams(
                **common, batch_size=batch_size, update_step_num_repetitions=epochs
            ),
        )
    slow = {n: c for n, c in (opponents or {}).items() if isinstance(c, SlowCopy)}
    trainer.followers = list(slow.values())
    trainer.reset(reset_collectors=False)
    history = History()
    if saved is not None:
        _restore(saved, spec, algorithm, buffer, collector, trainer, slow)
        history = History(**saved["history"])
        history.resumed = True
    bar = tqdm.tqdm(
        total=env_steps,
        initial=min(trainer.counters()["env_step"], env_steps),
        disable=not progress,
        position=bar_position,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        desc=progress if isinstance(progress, str) else type(algorithm).__name__,
    )
    trainer.bar = bar
    watch = _Watch(collector)
    try:
        if saved is None:
            _record(history, watch, testers, 0, test_episodes, logger)
        while (done := trainer.counters()["env_step"]) < env_steps:
            trainer.params.epoch_num_steps = min(interval, env_steps - done)
            trainer.execute_epoch()
            done = trainer.counters()["env_step"]
            history.episodes = trainer.counters()["episodes"]
            _record(history, watch, testers, done, test_episodes, logger)
            if path is not None:
                _save(path, spec, algorithm, buffer, collector, trainer, slow, history)
    finally:
        bar.close()
        env.close()
        buffer.data.clear()  # the trainer is part of cycles, which are collected late
        for tester in testers.values():
            tester.close()
        if isinstance(logger, TensorboardLogger):
            logger.writer.close()
    return history


class _Watch:
    """Keeps the figures of the episodes that a collector plays."""

    def __init__(self, collector: JointCollector) -> None:
        self._collect = collector.collect
        self._seen: dict[str, list[Any]] = {}
        self._names = ("return", *collector.spec.metrics)
        collector.collect = self._watched  # type: ignore[method-assign]

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        stats = self._collect(*args, **kwargs)
        for name, values in {"return": stats.returns, **stats.metrics}.items():
            self._seen.setdefault(name, []).append(values)
        return stats

    def take(self) -> dict[str, float]:
        """Return the means since the last call."""
        means = {n: _mean(self._seen.get(n, [])) for n in self._names}
        self._seen = {}
        return means


def _mean(parts: list[Any]) -> float:
    return float(np.concatenate(parts).mean()) if parts else float("nan")


def _record(
    history: History,
    watch: _Watch,
    testers: dict[str, JointCollector],
    env_step: int,
    episodes: int,
    logger: BaseLogger,
) -> None:
    history.env_steps.append(env_step)
    for name, value in watch.take().items():
        history.train.setdefault(name, []).append(value)
    figures: dict[str, float] = {}
    for test, collector in testers.items():
        collector.episodes_begun = 0  # the same episodes each time, so that curves compare
        stats = collector.collect(n_episode=episodes)
        figures[f"{test}/return"] = float(stats.returns.mean())
        for name, values in stats.metrics.items():
            figures[f"{test}/{name}"] = float(values.mean())
    for name, value in figures.items():
        history.tests.setdefault(name, [math.nan] * (len(history.env_steps) - 1)).append(value)
    for name in history.tests.keys() - figures.keys():  # tested before this run was resumed
        history.tests[name].append(math.nan)
    if figures:
        logger.log_test_data(figures, env_step)


def _save(
    path: Path,
    spec: TeamSpec,
    algorithm: Any,
    buffer: EpisodeBuffer,
    collector: JointCollector,
    trainer: Any,
    slow: dict[str, SlowCopy],
    history: History,
) -> None:
    save_checkpoint(
        path,
        {
            "class": type(algorithm).__name__,
            "spec": _fingerprint(spec),
            "algorithm": algorithm.state_dict(),
            "gradients": _gradients(algorithm),
            "schedulers": [s.state_dict() for s in algorithm.lr_schedulers],
            "buffer": buffer.state_dict(),
            "collector": collector.state_dict(),
            "trainer": trainer.counters(),
            "seed": algorithm.seed,
            "opponents": {name: copy.state_dict() for name, copy in slow.items()},
            "history": history.__dict__ | {},
            "torch_rng": torch.get_rng_state(),
        },
    )
    part = path.with_name("history.json.part")
    part.write_text(json.dumps(_strict(history.__dict__), indent=1, allow_nan=False))
    part.replace(path.with_name("history.json"))


def _strict(value: Any) -> Any:
    """Return ``value`` with None for NaN, which strict JSON does not know."""
    if isinstance(value, dict):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _restore(
    saved: dict[str, Any],
    spec: TeamSpec,
    algorithm: Any,
    buffer: EpisodeBuffer,
    collector: JointCollector,
    trainer: Any,
    slow: dict[str, SlowCopy],
) -> None:
    missing = sorted({"class", "spec", "trainer", "history", "seed", "opponents"} - set(saved))
    rule = "with a checkpoint of a run of this version"
    check(not missing, "run.logdir", rule, f"one without {missing}")
    name = type(algorithm).__name__
    check(saved["class"] == name, "run.algorithm", f"a {saved['class']} to resume this run", name)
    same = saved["spec"] == _fingerprint(spec)
    check(same, "run.make_env", "the environment of the run to resume", _fingerprint(spec))
    try:
        algorithm.load_state_dict(saved["algorithm"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"run.algorithm must have the settings of the run to resume: {error}"
        ) from error
    known = saved.get("gradients", {})
    for name, parameter in algorithm.policy.named_parameters():
        parameter.grad = known[name].to(parameter) if name in known else None
    for scheduler, state in zip(algorithm.lr_schedulers, saved["schedulers"], strict=True):
        scheduler.load_state_dict(state)
    buffer.load_state_dict(saved["buffer"])
    collector.load_state_dict(saved["collector"])
    trainer.restore(**saved["trainer"])
    rule = f"SlowCopy for {sorted(saved['opponents'])} to resume this run"
    check(sorted(slow) == sorted(saved["opponents"]), "run.opponents", rule, sorted(slow))
    for opponent, state in saved["opponents"].items():
        slow[opponent].load_state_dict(state)
    algorithm.seed = saved["seed"]
    torch.set_rng_state(saved["torch_rng"].cpu())


def _gradients(algorithm: Any) -> dict[str, Tensor]:
    """Return the policy's last gradients, which a poisoner may look at (``JAttack``)."""
    named = algorithm.policy.named_parameters()
    return {name: p.grad.detach().clone() for name, p in named if p.grad is not None}


def _fingerprint(spec: TeamSpec) -> str:
    return repr(spec)
