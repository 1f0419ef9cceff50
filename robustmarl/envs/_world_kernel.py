"""mpe2's worlds, one after another, for numba to compile: simple_spread, simple_tag, predator-prey.

What mpe2 does with an object per body is done here in loops over arrays of them, in its order of
operations, so that every bit comes out alike. Importing this module compiles it, or reads what was
compiled before. Constants of other modules come as arguments: imported ones would stay in the
compiled code after their values had changed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["FLAGS", "RULES", "TASKS", "TRAITS", "advance", "show"]

# Constants of bodies, rows of ``trait`` and of ``flag``.
RADIUS, ACCEL, FASTEST, MASS, TRAITS = range(5)
COLLIDES, GOOD, FLAGS = range(3)

SPREAD, TAG, PREY, TASKS = range(4)

# exp(x) is exactly 0.0 in double precision from here down: its smallest number is exp(-744.44)
_UNDERFLOW = -746.0

RULES = np.dtype(
    [
        *(
            (name, np.int64)
            for name in ("task", "policy", "agents", "horizon", "silence", "points")
        ),
        *((name, np.int64) for name in ("golden", "first_factor", "second_factor", "stream")),
        *((name, np.float64) for name in ("dt", "damping", "strength", "margin", "ratio", "sight")),
        *((name, np.float32) for name in ("low", "high")),
        *((name, np.bool_) for name in ("discrete", "implicit")),
    ],
    align=True,
)
"""What is the same for all bodies: of the task, of the hash, of the physics, of the actions."""


class World(NamedTuple):
    """What a step is worked out from and in, for one world after another.

    Attributes:
        rules: a record of ``RULES``.
        trait: constants of bodies, agents first, float64 (TRAITS, M).
        flag: the same, bool (FLAGS, M).
        directions: where prey can go, (K, 2).
        places: of bodies, (E, M, 2).
        velocity: of agents, (E, N, 2).
        keys: of episodes, from which follows what prey thinks of, (E,).
        steps: that were played, (E,).
        obs: what is written, as the engine's tensors are, float32 (E, P, D).
        state: likewise, (E, S).
        rewards: likewise, (E, P).
        metrics: likewise, (E, 1): whether prey was touched.
        truncated: likewise, bool (E,).
        force: on agents at the moment, (N, 2).
    """

    rules: Any
    trait: NDArray[np.float64]
    flag: NDArray[np.bool_]
    directions: NDArray[np.float64]
    places: NDArray[np.float64]
    velocity: NDArray[np.float64]
    keys: NDArray[np.int64]
    steps: NDArray[np.int64]
    obs: NDArray[np.float32]
    state: NDArray[np.float32]
    rewards: NDArray[np.float32]
    metrics: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    force: NDArray[np.float64]


@inner
def _away(x: float, y: float, other_x: float, other_y: float) -> float:
    dx, dy = x - other_x, y - other_y
    return math.sqrt(dx * dx + dy * dy)


@inner
def _apart(w: World, k: int, a: int, b: int) -> float:
    places = w.places
    return _away(places[k, a, 0], places[k, a, 1], places[k, b, 0], places[k, b, 1])


@inner
def _touch(w: World, k: int, a: int, b: int) -> bool:
    return _apart(w, k, a, b) < w.trait[RADIUS, a] + w.trait[RADIUS, b]


@inner
def _motor(w: World, unit: np.float32) -> Any:
    """``joint.boxes.in_box``."""
    rules, one = w.rules, float32(1)
    inside = min(max(unit, -one), one)
    found = rules.low + (inside + one) * float32(0.5) * (rules.high - rules.low)
    return min(max(found, rules.low), rules.high)


@inner
def _steer(w: World, k: int, moves: NDArray[np.int64], motors: NDArray[np.float32]) -> None:
    """``SimpleEnv._set_action``, and adding the noise of zero that turns -0.0 into 0.0."""
    for i in range(w.rules.policy):
        if w.rules.discrete:
            move = moves[k, i]
            x = float64(move == 2) - float64(move == 1)
            y = float64(move == 4) - float64(move == 3)
        elif motors.shape[2] == 2:
            x, y = float64(_motor(w, motors[k, i, 0])), float64(_motor(w, motors[k, i, 1]))
        else:  # none, left, right, down, up
            x = float64(float32(_motor(w, motors[k, i, 2]) - _motor(w, motors[k, i, 1])))
            y = float64(float32(_motor(w, motors[k, i, 4]) - _motor(w, motors[k, i, 3])))
        w.force[i, 0] = x * w.trait[ACCEL, i] + 0.0
        w.force[i, 1] = y * w.trait[ACCEL, i] + 0.0


@inner
def _finish(hashed: int, rules: Any) -> int:
    """``_seeding._finish``."""
    hashed = (hashed ^ ((hashed >> 30) & ((1 << 34) - 1))) * rules.first_factor
    hashed = (hashed ^ ((hashed >> 27) & ((1 << 37) - 1))) * rules.second_factor
    return hashed ^ ((hashed >> 31) & ((1 << 33) - 1))


@inner
def _uniform(key: int, number: int, rules: Any) -> float:
    """``Draws.uniform``."""
    hashed = _finish(key + ((1 << 32) + number) * rules.golden, rules)
    return float64((hashed >> 41) & ((1 << 23) - 1)) * 2.0**-23


@inner
def _flee(w: World, k: int) -> None:
    """``_prey.flights``."""
    rules, places = w.rules, w.places
    for prey in range(rules.policy, rules.agents):
        stream = rules.stream + prey - rules.policy
        key = _finish(w.keys[k] ^ _finish(w.steps[k] * rules.golden + stream, rules), rules)
        x, y = places[k, prey, 0], places[k, prey, 1]
        nearest = 0
        for i in range(1, rules.policy):
            if _apart(w, k, prey, i) < _apart(w, k, prey, nearest):
                nearest = i
        best, to_x, to_y = -1.0, 0.0, 0.0
        for point in range(rules.points):
            turn = int(_uniform(key, rules.points + point, rules) * len(w.directions))
            length = math.sqrt(_uniform(key, point, rules))
            way_x, way_y = length * w.directions[turn, 0], length * w.directions[turn, 1]
            there_x, there_y = way_x + x, way_y + y
            score = _away(places[k, nearest, 0], places[k, nearest, 1], there_x, there_y)
            if score > best:
                free = True
                for i in range(rules.policy):
                    away = _away(places[k, i, 0], places[k, i, 1], there_x, there_y)
                    free = free and away >= w.trait[RADIUS, i] + w.trait[RADIUS, prey]
                if free:
                    best, to_x, to_y = score, way_x, way_y
        w.force[prey, 0] = to_x * w.trait[ACCEL, prey] + 0.0
        w.force[prey, 1] = to_y * w.trait[ACCEL, prey] + 0.0


@inner
def _push(w: World, k: int) -> None:
    """``World.apply_environment_force``."""
    rules, places = w.rules, w.places
    for a in range(rules.agents):
        for b in range(a + 1, places.shape[1]):
            if not (w.flag[COLLIDES, a] and w.flag[COLLIDES, b]):
                continue
            away = _apart(w, k, a, b)
            depth = -(away - (w.trait[RADIUS, a] + w.trait[RADIUS, b])) / rules.margin
            if depth < _UNDERFLOW:
                continue
            # numpy's logaddexp of 0 and the depth
            if depth == 0.0:
                soft = math.log(2.0)
            elif depth < 0.0:
                soft = math.log1p(math.exp(depth))
            else:
                soft = depth + math.log1p(math.exp(-depth))
            soft *= rules.margin
            for axis in range(2):
                gap = places[k, a, axis] - places[k, b, axis]
                push = rules.strength * gap / away * soft
                w.force[a, axis] += push
                if b < rules.agents:
                    w.force[b, axis] -= push


@inner
def _move(w: World, k: int) -> None:
    """``World.integrate_state``, and the release's order where ``implicit``."""
    rules, velocity = w.rules, w.velocity
    for i in range(rules.agents):
        for axis in range(2):
            if not rules.implicit:
                w.places[k, i, axis] += velocity[k, i, axis] * rules.dt
            velocity[k, i, axis] *= 1 - rules.damping
            velocity[k, i, axis] += w.force[i, axis] / w.trait[MASS, i] * rules.dt
        x, y = velocity[k, i, 0], velocity[k, i, 1]
        speed = math.sqrt(x * x + y * y)
        if speed > w.trait[FASTEST, i]:
            velocity[k, i, 0] = x / speed * w.trait[FASTEST, i]
            velocity[k, i, 1] = y / speed * w.trait[FASTEST, i]
        if rules.implicit:
            for axis in range(2):
                w.places[k, i, axis] += velocity[k, i, axis] * rules.dt


