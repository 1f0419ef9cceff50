"""What is played: the road, who starts where on it, and what driving is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from robustmarl._checks import check, check_each, check_int, keep

__all__ = [
    "ACTIONS",
    "AFTER",
    "AMPLITUDE",
    "BEFORE",
    "BEND",
    "CONVERGING",
    "CRASH_COST",
    "END_OF_LANES",
    "FAST",
    "FEATURES",
    "HEADWAY_COST",
    "HEADWAY_LIMIT",
    "HEADWAY_TIME",
    "LANES",
    "MERGE",
    "MERGE_COST",
    "MERGE_LANE",
    "MERGE_SPREAD",
    "METRICS",
    "NEXT_LANE",
    "PERCEPTION",
    "POLICY_FREQUENCY",
    "RAMP",
    "SCALES",
    "SEEN",
    "SIMULATION_FREQUENCY",
    "SLOW",
    "TARGET_SPEEDS",
    "Start",
    "Traffic",
    "car_reward",
    "draw_start",
    "nearest",
]

# The road of ATSA's CAV task [Zhou2025]_, from [Chen2023]_, metres along it: a straight lane,
# beside which a ramp comes near, then runs as a merge lane that ends at an obstacle.
BEFORE, CONVERGING, MERGE, AFTER = 220.0, 100.0, 100.0, 100.0
RAMP = 10.5
"""How far beside the main lane the ramp begins, m."""
AMPLITUDE = 3.25
"""Of the sine by which it comes near, m; it ends one lane's width, 4 m, from the main lane."""
BEND = (AMPLITUDE, 2 * math.pi / (2 * CONVERGING), math.pi / 2)
"""The sine: amplitude, m, pulsation, 1/m, and phase, rad."""
END_OF_LANES = (
    BEFORE + CONVERGING + MERGE,
    RAMP - AMPLITUDE + AMPLITUDE * math.sin(BEND[1] * CONVERGING + BEND[2]),
)
"""Where the merge lane ends at the obstacle, x and y, m."""

LANES = (
    ("a", "b", 0),  # main, up to where the ramp meets it
    ("b", "c", 0),  # main, beside the merge lane
    ("b", "c", 1),  # the merge lane
    ("c", "d", 0),  # main, behind it
    ("j", "k", 0),  # ramp
    ("k", "b", 0),  # ramp, coming near
)
"""highway-env's names of the lanes, in the order in which it looks for the closest."""
MERGE_LANE = LANES[2]
NEXT_LANE = {
    LANES[0]: LANES[1],
    LANES[1]: LANES[3],
    LANES[3]: LANES[3],
    LANES[4]: LANES[5],
    LANES[5]: LANES[2],
}
"""The lane that follows each but the merge lane, where cars count too that are ahead."""

SIMULATION_FREQUENCY, POLICY_FREQUENCY = 15, 5
"""Steps of the simulation and of agents, Hz."""

ACTIONS = ("left", "idle", "right", "faster", "slower")
"""Names of the actions, by number."""
METRICS = ("success", "crashed")
"""What the last infos tell: whether nobody crashed and all are on the main lane; a crash."""
TARGET_SPEEDS = (10.0, 15.0, 20.0, 25.0, 30.0)
"""Between which cars choose, m/s."""

# Where cars may start, m along their lane, and by how much they are moved; at what speed, m/s.
_MAIN_PLACES = np.arange(10.0, 211.0, 40.0)
_RAMP_PLACES = np.arange(5.0, 206.0, 40.0)
_JITTER, _SLOWEST, _FASTEST = 1.5, 25.0, 27.0
_PLACES = len(_MAIN_PLACES)

FEATURES = 5
"""Of a car that is seen: presence, x, y, and velocity along x and y."""
SEEN = 5
"""Rows of an observation: the car itself, and the four that are nearest along the road."""
PERCEPTION = 180.0
"""How far cars see, m; not 150, by which positions are divided: sheet of [Zhou2025]_, A13."""
SCALES = (150.0, 12.0, 45.0, 45.0)
"""What x, y and velocities are divided by, m and m/s."""

