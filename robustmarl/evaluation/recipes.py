"""How the teams of a study are trained, what defends them, and attacks that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from robustmarl._checks import check_each, check_function, check_kind, keep, sizes_of
from robustmarl.adversaries import Adversary
from robustmarl.learning import TeamAlgorithm
from robustmarl.losses import LossMixin
from robustmarl.perturbers.stack import listed
from robustmarl.training import Attacks, OffPolicy, OnPolicy

__all__ = ["AdversaryMaker", "Defence", "Learned", "Recipe"]

AdversaryMaker: TypeAlias = Callable[..., Adversary]
"""Builds an adversary of (spec, ``seed=``): ``partial(ObsAdversaryPPO.for_env, ball=ball)``."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a team of a study is built and trained.

    Args:
        algorithm: its class.
        env_steps: of its training, >= 1.
        num_envs: environments side by side in training, >= 1.
        learn: how it learns; None is its kind's default.
        settings: further keywords of ``algorithm.for_env``; seeds are the study's.

    Raises:
        TypeError: for what is no algorithm, or settings of a wrong kind.
        ValueError: for a number out of range.

    Example:
        >>> from robustmarl import algorithms
        >>> recipe = Recipe(algorithm=algorithms.QMIX, env_steps=100_000, settings={"gamma": 0.97})
        >>> recipe.settings
        {'gamma': 0.97}
    """

    algorithm: type[TeamAlgorithm]
    env_steps: int
    num_envs: int = 10
    learn: OffPolicy | OnPolicy | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule = "a class of robustmarl.algorithms, or of your own"
        _check_class("Recipe.algorithm", self.algorithm, TeamAlgorithm, rule)
        steps, num_envs = sizes_of("Recipe", env_steps=self.env_steps, num_envs=self.num_envs)
        keep(self, env_steps=steps, num_envs=num_envs)
        kinds = OffPolicy | OnPolicy | None
        check_kind("Recipe.learn", self.learn, kinds, "OffPolicy(...), OnPolicy(...) or None")
        check_kind("Recipe.settings", self.settings, Mapping, "a mapping from keywords")


@dataclass(frozen=True, kw_only=True)
class Defence:
    """What is added to a team's training that it may withstand attacks; nothing by default.

    Args:
        perturb: attacks under which it trains: adversarial training.
        mixins: loss mixins, joined to the left of the algorithm.
        settings: further keywords of ``for_env``, such as the mixins' loss terms.
        adversary: builds an adversary that learns against the team while it learns, of
            (spec, ``seed=``).

    Raises:
        TypeError: for arguments of a wrong kind.

    Example:
        >>> from robustmarl import attacks, budgets
        >>> fgsm = attacks.PGD.fgsm(budgets.LinfBall(epsilon=0.1))
        >>> Defence(perturb=fgsm).perturb.steps
        1
    """

    perturb: Attacks = ()
    mixins: Sequence[type[LossMixin]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    adversary: AdversaryMaker | None = None

    def __post_init__(self) -> None:
        listed("Defence.perturb", self.perturb)

        def mixin(where: str, value: Any) -> type[LossMixin]:
            _check_class(where, value, LossMixin, "classes of loss mixins")
            return value

        rule = "a sequence of classes of loss mixins"
        keep(self, mixins=check_each("Defence.mixins", self.mixins, mixin, rule))
        check_kind("Defence.settings", self.settings, Mapping, "a mapping from keywords")
        if self.adversary is not None:
            check_function("Defence.adversary", self.adversary, "what builds an adversary")

    @property
    def is_none(self) -> bool:
        """Whether nothing is added."""
        nothing = not self.mixins and not self.settings and self.adversary is None
        return nothing and not listed("Defence.perturb", self.perturb)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """An attack that is trained anew against every team, which stands still.

    Args:
        adversary: builds what learns, of (spec, ``seed=``).
        env_steps: of its training, >= 1.
        num_envs: environments side by side in training, >= 1.
        learn: how it learns; None is its kind's default.

    Raises:
        TypeError: for arguments of a wrong kind.
        ValueError: for a number out of range.

    Example:
        >>> from robustmarl import adversaries, budgets, envs, joint
        >>> ball = budgets.LinfBall(epsilon=0.1)
        >>> def make(spec, seed):
        ...     return adversaries.ObsAdversaryPPO.for_env(spec, ball, seed=seed)
        >>> learned = Learned(adversary=make, env_steps=10_000)
        >>> type(learned.adversary(joint.spec_of(envs.ToyGame()), seed=0)).__name__
        'ObsAdversaryPPO'
    """

    adversary: AdversaryMaker
    env_steps: int
    num_envs: int = 16
    learn: OffPolicy | OnPolicy | None = None

    def __post_init__(self) -> None:
        check_function("Learned.adversary", self.adversary, "what builds an adversary")
        steps, num_envs = sizes_of("Learned", env_steps=self.env_steps, num_envs=self.num_envs)
        keep(self, env_steps=steps, num_envs=num_envs)
        kinds = OffPolicy | OnPolicy | None
        check_kind("Learned.learn", self.learn, kinds, "OffPolicy(...), OnPolicy(...) or None")


def _check_class(where: str, value: object, kind: type, rule: str) -> None:
    if not (isinstance(value, type) and issubclass(value, kind)):
        raise TypeError(f"{where} must be {rule}, got {value!r}.")