@inner
def _cover(w: World, k: int) -> None:
    """The rewards of simple_spread."""
    rules, shared = w.rules, 0.0
    for mark in range(rules.agents, w.places.shape[1]):
        nearest = math.inf
        for i in range(rules.agents):
            nearest = min(nearest, _apart(w, k, i, mark))
        shared -= nearest
    for i in range(rules.agents):
        collisions = 0
        for j in range(rules.agents):
            collisions += j != i and _touch(w, k, i, j)
        w.rewards[k, i] = shared * (1 - rules.ratio) + (0.0 - collisions) * rules.ratio


@inner
def _outside(x: float) -> float:
    """What prey of simple_tag pays for a coordinate."""
    x = abs(x)
    if x < 0.9:
        return 0.0
    return (x - 0.9) * 10 if x < 1.0 else min(math.exp(2 * x - 2), 10.0)


@inner
def _chase(w: World, k: int) -> None:
    """The rewards of simple_tag and of predator-prey."""
    rules, contacts = w.rules, 0
    for i in range(rules.agents):
        if not w.flag[GOOD, i]:
            continue
        own = 0
        for j in range(rules.agents):
            own += not w.flag[GOOD, j] and _touch(w, k, i, j)
        contacts += own
        if rules.task == TAG:
            paid = -10.0 * own - _outside(w.places[k, i, 0]) - _outside(w.places[k, i, 1])
            w.rewards[k, i] = paid
    for i in range(rules.policy):
        if not w.flag[GOOD, i]:
            w.rewards[k, i] = 10.0 * contacts
    if contacts > 0:
        w.metrics[k, 0] = 1


