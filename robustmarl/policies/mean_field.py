"""Actors that act on the mean action of their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import (
    check,
    check_each,
    check_flag,
    check_int,
    check_kind,
    check_number,
    keep,
)
from robustmarl.joint import StepContext, TeamSpec
from robustmarl.networks import Agents
from robustmarl.policies.actor import ActorPolicy

__all__ = ["MeanFieldPolicy", "Neighbours"]


def _check_column(where: str, column: object) -> int:
    return check_int(where, column, 0)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    r"""Whose actions an agent averages: its living teammates, all of them or those nearby.

    .. math:: \bar a^j = \frac{1}{|N(j)|} \sum_{k \in N(j)} \mathrm{onehot}(a^k)

    Args:
        include_self: count the agent itself among its neighbours.
        radius: the greatest distance of a neighbour, > 0, in units of observations; None is the
            whole team.
        position: for a radius, the coordinates of the observation that say where its agent is.

    Raises:
        ValueError: for a radius without coordinates or the other way round, or out of range.

    Example:
        >>> act, alive = torch.tensor([0, 1, 1, 3]), torch.ones(4, dtype=torch.bool)
        >>> Neighbours(include_self=True).mean_action(act, alive, num_actions=5)[0]
        tensor([0.2500, 0.5000, 0.0000, 0.2500, 0.0000])
    """

    include_self: bool = False
    radius: float | None = None
    position: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rule = "a tuple of indices"
        position = check_each("Neighbours.position", self.position, _check_column, rule)
        keep(
            self,
            include_self=check_flag("Neighbours.include_self", self.include_self),
            position=position,
        )
        if self.radius is not None:
            radius = check_number("Neighbours.radius", self.radius, 0.0, open_low=True)
            keep(self, radius=radius)
        both = (self.radius is not None) == bool(self.position)
        check(both, "Neighbours.position", "given with a radius, and only then", self.position)

    def mean_action(
        self, act: Tensor, alive: Tensor, obs: Tensor | None = None, *, num_actions: int
    ) -> Tensor:
        """Return the neighbours' mean actions, (..., N, A); zeros for who has none.

        Args:
            act: int64 (..., N), -1 for no action yet, which adds nothing.
            alive: bool (..., N); the dead are nobody's neighbours.
            obs: clean observations (..., N, D), which a radius needs.
            num_actions: A.
        """
        vectors = F.one_hot(act.clamp(min=0), num_actions) * (act >= 0).unsqueeze(-1)
        return self.mean(vectors.to(torch.float32), alive, obs)

    def mean(self, vectors: Tensor, alive: Tensor, obs: Tensor | None = None) -> Tensor:
        """Return the neighbours' mean of ``vectors``, (..., N, A), such as probabilities."""
        if self.radius is not None:
            near = self._near(obs, alive).to(vectors.dtype)
            return near @ vectors / near.sum(-1, keepdim=True).clamp(min=1.0)
        living = alive.to(vectors.dtype).unsqueeze(-1)
        own = torch.zeros_like(living) if self.include_self else living
        counted = torch.where(living > 0, vectors, 0.0)
        total, number = counted.sum(-2, keepdim=True), living.sum(-2, keepdim=True)
        # All alike but for their own part: no matrix of who sees whom, which 64 agents would pay.
        return (total - own * counted) / (number - own).clamp(min=1.0)

    def _near(self, obs: Tensor | None, alive: Tensor) -> Tensor:
        """Return who is whose neighbour, bool (..., N, N): ``[..., j, k]`` k is j's."""
        if obs is None:
            raise ValueError("Neighbours.mean.obs must be given where there is a radius, got None.")
        assert self.radius is not None  # asked for by `mean` only then
        places = obs[..., list(self.position)]
        near = (places.unsqueeze(-2) - places.unsqueeze(-3)).norm(dim=-1) <= self.radius
        itself = torch.eye(alive.shape[-1], dtype=torch.bool, device=alive.device)
        near = near | itself if self.include_self else near & ~itself
        return near & alive.unsqueeze(-2)


class MeanFieldPolicy(ActorPolicy):
    r"""An actor :math:`\pi(a \mid o, \bar a)` on its neighbours' mean action of the step before.

    The mean action is a side input, ``mean_act``: attacks on observations leave it as it is. It is
    of the neighbours that are still alive, and zero at an episode's first step.

    Args:
        spec: the team's; discrete actions.
        network: its agents. Made without ``mean_action`` they act on their observations alone.
        neighbours: whose actions are averaged.
        deterministic_eval: act greedily outside training.
    """

    def __init__(
        self,
        spec: TeamSpec,
        network: Agents,
        *,
        neighbours: Neighbours | None = None,
        deterministic_eval: bool = False,
    ) -> None:
        super().__init__(spec, network, deterministic_eval)
        name = type(self).__name__
        if neighbours is not None:
            check_kind(f"{name}.neighbours", neighbours, Neighbours, "Neighbours, or None")
        rule = "of discrete actions, whose one-hot vectors are averaged"
        check(not spec.continuous, f"{name}.spec", rule, "a Box of actions")
        self.neighbours = Neighbours() if neighbours is None else neighbours
        known = max(self.neighbours.position, default=-1) < min(spec.obs_sizes)
        rule = f"coordinates that all observations have, below {min(spec.obs_sizes)}"
        check(known, f"{name}.neighbours.position", rule, self.neighbours.position)

    def mean_action(self, act: Tensor, alive: Tensor, obs: Tensor) -> Tensor:
        """Return what :meth:`Neighbours.mean_action` does, for this team's actions."""
        return self.neighbours.mean_action(act, alive, obs, num_actions=self.spec.num_actions)

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return ``mean_act``, (E, N, A), if the network reads it."""
        if self.network.mean_table is None:
            return {}
        return {"mean_act": self.mean_action(context.last_act, context.alive, context.obs)}
