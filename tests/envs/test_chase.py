"""Tag against mpe2's own; predator-prey by hand, by its rule, and against mpe2's physics."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from learners import same_weights

from robustmarl import envs, evaluation
from robustmarl._seeding import Draws
from robustmarl.algorithms import MAPPO
from robustmarl.envs._prey import DIRECTIONS, POINTS, STREAM, flights
from robustmarl.envs.scenes import stage_of
from robustmarl.joint import spec_of
from robustmarl.testing import check_env
from robustmarl.training import Log, run


def theirs(**settings):
    from mpe2 import simple_tag_v3

    return simple_tag_v3.parallel_env(**settings)


def same(ours, other):
    assert list(ours) == list(other)
    for agent in ours:
        assert np.asarray(ours[agent]).tobytes() == np.asarray(other[agent]).tobytes(), agent


TAGS = [
    ({}, {}),
    ({"predators": 4, "prey": 2, "obstacles": 1}, {"max_cycles": 40}),
    ({"obstacles": 0}, {"continuous_actions": True}),
    ({"predators": 2}, {"terminate_on_success": True, "max_cycles": 90}),
    ({}, {"num_agent_neighbors": 1, "num_landmark_neighbors": 1}),
]


@pytest.mark.parametrize(("sizes", "options"), TAGS)
def test_tag_equals_mpe2_bit_for_bit(sizes, options):
    named = {"predators": "num_adversaries", "prey": "num_good", "obstacles": "num_obstacles"}
    ours = envs.tag(**sizes, **options)
    other = theirs(**{named[key]: n for key, n in sizes.items()}, **options)
    rng, caught = np.random.default_rng(0), 0
    for seed in (0, 1, None, 7, 8, 9):
        obs, _ = ours.reset(seed=seed)
        same(obs, other.reset(seed=seed)[0])
        touched = False
        while other.agents:
            act = {}
            for agent, seen in obs.items():  # predators go for the prey, so that they touch it
                space = ours.action_space(agent)
                dx, dy = seen[-4:-2] if agent.startswith("adv") else rng.normal(size=2)
                if options.get("continuous_actions"):
                    act[agent] = rng.uniform(-0.2, 1.2, space.shape).astype(np.float32)
                else:
                    wide = abs(dx) > abs(dy)
                    act[agent] = (2 if dx > 0 else 1) if wide else (4 if dy > 0 else 3)
            (obs, rewards, terminated, truncated, infos), found = ours.step(act), other.step(act)
            same(obs, found[0])
            same(rewards, found[1])
            assert (terminated, truncated) == found[2:4]
            assert ours.state().tobytes() == other.state().tobytes()
            assert ours.agents == other.agents
            touched |= rewards["adversary_0"] > 0
            assert {info["caught"] for info in infos.values()} == {float(touched)}
            caught += touched
    assert caught or options.get("continuous_actions")


def test_tag_is_of_two_teams():
    spec = spec_of(envs.tag())
    assert spec.teams == {"predators": (0, 1, 2), "prey": (3,)}
    assert (spec.obs_sizes, spec.state_size, spec.horizon) == ((16, 16, 16, 14), 62, 25)
    assert (spec.team_reward, spec.metrics) == ("mean", ("caught",))


@pytest.mark.parametrize(
    "make",
    [
        lambda: envs.tag(2, 1, 1, max_cycles=6),
        lambda: envs.tag(1, 2, 0, max_cycles=6, continuous_actions=True),
        lambda: envs.predator_prey(horizon=6),
        lambda: envs.predator_prey(4, 2, 1, horizon=6, continuous_actions=False),
        lambda: envs.predator_prey(1, 1, 0, sight=None, horizon=6),
    ],
)
def test_contract(make):
    check_env(make, episodes=2)


# -- predator-prey ------------------------------------------------------------------------


def placed(predators, prey, obstacles=((5.0, 5.0), (-5.0, 5.0)), **settings):
    """Return a task in which everything lies still where it is told."""
    env = envs.predator_prey(**settings)
    env.reset(seed=0)
    for body, place in zip(env.raw.world.entities, (*predators, prey, *obstacles), strict=True):
        body.state.p_pos, body.state.p_vel = np.array(place, float), np.zeros(2)
    return env


def still(env):
    return {agent: np.zeros(2, np.float32) for agent in env.agents}


def test_sizes():
    """G7."""
    spec = spec_of(envs.predator_prey())
    assert (spec.obs_sizes, spec.state_size, spec.horizon) == ((16,) * 3, 48, 25)
    assert (spec.continuous, spec.action_low, spec.action_high) == (
        True,
        ((-1.0, -1.0),) * 3,
        ((1.0, 1.0),) * 3,
    )
    env = envs.predator_prey()
    env.reset(seed=0)
    steps = 0
    while env.agents:
        *_, truncated, _ = env.step(still(env))
        steps += 1
    assert steps == 25
    assert all(truncated.values())


def test_bodies_are_those_of_the_sheet():
    world = envs.predator_prey().raw.world
    assert [a.size for a in world.agents] == [0.075] * 3 + [0.05]
    assert [a.accel for a in world.agents] == [3.0] * 3 + [1.0]
    assert [a.max_speed for a in world.agents] == [1.0] * 3 + [1.3]
    assert [mark.size for mark in world.landmarks] == [0.2, 0.2]
    assert all(mark.collide and not mark.movable for mark in world.landmarks)
    assert (world.dt, world.damping, world.contact_force) == (0.1, 0.25, 100.0)


@pytest.mark.parametrize(
    ("gaps", "contacts"), [((0.124, 0.124, 0.5), 2), ((0.126, 0.5, 0.5), 0), ((0.12,) * 3, 3)]
)
def test_every_contact_earns_everybody_ten(gaps, contacts):
    """G6: bodies of radius .075 and .05 touch closer than .125."""
    ways = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0))
    places = [(gap * x, gap * y) for gap, (x, y) in zip(gaps, ways, strict=True)]
    env = placed(places, (0.0, 0.0))
    # what they do in this step moves them in the next one
    _, rewards, *_, infos = env.step(still(env))
    assert rewards == dict.fromkeys(("predator_0", "predator_1", "predator_2"), 10.0 * contacts)
    assert infos["predator_1"]["caught"] == float(contacts > 0)


def test_contacts_are_remembered_until_the_next_episode():
    env = placed(((0.1, 0.0), (3.0, 0.0), (0.0, 3.0)), (0.0, 0.0))
    env.step(still(env))
    env.raw.world.agents[3].state.p_pos = np.array([-2.0, -2.0])
    _, rewards, *_, infos = env.step(still(env))
    assert (rewards["predator_0"], infos["predator_0"]["caught"]) == (0.0, 1.0)
    env.reset(seed=1)
    for agent in env.raw.world.agents:
        agent.state.p_pos = agent.state.p_pos + 10.0 * (agent.name == "prey_0")
    assert env.step(still(env))[-1]["predator_0"]["caught"] == 0.0


def test_what_predators_see():
    """G8: velocity, place, obstacles, others, prey's velocity; zeros beyond 1.5."""
    env = placed(((0.0, 0.0), (1.0, 0.5), (-1.6, 0.0)), (0.0, 1.49), ((1.2, -0.9), (1.2, -0.91)))
    world = env.raw.world
    world.agents[0].state.p_vel = np.array([0.3, -0.4])
    world.agents[3].state.p_vel = np.array([0.1, 0.2])
    seen = env.raw.observe("predator_0")
    expected = [0.3, -0.4, 0, 0, 1.2, -0.9, 0, 0, 1.0, 0.5, 0, 0, 0.0, 1.49, 0.1, 0.2]
    np.testing.assert_array_equal(seen, np.array(expected, np.float32))
    world.agents[3].state.p_pos = np.array([0.0, 1.51])
    expected[12:] = [0, 0, 0, 0]
    np.testing.assert_array_equal(env.raw.observe("predator_0"), np.array(expected, np.float32))
    far = placed(((0.0, 0.0), (9.0, 0.0), (0.0, 9.0)), (-9.0, 0.0), sight=None)
    assert far.raw.observe("predator_0")[8:14].tolist() == [9, 0, 0, 9, -9, 0]


