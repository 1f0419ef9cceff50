"""DOP: off-policy actors with a critic that is a weighted sum over agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, Unpack

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkFullUpdateAlgorithmMixin,
)
from tianshou.algorithm.optim import OptimizerFactory, TorchOptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check_int, check_kind, check_number
from robustmarl.algorithms.actor_critic import ActionCritics
from robustmarl.joint import JointBatch, StepContext, TeamSpec, at_actions, joint_state
from robustmarl.learning import OffPolicyTeam
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.returns import check_over_time, td_lambda_returns
from robustmarl.learning.settings import ActorCriticSettings, OpenSettings
from robustmarl.networks import ActionCritic, WeightedMixer
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.schedules import Linear, Schedule
from robustmarl.typing import Env

__all__ = ["DOP", "DOPSettings", "tree_backup"]


class DOPSettings(ActorCriticSettings, total=False):
    """Keywords of ``DOP.for_env``."""

    embed: int
    tree_lambda: float
    tree_steps: int
    off_policy_weight: float
    recent_episodes: int
    critic_steps: int


def tree_backup(
    taken: Tensor,
    expected: Tensor,
    reward: Tensor,
    probability: Tensor,
    bootstrap: Tensor,
    going_on: Tensor,
    gamma: float,
    lam: float,
    steps: int,
) -> Tensor:
    r"""Return k-step tree-backup targets, (B, T) [Wang2021]_.

    .. math:: y_t = Q_t + \sum_{l=0}^{k-1} \gamma^l c_{t,l}
              \bigl(r_{t+l} + \gamma b_{t+l}\, \bar V_{t+l+1} - Q_{t+l}\bigr), \qquad
              c_{t,l} = \prod_{j=1}^{l} \lambda\, \pi(a_{t+j} \mid \tau_{t+j})

    Args:
        taken: :math:`Q_t` of the joint actions taken, (B, T).
        expected: :math:`\bar V_{t+1} = E_\pi Q_{t+1}`, (B, T).
        reward: (B, T).
        probability: of the joint action taken under the target policy, (B, T).
        bootstrap: b, 0 after a termination, 1 at a time limit, (B, T).
        going_on: whether the episode goes on after a step, (B, T).
        gamma: discount.
        lam: lambda.
        steps: k.
    """
    over_time = {"taken": taken, "expected": expected, "probability": probability}
    over_time |= {"bootstrap": bootstrap, "going_on": going_on}
    check_over_time("tree_backup", reward, **over_time)
    gamma = check_number("tree_backup.gamma", gamma, 0.0, 1.0)
    lam = check_number("tree_backup.lam", lam, 0.0, 1.0)
    steps = check_int("tree_backup.steps", steps, 1)
    error = reward + gamma * bootstrap * expected - taken
    correction, factor = error.clone(), torch.ones_like(error)
    # At step t of round l: gamma * lambda * pi of step t+l, and the error of step t+l.
    rate, later_error = gamma * lam * _following(probability) * going_on, error
    for _ in range(steps - 1):
        factor = factor * rate
        later_error, rate = _following(later_error), _following(rate)
        correction = correction + factor * later_error
    return taken + correction


def _following(x: Tensor) -> Tensor:
    """Return what ``x`` (B, T) is a step later, 0 after the last."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)


@dataclass(frozen=True)
class _Backup:
    """What targets are made of, (B, T) each: the arguments of :func:`tree_backup`."""

    taken: Tensor
    expected: Tensor
    reward: Tensor
    probability: Tensor
    bootstrap: Tensor
    going_on: Tensor


