"""What ATSA's directors share: soft critics, a temperature, the tie to what the victim does."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal, cast, get_args

import torch
from tianshou.algorithm.optim import OptimizerFactory
from torch import Tensor, nn

from robustmarl._checks import check, check_choice, check_int, check_kind, check_number
from robustmarl._seeding import Draws, episode_keys, stream_id
from robustmarl.adversaries.directing import LaggedDirecting
from robustmarl.adversaries.squashed import SquashedDirector
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import JointBatch, last_actions
from robustmarl.learning.optim import adam
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.perturbers.director import DirectedObsPerturber
from robustmarl.policies import ActorPolicy, TeamPolicy
from robustmarl.schedules import Linear, Schedule, as_schedule
from robustmarl.victims import NetworkVictim

__all__ = ["SoftDirecting", "TargetForm"]

TargetForm = Literal["exact", "fop"]

_ALPHA = Linear(0.5, 0.05, over=90_000, unit="env_steps")  # 0.5 - t / 200,000, as FOP has it


class SoftDirecting(LaggedDirecting):
    """A director that draws its targets and is paid for entropy, with two soft critics.

    A subclass says how it learns, in :meth:`update`.

    Args:
        director: the policy over targets, of the kind that the subclass has.
        critics: two, of different weights.
        generator: pushes victims towards the actions named: ``perturbers.stor(ball)``.
        agents: names of the attacked agents; None is all.
        episodes: share of the episodes in which it attacks while it learns, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the team; None is its own.
        optim: optimizer factory of the director; None is Adam at 5e-4, the paper's step size.
        critic_optim: of the critics; None is Adam at 5e-4, likewise.
        gamma: discount in [0, 1]; .99 is the release's, as is .8 of ``td_lambda``.
        td_lambda: in [0, 1].
        alpha: temperature > 0 over time; what is counted are the director's own updates, episodes
            and steps.
        kappa: weight of the loss that ties director and generator, >= 0, .005 of those that the
            paper tried; above 0 the victim must be a team of this package.
        reward_scale: what the reward is divided by, > 0, so that ``alpha`` suits it.
        target: ``"exact"`` or ``"fop"``; see :func:`~robustmarl.adversaries.atsa.soft_targets`.
        target_update: copy critics to target networks every so many units, >= 1; 200 is the
            paper's.
        target_unit: ``"episodes"`` that it played, or ``"updates"``.
        max_grad_norm: global norm at which gradients are clipped, > 0, or None.
        seed: of the targets that it draws in learning.
    """

    director_kind: ClassVar[type[TeamPolicy]]

    def __init__(
        self,
        director: TeamPolicy,
        critics: tuple[nn.Module, nn.Module],
        generator: GradientAttack,
        *,
        agents: Collection[str] | None = None,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
        optim: OptimizerFactory | None = None,
        critic_optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        td_lambda: float = 0.8,
        alpha: float | Schedule = _ALPHA,
        kappa: float = 0.005,
        reward_scale: float = 1.0,
        target: TargetForm = "exact",
        target_update: int = 200,
        target_unit: Literal["episodes", "updates"] = "episodes",
        max_grad_norm: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        kind = self.director_kind
        article = "an" if kind.__name__.startswith("A") else "a"
        check_kind(f"{name}.director", director, kind, f"{article} {kind.__name__}")
        online = nn.ModuleList(critics)
        super().__init__(
            director,
            generator,
            online,
            agents=agents,
            episodes=episodes,
            epsilon=epsilon,
            gamma=gamma,
            td_lambda=td_lambda,
            target_update=target_update,
            target_unit=target_unit,
        )
        self.seed = check_int(f"{name}.seed", seed, 0)
        self.alpha_schedule = as_schedule(f"{name}.alpha", alpha, 0.0, open_low=True)
        self.kappa = check_number(f"{name}.kappa", kappa, 0.0)
        self.reward_scale = check_number(f"{name}.reward_scale", reward_scale, 0.0, open_low=True)
        check_choice(f"{name}.target", target, get_args(TargetForm))
        self.target = target
        self._critics = online
        self.optim = self.create_optimizer(
            director.network, optim or adam(5e-4), max_grad_norm, counted=director.counted
        )
        self.critic_optim = self.create_optimizer(
            online, critic_optim or adam(5e-4), max_grad_norm, counted=director.counted
        )

    @property
    def alpha(self) -> float:
        """The present temperature."""
        value = self.alpha_schedule(self.director.counted(self.alpha_schedule.unit))
        return check_number(f"{type(self).__name__}.alpha()", value, 0.0, open_low=True)

    def deployed(self, greedy: bool | None = None) -> DirectedObsPerturber:
        """Return a copy of the director at work: by draws unless ``greedy``."""
        made = super().deployed(greedy)
        cast(ActorPolicy | SquashedDirector, made.director).deterministic_eval = bool(greedy)
        return made

    def draws(self, name: str, episodes: int) -> Draws:
        """Return this update's random numbers for a purpose, one row for each episode."""
        device = self.director.device
        keys = episode_keys(self.seed, torch.arange(episodes, device=device))
        update = torch.tensor(self.director.counted("updates"), device=device)
        return Draws(keys).at(update, stream_id(name))

    @torch.no_grad()
    def victims_outputs(self, batch: JointBatch) -> Tensor:
        """Return what the victim as it is now answers to what it was shown, (B, T, N, A)."""
        victim = self._perturber.bound_victim
        network = victim.network if isinstance(victim, NetworkVictim) else None
        where = f"{type(self).__name__}.kappa"
        rule = "0 against a victim that cannot be run over stored episodes"
        check(isinstance(network, AgentNetwork | SeparateAgents), where, rule, self.kappa)
        assert isinstance(network, AgentNetwork | SeparateAgents)
        side = batch.record("policy")  # without mean actions, which are not stored
        check(network.mean_table is None or "mean_act" in side, where, rule, self.kappa)
        last_act = None
        if network.last_table is not None:
            last_act = last_actions(batch.act, terminal=False)
        output: Tensor = network.unroll(batch.obs.seen[:, :-1], last_act, side)[0]
        return output
