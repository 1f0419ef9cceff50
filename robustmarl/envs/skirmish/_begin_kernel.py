"""How episodes begin, once more, for numba to compile: ``formations`` and what goes with it.

As with the step's kernel, every bit comes out as there, and constants come as arguments. Of draws
it has what placing units needs: an episode's key, one stream of it, uniform numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, float32, from_dtype, int64, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["CHANCE", "begin"]

CHANCE = np.dtype(
    [
        *((name, np.int64) for name in ("golden", "first_factor", "second_factor", "stream")),
        *((name, np.float32) for name in ("jitter", "shift")),
    ],
    align=True,
)
"""Constants of the hash, the stream that places units, and how far it moves them, cells."""


@inner
def _finish(hashed: int, chance: Any) -> int:
    """``_seeding._finish``."""
    hashed = (hashed ^ ((hashed >> 30) & ((1 << 34) - 1))) * chance.first_factor
    hashed = (hashed ^ ((hashed >> 27) & ((1 << 37) - 1))) * chance.second_factor
    return hashed ^ ((hashed >> 31) & ((1 << 33) - 1))


@inner
def _drawn(key: int, number: int, chance: Any) -> np.float32:
    """Return a number in [-1, 1): of ``Draws.uniform``, twice, less one."""
    hashed = _finish(key + ((1 << 32) + number) * chance.golden, chance)
    uniform = float32((hashed >> 41) & ((1 << 23) - 1)) * float32(2.0**-23)
    return float32(2) * uniform - float32(1)


@entry(
    void(
        *(int64[::1], int64[::1], from_dtype(CHANCE)[::1]),
        *(float32[:, ::1], int64[:, ::1], int64[:, ::1]),
        *(float32[::1], int64[::1]),
        *(float32[:, ::1], int64[:, ::1], int64[:, ::1]),
        *(float32[:, ::1], boolean[::1], boolean[::1], float32[:, ::1]),
    )
)
def begin(
    rows: NDArray[np.int64],
    seeds: NDArray[np.int64],
    constants: NDArray[np.void],
    places: NDArray[np.float32],
    own: NDArray[np.int64],
    sides: NDArray[np.int64],
    first: NDArray[np.float32],
    first_target: NDArray[np.int64],
    packed: NDArray[np.float32],
    target: NDArray[np.int64],
    played: NDArray[np.int64],
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    metrics: NDArray[np.float32],
) -> None:
    """Begin battles, but for what agents see of them: ``SkirmishEngine._set_out``.

    Args:
        rows: which, int64 (R,).
        seeds: of the episodes of all, int64 (E,).
        constants: a record of ``CHANCE``, (1,).
        places: where units stand before chance moves them, (2, U).
        own: number of the draw that moves a unit, (2, U).
        sides: number of the draw that moves its side, (2, U).
        first: ``packed`` of one battle when it begins, but for the places, (7 U + 2,).
        first_target: whom units aim at, (U,).
        packed: of ``Battles``, (E, 7 U + 2) here.
        target: of it, (E, U) here.
        played: of it, where it is ``act``.
        rewards: of its ``out``, where it is ``rew_agents``.
        terminated: of its ``out``.
        truncated: of its ``out``.
        metrics: of its ``out``.
    """
    chance, units = constants[0], places.shape[1]
    stream = _finish(chance.stream, chance)
    for k in rows:
        key = _finish(_finish(seeds[k] + chance.golden, chance) + chance.golden, chance)
        key = _finish(key ^ stream, chance)
        for row in range(len(first)):
            packed[k, row] = first[row]
        for i in range(units):
            for axis in range(2):
                moved = chance.jitter * _drawn(key, own[axis, i], chance)
                moved += chance.shift * _drawn(key, sides[axis, i], chance)
                packed[k, axis * units + i] = places[axis, i] + moved
            target[k, i] = first_target[i]
        for i in range(played.shape[1]):
            played[k, i] = -1
            rewards[k, i] = 0
        terminated[k] = truncated[k] = False
        metrics[k, 0] = 0
