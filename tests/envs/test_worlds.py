"""Compiled worlds against mpe2's own, step by step and bit for bit."""

import ast
import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows

from robustmarl import envs, evaluation
from robustmarl.data import RandomController
from robustmarl.envs import _worlds
from robustmarl.envs._worlds import WorldEngine
from robustmarl.envs.scenes import stage_of
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.joint import spec_of
from robustmarl.testing import check_engine

WORLDS = {
    "spread": lambda: envs.spread(max_cycles=40),
    "spread of five": lambda: envs.spread(5, continuous_actions=True, local_ratio=0.3),
    "spread of one": lambda: envs.spread(1),
    "tag": lambda: envs.tag(max_cycles=40),
    "tag of many": lambda: envs.tag(2, 3, 1, continuous_actions=True),
    "tag without obstacles": lambda: envs.tag(1, 1, 0),
    "predator_prey": lambda: envs.predator_prey(prey_accel=0.7),
    "predator_prey of many": lambda: envs.predator_prey(
        6, 2, 2, sight=0.8, continuous_actions=False, horizon=40
    ),
    "predator_prey of many, of the release": lambda: envs.predator_prey(
        4, 2, 3, integrator="semi-implicit", continuous_actions=False
    ),
    "predator_prey of the release": lambda: envs.predator_prey(integrator="semi-implicit"),
}
E = 5