class _Critics(nn.Module):
    """Critic and mixer as one module, so that one copy makes the target."""

    def __init__(self, critic: ActionCritic, mixer: WeightedMixer) -> None:
        super().__init__()
        self.critic, self.mixer = critic, mixer

    def forward(self, state: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q_i of every action (..., N, A) and weights k (..., N)."""
        return self.critic(state, obs), self.mixer.weights(state)


class DOP(ActionCritics, OffPolicyTeam, LaggedNetworkFullUpdateAlgorithmMixin):
    r"""Off-policy decomposed policy gradients [Wang2021]_, on whole episodes.

    .. math:: Q_{tot} = \sum_i k_i(s) Q_i(s, o_i, a_i), \qquad
              L = -\overline{k_i \Bigl(Q_i(a_i) - \sum_b \pi_i(b) Q_i(b)\Bigr) \log\pi_i(a_i)}

    The critic learns on-policy TD(lambda) targets on the newest episodes and off-policy
    tree-backup targets (:func:`tree_backup`) on the sampled ones, in one step; the actor learns
    from the newest episodes. Acts, and learns, with a share epsilon of uniform exploration. A time
    limit bootstraps from the expected value of the last observation. Learns from ``obs.seen``.

    ``for_env`` also takes ``exploration`` (1 to 0.05 over 500k steps), ``critic_hidden``
    (256, 256), ``embed`` (32), ``deterministic_eval`` and the network's settings (a GRU of 64
    that sees its last action).

    Args:
        policy: the team's.
        critic: values of every action.
        mixer: the weights k.
        optim: the actor's optimizer factory; None is RMSprop at 5e-4, alpha .99, eps 1e-5: this
            and all other defaults are those of TRAM's experiments [Wu2022]_ and, where they are
            silent, of the authors' code.
        critic_optim: the critic's and the mixer's; None is RMSprop at 1e-4.
        gamma: discount in [0, 1].
        td_lambda: of the on-policy targets, in [0, 1].
        tree_lambda: of the off-policy targets, in [0, 1].
        tree_steps: k of the off-policy targets, >= 1.
        off_policy_weight: of the off-policy loss beside the on-policy one, >= 0.
        recent_episodes: how many of the newest episodes are on-policy, >= 1.
        critic_steps: gradient steps of critic and mixer per update, which takes one of the actor,
            >= 1. A step covers all time steps; the authors' code steps per time step.
        target_update: copy critic and mixer to their target every so many updates, >= 1; the
            authors' code copies every 600 critic steps.
        reward_scale: what rewards are multiplied by before the critic learns them, > 0: returns in
            the hundreds take a small critic long to reach.
        entropy_coef: >= 0.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from robustmarl import envs, training
        >>> team = DOP.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> few = training.OffPolicy(batch_size=8, learning_starts=8)
        >>> settings = {"env_steps": 100, "learn": few, "log": training.Log(progress=False)}
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), **settings)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    additive_advantages = True

    def __init__(
        self,
        *,
        policy: ExploringPolicy,
        critic: ActionCritic,
        mixer: WeightedMixer,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.8,
        tree_lambda: float = 0.93,
        tree_steps: int = 5,
        off_policy_weight: float = 1.0,
        recent_episodes: int = 16,
        critic_steps: int = 1,
        target_update: int = 20,
        reward_scale: float = 1.0,
        entropy_coef: float = 0.0,
        max_grad_norm: float | None = 20.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, ExploringPolicy, "an ExploringPolicy")
        check_kind(f"{name}.critic", critic, ActionCritic, "an ActionCritic")
        check_kind(f"{name}.mixer", mixer, WeightedMixer, "a WeightedMixer")
        super().__init__(policy=policy)
        LaggedNetworkFullUpdateAlgorithmMixin.__init__(self)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.tree_lambda = check_number(f"{name}.tree_lambda", tree_lambda, 0.0, 1.0)
        self.tree_steps = check_int(f"{name}.tree_steps", tree_steps, 1)
        self.off_policy_weight = check_number(f"{name}.off_policy_weight", off_policy_weight, 0.0)
        self.recent_episodes = check_int(f"{name}.recent_episodes", recent_episodes, 1)
        self.critic_steps = check_int(f"{name}.critic_steps", critic_steps, 1)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        self.reward_scale = check_number(f"{name}.reward_scale", reward_scale, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self._recent: JointBatch | None = None
        self.critics = _Critics(critic, mixer)
        self._target = self._add_lagged_network(self.critics)
        network = policy.network
        self.optim = self._create_optimizer(network, optim or _rmsprop(5e-4), max_grad_norm)
        self.critic_optim = self._create_optimizer(
            self.critics, critic_optim or _rmsprop(1e-4), max_grad_norm
        )

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[DOPSettings]) -> Self:
        """Return DOP for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _exploration(cls) -> Schedule:
        # TRAM's [Wu2022]; the authors' code begins at a half.
        return Linear(1.0, 0.05, over=500_000, unit="env_steps")

    @classmethod
    def _critics(cls, spec: TeamSpec, settings: OpenSettings) -> dict[str, nn.Module]:
        hidden: tuple[int, ...] = settings.pop("critic_hidden", (256, 256))  # the authors'
        embed: int = settings.pop("embed", 32)  # the authors'
        sizes = spec.joint_state_size, spec.obs_size, spec.num_agents, spec.num_actions
        return {
            "critic": ActionCritic(*sizes, hidden=hidden, dueling=True),
            "mixer": WeightedMixer(spec.joint_state_size, spec.num_agents, embed=embed),
        }

    @torch.no_grad()
    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        r"""Return :math:`k_i (Q_i(a) - E_\pi Q_i)`, (K, E, N, A): the same for all K.

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N).
        """
        state = joint_state(context.state, self.spec)
        q, weights = self.critics(state, context.seen)
        policy = torch.softmax(logits, dim=-1)
        advantage = weights.unsqueeze(-1) * (q - (policy * q).sum(-1, keepdim=True))
        return advantage.unsqueeze(0).expand(len(act), *advantage.shape)

    def _preprocess_batch(self, batch: Any, buffer: Any, indices: Any) -> Any:
        # Tianshou's hook before an update, and the only place that is handed the buffer.
        latest = getattr(buffer, "latest", None)
        self._recent = batch if latest is None else latest(self.recent_episodes)
        return batch

    @torch.no_grad()
    def _backup(self, batch: JointBatch, logits: Tensor | None = None) -> _Backup:
        """Return what targets are made of, by the target's critic and the present actors."""
        obs, act = batch.obs, batch.act
        if logits is None:
            logits = self._outputs(batch).logits
        logp = torch.log_softmax(logits, dim=-1)
        q, weights = self._target(self._state(obs), obs.seen)
        q_taken = at_actions(q[:, :-1], act)
        logp_taken = at_actions(logp[:, :-1], act)
        expected = (weights * (logp.exp() * q).sum(-1)).sum(-1)
        return _Backup(
            taken=(weights[:, :-1] * q_taken).sum(-1),
            expected=expected[:, 1:],
            reward=self.reward_scale * batch.rew,
            probability=logp_taken.sum(-1).exp(),
            bootstrap=batch.bootstrap,
            going_on=batch.going_on,
        )

    def on_policy_targets(self, batch: JointBatch, logits: Tensor | None = None) -> Tensor:
        """Return TD(lambda) targets of the taken joint actions, (B, T).

        Args:
            batch: episodes.
            logits: the actor's masked logits (B, T+1, N, A), where known.
        """
        backup = self._backup(batch, logits)
        next_value = torch.cat([backup.taken[:, 1:], backup.expected[:, -1:]], dim=1)
        # At an episode's end no next action was taken: its expected value stands for it.
        next_value = torch.where(backup.going_on > 0, next_value, backup.expected)
        return td_lambda_returns(
            backup.reward, next_value, backup.bootstrap, backup.going_on, self.gamma, self.td_lambda
        )

    def off_policy_targets(self, batch: JointBatch) -> Tensor:
        """Return tree-backup targets of the taken joint actions, (B, T)."""
        return tree_backup(
            **vars(self._backup(batch)),
            gamma=self.gamma,
            lam=self.tree_lambda,
            steps=self.tree_steps,
        )

    def _critic_loss(self, batch: JointBatch, target: Tensor) -> Tensor:
        """Return the mean of :math:`(Q_{tot} - y)^2` over steps, with ``target`` y (B, T)."""
        valid = batch.valid  # padding may be most of a batch: critics skip it
        state, seen = self._state(batch.obs)[:, :-1][valid], batch.obs.seen[:, :-1][valid]
        q, weights = self.critics(state, seen)
        taken = at_actions(q, batch.act[valid])
        return ((weights * taken).sum(-1) - target[valid]).square().mean()

    def learn(self, batch: JointBatch) -> TeamTrainingStats:
        """Take one update's steps; see :class:`~robustmarl.learning.OffPolicyTeam`.

        Called by itself, not by :meth:`update`, it has no newest episodes, and takes ``batch`` for
        them.
        """
        recent = batch if self._recent is None else self._recent
        self._recent = None
        outputs = self._outputs(recent)
        on_target = self.on_policy_targets(recent, outputs.logits.detach())
        off_target = self.off_policy_targets(batch) if self.off_policy_weight > 0.0 else None
        for _ in range(self.critic_steps):
            on_loss = self._critic_loss(recent, on_target)
            off_loss = on_loss.new_zeros(())
            if off_target is not None:
                off_loss = self._critic_loss(batch, off_target)
            self.critic_optim.step(on_loss + self.off_policy_weight * off_loss)

        def advantages(policy: Tensor) -> Tensor:
            valid = recent.valid
            state, seen = self._state(recent.obs)[:, :-1][valid], recent.obs.seen[:, :-1][valid]
            q, weights = self.critics(state, seen)
            taken = at_actions(q, recent.act[valid])
            return weights * (taken - (policy * q).sum(-1))

        figures = self._actor_step(recent, outputs, advantages, self.entropy_coef)
        self.policy.count("updates", 1)
        if self.policy.counted("updates") % self.target_update == 0:
            self._update_lagged_network_weights()
        means = [*figures.tolist(), float(on_loss.detach()), float(off_loss.detach())]
        names = ("policy_loss", "entropy", "advantage", "critic_loss", "tree_loss")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))


def _rmsprop(lr: float) -> OptimizerFactory:
    """Return RMSprop with PyMARL's smoothing .99 and eps 1e-5, which the authors keep."""
    return TorchOptimizerFactory(torch.optim.RMSprop, lr=lr, alpha=0.99, eps=1e-5)
