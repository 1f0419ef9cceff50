"""Several adversaries of which exactly one plays in an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from robustmarl._checks import check
from robustmarl._seeding import Draws, stream_id
from robustmarl.adversaries.base import Adversary, Sample, check_adversaries
from robustmarl.joint import JointBatch, StepContext, TeamSpec
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.victims import Victim

__all__ = ["Population", "PopulationPerturber"]


class PopulationPerturber(Perturber):
    """Lets exactly one of K perturbers act in an episode, drawn uniformly by its random key.

    Records, as ``population``, ``index``, which of them it was, int64 (E,); and, as
    ``population/k``, what the k-th recorded, which means something in its own episodes only.

    Args:
        members: at least one; all tell the learner the same kind of action.
    """

    kind = "population"

    def __init__(self, members: Sequence[Perturber]) -> None:
        told = {member.act_told for member in members}
        rule = "at least one, which tell the learner the same kind of action"
        check(len(told) == 1, "PopulationPerturber.members", rule, sorted(told))
        self.members, self.act_told = list(members), told.pop()
        self._take_place(Place(0, self.kind))

    @property
    def changes_actions(self) -> bool:
        """Whether any of them may change what is executed."""
        return any(member.changes_actions for member in self.members)

    def bind(self, spec: TeamSpec, policy: Victim | None, place: Place) -> None:
        """Prepare all of them for a team; see :class:`Perturber`."""
        self._take_place(place)
        # by name: in a population of populations each draws for itself
        self._stream = stream_id(f"{place.name}/{place.depth}")
        self._index = torch.zeros(0, dtype=torch.int64)
        for member, member_place in zip(self.members, self._places, strict=True):
            member.bind(spec, policy, member_place)

    def _take_place(self, place: Place) -> None:
        self.place = place
        numbers = range(len(self.members))
        self._places = [Place(place.depth, f"{place.name}/{k}") for k in numbers]
        for member, member_place in zip(self.members, self._places, strict=True):
            member.place = member_place

    @torch.no_grad()
    def on_obs(self, context: StepContext) -> Tensor:
        """Return what the episode's own member shows, (E, N, D)."""
        self._index = self.drawn(context.keys)
        seen, types = context.seen, context.types
        for number, member in enumerate(self.members):
            step = self._played_by(context, number)
            step.types = None
            seen = self._where(number, member.on_obs(step), seen)
            if step.types is not None:
                played = step.types & (self._index == number)[:, None]
                types = played if types is None else types | played
        context.types = types
        return seen

    def drawn(self, keys: Tensor) -> Tensor:
        """Return who plays in the episodes of these random keys, int64 (E,); after ``bind``."""
        once = Draws(keys).at(torch.zeros_like(keys), self._stream)
        return (once.uniform(1)[:, 0] * len(self.members)).long()

    def shown(self, context: StepContext) -> None:
        """Let all of them take note of what was shown."""
        for number, member in enumerate(self.members):
            member.shown(self._played_by(context, number))

    def on_logits(self, context: StepContext, logits: Tensor) -> Tensor:
        """Return the logits or means of the episode's own member, (E, N, A)."""
        return self._by_member(context, logits, lambda member: member.on_logits)

    def on_act(self, context: StepContext, act: Tensor) -> Tensor:
        """Return the executed actions of the episode's own member."""
        return self._by_member(context, act, lambda member: member.on_act)

    def record(self) -> Mapping[str, Tensor]:
        """Return ``index``, and what each member recorded as ``k/name``."""
        kept = {
            f"{number}/{name}": values
            for number, member in enumerate(self.members)
            for name, values in member.record().items()
        }
        return {"index": self._index, **kept}

    def counters(self) -> dict[str, float]:
        """Return the members' counters as ``k/name``."""
        return {
            f"{number}/{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.counters().items()
        }

    def _by_member(
        self,
        context: StepContext,
        values: Tensor,
        hook: Callable[[Perturber], Callable[[StepContext, Tensor], Tensor]],
    ) -> Tensor:
        found = values
        for number, member in enumerate(self.members):
            found = self._where(
                number, hook(member)(self._played_by(context, number), values), found
            )
        return found

    def _played_by(self, context: StepContext, number: int) -> StepContext:
        """Return the step with those environments live that a member plays in."""
        return replace(context, live=context.live & (self._index == number))

    def _where(self, number: int, values: Tensor, others: Tensor) -> Tensor:
        """Return ``values`` (E, ...) where a member plays, ``others`` elsewhere."""
        chosen = self._index == number
        return torch.where(chosen.view(-1, *(1,) * (others.dim() - 1)), values, others)


class Population(Adversary):
    """Several adversaries of which exactly one plays in an episode, drawn by its random key.

    Each learns from the episodes that it played and no others.

    Args:
        members: the adversaries, at least one, all different objects.

    Raises:
        TypeError: for members that are no adversaries.

    Example:
        >>> from robustmarl import adversaries, budgets, envs
        >>> members = [
        ...     adversaries.ObsAdversaryPPO.for_env(envs.ToyGame(), budgets.LinfBall(epsilon=size))
        ...     for size in (0.1, 0.5)
        ... ]
        >>> len(Population(members).members)
        2
    """

    def __init__(self, members: Sequence[Adversary]) -> None:
        super().__init__()
        members = check_adversaries(f"{type(self).__name__}.members", members)
        self._members = nn.ModuleList(members)
        self.needs = frozenset(need for member in members for need in member.needs)
        self._perturber = PopulationPerturber([member.perturber() for member in members])

    @property
    def members(self) -> list[Adversary]:
        """The adversaries, which learn and save with it."""
        return cast("list[Adversary]", list(self._members))

    def perturber(self) -> PopulationPerturber:
        """Return what plays while they learn."""
        return self._perturber

    def deployed(self, greedy: bool | None = None) -> PopulationPerturber:
        """Return copies of all of them at work, one per episode."""
        return PopulationPerturber([member.deployed(greedy) for member in self.members])

    def can_learn(self, sample: Sample) -> bool:
        """Return whether there are episodes that any of them can learn from."""
        return any(member.can_learn(sample) for member in self.members)

    def learn(self, sample: Sample) -> Mapping[str, float]:
        """Let each member learn from the episodes that it played, if it needs no others."""
        figures: dict[str, float] = {}
        for number, member in enumerate(self.members):
            part = self._sample_of(sample, number)
            played = part.fresh is not None or part.drawn is not None
            if played and member.can_learn(part):
                found = member.learn(part)
                figures |= {f"{number}/{name}": value for name, value in found.items()}
        return figures

    def _sample_of(self, sample: Sample, number: int) -> Sample:
        """Return what of a sample a member played."""
        fresh, drawn = self._played(sample.fresh, number), self._played(sample.drawn, number)
        advantage = None
        if fresh is not None and sample.fresh is not None and sample.advantage is not None:
            advantage = sample.advantage[self._episodes(sample.fresh, number)]
        return replace(sample, fresh=fresh, drawn=drawn, advantage=advantage)

    def _played(self, batch: JointBatch | None, number: int) -> JointBatch | None:
        """Return the episodes that a member played, None if there are none."""
        if batch is None:
            return None
        episodes = self._episodes(batch, number)
        return batch.select(episodes) if bool(episodes.any()) else None

    def _episodes(self, batch: JointBatch, number: int) -> Tensor:
        index = self.recorded(batch).get("index")
        none = torch.zeros(len(batch), dtype=torch.bool, device=batch.valid.device)
        return none if index is None else index[:, 0] == number
