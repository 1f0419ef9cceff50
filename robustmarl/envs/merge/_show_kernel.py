"""What cars earn and what agents see of them, episode by episode, for numba to compile.

``rules.car_reward`` and ``_world`` say what that is; this says the same in loops, so that it comes
out alike. As in the kernel that drives, constants of other modules come as arguments.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["RULES", "show"]

# Columns of cars, lanes and the lanes by number, as in the kernel that drives.
X, Y, HEADING, SPEED = range(4)
ON, _, CRASHED = range(3)
START_X = 0
MAIN, BESIDE, MERGE, AFTER, RAMP, BEND = range(6)

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("agents", "horizon", "seen", "features")),
        *((name, np.float64) for name in ("scale_x", "scale_y", "scale_vx", "scale_vy")),
        *((name, np.float64) for name in ("perception", "crash", "slow", "fast", "merge", "end")),
        *((name, np.float64) for name in ("spread", "headway", "limit", "time")),
    ],
    align=True,
)
"""What is seen, and what driving is worth: what ``rules`` says, in its units."""


class View(NamedTuple):
    """What is shown, and of what, for one episode after another.

    Attributes:
        rules: a record of ``RULES``.
        lanes: of the road, float64 (LANES, LANE).
        car: see ``Drive``, as for ``whole`` and ``number``.
        order: cars that one sees, and how far they are, (M,) each.
        far: likewise.
        obs: what is written, as are ``state``, ``rewards`` (there ``rew_agents``), ``mask``,
            ``alive``, ``terminated``, ``truncated`` and ``metrics``.
    """

    rules: Any
    lanes: NDArray[np.float64]
    car: NDArray[np.float64]
    whole: NDArray[np.int64]
    number: NDArray[np.int64]
    order: NDArray[np.int64]
    far: NDArray[np.float64]
    obs: NDArray[np.float32]
    state: NDArray[np.float32]
    rewards: NDArray[np.float32]
    mask: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    metrics: NDArray[np.float32]


@inner
def _headway(v: View, e: int, i: int) -> float:
    """``MergeWorld.headway``."""
    lane = v.whole[e, i, ON]
    following = lane
    if lane == MAIN:
        following = BESIDE
    elif lane == BESIDE:
        following = AFTER
    elif lane == RAMP:
        following = BEND
    elif lane == BEND:
        following = MERGE
    gap = v.rules.limit
    for j in range(v.number[e, 0]):
        ahead = v.car[e, j, X] - v.car[e, i, X]
        if 0.0 < ahead < gap:
            on = v.whole[e, j, ON]
            if on == lane or on == following:  # noqa: SIM109 - there is no tuple in a kernel
                gap = ahead
    return gap


@inner
def _earned(v: View, e: int, i: int) -> float:
    """``rules.car_reward``."""
    rules, speed = v.rules, v.car[e, i, SPEED]
    reward = min(max((speed - rules.slow) / (rules.fast - rules.slow), 0.0), 1.0)
    if v.whole[e, i, CRASHED]:
        reward -= rules.crash
    if v.whole[e, i, ON] == MERGE:
        to_end = v.car[e, i, X] - rules.end
        reward -= rules.merge * math.exp(-(to_end * to_end) / rules.spread)
    if speed > 0.0:
        late = math.log(_headway(v, e, i) / (rules.time * speed))
        reward += rules.headway * min(0.0, late)
    return reward


@inner
def _observe(v: View, e: int) -> None:
    """``TeamKinematics.observe``."""
    rules, cars = v.rules, v.number[e, 0]
    for i in range(rules.agents):
        seen = 0
        for j in range(cars):
            dx, dy = v.car[e, j, X] - v.car[e, i, X], v.car[e, j, Y] - v.car[e, i, Y]
            if j == i or not math.sqrt(dx * dx + dy * dy) < rules.perception:
                continue
            start = v.lanes[v.whole[e, i, ON], START_X]
            far = abs((v.car[e, j, X] - start) - (v.car[e, i, X] - start))
            k = seen
            while k > 0 and v.far[k - 1] > far:
                v.far[k], v.order[k] = v.far[k - 1], v.order[k - 1]
                k -= 1
            v.far[k], v.order[k] = far, j
            seen += 1
        for row in range(rules.seen):
            at = row * rules.features
            if row > seen:
                for k in range(rules.features):
                    v.obs[e, i, at + k] = 0.0
                continue
            j = i if row == 0 else v.order[row - 1]
            x, y, speed = v.car[e, j, X], v.car[e, j, Y], v.car[e, j, SPEED]
            vx, vy = speed * math.cos(v.car[e, j, HEADING]), speed * math.sin(v.car[e, j, HEADING])
            if row > 0:
                own, heading = v.car[e, i, SPEED], v.car[e, i, HEADING]
                x, y = x - v.car[e, i, X], y - v.car[e, i, Y]
                vx, vy = vx - own * math.cos(heading), vy - own * math.sin(heading)
            v.obs[e, i, at] = 1.0
            v.obs[e, i, at + 1] = x / rules.scale_x
            v.obs[e, i, at + 2] = y / rules.scale_y
            v.obs[e, i, at + 3] = vx / rules.scale_vx
            v.obs[e, i, at + 4] = vy / rules.scale_vy
        size = rules.seen * rules.features
        for k in range(size):
            v.state[e, i * size + k] = v.obs[e, i, k]


@inner
def _judge(v: View, e: int) -> None:
    """Write what the team earned, and whether and how the episode ended."""
    rules, total, crashed, merged = v.rules, 0.0, False, True
    for i in range(rules.agents):
        total += _earned(v, e, i)
        crashed = crashed or v.whole[e, i, CRASHED] > 0
        on = v.whole[e, i, ON]
        merged = merged and on != MERGE and on < RAMP
    for i in range(rules.agents):
        v.rewards[e, i] = total / rules.agents
        v.alive[e, i] = not crashed
        for action in range(1, v.mask.shape[2]):  # after an end there is nothing but the no-op
            v.mask[e, i, action] = not crashed
    v.terminated[e] = crashed
    v.truncated[e] = not crashed and v.number[e, 1] >= rules.horizon
    v.metrics[e, 0] = 1.0 if merged and not crashed else 0.0
    v.metrics[e, 1] = 1.0 if crashed else 0.0


_tables = types.Tuple(  # of what a View is made of, its rules as an array (1,)
    [
        *(from_dtype(RULES)[::1], float64[:, ::1]),
        *(float64[:, :, ::1], int64[:, :, ::1], int64[:, ::1]),
        *(int64[::1], float64[::1]),
        *(float32[:, :, ::1], float32[:, ::1], float32[:, ::1]),
        *(boolean[:, :, ::1], boolean[:, ::1]),
        *(boolean[::1], boolean[::1], float32[:, ::1]),
    ]
)


@entry(void(int64[::1], boolean, _tables))
def show(rows: NDArray[np.int64], judges: bool, tables: tuple[Any, ...]) -> None:
    """Write what agents see and, of a step that was made, what it earned and whether it ended.

    Args:
        rows: of which episodes, int64 (R,).
        judges: whether there was a step.
        tables: what a :class:`View` is made of, its rules as an array (1,).
    """
    v = View(tables[0][0], *tables[1:])
    for e in rows:
        if judges:
            _judge(v, e)
        _observe(v, e)
