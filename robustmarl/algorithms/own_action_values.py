"""The value of every own action, learned beside a learner that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from robustmarl._checks import check, check_int, check_number
from robustmarl._signatures import check_left
from robustmarl.algorithms.ppo_based import PPOBased
from robustmarl.joint import JointBatch, StepContext, TeamSpec, at_actions, joint_state
from robustmarl.learning import OnPolicyTeam, TeamTrainingStats
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import masked_mean
from robustmarl.networks import ActionCritic
from robustmarl.networks.layers import check_widths
from robustmarl.typing import Env

__all__ = ["OwnActionValues"]

_MAX_GRAD_NORM = 10.0  # as the learners here clip theirs


class OwnActionValues(OnPolicyTeam):
    r"""Mixed in left of MAPPO or IPPO: learns Q(s, o_i, i, a_i), which TRAM needs and PPO lacks.

    .. math:: L_Q = \overline{\bigl(Q(s, o_i, i, a_i) - G\bigr)^2}

    with G the learner's own returns. The learner itself is untouched, bit for bit: the critic has
    its own optimizer and is never asked by it. It belongs to the adversary, and is our addition.

    Args:
        action_critic_hidden: widths of its hidden layers.
        action_critic_lr: Adam's step size, > 0.
        action_critic_updates: gradient steps per update of the learner, >= 1.
        settings: the learner's own.

    Raises:
        TypeError: for a learner that is no PPO.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> class Attackable(algorithms.OwnActionValues, algorithms.MAPPO): ...
        >>> team = Attackable.for_env(envs.TwoStepGame())
    """

    additive_advantages = True

    def __init__(
        self,
        *,
        action_critic_hidden: tuple[int, ...] = (64, 64),
        action_critic_lr: float = 1e-3,
        action_critic_updates: int = 4,
        **settings: Any,
    ) -> None:
        self._check_learner()
        super().__init__(**settings)
        name = type(self).__name__
        spec = self.spec
        check(not spec.continuous, f"{name}.env", "of discrete actions", "a Box of actions")
        where = f"{name}.action_critic_lr"
        action_critic_lr = check_number(where, action_critic_lr, 0.0, open_low=True)
        hidden = check_widths(f"{name}.action_critic_hidden", action_critic_hidden)
        self.action_critic_updates = check_int(
            f"{name}.action_critic_updates", action_critic_updates, 1
        )
        sizes = spec.joint_state_size, spec.obs_size, spec.num_agents, spec.num_actions
        self.action_critic = ActionCritic(*sizes, hidden=hidden)
        factory = adam(action_critic_lr)
        self.action_critic_optim = self._create_optimizer(
            self.action_critic, factory, _MAX_GRAD_NORM
        )

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_left(cls, OwnActionValues)

    @classmethod
    def for_env(cls, env: Env | TeamSpec, **settings: Any) -> Self:
        """Return the learner for ``env``: what it is mixed into says which keywords it takes."""
        cls._check_learner()  # here, too: Python itself refuses a learner of another kind obscurely
        return super().for_env(env, **settings)

    @classmethod
    def _check_learner(cls) -> None:
        if not issubclass(cls, PPOBased):
            raise TypeError(
                f"OwnActionValues must be mixed into IPPO or MAPPO, got {cls.__name__}, which is "
                "no PPO, whose returns it learns."
            )

    @torch.no_grad()
    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A)."""
        state = joint_state(context.state, self.spec)
        q = self.action_critic(state, context.seen)
        q = q - (torch.softmax(logits, dim=-1) * q).sum(-1, keepdim=True)
        return q.unsqueeze(0).expand(len(act), *q.shape)

    def learn_from(
        self,
        batch: JointBatch,
        advantage: Tensor,
        returns: Tensor,
        minibatch: int | None,
        epochs: int,
        side: Mapping[str, Tensor] | None = None,
    ) -> TeamTrainingStats:
        """Let the learner learn, then the critic; see :class:`~.ppo_based.PPOBased`."""
        obs, valid = batch.obs, batch.valid
        # The learner's, which is to the right of this class: checked at construction.
        learn_from = super().learn_from  # type: ignore[misc]
        stats: TeamTrainingStats = learn_from(batch, advantage, returns, minibatch, epochs, side)
        returns, act = returns.expand(batch.living.shape)[valid], batch.act[valid]
        state = joint_state(obs.state, self.spec)[:, :-1][valid]
        seen, living = obs.seen[:, :-1][valid], batch.living[valid]
        for _ in range(self.action_critic_updates):
            q = at_actions(self.action_critic(state, seen), act)
            loss = masked_mean((q - returns).square(), living)
            self.action_critic_optim.step(loss)
        stats.metrics["action_critic_loss"] = float(loss.detach())
        return stats
