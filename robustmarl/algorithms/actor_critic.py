"""Stochastic actors with a critic of every action: what COMA and DOP share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from robustmarl._checks import check
from robustmarl.joint import (
    MASKED,
    JointBatch,
    JointObs,
    StepContext,
    TeamSpec,
    at_actions,
    joint_state,
)
from robustmarl.learning.base import TeamAlgorithm, build_network
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import (
    ExplorationSettings,
    NetworkSettings,
    OpenSettings,
    take,
)
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.schedules import Linear, Schedule

__all__ = ["ActionCritics", "ActorOutputs"]


class ActorOutputs(NamedTuple):
    """What the actors made of episodes.

    ``logits`` are masked, (B, T+1, N, A); ``before`` are hidden states before each step,
    (B, T+1, N, H) or None; ``last_act`` are the actions before each step, (B, T+1, N) or None.
    """

    logits: Tensor
    before: Tensor | None
    last_act: Tensor | None


class ActionCritics(TeamAlgorithm):
    """Mixed in left of Tianshou's base class by learners with a critic of every action."""

    policy: ExploringPolicy
    additive_advantages: bool
    gamma: float

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        rule = "discrete: the critic has a head per action"
        check(not spec.continuous, f"{cls.__name__}.for_env.env", rule, "a Box of actions")
        # A GRU of 64 that sees its last action: PyMARL's actor, and that of DOP's authors.
        actors = NetworkSettings(recurrent=True, last_action=True, hidden=(64,))
        network = build_network(spec, actors | take(settings, NetworkSettings))
        acting = take(settings, ExplorationSettings)
        policy = ExploringPolicy(
            spec,
            network,
            acting.get("exploration", cls._exploration()),
            acting.get("deterministic_eval", False),
        )
        return cls(policy=policy, **cls._critics(spec, settings), **settings)

    @classmethod
    def _exploration(cls) -> Schedule:
        """Return how it explores by default."""
        return Linear(0.5, 0.01, over=100_000, unit="env_steps")  # PyMARL's for COMA

    @classmethod
    def _critics(cls, spec: TeamSpec, settings: OpenSettings) -> dict[str, nn.Module]:
        """Return the critic's parts by keyword; it takes its keywords out of ``settings``."""
        raise TypeError(f"{cls.__name__} must implement _critics.")

    @abstractmethod
    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A).

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N): what the others do.
        """

    def _state(self, obs: JointObs) -> Tensor:
        return joint_state(obs.state, self.spec)

    def _outputs(self, batch: JointBatch) -> ActorOutputs:
        """Return what the actors make of the whole episodes, with gradient."""
        obs, last_act = batch.obs, self.last_act(batch, terminal=True)
        network = self.policy.network
        logits, before = network.unroll(obs.seen, last_act, hidden=batch.hidden_before)
        return ActorOutputs(logits.masked_fill(~obs.mask, MASKED), before, last_act)

    def _actor_step(
        self,
        batch: JointBatch,
        outputs: ActorOutputs,
        advantages: Callable[[Tensor], Tensor],
        entropy_coef: float,
    ) -> Tensor:
        r"""Step on :math:`-\overline{A \log\pi} - c H`; return loss, entropy and mean |A|.

        Args:
            batch: episodes, with R steps in all.
            outputs: what :meth:`_outputs` made of them, with gradient.
            advantages: maps policies (R, N, A), no gradient, to those of the taken actions.
            entropy_coef: c.
        """
        obs = batch.obs
        logp = self.policy.log_policy(outputs.logits[:, :-1][batch.valid])
        policy = logp.exp()
        with torch.no_grad():
            advantage = advantages(policy)
        logp_taken = at_actions(logp, batch.act[batch.valid])
        alive = obs.alive[:, :-1][batch.valid]
        entropy = masked_mean(-(policy * logp).sum(-1), alive)
        loss = -masked_mean(advantage * logp_taken, alive) - entropy_coef * entropy
        self.step_policy(
            loss,
            lambda: self.loss_rows(
                obs.obs, obs.mask, batch.living, outputs.last_act, outputs.before
            ),
        )
        return torch.stack([loss, entropy, masked_mean(advantage.abs(), alive)]).detach()
