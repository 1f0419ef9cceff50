"""Several perturbers in order, with one notion of depth and a name for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_int,
    check_kind,
    check_text,
)
from robustmarl.attacks.base import ObsAttack
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.obs import as_perturber
from robustmarl.victims import Victim

__all__ = ["Attacks", "PerturberStack", "listed", "places"]

Attacks: TypeAlias = ObsAttack | Perturber | Sequence[ObsAttack | Perturber] | None
"""An attack or a perturber, several that act in this order, or None."""


def listed(where: str, attacks: Attacks) -> list[ObsAttack | Perturber]:
    """Return ``attacks`` as a list, empty for None.

    Raises:
        TypeError: for anything that is neither an attack nor a perturber.
    """
    if attacks is None:
        return []
    several = list(attacks) if isinstance(attacks, tuple | list) else [attacks]
    for one in several:
        remedy = ""
        if hasattr(one, "deployed"):
            remedy = (
                "An adversary plays as adversary.deployed(), and learns in "
                "training.AdversarialTraining(team, adversary)."
            )
        if isinstance(one, type):
            remedy = f"Make it first, as {one.__name__}(ball=LinfBall(epsilon=0.1))."
        elif isinstance(one, str):
            remedy = "Give what it is called, as attacks.PGD(ball=LinfBall(epsilon=0.1))."
        rule = "an attack, a perturber, several of them or None"
        check_kind(where, one, ObsAttack | Perturber, rule, remedy)
    return cast("list[ObsAttack | Perturber]", several)


def places(kinds: Sequence[str], first: int = 0) -> list[Place]:
    """Return the places of perturbers of these kinds, the innermost first.

    The first of a kind has the kind's name, later ones add their depth: ``byzantine``,
    ``byzantine.2``.

    Args:
        kinds: one per perturber.
        first: the depth of the first.

    Example:
        >>> [place.name for place in places(["obs", "byzantine", "obs"])]
        ['obs', 'byzantine', 'obs.2']
    """
    kinds = check_each("places.kinds", kinds, check_text, "a tuple of texts")
    first = check_int("places.first", first, 0)
    return [
        Place(depth, kind if kind not in kinds[: depth - first] else f"{kind}.{depth}")
        for depth, kind in enumerate(kinds, first)
    ]


class PerturberStack:
    """What acts on one team, from the environment outwards.

    Args:
        perturbations: attacks (on all agents) or perturbers, applied in this order to what the
            agents see, and in the reverse order to what they do. No perturber can be there twice;
            an attack can.

    Attributes:
        told: the actions of the last step that the learner is told, (E, N) or (E, N, A).

    Example:
        >>> from robustmarl import attacks, budgets, perturbers
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> stack = PerturberStack([noise, perturbers.ByzantinePerturber("random")])
        >>> len(stack), stack.acts_differ
        (2, True)
    """

    def __init__(self, perturbations: Attacks = ()) -> None:
        given = listed(f"{type(self).__name__}.perturbations", perturbations)
        self.perturbers = [as_perturber(perturbation) for perturbation in given]
        for perturber in self.perturbers:
            check_choice("Perturber.act_told", perturber.act_told, ("intended", "executed"))
        alone = len({id(perturber) for perturber in self.perturbers}) == len(self.perturbers)
        rule = "different objects: each keeps what it knows of one place"
        remedy = "Make another perturber of the same settings."
        check(alone, f"{type(self).__name__}.perturbations", rule, given, remedy)
        self.acts_differ = any(one.changes_actions for one in self.perturbers)
        same = Perturber.on_logits
        self.changes_logits = any(type(one).on_logits is not same for one in self.perturbers)
        self.told_executed = any(one.act_told == "executed" for one in self.perturbers)
        self.told = torch.zeros(0)

    def __len__(self) -> int:
        return len(self.perturbers)

    def bind(self, spec: TeamSpec, policy: Victim | None) -> None:
        """Prepare all of them for a team."""
        kinds = [perturber.kind for perturber in self.perturbers]
        for perturber, place in zip(self.perturbers, places(kinds), strict=True):
            perturber.bind(spec, policy, place)

    def show(self, context: StepContext) -> None:
        """Set ``context.seen`` to what the agents see, and let all of them know it."""
        for perturber in self.perturbers:
            context.seen = perturber.on_obs(context)
        for perturber in self.perturbers:
            perturber.shown(context)

    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Return the logits or means (E, N, A) from which actions are drawn."""
        for perturber in self.perturbers:
            logits = perturber.on_logits(context, logits)
        return logits

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions, like ``act``; the innermost has the last word.

        ``told`` is then ``act`` but for what members with ``act_told = "executed"`` changed.
        """
        told = act
        for perturber in reversed(self.perturbers):
            before, act = act, perturber.on_act(context, act)
            if act is not before and perturber.act_told == "executed":
                told = act if told is before else _where_changed(before, act, told)
        self.told = told
        return act

    def records(self) -> dict[str, Tensor]:
        """Return what all of them recorded, as ``perturber/name``, (E, ...) each."""
        return {
            f"{perturber.place.name}/{key}": values
            for perturber in self.perturbers
            for key, values in perturber.record().items()
        }

    def counters(self) -> dict[str, float]:
        """Return their counters as ``0/attacked``, by depth and name."""
        return {
            f"{depth}/{name}": value
            for depth, perturber in enumerate(self.perturbers)
            for name, value in perturber.counters().items()
        }


def _where_changed(before: Tensor, after: Tensor, told: Tensor) -> Tensor:
    """Return ``told`` with the actions of ``after`` that differ from ``before``; all of one shape.

    An action vector is told as a whole, whichever of its coordinates differ.
    """
    changed = after != before
    if changed.dim() == 3:
        changed = changed.any(dim=-1, keepdim=True)
    return torch.where(changed, after, told)
