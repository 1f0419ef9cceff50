"""Environments that state what their spaces do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pettingzoo.utils import BaseParallelWrapper

from robustmarl._checks import check_choice, check_int, check_kind, check_names, check_teams
from robustmarl.joint.reading import metadata_of
from robustmarl.joint.spec import check_parallel
from robustmarl.typing import Env, TeamReward

__all__ = ["Described", "describe"]


class Described(BaseParallelWrapper[str, Any, Any]):
    """An environment that says what :func:`spec_of` cannot see; made by :func:`describe`."""

    def __init__(self, env: Env, metadata: dict[str, object]) -> None:
        check_parallel("Described.env", env)
        check_kind("Described.metadata", metadata, Mapping, "a mapping from keys")
        super().__init__(env)
        self.metadata = {**metadata_of(env), **metadata}


def describe(
    env: Env,
    *,
    team_reward: TeamReward | None = None,
    horizon: int | None = None,
    teams: Mapping[str, tuple[str, ...]] | None = None,
    episode_metrics: tuple[str, ...] | None = None,
) -> Env:
    """Return ``env`` stating its team reward, its horizon and its teams.

    Args:
        env: any parallel environment.
        team_reward: ``"sum"`` or ``"mean"`` over a team's agents; never guessed.
        horizon: the most steps an episode can take, >= 1.
        teams: team name to agent names, one at least; every agent belongs to exactly one team.
        episode_metrics: keys of the last infos to average over episodes, e.g. ``("battle_won",)``;
            every episode must report them.

    Raises:
        TypeError: if ``env`` is not a parallel environment.
        ValueError: for unknown agents, an agent in no team or in two, a team without any, or a bad
            value.

    Example:
        >>> from robustmarl import envs, joint
        >>> env = describe(envs.climbing(steps=5), team_reward="mean", episode_metrics=("won",))
        >>> spec = joint.spec_of(env)
        >>> spec.team_reward, spec.metrics, spec.horizon
        ('mean', ('won',), 5)
    """
    check_parallel("describe.env", env)
    stated: dict[str, object] = {}
    if team_reward is not None:
        check_choice("describe.team_reward", team_reward, ("sum", "mean"))
        stated["team_reward"] = team_reward
    if horizon is not None:
        stated["horizon"] = check_int("describe.horizon", horizon, 1)
    if teams is not None:
        stated["teams"] = check_teams("describe.teams", teams, env.possible_agents)
    if episode_metrics is not None:
        where = "describe.episode_metrics"
        stated["episode_metrics"] = check_names(where, episode_metrics, episode_metrics)
    return Described(env, stated)
