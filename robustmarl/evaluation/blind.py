"""Blind baselines: how far a team comes without seeing the episode that it plays."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch

from robustmarl._checks import check, check_int, check_kind, speaking_for
from robustmarl._seeding import stream_seed
from robustmarl.data import AnyPolicy, Controller, EpisodeBuffer, JointCollector
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.evaluation.tables import UNSEEING, CrossTable
from robustmarl.evaluation.teams import by_seed
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm
from robustmarl.perturbers import OtherEpisodeObs, Perturber, ZeroedObs
from robustmarl.training import Log, OffPolicy, OnPolicy, run
from robustmarl.typing import RobustnessWarning

__all__ = [
    "BLIND_KEEPS",
    "FOLDS",
    "TRAINED_BLIND",
    "blindfolds",
    "check_unlike_blind",
    "keeps_blind",
    "kept_blind",
    "other_episodes",
    "train_blind",
    "warn_of_blind",
]

_Team = TypeVar("_Team", bound=TeamAlgorithm)

FOLDS = tuple(UNSEEING)
"""What hides the episode from a team; rows are named after the team and one of these."""

TRAINED_BLIND = "trained blind"
"""The row of a team that has never seen anything; see :func:`train_blind`."""

RECORDED = 32  # episodes to draw from: an episode shown twice among 200 does no harm

BLIND_KEEPS = 0.5
"""Of what a team gains over one that learned nothing; above it a warning says it need not look."""

TOLD = 0.1
"""Of what a team gains over a random one. Where it gains less over an untrained one, that one is no
measure of eyes; a blindfolded team that lacks less is doubted whatever an untrained one has."""


def check_unlike_blind(where: str, victims: Collection[str]) -> None:
    """Raise ``ValueError`` if a victim is named as the row of another one without its eyes."""
    rows = {f"{name}, {fold}" for name in victims for fold in FOLDS}
    taken = sorted(rows.intersection(victims))
    check(not taken, where, "named unlike the rows of teams without eyes", taken, "Rename it.")


def blindfolds(
    policy: Controller,
    make_env: EnvMaker,
    spec: TeamSpec,
    *,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
) -> dict[str, Perturber]:
    """Return what hides the episode from a team: ``zeroed``, and ``another's`` observations.

    Args:
        policy: the team, which plays the other episodes unperturbed.
        make_env: builds one environment.
        spec: the team's.
        num_envs: environments side by side, >= 1.
        seed: of the other episodes; they are never those of an evaluation.
        team: name of the team that it plays, where there are several.
        opponents: what plays the other teams.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, joint
        >>> team = algorithms.VDN.for_env(envs.ToyGame(), seed=0)
        >>> hidden = blindfolds(team.policy, envs.ToyGame, joint.spec_of(envs.ToyGame()))
        >>> sorted(hidden)
        ["another's", 'zeroed']
    """
    other = other_episodes(
        policy, make_env, spec, num_envs=num_envs, seed=seed, team=team, opponents=opponents
    )
    return dict(zip(FOLDS, (ZeroedObs(), other), strict=True))


def other_episodes(
    policy: Controller,
    make_env: EnvMaker,
    spec: TeamSpec,
    *,
    num_envs: int = 10,
    seed: int = 0,
    team: str | None = None,
    opponents: Mapping[str, AnyPolicy] | None = None,
) -> OtherEpisodeObs:
    """Return what shows a team its own observations of other episodes; see :func:`blindfolds`."""
    buffer = EpisodeBuffer(spec, RECORDED)
    env = vector_env(make_env, min(num_envs, RECORDED))
    collector = JointCollector(
        policy,
        env,
        buffer,
        team=team,
        opponents=opponents,
        seed=stream_seed(seed, "other episodes") >> 1,
    )
    try:
        with torch.no_grad():
            collector.collect(n_episode=RECORDED)
    finally:
        env.close()
    batch = buffer.latest(RECORDED)
    return OtherEpisodeObs(batch.obs.obs, batch.valid.sum(dim=1))


def train_blind(
    teams: _Team | Sequence[_Team] | Mapping[int, _Team],
    make_env: EnvMaker,
    *,
    env_steps: int,
    num_envs: int = 10,
    team: str | None = None,
    opponents: Mapping[str, Controller] | None = None,
    learn: OffPolicy | OnPolicy | None = None,
    log: Log | None = None,
) -> dict[int, _Team]:
    """Train teams of the same settings that see zeros all along: what can be had without eyes.

    A team that learned with its eyes open is lost without them, whether the task needs them or
    not. What one learned blind has says how much of a score no attack on observations can take
    from a team that knows how to do without. Masks, memory, last actions and which agent it is
    stay known to it, as to those that are attacked, and a centralised critic sees the state
    while it learns. Give what is returned as ``trained_blind`` to
    :func:`~robustmarl.evaluation.crossplay` or :func:`~robustmarl.evaluation.worst_case`: on its
    own it would be shown observations that it has never learned to read.

    Args:
        teams: one of ``for_env``'s making, or one per training seed: a mapping from seed, or a
            sequence. They lend settings, not weights, and are left alone; training seeds are
            those of the new ones.
        make_env: builds one environment.
        env_steps: per training, >= 1: what the seeing team had, to compare with it.
        num_envs: environments side by side, >= 1.
        team: name of the team that learns, where there are several.
        opponents: controllers of the other teams.
        learn: how it learns, as the seeing team did; see :func:`~robustmarl.training.run`.
        log: where :func:`~robustmarl.training.run` keeps the runs: each in the folder of
            ``logdir`` that is named after its training seed.

    Returns:
        Training seed to the team.

    Raises:
        TypeError: for what is no :class:`~robustmarl.learning.TeamAlgorithm`.
        ValueError: for no team, one that ``for_env`` did not make, or bad numbers.

    Example:
        >>> from robustmarl import algorithms, envs, training
        >>> team = algorithms.VDN.for_env(envs.climbing(), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> blind = train_blind(team, envs.climbing, env_steps=40, log=quiet)
        >>> [type(one).__name__ for one in blind.values()]
        ['VDN']
    """
    env_steps = check_int("train_blind.env_steps", env_steps, 1)
    if log is not None:
        check_kind("train_blind.log", log, Log, "Log(...), or None")
    kinds = cast(Mapping[int, _Team], by_seed("train_blind.teams", teams))
    for kind in kinds.values():
        rule, remedy = "a TeamAlgorithm, or one per training seed", "Of a pair give its team."
        check_kind("train_blind.teams", kind, TeamAlgorithm, rule, remedy)
    trained = {}
    for seed, kind in kinds.items():
        blind = kind.untrained(seed=seed)
        folder = None if log is None else log.folder
        with speaking_for("train_blind", run):
            run(
                blind,
                make_env,
                env_steps=env_steps,
                num_envs=num_envs,
                seed=seed,
                team=team,
                opponents=opponents,
                perturb=ZeroedObs(),
                learn=learn,
                log=log
                if log is None or folder is None
                else replace(log, logdir=folder / str(seed)),
            )
        trained[seed] = blind
    return trained


def keeps_blind(clean: float, blind: float, floor: float) -> bool:
    """Return whether a blind team keeps most of what a team gains over one that learned nothing.

    Args:
        clean: mean score of the team that sees.
        blind: of the same team, blindfolded.
        floor: of the random or the untrained team.
    """
    return clean > floor and blind - floor > BLIND_KEEPS * (clean - floor)


def kept_blind(table: CrossTable, team: str, clean: str) -> Iterator[str]:
    """Yield what says, of each blind row of a table, that a team hardly needs its eyes.

    Args:
        table: with the row ``random``, and perhaps ``untrained``.
        team: whose figure is to be doubted.
        clean: the column without attack.
    """
    score = table.mean(team, clean)
    floors = {
        name: table.mean(name, clean) for name in ("random", "untrained") if name in table.cells
    }
    random = floors["random"]
    # what eyes are for is what training adds, unless an untrained team has nearly all there is
    telling = score - floors.get("untrained", random) > TOLD * (score - random)
    compared = floors.values() if telling else [random]
    beside = ", ".join(f"{name} {mean:.2f}" for name, mean in floors.items())
    said = {f"{team}, {fold}": f"with {fold} observations it has" for fold in FOLDS}
    said[TRAINED_BLIND] = "a team trained blind has"
    needs = dict.fromkeys(said, "it") | {TRAINED_BLIND: "the task"}
    for row, text in said.items():
        if row not in table.cells:
            continue
        blind = table.mean(row, clean)
        nearly_all = score > random and score - blind < TOLD * (score - random)
        if nearly_all or all(keeps_blind(score, blind, floor) for floor in compared):
            yield (
                f"{text} {table.metric} {blind:.2f}, itself {score:.2f} ({beside}): {needs[row]} "
                "hardly needs what is attacked, so withstanding attacks on it says little."
            )


def warn_of_blind(table: CrossTable, teams: Sequence[str], clean: str) -> None:
    """Warn of each team that has most of its score without seeing the episode.

    Args:
        table: with the row ``random`` and blind ones.
        teams: their names.
        clean: the column without attack.
    """
    for name in teams:
        for text in kept_blind(table, name, clean):
            warnings.warn(f"{name}: {text}", RobustnessWarning, stacklevel=3)
