"""One battle as a PettingZoo environment, and what training and evaluation make of it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows
from PIL import Image

from robustmarl import envs, evaluation
from robustmarl.data import RandomController
from robustmarl.envs.skirmish import MAPS, SkirmishEngine, picture, save_replay
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.testing import check_env


@pytest.mark.parametrize("name", ["2m_vs_1z", "3m", "2s3z", "MMM"])
def test_keeps_the_contract(name):
    check_env(lambda: envs.skirmish(name), episodes=2)


@pytest.mark.parametrize("name", MAPS)
def test_engine_and_environment_say_the_same_of_themselves(name):
    env = envs.skirmish(name)
    assert spec_of(env) == env.engine.spec
    assert spec_of(env).team_reward == "mean"
    assert spec_of(env).metrics == ("battle_won",)


@pytest.mark.parametrize("name", MAPS)
def test_the_batch_equals_the_environments_one_by_one(name):
    """All arrays, bit for bit, over whole episodes and resets of some rows."""
    size = 3
    one_by_one = JointVectorEnv(lambda: envs.skirmish(name), size)
    batch = SkirmishEngine(name, size)
    rng, rows, begun, ends = np.random.default_rng(1), np.arange(size), size, 0
    for env in (one_by_one, batch):
        begin_rows(env, rows, list(range(size)))
    for _ in range(90):
        for key, expected in one_by_one.tensors.items():
            if key != "metrics":
                assert torch.equal(batch.tensors[key], expected), key
        mask = batch.tensors["mask"].numpy()
        act = torch.from_numpy((rng.random(mask.shape) * (mask + 1e-3)).argmax(-1))
        over = (batch.tensors["terminated"] | batch.tensors["truncated"]).numpy()
        assert torch.equal(batch.tensors["metrics"][over], one_by_one.tensors["metrics"][over])
        playing, ended = np.flatnonzero(~over), np.flatnonzero(over)
        seeds = list(range(begun, begun + len(ended)))
        begun += len(ended)
        ends += len(ended)
        for env in (one_by_one, batch):
            step_rows(env, act, playing)
            begin_rows(env, ended, seeds)
    assert ends


def test_the_dead_stay_and_share_the_reward():
    env = envs.skirmish("3m")
    env.reset(seed=0)
    env.engine.battles.health[1, 0] = 0.0
    env.engine.battles.pos[:, 1, 0] = 1e4
    env.engine.battles.pos[:, 3, 0] = env.engine.battles.pos[:, 0, 0] + 4.0
    env.engine.encode()
    obs, rewards, terminated, _, infos = env.step({"agent_0": 6, "agent_1": 0, "agent_2": 5})
    assert env.agents == ["agent_0", "agent_1", "agent_2"]
    assert not obs["agent_1"]["observation"].any()
    assert obs["agent_1"]["action_mask"].tolist() == [1] + [0] * 8
    assert rewards == pytest.approx(dict.fromkeys(env.agents, 6 * 20 / 365))
    assert not any(terminated.values())
    assert [infos[a]["alive"] for a in env.agents] == [True, False, True]
    assert infos["agent_0"] == {"alive": True, "battle_won": False, "illegal_actions": 0}


def test_what_was_shown_does_not_change():
    env = envs.skirmish("3m")
    obs, _ = env.reset(seed=0)
    state = env.state()
    shown = obs["agent_0"]["observation"].copy(), state.copy()
    env.step(dict.fromkeys(env.agents, 4))
    np.testing.assert_array_equal(obs["agent_0"]["observation"], shown[0])
    np.testing.assert_array_equal(state, shown[1])
    assert (env.state() != state).any()


def test_without_a_seed_episodes_go_on_differing():
    env = envs.skirmish("3m")
    states = []
    for seed in (3, None, None, 3, None):
        env.reset(seed=seed)
        states.append(env.state())
    assert (states[0] == states[3]).all()
    assert (states[1] == states[4]).all()
    assert len({state.tobytes() for state in states}) == 3


def test_evaluation_plays_the_batch_as_it_plays_single_environments():
    env = envs.skirmish("3m")
    spec = spec_of(env)
    results = [
        evaluation.rollout(RandomController(spec), make, episodes=6, num_envs=4)
        for make in (lambda: envs.skirmish("3m"), lambda: envs.describe(envs.skirmish("3m")))
    ]
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    np.testing.assert_array_equal(results[0].lengths, results[1].lengths)
    assert results[0].figure("battle_won").tolist() == [0.0] * 6


def test_a_missing_action_is_refused():
    env = envs.skirmish("3m")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"step\.actions must be one per living agent"):
        env.step({"agent_0": 1})


@pytest.mark.parametrize("bad", [1.0, "1", None, np.float32(1)])
def test_an_action_that_is_no_integer_is_refused(bad):
    env = envs.skirmish("3m")
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"step\.actions\['agent_1'\] must be an int, got"):
        env.step({"agent_0": 1, "agent_1": bad, "agent_2": 1})


@pytest.mark.parametrize("bad", [0, 9, -1, 2**70])
def test_unavailable_actions_are_replaced_and_counted_or_refused(bad):
    env = envs.skirmish("3m")
    env.reset(seed=0)
    actions = {"agent_0": torch.tensor(1), "agent_1": np.array(1), "agent_2": bad}
    *_, infos = env.step(actions)
    assert infos["agent_0"]["illegal_actions"] == 1
    env = envs.skirmish("3m", illegal="refuse")
    env.reset(seed=0)
    text = rf"step\.actions\['agent_2'\] must be an available action, got {bad}\. See its action_m"
    with pytest.raises(ValueError, match=text):
        env.step(actions)


@pytest.mark.parametrize("bad", [0.5, "1", True])
def test_a_seed_of_a_wrong_kind_is_refused_and_forgotten(bad):
    env = envs.skirmish("3m")
    env.reset(seed=np.int64(3))
    with pytest.raises(TypeError, match=r"reset\.seed must be an int or None, got"):
        env.reset(seed=bad)
    env.reset()
    went_on, other = env.state(), envs.skirmish("3m")
    other.reset(seed=3)
    other.reset()
    np.testing.assert_array_equal(went_on, other.state())


def test_pictures_show_who_lives_where():
    env = envs.skirmish("2m_vs_1z", render_mode="rgb_array")
    env.reset(seed=0)
    battles = env.engine.battles
    battles.pos[:, :, 0] = np.array([[4.5, 20.5, 10.5], [12.5, 12.5, 20.5]])
    battles.health[1, 0] = 0.0
    image = env.render()
    assert (image.shape, image.dtype) == ((16 * 20, 32 * 20, 3), np.uint8)

    def at(x, y):
        return image[int((24 - y) * 20), int(x * 20)].tolist()

    assert at(4.5, 12.5) == [70, 140, 255]
    assert at(10.5, 20.5) == [255, 80, 60]
    assert at(20.5, 12.5) == [24, 28, 24]


def test_a_replay_is_an_animated_gif(tmp_path):
    engine = SkirmishEngine("3m", 2)
    begin_rows(engine, np.arange(2), [0, 1])
    frames = [picture(engine, 1)]
    for _ in range(3):
        step_rows(engine, torch.full((2, 3), 4), np.arange(2))
        frames.append(picture(engine, 1))
    save_replay(tmp_path / "battle.gif", frames)
    with Image.open(tmp_path / "battle.gif") as film:
        assert (film.n_frames, film.size) == (4, (640, 320))
        assert film.info["duration"] == pytest.approx(330, abs=5)


@pytest.mark.parametrize("shape", [(320, 640), (101, 77)])
def test_a_replay_is_a_film(tmp_path, shape):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    greys = [np.full((*shape, 3), grey, np.uint8) for grey in (40, 120, 200)]
    save_replay(tmp_path / "battle.mp4", greys, fps=2.0)
    command = [ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "battle.mp4")]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run([*command, *raw], capture_output=True, check=True)
    height, width = (side + side % 2 for side in shape)
    film = np.frombuffer(read.stdout, np.uint8).reshape(-1, height, width, 3)
    assert film.mean(axis=(1, 2, 3)) == pytest.approx([40, 120, 200], abs=4)
    told = read.stderr.decode()
    assert "h264" in told
    assert "2 fps" in told


def test_a_film_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(
        ImportError, match=r"needs the package 'imageio_ffmpeg'.*robustmarl\[video\]"
    ):
        save_replay(tmp_path / "battle.mp4", [np.zeros((4, 4, 3), np.uint8)])
    assert not (tmp_path / "battle.mp4").exists()


def test_bad_pictures_and_replays_are_refused(tmp_path):
    engine = SkirmishEngine("3m")
    frame = picture(engine)
    with pytest.raises(ValueError, match=r"picture\.env must be an int in \[0, 0\], got 1"):
        picture(engine, 1)
    with pytest.raises(ValueError, match=r"path must be a file name that ends in \.gif"):
        save_replay(tmp_path / "a.avi", [frame])
    with pytest.raises(ValueError, match="frames must be at least one image"):
        save_replay(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match="frames must be images of one size"):
        save_replay(tmp_path / "a.gif", [frame, frame[:10]])
    for ending in ("gif", "mp4"):
        for bad in (frame / 255.0, frame[..., 0], frame[..., :2], frame[:0]):
            rule = r"frames must be images, uint8 arrays \(H, W, 3\), got ndarray of shape \("
            with pytest.raises(ValueError, match=rule):
                save_replay(tmp_path / f"a.{ending}", [frame, bad])
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"skirmish\.render_mode must be 'rgb_array' to render"):
        envs.skirmish("3m").render()
    with pytest.raises(ValueError, match=r"render_mode must be one of \[None, 'rgb_array'\]"):
        envs.skirmish("3m", render_mode="human")
