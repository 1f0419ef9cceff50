"""Show attacked agents what an attack makes of their observations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection

import torch
from torch import Tensor

from robustmarl._checks import check, check_device, check_int, check_names, check_number
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import ObsAttack, check_attack
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers._fit import Fit
from robustmarl.perturbers._rows import AllRows, AttackedRows, ChosenRows
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import (
    FunctionVictim,
    Rows,
    Victim,
    VictimLike,
    VictimView,
    as_victim,
)

__all__ = ["ObsPerturber", "as_perturber"]

_NOBODY = torch.zeros(0, 0, dtype=torch.bool)


class ObsPerturber(Perturber):
    """Show attacked agents what an attack makes of their observations.

    Args:
        attack: called once per step on all attacked rows.
        victim: whose outputs the attack queries; None is the acting policy itself.
        agents: names of the attacked agents; None is all.
        every: attack at steps 0, every, 2 * every, ... of an episode, >= 1.
        probability: of attacking at such a step, drawn per environment, in [0, 1].
        episodes: share of the episodes in which it attacks at all, drawn per episode, in [0, 1].

    Raises:
        ValueError: at construction for bad numbers or no agents; at ``bind`` for unknown agents,
            and for a victim that is not the attacked agents' policy or has no room for them.
    """

    kind = "obs"

    def __init__(
        self,
        attack: ObsAttack,
        *,
        victim: VictimLike | None = None,
        agents: Collection[str] | None = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
    ) -> None:
        name = type(self).__name__
        check_attack(f"{name}.attack", attack)
        self.attack = attack
        self.every = check_int(f"{name}.every", every, 1)
        self.probability = check_number(f"{name}.probability", probability, 0.0, 1.0)
        self.episodes = check_number(f"{name}.episodes", episodes, 0.0, 1.0)
        self.victim = None if victim is None else as_victim(f"{name}.victim", victim)
        self._adapted = self.victim is not victim
        self.agents: tuple[str, ...] | None = None
        if agents is not None:
            self.agents = check_names(f"{name}.agents", agents, agents)
            rule = "at least one name, or None for all"
            check(len(self.agents) > 0, f"{name}.agents", rule, agents)
        self._remembers = False
        self._hidden: Tensor | None = None
        self._waits: bool | None = None  # whether to ask who is attacked; None: on the CPU only
        self._attacked = self._unchanged = torch.zeros((), dtype=torch.int64)
        self.size = torch.zeros(0)
        self.rows: AttackedRows = ChosenRows(_NOBODY)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Resolve agents and victim; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        names = spec.agents if self.agents is None else self.agents
        names = check_names("ObsPerturber.agents", names, spec.agents)
        victim = self._resolved(policy, spec)
        foreign = policy is None or victim is not policy
        rule = "the acting team itself where its beliefs read clean observations"
        check(not (foreign and victim.acting_only), "ObsPerturber.victim", rule, "other")
        self._spec_agents = spec.agents
        self._victim, self._fit = victim, Fit.of(victim, spec, names)
        self.attack.ball.check_size(type(self.attack).__name__, self._fit.obs_size)
        self._remembers, self._hidden = foreign and victim.hidden_size > 0, None
        self._stream = stream_id(f"obs/{place.depth}")
        self._attacked = self._unchanged = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return perturbed observations (E, N, D); clean rows keep their bits."""
        self.size = context.seen.new_zeros(context.seen.shape[:2])
        if self.attack.ball.is_zero or self.probability == 0.0:
            return context.seen
        self._move(context.seen.device)
        draws = Draws(context.keys).at(context.step, self._stream)
        rows = self.rows = self._rows(self._chosen(context, draws))
        if len(rows.agents) == 0:
            return context.seen
        clean = self._fit.cut(rows.pick(context.seen))
        found = self._found(context, clean, draws)
        self.size = rows.spread((found - clean).abs().amax(dim=-1), self.size)
        counted = rows.attacked & context.alive & ~context.terminal[:, None]
        # Read in `counters`: here an accelerator would have to be waited for.
        self._attacked = self._attacked + counted.count_nonzero()
        self._unchanged = self._unchanged + (counted & (self.size == 0)).count_nonzero()
        return rows.spread(found, context.seen)

    def perturbed(self, view: VictimView, obs: Tensor, draws: Draws) -> Tensor:
        """Return what the attack makes of the attacked rows ``obs``, (M, D)."""
        return self.attack(view, obs, draws)

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
        """Return ``attacked`` and ``unchanged``: agent-steps, living agents only."""
        return {"attacked": float(self._attacked), "unchanged": float(self._unchanged)}

    def warn_if_idle(self) -> None:
        """Warn if the attack changed no observation although it had a budget."""
        attacked = int(self._attacked)
        if attacked > 0 and int(self._unchanged) == attacked:
            warnings.warn(
                f"{self.attack!r} changed none of {attacked} observations: zero "
                "gradient, a saturated victim, or a single available action.",
                RobustnessWarning,
                stacklevel=2,
            )

    def _resolved(self, policy: Victim | None, spec: TeamSpec) -> Victim:
        """Return whom the attack queries; a stand-in for attacks that query nobody."""
        if self._adapted and isinstance(self.victim, FunctionVictim):
            # a module or function does not say what its outputs are; the team's actions do
            self.victim = FunctionVictim(self.victim.function, continuous=spec.continuous)
        victim = policy if self.victim is None else self.victim
        self._asked = getattr(self.attack, "needs_victim", True)
        if not self._asked:
            device = torch.device("cpu") if victim is None else victim.device
            victim = FunctionVictim(_unasked, device=device)
            victim.obs_size = getattr(self.attack, "obs_size", None)
        if victim is None:
            raise ValueError(
                "ObsPerturber.victim must be given where nobody acts, or a script or a random team "
                "does: they have no gradient, got None. Attack through another policy, "
                "ObsPerturber(attack, victim=other), or use an attack that asks none, such as "
                "attacks.UniformNoise."
            )
        if policy is not None:
            check_device("ObsPerturber.victim", victim.device, policy.device)
        return victim

    def _chosen(self, context: StepContext, draws: Draws) -> Tensor:
        """Return whose observations are attacked in this step, bool (E, N)."""
        now = context.live & (context.step % self.every == 0)
        if self.episodes < 1.0:  # the next stream, and step 0: once for the whole episode
            once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream + 1)
            now = now & (once.uniform(1)[:, 0] < self.episodes)
        if self.probability < 1.0:
            now = now & (draws.uniform(1)[:, 0] < self.probability)
        return context.observed & now[:, None] & self._fit.attacked

    def _found(self, context: StepContext, clean: Tensor, draws: Draws) -> Tensor:
        """Return what the attack makes of ``clean`` (M, D): in the ball, padding untouched."""
        view = self._view(context, self._memory(context), self.rows)
        keys = draws.split(self._fit.team_size).keys.view(len(context.keys), -1)
        if self._fit.numbers is not None:
            keys = keys[:, self._fit.numbers]
        # A clone, as an attack may write into what it is given.
        found = self.perturbed(view, clean.clone(), Draws(self.rows.pick(keys)))
        found = self.attack.ball.project(found, clean)  # enforced, not trusted
        if isinstance(self.rows, ChosenRows):  # the host knows them, and need not wait
            self._check_finite(found, self.rows, context)
        real = self._fit.real_rows(self.rows.agents)
        return found if real is None else torch.where(real, found, clean)

    def _check_finite(self, found: Tensor, rows: ChosenRows, context: StepContext) -> None:
        if math.isfinite(float(found.sum())):  # one number to look at instead of all
            return
        bad = (~found.isfinite()).any(-1)
        if bool(bad.any()):
            m = int(bad.nonzero()[0])
            e, i = int(rows.envs[m]), int(rows.agents[m])
            raise ValueError(
                f"{type(self.attack).__name__} must return finite observations, got "
                f"{found[m].tolist()} in environment {e}, agent {self._spec_agents[i]!r}, step "
                f"{int(context.step[e])}."
            )

    def _view(self, context: StepContext, hidden: Tensor | None, rows: AttackedRows) -> VictimView:
        """Return the victim bound to rows of a step, given its memory (E, N, H)."""
        pick, fit, state = rows.pick, self._fit, context.state
        mask, agents = fit.cut_actions(pick(context.mask)), fit.ids_of(rows.agents)
        obs_mask = fit.real_rows(rows.agents)
        if not self._asked:
            return self._victim.at(Rows(mask=mask, obs_mask=obs_mask, agents=agents))
        bound = Rows(
            mask=mask,
            obs_mask=obs_mask,
            hidden=None if hidden is None else pick(hidden),
            last_act=fit.cut_actions(pick(context.last_act)),
            agents=agents,
            state=pick(state) if state.dim() == 3 else rows.pick_envs(state),
            side={name: pick(values) for name, values in self._victim.side(context).items()},
        )
        return self._victim.at(bound)

    def _rows(self, attacked: Tensor) -> AttackedRows:
        """Return the rows to call the attack on, given who is attacked, bool (E, N)."""
        waits = attacked.device.type == "cpu" if self._waits is None else self._waits
        return ChosenRows(attacked) if waits else AllRows(attacked, self._fit.agents)

    def _move(self, device: torch.device) -> None:
        """Keep what says who is attacked where the observations are: to copy is to wait."""
        self._fit = self._fit.to(device)
        self._attacked, self._unchanged = self._attacked.to(device), self._unchanged.to(device)

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
    """
    if isinstance(perturbation, Perturber):
        return perturbation
    check_attack("as_perturber.perturbation", perturbation)
    return ObsPerturber(perturbation)


def _unasked(obs: Tensor) -> Tensor:
    raise RuntimeError("an attack with needs_victim=False queried the victim.")
