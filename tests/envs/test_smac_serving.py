"""The unmodified StarCraft2Env, played on the skirmish engine, sees what our encoder writes.

Needs smac from its repository (docs/envs/smac.md says how), but no StarCraft II.
"""

import numpy as np
import pytest

from robustmarl import envs
from robustmarl.joint import spec_of

pytestmark = pytest.mark.smac
smac_env = pytest.importorskip("smac.env", reason="smac is not on PyPI")

from envs.smac_server import SkirmishConfig  # noqa: E402 - they need pysc2
from smac.env.starcraft2.maps.smac_maps import map_param_registry  # noqa: E402

NAMES = list(map_param_registry)
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def start():
    """Return a StarCraft2Env that was reset, and the engine that it plays on."""
    opened = []

    def launch(name, **options):
        env = smac_env.StarCraft2Env(name, **options)
        opened.append(env)
        env.reset()
        return env, SkirmishConfig.processes[-1].server.engine

    yield launch
    for env in opened:
        env.close()
    SkirmishConfig.processes.clear()


def choose(masks, rng):
    """Return available actions: mostly attacks, then steps towards the enemy."""
    joint = []
    for mask in np.asarray(masks, bool):
        weight = mask * np.where(np.arange(len(mask)) >= 6, 20.0, 1.0)
        weight[4] *= 6.0
        joint.append(int(rng.choice(len(mask), p=weight / weight.sum())))
    return joint


