"""Stochastic actors with a critic of every action: what COMA and DOP share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from robustmarl._checks import check
from robustmarl.joint import (
    MASKED,
    JointBatch,
    JointObs,
    StepContext,
    TeamSpec,
    joint_state,
    last_actions,
)
from robustmarl.learning.base import TeamAlgorithm, build_network
from robustmarl.learning.returns import masked_mean
from robustmarl.learning.settings import (
    ExplorationSettings,
    NetworkSettings,
    take,
)
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.schedules import Linear, Schedule

__all__ = ["ActionCritics"]


class ActionCritics(TeamAlgorithm):
    """Mixed in left of Tianshou's base class by learners with a critic of every action."""

    policy: ExploringPolicy
    additive_advantages: bool
    gamma: float

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        rule = "discrete: the critic has a head per action"
        check(not spec.continuous, f"{cls.__name__}.for_env.env", rule, "a Box of actions")
        # A GRU that sees its last action, as in the code that both methods' authors released.
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
        return Linear(0.5, 0.01, over=100_000, unit="env_steps")

    @classmethod
    def _critics(cls, spec: TeamSpec, settings: dict[str, Any]) -> dict[str, nn.Module]:
        """Return the critic's parts by keyword; it takes its keywords out of ``settings``."""
        raise TypeError(f"{cls.__name__} must implement _critics.")

    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A).

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N): what the others do.
        """
        raise TypeError(f"{type(self).__name__} must implement action_advantages.")

    def _state(self, obs: JointObs) -> Tensor:
        return joint_state(obs.state, self.spec.state_layout == "per_agent")

    def _outputs(self, obs: JointObs, act: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return masked logits (B, T+1, N, A), states before steps, and last actions."""
        network = self.policy.network
        last = last_actions(act, terminal=True) if network.last_table is not None else None
        output, before = network.unroll(obs.seen, last)
        return output.masked_fill(~obs.mask, MASKED), before, last

    def _actor_step(
        self,
        batch: JointBatch,
        outputs: tuple[Tensor, Tensor | None, Tensor | None],
        advantage: Callable[[Tensor], Tensor],
        entropy_coef: float,
    ) -> Tensor:
        r"""Step on :math:`-\overline{A \log\pi} - c H`; return loss, entropy and mean |A|.

        Args:
            batch: episodes, with R steps in all.
            outputs: what :meth:`_outputs` made of them, with gradient.
            advantage: maps policies (R, N, A), no gradient, to those of the taken actions.
            entropy_coef: c.
        """
        obs, (output, before, last) = batch.obs, outputs
        logp = self.policy.log_policy(output[:, :-1][batch.valid])
        policy = logp.exp()
        with torch.no_grad():
            gain = advantage(policy)
        taken = logp.gather(-1, batch.act[batch.valid].unsqueeze(-1)).squeeze(-1)
        alive = obs.alive[:, :-1][batch.valid]
        entropy = masked_mean(-(policy * logp).sum(-1), alive)
        loss = -masked_mean(gain * taken, alive) - entropy_coef * entropy
        self.step_policy(
            loss, lambda: self.loss_rows(obs.obs, obs.mask, batch.living, last, before)
        )
        return torch.stack([loss, entropy, masked_mean(gain.abs(), alive)]).detach()
