"""ROMANCE's attackers at work: agents forced to their worst actions, or pushed towards them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from robustmarl._checks import check, check_flag, check_kind, check_number
from robustmarl._seeding import Draws, inverse, stream_id
from robustmarl.attacks.gradient import GradientAttack
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.attackers import Attackers
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.obs import ObsPerturber
from robustmarl.schedules import Schedule
from robustmarl.victims import Victim, VictimView

__all__ = ["AttackerActions", "AttackerObs"]


class _Choice:
    """One attacker's choices of a step: drawn once per episode, and then in each of its steps.

    Args:
        attackers: one of which plays in an episode.
        explore: whether they are smoothed.
        greedy: whether the likeliest choice is taken, or one drawn.
        episodes: share of the episodes in which there are attacks.
    """

    def __init__(
        self, name: str, attackers: Attackers, explore: bool, greedy: bool, episodes: float
    ) -> None:
        check_kind(f"{name}.attackers", attackers, Attackers, "Attackers")
        self.attackers = attackers
        self.explore = check_flag(f"{name}.explore", explore)
        self.greedy = check_flag(f"{name}.greedy", greedy)
        self.episodes = check_number(f"{name}.episodes", episodes, 0.0, 1.0)
        self._name = name

    def bind(self, spec: TeamSpec, place: Place) -> None:
        """Begin anew with a team, which must be of the spaces of the attackers'."""
        given, wanted = (
            (team.action_sizes, team.joint_state_size, team.continuous)
            for team in (self.attackers.spec, spec)
        )
        rule = f"of a team with this one's actions and state, {wanted}"
        check(given == wanted, f"{self._name}.attackers", rule, given)
        self._place, self._used = place, torch.zeros(0, dtype=torch.int64)
        self._attacks = torch.zeros((), dtype=torch.int64)

    def of_step(self, context: StepContext, *, off: bool = False) -> Tensor:
        """Return whose step is attacked, bool (E, N): one agent's at most, nobody's while off."""
        playing, num_agents = context.live & ~context.terminal, context.alive.shape[1]
        if self._used.shape != context.step.shape:
            self._used = torch.zeros_like(context.step)
        used = self.used = torch.where(context.step == 0, 0, self._used)
        once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream("episode"))
        which, whether = once.uniform(2).unbind(dim=1)
        self.index = (which * self.attackers.number).long()
        able = self.attackers.able(context.alive, used)
        seen = self.attackers.seen(context.state, used)
        policies = self.attackers.policies(self.attackers(seen), able, explore=self.explore)
        own = policies[self.index, torch.arange(len(used), device=used.device)]
        if self.greedy:
            drawn = own.argmax(dim=-1)
        else:
            step = Draws(context.keys).at(context.step, self._stream("step"))
            drawn = inverse(own, step.uniform(1)[:, 0])
        attacks = playing & (whether < self.episodes) & (not off)
        self.agent = torch.where(attacks, drawn, num_agents)
        chosen = self.agent[:, None] == torch.arange(num_agents, device=used.device)
        chosen = chosen & able[:, :-1]  # a draw that rounding put beyond the last is nobody's
        hit = chosen.any(dim=1)
        self.agent = torch.where(hit, self.agent, num_agents)
        self._used = used + hit
        self._attacks = self._attacks.to(hit.device) + hit.sum()
        return chosen

    def _stream(self, purpose: str) -> int:
        return stream_id(f"{self._place.name}/{self._place.depth}/{purpose}")

    def record(self) -> dict[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, int64 (E,) each."""
        return {"index": self.index, "agent": self.agent, "used": self.used}

    def attacks(self) -> float:
        """Return the number of attacks since :meth:`bind`."""
        return float(self._attacks)


class AttackerActions(Perturber):
    r"""Let :class:`Attackers` force agents: who is attacked plays the worst of its actions.

    ROMANCE-p of ATSA's tables [Zhou2025]_: the attack of [Yuan2023]_,
    :math:`\hat a^k = \arg\min_a Q^k(\tau^k, a)` over available actions by the team's own values
    (or logits) of what it saw. The learner is told what was intended.

    Records, as ``attackers``, int64 (E,) each: ``index``, whose episode it is; ``agent``, who is
    attacked, N for nobody; and ``used``, the attacks that there were before in the episode.

    Args:
        attackers: one of which plays in an episode, drawn by its random key.
        explore: whether they are smoothed, as in training.
        greedy: take their likeliest choice, or draw.
        episodes: share of the episodes in which there are attacks, in [0, 1].

    Raises:
        TypeError: for other attackers.
        ValueError: at ``bind`` for a team of other spaces, or one without values.

    Example:
        >>> from robustmarl import algorithms, envs, evaluation, joint
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> forced = AttackerActions(Attackers(joint.spec_of(envs.ToyGame()), budget=6))
        >>> played = evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=forced)
        >>> played.counters["0/attacked"] <= 2 * 6
        True
    """

    kind = "attackers"
    act_told = "intended"

    def __init__(
        self,
        attackers: Attackers,
        *,
        explore: bool = False,
        greedy: bool = False,
        episodes: float = 1.0,
    ) -> None:
        choice = self._choice = _Choice(type(self).__name__, attackers, explore, greedy, episodes)
        self.attackers, self.explore = attackers, choice.explore
        self.greedy, self.episodes = choice.greedy, choice.episodes

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the team is the attackers', and has values; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        rule, remedy = "a team with values or logits", "Scripts and random teams have none."
        check(policy is not None, f"{type(self).__name__}.policy", rule, policy, remedy)
        self._choice.bind(spec, place)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Choose whom to attack; observations (E, N, D) stay as they are."""
        self._chosen = self._choice.of_step(context)
        return context.seen

    @torch.no_grad()
    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Find the worst actions; logits (E, N, A) stay as they are."""
        self._worst = _worst(logits, context.mask)
        return logits

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions (E, N): the worst one of who is attacked."""
        return torch.where(self._chosen, self._worst, act)

    def record(self) -> Mapping[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, (E,) each."""
        return self._choice.record()

    def counters(self) -> dict[str, float]:
        """Return ``attacked``: agent-steps since ``bind``."""
        return {"attacked": self._choice.attacks()}


class AttackerObs(ObsPerturber):
    """Let :class:`Attackers` name agents, and a generator push these towards their worst actions.

    ROMANCE-s of ATSA's tables [Zhou2025]_: what :class:`AttackerActions` forces is only suggested
    here, through what the one agent sees; the others see the truth. It records the same.

    Args:
        attackers: one of which plays in an episode, drawn by its random key.
        generator: a gradient attack, :func:`~robustmarl.perturbers.stor` as a rule; its own
            target is replaced.
        explore: whether attackers are smoothed, as in training.
        greedy: take their likeliest choice, or draw.
        episodes: share of the episodes in which there are attacks, in [0, 1].
        epsilon: the generator's radius >= 0 over the training of the acting policy; None is its
            own. While it is 0 nobody is attacked.

    Raises:
        TypeError: for attackers or a generator of another kind.
        ValueError: for a generator that cannot have a target action; at ``bind`` for a team of
            other spaces.

    Example:
        >>> from robustmarl import algorithms, budgets, envs, evaluation, perturbers
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> attackers = Attackers(team.spec, budget=6)
        >>> pushed = AttackerObs(attackers, perturbers.stor(budgets.LinfBall(epsilon=0.5)))
        >>> evaluation.rollout(team, envs.ToyGame, perturb=pushed).counters["0/attacked"] <= 600
        True
    """

    kind = "attackers"

    def __init__(
        self,
        attackers: Attackers,
        generator: GradientAttack,
        *,
        explore: bool = False,
        greedy: bool = False,
        episodes: float = 1.0,
        epsilon: float | Schedule | None = None,
    ) -> None:
        name = type(self).__name__
        choice = self._choice = _Choice(name, attackers, explore, greedy, episodes)
        remedy = "Write perturbers.stor(ball)."
        check_kind(f"{name}.generator", generator, GradientAttack, "a GradientAttack", remedy)
        named = generator.loss in (None, "margin", "cross_entropy")
        rule = "a named loss, 'margin' or 'cross_entropy', which takes a target action"
        check(named, f"{name}.generator.loss", rule, generator.loss)
        aimed = replace(generator, target=_worst_of_view)
        super().__init__(aimed, agents=attackers.agents, epsilon=epsilon)
        self.attackers, self.explore = attackers, choice.explore
        self.greedy, self.episodes = choice.greedy, choice.episodes

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Check that the team is the attackers'; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        self._choice.bind(spec, place)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Choose whom to attack, and return observations (E, N, D) with that agent's moved."""
        off = self._present_attack().ball.is_zero  # what cannot move anything shall cost nothing
        self._chosen_agents = self._choice.of_step(context, off=off)
        return super().on_obs(context)

    def _chosen(self, context: StepContext, draws: Draws) -> Tensor:
        return self._chosen_agents

    def record(self) -> Mapping[str, Tensor]:
        """Return ``index``, ``agent`` and ``used``, (E,) each."""
        return self._choice.record()


def _worst(output: Tensor, mask: Tensor) -> Tensor:
    """Return the available action of the least output, (...,); both are (..., A)."""
    return output.masked_fill(~mask, torch.inf).argmin(dim=-1)


def _worst_of_view(view: VictimView, obs: Tensor) -> Tensor:
    """Return the victim's worst actions, (M,), by its own output of ``obs`` (M, D)."""
    return _worst(view.logits(obs), cast(Tensor, view.mask))
