"""TRAM's particle tasks: rewards in closed form, the batch against mpe2's physics."""

import itertools
import math

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows
from hypothesis import given
from hypothesis import strategies as st

from robustmarl import envs, evaluation
from robustmarl.data import RandomController
from robustmarl.envs.particles import (
    ParticleEngine,
    formation_reward,
    gather_reward,
    tram_spread_reward,
)
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.joint import spec_of
from robustmarl.testing import check_env

TASKS = [envs.tram_spread, envs.gather, envs.formation]
MARK = np.array([0.3, -0.2])


def square(radius, turn, mark=MARK):
    angle = turn + np.arange(4) * np.pi / 2
    return mark + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def reward_of(rule, agents, marks):
    return float(rule(np.array([agents], float), np.array([marks], float))[0])


class TestRewards:
    @given(radius=st.floats(0.01, 3.0), turn=st.floats(0.0, 2 * np.pi), order=st.integers(0, 23))
    def test_a_square_of_any_size_and_turn_in_any_order_is_a_formation(self, radius, turn, order):
        agents = square(radius, turn)[list(list(itertools.permutations(range(4)))[order])]
        assert reward_of(formation_reward, agents, [MARK]) == pytest.approx(0.0, abs=1e-9)

    def test_formation_on_the_landmark(self):
        # sorted angles are all 0: |beta - mean| is 3/4, 1/4, 1/4, 3/4 of pi
        assert reward_of(formation_reward, [MARK] * 4, [MARK]) == pytest.approx(-2 * np.pi)

    def test_formation_with_one_farther_out(self):
        # distances 2, 1, 1, 1 of mean 5/4
        agents = MARK + np.array([[2, 0], [0, 1], [-1, 0], [0, -1]])
        assert reward_of(formation_reward, agents, [MARK]) == pytest.approx(-1.5)

    def test_formation_with_one_turned(self):
        # one angle of four is off by t: the mean by t / 4
        agents = square(1.0, 0.3)
        agents[2] = square(1.0, 0.3 + 0.2)[2]
        assert reward_of(formation_reward, agents, [MARK]) == pytest.approx(-0.2 * 1.5)

    def test_gather(self):
        unit = [[1, 0], [0, 1], [-1, 0]]
        assert reward_of(gather_reward, unit, [[0, 0]]) == -3.0
        assert reward_of(gather_reward, [MARK] * 3, [MARK]) == 0.0
        assert reward_of(gather_reward, [[3, 4], [0, 0], [0, 2]], [[0, 0]]) == -7.0

    def test_spread(self):
        marks = [[0, 0], [2, 0], [0, 2]]
        assert reward_of(tram_spread_reward, marks, marks) == 0.0
        assert reward_of(tram_spread_reward, [[0, 0]] * 3, marks) == -7.0

    @pytest.mark.parametrize(("gap", "pairs"), [(0.299, 1), (0.301, 0)])
    def test_spread_counts_pairs_that_overlap(self, gap, pairs):
        agents = [[0, 0], [gap, 0], [2, 2]]
        assert reward_of(tram_spread_reward, agents, agents) == -pairs

    @given(
        seed=st.integers(0, 2**31),
        case=st.sampled_from(
            [(tram_spread_reward, 3, 3), (gather_reward, 3, 1), (formation_reward, 4, 1)]
        ),
    )
    def test_who_is_where_does_not_matter_and_nothing_is_positive(self, seed, case):
        rule, agents, marks = case
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(-2.5, 2.5, (agents, 2)), rng.uniform(-2.5, 2.5, (marks, 2))
        reward = reward_of(rule, x, y)
        assert reward <= 0.0
        assert reward_of(rule, rng.permutation(x), rng.permutation(y)) == pytest.approx(reward)

    def test_against_scalar_arithmetic(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            x, y = rng.uniform(-2.5, 2.5, (4, 2)), rng.uniform(-2.5, 2.5, (4, 2))
            gaps = [min(math.dist(p, q) for p in x) for q in y]
            hits = sum(math.dist(p, q) < 0.3 for p, q in itertools.combinations(x, 2))
            assert reward_of(tram_spread_reward, x, y) == pytest.approx(-sum(gaps) - hits)
            mark = y[0]
            total = -sum(math.dist(p, mark) for p in x)
            assert reward_of(gather_reward, x, [mark]) == pytest.approx(total)
            angles = sorted(math.atan2(*(p - mark)[::-1]) % (2 * math.pi) for p in x)
            beta = [a - i * math.pi / 2 for i, a in enumerate(angles)]
            away = [math.dist(p, mark) for p in x]
            off = sum(abs(v - sum(vs) / 4) for vs in (beta, away) for v in vs)
            assert reward_of(formation_reward, x, [mark]) == pytest.approx(-off)


def toward_the_middle(engine, rng):
    """Return moves that make agents touch: mostly to the mean position, sometimes any."""
    n = engine.spec.num_agents
    agents = engine.places[:, :n]
    off = agents - agents.mean(axis=1, keepdims=True)
    wide = np.abs(off[..., 0]) > np.abs(off[..., 1])
    x, y = np.where(off[..., 0] > 0, 1, 2), np.where(off[..., 1] > 0, 3, 4)
    act = np.where(wide, x, y)
    return torch.from_numpy(np.where(rng.random(act.shape) < 0.2, rng.integers(5), act))


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("make", TASKS)
def test_the_batch_equals_mpe2_bit_for_bit(make, grid):
    """All arrays, over episodes with contacts, with rows that begin and stop at their own time."""

    def one():
        return make(grid=grid, horizon=40)

    one_by_one, batch = JointVectorEnv(one, 6), one().make_engine(6)
    rng, rows, touched, ended = np.random.default_rng(0), np.arange(6), 0, 0
    assert one_by_one.spec == batch.spec
    for env in (one_by_one, batch):
        begin_rows(env, rows, list(range(6)))
    for step in range(90):
        for key, expected in one_by_one.tensors.items():
            assert torch.equal(batch.tensors[key], expected), (key, step)
        for e in range(6):
            ours = batch.places[e], batch.velocity[e]
            world = one_by_one.joint[e].env.raw.world
            theirs = (
                np.array([x.state.p_pos for x in world.entities]),
                np.array([x.state.p_vel for x in world.agents]),
            )
            assert [a.tobytes() for a in ours] == [(b + 0.0).tobytes() for b in theirs]
        agents = batch.places[:, : batch.spec.num_agents]
        gap = np.linalg.norm(agents[:, :, None] - agents[:, None], axis=-1)
        touched += int((gap < 2 * batch.task.radius).sum()) - gap[..., 0].size
        over = batch.tensors["truncated"].numpy()
        playing, new = np.flatnonzero(~over & (rng.random(6) < 0.9)), np.flatnonzero(over)
        act = toward_the_middle(batch, rng)
        for env in (one_by_one, batch):
            step_rows(env, act, playing)
            begin_rows(env, new, [100 * step + int(e) for e in new])
        ended += len(new)
    assert touched > 0
    assert ended > 6


@pytest.mark.parametrize("make", TASKS)
def test_the_physics_is_mpe2s(make):
    from mpe2._mpe_utils.core import World

    env = make()
    assert type(env.raw.world) is World
    env.reset(seed=0)
    before = [agent.state.p_pos.copy() for agent in env.raw.world.agents]
    env.step(dict.fromkeys(env.agents, 2))
    # the push of one step, 5 * dt, shows a step later
    speed = np.array([agent.state.p_vel for agent in env.raw.world.agents])
    np.testing.assert_allclose(speed, np.tile([0.5, 0.0], (len(speed), 1)))
    env.step(dict.fromkeys(env.agents, 0))
    after = [agent.state.p_pos for agent in env.raw.world.agents]
    np.testing.assert_allclose(np.subtract(after, before), np.tile([0.05, 0.0], (len(speed), 1)))


@pytest.mark.parametrize("make", TASKS)
def test_what_agents_see(make):
    env = make()
    obs, _ = env.reset(seed=4)
    agents, marks = env.raw.world.agents, env.raw.world.landmarks
    x = [agent.state.p_pos for agent in agents]
    for i, name in enumerate(env.agents):
        others = [x[j] - x[i] for j in range(len(x)) if j != i]
        seen = [x[i], *(mark.state.p_pos - x[i] for mark in marks), *others]
        np.testing.assert_array_equal(obs[name], np.concatenate(seen).astype(np.float32))
    np.testing.assert_array_equal(env.state(), np.concatenate(list(obs.values())))


@pytest.mark.parametrize(
    ("make", "agents", "obs"),
    [(envs.tram_spread, 3, 12), (envs.gather, 3, 8), (envs.formation, 4, 10)],
)
def test_spec(make, agents, obs):
    spec = spec_of(make())
    assert (spec.num_agents, spec.obs_size, spec.num_actions) == (agents, obs, 5)
    assert (spec.team_reward, spec.horizon, spec.state_layout) == ("mean", 25, "joint")


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("make", TASKS)
def test_keeps_the_contract(make, grid):
    check_env(lambda: make(grid=grid, horizon=7), episodes=2)


@pytest.mark.parametrize("make", TASKS)
def test_everybody_earns_the_teams_reward(make):
    env = make()
    env.reset(seed=1)
    _, rewards, *_ = env.step(dict.fromkeys(env.agents, 4))
    agents, marks = (
        np.array([[thing.state.p_pos for thing in things]])
        for things in (env.raw.world.agents, env.raw.world.landmarks)
    )
    assert set(rewards.values()) == {float(env.task.reward(agents, marks)[0])}


@pytest.mark.parametrize("make", TASKS)
def test_first_positions(make):
    rows = np.arange(100)
    engine = make().make_engine(100)
    begin_rows(engine, rows, rows.tolist())
    assert np.abs(engine.places).max() <= 2.5
    engine = make(grid=True).make_engine(100)
    begin_rows(engine, rows, rows.tolist())
    n = engine.spec.num_agents
    assert np.isin(engine.places, [-2, -1, 0, 1, 2]).all()
    for cells in engine.places:
        for group in (cells[:n], cells[n:]):
            assert len(np.unique(group, axis=0)) == len(group)


def test_first_positions_fill_the_square():
    engine = envs.gather().make_engine(400)
    begin_rows(engine, np.arange(400), list(range(400)))
    low, high = engine.places.min(axis=(0, 1)), engine.places.max(axis=(0, 1))
    assert (low < -2.45).all()
    assert (high > 2.45).all()


def test_cells_are_moved_to_and_the_grid_ends():
    env = envs.gather(grid=True)
    env.reset(seed=0)
    world = env.raw.world
    for agent, place in zip(world.agents, [(2.0, 2.0), (-2.0, 0.0), (0.0, 0.0)], strict=True):
        agent.state.p_pos = np.array(place)
    world.landmarks[0].state.p_pos = np.zeros(2)
    obs, rewards, *_ = env.step({"agent_0": 2, "agent_1": 3, "agent_2": 4})
    assert [a.state.p_pos.tolist() for a in world.agents] == [[2, 2], [-2, -1], [0, 1]]
    assert rewards["agent_0"] == pytest.approx(-(8**0.5) - 5**0.5 - 1)
    assert obs["agent_2"].tolist() == [0, 1, 0, -1, 2, 1, -2, -2]
    env.step({"agent_0": 1, "agent_1": 0, "agent_2": 4})
    env.step({"agent_0": 1, "agent_1": 0, "agent_2": 0})
    assert [a.state.p_pos.tolist() for a in world.agents] == [[0, 2], [-2, -1], [0, 2]]


@pytest.mark.parametrize("grid", [False, True])
def test_pictures_are_to_scale_and_need_no_display(grid):
    env = envs.tram_spread(grid=grid, render_mode="rgb_array")
    env.reset(seed=0)
    marks = env.raw.world.landmarks
    for i, thing in enumerate(env.raw.world.entities):
        thing.state.p_pos = np.array([1.5, 0.0]) if i == 0 else np.zeros(2)
    picture = env.render()
    assert picture.shape == (700, 700, 3)
    assert picture.dtype == np.uint8
    # 2.5 units are 0.9 * 350 pixels: the body's centre is 189 to the right, its radius 18.9
    body = np.argwhere((picture == [70, 70, 170]).all(axis=-1))
    right = body[body[:, 1] > 450]
    assert np.abs(right.mean(axis=0) - [350, 539]).max() < 1.0
    assert 16 <= np.ptp(right[:, 1]) / 2 <= 19  # within a black border
    assert env.raw.world.landmarks is marks
    assert len(marks) == 3


def test_training_and_evaluation_step_the_batch():
    assert isinstance(vector_env(envs.gather, 3), ParticleEngine)
    spec = spec_of(envs.gather())
    found = evaluation.rollout(RandomController(spec), envs.gather, episodes=8, num_envs=4, seed=0)
    assert found.returns.shape == (8,)
    assert (found.returns < 0).all()


@pytest.mark.parametrize("make", TASKS)
def test_an_episode_follows_from_its_seed(make):
    one, many = make().make_engine(1), make().make_engine(5)
    begin_rows(one, np.arange(1), [7])
    begin_rows(many, np.arange(5), [1, 2, 3, 4, 7])
    for move in range(5):
        np.testing.assert_array_equal(one.places[0], many.places[4])
        for env in (one, many):
            shape = (len(env), env.spec.num_agents)
            step_rows(env, torch.full(shape, move), np.arange(len(env)))


@pytest.mark.parametrize("make", TASKS)
@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"agents": 0}, ValueError, r"\.agents must be an int >= 1, got 0\."),
        ({"agents": 26, "grid": True}, ValueError, r"\.agents must be an int in \[1, 25\], got 26"),
        ({"grid": 1}, TypeError, r"\.grid must be a bool, got 1\."),
        ({"horizon": 0}, ValueError, r"\.horizon must be an int >= 1"),
        ({"render_mode": "ansi"}, ValueError, r"\.render_mode must be one of"),
    ],
)
def test_refuses(make, kwargs, error, text):
    with pytest.raises(error, match=make.__name__ + text):
        make(**kwargs)


def test_engine_refuses():
    with pytest.raises(TypeError, match=r"ParticleEngine\.env must be a ParticleEnv"):
        ParticleEngine(envs.spread())
    engine = envs.gather().make_engine(2)
    with pytest.raises(ValueError, match=r"act must be of shape \(2, 3\), .*, got \(2, 2\)"):
        step_rows(engine, torch.zeros(2, 2, dtype=torch.int64), np.arange(2))
    with pytest.raises(ValueError, match=r"act must be indices below 5, got \[\[0, 0, 5\]"):
        step_rows(engine, torch.tensor([[0, 0, 5], [0, 0, 0]]), np.arange(2))


def test_step_refuses():
    env = envs.gather()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"got \['agent_0', 'agent_1'\]"):
        env.step({"agent_0": 0, "agent_1": 0})
