"""What an agent believes, against what is there, and who shoots."""

import numpy as np
import pytest
import torch

from robustmarl.envs.skirmish import MAPS, SkirmishEngine, SkirmishMap, UnitType
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


@pytest.mark.parametrize("difficulty", ["normal", "hard"])
@pytest.mark.parametrize("backend", ["numba", "numpy", "torch"])
def test_whoever_is_shot_at_loses_six_points_a_shot(difficulty, backend):
    """A marine's shot takes 6, whoever its target was when it fell and is now."""
    engine = SkirmishEngine("8m", 1, difficulty=difficulty, backend=backend)
    every = torch.ones(1, dtype=torch.bool)
    engine.begin(every, torch.tensor([0]))
    stage = engine.stage()
    before, deaths = {one.name: one for one in stage.scene().entities}, 0
    while not bool(engine.tensors["terminated"][0] | engine.tensors["truncated"][0]):
        mask = engine.tensors["mask"][0]
        first = 6 + mask[:, 6:].int().argmax(-1)
        walks = torch.where(mask[:, EAST], EAST, mask.int().argmax(-1))
        engine.advance(torch.where(mask[:, 6:].any(-1), first, walks)[None], every)
        scene = stage.scene()
        now = {one.name: one for one in scene.entities}
        shot_at = [(shot.x, shot.y) for shot in scene.shots]
        hits = 0
        for name, one in before.items():
            there = now.get(name, one)
            shots = shot_at.count((there.x, there.y))
            lost = 45.0 * (one.health - (now[name].health if name in now else 0.0))
            assert lost == pytest.approx(6.0 * shots, abs=1e-3) or (
                name not in now and lost < 6.0 * shots
            )
            hits, deaths = hits + shots, deaths + (name not in now)
        assert hits == len(shot_at)
        before = now
    assert deaths >= 8


def test_shots_that_cannot_hurt_are_none():
    """Zealots do not reach what flies, and healers heal; a look that missed a step sees nothing."""
    bird = UnitType(name="bird", health=60.0, flying=True, speed=0.0)
    game = SkirmishMap(
        name="birds",
        allies=(("zealot", 1), ("medivac", 1)),
        enemies=((bird, 1),),
        limit=9,
        ally_start=(15.0, 16.0),
        enemy_start=(16.0, 16.0),
    )
    engine, every = SkirmishEngine(game, 1), torch.ones(1, dtype=torch.bool)
    stage = engine.stage()
    stage.scene()
    for _ in range(3):
        engine.advance(torch.tensor([[6, 6]]), every)
        assert stage.scene().shots == ()
    marines = SkirmishEngine("3m", 1)
    marines.battles.pos[0, :, 0] = 16.0
    marines.encode()
    stage = marines.stage()
    stage.scene()
    for steps, seen in ((1, True), (2, False)):
        for _ in range(steps):
            marines.battles.weapon_cooldown[...] = 0.0
            marines.advance(torch.ones(1, 3, dtype=torch.int64), every)
        assert bool(stage.scene().shots) is seen


def test_units_say_what_they_are():
    scene = walked("2s3z", 0).stage().scene()
    assert {entity.kind for entity in scene.entities} == {"stalker", "zealot"}
    assert all((entity.health, entity.shield) == (1.0, 1.0) for entity in scene.entities)
    assert walked("3m", 0).stage().scene().entities[0].shield is None
    healers = walked("MMM2", 0).stage().actions
    assert healers[6] == "attack enemy_0, or heal agent_0"
