"""PPO for teams: what IPPO and MAPPO share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypedDict, Unpack

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check_choice, check_flag, check_int, check_kind, check_number
from robustmarl._seeding import generator
from robustmarl.joint import MASKED, JointBatch, JointObs, TeamSpec
from robustmarl.learning import OnPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, normalize, ppo_surrogate, standardize
from robustmarl.learning.samples import Samples
from robustmarl.learning.settings import NetworkSettings, OpenSettings, PPOSettings, take
from robustmarl.learning.values import CriticInput, Reward, Valuation
from robustmarl.networks import Critic
from robustmarl.networks.normalizer import ValueNormalizer
from robustmarl.policies.actor import ActorPolicy
from robustmarl.typing import Env

__all__ = ["CriticParts", "PPOBased"]


class CriticParts(TypedDict):
    """The critic and what it reads, by the constructor's keywords."""

    critic: Critic
    critic_input: CriticInput


@dataclass(frozen=True, kw_only=True)
class _PPOSamples(Samples):
    """What PPO's steps learn from.

    Attributes:
        critic_inputs: what the critic reads beside ``side``, (B, T, K, ...).
        logp: log-probability of ``act`` when it was drawn, (B, T, N).
        advantage: normalised, (B, T, N).
        returns: what the critic learns, (B, T, K).
    """

    critic_inputs: Tensor
    logp: Tensor
    advantage: Tensor
    returns: Tensor


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

    takes_segments = True
    policy: ActorPolicy
    normalizer: ValueNormalizer | None

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
        reward: Reward = "team",
        normalize_value: bool = True,
        huber_delta: float | None = None,
        max_grad_norm: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, ActorPolicy, "an ActorPolicy")
        check_kind(f"{name}.critic", critic, Critic, "a Critic")
        normalize_value = check_flag(f"{name}.normalize_value", normalize_value)
        super().__init__(policy=policy)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.gae_lambda = check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0)
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.value_coef = check_number(f"{name}.value_coef", value_coef, 0.0)
        check_choice(f"{name}.reward", reward, ("team", "agents"))
        check_choice(f"{name}.critic_input", critic_input, ("seen", "state"))
        self.seed = check_int(f"{name}.seed", seed, 0)
        self._max_grad_norm = max_grad_norm  # for what subclasses have learn beside
        if huber_delta is not None:
            huber_delta = check_number(f"{name}.huber_delta", huber_delta, 0.0, open_low=True)
        self.critic = critic
        self.normalizer = ValueNormalizer() if normalize_value else None
        self.valuation = Valuation(
            critic=critic,
            normalizer=self.normalizer,
            critic_input=critic_input,
            reward=reward,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            huber_delta=huber_delta,
        )
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
        """Return V, (B, T+1, K) with K = 1 or N, in units of rewards; side inputs are left out."""
        return self.valuation.values(obs)

    def advantages(self, batch: JointBatch) -> tuple[Tensor, Tensor]:
        """Return GAE advantages and returns, (B, T, K) each."""
        return self.valuation.advantages(batch)

    def standardized(self, batch: JointBatch, advantage: Tensor) -> Tensor:
        """Return ``advantage``, (B, T, K), standardised over what the actor learns from, (B, T, N).

        It is that of the team; adversaries that share it turn its sign.
        """
        rows = self.learning_rows(batch)
        return standardize(advantage.expand(rows.shape), rows)

    def learning_rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps that the actor learns from, bool (B, T, N): living agents'."""
        return batch.living

    def surrogate(self, logp: Tensor, logp_old: Tensor, advantage: Tensor) -> Tensor:
        """Return what the actor raises, per element.

        Args:
            logp: log-probabilities of the taken actions now.
            logp_old: those when they were taken.
            advantage: normalised.
        """
        return ppo_surrogate(logp, logp_old, advantage, self.clip)

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`."""
        with torch.no_grad():
            advantage, returns = self.advantages(batch)
        return self.learn_from(batch, advantage, returns, minibatch, epochs)

    def learn_from(
        self,
        batch: JointBatch,
        advantage: Tensor,
        returns: Tensor,
        minibatch: int | None,
        epochs: int,
        side: Mapping[str, Tensor] | None = None,
    ) -> TeamTrainingStats:
        """Learn from one round's episodes, of which the values are known.

        Args:
            batch: the episodes.
            advantage: of what the agents did, (B, T, K) with K = 1 or N; it is standardised here.
            returns: what the critic learns, (B, T, K), in units of rewards.
            minibatch: valid steps per optimizer step; None is all at once.
            epochs: passes over the episodes, >= 1.
            side: further inputs of actor and critic by name, (B, T+1, N, ...) each.
        """
        if batch.logp is None:
            raise ValueError(
                f"{type(self).__name__}.update.batch must be with log-probabilities, got none. "
                "Collect it with the learner's own policy."
            )
        samples = self._samples(batch, batch.logp, advantage, returns, side or {})
        samples = samples.for_epochs(batch.valid, minibatch)
        order = generator(self.seed, self.policy.counted("updates"))
        figures: list[Tensor] = []
        for _ in range(epochs):
            parts = samples.minibatches(batch.valid, minibatch, order)
            figures += [self._step(part) for part in parts]
        self.policy.count("updates", 1)
        means = torch.stack(figures).mean(dim=0).tolist()
        names = ("loss", "policy_loss", "value_loss", "entropy", "kl")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))

    def _samples(
        self,
        batch: JointBatch,
        logp: Tensor,
        advantage: Tensor,
        returns: Tensor,
        side: Mapping[str, Tensor],
    ) -> _PPOSamples:
        """Return what is learned of ``batch``; the arguments are those of :meth:`learn_from`."""
        obs, acting = batch.obs, self.learning_rows(batch)
        recurrent = self.policy.network.recurrent
        valued = self.valuation.rows(batch, returns)
        samples = _PPOSamples(
            seen=obs.seen[:, :-1],
            clean=obs.obs[:, :-1],
            mask=obs.mask[:, :-1],
            critic_inputs=self.valuation.inputs(obs)[:, :-1],
            act=batch.act,
            logp=logp,
            advantage=normalize(advantage.expand(acting.shape), acting),
            returns=self.valuation.targets(returns, valued),
            acting=acting,
            valued=valued,
            last_act=self.last_act(batch, terminal=False),
            side={name: values[:, :-1] for name, values in side.items()},
            hidden=batch.hidden_before if recurrent else None,
        )
        # Without memory a step needs no history: minibatches are of steps, and padding is dropped.
        return samples if recurrent else samples.steps(batch.valid)

    def _step(self, samples: _PPOSamples) -> Tensor:
        """Take one step of actor and critic; return the figures that :meth:`learn_from` names."""
        acting, side = samples.acting, samples.side
        network = self.policy.network
        output, before = network.unroll(samples.seen, samples.last_act, side, samples.hidden)
        if not self.spec.continuous:
            output = output.masked_fill(~samples.mask, MASKED)
        logp = self.policy.log_prob(output, samples.act)
        surrogate = self.surrogate(logp, samples.logp, samples.advantage)
        policy_loss = -masked_mean(surrogate, acting)
        entropy = masked_mean(self.policy.entropy(output), acting)
        value = self.critic(samples.critic_inputs, **side).expand_as(samples.returns)
        value_loss = masked_mean(self.valuation.error(value, samples.returns), samples.valued)
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        clean, mask, last_act = samples.clean, samples.mask, samples.last_act
        self.step_policy(loss, lambda: self.loss_rows(clean, mask, acting, last_act, before, side))
        kl = masked_mean(samples.logp - logp.detach(), acting)  # its first-order estimate
        return torch.stack([loss, policy_loss, value_loss, entropy, kl]).detach()