def test_nobody_believes_to_see_what_is_hidden():
    env = placed(((0.0, 0.0), (1.0, 0.0), (9.0, 9.0)), (0.5, 0.5))
    ghosts = stage_of(env).ghosts("predator_0", env.raw.observe("predator_0"))
    assert [(g.name, g.x, g.y) for g in ghosts] == [
        ("predator_0", 0.0, 0.0),
        ("predator_1", 1.0, 0.0),
        ("prey_0", 0.5, 0.5),
    ]


@pytest.mark.parametrize("continuous", [True, False])
def test_the_physics_is_mpe2s(continuous):
    """Forces given by hand move mpe2's own world to the same places, bit for bit."""
    from mpe2.simple_tag.simple_tag import Scenario

    env = envs.predator_prey(continuous_actions=continuous)
    scenario = Scenario()
    world = scenario.make_world()
    for seed in range(5):
        env.reset(seed=seed)
        scenario.reset_world(world, np.random.Generator(np.random.PCG64(seed)))
        bodies = zip(env.raw.world.entities, world.entities, strict=True)
        assert all((a.state.p_pos == b.state.p_pos).all() for a, b in bodies)
        while env.agents:
            act = {a: env.action_space(a).sample() for a in env.agents}
            mine = env.raw.world.agents
            prey, key, steps = mine[3].state.p_pos.copy(), env.raw.scenario.key, env._steps
            places = np.array([[a.state.p_pos for a in mine[:3]]])
            env.step(act)
            ways = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
            for agent, motors in zip(world.agents, act.values(), strict=False):
                way = motors if continuous else ways[motors]
                agent.action.u = np.asarray(way, np.float64) * 3.0
            keys, counts = np.array([key]), np.array([steps])
            (way,) = flights(keys, counts, prey[None], places, np.full(3, 0.125))
            world.agents[3].action.u = way * 1.0
            world.step()
            for a, b in zip(mine, world.agents, strict=True):
                assert a.state.p_pos.tobytes() == b.state.p_pos.tobytes()
                assert a.state.p_vel.tobytes() == b.state.p_vel.tobytes()


