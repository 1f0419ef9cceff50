"""Cars that merge: the sheet's rewards, its road and its traffic, and highway-env's own view."""

import math
from collections import Counter

import numpy as np
import pytest

from robustmarl import envs
from robustmarl.envs.merge import Traffic, car_reward
from robustmarl.envs.merge.rules import (
    HEADWAY_LIMIT,
    LANES,
    MERGE_LANE,
    NEXT_LANE,
    draw_start,
)
from robustmarl.joint import spec_of
from robustmarl.testing import check_env

pytest.importorskip("highway_env")
from highway_env.envs.common.observation import observation_factory

KINEMATICS = {
    "type": "MultiAgentObservation",
    "observation_config": {
        "type": "Kinematics",
        "vehicles_count": 5,
        "features": ["presence", "x", "y", "vx", "vy"],
        "features_range": {"x": [-150, 150], "y": [-12, 12], "vx": [-45, 45], "vy": [-45, 45]},
        "clip": False,
        "see_behind": True,
        "include_obstacles": False,
    },
}
IDLE, FASTER = 1, 3


def placed(*cars):
    """Return the world of one agent a car, (x, y, speed) each, that nobody else drives in."""
    world = envs.merge(len(cars), hdvs=(0, 0)).world
    world.reset(seed=0)
    for car, (x, y, speed) in zip(world.controlled_vehicles, cars, strict=True):
        car.position, car.speed = np.array([x, y]), speed
        car.on_state_update()
    return world


def played(env, seed, policy):
    """Return the rewards of an episode, its last infos, and how it ended."""
    env.reset(seed=seed)
    earned = []
    while env.agents:
        _, rewards, terminated, truncated, infos = env.step({a: policy(a) for a in env.agents})
        (reward,) = set(rewards.values())
        earned.append(reward)
    return earned, infos["car_0"], any(terminated.values()), any(truncated.values())


@pytest.mark.parametrize(
    ("speed", "x", "headway", "merging", "crashed", "expected"),
    [
        (30.0, 100.0, 60.0, False, False, 1.0),
        (20.0, 100.0, 60.0, False, False, 0.5),
        (30.0, 100.0, 18.0, False, False, 1.0 + 4.0 * math.log(0.5)),
        (20.0, 420.0, 60.0, True, False, -3.5),
        (20.0, 320.0, 60.0, True, False, 0.499818),
        (20.0, 100.0, 60.0, False, True, -199.5),
        (-3.0, 100.0, 1.0, False, False, 0.0),
        (40.0, 100.0, 60.0, False, False, 1.0),
    ],
)
def test_what_a_car_earns(speed, x, headway, merging, crashed, expected):
    """Unit test 18 of the sheet, a car that rolls back, and one that is too fast."""
    found = car_reward(speed, x, headway, on_merge_lane=merging, crashed=crashed)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("cars", "expected"),
    [
        ([(100, 0, 30), (160, 0, 30)], [1.0, 1.0]),
        ([(100, 0, 20)], [0.5]),
        ([(100, 0, 30), (118, 0, 30)], [-1.772589, 1.0]),
        ([(419.99, 4, 20)], [-3.5]),
        ([(320.01, 4, 20)], [0.499818]),
        ([(100, 0, 30), (118, 10.5, 30)], [1.0, 1.0]),
    ],
    ids=["60 m ahead", "20 m/s", "18 m ahead", "merge lane's end", "its begin", "on the ramp"],
)
def test_what_highway_envs_cars_earn(cars, expected):
    world = placed(*cars)
    earned = [world._car_reward(car) for car in world.controlled_vehicles]
    assert earned == pytest.approx(expected, abs=2e-5)
    assert world._reward(None) == pytest.approx(sum(expected) / len(expected), abs=2e-5)


def test_a_team_of_which_one_has_crashed():
    world = placed((30, 0, 20), (150, 0, 20), (250, 0, 20))
    world.controlled_vehicles[0].crashed = True
    assert world._reward(None) == pytest.approx(-66.166667, abs=1e-6)
    assert world._is_terminated()


