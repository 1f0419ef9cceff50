"""Sets of attacks that papers evaluate under, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustmarl._checks import check, check_choice, check_number, check_text
from robustmarl.attacks.imitation import toward_adversary
from robustmarl.perturbers.base import Perturber
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.perturbers.traitors import AdversaryLike
from robustmarl.perturbers.types import TypeDistribution

__all__ = ["byzantine_attacks"]


def byzantine_attacks(
    target: str,
    adversaries: Mapping[str, Mapping[str, Any]],
    agent: str,
    *,
    epsilons: Sequence[float] = (0.2, 0.5, 1.0),
) -> dict[str, Perturber]:
    """Return the attacks of EIR-MAPPO's evaluation [Li2024]_ on one agent of one team, by name.

    ``non-oblivious`` (the adversary trained against this team), ``random ally``, ``observation e``
    for every epsilon, and ``from m`` for every other team m whose adversary is transferred: eleven
    for seven teams and three epsilons. An adversary fits any team with the same agents and
    actions; type slots that its observations have more or fewer are cut or filled with zeros.

    Args:
        target: the attacked team's name.
        adversaries: team name to agent name to the ``ByzantinePolicy`` trained against it while
            that agent was Byzantine.
        agent: who is Byzantine in every episode, or whose observations are attacked.
        epsilons: radii of the observation attacks, observation units.

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: if an adversary is missing, for a negative radius, or for radii whose names
            would be the same.

    Example:
        >>> from robustmarl import envs, joint, policies
        >>> trained = policies.ByzantinePolicy(joint.spec_of(envs.ToyGame()))
        >>> against = {"MAPPO": {"agent_0": trained}, "EIR-MAPPO": {"agent_0": trained}}
        >>> list(byzantine_attacks("MAPPO", against, "agent_0", epsilons=[0.2]))
        ['non-oblivious', 'random ally', 'observation 0.2', 'from EIR-MAPPO']
    """
    where = "byzantine_attacks"
    _check_mapping(f"{where}.adversaries", adversaries)
    check(len(adversaries) > 0, f"{where}.adversaries", "non-empty", adversaries)
    agent = check_text(f"{where}.agent", agent)
    for name, own in adversaries.items():
        _check_mapping(f"{where}.adversaries[{name!r}]", own)
    check_choice(f"{where}.target", target, list(adversaries))
    for name, own in adversaries.items():
        rule = f"one of those with an adversary against {name!r}, {[*own]}"
        check(agent in own, f"{where}.agent", rule, agent)
    if isinstance(epsilons, str) or not isinstance(epsilons, Sequence):
        raise TypeError(f"{where}.epsilons must be a sequence of numbers, got {epsilons!r}.")
    epsilons = [
        check_number(f"{where}.epsilons", epsilon, 0.0, unit="observation units")
        for epsilon in epsilons
    ]
    names = {f"{epsilon:g}" for epsilon in epsilons}
    rule = "different numbers, in six digits"
    check(len(names) == len(epsilons), f"{where}.epsilons", rule, epsilons)

    def played(adversary: AdversaryLike) -> Perturber:
        types = TypeDistribution(1.0, choice="fixed", agents=[agent])
        return ByzantinePerturber(adversary, types=types)

    trained = adversaries[target][agent]
    attacks = {"non-oblivious": played(trained), "random ally": played("random")}
    for epsilon in epsilons:
        moved = ObsPerturber(toward_adversary(trained, epsilon), agents=[agent])
        attacks[f"observation {epsilon:g}"] = moved
    others = {name: theirs[agent] for name, theirs in adversaries.items() if name != target}
    return attacks | {f"from {name}": played(theirs) for name, theirs in others.items()}


def _check_mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} must be a mapping from names, got {type(value).__name__}.")
