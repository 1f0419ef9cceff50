"""PPO for teams: what IPPO and MAPPO share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check_choice, check_int, check_number
from robustmarl._seeding import mix
from robustmarl.joint import MASKED, JointBatch, JointObs, TeamSpec, last_actions
from robustmarl.learning import OnPolicyTeam
from robustmarl.learning.base import TeamTrainingStats, build_network
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean, normalize, ppo_surrogate
from robustmarl.learning.values import CriticInput, Reward, Valuation
from robustmarl.networks import Critic
from robustmarl.networks.normalizer import ValueNormalizer
from robustmarl.policies.actor import ActorPolicy

__all__ = ["PPOBased"]

_SIDE = "side/"
"""Marks the further inputs of actor and critic among the tensors that minibatches are cut from."""


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
        optim: optimizer factory for actor and critic together; None is Adam at 5e-4, eps 1e-5.
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
        super().__init__(policy=policy)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.gae_lambda = check_number(f"{name}.gae_lambda", gae_lambda, 0.0, 1.0)
        self.clip = check_number(f"{name}.clip", clip, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.value_coef = check_number(f"{name}.value_coef", value_coef, 0.0)
        check_choice(f"{name}.reward", reward, ("team", "agents"))
        check_choice(f"{name}.critic_input", critic_input, ("seen", "state"))
        self.seed = check_int(f"{name}.seed", seed, 0)
        if max_grad_norm is not None:
            check_number(f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True)
        if huber_delta is not None:
            check_number(f"{name}.huber_delta", huber_delta, 0.0, open_low=True)
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
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        hidden = settings.get("hidden", (64, 64))
        network = build_network(spec, settings, output_gain=0.01)
        policy = ActorPolicy(spec, network, settings.pop("deterministic_eval", False))
        critic_hidden = settings.pop("critic_hidden", hidden)
        return cls(policy=policy, **cls._critic(spec, settings, critic_hidden), **settings)

    @classmethod
    def _critic(
        cls, spec: TeamSpec, settings: dict[str, Any], hidden: tuple[int, ...]
    ) -> dict[str, Any]:
        raise TypeError(f"{cls.__name__} must implement _critic.")

    def values(self, obs: JointObs) -> Tensor:
        """Return V, (B, T+1, K) with K = 1 or N, in units of rewards."""
        return self.valuation.values(obs)

    def advantages(self, batch: JointBatch) -> tuple[Tensor, Tensor]:
        """Return GAE advantages and returns, (B, T, K) each."""
        return self.valuation.advantages(batch)

    def learning_rows(self, batch: JointBatch) -> Tensor:
        """Return the agent-steps that the actor learns from, bool (B, T, N): living agents'."""
        return batch.living

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
        obs, valid = batch.obs, batch.valid
        if batch.logp is None:
            raise ValueError(
                f"{type(self).__name__}.update.batch must be with log-probabilities, got none. "
                "Collect it with the learner's own policy."
            )
        rows = self.learning_rows(batch)
        valued = self.valuation.rows(batch, returns, rows)
        returns = self.valuation.targets(returns, valued)
        advantage = normalize(advantage.expand(rows.shape), rows)
        network = self.policy.network
        last = None
        if network.last_table is not None:
            last = last_actions(batch.act, terminal=False)
        data = {
            "seen": obs.seen[:, :-1],
            "clean": obs.obs[:, :-1],
            "mask": obs.mask[:, :-1],
            "critic": self.valuation.inputs(obs)[:, :-1],
            "act": batch.act,
            "logp": batch.logp,
            "advantage": advantage,
            "returns": returns,
            "rows": rows,
            "valued": valued,
        }
        if last is not None:
            data["last"] = last
        data |= {_SIDE + name: values[:, :-1] for name, values in (side or {}).items()}
        if not network.recurrent:  # every step is an episode of one step, padding is dropped
            data = {key: values[valid].unsqueeze(1) for key, values in data.items()}
        total, parts = len(data["seen"]), 1
        if minibatch is not None:
            parts = max(1, round(int(valid.sum()) / minibatch))
        generator = torch.Generator().manual_seed(
            mix(self.seed, self.policy.counted("updates")) & (2**63 - 1)
        )
        figures: list[Tensor] = []
        for _ in range(epochs):
            if parts == 1:
                figures.append(self._step(data))
                continue
            order = torch.randperm(total, generator=generator).to(valid.device)
            for index in order.chunk(min(parts, total)):
                part = {key: values[index] for key, values in data.items()}
                figures.append(self._step(part))
        self.policy.count("updates", 1)
        means = torch.stack(figures).mean(dim=0).tolist()
        names = ("loss", "policy_loss", "value_loss", "entropy", "kl")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))

    def _step(self, data: dict[str, Tensor]) -> Tensor:
        rows, act = data["rows"], data["act"]
        side = {k.removeprefix(_SIDE): v for k, v in data.items() if k.startswith(_SIDE)}
        output, before = self.policy.network.unroll(data["seen"], data.get("last"), side)
        if not self.spec.continuous:
            output = output.masked_fill(~data["mask"], MASKED)
        logp = self.policy.log_prob(output, act)
        surrogate = ppo_surrogate(logp, data["logp"], data["advantage"], self.clip)
        policy_loss = -masked_mean(surrogate, rows)
        entropy = masked_mean(self.policy.entropy(output), rows)
        value = self.critic(data["critic"], **side).expand_as(data["returns"])
        value_loss = masked_mean(self.valuation.error(value, data["returns"]), data["valued"])
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        self.step_policy(
            loss,
            lambda: self.loss_rows(
                data["clean"], data["mask"], rows, data.get("last"), before, side
            ),
        )
        kl = masked_mean(data["logp"] - logp.detach(), rows)
        return torch.stack([loss, policy_loss, value_loss, entropy, kl]).detach()
