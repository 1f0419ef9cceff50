"""Attacks on continuous actions by the team's own critic of actions."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from robustmarl._checks import check, check_has, check_kind
from robustmarl._seeding import Draws
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.attacks.losses import FunctionLoss
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._rows import ChosenRows
from robustmarl.perturbers.base import Place
from robustmarl.perturbers.drawn import AttackedAgents
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.victims import Victim, VictimView

__all__ = ["ActionValues", "CriticObsPerturber"]


class ActionValues(Protocol):
    """A team that values joint actions, in which its critic is differentiable: MADDPG, FACMAC."""

    def action_values(self, context: StepContext, joint: Tensor) -> Tensor:
        """Return Q, (E, K), of K joint actions (E, K, N, A) in each environment of a step."""


class CriticObsPerturber(ObsPerturber):
    r"""Lowers the team's own value of what its agents do: FGSM and PGD for continuous actions.

    .. math:: \hat o^i = \Pi_{B_\epsilon(o^i)}\bigl(o^i - \beta\, \mathrm{sgn}\, \nabla_{x}\,
              Q(s, \mu^1(o^1), .., \mu^i(x), .., \mu^N(o^N))\bigr)

    at x where the run is, with the others' actions as they are without attack. Nothing is void
    here at the clean observation, where the squared error from the own action has no gradient. The
    critic is the team's as it is at each step, on the true state. A team that has only values of
    states (IPPO, MAPPO) has no such attack: push it from a random start,
    ``PGD.fgsm(ball, random_start=True)``, or towards the actions that a director names.

    Args:
        attack: a gradient attack, ``PGD.fgsm(ball)`` as a rule; its loss is replaced.
        critic: the acting team itself, whose critic is asked.
        agents: names of the attacked agents; None is all.
        every: as of :class:`ObsPerturber`.
        probability: likewise.
        episodes: likewise.

    Raises:
        TypeError: for a team without a critic of actions.
        ValueError: for an attack with a target; at ``bind`` for a team of discrete actions, or of
            which this victim plays a part only.

    Example:
        >>> from functools import partial
        >>> from robustmarl import algorithms, attacks, budgets, envs, evaluation
        >>> make = partial(envs.spread, agents=2, continuous_actions=True)
        >>> team = algorithms.MADDPG.for_env(make(), seed=0)
        >>> fgsm = attacks.PGD(ball=budgets.LinfBall(epsilon=0.1), steps=1)
        >>> attack = CriticObsPerturber(fgsm, team)
        >>> evaluation.rollout(team, make, episodes=2, perturb=attack).counters
        {'0/attacked': 100.0, '0/unchanged': 0.0}
    """

    def __init__(
        self,
        attack: GradientAttack,
        critic: ActionValues,
        *,
        agents: AttackedAgents = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
    ) -> None:
        name = type(self).__name__
        check_kind(f"{name}.attack", attack, GradientAttack, "a GradientAttack")
        rule = "a team with a critic of actions (action_values), such as MADDPG or FACMAC"
        remedy = "Of values of states alone there is PGD.fgsm(ball, random_start=True)."
        check_has(f"{name}.critic", critic, ("action_values",), rule, remedy)
        check(attack.target is None, f"{name}.attack.target", "None", attack.target)
        self.critic = critic
        super().__init__(
            replace(attack, loss=self._loss_of_rows, clean_if_own=False),
            agents=agents,
            every=every,
            probability=probability,
            episodes=episodes,
        )

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the team's actions are vectors; see :class:`ObsPerturber`."""
        name = type(self).__name__
        rule = "of continuous actions"
        check(spec.continuous, f"{name}.critic", rule, "a team of discrete ones")
        super().bind(spec, policy, place)
        rule = "of all agents of the environment, in its order"
        check(self._fit.team is None, f"{name}.critic", rule, "a team of some of them")

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return observations (E, N, D) that lower the critic's value."""
        self._context = context
        return super().on_obs(context)

    def perturbed(self, view: VictimView, obs: Tensor, draws: Draws) -> Tensor:
        """Return the attacked rows ``obs``, (M, D), by what all agents do without attack."""
        context = self._context
        everybody = ChosenRows(torch.ones_like(context.alive))
        of_all = self._view(context, self._memory(context), everybody)
        means = of_all.mean(self._fit.cut(everybody.pick(context.seen)))
        self._means = means.view(*context.alive.shape, -1).clamp(-1.0, 1.0)
        return super().perturbed(view, obs, draws)

    def _loss_of_rows(self, view: VictimView, obs: Tensor) -> FunctionLoss:
        """Return minus the value of each row's agent, the others doing what they did."""
        means, rows = self._means, self.rows
        itself = torch.eye(means.shape[1], dtype=torch.bool, device=means.device).unsqueeze(-1)

        def lowered(own: Tensor) -> Tensor:
            # cut as the environment cuts, but with a gradient beyond, so that means come back
            own = own + (own.clamp(-1.0, 1.0) - own).detach()
            mine = rows.spread(own, means)
            joint = torch.where(itself, mine.unsqueeze(-3), means.unsqueeze(-3))
            return -rows.pick(self.critic.action_values(self._context, joint))

        return FunctionLoss(lowered)
