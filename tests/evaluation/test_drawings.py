"""Recordings as animations: whole, of one size, and marked where something is to be seen."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_doubles import pictures, recordings

from robustmarl import envs
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.envs.vector import vector_env
from robustmarl.evaluation import record, rollout
from robustmarl.evaluation.drawings import _believer_at, draw
from robustmarl.evaluation.recordings import RecordedStep
from robustmarl.joint import spec_of

YELLOW, WHITE, SHOT, WALL = (255, 190, 40), (255, 255, 255), (255, 220, 120), (90, 96, 90)
PAINT, BLUE, RED = (120, 128, 120), (70, 140, 255), (255, 80, 60)
STILL = 8  # pictures for which an ending stands


def has(image, colour):
    return bool((image == np.array(colour, np.uint8)).all(axis=-1).any())


def test_every_step_is_drawn_and_endings_stand(tmp_path):
    recording = recordings()[1]
    frames = recording.save(tmp_path / "r.gif")
    steps = sum(len(episode.steps) for episode in recording.episodes)
    assert len(frames) == steps + STILL * len(recording.episodes)
    assert len({frame.shape for frame in frames}) == 1
    with Image.open(tmp_path / "r.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 2


def test_marks_are_where_something_happened():
    for recording in recordings():
        frames = iter(draw(recording, "agent_1"))
        for episode in recording.episodes:
            for step in episode.steps:
                field = next(frames)[26:-52]
                names = [entity.name for entity in step.scene.entities]
                assert has(field, SHOT) == bool(step.scene.shots)
                assert has(field, YELLOW) == any(name in names for name in step.intended)
                rings = "agent_1" in step.ghosts and "agent_1" in names
                assert has(field, WHITE) == rings
            for _ in range(STILL):
                next(frames)


@pytest.mark.parametrize(
    "make",
    [
        envs.gather,
        functools.partial(envs.foraging, 5, 2, 2, horizon=6),
        functools.partial(envs.skirmish, "2s3z"),
    ],
)
def test_one_way_to_draw_all_environments(make):
    noise = UniformNoise(ball=LinfBall(epsilon=0.5))
    team = RandomController(spec_of(make()))
    recording = record(team, make, perturb=noise, episodes=1)
    frames = draw(recording, recording.agents[0])
    assert has(frames[0], WHITE)
    played = rollout(team, make, episodes=1, num_envs=1, perturb=noise)
    assert len(frames) == played.lengths[0] + 1 + STILL


def test_teams_are_named_in_their_colours_below(tmp_path):
    for frame in draw(recordings()[1], "agent_1"):
        below = frame[-26:]
        assert has(below, BLUE)
        assert has(below, RED)
    assert not has(pictures().save(tmp_path / "r.gif")[0][-26:], BLUE)


def test_endings_are_told_above_or_over_the_field_where_they_are_long():
    recording = recordings()[0]
    (episode, *_) = recording.episodes
    last = len(episode.steps) - 1

    def drawn(**figures):
        told = replace(episode, figures=figures)
        return draw(replace(recording, episodes=(told,)))

    names = dict.fromkeys([f"something {letter}" for letter in "abcdef"], 1.0)
    none, won, lost, long = drawn(), drawn(won=1.0), drawn(won=0.0), drawn(**names)
    heads, fields = (
        [frames[last][rows] for frames in (none, won, lost, long)]
        for rows in (slice(26), slice(26, None))
    )
    assert not any(np.array_equal(heads[1], head) for head in (heads[0], *heads[2:]))
    assert np.array_equal(fields[1], fields[0])
    assert not np.array_equal(fields[3], fields[0])
    for frames in (won, long):
        assert all(np.array_equal(*pair) for pair in zip(frames[:last], none[:last], strict=True))


def test_walls_are_drawn():
    def make():
        return envs.pursuit(12, horizon=3)

    spec = vector_env(make, 1).spec
    players = {name: RandomController(spec.of_team(name)) for name in spec.teams}
    recording = record(
        players["predator"], make, team="predator", opponents={"prey": players["prey"]}, episodes=1
    )
    assert has(draw(recording)[0], WALL)


def test_lines_are_painted():
    """Borders of the merging cars' road, and not of a task that has none."""
    recording = record(RandomController(spec_of(envs.merge())), envs.merge, episodes=1)
    (upper, _), *_ = recording.lines
    assert upper == (0.0, -20.0)
    assert has(draw(recording)[0], PAINT)
    assert not has(draw(replace(recording, lines=()))[0], PAINT)


def test_pictures_are_framed(tmp_path):
    frames = pictures().save(tmp_path / "r.gif")
    assert frames[0].shape == (4 * 100 + 52, 6 * 100, 3)  # as wide as a field
    assert (frames[0][26:30] == 7).all()


def test_refuses(tmp_path):
    recording = pictures()
    with pytest.raises(ValueError, match=r"Recording\.save\.path must be a file name that ends"):
        recording.save(tmp_path / "r.avi")
    with pytest.raises(ValueError, match=r"Recording\.save\.believer must be one of"):
        recording.save(tmp_path / "r.gif", believer="medic")
    with pytest.raises(ValueError, match=r"Recording\.save\.fps must be"):
        recording.save(tmp_path / "r.gif", fps=0.0)


def test_the_first_agent_that_is_misled_is_drawn_unless_another_is_named():
    """Whose action changes, else who does not see the truth, else nobody."""
    ghosts = dict.fromkeys(("medic", "scout"), ())
    step = RecordedStep(ghosts=ghosts, acts={"medic": 0, "scout": 1}, intended={"scout": 2})
    assert _believer_at(step, None) == "scout"
    assert _believer_at(replace(step, intended={}), None) == "medic"
    assert _believer_at(replace(step, ghosts={}), None) is None
    assert _believer_at(step, "medic") == "medic"
    assert _believer_at(step, "driver") is None
