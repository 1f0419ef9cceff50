"""The adapter to StarCraft2Env, on a double of it; and what it says when something is missing."""

import copy
import sys
import textwrap

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows
from envs.smac_double import Game

from robustmarl import envs, evaluation
from robustmarl.data import RandomController
from robustmarl.envs.smac import SmacParallelEnv
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.testing import check_env

STOP, EAST, ATTACK = 1, 4, 6


@pytest.fixture
def log():
    return []


@pytest.fixture
def make(log):
    def build(*, dead="stay", illegal="replace", render_mode=None, **settings):
        return SmacParallelEnv(
            lambda seed: Game(log, seed, **settings),
            dead=dead,
            illegal=illegal,
            render_mode=render_mode,
        )

    return build


def both(env, action):
    return env.step(dict.fromkeys(env.agents, action))


def launches(log):
    return [seed for event, seed in log if event == "launch"]


@pytest.mark.parametrize("dead", ["stay", "leave"])
def test_keeps_the_contract(make, dead):
    check_env(lambda: make(dead=dead))


def test_says_of_itself_what_skirmish_says(make):
    env, other = make(), envs.skirmish("2m_vs_1z")
    spec = spec_of(env)
    assert spec.agents == spec_of(other).agents
    assert (spec.obs_size, spec.state_size, spec.num_actions, spec.horizon) == (3, 4, 7, 12)
    assert (spec.team_reward, spec.metrics) == ("mean", ("battle_won",))
    assert not hasattr(env, "make_engine")
    for ours, theirs in zip(
        (env.reset(seed=0), both(env, STOP)), (other.reset(seed=0), both(other, STOP)), strict=True
    ):
        assert _keys(ours) == _keys(theirs)


