"""Show attacked agents what an attack makes of their observations."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any, Protocol

import torch
from torch import Tensor

from robustmarl._checks import check, check_device, check_int, check_names, check_number
from robustmarl._seeding import Draws, stream_id
from robustmarl.attacks.base import ObsAttack
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import FunctionVictim, Rows, Victim, as_victim

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

    kind = "obs"

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
                "ObsPerturber.attack must be an ObsAttack with `ball`, `with_epsilon` and "
                f"`__call__`, got {attack!r}."
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
        self._waits: bool | None = None  # whether to ask who is attacked; None: on the CPU only
        self._attacked = self._unchanged = torch.zeros((), dtype=torch.int64)
        self.size = torch.zeros(0)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Resolve agents and victim; see :class:`Perturber`."""
        super().bind(spec, policy, place)
        names = spec.agents if self.agents is None else self.agents
        names = check_names("ObsPerturber.agents", names, spec.agents)
        named = [name in names for name in spec.agents]
        self._asked = getattr(self.attack, "needs_victim", True)
        victim = policy if self.victim is None else self.victim
        if not self._asked:
            device = torch.device("cpu") if victim is None else victim.device
            victim = FunctionVictim(_unasked, device=device)
        if victim is None:
            raise ValueError("ObsPerturber.victim must be given where no policy acts, got None.")
        if policy is not None:
            check_device("ObsPerturber.victim", victim.device, policy.device)
        foreign = policy is None or victim is not policy
        rule = "the acting team itself where its beliefs read clean observations"
        check(not (foreign and victim.acting_only), "ObsPerturber.victim", rule, "other")
        self._victim, self._own_memory = victim, foreign and victim.hidden_size > 0
        self._hidden = None
        self._named = torch.tensor(named)
        self._ids = torch.tensor(_own_indices(victim, spec, named))
        self._width, self._choices, self._real = _sizes(victim, spec, named)
        self.attack.ball.check_size(type(self.attack).__name__, self._width)
        self._stream = stream_id(f"obs/{place.depth}")
        self._numbers = torch.tensor([i for i, is_named in enumerate(named) if is_named])
        self._chosen: _Chosen = _Where(torch.zeros(0, len(named), dtype=torch.bool), self._numbers)
        self._attacked = self._unchanged = torch.zeros((), dtype=torch.int64)

    @property
    def attacked_index(self) -> tuple[Tensor, Tensor]:
        """The environments and agents attacked last, (M,) each; waits for an accelerator."""
        envs, agents = self._chosen.shown.nonzero().unbind(1)
        return envs, agents

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return perturbed observations (E, N, D); clean rows keep their bits."""
        if self.attack.ball.is_zero or self.probability == 0.0:
            self.size = context.seen.new_zeros(context.seen.shape[:2])
            return context.seen
        self._move(context.seen.device)
        draws = Draws(context.keys).at(context.step, self._stream)
        rows = context.live & (context.step % self.every == 0)
        if self.episodes < 1.0:
            once = Draws(context.keys).at(torch.zeros_like(context.step), self._stream + 1)
            rows = rows & (once.uniform(1)[:, 0] < self.episodes)
        if self.probability < 1.0:
            rows = rows & (draws.uniform(1)[:, 0] < self.probability)
        shown = context.observed & rows[:, None] & self._named
        self.size = context.seen.new_zeros(shown.shape)
        if shown.device.type == "cpu" if self._waits is None else self._waits:
            chosen: _Chosen = _Index(shown)
            self._chosen = chosen
            if len(chosen.agents) == 0:
                return context.seen
        else:
            self._chosen = chosen = _Where(shown, self._numbers)
        pick, agents = chosen.pick, chosen.agents
        clean = pick(context.seen)[:, : self._width]
        real = None if self._real is None else self._real[agents]
        bound: dict[str, Tensor] = {}
        side: dict[str, Tensor] = {}
        if self._asked:
            hidden, state = self._hidden_of(context), context.state
            if hidden is not None:
                bound["hidden"] = pick(hidden)
            bound["last_act"] = pick(context.last_act)
            bound["state"] = pick(state) if state.dim() == 3 else chosen.of_envs(state)
            side = {name: pick(values) for name, values in self._victim.side(context).items()}
        view = self._victim.at(
            Rows(
                mask=pick(context.mask)[:, : self._choices],
                obs_mask=real,
                agents=self._ids[agents],
                side=side,
                **bound,
            )
        )
        own = Draws(pick(draws.split(shown.shape[1]).keys.view(shown.shape)))
        found = self.attack(view, clean.clone(), own)  # it may write into what it is given
        found = self.attack.ball.project(found, clean)  # enforced, not trusted
        if real is not None:
            found = torch.where(real, found, clean)
        seen = chosen.spread(found, context.seen)
        self.size = chosen.spread((found - clean).abs().amax(dim=-1), self.size)
        counted = shown & context.alive & ~context.terminal[:, None]
        # read in `counters`: here an accelerator would have to be waited for
        self._attacked = self._attacked + counted.sum()
        self._unchanged = self._unchanged + (counted & (self.size == 0)).sum()
        return seen

    def shown(self, context: StepContext) -> None:
        """Advance a foreign recurrent victim on what was shown."""
        if not self._own_memory:
            return
        self._move(context.seen.device)
        envs, agents = context.seen.shape[:2]
        hidden = self._hidden_of(context)
        view = self._victim.at(
            Rows(
                hidden=None if hidden is None else hidden.flatten(0, 1),
                last_act=context.last_act.flatten(0, 1),
                agents=self._ids.repeat(envs),
                side={k: v.flatten(0, 1) for k, v in self._victim.side(context).items()},
            )
        )
        with torch.no_grad():
            after = view.advance(context.seen.flatten(0, 1)[:, : self._width])
        assert after is not None  # hidden_size > 0
        self._hidden = after.view(envs, agents, -1)

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

    def _move(self, device: torch.device) -> None:
        """Keep what says who is attacked where the observations are: to copy is to wait."""
        if self._named.device == device:
            return
        self._named, self._numbers = self._named.to(device), self._numbers.to(device)
        self._ids = self._ids.to(device)
        self._real = None if self._real is None else self._real.to(device)
        self._attacked, self._unchanged = self._attacked.to(device), self._unchanged.to(device)

    def _spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with the ``values`` (M, ...) of attacked agents."""
        return self._chosen.spread(values, others)

    def _hidden_of(self, context: StepContext) -> Tensor | None:
        if not self._own_memory:
            return context.hidden
        if self._hidden is None:
            return None
        begun = (context.step == 0)[:, None, None]
        self._hidden = torch.where(begun, 0.0, self._hidden)
        return self._hidden


