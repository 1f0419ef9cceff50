"""Q-learning of teams: what VDN, QMIX and IQL share."""

from __future__ import annotations

from typing import Any, Literal, Self, Unpack, cast

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkFullUpdateAlgorithmMixin,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_int,
    check_kind,
    check_number,
)
from robustmarl.joint import JointBatch, TeamSpec, joint_state
from robustmarl.learning import OffPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.q_learning import EXPLORATION, Mixed, following_values
from robustmarl.learning.returns import masked_mean, td_lambda_returns
from robustmarl.learning.settings import (
    NetworkSettings,
    OpenSettings,
    ValueBasedSettings,
    take,
)
from robustmarl.learning.values import Reward
from robustmarl.networks import AgentValues, Mixer
from robustmarl.policies.q import QPolicy
from robustmarl.schedules import Schedule
from robustmarl.typing import Env

__all__ = ["ValueBased"]


class ValueBased(OffPolicyTeam, LaggedNetworkFullUpdateAlgorithmMixin):
    r"""Q-learning on whole episodes with double-Q targets.

    .. math:: y_t = r_t + \gamma c_t\, \bar Q_{tot}\bigl(s_{t+1},
              \bar Q^i(\tau^i_{t+1}, \arg\max_a Q^i(\tau^i_{t+1}, a))\bigr),\qquad
              L = \frac{\sum_t m_t (Q_{tot} - y_t)^2}{\sum_t m_t}

    with c = 0 after a termination, 1 at a time limit. Learns from ``obs.seen``.

    Args:
        policy: the team's.
        mixer: from individual to team values; None learns each agent's on its own.
        optim: optimizer factory; None is Adam at 5e-4, PyMARL's step size.
        gamma: discount in [0, 1].
        td_lambda: 0 for one-step targets.
        target_update: copy online to target networks every so many units, >= 1.
        target_unit: ``"episodes"`` (as PyMARL) or ``"updates"``.
        double_q: choose next actions by the online network.
        reward: ``"team"``, or ``"agents"`` for each agent's own (without a mixer only).
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    policy: QPolicy
    last_target_update: Tensor

    def __init__(
        self,
        *,
        policy: QPolicy,
        mixer: Mixer | None = None,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.0,
        target_update: int = 200,
        target_unit: Literal["episodes", "updates"] = "episodes",
        double_q: bool = True,
        reward: Reward = "team",
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, QPolicy, "a QPolicy")
        if mixer is not None:
            check_kind(f"{name}.mixer", mixer, Mixer, "a Mixer, or None")
        double_q = check_flag(f"{name}.double_q", double_q)
        super().__init__(policy=policy)
        LaggedNetworkFullUpdateAlgorithmMixin.__init__(self)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        check_choice(f"{name}.target_unit", target_unit, ("episodes", "updates"))
        check_choice(f"{name}.reward", reward, ("team", "agents"))
        check(reward == "team" or mixer is None, f"{name}.reward", "'team' with a mixer", reward)
        self.target_unit, self.double_q, self.reward = target_unit, double_q, reward
        self.mixer = mixer
        learned = Mixed(policy.network, mixer)
        self._target = self._add_lagged_network(learned)
        self.register_buffer("last_target_update", torch.zeros((), dtype=torch.int64))
        self.optim = self._create_optimizer(learned, optim or adam(5e-4), max_grad_norm)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[ValueBasedSettings]) -> Self:
        """Return the learner for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        rule = "discrete: value-based methods take argmax over actions"
        check(not spec.continuous, f"{cls.__name__}.for_env.env", rule, "a Box of actions")
        exploration: float | Schedule = settings.pop("exploration", EXPLORATION)
        policy = QPolicy(spec, build_network(spec, take(settings, NetworkSettings)), exploration)
        return cls(policy=policy, mixer=cls._mixer(spec, settings), **settings)

    @classmethod
    def _mixer(cls, spec: TeamSpec, settings: OpenSettings) -> Mixer | None:
        """Return the mixer, None for none; it takes its keywords out of ``settings``."""
        return None

    def learn(self, batch: JointBatch) -> TeamTrainingStats:
        """Take one update's steps; see :class:`~robustmarl.learning.OffPolicyTeam`."""
        obs, act = batch.obs, batch.act
        network = self.policy.network
        last_act = self.last_act(batch, terminal=True)
        q, before = network.unroll(obs.seen, last_act)
        values = AgentValues(q[:, :-1], obs.mask[:, :-1], act)
        state = joint_state(obs.state, self.spec)
        with torch.no_grad():
            target = cast(Mixed, self._target.module)
            target_q = target.agents.unroll(obs.seen, last_act)[0][:, 1:]
            later = q[:, 1:], target_q, obs.mask[:, 1:]
            following = following_values(*later, double_q=self.double_q)
            y, learned = self._targets(batch, target(following, state[:, 1:]))
        taken = values.taken if self.mixer is None else self.mixer(values, state[:, :-1])
        loss = masked_mean((taken - y).square(), learned)
        self.step_policy(
            loss, lambda: self.loss_rows(obs.obs, obs.mask, batch.living, last_act, before)
        )
        self.policy.count("updates", 1)
        self._update_target()
        figures = torch.stack([loss.detach(), masked_mean(taken.detach(), learned)])
        return TeamTrainingStats(metrics=dict(zip(("loss", "q"), figures.tolist(), strict=True)))

    def _targets(self, batch: JointBatch, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return targets, and where they are learned: like ``value``.

        Args:
            batch: episodes.
            value: the target's of the next joint actions, (B, T), or (B, T, N) without a mixer.
        """
        if self.mixer is None:
            reward, bootstrap, going_on = batch.earned(self.reward)
            learned = batch.earning(self.reward).expand_as(value)
        else:
            reward, bootstrap, going_on = batch.rew, batch.bootstrap, batch.going_on
            learned = batch.valid
        lambdas = self.gamma, self.td_lambda
        return td_lambda_returns(reward, value, bootstrap, going_on, *lambdas), learned

    def _update_target(self) -> None:
        now = self.policy.counted(self.target_unit)
        if now - int(self.last_target_update) >= self.target_update:
            self._update_lagged_network_weights()
            self.last_target_update.fill_(now)