def _keys(value):
    """Return the nested keys and the kinds of the leaves."""
    if isinstance(value, dict):
        return {key: _keys(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_keys(part) for part in value]
    return value.dtype if isinstance(value, np.ndarray) else type(value)


def test_a_victory_terminates(make):
    env = make()
    env.reset(seed=0)
    both(env, ATTACK)
    obs, rewards, terminated, truncated, infos = both(env, ATTACK)
    assert rewards == {"agent_0": 2.0, "agent_1": 2.0}
    assert all(terminated.values())
    assert not any(truncated.values())
    assert infos["agent_1"] == {"alive": False, "battle_won": True, "illegal_actions": 0}
    assert [o["action_mask"].tolist() for o in obs.values()] == [[1] + [0] * 6] * 2
    assert env.agents == []
    assert env.step({}) == ({}, {}, {}, {}, {})


def test_a_time_limit_truncates(make):
    env = make(limit=2)
    env.reset(seed=0)
    both(env, STOP)
    obs, _, terminated, truncated, infos = both(env, STOP)
    assert not any(terminated.values())
    assert all(truncated.values())
    assert infos["agent_0"] == {"alive": True, "battle_won": False, "illegal_actions": 0}
    assert obs["agent_0"]["action_mask"].tolist() == [0] + [1] * 6
    assert env.agents == []


def test_a_victory_in_the_last_step_terminates(make):
    env = make(limit=2)
    env.reset(seed=0)
    both(env, ATTACK)
    _, _, terminated, truncated, _ = both(env, ATTACK)
    assert all(terminated.values())
    assert not any(truncated.values())


def test_the_dead_stay_with_only_the_no_op(make):
    env = make()
    env.reset(seed=0)
    for _ in range(2):
        obs, _, terminated, _, infos = env.step({"agent_0": EAST, "agent_1": STOP})
    assert env.agents == ["agent_0", "agent_1"]
    assert not any(terminated.values())
    assert not obs["agent_0"]["observation"].any()
    assert obs["agent_0"]["action_mask"].tolist() == [1] + [0] * 6
    assert [infos[a]["alive"] for a in env.agents] == [False, True]
    _, rewards, *_ = env.step({"agent_0": 0, "agent_1": ATTACK})
    assert rewards == {"agent_0": 1.0, "agent_1": 1.0}


def test_the_dead_leave_by_option(make):
    env = make(dead="leave", limit=4)
    env.reset(seed=0)
    _, rewards, *_ = env.step({"agent_0": EAST, "agent_1": ATTACK})
    assert rewards == {"agent_0": 0.5, "agent_1": 0.5}  # shares, whose sum is the team's
    _, _, terminated, truncated, infos = env.step({"agent_0": EAST, "agent_1": STOP})
    assert terminated == {"agent_0": True, "agent_1": False}
    assert not any(truncated.values())
    assert not infos["agent_0"]["alive"]
    assert env.agents == ["agent_1"]
    obs, rewards, *_, infos = env.step({"agent_1": ATTACK})
    assert env.game.joint[-1] == [0, ATTACK]
    assert list(obs) == list(infos) == ["agent_1"]
    assert rewards == {"agent_1": 1.0}
    assert infos["agent_1"]["illegal_actions"] == 0
    _, _, terminated, truncated, _ = env.step({"agent_1": STOP})
    assert (terminated, truncated) == ({"agent_1": False}, {"agent_1": True})


def test_who_dies_in_the_last_step_terminates_although_the_others_truncate(make):
    env = make(dead="leave", limit=2)
    env.reset(seed=0)
    for _ in range(2):
        _, _, terminated, truncated, _ = env.step({"agent_0": EAST, "agent_1": STOP})
    assert terminated == {"agent_0": True, "agent_1": False}
    assert truncated == {"agent_0": False, "agent_1": True}


@pytest.mark.parametrize("dead", ["stay", "leave"])
def test_the_teams_reward_does_not_depend_on_how_the_dead_are_kept(make, dead):
    vector = JointVectorEnv(lambda: make(dead=dead))
    rows = np.arange(1)
    begin_rows(vector, rows, [0])
    team = []
    for act in ([EAST, ATTACK], [EAST, STOP], [0, ATTACK], [0, ATTACK]):
        step_rows(vector, torch.tensor([act]), rows)
        rewards = vector.tensors["rew_agents"][0]
        team.append(float(rewards.sum() if vector.spec.team_reward == "sum" else rewards.mean()))
    assert team == [1.0, 0.0, 1.0, 1.0]
    assert vector.tensors["alive"][0].tolist() == [False, True]


def test_illegal_actions_are_replaced_and_counted(make):
    env = make()
    env.reset(seed=0)
    *_, infos = env.step({"agent_0": 0, "agent_1": 7})
    assert env.game.joint[-1] == [STOP, STOP]
    assert infos["agent_0"]["illegal_actions"] == infos["agent_1"]["illegal_actions"] == 2
    for _ in range(2):
        env.step({"agent_0": EAST, "agent_1": STOP})
    *_, infos = env.step({"agent_0": EAST, "agent_1": -1})
    assert env.game.joint[-1] == [0, STOP]
    assert infos["agent_1"]["illegal_actions"] == 4
    env.reset()
    *_, infos = both(env, STOP)
    assert infos["agent_0"]["illegal_actions"] == 0


def test_illegal_actions_are_refused_by_option(make):
    env = make(illegal="refuse")
    env.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"step\.actions\['agent_1'\] must be an available action, got 0\. See"
    ):
        env.step({"agent_0": STOP, "agent_1": 0})
    assert env.game.joint == []
    with pytest.raises(ValueError, match=r"step\.actions must be .* got \['agent_0'\]"):
        env.step({"agent_0": STOP})


def test_an_action_that_is_no_integer_is_refused(make):
    env = make()
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"step\.actions\['agent_1'\] must be an int, got 1\.5\."):
        env.step({"agent_0": STOP, "agent_1": 1.5})


def test_a_seed_relaunches_the_game(make, log):
    env = make()
    assert log == []
    first, _ = env.reset(seed=2**32 + 5)
    assert log == [("launch", 5)]
    again, _ = env.reset(seed=5)
    assert log == [("launch", 5), ("close", 5), ("launch", 5)]
    np.testing.assert_array_equal(first["agent_0"]["observation"], again["agent_0"]["observation"])
    with pytest.raises(TypeError, match=r"reset\.seed must be an int or None, got 0\.5"):
        env.reset(seed=0.5)


def test_without_a_seed_the_game_goes_on(make, log):
    env = make(limit=1)
    places = []
    for _ in range(3):
        obs, _ = env.reset()
        places.append(obs["agent_0"]["observation"][1])
        both(env, STOP)
    assert log == [("launch", None)]
    assert len(set(places)) == 3