def test_the_gap_ahead_counts_the_next_lane_and_no_obstacle():
    world = placed((310, 0, 20), (330, 0, 20), (415, 4, 20))
    assert [world.headway(car) for car in world.controlled_vehicles] == [20.0, 60.0, HEADWAY_LIMIT]
    behind = placed((310, 4.3, 20), (330, 4, 20))
    assert behind.controlled_vehicles[0].lane_index == LANES[5]
    assert behind.headway(behind.controlled_vehicles[0]) == 20.0
    leaving = placed((415, 4, 20), (425, 0, 20))  # from the merge lane nobody drives on
    assert leaving.headway(leaving.controlled_vehicles[0]) == HEADWAY_LIMIT
    for lane, following in NEXT_LANE.items():
        end = world.road.network.get_lane(lane)
        there = end.position(end.length - 1.0, 0.0)
        assert world.road.network.next_lane(lane, position=there) == following


def test_the_road():
    world = envs.merge().world
    found = world.road.network.lanes_dict()
    assert tuple(found) == LANES
    assert [lane.length for lane in found.values()] == [320, 100, 100, 100, 220, 100]
    ends = [[*lane.position(0, 0), *lane.position(lane.length, 0)] for lane in found.values()]
    assert np.allclose(
        ends,
        [
            [0, 0, 320, 0],
            [320, 0, 420, 0],
            [320, 4, 420, 4],
            [420, 0, 520, 0],
            [0, 10.5, 220, 10.5],
            [220, 10.5, 320, 4],
        ],
    )
    (obstacle,) = world.road.objects
    assert np.allclose(obstacle.position, [420, 4])
    assert obstacle.lane_index == MERGE_LANE


def test_who_starts_where():
    numbers = Counter()
    for seed in range(200):
        start = draw_start(np.random.default_rng(seed), Traffic())
        humans = len(start.speed) - 3
        numbers[humans] += 1
        assert start.on_ramp[:3].tolist() == [False, True, True]
        assert start.on_ramp[3:].sum() == humans - humans // 2
        assert ((start.speed >= 25) & (start.speed < 27)).all()
        offset = np.where(start.on_ramp, 5.0, 10.0)
        place = np.round((start.along - offset) / 40)
        assert ((place >= 0) & (place <= 5)).all()
        assert (np.abs(start.along - offset - 40 * place) <= 1.5).all()
        assert len(set(zip(start.on_ramp, place, strict=True))) == len(place)
    assert sorted(numbers) == [1, 2, 3, 4]
    assert min(numbers.values()) > 30


def test_the_cars_of_the_world_are_those_that_are_drawn():
    env = envs.merge()
    obs, _ = env.reset(seed=8)
    start = draw_start(np.random.default_rng(8), Traffic())
    cars = env.world.road.vehicles
    assert [car.position[0] for car in cars] == start.along.tolist()
    assert [car.position[1] for car in cars] == np.where(start.on_ramp, 10.5, 0.0).tolist()
    assert [car.speed for car in cars] == start.speed.tolist()
    assert [car.target_speed for car in cars[3:]] == start.speed[3:].tolist()
    own = np.array([obs[agent][:5] for agent in env.possible_agents])
    shown = np.stack([np.ones(3), start.along[:3] / 150, np.array([0, 10.5, 10.5]) / 12], 1)
    assert np.allclose(own[:, :3], shown, atol=1e-6)
    assert np.allclose(own[:, 3], start.speed[:3] / 45, atol=1e-6)


@pytest.mark.parametrize("cavs", [1, 3, 6])
def test_agents_see_what_highway_envs_kinematics_show(cavs):
    env, rng, steps = envs.merge(cavs, hdvs=(1, 4)), np.random.default_rng(0), 0
    for seed in range(2):
        seen, _ = env.reset(seed=seed)
        theirs = observation_factory(env.world, KINEMATICS)
        while env.agents:
            shown = np.array(theirs.observe()).reshape(cavs, 25)
            assert np.allclose(np.array(list(seen.values())), shown, atol=1e-6)
            seen, *_ = env.step({a: int(rng.integers(5)) for a in env.agents})
            steps += 1
    assert steps > 50


def test_whoever_is_too_far_away_is_not_seen():
    world = placed((10, 0, 25), (189.9, 0, 25), (190.1, 0, 25), (5, 10.5, 25))
    seen = world.observation_type.observe().reshape(4, 5, 5)
    assert seen[0, :, 0].tolist() == [1, 1, 1, 0, 0]
    assert seen[0, 1, 1:] == pytest.approx([-5 / 150, 10.5 / 12, 0, 0])
    assert seen[0, 2, 1] == pytest.approx(179.9 / 150)
    assert not seen[0, 3:].any()


