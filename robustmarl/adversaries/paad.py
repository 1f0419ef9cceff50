"""PA-AD for teams: a value-based director that names the actions a generator pushes towards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, Self, cast

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    check_usable,
)
from robustmarl._seeding import seeded
from robustmarl.adversaries.directing import LaggedDirecting, director_network
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, TeamSpec, joint_state, last_actions
from robustmarl.learning.base import team_spec
from robustmarl.learning.making import remembered
from robustmarl.learning.optim import adam
from robustmarl.learning.q_learning import EXPLORATION, MIXER_GAIN, Mixed, following_values
from robustmarl.learning.returns import masked_mean, td_lambda_returns
from robustmarl.learning.settings import NetworkSettings, check_settings, told_of
from robustmarl.networks import AgentValues, Mixer, QMIXMixer, VDNMixer
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import QPolicy
from robustmarl.schedules import Schedule
from robustmarl.typing import Env

__all__ = ["PAAD"]


class PAAD(LaggedDirecting):
    r"""PA-AD [Sun2022]_ against a team: a deterministic director of the victim's own kind.

    The director is a VDN or QMIX team over the victim's actions, which sees clean observations and
    earns the victim's reward turned,

    .. math:: y_t = -r_t + \gamma c_t\, \bar Q_{tot}\bigl(s_{t+1},
              \arg\max_a Q^i(\tau^i_{t+1}, a)\bigr), \qquad
              L = \overline{(Q_{tot}(s_t, \hat a_t) - y_t)^2}

    where :math:`\hat a` are the actions that it named. It learns from the very episodes that the
    team drew for itself, by one step per update of the team. Deployed it is greedy.

    Args:
        director: the director's Q-values, and how it explores.
        generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
        mixer: of its own, from the agents' values to the team's.
        agents: names of the attacked agents; None is all.
        episodes: share of the episodes in which it attacks while it learns, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the team; None is its own.
        optim: optimizer factory; None is Adam at 5e-4: all defaults are those of a team's own
            Q-learning, :class:`~robustmarl.algorithms.value_based.ValueBased`.
        gamma: discount in [0, 1].
        td_lambda: 0 for one-step targets.
        target_update: copy online to target networks every so many units, >= 1.
        target_unit: ``"episodes"`` that it played, or ``"updates"``.
        double_q: choose next actions by the online network.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, perturbers, training
        >>> team = algorithms.QMIX.for_env(envs.SignalMatching(), seed=0)
        >>> generator = perturbers.stor(budgets.LinfBall(epsilon=0.5))
        >>> adversary = PAAD.for_env(envs.SignalMatching(), generator, seed=1)
        >>> both = training.AdversarialTraining(team, adversary)
        >>> quiet = training.Log(progress=False)
        >>> few = training.OffPolicy(batch_size=8, learning_starts=8)
        >>> settings = {"env_steps": 100, "learn": few, "log": quiet}
        >>> training.run(both, envs.SignalMatching, **settings).episodes
        10
    """

    director: QPolicy

    def __init__(
        self,
        director: QPolicy,
        generator: GradientAttack,
        mixer: Mixer,
        *,
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.0,
        target_update: int = 200,
        target_unit: Literal["episodes", "updates"] = "episodes",
        double_q: bool = True,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.director", director, QPolicy, "a QPolicy")
        check_kind(f"{name}.mixer", mixer, Mixer, "a Mixer")
        double_q = check_flag(f"{name}.double_q", double_q)
        online = Mixed(director.network, mixer)
        super().__init__(
            director,
            generator,
            online,
            agents=agents,
            episodes=episodes,
            epsilon=epsilon,
            gamma=gamma,
            td_lambda=td_lambda,
            target_update=target_update,
            target_unit=target_unit,
        )
        self.mixer, self.double_q = mixer, double_q
        self.optim = self.create_optimizer(
            online, optim or adam(5e-4), max_grad_norm, counted=director.counted
        )

    @classmethod
    @remembered
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        mixer: Literal["qmix", "vdn"] = "qmix",
        exploration: float | Schedule = EXPLORATION,
        team: str | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the adversary with networks of the right sizes for ``env``'s ``team``.

        Args:
            env: an environment, or a spec.
            generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
            mixer: ``"qmix"`` or ``"vdn"``: of the kind that the team has.
            exploration: the probability of naming a random available action in training; what is
                counted are the director's own updates, episodes and steps.
            team: whom of several teams it attacks.
            device: where it learns.
            seed: of the initial weights.
            settings: of the class, and of the director's network.
        """
        name = cls.__name__
        check_settings(cls, settings, NetworkSettings)
        check_choice(f"{name}.for_env.mixer", mixer, ("qmix", "vdn"))
        spec, seed = team_spec(name, env, team), check_int(f"{name}.seed", seed, 0)
        device = check_usable(f"{name}.device", device)
        given = {"exploration": exploration, **settings}
        made: Mixer
        with told_of(cls, given), seeded(seed, "paad"):
            director = QPolicy(spec, director_network(cls.__name__, spec, settings), exploration)
            if mixer == "vdn":
                made = VDNMixer()
            else:
                made = QMIXMixer(spec.joint_state_size, spec.num_agents, init_gain=MIXER_GAIN)
        return cls(director.to(device), generator, made.to(device), **settings)

    @property
    def lagged(self) -> Mixed:
        """The target networks."""
        return cast(Mixed, self._lagged)

    def deployed(self, greedy: bool | None = None) -> DirectedObsPerturber:
        """Return a copy of the director at work, greedy; it cannot be asked to draw."""
        rule = "None or True: its director is deterministic"
        check(greedy is not False, f"{type(self).__name__}.deployed.greedy", rule, greedy)
        return super().deployed(greedy)

    def update(self, batch: JointBatch, target: Tensor, played: Tensor) -> dict[str, float]:
        """Take a step of Q-learning on the reward turned; see the class and the base."""
        obs, state = batch.obs, joint_state(batch.obs.state, self.director.spec)
        last_target = last_actions(target, terminal=True)
        q = self.director.network.unroll(obs.obs, last_target)[0]
        taken = self.mixer(AgentValues(q[:, :-1], obs.mask[:, :-1], target), state[:, :-1])
        with torch.no_grad():
            lagged_q = self.lagged.agents.unroll(obs.obs, last_target)[0]
            later = q[:, 1:], lagged_q[:, 1:], obs.mask[:, 1:]
            following = following_values(*later, double_q=self.double_q)
            value = self.lagged(following, state[:, 1:])
            flags = batch.bootstrap, batch.going_on
            y = td_lambda_returns(-batch.rew, value, *flags, self.gamma, self.td_lambda)
        loss = masked_mean((taken - y).square(), played)
        self.optim.step(loss)
        return {
            "loss": float(loss.detach()),
            "q": float(masked_mean(taken.detach(), played)),
        }
