"""The compiled rules against those in numpy, bit for bit, and when they are loaded."""

import ast
import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from doubles import step_rows
from numba.core import caching

from robustmarl import envs, testing
from robustmarl.envs.skirmish import MAPS, SkirmishEngine, SkirmishMap, UnitType, _numba
from robustmarl.envs.skirmish import engine as engine_module

SIZE = 5

ALL_AT_ONCE = SkirmishMap(
    name="all at once",
    allies=(("medivac", 2), ("colossus", 1), ("baneling", 2), ("stalker", 1)),
    enemies=(
        *(("zealot", 2), ("medivac", 1), ("colossus", 1), ("marine", 2), ("spine_crawler", 1)),
        (UnitType(name="bird", health=60.0, shield=10.0, damage=4.0, range=3.0, flying=True), 1),
    ),
    limit=30,
    size=(24, 20),
    playable=(2, 0, 24, 20),
    ally_start=(8.0, 10.0),
    enemy_start=(16.0, 10.0),
)
"""Healing, splash on both sides, shields, the dead of their own shots, what flies, a building."""


def engines(game, size=SIZE, **options):
    return [SkirmishEngine(game, size, backend=name, **options) for name in ("numpy", "numba")]


def legal_and_not(engine, rng):
    """Return actions: mostly attacks and the way to the enemy, a few that are not available."""
    mask = engine.tensors["mask"].numpy()
    taste = np.where(np.arange(mask.shape[-1]) >= 6, 3.0, 1.0)
    taste[4] = 2.0
    act = (rng.random(mask.shape) * (mask + 0.01) * taste).argmax(-1)
    return torch.from_numpy(np.where(rng.random(act.shape) < 0.02, rng.integers(-9, 99), act))


def bits(values):
    """Return numbers as what tells 0.0 from -0.0."""
    values = np.asarray(values)
    return values.view(np.int32) if values.dtype == np.float32 else values


def assert_same(one, other):
    pairs = {key: (one.tensors[key], other.tensors[key]) for key in one.tensors}
    for key in ("packed", "target", "act"):
        pairs[key] = getattr(one.battles, key), getattr(other.battles, key)
    different = [key for key, (a, b) in pairs.items() if not np.array_equal(bits(a), bits(b))]
    assert different == []


@pytest.mark.parametrize(
    ("difficulty", "reward"), [("normal", "positive"), ("hard", "signed"), ("easy", "positive")]
)
@pytest.mark.parametrize("game", [*MAPS.values(), ALL_AT_ONCE], ids=lambda game: game.name)
def test_compiled_battles_are_those_of_numpy(game, difficulty, reward):
    """Random fights, of which some stand still at times and ended ones begin anew."""
    one, two = pair = engines(game, difficulty=difficulty, reward=reward)
    rng, seeds = np.random.default_rng(0), torch.arange(SIZE)
    for engine in pair:
        engine.begin(torch.ones(SIZE, dtype=torch.bool), seeds)
    assert_same(one, two)
    replaced = False
    for step in range(70):
        act, active = legal_and_not(one, rng), torch.from_numpy(rng.random(SIZE) < 0.9)
        over = torch.zeros(SIZE, dtype=torch.bool)
        for engine in pair:
            engine.advance(act, active)
            over = engine.tensors["terminated"] | engine.tensors["truncated"]
        assert_same(one, two)
        replaced |= bool(one.battles.illegal.any())
        for engine in pair:
            engine.begin(over, seeds + 100 * step)
        assert_same(one, two)
    assert replaced


def test_random_play_meets_what_it_is_to_compare():
    """In the fights above there are victories, defeats, broken shields, healing and time-outs."""
    met = set()
    for game in (ALL_AT_ONCE, MAPS["4m_vs_3m"]):
        engine = SkirmishEngine(game, SIZE, difficulty="easy", backend="numba")
        rng, battles, n = np.random.default_rng(1), engine.battles, engine.layout.n
        for step in range(150):
            before = battles.pools.copy()
            engine.advance(legal_and_not(engine, rng), torch.ones(SIZE, dtype=torch.bool))
            ended, won = engine.tensors["terminated"], engine.tensors["metrics"][:, 0] > 0
            rises = battles.health > before[0]
            met |= {"won"} if won.any() else set()
            met |= {"lost"} if (ended & ~won).any() else set()
            met |= {"time"} if engine.tensors["truncated"].any() else set()
            met |= {"healed"} if rises[:n].any() and rises[n:].any() else set()
            met |= {"broken"} if ((before[1] > 0) & (battles.shield == 0)).any() else set()
            over = ended | engine.tensors["truncated"]
            engine.begin(over, torch.arange(SIZE) + 100 * step)
    assert met == {"won", "lost", "time", "healed", "broken"}


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_actions_come_in_any_integers_and_any_order_of_memory(kind):
    one, two = engines("3m")
    columns = torch.tensor([[4, 4, 1, 2, 9], [1, 4, 3, 0, 4], [4, -1, 4, 4, 5]], dtype=kind)
    for engine in (one, two):
        engine.advance(columns.T, torch.ones(SIZE, dtype=torch.bool))
    assert_same(one, two)


def test_what_is_refused_changes_nothing():
    engine = SkirmishEngine("3m", 2, illegal="refuse", backend="numba")
    before = copy.deepcopy(engine)
    bad = torch.tensor([[4, 4, 4], [4, 4, 8]])
    with pytest.raises(ValueError, match="action of agent 2 in environment 1, got 8"):
        step_rows(engine, bad, np.array([0, 1]))
    assert_same(engine, before)
    step_rows(engine, bad, np.array([0]))
    assert engine.battles.steps.tolist() == [1, 0]