@pytest.mark.parametrize(
    ("integrator", "places"), [("explicit", [0.0, 0.03, 0.0825]), ("semi-implicit", [0.03, 0.0825])]
)
def test_bodies_move_by_the_velocity_of_before_or_after_a_step(integrator, places):
    env = placed([(0, 0), (9, 9), (9, -9)], (-9, 9), integrator=integrator)
    for place in places:  # full thrust of 3 for .1 a step, of whose velocity .75 is left: .3, .525
        env.step({agent: np.array([1.0, 0.0], np.float32) for agent in env.agents})
        assert env.raw.world.agents[0].state.p_pos.tolist() == pytest.approx([place, 0.0])


@pytest.mark.parametrize("integrator", ["explicit", "semi-implicit"])
def test_who_pushes_comes_to_rest_in_the_releases_world_only(integrator):
    """Against an obstacle of radius .2, which a radius of .075 touches from x = .075 on."""
    still = ((0.35, 0.0), (-9, -9))
    env = placed([(0, 0), (9, 9), (9, -9)], (-9, 9), still, integrator=integrator)
    body, touched = env.raw.world.agents[0], 0
    while env.agents:
        env.step({agent: np.array([1.0, 0.0], np.float32) for agent in env.agents})
        touched += body.state.p_pos[0] > 0.075
    speed = np.abs(body.state.p_vel[0])
    assert (touched >= 20, speed < 0.1) == ((integrator == "semi-implicit",) * 2)


# -- prey ---------------------------------------------------------------------------------


def fled(key, step, prey, predators, reach=0.125, number=0):
    """Return the same, point by point."""
    draws = Draws(torch.tensor([key])).at(torch.tensor([step]), STREAM + number)
    numbers = draws.uniform(2 * POINTS)[0].double().tolist()
    near = min(predators, key=lambda place: math.dist(place, prey))
    best, where = -1.0, (0.0, 0.0)
    for area, turn in zip(numbers[:POINTS], numbers[POINTS:], strict=True):
        x, y = math.sqrt(area) * DIRECTIONS[int(turn * 1024)]
        there = (prey[0] + x, prey[1] + y)
        free = all(math.dist(there, place) >= reach for place in predators)
        if free and math.dist(there, near) > best:
            best, where = math.dist(there, near), (x, y)
    return where


def test_prey_flees_by_the_rule():
    rng = np.random.default_rng(0)
    keys, steps = rng.integers(2**63 - 1, size=200), rng.integers(25, size=200)
    prey, predators = rng.uniform(-1, 1, (200, 2)), rng.uniform(-1, 1, (200, 3, 2))
    reach = np.array([0.125, 0.6, 0.9])
    found = flights(keys, steps, prey, predators, np.full(3, 0.125))
    for e in range(200):
        expected = fled(int(keys[e]), int(steps[e]), prey[e], predators[e].tolist())
        np.testing.assert_allclose(found[e], expected, atol=1e-12)
    away = np.linalg.norm(
        prey[:, None] + flights(keys, steps, prey, predators, reach)[:, None] - predators, axis=-1
    )
    chosen = flights(keys, steps, prey, predators, reach).any(axis=1)
    assert (away[chosen] >= reach).all()


def test_prey_flees_from_the_nearest():
    predators = np.array([[[-0.3, 0.0], [0.0, 0.9]]])
    ways = [
        flights(np.array([key]), np.array([0]), np.zeros((1, 2)), predators, np.full(2, 0.1))[0]
        for key in range(50)
    ]
    assert min(way[0] for way in ways) > 0.5  # away from the left, whatever is above


def test_prey_that_cannot_go_anywhere_stays():
    one = np.array([0])
    assert not flights(one, one, np.zeros((1, 2)), np.zeros((1, 1, 2)), np.array([3.0])).any()


