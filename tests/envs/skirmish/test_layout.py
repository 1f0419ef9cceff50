"""SMAC's layouts: sizes of every map, and scenes whose numbers are worked out by hand."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from doubles import step_rows

from robustmarl.envs.skirmish import MAPS, SkirmishEngine, SkirmishMap, UnitType, skirmish
from robustmarl.envs.skirmish.layout import Layout

# map: observation, state, actions, limit, as SMAC reports them
SMAC = {
    "3m": (30, 48, 9, 60),
    "8m": (80, 168, 14, 120),
    "25m": (250, 950, 31, 150),
    "5m_vs_6m": (55, 98, 12, 70),
    "10m_vs_11m": (105, 243, 17, 150),
    "27m_vs_30m": (285, 1170, 36, 180),
    "2s3z": (80, 120, 11, 120),
    "3s5z": (128, 216, 14, 150),
    "1c3s5z": (162, 270, 15, 180),
    "MMM": (160, 290, 16, 150),
    "2s_vs_1sc": (17, 27, 7, 300),
    "2m_vs_1z": (16, 26, 7, 150),
    "3s_vs_3z": (36, 54, 9, 150),
    "3s_vs_4z": (42, 61, 10, 200),
    "3s_vs_5z": (48, 68, 11, 250),
    "MMM2": (176, 322, 18, 180),
    "corridor": (156, 282, 30, 400),
    "2c_vs_64zg": (332, 342, 70, 400),
    "so_many_baneling": (202, 397, 38, 100),
    "bane_vs_bane": (336, 984, 30, 200),
}


def scene(name, allies, enemies, **pools):
    """Return an engine of one environment with units at the given places."""
    engine = SkirmishEngine(name)
    battles, n = engine.battles, engine.layout.n
    for i, place in enumerate([*allies, *enemies]):
        battles.pos[:, i, 0] = (1e4 + 100 * i, 1e4 + 100 * i) if place is None else place
        if place is None:
            battles.pools[:, i, 0] = 0
    for key, values in pools.items():
        for i, value in values.items():
            getattr(battles, key)[i if i >= 0 else n - i - 1, 0] = value
    engine.encode()
    return engine, {key: tensor[0].numpy() for key, tensor in engine.tensors.items()}


NAMED = (
    *("3m", "8m", "25m", "6m", "15m", "20m", "5m_vs_6m", "8m_vs_9m", "10m_vs_11m", "27m_vs_30m"),
    *("4m_vs_3m", "2s3z", "3s5z", "3s5z_vs_3s6z", "1c3s5z", "2s_vs_1sc", "2m_vs_1z", "6h_vs_8z"),
    *("3s_vs_3z", "3s_vs_4z", "3s_vs_5z", "2c_vs_64zg"),
)
OTHERS = ("MMM", "MMM2", "corridor", "so_many_baneling", "bane_vs_bane")
LETTERS = {
    "m": "marine",
    "s": "stalker",
    "z": "zealot",
    "c": "colossus",
    "sc": "spine_crawler",
    "h": "hydralisk",
    "zg": "zergling",
}


def test_the_maps_are_those_of_smac_and_the_papers():
    assert sorted(MAPS) == sorted([*NAMED, *OTHERS])


@pytest.mark.parametrize("name", NAMED)
def test_who_fights_is_in_the_name(name):
    ours, _, theirs = name.partition("_vs_")
    for army, units in ((ours, MAPS[name].ally_units), (theirs or ours, MAPS[name].enemy_units)):
        told = {LETTERS[kind]: int(count) for count, kind in re.findall(r"(\d+)([a-z]+)", army)}
        assert Counter(unit.name for unit in units) == told


@pytest.mark.parametrize("name", SMAC)
def test_sizes_are_those_of_smac(name):
    layout = Layout(MAPS[name])
    sizes = (layout.obs_size, layout.state_size, layout.num_actions, MAPS[name].limit)
    assert sizes == SMAC[name]


@pytest.mark.parametrize("name", MAPS)
def test_sizes_follow_the_formulae(name):
    game = MAPS[name]
    n, m, types = len(game.ally_units), len(game.enemy_units), len(game.ally_types)
    ally, enemy = game.shields
    layout, spec = Layout(game), SkirmishEngine(game).spec
    assert layout.obs_size == (
        4 + m * (5 + enemy + types) + (n - 1) * (5 + ally + types) + 1 + ally + types
    )
    assert layout.num_actions == 6 + m
    assert layout.state_size == (
        n * (4 + ally + types) + m * (3 + enemy + types) + n * layout.num_actions
    )
    assert (spec.obs_size, spec.state_size) == (layout.obs_size, layout.state_size)
    assert (spec.num_actions, spec.horizon) == (layout.num_actions, game.limit)


def test_an_observation_feature_by_feature():
    _, now = scene(
        "2m_vs_1z",
        [(10.0, 16.0), (7.0, 12.0)],
        [(13.0, 20.0)],
        health={0: 30.0, -1: 80.0},
        shield={-1: 10.0},
    )
    first, second = now["obs"]
    expected = [1, 1, 1, 1]  # may go north, south, east, west
    expected += [1, 5 / 9, 3 / 9, 4 / 9, 80 / 100, 10 / 50]  # zealot: five cells away
    expected += [1, 5 / 9, -3 / 9, -4 / 9, 1]  # the other marine, unhurt
    expected += [30 / 45]
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-6)
    # ten cells from the second marine: out of sight, and out of reach
    np.testing.assert_allclose(second[4:10], 0)
    np.testing.assert_allclose(second[10:], [1, 5 / 9, 3 / 9, 4 / 9, 30 / 45, 1], atol=1e-6)
    assert now["mask"].tolist() == [
        [False, True, True, True, True, True, True],
        [False, True, True, True, True, True, False],
    ]
    assert now["alive"].all()


def test_seen_between_six_and_nine_cells_but_not_attackable():
    _, now = scene("2m_vs_1z", [(10.0, 16.0), (16.0, 16.0)], [(18.0, 16.0)])
    assert now["obs"][0, 4:8] == pytest.approx([0, 8 / 9, 8 / 9, 0])
    assert not now["mask"][0, 6]
    assert now["obs"][1, 4] == 1
    for distance, seen, reached in ((6.0, True, True), (6.01, True, False), (9.0, False, False)):
        _, now = scene("2m_vs_1z", [(10.0, 16.0), (1.0, 9.0)], [(10.0 + distance, 16.0)])
        assert (now["obs"][0, 5] > 0, now["mask"][0, 6]) == (seen, reached), distance


def test_the_state_number_by_number():
    engine, now = scene(
        "2m_vs_1z",
        [(10.0, 16.0), (7.0, 12.0)],
        [(13.0, 20.0)],
        health={0: 30.0, -1: 80.0},
        shield={-1: 10.0},
        weapon_cooldown={0: 6.0},
    )
    expected = [30 / 45, 6 / 15, -6 / 32, 0, 1, 0, -9 / 32, -4 / 32]
    expected += [80 / 100, -3 / 32, 4 / 32, 10 / 50]
    np.testing.assert_allclose(now["state"], expected + [0] * 14, rtol=0, atol=1e-6)
    step_rows(engine, torch.tensor([[6, 2]]), np.array([0]))
    last = engine.tensors["state"][0, 12:].reshape(2, 7)
    assert last.argmax(-1).tolist() == [6, 2]
    assert last.sum() == 2


def test_dead_agents_see_zeros_and_can_do_nothing():
    _, now = scene("3m", [(10.0, 16.0), None, None], [(12.0, 16.0), None, (13.0, 16.0)])
    assert not now["obs"][1:].any()
    assert now["mask"][1:].tolist() == [[True] + [False] * 8] * 2
    assert now["alive"].tolist() == [True, False, False]
    assert not now["obs"][0, 4 + 3 * 5 : -1].any()  # nor does anybody see them
    assert now["obs"][0, 4:19].reshape(3, 5)[:, 0].tolist() == [1, 0, 1]
    assert now["mask"][0].tolist() == [False, True, True, True, True, True, True, False, True]
    assert not now["state"][4:12].any()
    assert not now["state"][12 + 3 : 12 + 6].any()


def test_types_are_counted_the_other_way_round_for_enemies():
    """Allies: stalker, zealot; enemies: zealot, stalker, as the unit numbers 73 and 74 have it."""
    layout = Layout(MAPS["2s3z"])
    hot = layout.one_hot_types()
    assert hot.argmax(0).tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    spots = [(10.0 + i, 16.0) for i in range(5)], [(10.0 + i, 18.0) for i in range(5)]
    _, now = scene("2s3z", *spots)
    enemies = now["obs"][0, 4 : 4 + 5 * 8].reshape(5, 8)
    assert enemies[:, 6:].tolist() == [[0, 1]] * 2 + [[1, 0]] * 3
    allies = now["obs"][0, 44:-4].reshape(4, 8)
    assert allies[:, 6:].tolist() == [[1, 0]] + [[0, 1]] * 3
    assert now["obs"][0, -4:].tolist() == [1, 1, 1, 0]
    assert now["obs"][4, -4:].tolist() == [1, 1, 0, 1]
    state = now["state"]
    assert state[: 5 * 7].reshape(5, 7)[:, 5:].argmax(-1).tolist() == [0, 0, 1, 1, 1]
    assert state[35 : 35 + 30].reshape(5, 6)[:, 4:].argmax(-1).tolist() == [1, 1, 0, 0, 0]


def test_types_of_the_other_mixed_maps():
    assert (
        Layout(MAPS["1c3s5z"]).one_hot_types().argmax(0).tolist() == ([0] + [1] * 3 + [2] * 5) * 2
    )
    assert Layout(MAPS["MMM"]).one_hot_types().argmax(0).tolist() == ([0] * 2 + [1] * 7 + [2]) * 2


@pytest.mark.parametrize(
    ("place", "moves"),
    [  # the field is x in [0, 32), y in [8, 24); one cell on must be on it, cut to whole cells
        ((0.0, 8.5), [1, 0, 1, 0]),  # -1 is off the map
        ((0.5, 9.0), [1, 1, 1, 1]),  # int(-0.5) is 0: still on it
        ((31.0, 22.99), [1, 1, 0, 1]),
        ((30.99, 23.0), [0, 1, 1, 1]),
    ],
)
def test_moves_are_masked_by_cutting_to_cells(place, moves):
    _, now = scene("2m_vs_1z", [place, (16.0, 16.0)], [(16.0, 20.0)])
    assert now["obs"][0, :4].tolist() == moves
    assert now["mask"][0, 2:6].tolist() == [bool(m) for m in moves]
    x, y = place
    for (dx, dy), good in zip([(0, 1), (0, -1), (1, 0), (-1, 0)], moves, strict=True):
        inside = 0 <= math.trunc(x + dx) < 32 and 8 <= math.trunc(y + dy) < 24
        assert inside == bool(good)


def test_the_healer_targets_allies_and_shows_its_energy():
    game = SkirmishMap(
        name="heal", allies=(("marine", 2), ("medivac", 1)), enemies=(("marine", 1),), limit=9
    )
    _, now = scene(
        game, [(10.0, 16.0), (17.0, 16.0), (12.0, 16.0)], [(14.0, 16.0)], health={0: 20.0}
    )
    assert now["mask"][2, 6:].tolist() == [True, True, False]  # no medivac, hence not itself
    assert now["mask"][0, 6:].tolist() == [True, False, False]
    # what it may heal stands where others read what they may shoot, as in SMAC
    assert now["obs"][2, 4] == 1
    _, hidden = scene(game, [None, (20.0, 16.0), (12.0, 16.0)], [(14.0, 16.0)])
    assert hidden["obs"][2, 4:6].tolist() == [0, pytest.approx(2 / 9)]
    assert now["state"][2 * 6 + 1] == pytest.approx(50 / 200)


def test_the_state_space_holds_a_healers_energy():
    """A medivac's is divided by 200, which is all of it, another healer's by what it says."""
    medic = UnitType(name="medic", health=60.0, heal=5.0, range=4.0, max_cooldown=15.0)
    for healer, most in (("medivac", 1.0), (medic, 200 / 15)):
        game = SkirmishMap(
            name="heal", allies=(("marine", 2), (healer, 1)), enemies=(("zealot", 2),), limit=30
        )
        assert Layout(game).max_state == most
        env = skirmish(game)
        env.reset(seed=0)
        env.engine.battles.energy[2] = 200.0
        env.engine.encode()
        assert env.state_space.contains(env.state())
        assert env.state().max() == pytest.approx(most)


def test_a_shield_on_one_side_with_mixed_types():
    game = SkirmishMap(
        name="mixed", allies=(("marine", 2),), enemies=(("zealot", 1), ("marauder", 1)), limit=9
    )
    layout = Layout(game)
    assert (layout.enemy_size, layout.ally_size, layout.types) == (9, 8, 3)
    _, now = scene(game, [(10.0, 16.0), (10.0, 18.0)], [(13.0, 16.0), (10.0, 13.0)])
    enemies = now["obs"][0, 4:22].reshape(2, 9)
    assert enemies[0] == pytest.approx([1, 3 / 9, 3 / 9, 0, 1, 1, 0, 1, 0])
    assert enemies[1] == pytest.approx([1, 3 / 9, 0, -3 / 9, 1, 0, 0, 0, 1])
    assert now["obs"][0, 22:30] == pytest.approx([1, 2 / 9, 0, 2 / 9, 1, 1, 0, 0])
    assert now["obs"][0, 30:].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["3m", "2s3z", "3s_vs_3z", "MMM2"])
def test_every_coordinate_has_a_name(name):
    layout = Layout(MAPS[name])
    names = layout.feature_names()
    assert len(names) == len(set(names)) == layout.obs_size
    first = names[layout.obs_enemies][: layout.enemy_size]
    assert first[:5] == [f"enemy 0 {what}" for what in ("in range", "distance", "x", "y", "health")]
    assert names[layout.obs_allies][0] == "ally 0 visible"
    assert names[layout.obs_itself][0] == "own health"
    assert names[layout.obs_moves] == [f"can walk {w}" for w in ("north", "south", "east", "west")]
