"""Blind baselines: how far a team comes without seeing the episode that it plays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch

from robustmarl._seeding import stream_seed
from robustmarl.data import AnyPolicy, Controller, EpisodeBuffer, JointCollector
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.evaluation.tables import CrossTable
from robustmarl.joint import TeamSpec
from robustmarl.perturbers import OtherEpisodeObs, Perturber, ZeroedObs
from robustmarl.typing import RobustnessWarning

__all__ = ["BLIND_KEEPS", "FOLDS", "blindfolds", "keeps_blind", "other_episodes", "warn_of_blind"]

FOLDS = ("zeroed", "another's")
"""What hides the episode from a team; rows are named after the team and one of these."""

RECORDED = 32  # episodes to draw from: an episode shown twice among 200 does no harm

BLIND_KEEPS = 0.5
"""Of what a team gains over a random one; above it a warning says that it need not look."""


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


def keeps_blind(clean: float, blind: float, floor: float) -> bool:
    """Return whether a blind team keeps most of what a team gains over a random one.

    Args:
        clean: mean score of the team that sees.
        blind: of the same team, blindfolded.
        floor: of the random team.
    """
    return clean > floor and blind - floor > BLIND_KEEPS * (clean - floor)


def warn_of_blind(table: CrossTable, teams: Sequence[str], clean: str) -> None:
    """Warn of each team that keeps most of its score without seeing the episode.

    Args:
        table: with the rows ``random`` and those of the blindfolded teams.
        teams: their names.
        clean: the column without attack.
    """
    floor = table.mean("random", clean)
    for name in teams:
        score = table.mean(name, clean)
        for fold in FOLDS:
            blind = table.mean(f"{name}, {fold}", clean)
            if keeps_blind(score, blind, floor):
                warnings.warn(
                    f"{name} has {table.metric} {blind:.2f} with {fold} observations and "
                    f"{score:.2f} with its own (random: {floor:.2f}): it hardly needs what is "
                    "attacked, so withstanding attacks on it says little.",
                    RobustnessWarning,
                    stacklevel=3,
                )
