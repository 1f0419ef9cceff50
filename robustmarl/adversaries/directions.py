"""PA-AD against stochastic victims: its director names directions in the space of policies."""

from __future__ import annotations

from typing import Any, Self

import torch

from robustmarl._checks import check, check_int, check_usable, speaking_for
from robustmarl.adversaries.obs_ppo import GaussianPPO, value_critic
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import TeamSpec
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.settings import check_settings
from robustmarl.perturbers.directions import DirectionActor
from robustmarl.typing import Env

__all__ = ["DirectionPAAD"]


class DirectionPAAD(GaussianPPO):
    """PA-AD as it is for stochastic victims [Sun2022]_, such as MAPPO's teams.

    The director, a :class:`~robustmarl.perturbers.DirectionActor`, names in which direction each
    agent's policy shall move, and learns by PPO on the reward turned; :class:`GaussianPPO` has
    the arguments. Against teams that take the greedy action :class:`PAAD` names actions.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, perturbers, training
        >>> team = algorithms.MAPPO.for_env(envs.SignalMatching(), seed=0)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.5))
        >>> adversary = DirectionPAAD.for_env(envs.SignalMatching(), generator, seed=1)
        >>> both = training.AdversarialTraining(team, adversary)
        >>> quiet = training.Log(progress=False)
        >>> training.run(both, envs.SignalMatching, env_steps=100, log=quiet).episodes
        10
    """

    actor_kind = DirectionActor

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        team: str | None = None,
        hidden: tuple[int, ...] = (64, 64),
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the adversary with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            generator: moves observations, ``perturbers.stor(ball)``; its loss and target are
                replaced.
            team: whom of several teams it attacks.
            hidden: widths of director and critic.
            device: where it learns.
            seed: of the initial weights; torch's global generator is left as it was.
            settings: of the class.
        """
        name = cls.__name__
        check_settings(cls, settings)
        device = check_usable(f"{name}.device", device)
        seed, spec = check_int(f"{name}.seed", seed, 0), team_spec(name, env, team)
        rule = "discrete: a director moves the probabilities of actions"
        remedy = "Take TeamPAAD or ContinuousATSA."
        check(not spec.continuous, f"{name}.for_env.env", rule, "a Box of actions", remedy)
        sizes = spec.obs_size, spec.num_actions
        with speaking_for(name, DirectionActor):
            actor = DirectionActor(generator, *sizes, hidden=hidden, seed=seed)
        return cls(actor.to(device), value_critic(spec, hidden, seed).to(device), **settings)
