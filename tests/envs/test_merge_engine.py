"""The batched engine against highway-env, step by step, and its own promises."""

import math
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustmarl import envs
from robustmarl.envs.merge import MergeEngine, Traffic
from robustmarl.envs.merge.engine import lane_table
from robustmarl.envs.merge.rules import LANES
from robustmarl.envs.vector import vector_env
from robustmarl.joint import spec_of
from robustmarl.testing import check_engine

pytest.importorskip("highway_env")
from highway_env import utils
from highway_env.road import lane
from highway_env.vehicle import behavior, controller, kinematics, objects

ALL = torch.ones(1, dtype=torch.bool)
CLOSE = 1e-9
SLOW = 1.0  # m/s
WAVE = ("amplitude", "pulsation", "phase")
AFTERWARDS = 8  # steps that cars are looked at after a crash
BUSY = Traffic(cavs=5, hdvs=(3, 5))
HUMAN = Traffic(cavs=1, hdvs=(8, 8))


class PlainArray(np.ndarray):
    """An array whose products are rounded one by one, whatever the processor can."""

    def dot(self, other):
        return plain_product(self, other)

    def __matmul__(self, other):
        return self[:, :1] * other[:1] + self[:, 1:] * other[1:]


def plain_product(one, other):
    return one[0] * other[0] + one[1] * other[1]


PLAIN_NUMPY = SimpleNamespace(
    **vars(np)
    | {
        **{name: getattr(math, name) for name in ("sin", "cos", "tan")},
        "arctan": math.atan,
        "arcsin": math.asin,
        "power": lambda base, power: base * base if power == 2 else math.pow(base, power),
        "array": lambda *values, **settings: np.array(*values, **settings).view(PlainArray),
        "vstack": lambda rows: np.vstack(rows).view(PlainArray),
        "dot": plain_product,
        "linalg": SimpleNamespace(norm=lambda vector: math.sqrt(plain_product(vector, vector))),
    }
)
"""numpy with the C library's functions, and with :class:`PlainArray`.

Its own differ in the last bit, depending on the processor; a car that stands still or rolls back
is steered so that its heading is a thousand times farther off with each step.
"""


@pytest.fixture
def plain_numpy(monkeypatch):
    for module in (behavior, controller, kinematics, lane, objects, utils):
        monkeypatch.setattr(module, "np", PLAIN_NUMPY)


class Drivers:
    """Draws joint actions: of each step anew, or of tastes that stay, each held for some steps."""

    def __init__(self, agents, seed, *, steady):
        self._rng = np.random.default_rng(seed)
        self._agents, self._steady = agents, steady
        self.begin()

    def begin(self):
        flat = np.full(5, 0.2)
        self._taste = self._rng.dirichlet(2 * flat) if self._steady else flat
        self._held = 0

    def act(self):
        if self._held == 0:
            self._act = self._rng.choice(5, self._agents, p=self._taste)
            self._held = int(self._rng.integers(1, 9)) if self._steady else 1
        self._held -= 1
        return self._act


def shown_by(world):
    """Return highway-env's cars as the engine has them: numbers, and what is whole."""
    lanes = {lane: number for number, lane in enumerate(LANES)}
    agents = len(world.controlled_vehicles)
    numbers, whole = [], []
    for i, car in enumerate(world.road.vehicles):
        timer = car.timer if i >= agents else 0.0
        numbers.append([*car.position, car.heading, car.speed, car.target_speed, timer])
        start, end, number = car.target_lane_index
        towards = lanes[start, end, int(number)]
        whole.append([lanes[car.lane_index], towards, car.crashed, car.impact is not None])
    return np.array(numbers), np.array(whole, np.int64)