def test_units_moved_by_hand_are_seen():
    one, two = engines("2s3z")
    for engine in (one, two):
        engine.battles.pos[0] += 3.0
        engine.battles.shield[:] = 1.0
        engine.battles.health[2, :3] = 0.0
        engine.encode()
        engine.advance(torch.ones(SIZE, 5, dtype=torch.int64), torch.ones(SIZE, dtype=torch.bool))
    assert_same(one, two)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_go_on_alike(copied):
    engine, rng = SkirmishEngine("MMM", SIZE, backend="numba"), np.random.default_rng(0)
    every = torch.ones(SIZE, dtype=torch.bool)
    for _ in range(10):
        engine.advance(legal_and_not(engine, rng), every)
    other = copied(engine)
    for _ in range(10):
        act = legal_and_not(engine, rng)
        engine.advance(act, every)
        assert (bits(engine.battles.packed) != bits(other.battles.packed)).any()
        other.advance(act, every)
        assert_same(engine, other)


def test_the_engine_keeps_the_contract():
    testing.check_engine(lambda size: SkirmishEngine("2s3z", size, backend="numba"))


def test_one_battle_in_pettingzoo_is_the_same(monkeypatch):
    """Observations, masks, rewards, infos and states of an environment alone."""
    episodes = {}
    for backend, patience in (("numpy", np.inf), ("numba", 0)):
        monkeypatch.setattr(engine_module, "_INTERPRETED", patience)
        env, rng, episode = envs.skirmish("3s_vs_3z"), np.random.default_rng(0), []
        episode.append(repr(env.reset(seed=7)))
        while env.agents:
            acts = {
                agent: int(rng.choice(9, p=[0, 0.1, 0, 0, 0.3, 0, *[0.2] * 3]))
                for agent in env.agents
            }
            episode.append(repr((env.step(acts), env.state())))
        assert (env.engine._compiled is not None) == (backend == "numba")
        episodes[backend] = episode
    assert episodes["numba"] == episodes["numpy"]


def test_compiled_code_is_loaded_when_a_process_has_played_a_while():
    """Neither by the package nor by an engine and its first steps; and no thread stays."""
    code = """
import json, os, sys
import torch
from robustmarl import envs
from robustmarl.envs.skirmish import engine as module
loaded, threads = [], []
def note():
    kernels = "robustmarl.envs.skirmish._step_kernel", "robustmarl.envs.skirmish._show_kernel"
    loaded.append([name in sys.modules for name in kernels])
    threads.append(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
note()
env = envs.skirmish("3m")
env.reset(seed=0)
env.step(dict.fromkeys(env.agents, 1))
engine = envs.skirmish("3m").make_engine(3)
every, act = torch.ones(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.int64)
engine.advance(act, every)
note()
module._INTERPRETED = 5
engine.advance(act, every)
engine.advance(act, every)
note()
print(json.dumps([loaded, threads]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded, threads = json.loads(done.stdout)
    assert loaded == [[False, False], [False, False], [True, True]]
    assert threads[1] == threads[2]


def test_without_numba_numpy_goes_on(monkeypatch):
    monkeypatch.setattr(engine_module, "_INTERPRETED", 0)
    act, every = torch.ones(SIZE, 3, dtype=torch.int64), torch.ones(SIZE, dtype=torch.bool)
    told_not_to = lambda: monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)  # noqa: E731
    not_there = lambda: monkeypatch.setitem(sys.modules, "numba", None)  # noqa: E731
    for trouble in (told_not_to, not_there):
        trouble()
        engine, other = SkirmishEngine("3m", SIZE), SkirmishEngine("3m", SIZE, backend="numpy")
        for each in (engine, other):
            each.advance(act, every)
        assert engine._compiled is None
        assert_same(engine, other)
        with pytest.raises(ValueError, match=r"backend must be one that works here.*got 'numba'"):
            SkirmishEngine("3m", backend="numba")


def half(number):
    return number / numba.float32(2)


def test_where_there_is_no_place_for_it_code_is_compiled_all_the_same():
    """Of a function from no file, as of one in a folder that cannot be written."""
    names = {"numba": numba}
    exec("def third(number): return number / numba.float32(3)", names)
    signature = numba.float32(numba.float32)
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(signature, cache=True)(names["third"])
    assert _numba.entry(signature)(names["third"])(3.0) == 1.0


def test_where_it_cannot_be_written_code_is_compiled_all_the_same(monkeypatch):
    def save(self, key, data):
        raise OSError("No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", save)
    signature = numba.float32(numba.float32)
    with pytest.raises(OSError, match="No space left"):
        numba.njit(signature, cache=True)(half)
    assert _numba.entry(signature)(half)(3.0) == 1.5


@pytest.mark.parametrize("name", ["_begin_kernel", "_step_kernel", "_show_kernel"])
def test_kernels_take_nothing_from_files_that_may_change_behind_what_was_compiled(name):
    """numba compiles anew when the function's own file has changed, and only then."""
    tree = ast.parse(Path(engine_module.__file__).with_name(f"{name}.py").read_text("utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith("robustmarl")] == [
        "robustmarl.envs.skirmish._numba"
    ]