def test_an_interrupted_first_episode_costs_a_launch_with_another_seed(make, log):
    env = make(limit=2)
    env.reset(seed=5)
    env.reset()
    assert launches(log)[0] == 5
    assert launches(log)[1] not in (None, 5)
    assert 0 <= launches(log)[1] < 2**32
    both(env, STOP)
    both(env, STOP)
    env.reset()
    both(env, STOP)
    env.reset()  # interrupted, but not the first
    assert len(launches(log)) == 2


def test_joint_environments_seed_only_their_first_episode(make, log):
    env = make(limit=2)
    result = evaluation.rollout(
        RandomController(spec_of(env)), lambda: make(limit=2), episodes=6, num_envs=2
    )
    assert len(result.returns) == 6
    assert len(launches(log)) == 2
    assert len(set(launches(log))) == 2
    assert None not in launches(log)


def test_a_crash_truncates_and_relaunches(make, log):
    env = make(crash_in=2)
    env.reset(seed=5)
    both(env, ATTACK)
    with pytest.warns(UserWarning, match="StarCraft II crashed; the episode is truncated"):
        _, _, terminated, truncated, infos = both(env, STOP)
    assert all(truncated.values())
    assert not any(terminated.values())
    assert infos["agent_0"]["battle_won"] is False
    env.reset()
    assert len(launches(log)) == 2


def test_a_crash_at_the_start_is_tried_once_more(log):
    lazy = iter([True, False])
    games = []

    def build(seed):
        games.append(Game(log, seed, lazy=bool(games) and next(lazy)))
        return games[-1]

    env = SmacParallelEnv(build)
    env.reset(seed=5)
    assert launches(log) == [5, 5]
    assert env.game is games[2]
    with pytest.raises(RuntimeError, match="StarCraft II must start an episode, got a crash"):
        SmacParallelEnv(lambda seed: Game(log, seed, lazy=True)).reset()


def test_closing_quits_and_a_reset_launches_again(make, log):
    env = make()
    env.close()
    assert log == []
    env.reset(seed=5)
    env.close()
    assert log == [("launch", 5), ("close", 5)]
    env.close()
    assert len(log) == 2
    env.reset()
    assert len(launches(log)) == 2


def test_what_was_shown_does_not_change(make):
    env = make()
    obs, _ = env.reset(seed=0)
    state = env.state()
    mask = obs["agent_0"]["action_mask"]
    shown = obs["agent_0"]["observation"].copy(), state.copy(), mask.copy()
    for _ in range(2):
        env.step({"agent_0": EAST, "agent_1": STOP})
    np.testing.assert_array_equal(obs["agent_0"]["observation"], shown[0])
    np.testing.assert_array_equal(state, shown[1])
    np.testing.assert_array_equal(mask, shown[2])
    assert (env.state() != state).any()


def test_no_copy_shares_its_process(make):
    with pytest.raises(TypeError, match=r"is a process of its own\. Make another"):
        copy.deepcopy(make())


def test_pictures_show_who_lives_where(make):
    env = make(render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="render must come after reset"):
        env.render()
    env.reset(seed=0)
    for _ in range(2):
        env.step({"agent_0": EAST, "agent_1": STOP})
    image = env.render()
    assert (image.shape, image.dtype) == ((6 * 20, 8 * 20, 3), np.uint8)
    at = [image[((6 - 4) * 20) + 1, int(x * 20) + 1].tolist() for x in (2.0, 5.0, 6.5)]
    assert at == [[24, 28, 24], [70, 140, 255], [255, 80, 60]]
    with pytest.raises(ValueError, match=r"smac\.render_mode must be 'rgb_array' to render"):
        make().render()


