"""RAP for teams: several directors of PA-AD, one of which attacks in an episode."""

from __future__ import annotations

from typing import Any, Self

from robustmarl._checks import check_int, speaking_for
from robustmarl._seeding import stream_seed
from robustmarl.adversaries.paad import PAAD
from robustmarl.adversaries.population import Population
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import TeamSpec
from robustmarl.learning.making import remembered
from robustmarl.typing import Env

__all__ = ["RAP"]


class RAP(Population):
    """RAP [Vinitsky2020]_ as ATSA's tables have it [Zhou2025]_: a population of PA-AD directors.

    They begin differently, and share nothing: each learns from the episodes that it played, with
    a mixer and target networks of its own. The team, which learns from all of them, cannot know
    whom it will meet. One director alone is :class:`PAAD`, step for step.

    Example:
        >>> from robustmarl import budgets, envs, perturbers
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.5))
        >>> adversary = RAP.for_env(envs.SignalMatching(), generator, number=2, seed=1)
        >>> len(adversary.members)
        2
    """

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        number: int = 5,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return so many directors with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
            number: of directors, >= 1. The source tried up to 15; ATSA's tables do not say, and 5
                is ours.
            seed: of the first one's weights, from which those of the others follow.
            settings: of :meth:`PAAD.for_env`, the same for all.
        """
        number = check_int("RAP.number", number)
        seed = check_int("RAP.seed", seed, 0)
        seeds = [seed, *(stream_seed(seed, "rap", k) for k in range(1, number))]
        with speaking_for(cls.__name__, PAAD):
            members = [PAAD.for_env(env, generator, seed=one, **settings) for one in seeds]
        return cls(members)