def test_episodes_end_with_the_horizon_or_a_crash():
    env = envs.merge()
    crashed, cut = [], []
    rng = np.random.default_rng(1)
    for seed in range(8):
        earned, told, terminated, truncated = played(env, seed, lambda agent: rng.integers(5))
        assert terminated != truncated
        assert told["crashed"] == terminated
        (crashed if terminated else cut).append(len(earned))
        assert (min(earned) < -50) == terminated
    assert crashed
    assert set(cut) == {100}


def test_success_is_nobody_left_on_the_ramp():
    """At 10 m/s from 5 m nobody has left it after five seconds, and nobody has crashed."""
    slow = envs.merge(2, hdvs=(0, 0), horizon=25)
    earned, told, _, truncated = played(slow, 0, lambda agent: 4)
    assert (len(earned), truncated) == (25, True)
    assert told == {"success": 0.0, "crashed": 0.0}
    alone = envs.merge(2, hdvs=(0, 0))
    done = [played(alone, seed, lambda agent: 0)[1] for seed in range(10)]
    assert {"success": 1.0, "crashed": 0.0} in done


def test_human_drivers_have_no_speed_limit():
    """They go on at the speed at which they start, as in the task's own simulator."""
    world = envs.merge(1, hdvs=(1, 1)).world
    world.reset(seed=0)
    human = world.road.vehicles[1]
    first = human.speed
    for _ in range(10):
        world.step((IDLE,))
    assert abs(human.speed - first) < 1.0


def test_target_speeds():
    env = envs.merge(1, hdvs=(0, 0))
    env.reset(seed=0)
    (car,) = env.world.controlled_vehicles
    assert car.target_speeds.tolist() == [10, 15, 20, 25, 30]
    for _ in range(20):
        env.step({"car_0": FASTER})
    assert car.speed == pytest.approx(30.0, abs=0.1)


def test_spec():
    spec = spec_of(envs.merge())
    assert (spec.obs_size, spec.num_actions, spec.num_agents, spec.horizon) == (25, 5, 3, 100)
    assert (spec.state_size, spec.state_layout, spec.team_reward) == (75, "concatenated", "mean")
    assert spec.metrics == ("success", "crashed")
    env = envs.merge()
    seen, _ = env.reset(seed=0)
    assert np.array_equal(env.state(), np.concatenate(list(seen.values())))
    box = env.observation_space("car_0")
    assert np.flatnonzero(np.isfinite(box.low)).tolist() == [0, 5, 10, 15, 20]


@pytest.mark.parametrize("settings", [{}, {"cavs": 1, "hdvs": (0, 0)}, {"cavs": 5, "hdvs": (3, 5)}])
def test_contract(settings):
    check_env(lambda: envs.merge(**settings))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cavs": 0}, r"merge\.cavs must be an int in \[1, 12\], got 0"),
        ({"hdvs": (2, 1)}, r"merge\.hdvs must be two ints, the fewest and the most, got \(2, 1\)"),
        ({"hdvs": (1, 2, 3)}, r"merge\.hdvs must be two ints"),
        (
            {"cavs": 6, "hdvs": (1, 8)},
            r"merge\.hdvs must be few enough for 6 places on the ramp, with 6 cavs",
        ),
        ({"horizon": 0}, r"merge\.horizon must be an int >= 1, got 0"),
        ({"render_mode": "ansi"}, r"merge\.render_mode must be one of"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        envs.merge(**settings)


def test_bad_actions():
    env = envs.merge()
    env.reset(seed=0)
    for action in (5, -1):
        with pytest.raises(ValueError, match=r"step\.actions\['car_1'\] must be an index below 5"):
            env.step({"car_0": 1, "car_1": action, "car_2": 1})


def test_pictures(monkeypatch):
    """Also with a dummy display, for which highway-env would leave them black."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = envs.merge(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((120, 1200, 3), np.uint8)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3
    for _ in range(5):
        env.step(dict.fromkeys(env.agents, IDLE))
    assert not np.array_equal(env.render(), first)
    env.close()
    assert np.array_equal(env.render()[0, 0], first[0, 0])  # and may be looked at again
    env.close()
    with pytest.raises(ValueError, match=r"merge\.render_mode must be 'rgb_array' or 'human'"):
        envs.merge().render()
