"""What agents see, once more, battle by battle, for numba to compile: all that ``encoder`` writes.

As with the step's kernel, every bit comes out as there, and constants come as arguments.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["NOW", "NUMBERS", "RULES", "TRAITS", "show"]

# Constants of every unit, rows of ``trait`` and of ``number``.
FULL_HEALTH, FULL_SHIELD, MAX_COOLDOWN, TRAITS = range(4)
TYPE, HEALER, NUMBERS = range(3)

# What units are at the moment: rows of ``now``, those of ``Battles.packed``.
X, Y, HEALTH, SHIELD, WAIT, CALM, ENERGY, NOW = range(8)

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("n", "types", "ally_shield", "enemy_shield")),
        *((name, np.int64) for name in ("actions", "no_op", "stop", "north", "attack")),
        *((name, np.float32) for name in ("low_x", "low_y", "high_x", "high_y")),
        *((name, np.float32) for name in ("centre_x", "centre_y", "width", "height")),
        *((name, np.float32) for name in ("sight", "sight_squared", "range_squared")),
    ],
    align=True,
)
"""What is the same for all units: of the rules and of a map."""


class View(NamedTuple):
    """What is shown of one battle after another, and what of it is shown.

    Attributes:
        rules: a record of ``RULES``.
        trait: constants of units, float32 (TRAITS, U).
        number: the same, int64 (NUMBERS, U).
        packed: of ``Battles``, (E, 7 U + 2) here, as are ``played`` (there ``act``), ``over``
            (there ``terminated``), and what is written, ``obs``, ``mask``, ``state``, ``alive``.
        now: what units are at the moment, float32 (NOW, U).
    """

    rules: Any
    trait: NDArray[np.float32]
    number: NDArray[np.int64]
    packed: NDArray[np.float32]
    played: NDArray[np.int64]
    over: NDArray[np.bool_]
    obs: NDArray[np.float32]
    mask: NDArray[np.bool_]
    state: NDArray[np.float32]
    alive: NDArray[np.bool_]
    now: NDArray[np.float32]


@inner
def _show_masks(v: View, k: int) -> None:
    """What agents can do: ``Encoder._write_moves``, and a part of ``_write_pairs``."""
    rules, now, mask, n = v.rules, v.now, v.mask, v.rules.n
    for i in range(n):
        lives, heals = now[HEALTH, i] > 0, v.number[HEALER, i] > 0
        v.alive[k, i] = lives
        mask[k, i, rules.no_op] = not lives
        mask[k, i, rules.stop] = lives
        mask[k, i, rules.north] = lives and now[Y, i] < rules.high_y
        mask[k, i, rules.north + 1] = lives and now[Y, i] >= rules.low_y
        mask[k, i, rules.north + 2] = lives and now[X, i] < rules.high_x
        mask[k, i, rules.north + 3] = lives and now[X, i] >= rules.low_x
        first, end = (0, n) if heals else (n, now.shape[1])
        for j in range(first, end):
            gap_x, gap_y = now[X, j] - now[X, i], now[Y, j] - now[Y, i]
            near = gap_x * gap_x + gap_y * gap_y <= rules.range_squared
            mask[k, i, rules.attack + j - first] = near and not (heals and v.number[HEALER, j])
        for action in range(rules.attack + end - first, rules.actions):
            mask[k, i, action] = False


@inner
def _show_other(v: View, k: int, i: int, j: int, first: bool, place: int) -> int:
    """Write what agent ``i`` sees of unit ``j`` from ``place`` on; return where that ends."""
    rules, now, obs = v.rules, v.now, v.obs
    gap_x, gap_y = now[X, j] - now[X, i], now[Y, j] - now[Y, i]
    squared = gap_x * gap_x + gap_y * gap_y
    if squared < rules.sight_squared:
        obs[k, i, place] = float32(first)
        obs[k, i, place + 1] = math.sqrt(squared) / rules.sight
        obs[k, i, place + 2] = gap_x / rules.sight
        obs[k, i, place + 3] = gap_y / rules.sight
        obs[k, i, place + 4] = now[HEALTH, j] / v.trait[FULL_HEALTH, j]
    else:  # the encoder multiplies by 0, which keeps a sign
        obs[k, i, place] = obs[k, i, place + 1] = obs[k, i, place + 4] = 0
        obs[k, i, place + 2] = gap_x * float32(0)
        obs[k, i, place + 3] = gap_y * float32(0)
    place += 5
    seen = squared < rules.sight_squared
    if rules.ally_shield if j < rules.n else rules.enemy_shield:
        obs[k, i, place] = now[SHIELD, j] / v.trait[FULL_SHIELD, j] * float32(seen)
        place += 1
    for kind in range(rules.types):
        obs[k, i, place + kind] = float32(seen and kind == v.number[TYPE, j])
    return place + rules.types


@inner
def _show_obs(v: View, k: int) -> None:
    """``Encoder._write_pairs``, and what an agent sees of itself."""
    rules, now, obs, n = v.rules, v.now, v.obs, v.rules.n
    for i in range(n):
        place = rules.attack - rules.north
        for way in range(place):
            obs[k, i, way] = float32(v.mask[k, i, rules.north + way])
        for j in range(n, now.shape[1]):
            place = _show_other(v, k, i, j, v.mask[k, i, rules.attack + j - n], place)
        for j in range(n):
            if j != i:
                place = _show_other(v, k, i, j, True, place)
        lives = now[HEALTH, i] > 0
        obs[k, i, place] = now[HEALTH, i] / v.trait[FULL_HEALTH, i]
        place += 1
        if rules.ally_shield:
            obs[k, i, place] = now[SHIELD, i] / v.trait[FULL_SHIELD, i]
            place += 1
        for kind in range(rules.types):
            obs[k, i, place + kind] = float32(lives and kind == v.number[TYPE, i])


@inner
def _show_state(v: View, k: int) -> None:
    """``Encoder._write_units``, and the last actions."""
    rules, now, state, place = v.rules, v.now, v.state, 0
    for i in range(now.shape[1]):
        lives = now[HEALTH, i] > 0
        factor = float32(lives)
        state[k, place] = now[HEALTH, i] / v.trait[FULL_HEALTH, i]
        place += 1
        if i < rules.n:
            waits = now[ENERGY, i] if v.number[HEALER, i] else now[WAIT, i]
            state[k, place] = waits / v.trait[MAX_COOLDOWN, i] * factor
            place += 1
        state[k, place] = (now[X, i] - rules.centre_x) / rules.width * factor
        state[k, place + 1] = (now[Y, i] - rules.centre_y) / rules.height * factor
        place += 2
        if rules.ally_shield if i < rules.n else rules.enemy_shield:
            state[k, place] = now[SHIELD, i] / v.trait[FULL_SHIELD, i]
            place += 1
        for kind in range(rules.types):
            state[k, place + kind] = float32(lives and kind == v.number[TYPE, i])
        place += rules.types
    for i in range(rules.n):
        for action in range(rules.actions):
            state[k, place + action] = float32(action == v.played[k, i])
        place += rules.actions


@inner
def _send_off(v: View, k: int) -> None:
    """``Referee.send_off``."""
    for i in range(v.rules.n):
        v.alive[k, i] = False
        for action in range(v.rules.actions):
            v.mask[k, i, action] = action == v.rules.no_op


_floats = float32[:, ::1]
_view = types.Tuple(  # of what a View is made of, its rules as an array (1,)
    [
        *(from_dtype(RULES)[::1], _floats, int64[:, ::1]),
        *(_floats, int64[:, ::1], boolean[::1]),
        *(float32[:, :, ::1], boolean[:, :, ::1], _floats, boolean[:, ::1]),
        _floats,
    ]
)


@entry(void(int64[::1], _view))
def show(rows: NDArray[np.int64], view: tuple[Any, ...]) -> None:
    """Write observations, masks and states of battles: ``Encoder.write``, ``Referee.send_off``.

    Args:
        rows: of which, int64 (R,).
        view: what a :class:`View` is made of, its rules as an array (1,).
    """
    v = View(view[0][0], *view[1:])
    units = v.now.shape[1]
    for k in rows:
        for i in range(units):
            for row in range(NOW):
                v.now[row, i] = v.packed[k, row * units + i]
        _show_masks(v, k)
        _show_obs(v, k)
        _show_state(v, k)
        if v.over[k]:
            _send_off(v, k)
