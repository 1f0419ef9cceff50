"""Where units start: in columns, short weapons in front, a little elsewhere in every episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustmarl._seeding import Draws, episode_keys, stream_id
from robustmarl.envs.skirmish._ops import Array, Ops
from robustmarl.envs.skirmish.units import UnitType

if TYPE_CHECKING:  # which asks whether its formations fit
    from robustmarl.envs.skirmish.maps import SkirmishMap

__all__ = ["JITTER", "SHIFT", "SPAWN", "Formation", "columns"]

# All ours. GAP less twice JITTER leaves 0.1 cells between neighbours, so that nobody starts
# inside another; SHIFT lets the way between the sides differ from episode to episode.
_ROWS = 6  # most units in a column
_GAP = 0.5  # cells between the edges of two neighbours
JITTER = 0.2  # cells by which a unit starts elsewhere at most
SHIFT = 0.5  # cells by which a whole side does

SPAWN = stream_id("spawn")


class Formation:
    """Where the U units of a map stand at first, allies before enemies.

    Args:
        game: the map.
        ops: numpy's or torch's operations.
        device: where the seeds are.

    Attributes:
        places: before chance moves anybody, cells, (2, U, 1).
        own: number of the draw that moves each unit in x and y, int64 (2, U).
        sides: number of the draw that moves its side, int64 (2, U).
    """

    def __init__(self, game: SkirmishMap, ops: Ops, device: torch.device) -> None:
        self._ops = ops
        both = [
            *columns(game.ally_units, game.ally_start, facing=1),
            *columns(game.enemy_units, game.enemy_start, facing=-1),
        ]
        places = [place for column in both for place in column]
        self.places = ops.array(np.array(places).T[:, :, None])
        # Draws are for x of each column (there are at most as many as units), y of each unit, x
        # and y of each side. A column's units share their x, so that they stay sorted by x and y.
        count, allies = len(places), len(game.ally_units)
        numbers = [number for number, column in enumerate(both) for _ in column]
        side = 2 * count + 2 * (np.arange(count) >= allies)
        self.own = ops.array([numbers, range(count, 2 * count)], "int64")
        self.sides = ops.array([side, side + 1], "int64")
        self._num_draws = 2 * count + 4
        self._begins = torch.tensor(0, device=device)  # the step at which units are placed

    def start(self, seeds: Tensor) -> Array:
        """Return where units start in the episodes of seeds (E,), cells, float32 (2, U, E)."""
        draws = Draws(episode_keys(seeds, 0)).at(self._begins, SPAWN).uniform(self._num_draws)
        chance = 2.0 * self._ops.bring(draws).T - 1.0
        return self.places + (JITTER * chance[self.own] + SHIFT * chance[self.sides])


def columns(
    units: Sequence[UnitType], middle: tuple[float, float], facing: int
) -> list[list[tuple[float, float]]]:
    """Return the places (x, y) of one side, column by column.

    Types come in the order of ``units``, and the units of a type sorted by x, then y, as SMAC
    numbers them. ``facing`` is 1 for a side that looks east, else -1.
    """
    x, y = middle
    kinds = list(dict.fromkeys(units))
    depths: dict[UnitType, list[float]] = {}  # of each column, from the front
    depth = 0.0
    for kind in sorted(kinds, key=lambda kind: (kind.range, kind.heal > 0)):
        spacing = 2 * kind.radius + _GAP
        count = math.ceil(units.count(kind) / _ROWS)
        depths[kind] = [depth + spacing * (i + 0.5) for i in range(count)]
        depth += spacing * count
    found = []
    for kind in kinds:
        spacing = 2 * kind.radius + _GAP
        east = sorted(x + facing * (depth / 2 - behind) for behind in depths[kind])
        left = units.count(kind)
        for i, column in enumerate(east):
            size = math.ceil(left / (len(east) - i))
            left -= size
            found.append([(column, y + (r - (size - 1) / 2) * spacing) for r in range(size)])
    return found