class _Chosen(Protocol):
    """The rows (M, ...) of joint arrays (E, N, ...) on which an attack is called."""

    shown: Tensor
    """Who is attacked, bool (E, N)."""

    agents: Tensor
    """The agent of each row, int64 (M,)."""

    def pick(self, values: Tensor) -> Tensor:
        """Return rows (M, ...) of values (E, N, ...)."""

    def of_envs(self, values: Tensor) -> Tensor:
        """Return rows (M, ...) of values (E, ...)."""

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with ``values`` (M, ...) where agents are attacked.

        Values may be narrower: then the rest is the others'.
        """


class _Index:
    """Just those who are attacked; the host has to know them."""

    def __init__(self, shown: Tensor) -> None:
        self.shown = shown
        self.envs, self.agents = shown.nonzero().unbind(1)
        self._all = len(self.envs) == shown.numel()  # as a rule: then rows are a view

    def pick(self, values: Tensor) -> Tensor:
        return values.flatten(0, 1) if self._all else values[self.envs, self.agents]

    def of_envs(self, values: Tensor) -> Tensor:
        return values[self.envs]

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        same = values.shape[1:] == others.shape[2:]
        if same and self._all:
            return values.view(others.shape)
        spread = others.clone()
        if same:
            spread[self.envs, self.agents] = values
        else:
            spread[self.envs, self.agents, : values.shape[-1]] = values
        return spread


class _Where:
    """All rows of the agents that may be attacked: those that are not, keep what is clean."""

    def __init__(self, shown: Tensor, numbers: Tensor) -> None:
        self.shown = shown
        self._numbers, self._all = numbers, len(numbers) == shown.shape[1]
        self._shape = (len(shown), len(numbers))
        self.agents = numbers.repeat(len(shown))

    def pick(self, values: Tensor) -> Tensor:
        return (values if self._all else values[:, self._numbers]).flatten(0, 1)

    def of_envs(self, values: Tensor) -> Tensor:
        return values.unsqueeze(1).expand(*self._shape, *values.shape[1:]).flatten(0, 1)

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        spread = others.clone()
        found = values.view(*self._shape, *values.shape[1:])
        if values.shape[1:] == others.shape[2:]:
            spread[:, self._numbers] = found
        else:
            spread[:, self._numbers, : values.shape[-1]] = found
        attacked = self.shown.view(*self.shown.shape, *[1] * (others.dim() - 2))
        return torch.where(attacked, spread, others)


def as_perturber(perturbation: ObsAttack | Perturber) -> Perturber:
    """Return a perturber; an attack becomes one on all agents at every step."""
    if isinstance(perturbation, Perturber):
        return perturbation
    return ObsPerturber(perturbation)


def _unasked(obs: Tensor) -> Tensor:
    raise RuntimeError("an attack with needs_victim=False queried the victim.")


def _own_indices(victim: Victim, spec: TeamSpec, named: list[bool]) -> list[int]:
    """Return which of the victim's agents each of the spec's agents is, 0 where it is none.

    By name; a policy of as many agents under other names (a transferred one) is taken in order.
    """
    own = victim.agents
    if own is None or own == spec.agents:
        return list(range(spec.num_agents))
    index = {agent: i for i, agent in enumerate(own)}
    attacked = [agent for agent, is_named in zip(spec.agents, named, strict=True) if is_named]
    if all(agent in index for agent in attacked):
        return [index.get(agent, 0) for agent in spec.agents]
    rule = f"a policy of the attacked agents {attacked}"
    remedy = "Attack its agents only: ObsPerturber(attack, agents=[...])."
    check(len(own) == spec.num_agents, "ObsPerturber.victim", rule, f"one of {list(own)}", remedy)
    return list(range(spec.num_agents))


def _sizes(victim: Victim, spec: TeamSpec, named: list[bool]) -> tuple[int, int, Tensor | None]:
    """Return how wide observations and masks are cut for the victim, and what is no padding.

    Returns:
        D and A as the victim takes them, and the coordinates that exist, bool (N, D), None
        where all do.
    """

    def width(own: int | None, sizes: tuple[int, ...], joint: int) -> int:
        """Return the victim's size: its own, else the attacked agents' where they have one."""
        attacked = {size for size, is_named in zip(sizes, named, strict=True) if is_named}
        return own or (attacked.pop() if len(attacked) == 1 else joint)

    size = width(victim.obs_size, spec.obs_sizes, spec.obs_size)
    attacked = [s for s, is_named in zip(spec.obs_sizes, named, strict=True) if is_named]
    fits = max(attacked, default=0) <= size <= spec.obs_size
    rule = f"a policy for observations of size {spec.obs_size}"
    check(fits, "ObsPerturber.victim", rule, f"one for size {size}")
    real = torch.arange(size) < torch.tensor(spec.obs_sizes)[:, None]
    padded = bool((~real[torch.tensor(named)]).any())
    choices = width(victim.num_actions, spec.action_sizes, spec.num_actions)
    return size, choices, real if padded else None
