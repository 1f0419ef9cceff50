"""Many games of foraging at once: the same as one by one, bit for bit."""

import copy
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows

from robustmarl import envs
from robustmarl.envs._lbf_batch import ForagingEngine
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.testing import check_engine

LOAD = 5
GAMES = [
    {"size": 6},
    {"size": 4, "players": 3, "foods": 1, "coop": True},
    {"size": 5, "foods": 2, "sight": 1},
    {"size": (5, 8), "players": 4, "foods": 2, "sight": 2, "penalty": 0.1},
    {"size": 6, "players": 3, "foods": 2, "sight": 1, "grid_observation": True},
    {"size": 6, "foods": 2, "observe_agent_levels": False},
    {"size": 4, "players": 4, "foods": 1, "share_cells": True},
    {"size": 4, "players": 4, "foods": 1, "mask": False},
    {"size": 6, "foods": 3, "normalize_reward": False, "max_player_level": [1, 3]},
    {"size": 3, "players": 5, "foods": 1, "max_food_level": 1},
    {
        "size": 4,
        "players": 5,
        "foods": 1,
        "sight": 2,
        "grid_observation": True,
        "share_cells": True,
        "observe_agent_levels": False,
    },
]


def played_alike(config, steps, size=6):
    """Play both kinds of engine side by side; return ended episodes, and all that was earned."""

    def one():
        return envs.foraging(horizon=20, **config)

    one_by_one, batch = JointVectorEnv(one, size), one().make_engine(size)
    assert isinstance(batch, ForagingEngine)
    assert one_by_one.spec == batch.spec
    rng, ended, earned = np.random.default_rng(0), 0, 0.0
    for engine in (one_by_one, batch):
        begin_rows(engine, np.arange(size), list(range(size)))
    for step in range(steps):
        over = (one_by_one.tensors["terminated"] | one_by_one.tensors["truncated"]).numpy()
        for key, expected in one_by_one.tensors.items():
            rows = over if key == "metrics" else slice(None)  # of those that play they say nothing
            assert torch.equal(batch.tensors[key][rows], expected[rows]), (key, step)
        fields = np.array([joint.env.engine.field for joint in one_by_one.joint])
        assert np.array_equal(batch.field, fields)
        playing, new = np.flatnonzero(~over & (rng.random(size) < 0.9)), np.flatnonzero(over)
        agents = batch.spec.num_agents
        drawn = rng.integers(0, 6, (size, agents))
        act = torch.from_numpy(np.where(rng.random((size, agents)) < 0.4, LOAD, drawn))
        for engine in (one_by_one, batch):
            step_rows(engine, act, playing)
        earned += float(one_by_one.tensors["rew_agents"][torch.from_numpy(playing)].sum())
        over = (one_by_one.tensors["terminated"] | one_by_one.tensors["truncated"]).numpy()
        for key in ("metrics", "rew_agents"):
            rows = torch.from_numpy(over)
            assert torch.equal(batch.tensors[key][rows], one_by_one.tensors[key][rows])
        for engine in (one_by_one, batch):
            begin_rows(engine, new, [100 * step + int(e) for e in new])
        ended += len(new)
    return ended, earned


@pytest.mark.parametrize("config", GAMES, ids=str)
def test_the_batch_equals_lbforaging_bit_for_bit(config):
    ended, earned = played_alike(config, 160)
    assert ended > 20
    assert earned != 0.0 or config.get("coop")


@pytest.mark.slow
@pytest.mark.parametrize("config", GAMES, ids=str)
def test_it_does_for_long(config):
    ended, _ = played_alike(config, 1_600)
    assert ended > 200


def test_together_they_take_what_nobody_takes_alone():
    engine = envs.foraging(5, 2, 1, coop=True, max_player_level=1).make_engine(1)
    engine.field[0], engine.place[0] = 0, [[2, 1], [1, 2]]
    engine.field[0, 2, 2] = 2
    engine._spawned[0] = 2
    one = torch.tensor([True])
    engine.advance(torch.tensor([[LOAD, 0]]), one)
    assert engine.tensors["rew_agents"].tolist() == [[0.0, 0.0]]
    engine.advance(torch.tensor([[LOAD, LOAD]]), one)
    assert engine.tensors["rew_agents"].tolist() == [[0.5, 0.5]]
    assert bool(engine.tensors["terminated"])
    assert engine.tensors["metrics"].tolist() == [[1.0]]
    assert not engine.tensors["alive"].any()


@pytest.mark.parametrize("config", [GAMES[0], GAMES[3], GAMES[4]], ids=str)
def test_it_keeps_the_contract_of_engines(config):
    check_engine(lambda size: envs.foraging(horizon=9, **config).make_engine(size))


def test_training_uses_it_and_wrappers_leave_it_out():
    assert isinstance(vector_env(envs.foraging, 3), ForagingEngine)
    wrapped = vector_env(lambda: envs.describe(envs.foraging(), horizon=50), 3)
    assert isinstance(wrapped, JointVectorEnv)


def test_without_numba_games_are_stepped_one_after_another():
    with mock.patch("robustmarl.envs.lbf.can_compile", return_value=False):
        engine = vector_env(envs.foraging, 3)
    assert isinstance(engine, JointVectorEnv)
    begin_rows(engine, np.arange(3), [1, 2, 3])
    batch = vector_env(envs.foraging, 3)
    begin_rows(batch, np.arange(3), [1, 2, 3])
    assert torch.equal(engine.tensors["obs"], batch.tensors["obs"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_plays_on_apart(duplicate):
    engine = envs.foraging(horizon=9).make_engine(2)
    act, both = torch.ones(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)
    engine.advance(act, both)
    other = duplicate(engine)
    before = engine.tensors["obs"].clone()
    other.advance(act, both)
    assert torch.equal(engine.tensors["obs"], before)
    engine.advance(act, both)
    for key, values in engine.tensors.items():
        assert torch.equal(values, other.tensors[key])


def test_it_shows_where_things_are_as_one_game_does():
    def make():
        return envs.foraging(6, 3, 2, horizon=9)

    env, engine = make(), make().make_engine(2)
    env.reset(seed=4)
    begin_rows(engine, np.arange(2), [4, 5])
    one, many = env.stage(), engine.stage()
    assert one.scene() == many.scene()
    seen = engine.tensors["obs"][0, 1].numpy()
    assert list(one.ghosts("player_1", seen)) == list(many.ghosts("player_1", seen))


def test_bad_actions_are_refused():
    engine = envs.foraging().make_engine(2)
    both = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"advance\.act must be of shape \(2, 2\), \(env"):
        engine.advance(torch.zeros(2, 3, dtype=torch.int64), both)
    with pytest.raises(ValueError, match=r"advance\.act must be indices below 6, got \[\[6, 0\]"):
        engine.advance(torch.tensor([[6, 0], [0, 0]]), both)
