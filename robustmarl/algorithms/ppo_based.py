"""PPO for teams: what IPPO and MAPPO share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, TypedDict, Unpack

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check_choice, check_int, check_number
from robustmarl._seeding import mix
from robustmarl.joint import MASKED, JointBatch, JointObs, TeamSpec
from robustmarl.learning import OnPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import gae, masked_mean, normalize, ppo_surrogate
from robustmarl.learning.settings import (
    CriticInput,
    NetworkSettings,
    OpenSettings,
    PPOSettings,
    RewardOf,
    take,
)
from robustmarl.networks import Critic
from robustmarl.networks.normalizer import ValueNormalizer
from robustmarl.policies.actor import ActorPolicy
from robustmarl.typing import Env

__all__ = ["CriticParts", "PPOBased"]


class CriticParts(TypedDict):
    """The critic and what it reads, by the constructor's keywords."""

    critic: Critic
    critic_input: CriticInput


@dataclass(frozen=True)
class _Samples:
    """What PPO's steps learn from: B episodes of T steps, or B steps as episodes of one.

    Args:
        seen: what the agents acted on, (B, T, N, D).
        clean: what they would have seen without an attack, (B, T, N, D).
        mask: available actions, (B, T, N, A).
        critic_inputs: what the critic reads, (B, T, K, ...).
        act: what they did, (B, T, N) or (B, T, N, A).
        logp: its log-probability when they acted, (B, T, N).
        advantage: normalised, (B, T, N).
        returns: what the critic learns, (B, T, K).
        acting: agent-steps that the actor learns from, bool (B, T, N).
        valued: where the critic learns, bool (B, T, K).
        last_act: the actions before each step, like ``act``; None if agents do not see them.
    """

    seen: Tensor
    clean: Tensor
    mask: Tensor
    critic_inputs: Tensor
    act: Tensor
    logp: Tensor
    advantage: Tensor
    returns: Tensor
    acting: Tensor
    valued: Tensor
    last_act: Tensor | None

    def __len__(self) -> int:
        return len(self.seen)

    def select(self, index: Tensor) -> _Samples:
        """Return the episodes of these indices."""
        return self._each(lambda values: values[index])

    def steps(self, valid: Tensor) -> _Samples:
        """Return every step that is ``valid``, bool (B, T), as an episode of one step."""
        return self._each(lambda values: values[valid].unsqueeze(1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> _Samples:
        kept: dict[str, Tensor] = {k: v for k, v in vars(self).items() if v is not None}
        return replace(self, **{name: change(values) for name, values in kept.items()})


class PPOBased(OnPolicyTeam):
    r"""Clipped PPO on whole episodes, one actor shared by the team.

    .. math:: L = -\overline{\min(\rho A, \mathrm{clip}(\rho, 1 \pm c) A)}
                  + c_v \overline{(V - G)^2} - c_e \overline{H}

    with GAE advantages, averages over valid steps of living agents, and log-probabilities as
    stored when acting. A time limit bootstraps. Learns from ``obs.seen``.

    Args:
        policy: the team's.
        critic: values (..., K) of inputs (..., K, size).
        critic_input: ``"seen"`` or ``"state"``.
        optim: optimizer factory for actor and critic together; None is Adam at 5e-4, eps 1e-5,
            the step size and eps of the code of [Yu2022]_.
        gamma: discount in [0, 1].
        gae_lambda: in [0, 1].
        clip: c, > 0.
        entropy_coef: :math:`c_e` >= 0.
        value_coef: :math:`c_v` >= 0.
        reward: ``"team"``, or ``"agents"`` for each agent's own.
        normalize_value: learn values in units of the returns' running spread.
        huber_delta: error from which on the value's loss grows linearly (Huber: half the square
            below), > 0, in units of what is learned; None is the square.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
        seed: of the minibatches.
    """

    policy: ActorPolicy
    normalizer: ValueNormalizer | None
    _valued: tuple[JointBatch, tuple[Tensor, Tensor]] | None = None

    def __init__(
        self,
        *,
        policy: ActorPolicy,
        critic: Critic,
        critic_input: CriticInput,
        optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip: float = 0.2,
        entropy_coef: float = 0.01,
        value_coef: float = 0.5,
        reward: RewardOf = "team",
        normalize_value: bool = True,
        huber_delta: float | None = None,
        max_grad_norm: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        super().__init__(policy=policy)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.gae_lambda = check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0)
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.value_coef = check_number(f"{name}.value_coef", value_coef, 0.0)
        check_choice(f"{name}.reward", reward, ("team", "agents"))
        check_choice(f"{name}.critic_input", critic_input, ("seen", "state"))
        self.reward, self.critic_input = reward, critic_input
        self.seed = check_int(f"{name}.seed", seed, 0)
        if max_grad_norm is not None:
            check_number(f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True)
        if huber_delta is not None:
            check_number(f"{name}.huber_delta", huber_delta, 0.0, open_low=True)
        self.huber_delta = huber_delta
        self.critic = critic
        self.normalizer = ValueNormalizer() if normalize_value else None
        learned = nn.ModuleList([policy.network, critic])
        self.optim = self._create_optimizer(learned, optim or adam(5e-4, 1e-5), max_grad_norm)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[PPOSettings]) -> Self:
        """Return the learner for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        hidden = settings.get("hidden", (64, 64))
        # Gain .01 of the last layer: the first policy is nearly uniform, as in Yu2022's code.
        actors = NetworkSettings(output_gain=0.01) | take(settings, NetworkSettings)
        greedy = settings.pop("deterministic_eval", False)
        policy = ActorPolicy(spec, build_network(spec, actors), greedy)
        critic_hidden = settings.pop("critic_hidden", hidden)
        return cls(policy=policy, **cls._critic(spec, settings, critic_hidden), **settings)

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: OpenSettings, hidden: tuple[int, ...]
    ) -> CriticParts:
        """Return the critic and what it reads.

        Args:
            spec: the team's.
            settings: what is left of them for the constructor; a subclass may take out its own.
            hidden: widths of the critic's hidden layers.
        """
        raise TypeError(f"{cls.__name__} must implement _critic.")

    def values(self, obs: JointObs) -> Tensor:
        """Return V, (B, T+1, K) with K = 1 or N, in units of rewards."""
        value = self.critic(self._critic_inputs(obs))
        return value if self.normalizer is None else self.normalizer.denormalize(value)

    def advantages(self, batch: JointBatch) -> tuple[Tensor, Tensor]:
        """Return GAE advantages and returns, (B, T, K) each."""
        if self._valued is not None and self._valued[0] is batch:  # a subclass's update asked
            return self._valued[1]
        value = self.values(batch.obs)
        each_its_own = self.reward == "agents"
        reward = batch.rew_agents if each_its_own else batch.rew.unsqueeze(-1)
        reward = reward.expand(*reward.shape[:2], max(reward.shape[-1], value.shape[-1]))
        value = value.expand(*value.shape[:2], reward.shape[-1])
        bootstrap, going_on = batch.bootstrap.unsqueeze(-1), batch.going_on.unsqueeze(-1)
        if each_its_own:  # a dead agent earns nothing more
            living = batch.obs.alive[:, 1:].float()
            bootstrap, going_on = bootstrap * living, going_on * living
        advantage = gae(reward, value, bootstrap, going_on, self.gamma, self.gae_lambda)
        return advantage, advantage + value[:, :-1]

    def value_error(self, value: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each value: the square of the error, or Huber's."""
        if self.huber_delta is None:
            return (value - target).square()
        return F.huber_loss(value, target, reduction="none", delta=self.huber_delta)

    def learning_rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps that the actor learns from, bool (B, T, N): living agents'."""
        return batch.living

    def _side(self, seen: Tensor) -> dict[str, Tensor]:
        """Return the policy's ``Rows.side`` that ``seen``, what it learns from, carries."""
        return {}

    def _critic_inputs(self, obs: JointObs) -> Tensor:
        if self.critic_input == "seen":
            return obs.seen
        if obs.state.dim() == 4:
            return obs.state
        state = obs.state.unsqueeze(2)
        n = self.spec.num_agents if self.critic.id_table is not None else 1
        return state.expand(-1, -1, n, -1)

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        valid = batch.valid
        if batch.logp is None:
            raise ValueError(
                f"{type(self).__name__}.update.batch must be with log-probabilities, got none. "
                "Collect it with the learner's own policy."
            )
        samples = self._samples(batch, batch.logp)
        parts = 1
        if minibatch is not None:
            parts = min(max(1, round(int(valid.sum()) / minibatch)), len(samples))
        generator = torch.Generator().manual_seed(
            mix(self.seed, self.policy.counted("updates")) & (2**63 - 1)
        )
        figures: list[Tensor] = []
        for _ in range(epochs):
            if parts == 1:
                figures.append(self._step(samples))
                continue
            order = torch.randperm(len(samples), generator=generator).to(valid.device)
            figures += [self._step(samples.select(index)) for index in order.chunk(parts)]
        self.policy.count("updates", 1)
        means = torch.stack(figures).mean(dim=0).tolist()
        names = ("loss", "policy_loss", "value_loss", "entropy", "kl")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))

    def _samples(self, batch: JointBatch, logp: Tensor) -> _Samples:
        """Return what is learned of ``batch``, whose actions had ``logp`` (B, T, N)."""
        obs, acting = batch.obs, self.learning_rows(batch)
        with torch.no_grad():
            advantage, returns = self.advantages(batch)
            self._valued = None
            valued = batch.valid.unsqueeze(-1).expand_as(returns)
            if self.reward == "agents":
                valued = acting
            if self.normalizer is not None:
                self.normalizer.update(returns, valued)
                returns = self.normalizer.normalize(returns)
            advantage = normalize(advantage.expand(acting.shape), acting)
        samples = _Samples(
            seen=obs.seen[:, :-1],
            clean=obs.obs[:, :-1],
            mask=obs.mask[:, :-1],
            critic_inputs=self._critic_inputs(obs)[:, :-1],
            act=batch.act,
            logp=logp,
            advantage=advantage,
            returns=returns,
            acting=acting,
            valued=valued,
            last_act=self.last_act(batch.act, terminal=False),
        )
        # Without memory a step needs no history: minibatches are of steps, and padding is dropped.
        return samples if self.policy.network.recurrent else samples.steps(batch.valid)

    def _step(self, samples: _Samples) -> Tensor:
        """Take one step of actor and critic; return the figures that ``learn`` names."""
        acting = samples.acting
        output, before = self.policy.network.unroll(samples.seen, samples.last_act)
        if not self.spec.continuous:
            output = output.masked_fill(~samples.mask, MASKED)
        logp = self.policy.log_prob(output, samples.act)
        surrogate = ppo_surrogate(logp, samples.logp, samples.advantage, self.clip)
        policy_loss = -masked_mean(surrogate, acting)
        entropy = masked_mean(self.policy.entropy(output), acting)
        value = self.critic(samples.critic_inputs).expand_as(samples.returns)
        value_loss = masked_mean(self.value_error(value, samples.returns), samples.valued)
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        side = self._side(samples.seen)
        clean, mask, last_act = samples.clean, samples.mask, samples.last_act
        self.step_policy(loss, lambda: self.loss_rows(clean, mask, acting, last_act, before, side))
        kl = masked_mean(samples.logp - logp.detach(), acting)  # its first-order estimate
        return torch.stack([loss, policy_loss, value_loss, entropy, kl]).detach()
