"""How a victim's agents, observations and actions lie in the arrays of a team."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.victims import Victim

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """How a victim's agents, observations and actions lie in a team's arrays (E, N, ...).

    Attributes:
        attacked: which of the team's agents are attacked, bool (N,).
        agents: the indices of those, int64 (K,).
        ids: which of the victim's agents each of them is, int64 (N,); 0 where it is none. None
            where they have the same order.
        obs_size: D as the victim takes observations; the team's are cut to it.
        num_actions: A as the victim takes actions and masks.
        real: which coordinates exist, bool (N, D); None where all of the attacked agents' do.
        numbers: each agent's number among those that draw, int64 (N,): in its own team where only
            one team is attacked, so that an environment of several teams draws what a collector
            of that team draws. None where all agents draw.
        team_size: how many agents draw.
        team: the victim's agents among those of the spec, int64 (K,); None where they are all of
            them, in its order.
    """

    attacked: Tensor
    agents: Tensor
    ids: Tensor | None
    obs_size: int
    num_actions: int
    real: Tensor | None
    numbers: Tensor | None
    team_size: int
    team: Tensor | None

    @classmethod
    def of(
        cls, victim: Victim, spec: TeamSpec, names: Collection[str], where: str, remedy: str = ""
    ) -> Self:
        """Return how ``victim`` fits the agents ``names`` of a team.

        Args:
            victim: the policy.
            spec: of the team.
            names: of its agents that the victim plays, or that are attacked through it.
            where: what errors call the victim.
            remedy: what to do about a victim that is of other agents.

        Raises:
            ValueError: if it is not their policy, or has no room for their spaces.
        """
        index = [spec.agents.index(name) for name in spec.agents if name in names]
        members = _team_of(spec, index)
        taken = {}
        for what, size, sizes in (
            ("observations", victim.obs_size, spec.obs_sizes),
            ("actions", victim.num_actions, spec.action_sizes),
        ):
            needed = [sizes[i] for i in index]
            if size is None:  # any will do: the attacked agents' where they share one
                size = needed[0] if len(set(needed)) == 1 else max(sizes[i] for i in members)
            largest = max(sizes)
            named = f"{largest}" if max(needed) == largest else f"{max(needed)} to {largest}"
            fits = max(needed) <= size <= largest
            rule = f"a policy for {what} of size {named}"
            check(fits, where, rule, f"one for size {size}")
            taken[what] = size
        obs_size = taken["observations"]
        real = torch.arange(obs_size) < torch.tensor(spec.obs_sizes)[:, None]
        attacked = torch.zeros(spec.num_agents, dtype=torch.bool)
        attacked[index] = True
        numbers = torch.zeros(spec.num_agents, dtype=torch.int64)
        numbers[list(members)] = torch.arange(len(members))
        ids = _victims_agents(victim, spec, index, where, remedy)
        in_order = list(range(spec.num_agents))
        return cls(
            attacked=attacked,
            agents=torch.tensor(index),
            ids=None if ids == in_order else torch.tensor(ids),
            obs_size=obs_size,
            num_actions=taken["actions"],
            real=None if bool(real[attacked].all()) else real,
            numbers=None if members == tuple(in_order) else numbers,
            team_size=len(members),
            team=_members(victim, spec),
        )

    def to(self, device: torch.device) -> Self:
        """Return the same with its tensors on ``device``; itself if they are there."""
        if self.attacked.device == device:
            return self

        def moved(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.to(device)

        return replace(
            self,
            attacked=self.attacked.to(device),
            agents=self.agents.to(device),
            ids=moved(self.ids),
            numbers=moved(self.numbers),
            real=moved(self.real),
            team=moved(self.team),
        )

    def side(self, victim: Victim, context: StepContext) -> Mapping[str, Tensor]:
        """Return the victim's further inputs, (E, N, ...) each, zeros for agents that are not its.

        They are worked out from its own team alone: others are no neighbours of its agents.
        """
        if self.team is None:
            return victim.side(context)
        whole, team = context.alive.shape, self.team
        obs, actions = slice(self.obs_size), slice(self.num_actions)
        last, hidden, types = context.last_act[:, team], context.hidden, context.types
        own = replace(
            context,
            obs=context.obs[:, team, obs],
            seen=context.seen[:, team, obs],
            mask=context.mask[:, team, actions],
            state=context.state[:, team] if context.state.dim() == 3 else context.state,
            alive=context.alive[:, team],
            observed=context.observed[:, team],
            last_act=last if last.dim() == 2 else last[..., actions],
            hidden=None if hidden is None else hidden[:, team],
            types=None if types is None else types[:, team],
        )
        side = {}
        for name, values in victim.side(own).items():
            side[name] = values.new_zeros(*whole, *values.shape[2:])
            side[name][:, team] = values
        return side

    def cut(self, obs: Tensor) -> Tensor:
        """Return observations (M, ...) as the victim takes them, (M, D)."""
        return obs if obs.shape[1] == self.obs_size else obs[:, : self.obs_size]

    def cut_actions(self, values: Tensor) -> Tensor:
        """Return masks or action vectors (M, ...) as the victim takes them; indices as they are."""
        same = values.dim() == 1 or values.shape[1] == self.num_actions
        return values if same else values[:, : self.num_actions]

    def ids_of(self, agents: Tensor) -> Tensor:
        """Return which of the victim's agents ``agents`` (M,) are."""
        return agents if self.ids is None else self.ids[agents]

    def real_rows(self, agents: Tensor) -> Tensor | None:
        """Return which coordinates of the observations of ``agents`` (M,) exist, or None."""
        return None if self.real is None else self.real[agents]


def _team_of(spec: TeamSpec, index: Sequence[int]) -> tuple[int, ...]:
    """Return the agents of the one team that ``index`` lies in, all agents if there is none."""
    for members in spec.teams.values():
        if set(index) <= set(members):
            return members
    return tuple(range(spec.num_agents))


def _members(victim: Victim, spec: TeamSpec) -> Tensor | None:
    """Return the indices of the victim's agents in ``spec``, None where these are all, in order."""
    order = {agent: i for i, agent in enumerate(spec.agents)}
    known = [order[agent] for agent in victim.agents or () if agent in order]
    return None if not known or known == list(order.values()) else torch.tensor(known)


def _victims_agents(
    victim: Victim, spec: TeamSpec, index: Sequence[int], where: str, remedy: str
) -> list[int]:
    """Return which of the victim's agents each of the spec's agents is, 0 where it is none.

    By name; a policy of as many agents under other names (a transferred one) is taken in order.
    """
    known = victim.agents
    if known is None or known == spec.agents:
        return list(range(spec.num_agents))
    index_of = {agent: i for i, agent in enumerate(known)}
    strangers = [spec.agents[i] for i in index if spec.agents[i] not in index_of]
    if strangers:
        transferred = len(known) == spec.num_agents and not set(known) & set(spec.agents)
        rule = f"a policy of the attacked agents, {strangers} among them"
        check(transferred, where, rule, f"one of {list(known)}", remedy)
        return list(range(spec.num_agents))
    return [index_of.get(agent, 0) for agent in spec.agents]