def test_what_prey_thinks_of_is_uniform_in_the_disc():
    """Prey far from everybody would go anywhere: its points fill the disc evenly."""
    keys = np.arange(4000)
    points = np.array(
        [
            flights(
                keys,
                np.zeros(4000, int),
                np.zeros((4000, 2)),
                1e6 * np.array([[[x, y]]]).repeat(4000, 0),
                np.array([0.1]),
            )
            for x, y in ((1.0, 0.0), (0.0, 1.0))
        ]
    )
    assert (np.linalg.norm(points, axis=-1) < 1.0).all()
    # the least of 100 coordinates, x <= -c with chance (arccos(c) - c sqrt(1 - c^2)) / pi
    chance = (math.acos(0.9) - 0.9 * math.sqrt(1 - 0.81)) / math.pi
    expected = 1.0 - (1.0 - chance) ** POINTS
    shares = [(points[0, :, 0] < -0.9).mean(), (points[1, :, 1] < -0.9).mean()]
    np.testing.assert_allclose(shares, expected, atol=0.02)


def test_an_episode_follows_from_its_seed_and_its_prey_from_the_step():
    env = envs.predator_prey()
    traces = []
    for _ in range(2):
        env.reset(seed=5)
        while env.agents:
            env.step(still(env))
        traces.append(env.raw.world.agents[3].state.p_pos)
    np.testing.assert_array_equal(*traces)


@pytest.mark.parametrize(
    "few", [{"num_agent_neighbors": 1}, {"num_agent_neighbors": 3, "num_landmark_neighbors": 1}]
)
def test_of_the_nearest_alone_nobody_knows_who_they_are(few):
    """mpe2 observes them in the order of their distances, so that there are no ghosts to show."""
    env = envs.tag(**few)
    obs, _ = env.reset(seed=0)
    assert env.stage().ghosts("adversary_0", obs["adversary_0"]) == ()

    def still(context):
        return torch.zeros(context.seen.shape[:2], dtype=torch.int64)

    against = {"team": "predators", "opponents": {"prey": still}}
    seen = evaluation.record(still, lambda: envs.tag(**few), **against, episodes=1)
    assert len(seen.episodes) == 1
    whole = envs.tag(terminate_on_success=True)
    obs, _ = whole.reset(seed=0)
    assert len(whole.stage().ghosts("adversary_0", obs["adversary_0"])) == 6


def test_pictures():
    env = envs.predator_prey(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((700, 700, 3), np.uint8)
    assert (picture == [170, 70, 70]).all(-1).any()
    assert (picture == [70, 170, 70]).all(-1).any()


@pytest.mark.parametrize(
    ("make", "settings", "error", "text"),
    [
        (envs.tag, {"predators": 0}, ValueError, r"tag\.predators must be an int >= 1, got 0"),
        (envs.tag, {"prey": 0}, ValueError, r"tag\.prey must be an int >= 1"),
        (envs.tag, {"obstacles": -1}, ValueError, r"tag\.obstacles must be an int >= 0"),
        (envs.tag, {"max_cycles": 0}, ValueError, r"tag\.max_cycles must be an int >= 1"),
        (envs.tag, {"colour": 1}, TypeError, r"tag must be given options .*got \['colour'\]"),
        (envs.tag, {"num_good": 2}, TypeError, r"options among \['benchm.*got \['num_good'\]"),
        (envs.tag, {"num_agent_neighbors": 0}, ValueError, r"tag\.num_agent_n.* int >= 1, got 0"),
        (envs.predator_prey, {"horizon": 2.5}, TypeError, r"\.horizon must be an int"),
        (envs.predator_prey, {"sight": 0.0}, ValueError, r"_prey\.sight must be a number"),
        (
            envs.predator_prey,
            {"prey_accel": -1.0},
            ValueError,
            r"\.prey_accel must be a number",
        ),
        (envs.predator_prey, {"continuous_actions": 1}, TypeError, r"must be a bool, got 1"),
        (envs.predator_prey, {"integrator": "rk4"}, ValueError, r"_prey\.integrator must be one"),
        (envs.predator_prey, {"render_mode": "ansi"}, ValueError, r"\.render_mode must be one"),
    ],
)
def test_refuses(make, settings, error, text):
    with pytest.raises(error, match=text):
        make(**settings)


def test_both_teams_of_tag_learn_in_turns():
    make = functools.partial(envs.tag, max_cycles=5)
    teams = {t: MAPPO.for_env(make(), team=t, hidden=(8,)) for t in ("predators", "prey")}
    quiet = {"env_steps": 60, "num_envs": 3, "log": Log(progress=False)}
    for mine, other in (("predators", "prey"), ("prey", "predators")):
        before = {t: copy.deepcopy(team) for t, team in teams.items()}
        run(teams[mine], make, team=mine, opponents={other: teams[other]}, **quiet)
        moved = {t: not same_weights(before[t], teams[t]) for t in teams}
        assert moved == {mine: True, other: False}
