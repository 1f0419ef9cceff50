"""Who is under test: teams by name and training seed, and what plays for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, cast, runtime_checkable

from robustmarl._checks import check
from robustmarl.data import AnyPolicy, Controller, as_controller
from robustmarl.envs.vector import EnvMaker, vector_env
from robustmarl.joint import TeamSpec
from robustmarl.policies import ActorPolicy
from robustmarl.training import Trainable, is_trainable
from robustmarl.victims import PolicyVictim

__all__ = [
    "TeamController",
    "Victim",
    "Victims",
    "by_seed",
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
