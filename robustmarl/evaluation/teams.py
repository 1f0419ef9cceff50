"""Who is under test: teams by name and training seed, and what plays for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from robustmarl._checks import check, check_int, check_kind, check_text, sizes_of
from robustmarl.data import AnyPolicy, Controller, as_controller
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.joint import TeamSpec
from robustmarl.policies import ActorPolicy
from robustmarl.training import Trainable, is_trainable
from robustmarl.victims import PolicyVictim

__all__ = [
    "Settings",
    "TeamController",
    "Victim",
    "Victims",
    "by_seed",
    "check_play",
    "draws_actions",
    "playing",
    "team_spec",
]

Victim: TypeAlias = Trainable | AnyPolicy
"""What is attacked: an algorithm, or whatever can play the team."""

Victims: TypeAlias = Victim | Sequence[Victim] | Mapping[int, Victim]
"""One, or one per training seed."""


@runtime_checkable
class TeamController(Controller, Protocol):
    """A controller that says which team it plays: a policy, or a random team."""

    @property
    def spec(self) -> TeamSpec:
        """The team's."""


class Settings(NamedTuple):
    """What evaluations share, checked."""

    episodes: int
    num_envs: int
    seed: int
    title: str


def check_play(
    name: str,
    victims: object,
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    title: str,
    progress: object = False,
) -> Settings:
    """Return what an evaluation is given, checked; errors name it ``name``.

    Raises:
        TypeError: for values of the wrong kind.
        ValueError: for numbers out of range, or no victims.
    """
    rule = "a mapping from names"
    check_kind(f"{name}.victims", victims, Mapping, rule, "Write {'name': ...}.")
    check(bool(victims), f"{name}.victims", "non-empty", victims)
    check_kind(f"{name}.progress", progress, bool | np.bool_ | str, "a bool, or the bar's name")
    episodes, num_envs = sizes_of(name, episodes=episodes, num_envs=num_envs)
    return Settings(
        episodes=episodes,
        num_envs=num_envs,
        seed=check_int(f"{name}.seed", seed, 0),
        title=check_text(f"{name}.title", title),
    )


def by_seed(where: str, given: Victims) -> Mapping[int, Victim]:
    """Return one victim per training seed.

    Args:
        where: what errors call them.
        given: one, a sequence, or a mapping from seed.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(given, Mapping):
        victims = {int(seed): victim for seed, victim in given.items()}
    elif isinstance(given, Sequence):
        victims = dict(enumerate(given))
    else:
        victims = {0: given}
    check(len(victims) > 0, where, "at least one algorithm", given)
    return victims


def team_spec(
    victims: Mapping[str, Mapping[int, Victim]], make_env: EnvMaker, team: str | None
) -> TeamSpec:
    """Return the team's spec, which policies of this package know; else the environment's."""
    for seeds in victims.values():
        for victim in seeds.values():
            if is_trainable(victim) or isinstance(victim, TeamController):
                return victim.spec
    env = vector_env(make_env, 1)
    try:
        return env.spec.of_team(team)
    finally:
        env.close()


def playing(
    where: str, victims: Mapping[str, Mapping[int, Victim]], spec: TeamSpec
) -> dict[str, dict[int, Controller]]:
    """Return what plays for each victim, by name and training seed."""
    return {
        name: {
            seed: as_controller(f"{where}[{name!r}]", cast(AnyPolicy, victim), spec)
            for seed, victim in seeds.items()
        }
        for name, seeds in victims.items()
    }


def draws_actions(policy: Controller) -> bool:
    """Return whether a team draws its actions from a distribution where it does not learn."""
    victim = policy.victim()
    if isinstance(victim, PolicyVictim):
        return victim.stochastic
    return isinstance(policy, ActorPolicy) and not policy.deterministic_eval
