"""Our particle environment against mpe2's own, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest

from robustmarl import envs
from robustmarl.envs import spread
from robustmarl.envs.mpe import MPEParallelEnv, SpreadEnv
from robustmarl.joint import spec_of
from robustmarl.testing import check_env


def theirs(**kwargs):
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(**kwargs)


def same_dict(ours, other):
    assert list(ours) == list(other)
    for agent in ours:
        assert np.asarray(ours[agent]).tobytes() == np.asarray(other[agent]).tobytes(), agent


@pytest.mark.parametrize(
    ("agents", "options"),
    [
        (3, {}),
        (1, {}),
        (5, {"local_ratio": 0.3, "max_cycles": 60}),
        (3, {"continuous_actions": True}),
        (4, {"continuous_actions": True, "max_cycles": 40, "local_ratio": 1.0}),
        (3, {"num_agent_neighbors": 1, "num_landmark_neighbors": 2}),
        (2, {"terminate_on_success": True, "max_cycles": 200}),
        (3, {"curriculum": True, "benchmark_data": True}),
    ],
)
def test_equals_mpe2_bit_for_bit(agents, options):
    ours, other = spread(agents, **options), theirs(N=agents, **options)
    rng = np.random.default_rng(0)
    collided = 0
    for seed in (0, 1, None, 7, 8, 9):
        ours_obs, ours_infos = ours.reset(seed=seed)
        other_obs, other_infos = other.reset(seed=seed)
        same_dict(ours_obs, other_obs)
        assert ours_infos == other_infos
        while other.agents:
            assert ours.agents == other.agents
            if options.get("continuous_actions"):
                act = {
                    a: rng.uniform(-0.2, 1.2, ours.action_space(a).shape).astype(np.float32)
                    for a in ours.agents
                }
            else:  # a common pull keeps agents close, so that they collide
                act = {a: int(rng.integers(5)) for a in ours.agents}
            ours_out, other_out = ours.step(dict(act)), other.step(dict(act))
            same_dict(ours_out[0], other_out[0])
            same_dict(ours_out[1], other_out[1])
            assert ours_out[2:] == other_out[2:]
            assert ours.state().tobytes() == other.state().tobytes()
            collided += len(set(ours_out[1].values())) > 1
        assert not ours.agents
    if agents > 3 and options.get("local_ratio") == 0.3:
        assert collided  # otherwise contact forces were never compared


def test_collisions_equal_mpe2():
    """Agents driven to the origin touch for many steps."""
    ours, other = spread(3, max_cycles=80), theirs(N=3, max_cycles=80)
    obs, _ = ours.reset(seed=3)
    other.reset(seed=3)
    touched = 0
    while ours.agents:
        act = {}
        for a, o in obs.items():
            x, y = o[2:4]
            act[a] = (1 if x > 0 else 2) if abs(x) > abs(y) else (3 if y > 0 else 4)
        obs, rewards, *_ = ours.step(act)
        other_obs, other_rewards, *_ = other.step(act)
        same_dict(obs, other_obs)
        same_dict(rewards, other_rewards)
        touched += len(set(rewards.values())) > 1
    assert touched > 3


def test_fast_arithmetic_only_where_it_applies():
    assert isinstance(spread(2), SpreadEnv)
    assert type(spread(2, terminate_on_success=True)) is MPEParallelEnv


@pytest.mark.parametrize("continuous", [False, True])
def test_contract(continuous):
    check_env(lambda: spread(2, continuous_actions=continuous, max_cycles=7), episodes=2)


def test_spec():
    spec = spec_of(spread(3, max_cycles=9))
    assert (spec.obs_size, spec.num_actions, spec.state_size) == (18, 5, 54)
    assert (spec.team_reward, spec.horizon, spec.state_layout) == ("sum", 9, "joint")


def test_observations_are_the_callers_to_change():
    env = spread(2)
    obs, _ = env.reset(seed=0)
    before = env.state()
    obs["agent_0"][:] = 9.0
    np.testing.assert_array_equal(env.state(), before)


def test_render_shows_where_the_agents_are():
    env = spread(2, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render().copy()
    for _ in range(5):
        env.step(dict.fromkeys(env.agents, 2))
    second = env.render()
    assert first.shape == (700, 700, 3)
    assert first.dtype == np.uint8
    assert (first != second).any()
    np.testing.assert_array_equal(env.world.agents[0].state.p_pos, env._pos[0])


MAKES = (
    *(envs.spread, envs.tag, envs.gather),
    lambda **mode: envs.predator_prey(continuous_actions=False, **mode),
    lambda **mode: envs.spread(num_agent_neighbors=1, **mode),
)


@pytest.mark.parametrize("make", MAKES)
def test_a_window_follows_from_the_first_place_on(make, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make(render_mode="human")
    env.raw.metadata = env.raw.metadata | {"render_fps": 0}  # which waits for nobody
    shown, draw = [], env.raw.draw

    def drawn():
        shown.append(np.array([one.state.p_pos for one in env.raw.world.entities]))
        draw()

    env.raw.draw = drawn
    env.reset(seed=0)
    there = [np.array(env._places())]
    for _ in range(3):
        env.step(dict.fromkeys(env.agents, 1))
        there.append(np.array(env._places()))
    assert np.array_equal(shown, there)
    env.close()
    env.reset(seed=0)  # opens another one
    assert np.array_equal(shown[-1], shown[0])
    env.close()


def test_closing_what_has_no_window_leaves_others_theirs(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    watched, seen = envs.gather(render_mode="human"), envs.merge(render_mode="rgb_array")
    watched.raw.metadata = watched.raw.metadata | {"render_fps": 0}
    for env in (watched, seen):
        env.reset(seed=0)
    first = seen.render()
    for mode in (None, "rgb_array"):
        other = envs.spread(render_mode=mode)
        other.reset(seed=0)
        other.close()
        assert watched.render() is None
        assert np.array_equal(seen.render(), first)
    watched.close()
    assert np.array_equal(seen.render(), first)


def test_missing_action_and_wrong_index():
    env = spread(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"step\.actions must be .* got \['agent_0'\]"):
        env.step({"agent_0": 0})
    with pytest.raises(ValueError, match=r"step\.actions\['agent_0'\] must be an index below 5"):
        env.step({"agent_0": -1, "agent_1": 0})


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"agents": 0}, ValueError, r"spread\.agents must be an int >= 1, got 0\."),
        ({"local_ratio": 1.5}, ValueError, r"spread\.local_ratio must be a number in \[0, 1\]"),
        ({"max_cycles": 2.5}, TypeError, r"spread\.max_cycles must be an int"),
        ({"render_mode": "ansi"}, ValueError, r"spread\.render_mode must be one of"),
        ({"colour": 1}, TypeError, "colour"),
        ({"num_agent_neighbors": 0}, ValueError, r"spread\.num_agent_n.* be an int >= 1, got 0"),
        ({"num_landmark_neighbors": 1.5}, TypeError, r"spread\.num_landmark_n.* int >= 1, got 1.5"),
    ],
)
def test_refuses(kwargs, error, text):
    with pytest.raises(error, match=text):
        spread(**kwargs)


def test_quiet():
    code = "from robustmarl.envs import spread; spread().reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
