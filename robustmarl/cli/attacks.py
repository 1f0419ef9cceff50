"""Attacks by name or file, and what learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from robustmarl import adversaries, attacks, training, zoo
from robustmarl._checks import check, check_known
from robustmarl.attacks import ObsAttack
from robustmarl.budgets import LinfBall
from robustmarl.cli.parser import ATTACKS
from robustmarl.cli.teams import check_file
from robustmarl.evaluation.directors import director, gaussian
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm, adam
from robustmarl.perturbers import CriticObsPerturber, ObsPerturber, Perturber, stor
from robustmarl.perturbers.by_critic import ActionValues
from robustmarl.schedules import Linear

__all__ = ["CLEAN", "adversary_of", "fixed", "is_learned", "named"]

Build: TypeAlias = Callable[[LinfBall], ObsAttack]

FIXED: Mapping[str, Build] = {
    "noise": lambda ball: attacks.UniformNoise(ball=ball),
    "fgsm": attacks.PGD.fgsm,
    "pgd": lambda ball: attacks.PGD(ball=ball),
    "apgd": lambda ball: attacks.APGD(ball=ball, loss="dlr"),
    "square": lambda ball: attacks.SquareSearch(ball=ball, loss="margin"),
}
"""What names stand for."""

CONTINUOUS: Mapping[str, Build] = {
    "noise": FIXED["noise"],
    "fgsm": partial(attacks.PGD.fgsm, random_start=True),
    "pgd": lambda ball: attacks.PGD(ball=ball, random_start=True),
    "apgd": lambda ball: attacks.APGD(ball=ball, random_start=True),
    "square": lambda ball: attacks.SquareSearch(ball=ball),
}
"""The same of continuous actions, whose squared error has no slope where nothing is moved yet."""

CRITIC = "critic"
"""PGD down the value that the team's own critic gives to continuous actions."""

CLEAN = "none"
"""The name of the column without attack."""

ZOO = "zoo:"
"""How names of the zoo begin."""


def is_learned(name: str) -> bool:
    """Return whether a word names an adversary that learned: a file, or one of the zoo's."""
    return name.endswith(".pt") or name.startswith(ZOO)


def fixed(
    name: str,
    ball: LinfBall,
    team: TeamAlgorithm,
    *,
    episodes: float = 1.0,
    option: str = "--attack",
) -> ObsPerturber:
    """Return the attack of a name, in capitals or not, on a team.

    Args:
        name: one of ``ATTACKS``.
        ball: what it may change.
        team: the attacked one.
        episodes: the share of episodes in which it attacks.
        option: where it was typed.

    Raises:
        ValueError: for an unknown one, or the critic's on a team without one.
    """
    name = name.lower()
    check_known(option, name, ATTACKS, "A saved adversary is a file, ADVERSARY.pt.")
    continuous = team.spec.continuous
    if name != CRITIC:
        attack = (CONTINUOUS if continuous else FIXED)[name](ball)
        return ObsPerturber(attack, episodes=episodes)
    kind = f"{type(team).__name__} of {'continuous' if continuous else 'discrete'} actions"
    rule = "of a team with a critic of continuous actions, such as MADDPG or FACMAC"
    valued = continuous and hasattr(team, "action_values")
    check(valued, f"{option} {CRITIC}", rule, kind, "Take pgd or apgd.")
    critic = cast(ActionValues, team)
    return CriticObsPerturber(attacks.PGD(ball=ball), critic, episodes=episodes)


def named(
    words: Sequence[str], ball: Callable[[], LinfBall], team: TeamAlgorithm, program: str
) -> dict[str, Perturber]:
    """Return attacks by their names in tables.

    A file is named by its stem, and as it was typed where that name is another's: the clean
    column's, or that of another word.

    Args:
        words: names, files of saved adversaries, or the zoo's.
        ball: says what attacks with a name may change; asked only if there is one.
        team: the attacked one.
        program: what is typed before commands.

    Raises:
        ValueError: for what is neither, an adversary of other teams, or a word that is there twice.
    """
    found: dict[str, Perturber] = {}
    stems = [CLEAN, *map(_stem, words)]
    for word in words:
        learned = is_learned(word)
        name = word if learned and stems.count(_stem(word)) > 1 else _stem(word)
        check(name not in found, "--attack", "given each once", word)
        found[name] = _saved(word, team.spec, program) if learned else fixed(word, ball(), team)
    return found


def _stem(word: str) -> str:
    """Return what an attack is called in short."""
    if word.startswith(ZOO):
        return f"that of {word.removeprefix(ZOO)}"
    return Path(word).stem if is_learned(word) else word.lower()


def adversary_of(
    kind: str, spec: TeamSpec, ball: LinfBall, *, steps: int, seed: int, episodes: float = 1.0
) -> adversaries.Adversary:
    """Return an untrained adversary of a kind that the command line names.

    Args:
        kind: one of ``ADVERSARIES``.
        spec: the attacked team's.
        ball: what it may change.
        steps: of its training.
        seed: of its weights.
        episodes: the share of episodes in which it attacks; ATLA's does in all.
    """
    if kind == "atla":
        return gaussian(spec, ball, seed=seed)
    if kind == "paad":
        return director(spec, ball, steps=steps, seed=seed, episodes=episodes)
    soft: type[adversaries.ATSA | adversaries.ContinuousATSA]
    soft = adversaries.ContinuousATSA if spec.continuous else adversaries.ATSA
    return soft.for_env(
        spec,
        stor(ball, steps=10),
        alpha=Linear(0.5, 0.05, over=max(1, 2 * steps // 5), unit="env_steps"),
        kappa=0.005,
        optim=adam(1e-3),
        critic_optim=adam(1e-3),
        gamma=0.97,
        target_update=50,
        target_unit="updates",
        episodes=episodes,
        hidden=(64, 64),
        recurrent=False,
        last_action=False,
        seed=seed,
    )


def _saved(word: str, spec: TeamSpec, program: str) -> Perturber:
    """Return an adversary of a file, or of the zoo, at work."""
    if word.startswith(ZOO):
        saved = zoo.load_adversary(word.removeprefix(ZOO))
    else:
        check_file("an adversary", word, program)
        try:
            saved = training.load(word, adversaries.Adversary)  # type: ignore[type-abstract]
        except TypeError as error:
            text = f"--attack must be an adversary's file, got {word!r}, a team's."
            raise ValueError(text) from error
    made = saved.learner.made
    if made is not None:
        sizes, own = _sizes(spec), _sizes(made.spec)
        check(own == sizes, "--attack", f"made for (agents, obs, actions) = {sizes}", own)
    return saved.learner.deployed()


def _sizes(spec: TeamSpec) -> tuple[int, int, int]:
    return spec.num_agents, spec.obs_size, spec.num_actions