@inner
def _look(w: World, k: int) -> None:
    """Write what agents observe, and all of it in a row as the state."""
    rules, places, first = w.rules, w.places, 0
    for i in range(rules.policy):
        seen = w.obs[k, i]
        for axis in range(2):
            seen[axis], seen[2 + axis] = w.velocity[k, i, axis], places[k, i, axis]
        size, bodies = 4, places.shape[1]
        for part in range(bodies):
            other = (part + rules.agents) % bodies  # obstacles, then agents
            if other == i:
                continue
            hidden = _apart(w, k, other, i) > rules.sight
            for axis in range(2):
                gap = places[k, other, axis] - places[k, i, axis]
                seen[size + axis] = 0.0 if hidden else gap
            size += 2
        if rules.task != SPREAD:
            for other in range(rules.agents):
                if other == i or not w.flag[GOOD, other]:
                    continue
                hidden = _apart(w, k, other, i) > rules.sight
                for axis in range(2):
                    seen[size + axis] = 0.0 if hidden else w.velocity[k, other, axis]
                size += 2
        size += rules.silence
        for number in range(size):
            w.state[k, first + number] = seen[number]
        first += size


_numbers, _doubles, _floats = int64[::1], float64[:, ::1], float32[:, ::1]
_moves, _motors = int64[:, ::1], float32[:, :, ::1]
_world = types.Tuple(  # of what a World is made of, its rules as an array (1,)
    [
        *(from_dtype(RULES)[::1], _doubles, boolean[:, ::1], _doubles),
        *(float64[:, :, ::1], float64[:, :, ::1], _numbers, _numbers),
        *(_motors, _floats, _floats, _floats, boolean[::1], _doubles),
    ]
)


@entry(void(_numbers, _world))
def show(rows: NDArray[np.int64], world: tuple[Any, ...]) -> None:
    """Write what agents see in the worlds ``rows``, int64 (R,)."""
    w = World(world[0][0], *world[1:])
    for k in rows:
        _look(w, k)


@entry(int64(_numbers, _moves, _motors, _world))
def advance(
    rows: NDArray[np.int64],
    moves: NDArray[np.int64],
    motors: NDArray[np.float32],
    world: tuple[Any, ...],
) -> int:
    """Step worlds; return the first whose actions are no such, where nothing is done, else -1.

    Args:
        rows: which, int64 (R,).
        moves: the actions of all, int64 (E, P), where they are discrete, else empty.
        motors: the actions of all in [-1, 1], float32 (E, P, 2) or (E, P, 5), else empty.
        world: what a :class:`World` is made of, its rules as an array (1,).
    """
    w = World(world[0][0], *world[1:])
    for k in rows:
        for i in range(w.rules.policy):
            if w.rules.discrete and not 0 <= moves[k, i] < 5:
                return k
            for motor in range(motors.shape[2]):
                if math.isnan(motors[k, i, motor]):
                    return k
    for k in rows:
        _steer(w, k, moves, motors)
        if w.rules.task == PREY:
            _flee(w, k)
        _push(w, k)
        _move(w, k)
        if w.rules.task == SPREAD:
            _cover(w, k)
        else:
            _chase(w, k)
        w.steps[k] += 1
        w.truncated[k] = w.steps[k] >= w.rules.horizon
        _look(w, k)
    return -1
