"""An opponent for Battle that walks to the nearest enemy and hits it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from robustmarl._checks import check_choice, check_kind, check_number, keep
from robustmarl._seeding import generator
from robustmarl.joint import StepContext

__all__ = ["Charge"]

_SIGHT = 6  # cells, each way
_EDGE = 2 * _SIGHT + 1
_CELLS = _EDGE * _EDGE
_OWN = _CELLS // 2  # the middle, where one is
_LEFT, _RIGHT = slice(_OWN - _SIGHT, _OWN), slice(_OWN + 1, _OWN + 1 + _SIGHT)  # in one's own row

# Columns to the right and rows down of everything that an agent can do, in magent2's order.
_MOVES = tuple(
    (right, down)
    for down in range(-2, 3)
    for right in range(-2, 3)
    if right * right + down * down <= 4
)
_HITS = tuple(
    (right, down) for down in (-1, 0, 1) for right in (-1, 0, 1) if (right, down) != (0, 0)
)
_NUM_ACTIONS = len(_MOVES) + len(_HITS)

# Channels of a view, by how many numbers a cell (image) or all (flat) may have beside them:
# an agent's number (10), its last action and reward; where it is (2).
_FEATURES = 10 + _NUM_ACTIONS + 1
_CHANNELS = {5: (0, _FEATURES), 7: (2, _FEATURES + 2)}  # without and with the minimap

# Of distances that are equal, or nearly so among moves, chance decides: cells of slack.
_TARGET_SLACK, _MOVE_SLACK = 0.1, 0.3
_TIES = 64  # ways in which it decides
_POINTS = 5  # uniform numbers per agent and step


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A script for one team of :func:`battle`, with or without its minimap and extra features.

    An agent hits the nearest enemy if it is beside it, else goes towards it. Where it sees none it
    goes to the side that the others came from, and anywhere where that ends at a wall.

    It is a script of a step: ``opponents={"blue": Charge(team="blue")}``. Elsewhere :meth:`act`
    takes observations.

    Args:
        team: ``"red"``, which goes to the right, or ``"blue"``, to the left.
        random: the share of actions that are drawn uniformly instead, in [0, 1].

    Raises:
        TypeError: if ``random`` is no number.
        ValueError: for another team, or a share out of range.

    Example:
        >>> sees_nobody = torch.zeros(2, 13 * 13 * 5)
        >>> Charge(team="red", random=0.0).act(sees_nobody)
        tensor([8, 8])
    """

    team: str
    random: float = 0.3

    def __post_init__(self) -> None:
        check_choice("Charge.team", self.team, ("red", "blue"))
        keep(self, random=check_number("Charge.random", self.random, 0.0, 1.0))

    def __call__(self, context: StepContext) -> Tensor:
        """Return the actions of all agents, int64 (E, N)."""
        envs, agents, _ = context.seen.shape
        points = context.draws(f"charge {self.team}").uniform(agents * _POINTS)
        return self._choose(_view_of(context.seen), points.view(envs, agents, _POINTS))

    def act(self, obs: Tensor | ArrayLike, draws: torch.Generator | None = None) -> Tensor:
        """Return actions, int64 (...,).

        Args:
            obs: observations, (..., D), or images, (..., 13, 13, C).
            draws: where all that is random comes from; None is torch's global generator.

        Raises:
            ValueError: for observations of another game.
        """
        kind = torch.Generator | None
        check_kind("Charge.act.draws", draws, kind, "a torch.Generator, or None")
        view = _view_of(torch.as_tensor(obs))
        device = "cpu" if draws is None else draws.device
        points = torch.rand(*view.shape[:-2], _POINTS, generator=draws, device=device)
        return self._choose(view, points.to(view.device))

    def _choose(self, view: Tensor, points: Tensor) -> Tensor:
        """Return actions (...,) on views (..., 169, C), given uniform ``points`` (..., 5)."""
        chance, other, target_tie, move_tie, angle = points.unbind(-1)
        tables = _tables(view.device)
        enemies = view[..., (view.shape[-1] - 1) // 2 + 1] > 0.0
        far = tables.far[(target_tie * _TIES).long()].masked_fill(~enemies, math.inf)
        least, nearest = far.min(dim=-1)
        sees_enemy = least < math.inf
        to_the_right = self.team == "red"
        ahead = torch.stack([torch.ones_like(angle), torch.zeros_like(angle)], dim=-1)
        anywhere = torch.stack([torch.cos(angle * math.tau), torch.sin(angle * math.tau)], dim=-1)
        blocked = (view[..., _RIGHT if to_the_right else _LEFT, 0] > 0.0).any(dim=-1, keepdim=True)
        unseen = torch.where(blocked, anywhere, ahead if to_the_right else -ahead) * _SIGHT
        aim = torch.where(sees_enemy[..., None], tables.cells[nearest], unseen)
        left = (tables.moves - aim[..., None, :]).norm(dim=-1)
        left = left + tables.move_ties[(move_tie * _TIES).long()]
        hit = tables.action_at[nearest]
        chosen = torch.where(sees_enemy & (hit >= 0), hit, left.argmin(dim=-1))
        return torch.where(chance < self.random, (other * _NUM_ACTIONS).long(), chosen)


def _view_of(obs: Tensor) -> Tensor:
    """Return the views in observations, (..., 169, C)."""
    for channels, features in _CHANNELS.items():
        if obs.shape[-1] in {_CELLS * channels + beside for beside in features}:
            return obs[..., : _CELLS * channels].unflatten(-1, (_CELLS, channels))
        if obs.shape[-3:] in {(_EDGE, _EDGE, channels + beside) for beside in features}:
            return obs[..., :channels].flatten(-3, -2)
    rule = "of battle, (..., D) or (..., 13, 13, C)"
    raise ValueError(f"Charge.act.obs must be {rule}, got {tuple(obs.shape)}.")


class _Tables(NamedTuple):
    """What a view's cells mean.

    Attributes:
        cells: columns to the right and rows down, (169, 2).
        far: how far they are, with the chance that decides between equals, (T, 169).
        action_at: what hits them, -1 for nothing, (169,).
        moves: columns to the right and rows down, (13, 2).
        move_ties: the chance that decides between them, (T, 13).
    """

    cells: Tensor
    far: Tensor
    action_at: Tensor
    moves: Tensor
    move_ties: Tensor


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> _Tables:
    side = torch.arange(-_SIGHT, _SIGHT + 1)
    down, right = torch.meshgrid(side, side, indexing="ij")
    cells = torch.stack([right, down], dim=-1).reshape(_CELLS, 2).float()
    action_at = torch.full((_CELLS,), -1)
    for number, (right_by, down_by) in enumerate(_HITS, start=len(_MOVES)):
        action_at[(down_by + _SIGHT) * _EDGE + right_by + _SIGHT] = number
    ties = torch.rand(_TIES, _CELLS + len(_MOVES), generator=generator("charge"))
    tables = _Tables(
        cells=cells,
        far=cells.norm(dim=-1) + ties[:, :_CELLS] * _TARGET_SLACK,
        action_at=action_at,
        moves=torch.tensor(_MOVES, dtype=torch.float32),
        move_ties=ties[:, _CELLS:] * _MOVE_SLACK,
    )
    return _Tables(*(table.to(device) for table in tables))
