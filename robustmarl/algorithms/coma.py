"""COMA: actors that learn from what an action changed, all else being equal."""

from __future__ import annotations

from typing import Self, Unpack

import torch
from tianshou.algorithm.algorithm_base import (
    LaggedNetworkFullUpdateAlgorithmMixin,
)
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check, check_int, check_kind, check_number
from robustmarl.algorithms.actor_critic import ActionCritics
from robustmarl.joint import JointBatch, StepContext, TeamSpec, at_actions, joint_state
from robustmarl.learning import OnPolicyTeam
from robustmarl.learning.base import TeamTrainingStats
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import td_lambda_returns
from robustmarl.learning.settings import ActorCriticSettings, OpenSettings
from robustmarl.networks import ActionCritic
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.typing import Env

__all__ = ["COMA"]


class COMA(ActionCritics, OnPolicyTeam, LaggedNetworkFullUpdateAlgorithmMixin):
    r"""Counterfactual multi-agent policy gradients [Foerster2018]_, on whole episodes.

    .. math:: A_i(s, a) = Q(s, a) - \sum_{a'} \pi_i(a' \mid \tau_i)\, Q(s, (a_{-i}, a')), \qquad
              L = -\overline{A_i \log\pi_i(a_i)}

    with a centralised critic Q(s, o_i, i, a_{-i}, .) that learns TD(lambda) targets of a target
    network. A round is one step of the actors, on all of its episodes at once; its epochs are
    steps of the critic before it, and there are no minibatches. Acts, and learns, with a share
    epsilon of uniform exploration. A time limit bootstraps from the last observation: each agent's
    expected value, the others taking their likeliest actions. Learns from ``obs.seen``.

    ``for_env`` also takes ``exploration`` (0.5 to 0.01 over 100k steps), ``critic_hidden``
    (128, 128), ``deterministic_eval`` and the network's settings (a GRU of 64 that sees its last
    action).

    Args:
        policy: the team's.
        critic: values of every action, given the others'.
        optim: the actor's optimizer factory; None is Adam at 5e-4, PyMARL's step size.
        critic_optim: the critic's; None is Adam at 5e-4, PyMARL's step size.
        gamma: discount in [0, 1].
        td_lambda: in [0, 1]; .6 is PyMARL's.
        target_update: copy the critic to its target every so many critic steps, >= 1. A critic
            step covers all time steps; PyMARL takes one per time step, and copies every 200.
        reward_scale: what rewards are multiplied by before the critic learns them, > 0: returns in
            the hundreds take a small critic long to reach.
        entropy_coef: >= 0.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.

    Example:
        >>> from robustmarl import envs, training
        >>> team = COMA.for_env(envs.ToyGame(horizon=5), seed=0)
        >>> quiet = training.Log(progress=False)
        >>> history = training.run(team, lambda: envs.ToyGame(horizon=5), env_steps=100, log=quiet)
        >>> history.episodes, history.env_steps[-1]
        (20, 100)
    """

    takes_segments = True
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
        reward_scale: float = 1.0,
        entropy_coef: float = 0.0,
        max_grad_norm: float | None = 10.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.policy", policy, ExploringPolicy, "an ExploringPolicy")
        check_kind(f"{name}.critic", critic, ActionCritic, "an ActionCritic")
        super().__init__(policy=policy)
        LaggedNetworkFullUpdateAlgorithmMixin.__init__(self)
        self.gamma = check_number(f"{name}.gamma", gamma, 0.0, 1.0)
        self.td_lambda = check_number(f"{name}.td_lambda", td_lambda, 0.0, 1.0)
        self.target_update = check_int(f"{name}.target_update", target_update, 1)
        self.reward_scale = check_number(f"{name}.reward_scale", reward_scale, 0.0, open_low=True)
        self.entropy_coef = check_number(f"{name}.entropy_coef", entropy_coef, 0.0)
        self.critic = critic
        self._target = self._add_lagged_network(critic)
        self.register_buffer("critic_steps", torch.zeros((), dtype=torch.int64))
        network = policy.network
        self.optim = self._create_optimizer(network, optim or adam(5e-4), max_grad_norm)
        self.critic_optim = self._create_optimizer(
            critic, critic_optim or adam(5e-4), max_grad_norm
        )

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Unpack[ActorCriticSettings]) -> Self:
        """Return COMA for ``env``; see :meth:`TeamAlgorithm.for_env`."""
        return cls._make(env, settings)

    @classmethod
    def _critics(cls, spec: TeamSpec, settings: OpenSettings) -> dict[str, nn.Module]:
        hidden: tuple[int, ...] = settings.pop("critic_hidden", (128, 128))  # PyMARL's
        sizes = spec.joint_state_size, spec.obs_size, spec.num_agents, spec.num_actions
        return {"critic": ActionCritic(*sizes, hidden=hidden, others=True)}

    @torch.no_grad()
    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A).

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N): what the others do.
        """
        state = joint_state(context.state, self.spec)
        q = self.critic(state, context.seen, act)
        policy = torch.softmax(logits, dim=-1)
        return q - (policy * q).sum(-1, keepdim=True)

    def targets(self, batch: JointBatch, logits: Tensor | None = None) -> Tensor:
        """Return TD(lambda) targets of the taken actions, (B, T, N).

        Args:
            batch: episodes.
            logits: the actor's masked logits (B, T+1, N, A), where known.
        """
        obs, act = batch.obs, batch.act
        with torch.no_grad():
            if logits is None:
                logits = self._outputs(batch).logits
            # After a time limit nothing was played: the likeliest actions stand for the others',
            # and each agent's expected value for its own.
            final = torch.arange(len(act), device=act.device), batch.valid.sum(1)
            joint = torch.cat([act, logits[:, -1:].argmax(-1)], dim=1)
            joint[final] = logits[final].argmax(-1)
            q = self._target(self._state(obs), obs.seen, joint)
            value = at_actions(q, joint)
            policy = torch.softmax(logits[final], dim=-1)
            value[final] = (policy * q[final]).sum(-1)
            later = value[:, 1:]
            reward, bootstrap, going_on = batch.earned("team")
            reward, lambdas = self.reward_scale * reward, (self.gamma, self.td_lambda)
            return td_lambda_returns(reward, later, bootstrap, going_on, *lambdas)

    def learn(self, batch: JointBatch, minibatch: int | None, epochs: int) -> TeamTrainingStats:
        """Learn from one round's episodes; see :class:`~robustmarl.learning.OnPolicyTeam`.

        Args:
            batch: the episodes.
            minibatch: None: it takes all at once.
            epochs: steps of the critic, >= 1; the actors take one.

        Raises:
            ValueError: for minibatches.
        """
        where, rule = f"{type(self).__name__}.learn.minibatch", "None: actors take a step per round"
        check(minibatch is None, where, rule, minibatch, "Write OnPolicy(batch_size=None).")
        obs, valid = batch.obs, batch.valid
        outputs = self._outputs(batch)
        # Padding is half of a batch and more once episodes get shorter: critics skip it.
        state, seen = self._state(obs)[:, :-1][valid], obs.seen[:, :-1][valid]
        act = batch.act[valid]
        losses = []
        target = None
        for _ in range(epochs):
            if target is None:  # the dead earn on, and targets ask for it
                target = self.targets(batch, outputs.logits.detach())[valid]
            q = self.critic(state, seen, act)
            taken = at_actions(q, act)
            loss = (taken - target).square().mean()
            self.critic_optim.step(loss)
            losses.append(loss.detach())
            self.critic_steps += 1
            if int(self.critic_steps) % self.target_update == 0:
                self._update_lagged_network_weights()
                target = None

        def advantages(policy: Tensor) -> Tensor:
            q = self.critic(state, seen, act)
            taken = at_actions(q, act)
            return taken - (policy * q).sum(-1)

        figures = self._actor_step(batch, outputs, advantages, self.entropy_coef)
        self.policy.count("updates", 1)
        means = [*figures.tolist(), float(torch.stack(losses).mean())]
        names = ("policy_loss", "entropy", "advantage", "critic_loss")
        return TeamTrainingStats(metrics=dict(zip(names, means, strict=True)))