def assert_seen_alike(env, engine, *, over=False):
    ours = {key: tensor[0].numpy() for key, tensor in engine.tensors.items()}
    np.testing.assert_allclose(ours["obs"], np.stack(env.get_obs()), **CLOSE)
    np.testing.assert_allclose(ours["state"], env.get_state(), **CLOSE)
    if not over:  # then skirmish leaves only the no-op
        np.testing.assert_array_equal(ours["mask"], np.array(env.get_avail_actions(), bool))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_limits_and_the_highest_reward_are_the_same(start, name):
    env, engine = start(name)
    info, layout = env.get_env_info(), engine.layout
    assert info["n_agents"] == layout.n
    assert env.n_enemies == layout.m
    assert info["obs_shape"] == layout.obs_size
    assert info["state_shape"] == layout.state_size
    assert info["n_actions"] == layout.num_actions
    assert info["episode_limit"] == engine.game.limit
    assert env.max_reward == pytest.approx(layout.max_reward, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_battles_look_the_same_and_pay_the_same(start, name):
    env, engine = start(name, seed=7)
    rng = np.random.default_rng(7)
    returned = 0.0
    for again, steps in ((False, engine.game.limit), (True, 5)):  # a battle, the next one's start
        if again:
            env.reset()
        assert_seen_alike(env, engine)
        over = False
        while not over and steps:
            steps -= 1
            reward, over, info = env.step(choose(env.get_avail_actions(), rng))
            returned += reward
            assert_seen_alike(env, engine, over=over)
            np.testing.assert_allclose(engine.tensors["rew_agents"][0], reward, **CLOSE)
            assert over == bool(engine.tensors["terminated"][0] | engine.tensors["truncated"][0])
            assert info["battle_won"] == bool(engine.tensors["metrics"][0, 0])
        assert engine.battles.illegal[0] == 0
    assert returned > 0


@pytest.mark.parametrize("name", NAMES)
def test_any_battle_looks_the_same(start, name):
    """Anywhere, also at the edges of the field, of cells, of sight and of reach; in any health."""
    env, engine = start(name)
    rng = np.random.default_rng(8)
    battles, units = engine.battles, engine.layout.units
    left, bottom, right, top = engine.game.playable
    low, high = np.array([[left], [bottom]]), np.array([[right], [top]]) - 2**-6
    full = np.array([[u.health, u.shield] for u in units]).T
    for draw in range(20 if len(units) > 20 else 80):
        place = low + (high - low) * rng.random((2, len(units)))
        if draw % 4 == 1:
            place = np.round(2 * place) / 2
        if draw % 4 == 2:
            near = rng.random((2, len(units))) < 0.5
            place = np.where(near, low, high) + 1.5 * (rng.random(place.shape) - 0.5)
        if draw % 4 == 3:
            away = rng.choice([5.96, 6.0, 6.04, 8.96, 9.0, 9.04], len(units))
            angle = 2 * np.pi * rng.random(len(units))
            place = place[:, :1] + away * np.stack([np.cos(angle), np.sin(angle)])
        place = np.clip(place, low, high)
        dead = rng.random(len(units)) < 0.2
        battles.pos[..., 0] = np.where(dead, 1e4 + 100 * np.arange(len(units)), place)
        battles.pools[..., 0] = full * (1 - rng.random(full.shape)) * ~dead
        armed = [not unit.heal for unit in units]
        battles.weapon_cooldown[..., 0] = rng.integers(0, 10, len(units)) * armed
        battles.energy[..., 0] = 200 * rng.random(len(units))
        engine.encode()
        env._obs = env._controller.observe()
        env.update_units()
        assert_seen_alike(env, engine)


def test_reset_before_its_first_end_it_counts_the_highest_reward_twice(start):
    """A habit of StarCraft2Env, and the reason why the adapter launches a new game."""
    env, _ = start("3m")
    env.reset()
    assert len(SkirmishConfig.processes) == 2
    assert env.max_reward == 365 + 3 * 45
    adapted = envs.smac("3m")
    for _ in range(2):
        adapted.reset()
    assert adapted.game.max_reward == 365
    adapted.close()


@pytest.mark.parametrize("joint", [False, True])
def test_observations_with_the_time_are_one_longer_than_it_says(start, joint):
    options = {"obs_timestep_number": True, "obs_instead_of_state": joint}
    env, _ = start("3m", **options)
    assert env.get_obs_agent(0).shape == (env.get_obs_size() + 1,)
    adapted = envs.smac("3m", **options)
    obs, _ = adapted.reset()
    assert obs["agent_0"]["observation"].shape == (spec_of(adapted).obs_size,)
    assert adapted.state().shape == spec_of(adapted).state_shape
    adapted.close()


def test_a_lost_connection_truncates_and_the_next_episode_is_sound(start):
    adapted = envs.smac("3m")
    adapted.reset(seed=1)
    SkirmishConfig.processes[-1].server.broken = True
    with pytest.warns(UserWarning, match="StarCraft II crashed"):
        _, rewards, _, truncated, _ = adapted.step(dict.fromkeys(adapted.agents, 1))
    assert all(truncated.values())
    assert set(rewards.values()) == {0.0}
    adapted.reset()
    assert_seen_alike(adapted.game, SkirmishConfig.processes[-1].server.engine)
    assert adapted.game.max_reward == 365
    adapted.close()


def test_pictures_are_those_of_skirmish(start):
    adapted = envs.smac("2s3z", render_mode="rgb_array")
    adapted.reset(seed=1)
    ours = envs.skirmish("2s3z", render_mode="rgb_array")
    ours.reset(seed=1)
    whole, field = adapted.render(), ours.render()  # the field is the map's middle rows
    assert whole.shape == (32 * 20, 32 * 20, 3)
    np.testing.assert_array_equal(whole[8 * 20 : 24 * 20], field)
    adapted.close()


@pytest.mark.parametrize("name", NAMES)
def test_one_word_changes_the_game(start, name):
    """``envs.smac`` on the served game is ``envs.skirmish``, key for key."""
    served, ours = envs.smac(name), envs.skirmish(name)
    for agent in ours.possible_agents:
        assert served.observation_space(agent) == ours.observation_space(agent)
        assert served.action_space(agent) == ours.action_space(agent)
    assert served.state_space == ours.state_space
    assert spec_of(served) == spec_of(ours)
    rng = np.random.default_rng(9)
    for seed in (3, None):
        shown = served.reset(seed=seed), ours.reset(seed=seed)
        assert_alike(*shown)
        for _ in range(25 if seed else 5):
            masks = [seen["action_mask"] for seen in shown[0][0].values()]
            joint = dict(zip(ours.agents, choose(masks, rng), strict=True))
            joint["agent_0"] += 7 * int(rng.random() < 0.1)  # now and then an illegal one
            shown = served.step(joint), ours.step(joint)
            assert_alike(*shown)
            assert served.agents == ours.agents
            np.testing.assert_allclose(served.state(), ours.state(), **CLOSE)
            if not ours.agents:
                break
        while seed and ours.agents:  # a game goes on only after an end
            joint = dict.fromkeys(ours.agents, 1)
            assert_alike(served.step(joint), ours.step(joint))
    served.close()


def assert_alike(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key, value in left.items():
            assert_alike(value, right[key])
    elif isinstance(left, tuple):
        for one, other in zip(left, right, strict=True):
            assert_alike(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, **CLOSE)
    else:
        assert left == pytest.approx(right, rel=0, abs=1e-6)
