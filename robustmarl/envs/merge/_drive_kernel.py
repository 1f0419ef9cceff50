"""highway-env's cars once more, episode by episode, for numba to compile.

What is computed, and in which order, is what highway-env 1.12 computes in its own methods, whose
names stand here; where no branch can be taken on this road it is left out. Importing this module
compiles it, or reads what was compiled before.

Constants of other modules come as arguments: imported ones would stay in the compiled code after
their values had changed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float64, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["CAR", "DRIVEN", "LANE", "RULES", "advance", "begin"]

# Columns of cars, real and whole numbers, and of lanes; rows of what is worked out in a step.
X, Y, HEADING, SPEED, TARGET_SPEED, TIMER, PUSH_X, PUSH_Y, CAR = range(9)
ON, TOWARDS, CRASHED, PUSHED, DRIVEN = range(5)
START_X, START_Y, LENGTH, AMPLITUDE, PULSATION, PHASE, LANE = range(7)
STEERING, ACCELERATION = range(2)

# Lanes, in the order of ``rules.LANES``, and what follows each where a driver follows the road.
MAIN, BESIDE, MERGE, AFTER, RAMP, BEND, LANES = range(7)

# Vehicle and RoadObject: sizes, m, and the highest speed, m/s.
CAR_LENGTH, CAR_WIDTH, BLOCK_LENGTH, BLOCK_WIDTH = 5.0, 2.0, 2.0, 2.0
MAX_SPEED = 40.0
# AbstractLane: width, and the length by which lanes overlap, m.
WIDTH, OVERLAP = 4.0, 5.0
# ControlledVehicle: gains, 1/s, the time it looks ahead, s, and limits of angles.
GAIN_SPEED, GAIN_HEADING, GAIN_LATERAL, PURSUIT = 1 / 0.6, 1 / 0.2, 1 / 0.6, 0.5 * 0.2
MAX_TURN, MAX_STEERING = math.pi / 4, math.pi / 3
# IDMVehicle: accelerations, m/s^2, gaps, m and s, and when MOBIL changes lanes.
MAX_ACCELERATION, COMFORT, BRAKING, WANTED_GAP, WANTED_TIME = 6.0, 3.0, -5.0, 10.0, 1.5
LEAST_GAIN, MOST_IMPOSED, DELAY, STANDS = 0.2, 2.0, 1.0, 1.0

LEFT, FASTER, SLOWER = 0, 3, 4  # actions; those of speed are the last

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("agents", "frames", "speeds")),
        *((name, np.float64) for name in ("dt", "slowest", "spacing")),
    ],
    align=True,
)
"""Agents, frames of a step and their length, s, and target speeds, how many, the first and gaps."""


class Drive(NamedTuple):
    """What a step is worked out from and in, for one episode after another.

    Attributes:
        rules: a record of ``RULES``.
        lanes: of the road, float64 (LANES, LANE).
        car: cars and, behind the last one, the obstacle, float64 (E, M + 1, CAR).
        whole: the same in whole numbers, int64 (E, M + 1, DRIVEN).
        number: cars there are, and steps made, int64 (E, 2).
        chosen: what drivers do, float64 (2, M).
        corner: of two bodies, float64 (2, 4, 2).
    """

    rules: Any
    lanes: NDArray[np.float64]
    car: NDArray[np.float64]
    whole: NDArray[np.int64]
    number: NDArray[np.int64]
    chosen: NDArray[np.float64]
    corner: NDArray[np.float64]


@inner
def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@inner
def _not_zero(value: float) -> float:
    """``utils.not_zero``."""
    if abs(value) > 1e-2:
        return value
    return 1e-2 if value >= 0 else -1e-2


@inner
def _wrap(angle: float) -> float:
    """``utils.wrap_to_pi``."""
    return ((angle + math.pi) % (2 * math.pi)) - math.pi


@inner
def _along(d: Drive, lane: int, x: float) -> float:
    """``lane.local_coordinates(...)[0]``; all lanes run along x."""
    return x - d.lanes[lane, START_X]


@inner
def _beside(d: Drive, lane: int, along: float, y: float) -> float:
    """``lane.local_coordinates(...)[1]``."""
    beside = y - d.lanes[lane, START_Y]
    if lane == BEND:
        sine = math.sin(d.lanes[lane, PULSATION] * along + d.lanes[lane, PHASE])
        beside -= d.lanes[lane, AMPLITUDE] * sine
    return beside


@inner
def _heading_at(d: Drive, lane: int, along: float) -> float:
    if lane != BEND:
        return 0.0
    slope = d.lanes[lane, AMPLITUDE] * d.lanes[lane, PULSATION]
    return math.atan(slope * math.cos(d.lanes[lane, PULSATION] * along + d.lanes[lane, PHASE]))


@inner
def _find_lane(d: Drive, e: int, i: int) -> None:
    """``RoadNetwork.get_closest_lane_index``."""
    x, y, heading = d.car[e, i, X], d.car[e, i, Y], d.car[e, i, HEADING]
    closest = math.inf
    for lane in range(LANES):
        along = _along(d, lane, x)
        beside = _beside(d, lane, along, y)
        angle = abs(_wrap(heading - _heading_at(d, lane, along)))
        past = max(along - d.lanes[lane, LENGTH], 0.0)
        distance = abs(beside) + past + max(0.0 - along, 0.0) + angle
        if distance < closest:
            closest = distance
            d.whole[e, i, ON] = lane


@inner
def _follow_road(d: Drive, e: int, i: int) -> None:
    """``ControlledVehicle.follow_road``."""
    lane = d.whole[e, i, TOWARDS]
    if _along(d, lane, d.car[e, i, X]) > d.lanes[lane, LENGTH] - OVERLAP / 2:
        if lane == MAIN:
            lane = BESIDE
        elif BESIDE <= lane <= MERGE:
            lane = AFTER
        elif lane == RAMP:
            lane = BEND
        elif lane == BEND:
            lane = MERGE
        d.whole[e, i, TOWARDS] = lane


@inner
def _reaches_main(d: Drive, e: int, i: int) -> bool:
    """``lane.is_reachable_from`` of the main lane beside the merge lane; the others are closed."""
    along = _along(d, BESIDE, d.car[e, i, X])
    beside = _beside(d, BESIDE, along, d.car[e, i, Y])
    return abs(beside) <= 2 * WIDTH and 0 <= along < d.lanes[BESIDE, LENGTH] + OVERLAP


@inner
def _steer(d: Drive, e: int, i: int) -> None:
    """``ControlledVehicle.steering_control`` to the lane that it drives towards."""
    lane, speed = d.whole[e, i, TOWARDS], d.car[e, i, SPEED]
    along = _along(d, lane, d.car[e, i, X])
    beside = _beside(d, lane, along, d.car[e, i, Y])
    ahead = _heading_at(d, lane, along + speed * PURSUIT)
    sideways = math.asin(_clip(-GAIN_LATERAL * beside / _not_zero(speed), -1.0, 1.0))
    wanted = ahead + _clip(sideways, -MAX_TURN, MAX_TURN)
    turn = GAIN_HEADING * _wrap(wanted - d.car[e, i, HEADING])
    slip = math.asin(_clip(CAR_LENGTH / 2 / _not_zero(speed) * turn, -1.0, 1.0))
    angle = math.atan(2 * math.tan(slip))
    d.chosen[STEERING, i] = _clip(angle, -MAX_STEERING, MAX_STEERING)


@inner
def _target_of(d: Drive, speed: float, change: int) -> float:
    """``MDPVehicle.speed_to_index``, moved by ``change``, and ``index_to_speed``."""
    last = d.rules.speeds - 1
    share = (speed - d.rules.slowest) / (d.rules.spacing * last)
    index = int(_clip(np.rint(share * last), 0.0, 1.0 * last)) + change
    return d.rules.slowest + d.rules.spacing * min(max(index, 0), last)


@inner
def _obey(d: Drive, e: int, i: int, action: int) -> None:
    """``MDPVehicle.act`` with an action; of lane changes only that to the main lane is possible."""
    if action >= FASTER:
        change = -1 if action == SLOWER else 1
        d.car[e, i, TARGET_SPEED] = _target_of(d, d.car[e, i, SPEED], change)
    _follow_road(d, e, i)
    if action == LEFT and d.whole[e, i, TOWARDS] == MERGE and _reaches_main(d, e, i):
        d.whole[e, i, TOWARDS] = BESIDE


@inner
def _neighbours(d: Drive, e: int, i: int, lane: int) -> tuple[int, int]:
    """``Road.neighbour_vehicles``: who is before and behind a car, -1 where nobody is."""
    cars = d.number[e, 0]
    here = _along(d, lane, d.car[e, i, X])
    front, rear, front_at, rear_at = -1, -1, 0.0, 0.0
    for j in range(cars + 1):
        if j == i:
            continue
        there = _along(d, lane, d.car[e, j, X])
        if not -OVERLAP <= there < d.lanes[lane, LENGTH] + OVERLAP:
            continue
        if abs(_beside(d, lane, there, d.car[e, j, Y])) > WIDTH / 2 + 1:
            continue
        if here <= there and (front < 0 or there <= front_at):
            front, front_at = j, there
        if there < here and (rear < 0 or there > rear_at):
            rear, rear_at = j, there
    return front, rear


@inner
def _wanted_gap(d: Drive, e: int, i: int, front: int) -> float:
    """``IDMVehicle.desired_gap``."""
    speed, ahead = d.car[e, i, SPEED], d.car[e, front, SPEED]
    heading, other = d.car[e, i, HEADING], d.car[e, front, HEADING]
    cos, sin = math.cos(heading), math.sin(heading)
    closing = (speed * cos - ahead * math.cos(other)) * cos
    closing += (speed * sin - ahead * math.sin(other)) * sin
    return WANTED_GAP + speed * WANTED_TIME + speed * closing / (2 * math.sqrt(-COMFORT * BRAKING))


@inner
def _idm(d: Drive, e: int, i: int, front: int) -> float:
    """``IDMVehicle.acceleration`` of a car; of nobody, and of the obstacle, 0."""
    if i < 0 or i >= d.number[e, 0]:
        return 0.0
    wanted = abs(_not_zero(d.car[e, i, TARGET_SPEED]))
    acceleration = COMFORT * (1 - math.pow(max(d.car[e, i, SPEED], 0.0) / wanted, 4.0))
    if front >= 0:
        lane = d.whole[e, i, ON]
        gap = _along(d, lane, d.car[e, front, X]) - _along(d, lane, d.car[e, i, X])
        share = _wanted_gap(d, e, i, front) / _not_zero(gap)
        acceleration -= COMFORT * (share * share)
    return acceleration


@inner
def _change_lanes(d: Drive, e: int, i: int) -> None:
    """``IDMVehicle.change_lane_policy`` and ``mobil``: from the merge lane to the main one."""
    on, towards = d.whole[e, i, ON], d.whole[e, i, TOWARDS]
    if on != towards:
        if BESIDE <= on <= MERGE and BESIDE <= towards <= MERGE:  # the same road
            for j in range(d.number[e, 0]):
                if j == i or d.whole[e, j, ON] == towards or d.whole[e, j, TOWARDS] != towards:
                    continue
                gap = _along(d, on, d.car[e, j, X]) - _along(d, on, d.car[e, i, X])
                if 0 < gap < _wanted_gap(d, e, i, j):
                    d.whole[e, i, TOWARDS] = on
                    break
        return
    if not d.car[e, i, TIMER] > DELAY:
        return
    d.car[e, i, TIMER] = 0.0
    if on != MERGE or not _reaches_main(d, e, i) or abs(d.car[e, i, SPEED]) < STANDS:
        return
    front, rear = _neighbours(d, e, i, BESIDE)
    if _idm(d, e, rear, i) < -MOST_IMPOSED:
        return
    stays, _ = _neighbours(d, e, i, on)
    if not _idm(d, e, i, front) - _idm(d, e, i, stays) < LEAST_GAIN:
        d.whole[e, i, TOWARDS] = BESIDE


@inner
def _act(d: Drive, e: int, i: int) -> None:
    """What a car does in a frame: ``MDPVehicle.act`` of agents, ``IDMVehicle.act`` of humans."""
    human = i >= d.rules.agents
    if human and d.whole[e, i, CRASHED]:
        return
    _follow_road(d, e, i)
    if human:
        _change_lanes(d, e, i)
    _steer(d, e, i)
    if not human:
        towards = d.car[e, i, TARGET_SPEED] - d.car[e, i, SPEED]
        d.chosen[ACCELERATION, i] = GAIN_SPEED * towards
        return
    front, _ = _neighbours(d, e, i, d.whole[e, i, ON])
    acceleration = _idm(d, e, i, front)
    if d.whole[e, i, ON] != d.whole[e, i, TOWARDS]:
        front, _ = _neighbours(d, e, i, d.whole[e, i, TOWARDS])
        acceleration = min(acceleration, _idm(d, e, i, front))
    d.chosen[ACCELERATION, i] = _clip(acceleration, -MAX_ACCELERATION, MAX_ACCELERATION)


@inner
def _move(d: Drive, e: int, i: int) -> None:
    """``Vehicle.step``, and ``IDMVehicle.step``."""
    dt, speed, heading = d.rules.dt, d.car[e, i, SPEED], d.car[e, i, HEADING]
    steering, acceleration = d.chosen[STEERING, i], d.chosen[ACCELERATION, i]
    if d.whole[e, i, CRASHED]:
        steering, acceleration = 0.0, -1.0 * speed
    if speed > MAX_SPEED:
        acceleration = min(acceleration, MAX_SPEED - speed)
    elif speed < -MAX_SPEED:
        acceleration = max(acceleration, -MAX_SPEED - speed)
    d.car[e, i, TIMER] += dt
    slip = math.atan(0.5 * math.tan(steering))
    d.car[e, i, X] += speed * math.cos(heading + slip) * dt
    d.car[e, i, Y] += speed * math.sin(heading + slip) * dt
    if d.whole[e, i, PUSHED]:
        d.car[e, i, X] += d.car[e, i, PUSH_X]
        d.car[e, i, Y] += d.car[e, i, PUSH_Y]
        d.whole[e, i, CRASHED], d.whole[e, i, PUSHED] = 1, 0
    d.car[e, i, HEADING] += speed * math.sin(slip) / (CAR_LENGTH / 2) * dt
    d.car[e, i, SPEED] += acceleration * dt
    _find_lane(d, e, i)


@inner
def _push(d: Drive, e: int, i: int, x: float, y: float) -> None:
    d.car[e, i, PUSH_X], d.car[e, i, PUSH_Y], d.whole[e, i, PUSHED] = x, y, 1


@inner
def _outline(d: Drive, e: int, i: int, body: int, length: float, width: float) -> None:
    """``RoadObject.polygon``, without its first corner again."""
    cos, sin = math.cos(d.car[e, i, HEADING]), math.sin(d.car[e, i, HEADING])
    for k in range(4):
        px = -length / 2 if k < 2 else length / 2
        py = width / 2 if k == 1 or k == 2 else -width / 2
        d.corner[body, k, 0] = cos * px - sin * py + d.car[e, i, X]
        d.corner[body, k, 1] = sin * px + cos * py + d.car[e, i, Y]


@inner
def _spread(d: Drive, body: int, nx: float, ny: float) -> tuple[float, float]:
    """``utils.project_polygon``."""
    low, high = math.inf, -math.inf
    for k in range(4):
        at = d.corner[body, k, 0] * nx + d.corner[body, k, 1] * ny
        low, high = min(low, at), max(high, at)
    return low, high


@inner
def _middle(d: Drive, body: int, axis: int) -> float:
    total = d.corner[body, 0, axis] + d.corner[body, 1, axis]
    return (total + d.corner[body, 2, axis] + d.corner[body, 3, axis]) / 4


@inner
def _collide(d: Drive, e: int, i: int, j: int) -> None:
    """``RoadObject.handle_collisions`` and ``utils.are_polygons_intersecting``."""
    dt, blocked = d.rules.dt, j >= d.number[e, 0]
    length, width = (BLOCK_LENGTH, BLOCK_WIDTH) if blocked else (CAR_LENGTH, CAR_WIDTH)
    dx, dy = d.car[e, j, X] - d.car[e, i, X], d.car[e, j, Y] - d.car[e, i, Y]
    reach = math.sqrt(CAR_LENGTH**2 + CAR_WIDTH**2) + math.sqrt(length**2 + width**2)
    if math.sqrt(dx * dx + dy * dy) > reach / 2 + d.car[e, i, SPEED] * dt:
        return
    _outline(d, e, i, 0, CAR_LENGTH, CAR_WIDTH)
    _outline(d, e, j, 1, length, width)
    mine, other = d.car[e, i, SPEED], d.car[e, j, SPEED]
    vx = mine * math.cos(d.car[e, i, HEADING]) * dt - other * math.cos(d.car[e, j, HEADING]) * dt
    vy = mine * math.sin(d.car[e, i, HEADING]) * dt - other * math.sin(d.car[e, j, HEADING]) * dt
    touch, will_touch, least, axis_x, axis_y = True, True, math.inf, 0.0, 0.0
    for edge in range(8):
        body, k = edge // 4, edge % 4
        nx = -d.corner[body, (k + 1) % 4, 1] + d.corner[body, k, 1]
        ny = d.corner[body, (k + 1) % 4, 0] - d.corner[body, k, 0]
        norm = math.sqrt(nx * nx + ny * ny)
        nx, ny = nx / norm, ny / norm
        low, high = _spread(d, 0, nx, ny)
        other_low, other_high = _spread(d, 1, nx, ny)
        if (other_low - high if low < other_low else low - other_high) > 0:
            touch = False
        motion = nx * vx + ny * vy
        low, high = low + min(motion, 0.0), high + max(motion, 0.0)
        distance = other_low - high if low < other_low else low - other_high
        if distance > 0:
            will_touch = False
        if not touch and not will_touch:
            return
        if abs(distance) < least:
            least = abs(distance)
            away = (_middle(d, 0, 0) - _middle(d, 1, 0)) * nx
            away += (_middle(d, 0, 1) - _middle(d, 1, 1)) * ny
            axis_x, axis_y = (nx, ny) if away > 0 else (-nx, -ny)
    if will_touch:
        share = 1.0 if blocked else 0.5
        _push(d, e, i, least * axis_x * share, least * axis_y * share)
        if not blocked:
            _push(d, e, j, -least * axis_x * share, -least * axis_y * share)
    if touch:
        d.whole[e, i, CRASHED] = 1
        d.whole[e, j, CRASHED] = 1


_tables = types.Tuple(  # of what a Drive is made of, its rules as an array (1,)
    [
        *(from_dtype(RULES)[::1], float64[:, ::1]),
        *(float64[:, :, ::1], int64[:, :, ::1], int64[:, ::1]),
        *(float64[:, ::1], float64[:, :, ::1]),
    ]
)


@entry(void(int64[::1], _tables))
def begin(rows: NDArray[np.int64], tables: tuple[Any, ...]) -> None:
    """Find lanes and targets of cars that were placed; see :func:`advance`."""
    d = Drive(tables[0][0], *tables[1:])
    for e in rows:
        for i in range(d.number[e, 0]):
            _find_lane(d, e, i)
            d.whole[e, i, TOWARDS] = d.whole[e, i, ON]
            if i < d.rules.agents:
                d.car[e, i, TARGET_SPEED] = _target_of(d, d.car[e, i, SPEED], 0)


@entry(void(int64[::1], int64[:, ::1], _tables))
def advance(rows: NDArray[np.int64], act: NDArray[np.int64], tables: tuple[Any, ...]) -> None:
    """Move cars on by a step.

    Args:
        rows: of which episodes, int64 (R,).
        act: the actions of all, int64 (E, N).
        tables: what a :class:`Drive` is made of, its rules as an array (1,).
    """
    d = Drive(tables[0][0], *tables[1:])
    for e in rows:
        cars = d.number[e, 0]
        for frame in range(d.rules.frames):
            if frame == 0:
                for i in range(d.rules.agents):
                    _obey(d, e, i, act[e, i])
            for i in range(cars):
                _act(d, e, i)
            for i in range(cars):
                _move(d, e, i)
            for i in range(cars):
                for j in range(i + 1, cars + 1):
                    _collide(d, e, i, j)
        d.number[e, 1] += 1