def off(engine, world):
    """Return by how much the engine's only episode is off highway-env's; lanes must be equal."""
    cars, agents = len(world.road.vehicles), engine.traffic.cavs
    assert engine.count[0, 0] == cars
    numbers, whole = shown_by(world)
    mine = engine.car[0, :cars].copy()
    mine[:agents, 5] = 0.0  # agents need no timer
    assert np.array_equal(engine._whole[0, :cars], whole)
    pushes = [car.impact for car in world.road.vehicles if car.impact is not None]
    theirs = np.zeros((cars, 2))
    theirs[whole[:, 3] > 0] = np.array(pushes).reshape(-1, 2)
    mine[whole[:, 3] == 0, 6:] = 0.0  # of pushes before
    return np.abs(mine - np.concatenate([numbers, theirs], axis=1)).max()


def same_numbers(theirs, ours):
    """Demand that numbers are the same in single precision, but for their last bits."""
    assert np.allclose(np.float32(theirs), ours.numpy(), rtol=1e-6, atol=1e-7)


def changes(engine):
    """Return how many human drivers are on their way from the merge lane to the main one."""
    lanes = engine._whole[0, engine.traffic.cavs : engine.count[0, 0], :2]
    return int((lanes == (2, 1)).all(-1).sum())


def compared(traffic, seeds, *, steady, plain=True):
    """Play episodes in both, demand that all that is told is equal, and return what happened."""
    env = envs.merge(traffic.cavs, hdvs=traffic.hdvs, horizon=traffic.horizon)
    engine, world = MergeEngine(traffic), env.world
    drivers = Drivers(traffic.cavs, seeds[0], steady=steady)
    told = {key: values[0] for key, values in engine.tensors.items()}
    happened = Counter()
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        engine.begin(ALL, torch.tensor([seed]))
        drivers.begin()
        assert off(engine, world) == 0.0
        assert np.array_equal(np.array(list(obs.values())), told["obs"].numpy())
        assert bool(told["alive"].all() & told["mask"].all())
        while env.agents:
            act = drivers.act()
            obs, rewards, terminated, truncated, infos = env.step(
                dict(zip(env.agents, act.tolist(), strict=True))
            )
            engine.advance(torch.from_numpy(act)[None], ALL)
            happened["steps"] += 1
            happened["changes"] += changes(engine)
            if not plain:
                crawls = min(car.speed for car in world.road.vehicles) < SLOW
                pushed = any(car.crashed or car.impact is not None for car in world.road.vehicles)
                if crawls or pushed:
                    break
                assert off(engine, world) < CLOSE
                continue
            distance = off(engine, world)
            assert distance < CLOSE
            happened["alike"] += distance == 0.0
            same_numbers(list(obs.values()), told["obs"])
            same_numbers(env.state(), told["state"])
            same_numbers(list(rewards.values()), told["rew_agents"])
            assert bool(told["terminated"]) == any(terminated.values())
            assert bool(told["truncated"]) == any(truncated.values())
            plays = not any(terminated.values())  # as of an environment that is stepped alone
            assert told["alive"].tolist() == [plays] * traffic.cavs
            assert told["mask"].tolist() == [[True] + [plays] * 4] * traffic.cavs
        if env.agents:
            continue
        figures = [infos["car_0"][name] for name in engine.spec.metrics]
        assert told["metrics"].tolist() == figures
        for _ in range(AFTERWARDS if plain and told["terminated"] else 0):  # cars push one another
            act = drivers.act()
            world.step(tuple(act.tolist()))
            engine.advance(torch.from_numpy(act)[None], ALL)
            assert off(engine, world) < CLOSE
        crashed = engine._whole[0, : engine.count[0, 0], 2]
        happened["crashes"] += int(crashed[: traffic.cavs].any())
        happened["human crashes"] += int(crashed[traffic.cavs :].any())
        happened["cut"] += int(told["truncated"])
    return happened


