"""PA-AD for teams: a value-based director that names the actions a generator pushes towards."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    check_number,
    check_usable,
    speaking_for,
)
from robustmarl._seeding import seeded
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.adversaries.directing import (
    count_played,
    directed,
    director_network,
    named_in,
    realised_share,
)
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import TeamSpec, joint_state, last_actions
from robustmarl.learning.base import team_spec
from robustmarl.learning.optim import adam
from robustmarl.learning.q_learning import Mixed, following_values
from robustmarl.learning.returns import masked_mean, td_lambda_returns
from robustmarl.learning.settings import NetworkSettings, check_settings, told_of
from robustmarl.networks import AgentValues, Mixer, QMIXMixer, VDNMixer
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import QPolicy
from robustmarl.schedules import Linear, Schedule
from robustmarl.typing import Env

__all__ = ["PAAD"]

_EXPLORATION = Linear(1.0, 0.05, over=50_000, unit="env_steps")  # the team's own, as in PyMARL


class PAAD(Adversary):
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
        episodes: share of the episodes in which it attacks, in [0, 1].
        optim: optimizer factory; None is Adam at 5e-4.
        gamma: discount in [0, 1].
        td_lambda: 0 for one-step targets.
        target_update: copy online to target networks every so many units, >= 1.
        target_unit: ``"episodes"`` that it played, or ``"updates"``.
        double_q: choose next actions by the online network.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    needs = frozenset({"drawn"})
    last_target_update: Tensor

    def __init__(
        self,
        director: QPolicy,
        generator: GradientAttack,
        mixer: Mixer,
        *,
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.0,
        target_update: int = 200,
        target_unit: Literal["episodes", "updates"] = "episodes",
        double_q: bool = True,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_kind(f"{name}.director", director, QPolicy, "a QPolicy")
        check_kind(f"{name}.mixer", mixer, Mixer, "a Mixer")
        double_q = check_flag(f"{name}.double_q", double_q)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        check_choice(f"{name}.target_unit", target_unit, ("episodes", "updates"))
        if max_grad_norm is not None:
            max_grad_norm = check_number(f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True)
        self.target_unit, self.double_q = target_unit, double_q
        self.director, self.mixer = director, mixer
        self.lagged_network = copy.deepcopy(director.network).requires_grad_(False)
        self.lagged_mixer = copy.deepcopy(mixer).requires_grad_(False)
        self.register_buffer("last_target_update", torch.zeros((), dtype=torch.int64))
        with speaking_for(self, DirectedObsPerturber):
            self._perturber = DirectedObsPerturber(
                director, generator, explore=True, agents=agents, episodes=episodes
            )
        self._generator = generator
        learned = Mixed(director.network, mixer)
        self.optim = self.create_optimizer(learned, optim or adam(5e-4), max_grad_norm)

    @classmethod
    def for_env(
        cls,
        env: Env | TeamSpec,
        generator: GradientAttack,
        *,
        mixer: Literal["qmix", "vdn"] = "qmix",
        exploration: float | Schedule = _EXPLORATION,
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
                made = QMIXMixer(spec.joint_state_size, spec.num_agents, init_gain=0.1)
        return cls(director.to(device), generator, made.to(device), **settings)

    def perturber(self) -> DirectedObsPerturber:
        """Return what plays while it learns: the exploring director."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> DirectedObsPerturber:
        """Return a copy of the director at work, greedy; it cannot be asked to draw."""
        rule = "None or True: its director is deterministic"
        check(greedy is not False, f"{type(self).__name__}.deployed.greedy", rule, greedy)
        return directed(self.director, self._generator, self._perturber.agents)

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Learn from the episodes that the team drew; see the class."""
        count_played(self.director, sample)
        batch = sample.drawn
        if batch is None:
            return {}
        target, played = named_in(self, batch)
        obs, state = batch.obs, joint_state(batch.obs.state, batch.obs.state.dim() == 4)
        last = last_actions(target, terminal=True)
        q = self.director.network.unroll(obs.obs, last)[0]
        taken = self.mixer(AgentValues(q[:, :-1], obs.mask[:, :-1], target), state[:, :-1])
        with torch.no_grad():
            lagged = self.lagged_network.unroll(obs.obs, last)[0]
            later = q[:, 1:], lagged[:, 1:], obs.mask[:, 1:]
            following = following_values(*later, double_q=self.double_q)
            value = self.lagged_mixer(following, state[:, 1:])
            flags = batch.bootstrap, batch.going_on
            y = td_lambda_returns(-batch.rew, value, *flags, self.gamma, self.td_lambda)
        loss = masked_mean((taken - y).square(), played)
        self.optim.step(loss)
        self.director.count("updates", 1)
        self._update_target()
        self.step_schedulers()
        return {
            "loss": float(loss.detach()),
            "q": float(masked_mean(taken.detach(), played)),
            "realised": realised_share(batch, target, played),
        }

    def _update_target(self) -> None:
        now = self.director.counted(self.target_unit)
        if now - int(self.last_target_update) >= self.target_update:
            self.lagged_network.load_state_dict(self.director.network.state_dict())
            self.lagged_mixer.load_state_dict(self.mixer.state_dict())
            self.last_target_update.fill_(now)
