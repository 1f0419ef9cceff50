"""Show attacked agents what an attack makes of their observations."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from robustmarl._checks import check, check_device, check_int, check_names, check_number
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import ObsAttack
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import FunctionVictim, Victim, as_victim

__all__ = ["ObsPerturber", "as_perturber"]


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
        ValueError: at construction for bad numbers; at ``bind`` for unknown agents.
    """

    def __init__(
        self,
        attack: ObsAttack,
        *,
        victim: Any = None,
        agents: Collection[str] | None = None,
        every: int = 1,
        probability: float = 1.0,
        episodes: float = 1.0,
    ) -> None:
        if not isinstance(attack, ObsAttack):
            raise TypeError(
                "ObsPerturber.attack must be an ObsAttack with `ball`, `at` and `__call__`, "
                f"got {attack!r}."
            )
        self.attack = attack
        self.every = check_int("ObsPerturber.every", every, 1)
        self.probability = check_number("ObsPerturber.probability", probability, 0.0, 1.0)
        self.episodes = check_number("ObsPerturber.episodes", episodes, 0.0, 1.0)
        self.victim = None if victim is None else as_victim("ObsPerturber.victim", victim)
        self.agents = None if agents is None or isinstance(agents, str) else tuple(agents)
        if isinstance(agents, str):
            check_names("ObsPerturber.agents", agents, ())
        self._own_memory = False
        self._hidden: Tensor | None = None
        self._attacked = self._unchanged = 0.0
        self.size = torch.zeros(0)

    def bind(self, spec: TeamSpec, policy: Victim | None, depth: int) -> None:
        """Resolve agents and victim; see :class:`Perturber`."""
        names = spec.agents if self.agents is None else self.agents
        names = check_names("ObsPerturber.agents", names, spec.agents)
        self._named = torch.tensor([name in names for name in spec.agents])
        self._victim = policy if self.victim is None else self.victim
        self._asked = getattr(self.attack, "needs_victim", True)
        if not self._asked:
            self._victim = FunctionVictim(_unasked, device=_device_of(self._victim))
        if self._victim is None:
            raise ValueError("ObsPerturber.victim must be given where no policy acts, got None.")
        if policy is not None:
            check_device("ObsPerturber.victim", self._victim.device, policy.device)
        size = getattr(self._victim, "obs_size", spec.obs_size)
        rule = f"a policy for observations of size {spec.obs_size}"
        check(size == spec.obs_size, "ObsPerturber.victim", rule, f"one for size {size}")
        self.attack.ball.check_size(type(self.attack).__name__, spec.obs_size)
        foreign = policy is None or (self._victim is not policy)
        rule = "the acting team itself where its beliefs read clean observations"
        check(not (foreign and hasattr(self._victim, "told")), "ObsPerturber.victim", rule, "other")
        self._own_memory = foreign and self._victim.hidden_size > 0
        self._hidden = None
        self._stream = stream_id(f"obs/{depth}")
        self._attacked = self._unchanged = 0.0

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return perturbed observations (E, N, D); clean rows keep their bits."""
        if self.attack.ball.is_zero or self.probability == 0.0:
            self.size = context.seen.new_zeros(context.seen.shape[:2])
            return context.seen
        device = context.seen.device
        draws = Draws(context.keys).at(context.step, self._stream)
        rows = context.live & (context.step % self.every == 0)
        if self.episodes < 1.0:
            once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream + 1)
            rows = rows & (once.uniform(1)[:, 0] < self.episodes)
        if self.probability < 1.0:
            rows = rows & (draws.uniform(1)[:, 0] < self.probability)
        shown = (context.alive | context.terminal[:, None]) & rows[:, None]
        shown = shown & self._named.to(device)
        envs, agents = self.attacked_index = shown.nonzero().unbind(1)
        self.size = context.seen.new_zeros(shown.shape)
        if len(envs) == 0:
            return context.seen
        whole = len(envs) == shown.numel()  # as a rule: then rows are a view

        def pick(values: Tensor) -> Tensor:
            return values.flatten(0, 1) if whole else values[envs, agents]

        clean = pick(context.seen)
        told: dict[str, Tensor | None] = {"mask": pick(context.mask), "agents": agents}
        if self._asked:
            hidden, state = self._hidden_of(context), context.state
            told["hidden"] = None if hidden is None else pick(hidden)
            told["last_act"] = pick(context.last_act)
            told["state"] = pick(state) if state.dim() == 3 else state[envs]
        view = self._victim.at(**told)  # type: ignore[union-attr]
        own = Draws(pick(draws.split(shown.shape[1]).keys.view(shown.shape)))
        found = self.attack(view, clean, own)
        found = self.attack.ball.project(found, clean)  # enforced, not trusted
        seen = self._spread(found, context.seen)
        self.size = self._spread((found - clean).abs().amax(dim=-1), self.size)
        counted = shown & context.alive & ~context.terminal[:, None]
        self._attacked += float(counted.count_nonzero())
        self._unchanged += float((counted & (self.size == 0)).count_nonzero())
        return seen

    def shown(self, context: StepContext) -> None:
        """Advance a foreign recurrent victim on what was shown."""
        if not self._own_memory:
            return
        assert self._victim is not None  # set by bind
        envs, agents, size = *context.seen.shape[:2], context.seen.shape[-1]
        hidden = self._hidden_of(context)
        ids = torch.arange(agents, device=context.seen.device).repeat(envs)
        view = self._victim.at(
            hidden=None if hidden is None else hidden.reshape(envs * agents, -1),
            last_act=context.last_act.reshape(envs * agents, *context.last_act.shape[2:]),
            agents=ids,
        )
        with torch.no_grad():
            after = view.advance(context.seen.reshape(-1, size))
        assert after is not None  # hidden_size > 0
        self._hidden = after.view(envs, agents, -1)

    def counters(self) -> dict[str, float]:
        """Return ``attacked`` and ``unchanged``: agent-steps, living agents only."""
        return {"attacked": self._attacked, "unchanged": self._unchanged}

    def warn_if_idle(self) -> None:
        """Warn if the attack changed no observation although it had a budget."""
        if self._attacked > 0 and self._unchanged == self._attacked:
            warnings.warn(
                f"{self.attack!r} changed none of {self._attacked:.0f} observations: zero "
                "gradient, a saturated victim, or a single available action.",
                RobustnessWarning,
                stacklevel=2,
            )

    def _spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with the ``values`` (M, ...) of attacked agents."""
        if len(values) == others.shape[:2].numel():
            return values.view(others.shape)
        spread = others.clone()
        spread[self.attacked_index] = values
        return spread

    def _hidden_of(self, context: StepContext) -> Tensor | None:
        if not self._own_memory:
            told: Tensor | None = getattr(self._victim, "told", lambda now: now.hidden)(context)
            return told
        if self._hidden is None:
            return None
        begun = (context.step == 0)[:, None, None]
        self._hidden = torch.where(begun, 0.0, self._hidden)
        return self._hidden


def as_perturber(perturbation: ObsAttack | Perturber) -> Perturber:
    """Return a perturber; an attack becomes one on all agents at every step."""
    if isinstance(perturbation, Perturber):
        return perturbation
    return ObsPerturber(perturbation)


def _unasked(obs: Tensor) -> Tensor:
    raise RuntimeError("an attack with needs_victim=False queried the victim.")


def _device_of(victim: Victim | None) -> torch.device:
    return torch.device("cpu") if victim is None else victim.device
