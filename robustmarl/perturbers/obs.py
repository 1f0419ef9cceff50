"""Show attacked agents what an attack makes of their observations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustmarl._checks import (
    all_finite,
    check,
    check_device,
    check_int,
    check_kind,
    check_names,
    check_number,
)
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import ObsAttack, check_attack, needs_victim
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._fit import Fit
from robustmarl.perturbers._rows import AllRows, AttackedRows, ChosenRows
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.critical import CriticalSteps
from robustmarl.perturbers.drawn import AttackedAgents, RandomAgents
from robustmarl.schedules import Schedule, as_schedule
from robustmarl.typing import RobustnessWarning, Unit
from robustmarl.victims import (
    FunctionVictim,
    MembersVictim,
    NetworkVictim,
    PolicyVictim,
    Rows,
    Victim,
    VictimLike,
    VictimView,
    as_victim,
)

__all__ = ["ObsPerturber", "as_perturber"]

_STATELESS = (FunctionVictim, MembersVictim, NetworkVictim, PolicyVictim)
"""Victims that act on observations, not on states: those of this package."""

_NOBODY = torch.zeros(0, 0, dtype=torch.bool)


class ObsPerturber(Perturber):
    """Show attacked agents what an attack makes of their observations.

    Args:
        attack: called once per step on all attacked rows.
        victim: whose outputs the attack queries; None is the acting policy itself.
        agents: names of the attacked agents, None is all; or :class:`RandomAgents`, which are drawn
            anew for every episode.
        every: attack at steps 0, every, 2 * every, ... of an episode, >= 1.
        probability: of attacking at such a step, drawn per environment, in [0, 1].
        episodes: share of the episodes in which it attacks at all, drawn per episode, in [0, 1].
        when: attack an agent only in steps that its policy calls critical; None is in all.
        epsilon: the attack's radius >= 0 over the training of the acting policy, a schedule;
            None is the attack's own. Once trained, a team is attacked at the last radius. It is of
            all coordinates but those that the ball has ``fixed``.

    Raises:
        ValueError: at construction for bad numbers or no agents; at ``bind`` for unknown agents,
            for a victim that is not the attacked agents' policy or has no room for them, and for
            a schedule where the acting policy does not count.

    Example:
        >>> from robustmarl import algorithms, attacks, budgets, envs, evaluation
        >>> team = algorithms.QMIX.for_env(envs.ToyGame(), seed=0)
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> often = ObsPerturber(noise, agents=["agent_0"], every=2)
        >>> evaluation.rollout(team, envs.ToyGame, episodes=2, perturb=often).counters
        {'0/attacked': 100.0, '0/unchanged': 0.0}
    """

    kind = "obs"

    def __init__(
        self,
        attack: ObsAttack,
        *,
        victim: VictimLike | None = None,
        agents: AttackedAgents = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
        when: CriticalSteps | None = None,
        epsilon: float | Schedule | None = None,
    ) -> None:
        name = type(self).__name__
        check_attack(f"{name}.attack", attack)
        self.attack = self._present = attack
        self.every = check_int(f"{name}.every", every, 1)
        self.probability = check_number(f"{name}.probability", probability, 0.0, 1.0)
        self.episodes = check_number(f"{name}.episodes", episodes, 0.0, 1.0)
        if when is not None:
            check_kind(f"{name}.when", when, CriticalSteps, "CriticalSteps, or None")
        self.when = when
        self.victim = None if victim is None else as_victim(f"{name}.victim", victim)
        self._adapted = self.victim is not victim
        self.epsilon = None if epsilon is None else as_schedule(f"{name}.epsilon", epsilon, 0.0)
        one = epsilon is None or not isinstance(attack.ball.epsilon, tuple)
        check(
            one, f"{name}.epsilon", "None where the ball has a radius for each coordinate", epsilon
        )
        self._counted: Callable[[Unit], int] | None = None
        self.agents: tuple[str, ...] | RandomAgents | None = None
        if isinstance(agents, RandomAgents):
            self.agents = agents
        elif agents is not None:
            self.agents = check_names(f"{name}.agents", agents, agents)
            rule = "at least one name, or None for all"
            check(len(self.agents) > 0, f"{name}.agents", rule, agents)
        self._remembers = False
        self._hidden: Tensor | None = None
        self._waits: bool | None = None  # whether to ask who is attacked; None: on the CPU only
        self._attacked = self._unchanged = self._spared = torch.zeros((), dtype=torch.int64)
        self.size = torch.zeros(0)
        self.rows: AttackedRows = ChosenRows(_NOBODY)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Resolve agents and victim; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        name = type(self).__name__
        names = self.names(spec)
        self._counted = getattr(policy, "counted", None)
        counts = self.epsilon is None or self._counted is not None
        rule = "None where the acting policy does not count its updates, episodes and steps"
        check(counts, f"{name}.epsilon", rule, self.epsilon)
        victim = self._resolved(policy, spec)
        foreign = policy is None or victim is not policy
        rule = "the acting team itself where its beliefs read clean observations"
        check(not (foreign and victim.acting_only), f"{name}.victim", rule, "other")
        self._spec_agents = spec.agents
        remedy = "Attack its agents only: agents=[...]."
        self._victim, self._fit = victim, Fit.of(victim, spec, names, f"{name}.victim", remedy)
        self.attack.ball.check_size(type(self.attack).__name__, self._fit.obs_size)
        self._remembers, self._hidden = foreign and victim.hidden_size > 0, None
        self._stream = stream_id(f"obs/{place.depth}")
        self._drawing = stream_id(f"obs/{place.depth}/agents")
        self._attacked = self._unchanged = self._spared = torch.zeros((), dtype=torch.int64)

    def names(self, spec: TeamSpec) -> tuple[str, ...]:
        """Return who may be attacked.

        Raises:
            ValueError: for unknown agents.
        """
        given = self.agents if not isinstance(self.agents, RandomAgents) else self.agents.among
        names = spec.agents if given is None else given
        return check_names(f"{type(self).__name__}.agents", names, spec.agents)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return perturbed observations (E, N, D); clean rows keep their bits."""
        self.size = context.seen.new_zeros(context.seen.shape[:2])
        if self._present_attack().ball.is_zero or self.probability == 0.0:
            self.rows = self._rows(torch.zeros_like(context.alive))
            return context.seen
        self._move(context.seen.device)
        draws = Draws(context.keys).at(context.step, self._stream)
        rows = self.rows = self._rows(self._chosen(context, draws))
        if self.when is not None and len(rows.agents) > 0:
            rows = self.rows = self._rows(self._critical(self.when, context))
        if len(rows.agents) == 0:
            return context.seen
        clean = self._fit.cut(rows.pick(context.seen))
        found = self._found(context, clean, draws)
        self.size = rows.spread((found - clean).abs().amax(dim=-1), self.size)
        counted = rows.attacked & context.alive & ~context.terminal[:, None]
        # Summed in `counters`: here an accelerator would have to be waited for.
        self._attacked = self._attacked + counted
        self._unchanged = self._unchanged + (counted & (self.size == 0))
        return rows.spread(found, context.seen)

    def perturbed(self, view: VictimView, obs: Tensor, draws: Draws) -> Tensor:
        """Return what the attack makes of the attacked rows ``obs``, (M, D)."""
        return self._present(view, obs, draws)

    def _present_attack(self) -> ObsAttack:
        """Return the attack at the radius that it has by now."""
        if self.epsilon is not None and self._counted is not None:
            epsilon = self.epsilon(self._counted(self.epsilon.unit))
            if self._present.ball.epsilon != epsilon:
                self._present = self.attack.with_epsilon(epsilon)
        return self._present

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        """Advance a foreign recurrent victim on what was shown to its agents."""
        if not self._remembers:
            return
        self._move(context.seen.device)
        before = self._memory(context)
        if before is None:
            before = context.seen.new_zeros(*context.alive.shape, self._victim.hidden_size)
        rows = self._rows(self._fit.attacked.expand(context.alive.shape))
        shown = self._fit.cut(rows.pick(context.seen))
        after = self._view(context, before, rows).advance(shown)
        assert after is not None  # hidden_size > 0
        self._hidden = rows.spread(after, before)

    @property
    def obs_size(self) -> int:
        """The size of the observations that the attack is shown; after ``bind``."""
        return self._fit.obs_size

    def counters(self) -> dict[str, float]:
        """Return ``attacked`` and ``unchanged``: agent-steps, living agents only.

        With ``when`` also ``spared``: those that were not critical.
        """
        attacked, unchanged = self._attacked.sum(), self._unchanged.sum()
        counters = {"attacked": float(attacked), "unchanged": float(unchanged)}
        if self.when is not None:
            counters["spared"] = float(self._spared.sum())
        return counters

    def warn_if_idle(
        self, since: Mapping[str, float] | None = None, during: str = "", *, stacklevel: int = 2
    ) -> bool:
        """Warn if the attack changed no observation although it had a budget.

        Args:
            since: the counters at the beginning of what is looked at; None is since ``bind``.
            during: what that is, with a preposition: ``"in this episode"``.
            stacklevel: of the warning; 2 blames who calls this.

        Returns:
            whether it warned.
        """
        begun = since or {}
        counters = ObsPerturber.counters(self)
        attacked, unchanged = (
            counters[name] - begun.get(name, 0.0) for name in ("attacked", "unchanged")
        )
        idle = attacked > 0 and unchanged == attacked
        if idle:
            warnings.warn(
                f"{self.attack!r} changed none of {attacked:.0f} observations"
                f"{' ' + during if during else ''}: zero gradient, a saturated victim, or a single "
                "available action.",
                RobustnessWarning,
                stacklevel=stacklevel,
            )
        return idle

    def _resolved(self, policy: Victim | None, spec: TeamSpec) -> Victim:
        """Return whom the attack queries; a stand-in for attacks that query nobody."""
        if self._adapted and isinstance(self.victim, FunctionVictim):
            # a module or function does not say what its outputs are; the team's actions do
            self.victim = FunctionVictim(self.victim.function, continuous=spec.continuous)
        where = f"{type(self).__name__}.victim"
        victim = policy if self.victim is None else self.victim
        self._asked = needs_victim(self.attack) or self.when is not None
        if not self._asked:
            device = torch.device("cpu") if victim is None else victim.device
            victim = FunctionVictim(_unasked, device=device)
            victim.obs_size = getattr(self.attack, "obs_size", None)
        if victim is None:
            raise ValueError(
                f"{where} must be given where nobody acts, or a script or a random team "
                "does: they have no gradient, got None. Attack through another policy, "
                "ObsPerturber(attack, victim=other), or use an attack that asks none, such as "
                "attacks.UniformNoise."
            )
        if policy is not None:
            check_device(where, victim.device, policy.device)
        return victim

    def _ask_acting(self, policy: Victim | None, spec: TeamSpec) -> None:
        """Have the acting policy asked, about all agents, whoever is attacked: to measure."""
        self._asked = policy is not None
        if policy is not None:
            where = f"{type(self).__name__}.policy"
            self._victim, self._fit = policy, Fit.of(policy, spec, spec.agents, where)

    def _chosen(self, context: StepContext, draws: Draws) -> Tensor:
        """Return whose observations are attacked in this step, bool (E, N)."""
        now = context.live
        if self.every > 1:
            now = now & (context.step % self.every == 0)
        if self.episodes < 1.0:  # of the next stream, at step 0: the same in all of an episode
            once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream + 1)
            now = now & (once.uniform(1)[:, 0] < self.episodes)
        if self.probability < 1.0:
            now = now & (draws.uniform(1)[:, 0] < self.probability)
        attacked = self._fit.attacked
        if isinstance(self.agents, RandomAgents):
            once = Draws(context.keys).at(torch.zeros_like(context.step), self._drawing)
            attacked = self.agents.rows(once, attacked, self._fit.numbers, self._fit.team_size)
        return context.observed & now[:, None] & attacked

    def _critical(self, when: CriticalSteps, context: StepContext) -> Tensor:
        """Return who of ``rows`` is attacked in the end, bool (E, N)."""
        rows = self.rows
        view = self._view(context, self._memory(context), rows)
        critical = when.of_view(view, self._fit.cut(rows.pick(context.seen)))
        chosen = rows.spread(critical, torch.zeros_like(rows.attacked))
        self._spared = self._spared + (
            rows.attacked & ~chosen & context.alive & ~context.terminal[:, None]
        )
        return chosen

    def _found(self, context: StepContext, clean: Tensor, draws: Draws) -> Tensor:
        """Return what the attack makes of ``clean`` (M, D): in the ball, padding untouched."""
        rows, numbers = self.rows, self._fit.numbers
        view = self._view(context, self._memory(context), rows)
        by_agent = draws.split(self._fit.team_size)

        def keys() -> Tensor:
            every = by_agent.keys.view(len(context.keys), -1)
            return rows.pick(every if numbers is None else every[:, numbers])

        # A clone, as an attack may write into what it is given.
        found = self.perturbed(view, clean.clone(), Draws(keys))
        given = clean.dtype
        if not isinstance(found, Tensor) or found.dtype != given or found.shape != clean.shape:
            found = self._fitting(found, clean)
        found = self._present.ball.project(found, clean)  # as a user's attack may leave its ball
        if isinstance(rows, ChosenRows):  # the host knows them, and need not wait
            self._check_finite(found, rows, context)
        real = self._fit.real_rows(rows.agents)
        return found if real is None else torch.where(real, found, clean)

    def _fitting(self, found: object, clean: Tensor) -> Tensor:
        """Return what a user's attack made of ``clean`` (M, D) in the dtype of that, checked."""
        where = f"{type(self.attack).__name__}.__call__"
        rule = f"a function that returns a float tensor of shape {tuple(clean.shape)}"
        check_kind(where, found, Tensor, rule)
        assert isinstance(found, Tensor)
        check(found.shape == clean.shape, where, rule, tuple(found.shape))
        check(found.is_floating_point(), where, rule, found.dtype)
        return found.to(clean.dtype)

    def _check_finite(self, found: Tensor, rows: ChosenRows, context: StepContext) -> None:
        if all_finite(found.numpy() if rows.on_cpu else found):
            return
        row = int((~found.isfinite()).any(dim=-1).nonzero()[0])
        env, agent = int(rows.envs[row]), self._spec_agents[int(rows.agents[row])]
        raise ValueError(
            f"{type(self.attack).__name__} must return finite observations, got "
            f"{found[row].tolist()} in environment {env}, agent {agent!r}, step "
            f"{int(context.step[env])}."
        )

    def _view(self, context: StepContext, hidden: Tensor | None, rows: AttackedRows) -> VictimView:
        """Return the victim bound to rows of a step, given its memory (E, N, H)."""
        return self._victim.at(self._bound(context, hidden, rows))

    def _bound(self, context: StepContext, hidden: Tensor | None, rows: AttackedRows) -> Rows:
        """Return all else that the victim acts on in rows of a step, given its memory."""
        pick, fit, state = rows.pick, self._fit, None
        mask, agents = fit.cut_actions(pick(context.mask)), fit.ids_of(rows.agents)
        obs_mask = fit.real_rows(rows.agents)
        if not self._asked:
            return Rows(mask=mask, obs_mask=obs_mask, agents=agents)
        if type(self._victim) not in _STATELESS:  # a copy of the state per agent is dear
            whole = context.state
            state = pick(whole) if whole.dim() == 3 else rows.pick_envs(whole)
        return Rows(
            mask=mask,
            obs_mask=obs_mask,
            hidden=None if hidden is None else pick(hidden),
            last_act=fit.cut_actions(pick(context.last_act)),
            agents=agents,
            state=state,
            side={name: pick(values) for name, values in fit.side(self._victim, context).items()},
        )

    def _rows(self, attacked: Tensor) -> AttackedRows:
        """Return the rows to call the attack on, given who is attacked, bool (E, N)."""
        on_cpu = attacked.device.type == "cpu"
        waits = on_cpu if self._waits is None else self._waits
        return ChosenRows(attacked, on_cpu) if waits else AllRows(attacked, self._fit.agents)

    def _move(self, device: torch.device) -> None:
        """Keep what says who is attacked where the observations are: to copy is to wait."""
        self._fit = self._fit.to(device)
        self._attacked, self._unchanged = self._attacked.to(device), self._unchanged.to(device)
        self._spared = self._spared.to(device)

    def _memory(self, context: StepContext) -> Tensor | None:
        """Return the victim's memory before this step, (E, N, H); None is empty."""
        if not self._remembers:
            return context.hidden
        if self._hidden is not None:
            begun = (context.step == 0)[:, None, None]
            self._hidden = torch.where(begun, 0.0, self._hidden)
        return self._hidden


def as_perturber(perturbation: ObsAttack | Perturber) -> Perturber:
    """Return a perturber; an attack becomes one on all agents at every step.

    Raises:
        TypeError: for what is neither.

    Example:
        >>> from robustmarl import attacks, budgets
        >>> noise = attacks.UniformNoise(ball=budgets.LinfBall(epsilon=0.5))
        >>> type(as_perturber(noise)).__name__
        'ObsPerturber'
    """
    if isinstance(perturbation, Perturber):
        return perturbation
    check_attack("as_perturber.perturbation", perturbation)
    return ObsPerturber(perturbation)


def _unasked(obs: Tensor) -> Tensor:
    raise RuntimeError("an attack with needs_victim=False queried the victim.")