CRASH_COST, MERGE_COST, HEADWAY_COST = 200.0, 4.0, 4.0
SLOW, FAST = 10.0, 30.0
"""Speeds that are worth 0 and 1, m/s."""
MERGE_SPREAD = 1000.0
"""Of the bell around the merge lane's end that costs who is there, m^2."""
HEADWAY_LIMIT = 60.0
"""The longest gap to the car ahead that counts, m."""
HEADWAY_TIME = 1.2
"""The gap that costs nothing, s."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who drives.

    Of both kinds half, rounded down, start on the main lane, and the others on the ramp; each has
    six places.

    Args:
        cavs: connected autonomous vehicles, the agents, 1 to 12.
        hdvs: the fewest and the most human-driven vehicles; each number between is as likely.
        horizon: steps, at which an episode is truncated, >= 1.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> Traffic(cavs=2, hdvs=(1, 1)).hdvs
        (1, 1)
    """

    cavs: int = 3
    hdvs: tuple[int, int] = (1, 4)
    horizon: int = 100

    def __post_init__(self) -> None:
        cavs = check_int("Traffic.cavs", self.cavs, 1, 2 * _PLACES)
        rule = "two ints, the fewest and the most"
        hdvs = check_each("Traffic.hdvs", self.hdvs, lambda where, n: check_int(where, n, 0), rule)
        good = len(hdvs) == 2 and hdvs[0] <= hdvs[1]
        check(good, "Traffic.hdvs", rule, self.hdvs)
        on_ramp = cavs - cavs // 2 + hdvs[1] - hdvs[1] // 2
        rule = f"few enough for {_PLACES} places on the ramp, with {cavs} cavs"
        check(on_ramp <= _PLACES, "Traffic.hdvs", rule, self.hdvs)
        keep(self, cavs=cavs, hdvs=hdvs, horizon=check_int("Traffic.horizon", self.horizon, 1))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents' names."""
        return tuple(f"car_{i}" for i in range(self.cavs))

    @property
    def most(self) -> int:
        """The most cars of one episode."""
        return self.cavs + self.hdvs[1]


class Start(NamedTuple):
    """Where an episode's cars start: agents first, then the human drivers.

    Attributes:
        on_ramp: which are on the ramp, (cars,).
        along: how far along their lane, m, (cars,).
        speed: m/s, (cars,).
    """

    on_ramp: NDArray[np.bool_]
    along: NDArray[np.float64]
    speed: NDArray[np.float64]


def nearest(places: Sequence[Sequence[float]], car: int, start: float = 0.0) -> list[int]:
    """Return whom a car sees, by number, the nearest along the road first.

    Args:
        places: of all cars, each x and y first, m.
        car: who sees, by number.
        start: of its lane, m, from where highway-env measures.
    """
    x, y, *_ = places[car]
    near = []
    for i, (other_x, other_y, *_) in enumerate(places):
        dx, dy = other_x - x, other_y - y
        if i != car and math.sqrt(dx * dx + dy * dy) < PERCEPTION:
            near.append((abs((other_x - start) - (x - start)), i))
    return [i for _, i in sorted(near)]


def draw_start(rng: Generator, traffic: Traffic) -> Start:
    """Draw where an episode's cars start."""
    humans = int(rng.integers(traffic.hdvs[0], traffic.hdvs[1] + 1))
    main, ramp = rng.permutation(_MAIN_PLACES), rng.permutation(_RAMP_PLACES)
    on_ramp: list[NDArray[np.bool_]] = []
    places: list[NDArray[np.float64]] = []
    for count in (traffic.cavs, humans):
        there = count // 2
        on_ramp.append(np.arange(count) >= there)
        places += [main[:there], ramp[: count - there]]
        main, ramp = main[there:], ramp[count - there :]
    along = np.concatenate(places)
    along += rng.uniform(-_JITTER, _JITTER, len(along))
    return Start(np.concatenate(on_ramp), along, rng.uniform(_SLOWEST, _FASTEST, len(along)))


def car_reward(
    speed: float, x: float, headway: float, *, on_merge_lane: bool, crashed: bool
) -> float:
    r"""Return what one car earns in a step; the team earns the mean over its cars.

    .. math:: -200 \cdot \mathrm{crashed} + \mathrm{clip}\Bigl(\frac{v - 10}{20}, 0, 1\Bigr)
              - 4 e^{-(x - 420)^2 / 1000}\,\mathrm{merging}
              + 4 \min\Bigl(0, \ln \frac{d}{1.2\, v}\Bigr)

    the reward of ATSA's CAV task [Zhou2025]_, from [Chen2023]_.

    Args:
        speed: :math:`v`, m/s; a car that stands keeps every distance.
        x: along the road, m.
        headway: :math:`d`, to the car ahead in this or the next lane, at most 60 m.
        on_merge_lane: whether it is on the merge lane, at whose end, 420, the obstacle stands.
        crashed: whether it has hit anything.
    """
    reward = min(max((speed - SLOW) / (FAST - SLOW), 0.0), 1.0)
    if crashed:
        reward -= CRASH_COST
    if on_merge_lane:
        to_end = x - END_OF_LANES[0]
        reward -= MERGE_COST * math.exp(-(to_end * to_end) / MERGE_SPREAD)
    if speed > 0.0:
        reward += HEADWAY_COST * min(0.0, math.log(headway / (HEADWAY_TIME * speed)))
    return reward
