"""What an agent believes, against what is there, and pictures of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmarl.envs.skirmish import MAPS, SkirmishEngine
from robustmarl.envs.skirmish.replay import beliefs, draw_scenes, snapshot
from robustmarl.envs.skirmish.rules import SIGHT

EAST = 4
SHOT, RING, YELLOW = (120, 180, 255), (255, 255, 255), (255, 190, 40)


def walked(name, steps):
    """Return an engine of one battle whose agents walk east as long as they can."""
    engine = SkirmishEngine(MAPS[name], 1)
    every = torch.ones(1, dtype=torch.bool)
    engine.begin(every, torch.tensor([3]))
    for _ in range(steps):
        mask = engine.tensors["mask"][0]
        act = torch.where(mask[:, EAST], EAST, mask.int().argmax(-1))
        engine.advance(act[None], every)
    return engine


def has(image, colour):
    return bool((image == np.array(colour, np.uint8)).all(axis=-1).any())


@pytest.mark.parametrize("name", ["3m", "2s3z", "3s_vs_3z", "MMM2"])
@pytest.mark.parametrize("steps", [0, 14])
def test_a_true_observation_shows_whom_it_sees_where_they_are(name, steps):
    engine = walked(name, steps)
    layout, scene = engine.layout, snapshot(engine)
    for agent in range(layout.n):
        if scene.health[agent] <= 0.0:
            continue
        place = tuple(scene.pos[:, agent].tolist())
        row = engine.tensors["obs"][0, agent].numpy()
        found = {ghost.unit: ghost for ghost in beliefs(layout, agent, row, place)}
        far = np.hypot(*(scene.pos - scene.pos[:, agent, None]))
        share = scene.health / np.array([unit.health for unit in layout.units])
        near = (far < SIGHT) & (share > 0.05) & (np.arange(len(far)) != agent)
        assert set(found) == set(np.flatnonzero(near))
        for unit, ghost in found.items():
            assert (ghost.x, ghost.y) == pytest.approx(tuple(scene.pos[:, unit]), abs=1e-4)
            assert ghost.health == pytest.approx(share[unit], abs=1e-5)


def test_what_is_perturbed_is_believed():
    engine = walked("3m", 0)
    layout, row = engine.layout, np.zeros(engine.spec.obs_size, np.float32)
    enemies = row[layout.obs_enemies].reshape(3, layout.enemy_size)
    enemies[1] = (0.0, 0.5, 0.4, -0.2, 1.3)
    (ghost,) = beliefs(layout, 0, row, (10.0, 5.0))
    assert ghost.unit == 4
    assert (ghost.x, ghost.y) == pytest.approx((10.0 + 0.4 * SIGHT, 5.0 - 0.2 * SIGHT))
    assert ghost.health == 1.0


def test_pictures_show_shots_rings_and_the_outcome():
    engine = walked("3m", 0)
    every, scenes = torch.ones(1, dtype=torch.bool), [snapshot(engine)]
    while not bool(engine.tensors["terminated"][0] | engine.tensors["truncated"][0]):
        mask = engine.tensors["mask"][0]
        shoots = mask[:, 6:].any(-1)
        first = 6 + mask[:, 6:].int().argmax(-1)
        act = torch.where(shoots, first, torch.where(mask[:, EAST], EAST, mask.int().argmax(-1)))
        engine.advance(act[None], every)
        scenes.append(snapshot(engine))
    assert [scene.step for scene in scenes] == list(range(len(scenes)))
    frames = draw_scenes(engine.layout, scenes, title="a battle")
    assert len({frame.shape for frame in frames}) == 1
    fired = [has(frame, SHOT) for frame in frames]
    assert not fired[0]
    assert any(fired)
    first = fired.index(True)
    assert (scenes[first].cooldown[:3] > scenes[first - 1].cooldown[:3]).any()
    assert not any(has(frame, RING) or has(frame, YELLOW) for frame in frames)
    seen = np.zeros((3, engine.spec.obs_size), np.float32)
    start = replace(scenes[0], seen=seen, changed=np.array([False, True, False]), outcome="lost")
    (frame,) = draw_scenes(engine.layout, [start], believer=0)
    assert has(frame, RING)
    assert has(frame, YELLOW)
    (plain,) = draw_scenes(engine.layout, [replace(start, outcome="")], believer=0)
    assert not np.array_equal(frame, plain)
    with pytest.raises(ValueError, match=r"draw_scenes\.scenes must be at least one"):
        draw_scenes(engine.layout, [])
    with pytest.raises(ValueError, match=r"draw_scenes\.believer must be an int in \[0, 2\]"):
        draw_scenes(engine.layout, scenes, believer=3)
    with pytest.raises(ValueError, match=r"snapshot\.env must be an int in \[0, 0\]"):
        snapshot(engine, 1)
