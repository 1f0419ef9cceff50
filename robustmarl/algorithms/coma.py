"""COMA: actors that learn from what an action changed, all else being equal."""

from __future__ import annotations

from typing import Any

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkFullUpdateAlgorithmMixin,
    OnPolicyAlgorithm,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check_int, check_number
from robustmarl.algorithms.actor_critic import ActionCritics, ExploringPolicy, joint_state
from robustmarl.algorithms.team import TeamTrainingStats, adam
from robustmarl.attacks.base import StepContext
from robustmarl.networks import ActionCritic
from robustmarl.objectives import masked_mean, td_lambda_returns
from robustmarl.spec import TeamSpec

__all__ = ["COMA"]


class COMA(
    ActionCritics, OnPolicyAlgorithm[ExploringPolicy], LaggedNetworkFullUpdateAlgorithmMixin
):
    r"""Counterfactual multi-agent policy gradients [Foerster2018]_, on whole episodes.

    .. math:: A_i(s, a) = Q(s, a) - \sum_{a'} \pi_i(a' \mid \tau_i)\, Q(s, (a_{-i}, a')), \qquad
              L = -\overline{A_i \log\pi_i(a_i)}

    with a centralised critic Q(s, o_i, i, a_{-i}, .) that learns TD(lambda) targets of a target
    network. Acts, and learns, with a share epsilon of uniform exploration. A time limit
    bootstraps from the last observation: each agent's expected value, the others taking their
    likeliest actions. Learns from ``obs.seen``.

    ``for_env`` also takes ``exploration`` (0.5 to 0.01 over 100k steps), ``critic_hidden``
    (128, 128), ``deterministic_eval`` and the network's settings (a GRU of 64 that sees its last
    action).

    Args:
        policy: the team's.
        critic: values of every action, given the others'.
        optim: the actor's optimizer factory; None is Adam at 5e-4.
        critic_optim: the critic's; None is Adam at 5e-4.
        gamma: discount in [0, 1].
        td_lambda: in [0, 1].
        target_update: copy the critic to its target every so many critic steps, >= 1. A critic
            step covers all time steps; PyMARL takes one per time step, and copies every 200.
        entropy_coef: >= 0.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
    """

    additive_advantages = False
    critic_steps: Tensor

    def __init__(
        self,
        *,
        policy: ExploringPolicy,
        critic: ActionCritic,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.6,
        target_update: int = 10,
        entropy_coef: float = 0.0,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        super().__init__(policy=policy)
        LaggedNetworkFullUpdateAlgorithmMixin.__init__(self)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        if max_grad_norm is not None:
            check_number(f"{name}.max_grad_norm", max_grad_norm, 0.0, open_low=True)
        self.critic = critic
        self._target = self._add_lagged_network(critic)
        self.register_buffer("critic_steps", torch.zeros((), dtype=torch.int64))
        network = policy.network
        self.optim = self._create_optimizer(network, optim or adam(5e-4), max_grad_norm)
        self.critic_optim = self._create_optimizer(
            critic, critic_optim or adam(5e-4), max_grad_norm
        )

    @classmethod
    def _critics(
        cls, spec: TeamSpec, state_size: int, settings: dict[str, Any]
    ) -> dict[str, nn.Module]:
        hidden = settings.pop("critic_hidden", (128, 128))
        sizes = (state_size, spec.obs_size, spec.num_agents, spec.num_actions)
        return {"critic": ActionCritic(*sizes, hidden=hidden, others=True)}

    @torch.no_grad()
    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A).

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N): what the others do.
        """
        state = joint_state(context.state, self.spec.state_layout == "per_agent")
        q = self.critic(state, context.seen, act)
        policy = torch.softmax(logits, dim=-1)
        return q - (policy * q).sum(-1, keepdim=True)

    def targets(self, batch: Any) -> Tensor:
        """Return TD(lambda) targets of the taken actions, (B, T, N)."""
        obs, act = batch.obs, batch.act
        with torch.no_grad():
            output, _, _ = self._outputs(obs, act)
            # After a time limit nothing was played: the likeliest actions stand for it.
            last = output[:, -1:].argmax(-1)
            lengths = batch.valid.sum(1)
            joint = torch.cat([act, last], dim=1)
            ends = torch.arange(len(act), device=act.device)
            final = output[ends, lengths].argmax(-1)
            joint[ends, lengths] = final
            q = self._target(self._state(obs), obs.seen, joint)
            value = q.gather(-1, joint.unsqueeze(-1)).squeeze(-1)
            policy = torch.softmax(output[ends, lengths], dim=-1)
            value[ends, lengths] = (policy * q[ends, lengths]).sum(-1)
            bootstrap = (1.0 - batch.terminated.float()).unsqueeze(-1)
            going_on = batch.valid.float()
            going_on = torch.cat([going_on[:, 1:], torch.zeros_like(going_on[:, :1])], dim=1)
            reward = batch.rew.unsqueeze(-1).expand(value[:, 1:].shape)
            return td_lambda_returns(
                reward,
                value[:, 1:],
                bootstrap,
                going_on.unsqueeze(-1),
                self.gamma,
                self.td_lambda,
            )

    def _update_with_batch(
        self, batch: Any, batch_size: int | None, repeat: int
    ) -> TeamTrainingStats:
        obs, act, valid = batch.obs, batch.act, batch.valid
        state, seen = self._state(obs)[:, :-1], obs.seen[:, :-1]
        rows = valid.unsqueeze(-1).expand_as(act)  # the dead earn on, and targets ask for it
        losses = []
        for _ in range(repeat):
            target = self.targets(batch)
            q = self.critic(state, seen, act)
            taken = q.gather(-1, act.unsqueeze(-1)).squeeze(-1)
            loss = masked_mean((taken - target).square(), rows)
            self.critic_optim.step(loss)
            losses.append(loss.detach())
            self.critic_steps += 1
            if int(self.critic_steps) % self.target_update == 0:
                self._update_lagged_network_weights()

        def advantage(policy: Tensor) -> Tensor:
            q = self.critic(state, seen, act)
            taken = q.gather(-1, act.unsqueeze(-1)).squeeze(-1)
            return taken - (policy * q).sum(-1)

        figures = self._actor_step(batch, self.optim, advantage, self.entropy_coef)
        self.policy.count("updates", 1)
        means = [*figures.tolist(), float(torch.stack(losses).mean())]
        names = ("policy_loss", "entropy", "advantage", "critic_loss")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))