@pytest.mark.parametrize(
    ("traffic", "steady", "seeds", "least"),
    [
        (Traffic(), False, range(60), 3700),
        (Traffic(), True, range(100, 160), 3700),
        (BUSY, True, range(20), 900),
        (HUMAN, True, range(36), 1900),
    ],
    ids=["random", "steady", "busy", "human"],
)
@pytest.mark.usefixtures("plain_numpy")
def test_equals_highway_env(traffic, steady, seeds, least):
    """Cars, lanes, pushes, observations, states, rewards, endings and figures of 10^4 steps.

    Cars are the same bit for bit, but for a few that were pushed.
    """
    happened = compared(traffic, seeds, steady=steady)
    assert happened["steps"] >= least
    assert happened["alike"] > 0.99 * happened["steps"]
    assert min(happened["crashes"], happened["human crashes"], happened["changes"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.usefixtures("plain_numpy")
def test_equals_highway_env_for_long(steady):
    traffic = Traffic(cavs=4, hdvs=(0, 6), horizon=150)
    happened = compared(traffic, range(5000, 5150), steady=steady)
    assert happened["steps"] > 6_000
    assert happened["cut"] > 0


def test_equals_highway_env_with_this_processors_numpy():
    """But for cars that stand or were pushed, where rounding decides: to some 1e-14."""
    happened = compared(Traffic(), range(300, 330), steady=True, plain=False)
    assert happened["steps"] > 1000


def test_the_road_is_highway_envs():
    world = envs.merge().world
    theirs = [
        [*lane.start, lane.length, *(getattr(lane, name, 0.0) for name in WAVE)]
        for lane in map(world.road.network.get_lane, LANES)
    ]
    assert np.array_equal(lane_table(), theirs)
    (obstacle,) = world.road.objects
    engine = MergeEngine(Traffic())
    assert engine.car[0, engine.count[0, 0], :2].tolist() == obstacle.position.tolist()


@pytest.mark.parametrize("traffic", [Traffic(), BUSY, Traffic(cavs=1, hdvs=(0, 0), horizon=30)])
def test_the_team_is_the_environments(traffic):
    env = envs.merge(traffic.cavs, hdvs=traffic.hdvs, horizon=traffic.horizon)
    engine = vector_env(lambda: env, 2)
    assert isinstance(engine, MergeEngine)
    assert len(engine) == 2
    assert engine.spec == spec_of(env)


@pytest.mark.parametrize("traffic", [Traffic(horizon=40), BUSY], ids=["few", "busy"])
def test_contract(traffic):
    check_engine(lambda size: MergeEngine(traffic, size))


def test_bad_input():
    engine = MergeEngine(Traffic(), 2)
    both = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"advance\.act must be of shape \(2, 3\)"):
        engine.advance(torch.zeros(2, 2, dtype=torch.int64), both)
    for action in (5, -1):
        act = torch.ones(2, 3, dtype=torch.int64)
        act[1, 2] = action
        with pytest.raises(ValueError, match=r"advance\.act must be indices below 5, got"):
            engine.advance(act, both)
        engine.advance(act, torch.tensor([True, False]))  # where it means nothing
    with pytest.raises(TypeError, match=r"MergeEngine\.traffic must be a Traffic, got 3"):
        MergeEngine(3)


def test_plays_without_highway_env_and_without_a_compiler():
    """Where numba compiles nothing the kernels are plain Python, and say the same."""
    code = (
        "import sys, torch; from robustmarl.envs.merge import MergeEngine, Traffic;"
        "e = MergeEngine(Traffic(), 2); yes = torch.ones(2, dtype=torch.bool);"
        "[e.advance(torch.full((2, 3), k % 5), yes) for k in range(12)];"
        "print('highway_env' in sys.modules, e.car[:, :3, :4].tolist())"
    )
    variables = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True
    )
    engine = MergeEngine(Traffic(), 2)
    for k in range(12):
        engine.advance(torch.full((2, 3), k % 5), torch.ones(2, dtype=torch.bool))
    assert done.stdout == f"False {engine.car[:, :3, :4].tolist()}\n"
