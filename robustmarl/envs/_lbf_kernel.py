"""lbforaging's games, one after another, for numba to compile.

What lbforaging does with an object per player is done here in loops over arrays of them. Importing
this module compiles it, or reads what was compiled before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["RULES", "advance", "show"]

NONE, NORTH, SOUTH, WEST, EAST, LOAD, ACTIONS = range(7)

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("sight", "horizon", "foods")),
        ("penalty", np.float64),
        *((name, np.bool_) for name in ("normalize", "levels", "grid", "share", "masked")),
    ],
    align=True,
)
"""What is the same for all games."""


class Games(NamedTuple):
    """What is played, and what is written of it; E games of N players on a field of R x C.

    Attributes:
        rules: a record of ``RULES``.
        field: levels of food, 0 where there is none, int64 (E, R, C).
        place: of players, (E, N, 2).
        level: of players, (E, N).
        spawned: levels of all food of an episode together, (E,).
        steps: that were played, (E,).
        obs: float32 (E, N, D).
        state: float32 (E, N D).
        mask: bool (E, N, ACTIONS).
        alive: bool (E, N).
        reward: float32 (E, N).
        success: float32 (E, 1).
        terminated: bool (E,).
        truncated: bool (E,).
        target: where players want to be; scratch, (N, 2).
        loading: whether they load; scratch, bool (N,).
        gain: what they earn; scratch, float64 (N,).
    """

    rules: Any  # a record has no type for its fields
    field: NDArray[np.int64]
    place: NDArray[np.int64]
    level: NDArray[np.int64]
    spawned: NDArray[np.int64]
    steps: NDArray[np.int64]
    obs: NDArray[np.float32]
    state: NDArray[np.float32]
    mask: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    reward: NDArray[np.float32]
    success: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    target: NDArray[np.int64]
    loading: NDArray[np.bool_]
    gain: NDArray[np.float64]


_GAMES = types.NamedTuple(
    (
        from_dtype(RULES),
        int64[:, :, ::1],
        int64[:, :, ::1],
        int64[:, ::1],
        int64[::1],
        int64[::1],
        float32[:, :, ::1],
        float32[:, ::1],
        boolean[:, :, ::1],
        boolean[:, ::1],
        float32[:, ::1],
        float32[:, ::1],
        boolean[::1],
        boolean[::1],
        int64[:, ::1],
        boolean[::1],
        float64[::1],
    ),
    Games,
)


@inner
def _food(games: Games, e: int, row: int, col: int) -> int:
    """Return the level of food in a cell, -1 for one that is outside."""
    field = games.field
    if row < 0 or col < 0 or row >= field.shape[1] or col >= field.shape[2]:
        return -1
    return field[e, row, col]


@inner
def _can(games: Games, e: int, player: int, action: int) -> bool:
    """Return whether an action does something: others may be in the way, walls and food not."""
    row, col = games.place[e, player, 0], games.place[e, player, 1]
    if action == NONE:
        return True
    if action == NORTH:
        return _food(games, e, row - 1, col) == 0
    if action == SOUTH:
        return _food(games, e, row + 1, col) == 0
    if action == WEST:
        return _food(games, e, row, col - 1) == 0
    if action == EAST:
        return _food(games, e, row, col + 1) == 0
    return (
        _food(games, e, row - 1, col) > 0
        or _food(games, e, row + 1, col) > 0
        or _food(games, e, row, col - 1) > 0
        or _food(games, e, row, col + 1) > 0
    )


@inner
def _move(games: Games, e: int, act: NDArray[np.int64]) -> None:
    """Move players whose cell nobody else wants; note who loads."""
    place, target = games.place[e], games.target
    for i in range(len(place)):
        action = act[i]
        if not _can(games, e, i, action):
            action = NONE
        target[i, 0] = place[i, 0] + (action == SOUTH) - (action == NORTH)
        target[i, 1] = place[i, 1] + (action == EAST) - (action == WEST)
        games.loading[i] = action == LOAD
    for i in range(len(place)):
        free = True
        for j in range(len(place)):
            same = target[i, 0] == target[j, 0] and target[i, 1] == target[j, 1]
            if games.rules.share:  # the first that would enter a cell does, whoever is there
                stays = target[j, 0] == place[j, 0] and target[j, 1] == place[j, 1]
                free = free and not (same and j < i and not stays)
            else:
                free = free and not (same and j != i)
        games.gain[i] = free
    for i in range(len(place)):
        if games.gain[i]:
            place[i, 0], place[i, 1] = target[i, 0], target[i, 1]


@inner
def _load(games: Games, e: int) -> None:
    """Let those beside food who load together take it, if they are strong enough."""
    place, level, field = games.place[e], games.level[e], games.field[e]
    for i in range(len(place)):
        games.gain[i] = 0.0
    for i in range(len(place)):
        if not games.loading[i]:
            continue
        # Food has no other food around it: a player is beside one piece at most.
        row, col = place[i, 0], place[i, 1]
        if _food(games, e, row - 1, col) > 0:
            row -= 1
        elif _food(games, e, row + 1, col) > 0:
            row += 1
        elif _food(games, e, row, col - 1) > 0:
            col -= 1
        else:
            col += 1
        strength = 0
        for j in range(len(place)):
            if games.loading[j] and abs(place[j, 0] - row) + abs(place[j, 1] - col) == 1:
                strength += level[j]
        food = field[row, col]
        for j in range(len(place)):
            if games.loading[j] and abs(place[j, 0] - row) + abs(place[j, 1] - col) == 1:
                games.loading[j] = False
                if strength < food:
                    games.gain[j] -= games.rules.penalty
                else:
                    games.gain[j] = float(level[j] * food)
                    if games.rules.normalize:
                        games.gain[j] /= float(strength * games.spawned[e])
        if strength >= food:
            field[row, col] = 0


@inner
def _vectors(games: Games, e: int) -> None:
    """Write observations as coordinates, from the corner of what one sees."""
    place, level, field, rules = games.place[e], games.level[e], games.field[e], games.rules
    sight, size = rules.sight, 3 if rules.levels else 2
    for i in range(len(place)):
        obs = games.obs[e, i]
        row, col = place[i, 0], place[i, 1]
        top, left = max(row - sight, 0), max(col - sight, 0)
        k = 0
        for r in range(top, min(row + sight + 1, field.shape[0])):
            for c in range(left, min(col + sight + 1, field.shape[1])):
                if field[r, c] > 0:
                    obs[k], obs[k + 1], obs[k + 2] = r - top, c - left, field[r, c]
                    k += 3
        while k < 3 * rules.foods:
            obs[k], obs[k + 1], obs[k + 2] = -1, -1, 0
            k += 3
        obs[k], obs[k + 1] = row - top, col - left
        if rules.levels:
            obs[k + 2] = level[i]
        k += size
        for j in range(len(place)):
            down, across = place[j, 0] - top, place[j, 1] - left
            if j != i and 0 <= down <= 2 * sight and 0 <= across <= 2 * sight:
                obs[k], obs[k + 1] = down, across
                if rules.levels:
                    obs[k + 2] = level[j]
                k += size
        while k < len(obs):
            obs[k], obs[k + 1] = -1, -1
            if rules.levels:
                obs[k + 2] = 0
            k += size


@inner
def _grids(games: Games, e: int) -> None:
    """Write observations as three layers around each player: players, food, free cells."""
    place, level, sight = games.place[e], games.level[e], games.rules.sight
    span = 2 * sight + 1
    cells = span * span
    for i in range(len(place)):
        obs = games.obs[e, i]
        for r in range(span):
            for c in range(span):
                food = _food(games, e, place[i, 0] + r - sight, place[i, 1] + c - sight)
                k = r * span + c
                obs[k], obs[cells + k], obs[2 * cells + k] = 0, max(food, 0), food == 0
        for j in range(len(place)):  # of those in one cell the last is seen
            r, c = place[j, 0] - place[i, 0] + sight, place[j, 1] - place[i, 1] + sight
            if 0 <= r < span and 0 <= c < span:
                obs[r * span + c] = level[j] if games.rules.levels else 1
                obs[2 * cells + r * span + c] = 0


@inner
def _write(games: Games, e: int) -> None:
    """Write what is seen, and what can be done."""
    if games.rules.grid:
        _grids(games, e)
    else:
        _vectors(games, e)
    players, size = games.obs.shape[1], games.obs.shape[2]
    over = games.terminated[e]
    for i in range(players):
        games.alive[e, i] = not over
        for action in range(ACTIONS):
            if over:
                games.mask[e, i, action] = action == NONE
            else:
                games.mask[e, i, action] = not games.rules.masked or _can(games, e, i, action)
        for k in range(size):
            games.state[e, i * size + k] = games.obs[e, i, k]


@entry(void(int64[::1], _GAMES))
def show(rows: NDArray[np.int64], games: Games) -> None:
    """Write how the games ``rows`` begin."""
    for e in rows:
        games.steps[e] = 0
        games.success[e, 0] = 0.0
        games.terminated[e] = games.truncated[e] = False
        for i in range(games.reward.shape[1]):
            games.reward[e, i] = 0.0
        _write(games, e)


@entry(void(int64[::1], int64[:, ::1], _GAMES))
def advance(rows: NDArray[np.int64], act: NDArray[np.int64], games: Games) -> None:
    """Step the games ``rows``, each with its row of ``act``, (E, N)."""
    for e in rows:
        _move(games, e, act[e])
        _load(games, e)
        games.steps[e] += 1
        left = 0
        for r in range(games.field.shape[1]):
            for c in range(games.field.shape[2]):
                left += games.field[e, r, c]
        games.terminated[e] = left == 0
        games.truncated[e] = left > 0 and games.steps[e] >= games.rules.horizon
        games.success[e, 0] = left == 0
        for i in range(games.reward.shape[1]):
            games.reward[e, i] = games.gain[i]
        _write(games, e)