def test_starcrafts_replay_is_saved_by_the_game(make, log):
    env = make()
    env.reset(seed=0)
    env.save_replay()
    assert log[-1] == ("replay", 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dead": "go"}, r"smac\.dead must be one of \['stay', 'leave'\], got 'go'"),
        ({"illegal": "allow"}, r"smac\.illegal must be one of \['replace', 'refuse'\]"),
        ({"render_mode": "ansi"}, r"smac\.render_mode must be one of \[None, 'rgb_array'\]"),
    ],
)
def test_bad_options_are_refused(make, settings, text):
    with pytest.raises(ValueError, match=text):
        make(**settings)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Lay out packages of given sources, in place of whatever is installed."""

    def loaded():
        return [name for name in sys.modules if name.partition(".")[0] in ("smac", "pysc2")]

    def lay_out(sources):
        for path, source in sources.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            for folder in [file.parent, *file.parent.parents]:
                if folder == tmp_path:
                    break
                (folder / "__init__.py").touch()
            file.write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        for name in loaded():
            monkeypatch.delitem(sys.modules, name)
        return tmp_path

    yield lay_out
    for name in loaded():
        del sys.modules[name]


STARCRAFT = {
    "smac/env/__init__.py": "from envs.smac_double import Registered as StarCraft2Env",
    "smac/env/starcraft2/maps/smac_maps.py": """
        map_param_registry = {"3m": {}, "8m": {}, "2s3z": {}}
    """,
    "pysc2/lib/sc_process.py": "class SC2LaunchError(Exception): pass",
    "pysc2/maps.py": """
        class Map:
            def __init__(self, name):
                self.path = f"SMAC_Maps/{name}.SC2Map"
        get = Map
    """,
    "pysc2/run_configs.py": """
        class Config:
            def map_data(self, path):
                if "8m" in path:
                    raise ValueError(f"Map {path} not found in StarCraftII/Maps.")
                return b""
        def get(version=None):
            if version == "0.1":
                raise FileNotFoundError(2, "No such file or directory", "StarCraftII/Versions")
            return Config()
    """,
}


def test_the_map_and_the_options_reach_the_game(installed):
    installed(STARCRAFT)
    env = envs.smac("2s3z", difficulty="A", reward_sparse=True)
    env.reset(seed=3)
    assert env.game.settings == {
        "map_name": "2s3z",
        "difficulty": "A",
        "seed": 3,
        "continuing_episode": True,
        "reward_sparse": True,
    }


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "text"),
    [
        ((3,), {}, TypeError, r"smac\.map must be a name, got 3\."),
        (("3n",), {}, ValueError, r"smac\.map must be one of \['3m', .*\], got '3n'"),
        (
            ("3m",),
            {"difficulty": "hard"},
            ValueError,
            r"smac\.difficulty must be one of \['1', .*'A'\], got 'hard'\. StarCraft II's",
        ),
        (("3m",), {"seed": 3}, ValueError, r"smac\.options must be among \['game_version', "),
        (("3m",), {"speed": 3}, ValueError, r"smac\.options must be among .*, got \['speed'\]"),
        (
            ("3m",),
            {"game_version": "0.1"},
            FileNotFoundError,
            r"StarCraft II where pysc2 looks for it, got: .*StarCraftII/Versions.*SC2PATH",
        ),
        (
            ("8m",),
            {},
            FileNotFoundError,
            r"map file 'SMAC_Maps/8m\.SC2Map' .* Put smac's folder SMAC_Maps there",
        ),
    ],
)
def test_what_is_wrong_or_missing_is_named(installed, arguments, settings, error, text):
    installed(STARCRAFT)
    with pytest.raises(error, match=text):
        envs.smac(*arguments, **settings)


def test_the_other_smac_is_recognised_without_importing_it(installed):
    folder = installed({"smac/__init__.py": "raise SystemExit('SMAC3 was imported')"})
    with pytest.raises(ImportError, match=r"of StarCraft, got another one at .*SMAC3.*git\+https"):
        envs.smac("3m")
    (folder / "smac.py").touch()
    (folder / "smac" / "__init__.py").unlink()
    (folder / "smac").rmdir()
    with pytest.raises(ImportError, match="got another one at"):
        envs.smac("3m")


def test_without_smac_the_command_is_named(installed, monkeypatch):
    folder = installed({})
    monkeypatch.setattr(sys, "path", [str(folder)])
    with pytest.raises(ImportError, match=r"'smac', the StarCraft one\. Install .* git\+https"):
        envs.smac("3m")


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("import no_such_package_here", ImportError, "package 'no_such_package_here', on which"),
        (
            "raise TypeError('Descriptors cannot be created directly.')",
            ImportError,
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python before Python starts",
        ),
        ("raise TypeError('another')", TypeError, "another"),
    ],
)
def test_a_smac_that_cannot_be_imported_is_explained(installed, source, error, text):
    installed({**STARCRAFT, "smac/env/__init__.py": source})
    with pytest.raises(error, match=text):
        envs.smac("3m")
