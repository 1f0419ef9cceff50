"""What a run is told: how the algorithm learns, what it is tested under, where figures go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
from tianshou.utils import BaseLogger

from robustmarl._checks import check, check_flag, check_int, check_kind, check_number, keep
from robustmarl.perturbers.stack import Attacks, listed

__all__ = ["Attacks", "Log", "OffPolicy", "OnPolicy", "Tests"]


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """How an algorithm with a replay buffer learns in :func:`run`: so many updates per episode.

    Args:
        updates_per_episode: gradient updates per episode played, > 0; at least one per round.
        batch_size: episodes per update, >= 1.
        episodes_per_round: episodes played between updates, >= 1; None is ``num_envs``.
        buffer_episodes: capacity of the replay buffer, >= 1.
        buffer_bytes: its capacity in bytes instead, >= 1; None is ``buffer_episodes``.
        learning_starts: episodes in the buffer before the first update, >= 1.

    Raises:
        ValueError: for a number out of range, or a buffer that never holds ``learning_starts``, or
            the episodes of a round.
        TypeError: for what is no number.

    Example:
        >>> OffPolicy(batch_size=16, updates_per_episode=0.5).learning_starts
        32
    """

    updates_per_episode: float = 1.0
    batch_size: int = 32
    episodes_per_round: int | None = None
    buffer_episodes: int = 5000
    buffer_bytes: int | None = None
    learning_starts: int = 32

    def __post_init__(self) -> None:
        where = "OffPolicy.updates_per_episode"
        updates = check_number(where, self.updates_per_episode, 0.0, open_low=True)
        keep(self, updates_per_episode=updates)
        _keep_ints(self, "batch_size", "episodes_per_round", "buffer_episodes", "buffer_bytes")
        _keep_ints(self, "learning_starts")
        if self.buffer_bytes is None:
            self.check_holds(self.buffer_episodes, self.episodes_per_round or 1)

    def check_holds(self, capacity: int, episodes: int) -> None:
        """Raise ``ValueError`` if a buffer of ``capacity`` episodes holds too few of them.

        That is fewer than it takes to learn, or than the ``episodes`` of a round, of which some
        would be lost before anything is learned from them.
        """
        rule = f"at most {capacity}, the episodes that the buffer holds"
        starts = self.learning_starts
        check(starts <= capacity, "OffPolicy.learning_starts", rule, starts)
        remedy = "" if self.episodes_per_round else "It is num_envs where it is left out."
        check(episodes <= capacity, "OffPolicy.episodes_per_round", rule, episodes, remedy)


_ROUND = ("episodes_per_round", "steps_per_round", "segment_length")
"""How long a round may be said to be, one way or another."""


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """How an algorithm that learns from its newest episodes only does so in :func:`run`.

    Args:
        epochs: passes over the episodes of a round, >= 1.
        batch_size: steps per minibatch, >= 1; None is the whole round at once.
        episodes_per_round: episodes played between updates, >= 1; None is ``num_envs``.
        steps_per_round: play whole episodes of at least so many steps together between updates
            instead, >= 1; keeps rounds of one size while episodes get shorter.
        segment_length: step all environments so often between updates instead, >= 1, and let
            episodes go on over the end of a round: fixed-length segments [Schulman2017]_. What is
            under way there is bootstrapped from as at a time limit. At the end of an interval of
            :func:`run`, which has a checkpoint, episodes begin anew.
        rounds: end after so many, >= 1, though environment steps may be left: for schedules that
            count updates, and papers that count rounds. None goes on until the steps are played.

    Raises:
        ValueError: for a number out of range, or rounds counted in two ways.
        TypeError: for what is no number.

    Example:
        >>> OnPolicy(steps_per_round=2_000, epochs=5).batch_size is None
        True
    """

    epochs: int = 4
    batch_size: int | None = None
    episodes_per_round: int | None = None
    steps_per_round: int | None = None
    segment_length: int | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        _keep_ints(self, "epochs", "batch_size", "rounds", *_ROUND)
        given = [name for name in _ROUND if getattr(self, name) is not None]
        if len(given) > 1:
            rule = f"given without {given[0]}"
            check(False, f"OnPolicy.{given[1]}", rule, getattr(self, given[1]))


@dataclass(frozen=True)
class Tests:
    """What a team is tested under every interval of :func:`run`, and how long.

    Args:
        attacks: name to an attack, a perturber, several in order, or None for clean episodes.
        episodes: per test, >= 1; the same ones each time, so that curves compare.

    Raises:
        ValueError: for a number out of range.
        TypeError: for anything that is no attack, or no mapping from names.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, training
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> tests = Tests({"clean": None, "noise": noise}, episodes=4)
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> sorted(training.run(team, envs.climbing, env_steps=40, tests=tests, log=quiet).tests)
        ['clean/return', 'noise/return']
    """

    __test__ = False  # pytest collects what is called Test...

    attacks: Mapping[str, Attacks] = field(default_factory=lambda: {"clean": None})
    _: KW_ONLY
    episodes: int = 32

    def __post_init__(self) -> None:
        rule = "a mapping from names to attacks"
        check_kind("Tests.attacks", self.attacks, Mapping, rule)
        for name in self.attacks:
            check_kind("Tests.attacks", name, str, rule)
        for name, attacks in self.attacks.items():
            listed(f"Tests.attacks[{name!r}]", attacks)
        _keep_ints(self, "episodes")


@dataclass(frozen=True)
class Log:
    """Where :func:`run` keeps its figures and checkpoints, and what it shows.

    Args:
        logdir: folder for TensorBoard logs, ``history.json`` and the checkpoint; None keeps none.
            One run at a time writes to it.
        resume: continue from the checkpoint in ``logdir`` if there is one.
        progress: show a progress bar; a text names it.
        bar_position: line of the bar, >= 0, where several runs share a terminal.
        logger: one of Tianshou's that is told all figures in place of TensorBoard, for Weights &
            Biases or a file of your own; it is left open.

    Raises:
        ValueError: if there is no ``logdir`` to resume from, or for a negative position.
        TypeError: for arguments of a wrong kind.

    Example:
        >>> from pathlib import Path
        >>> from robustmarl import algorithms, envs, training
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> log = Log("runs", progress=False)
        >>> _ = training.run(team, envs.climbing, env_steps=40, log=log)
        >>> Path("runs/history.json").exists()
        True
    """

    logdir: str | os.PathLike[str] | None = None
    _: KW_ONLY
    resume: bool = False
    progress: bool | str = True
    bar_position: int = 0
    logger: BaseLogger | None = None

    def __post_init__(self) -> None:
        for name, kinds, rule in (
            ("logdir", str | os.PathLike | None, "a path or None"),
            ("progress", bool | np.bool_ | str, "a bool, or the bar's name"),
            ("logger", BaseLogger | None, "a logger of Tianshou's or None"),
        ):
            if not isinstance(value := getattr(self, name), kinds):
                raise TypeError(f"Log.{name} must be {rule}, got {value!r}.")
        keep(self, resume=check_flag("Log.resume", self.resume))
        if isinstance(self.progress, np.bool_):
            keep(self, progress=bool(self.progress))
        check(not self.resume or self.logdir is not None, "Log.logdir", "given to resume", None)
        _keep_ints(self, "bar_position", low=0)

    @property
    def folder(self) -> Path | None:
        """The ``logdir`` as a path."""
        return None if self.logdir is None else Path(self.logdir)


def _keep_ints(settings: OffPolicy | OnPolicy | Tests | Log, *names: str, low: int = 1) -> None:
    """Check these fields and keep them as plain ints; None is good where it is the default."""
    for name in names:
        value = getattr(settings, name)
        if value is not None or getattr(type(settings), name) is not None:
            value = check_int(f"{type(settings).__name__}.{name}", value, low)
            keep(settings, **{name: value})
