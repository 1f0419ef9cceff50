"""Attacks by name or file, and what learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robustmarl import adversaries, attacks, training, zoo
from robustmarl._checks import check, check_known
from robustmarl.attacks import ObsAttack
from robustmarl.budgets import LinfBall
from robustmarl.cli.parser import ATTACKS
from robustmarl.cli.teams import check_file
from robustmarl.evaluation.directors import director, gaussian
from robustmarl.joint import TeamSpec
from robustmarl.learning import adam
from robustmarl.perturbers import Perturber, stor
from robustmarl.schedules import Linear

__all__ = ["CLEAN", "adversary_of", "fixed", "is_learned", "named"]

FIXED: Mapping[str, Callable[[LinfBall], ObsAttack]] = {
    "noise": lambda ball: attacks.UniformNoise(ball=ball),
    "fgsm": attacks.PGD.fgsm,
    "pgd": lambda ball: attacks.PGD(ball=ball),
    "apgd": lambda ball: attacks.APGD(ball=ball, loss="dlr"),
    "square": lambda ball: attacks.SquareSearch(ball=ball, loss="margin"),
}
"""What names stand for."""

CLEAN = "none"
"""The name of the column without attack."""

ZOO = "zoo:"
"""How names of the zoo begin."""


def is_learned(name: str) -> bool:
    """Return whether a word names an adversary that learned: a file, or one of the zoo's."""
    return name.endswith(".pt") or name.startswith(ZOO)


def fixed(name: str, ball: LinfBall) -> ObsAttack:
    """Return the attack of a name, in capitals or not.

    Raises:
        ValueError: for an unknown one.
    """
    check_known("--attack", name.lower(), ATTACKS, "A saved adversary is a file, ADVERSARY.pt.")
    return FIXED[name.lower()](ball)


def named(
    words: Sequence[str], ball: Callable[[], LinfBall], spec: TeamSpec, program: str
) -> dict[str, ObsAttack | Perturber]:
    """Return attacks by their names in tables.

    A file is named by its stem, and as it was typed where that name is another's: the clean
    column's, or that of another word.

    Args:
        words: names, files of saved adversaries, or the zoo's.
        ball: says what attacks with a name may change; asked only if there is one.
        spec: the attacked team's.
        program: what is typed before commands.

    Raises:
        ValueError: for what is neither, an adversary of other teams, or a word that is there twice.
    """
    found: dict[str, ObsAttack | Perturber] = {}
    stems = [CLEAN, *map(_stem, words)]
    for word in words:
        learned = is_learned(word)
        name = word if learned and stems.count(_stem(word)) > 1 else _stem(word)
        check(name not in found, "--attack", "given each once", word)
        found[name] = _saved(word, spec, program) if learned else fixed(word, ball())
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
    return adversaries.ATSA.for_env(
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