def pulled(env, rng):
    """Return actions that make bodies touch: mostly to a common point, sometimes any."""
    places, spec = env.places, env.spec
    agents = places[:, : spec.num_agents]
    aim = np.where(rng.random(E) < 0.5, 0, places.shape[1] - 1)  # an agent, or the last body
    way = places[np.arange(E), aim][:, None] - agents
    if spec.continuous:
        act = rng.uniform(-1.2, 1.2, (E, *spec.action_shape())).astype(np.float32)
        if spec.num_actions == 2:
            act[: E // 2 + 1] = 4.0 * way[: E // 2 + 1]
        else:  # none, left, right, down, up
            act[: E // 2 + 1, :, 2::2] = 4.0 * way[: E // 2 + 1]
        return torch.from_numpy(act)
    wide = np.abs(way[..., 0]) > np.abs(way[..., 1])
    x, y = np.where(way[..., 0] > 0, 2, 1), np.where(way[..., 1] > 0, 4, 3)
    act = np.where(wide, x, y)
    return torch.from_numpy(np.where(rng.random(act.shape) < 0.2, rng.integers(5), act))


def bodies(env):
    """Return mpe2's places and velocities, of which spread keeps its own."""
    raw = env.raw
    _ = getattr(env, "world", None)  # brings them up to date
    places = np.array([body.state.p_pos for body in raw.world.entities])
    return places, np.array([agent.state.p_vel for agent in raw.world.agents])


def compare(make, steps):
    """Play both for so many steps of an environment; rows begin and pause at their own time."""
    theirs, ours = JointVectorEnv(make, E), make().make_engine(E)
    assert isinstance(ours, WorldEngine)
    assert theirs.spec == ours.spec
    rng, played, ended, touched = np.random.default_rng(0), 0, 0, 0
    for env in (theirs, ours):
        begin_rows(env, np.arange(E), list(range(E)))
    while played < steps:
        for key, expected in theirs.tensors.items():
            # metrics mean something when an episode is over
            rows = (theirs.tensors["truncated"] if key == "metrics" else torch.ones(E)).bool()
            assert torch.equal(ours.tensors[key][rows], expected[rows]), (key, played)
        for e in range(E):
            places, velocity = bodies(theirs.joint[e].env)
            assert (ours.places[e] + 0.0).tobytes() == (places + 0.0).tobytes(), played
            assert (ours.velocity[e] + 0.0).tobytes() == (velocity + 0.0).tobytes(), played
        over = ours.tensors["truncated"].numpy()
        playing, new = np.flatnonzero(~over & (rng.random(E) < 0.9)), np.flatnonzero(over)
        act = pulled(ours, rng)
        for env in (theirs, ours):
            step_rows(env, act, playing)
            begin_rows(env, new, [100 * played + int(e) for e in new])
        played, ended = played + len(playing), ended + len(new)
        gap = np.linalg.norm(ours.places[:, :1] - ours.places[:, 1:], axis=-1)
        touched += int((gap < 0.1).sum()) if gap.size else 1
    assert ended > E
    assert touched > 0  # else contact was never compared


@pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
def test_equal_mpe2_bit_for_bit(make):
    compare(make, 2_000)


@pytest.mark.slow
@pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
def test_equal_mpe2_bit_for_bit_for_long(make):
    compare(make, 100_000)


@pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
def test_keep_the_contract(make):
    check_engine(make().make_engine)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_plays_on_apart(copied):
    engine = envs.predator_prey().make_engine(2)
    act = torch.full((2, 3, 2), 0.5)
    step_rows(engine, act, np.arange(2))
    twin = copied(engine)
    before = {key: values.clone() for key, values in engine.tensors.items()}
    step_rows(twin, act, np.arange(2))
    assert all(torch.equal(engine.tensors[key], values) for key, values in before.items())
    step_rows(engine, act, np.arange(2))
    assert all(torch.equal(twin.tensors[key], values) for key, values in engine.tensors.items())


def test_what_is_where_is_told():
    engine = envs.predator_prey().make_engine(2)
    begin_rows(engine, np.arange(2), [3, 4])
    env = envs.predator_prey()
    env.reset(seed=3)
    assert stage_of(engine).scene() == stage_of(env).scene()
    seen = engine.tensors["obs"][0, 1].numpy()
    expected = stage_of(env).ghosts("predator_1", env.raw.observe("predator_1"))
    assert stage_of(engine).ghosts("predator_1", seen) == expected


@pytest.mark.parametrize(
    "make",
    [lambda: envs.tag(num_agent_neighbors=1), lambda: envs.tag(terminate_on_success=True)],
)
def test_options_that_are_not_compiled_are_stepped_by_mpe2(make):
    assert isinstance(vector_env(make, 2), JointVectorEnv)
    check_engine(make().make_engine)


def test_training_and_evaluation_step_the_batch():
    for make in (envs.spread, envs.tag, envs.predator_prey):
        assert isinstance(vector_env(make, 3), WorldEngine)
    policy = RandomController(spec_of(envs.predator_prey()))
    one, many = (
        evaluation.rollout(policy, envs.predator_prey, episodes=20, num_envs=n, seed=0)
        for n in (1, 7)
    )
    np.testing.assert_array_equal(one.returns, many.returns)
    assert set(one.metrics) == {"caught"}


def test_without_a_compiler_environments_are_stepped_one_after_another(monkeypatch):
    monkeypatch.setattr(_worlds, "can_compile", lambda: False)
    for make in (envs.spread, envs.tag, envs.predator_prey):
        assert isinstance(vector_env(make, 2), JointVectorEnv)
    check_engine(envs.predator_prey().make_engine)


@pytest.mark.parametrize("name", ["_world_kernel", "_lbf_kernel"])
def test_kernels_take_nothing_from_files_that_may_change_behind_what_was_compiled(name):
    """numba compiles anew when the function's own file has changed, and only then."""
    tree = ast.parse(Path(_worlds.__file__).with_name(f"{name}.py").read_text("utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith("robustmarl")] == [
        "robustmarl.envs.skirmish._numba"
    ]


def test_refuses():
    engine = envs.spread(2).make_engine(2)
    with pytest.raises(ValueError, match=r"act must be of shape \(2, 2\), .*, got \(2, 3\)"):
        step_rows(engine, torch.zeros(2, 3, dtype=torch.int64), np.arange(2))
    before = engine.places.copy()
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=r"act must be indices below 5, got \[0, -?\d\]"):
            step_rows(engine, torch.tensor([[0, 1], [0, wrong]]), np.arange(2))
    np.testing.assert_array_equal(engine.places, before)
    engine = envs.predator_prey().make_engine(1)
    with pytest.raises(ValueError, match=r"act must be 2 numbers each, got .*nan"):
        step_rows(engine, torch.full((1, 3, 2), torch.nan), np.arange(1))
