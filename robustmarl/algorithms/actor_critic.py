"""Stochastic actors with a critic of every action: what COMA and DOP share."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from robustmarl._checks import check, check_number
from robustmarl._seeding import Draws
from robustmarl.algorithms.policies import ActorPolicy
from robustmarl.algorithms.team import (
    TeamAlgorithm,
    build_network,
    last_actions,
    team_rows,
)
from robustmarl.attacks.base import StepContext
from robustmarl.networks import Agents
from robustmarl.objectives import masked_mean
from robustmarl.schedules import Linear, Schedule, as_schedule
from robustmarl.spec import TeamSpec
from robustmarl.victims import MASKED

__all__ = ["ActionCritics", "ExploringPolicy", "joint_state"]


class ExploringPolicy(ActorPolicy):
    r"""Softmax over logits, mixed in training with the uniform policy over available actions.

    .. math:: \pi_\epsilon = (1 - \epsilon)\,\mathrm{softmax}(l) + \epsilon / m

    Args:
        spec: the team's; discrete actions.
        network: its agents.
        exploration: epsilon in [0, 1] over time.
        deterministic_eval: act greedily outside training.
    """

    def __init__(
        self,
        spec: TeamSpec,
        network: Agents,
        exploration: float | Schedule,
        deterministic_eval: bool = False,
    ) -> None:
        super().__init__(spec, network, deterministic_eval)
        self.exploration = as_schedule("ExploringPolicy.exploration", exploration)

    @property
    def epsilon(self) -> float:
        """The present share of the uniform policy, in training."""
        value = self.exploration(self.counted(self.exploration.unit))
        return check_number("ExploringPolicy.exploration()", value, 0.0, 1.0)

    def log_policy(
        self, output: Tensor, mask: Tensor | None = None, *, explore: bool = True
    ) -> Tensor:
        """Return log-probabilities (..., A) of logits (..., A).

        Args:
            output: logits, ``MASKED`` where unavailable.
            mask: what exploration chooses from; None is all that is not masked in ``output``.
            explore: act as in training.
        """
        logp = torch.log_softmax(output, dim=-1)
        epsilon = self.epsilon if explore else 0.0
        if epsilon == 0.0:
            return logp
        mask = output > 0.5 * MASKED if mask is None else mask
        uniform = mask / mask.sum(-1, keepdim=True).clamp(min=1)  # padding has none
        mixed = (1.0 - epsilon) * logp.exp() + epsilon * uniform
        return torch.where(mask, mixed, 1.0).log().masked_fill(~mask, MASKED)

    def log_prob(self, output: Tensor, act: Tensor) -> Tensor:
        """Return log-probabilities of ``act`` (...,) as chosen in training."""
        return self.log_policy(output).gather(-1, act.unsqueeze(-1)).squeeze(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Return entropies (...,) in nats of the policy that acts in training."""
        logp = self.log_policy(output)
        return -(logp.exp() * logp).sum(dim=-1)

    def select(
        self, output: Tensor, mask: Tensor, draws: Draws, training: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return drawn actions and their log-probabilities (E, N)."""
        logp = self.log_policy(output, mask, explore=training)
        if self.deterministic_eval and not training:
            act = logp.argmax(dim=-1)
        else:
            cumulative = logp.exp().cumsum(dim=-1)
            point = draws.uniform(logp.shape[1]).unsqueeze(-1) * cumulative[..., -1:]
            act = (cumulative <= point).sum(dim=-1)
        return act, logp.gather(-1, act.unsqueeze(-1)).squeeze(-1)


def joint_state(state: Tensor, per_agent: bool) -> Tensor:
    """Return states (..., S) of (..., S) or, per agent, (..., N, S)."""
    return state.flatten(-2) if per_agent else state


class ActionCritics(TeamAlgorithm):
    """Mixed in left of Tianshou's base class by learners with a critic of every action."""

    policy: ExploringPolicy
    additive_advantages: bool
    gamma: float

    @classmethod
    def _build(cls, spec: TeamSpec, **settings: Any) -> Self:
        rule = "discrete: the critic has a head per action"
        check(not spec.continuous, f"{cls.__name__}.for_env.env", rule, "a Box of actions")
        defaults: dict[str, Any] = {"recurrent": True, "last_action": True, "hidden": (64,)}
        network = build_network(spec, settings, **defaults)
        exploration: float | Schedule = settings.pop("exploration", cls._exploration())
        greedy = settings.pop("deterministic_eval", False)
        policy = ExploringPolicy(spec, network, exploration, greedy)
        per_agent = spec.state_layout == "per_agent"
        state_size = spec.state_size * (spec.num_agents if per_agent else 1)
        return cls(policy=policy, **cls._critics(spec, state_size, settings), **settings)

    @classmethod
    def _exploration(cls) -> Schedule:
        return Linear(0.5, 0.01, over=100_000, unit="env_steps")

    @classmethod
    def _critics(
        cls, spec: TeamSpec, state_size: int, settings: dict[str, Any]
    ) -> dict[str, nn.Module]:
        raise TypeError(f"{cls.__name__} must implement _critics.")

    def action_advantages(self, context: StepContext, logits: Tensor, act: Tensor) -> Tensor:
        """Return the advantage of every agent's every own action, (K, E, N, A).

        Args:
            context: one tick of E environments.
            logits: the team's, (E, N, A), masked.
            act: K joint actions per environment, int64 (K, E, N): what the others do.
        """
        raise TypeError(f"{type(self).__name__} must implement action_advantages.")

    def _state(self, obs: Any) -> Tensor:
        return joint_state(obs.state, self.spec.state_layout == "per_agent")

    def _outputs(self, obs: Any, act: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return masked logits (B, T+1, N, A), states before steps, and last actions."""
        network = self.policy.network
        last = last_actions(act, terminal=True) if network.last_table is not None else None
        output, before = network.unroll(obs.seen, last)
        return output.masked_fill(~obs.mask, MASKED), before, last

    def _actor_step(
        self,
        batch: Any,
        outputs: tuple[Tensor, Tensor | None, Tensor | None],
        optim: Any,
        advantage: Any,
        entropy_coef: float,
    ) -> Tensor:
        r"""Step on :math:`-\overline{A \log\pi} - c H`; return loss, entropy and mean |A|.

        Args:
            batch: episodes, with R steps in all.
            outputs: what :meth:`_outputs` made of them, with gradient.
            optim: the actor's optimizer.
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
        rows = batch.valid.unsqueeze(-1) & obs.alive[:, :-1]
        steps = batch.valid.shape[1]
        self._rows = lambda: team_rows(
            obs.obs[:, :steps],
            obs.mask[:, :steps],
            None if last is None else last[:, :steps],
            None if before is None else before[:, :steps],
            rows,
        )
        optim.step(loss)
        self._rows = None
        return torch.stack([loss, entropy, masked_mean(gain.abs(), alive)]).detach()
