"""How a victim's agents, observations and actions lie in the arrays of a team."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.joint import TeamSpec
from robustmarl.victims import Victim

__all__ = ["Fit", "Index", "pick", "spread"]

Index: TypeAlias = tuple[Tensor, ...]
"""Environments and agents of M attacked rows, int64 (M,) each."""


@dataclass(frozen=True)
class Fit:
    """How a victim's agents, observations and actions lie in a team's arrays (E, N, ...).

    Attributes:
        attacked: which of the team's agents are attacked, bool (N,).
        ids: which of the victim's agents each of them is, int64 (N,); 0 where it is none.
        obs_size: D as the victim takes observations; the team's are cut to it.
        num_actions: A as the victim takes actions and masks.
        real: which coordinates exist, bool (N, D); None where all of the attacked agents' do.
        numbers: each agent's number among those that draw, int64 (N,): in its own team where only
            one team is attacked, so that an environment of several teams draws what a collector
            of that team draws.
        team_size: how many agents draw.
    """

    attacked: Tensor
    ids: Tensor
    obs_size: int
    num_actions: int
    real: Tensor | None
    numbers: Tensor
    team_size: int

    @classmethod
    def of(cls, victim: Victim, spec: TeamSpec, names: Collection[str]) -> Self:
        """Return how ``victim`` fits the agents ``names`` of a team.

        Raises:
            ValueError: if it is not their policy, or has no room for their spaces.
        """
        index = [spec.agents.index(name) for name in spec.agents if name in names]
        members = _team_of(spec, index)
        rooms = {}
        for what, own, sizes in (
            ("observations", victim.obs_size, spec.obs_sizes),
            ("actions", victim.num_actions, spec.action_sizes),
        ):
            needed = [sizes[i] for i in index]
            shared = needed[0] if len(set(needed)) == 1 else max(sizes[i] for i in members)
            rooms[what] = shared if own is None else _room(what, own, max(needed), max(sizes))
        size = rooms["observations"]
        real = torch.arange(size) < torch.tensor(spec.obs_sizes)[:, None]
        attacked = torch.zeros(spec.num_agents, dtype=torch.bool)
        attacked[index] = True
        numbers = torch.zeros(spec.num_agents, dtype=torch.int64)
        numbers[list(members)] = torch.arange(len(members))
        return cls(
            attacked=attacked,
            ids=torch.tensor(_ids(victim, spec, index)),
            obs_size=size,
            num_actions=rooms["actions"],
            real=None if bool(real[attacked].all()) else real,
            numbers=numbers,
            team_size=len(members),
        )

    def cut(self, obs: Tensor) -> Tensor:
        """Return observations (M, ...) as the victim takes them, (M, D)."""
        return obs[:, : self.obs_size]

    def cut_actions(self, values: Tensor) -> Tensor:
        """Return masks or action vectors (M, ...) as the victim takes them; indices as they are."""
        return values if values.dim() == 1 else values[:, : self.num_actions]

    def real_rows(self, agents: Tensor) -> Tensor | None:
        """Return which coordinates of the observations of ``agents`` (M,) exist, or None."""
        return None if self.real is None else self.real.to(agents.device)[agents]


def pick(values: Tensor, index: Index) -> Tensor:
    """Return the rows ``index`` (M, ...) of (E, N, ...)."""
    if len(index[0]) == values.shape[:2].numel():  # as a rule: then rows are a view
        return values.flatten(0, 1)
    return values[index]


def spread(values: Tensor, others: Tensor, index: Index) -> Tensor:
    """Return ``others`` (E, N, ...) with the ``values`` (M, ...) in the rows ``index``.

    Values of a victim with smaller observations leave the last coordinates as they are.
    """
    if values.shape[1:] == others.shape[2:] and len(values) == others.shape[:2].numel():
        return values.view(others.shape)
    into = others.clone()
    if values.dim() == 1:
        into[index] = values
    else:
        envs, agents = index
        into[envs, agents, : values.shape[1]] = values
    return into


def _team_of(spec: TeamSpec, index: Sequence[int]) -> tuple[int, ...]:
    """Return the agents of the one team that ``index`` lies in, all agents if there is none."""
    for members in spec.teams.values():
        if set(index) <= set(members):
            return members
    return tuple(range(spec.num_agents))


def _room(what: str, own: int, needed: int, most: int) -> int:
    """Return the victim's ``own`` size, which must lie between what is needed and what there is."""
    sizes = f"{most}" if needed == most else f"{needed} to {most}"
    rule = f"a policy for {what} of size {sizes}"
    check(needed <= own <= most, "ObsPerturber.victim", rule, f"one for size {own}")
    return own


def _ids(victim: Victim, spec: TeamSpec, index: Sequence[int]) -> list[int]:
    """Return which of the victim's agents each of the spec's agents is, 0 where it is none.

    By name; a policy of as many agents under other names (a transferred one) is taken in order.
    """
    own = victim.agents
    if own is None or own == spec.agents:
        return list(range(spec.num_agents))
    number = {agent: i for i, agent in enumerate(own)}
    strangers = [spec.agents[i] for i in index if spec.agents[i] not in number]
    if strangers:
        transferred = len(own) == spec.num_agents and not set(own) & set(spec.agents)
        rule = f"a policy of the attacked agents, {strangers} among them"
        remedy = "Attack its agents only: agents=[...]."
        got = f"one of {list(own)}"
        check(transferred, "ObsPerturber.victim", rule, got, remedy)
        return list(range(spec.num_agents))
    return [number.get(agent, 0) for agent in spec.agents]
