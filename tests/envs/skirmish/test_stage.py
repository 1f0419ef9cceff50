"""What an agent believes, against what is there, and who shoots."""

import numpy as np
import pytest
import torch

from robustmarl.envs.skirmish import MAPS, SkirmishEngine
from robustmarl.envs.skirmish.rules import SIGHT

EAST = 4


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


@pytest.mark.parametrize("name", ["3m", "2s3z", "3s_vs_3z", "MMM2"])
@pytest.mark.parametrize("steps", [0, 14])
def test_a_true_observation_shows_whom_it_sees_where_they_are(name, steps):
    engine = walked(name, steps)
    stage = engine.stage()
    there = {entity.name: entity for entity in stage.scene().entities}
    assert len(there) == int((engine.battles.health[:, 0] > 0.0).sum())
    for number, agent in enumerate(engine.spec.agents):
        ghosts = stage.ghosts(agent, engine.tensors["obs"][0, number].numpy())
        if agent not in there:
            assert ghosts == ()
            continue
        own, found = there[agent], {ghost.name: ghost for ghost in ghosts}
        near = {
            one.name
            for one in there.values()
            if np.hypot(one.x - own.x, one.y - own.y) < SIGHT and one.health > 0.05
        }
        assert set(found) == near - {agent}
        for ghost in ghosts:
            one = there[ghost.name]
            assert (ghost.x, ghost.y) == pytest.approx((one.x, one.y), abs=1e-4)
            assert ghost.health == pytest.approx(one.health, abs=1e-5)


def test_what_is_perturbed_is_believed():
    engine = walked("3m", 0)
    stage = engine.stage()
    own = stage.scene().entities[0]
    layout, row = engine.layout, np.zeros(engine.spec.obs_size, np.float32)
    enemies = row[layout.obs_enemies].reshape(3, layout.enemy_size)
    enemies[1] = (0.0, 0.5, 0.4, -0.2, 1.3)
    (ghost,) = stage.ghosts("agent_0", row)
    assert ghost.name == "enemy_1"
    assert (ghost.x, ghost.y) == pytest.approx((own.x + 0.4 * SIGHT, own.y - 0.2 * SIGHT))
    assert ghost.health == 1.0


def test_shots_are_those_of_weapons_that_were_fired():
    engine = walked("3m", 0)
    stage = engine.stage()
    every, before = torch.ones(1, dtype=torch.bool), stage.scene()
    assert before.shots == ()
    shots = []
    while not bool(engine.tensors["terminated"][0] | engine.tensors["truncated"][0]):
        mask = engine.tensors["mask"][0]
        shoots = mask[:, 6:].any(-1)
        first = 6 + mask[:, 6:].int().argmax(-1)
        act = torch.where(shoots, first, torch.where(mask[:, EAST], EAST, mask.int().argmax(-1)))
        ready = engine.battles.weapon_cooldown[:, 0].copy()
        engine.advance(act[None], every)
        scene = stage.scene()
        for shot in scene.shots:
            unit = [*engine.spec.agents, "enemy_0", "enemy_1", "enemy_2"].index(shot.name)
            assert engine.battles.weapon_cooldown[unit, 0] > max(ready[unit] - 8, 0.0)
            ends = [(one.x, one.y) for one in (*scene.entities, *before.entities)]
            assert (shot.x, shot.y) in ends
        shots += scene.shots
        before = scene
    assert {shot.name.partition("_")[0] for shot in shots} == {"agent", "enemy"}
    engine.begin(every, torch.tensor([4]))
    assert stage.scene().shots == ()


def test_units_say_what_they_are():
    scene = walked("2s3z", 0).stage().scene()
    assert {entity.kind for entity in scene.entities} == {"stalker", "zealot"}
    assert all((entity.health, entity.shield) == (1.0, 1.0) for entity in scene.entities)
    assert walked("3m", 0).stage().scene().entities[0].shield is None
    healers = walked("MMM2", 0).stage().actions
    assert healers[6] == "attack enemy_0, or heal agent_0"
