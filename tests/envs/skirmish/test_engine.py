"""The dynamics: small fights worked out by hand, then what holds in every fight."""

import numpy as np
import pytest
import torch
from doubles import begin_rows, step_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmarl.envs.skirmish import (
    DIFFICULTIES,
    MAPS,
    UNITS,
    SkirmishEngine,
    SkirmishMap,
    UnitType,
)
from robustmarl.envs.skirmish._ops import ops_for
from robustmarl.envs.skirmish.dynamics import Dynamics
from robustmarl.envs.skirmish.formations import Formation
from robustmarl.envs.skirmish.tables import Tables
from robustmarl.envs.vector import vector_env

ALL = np.array([0])


def duel(ally, enemy, gap, *, difficulty="hard", limit=100, **options):
    """Return a fight of one against one, ``gap`` cells apart, the ally on the left."""
    game = SkirmishMap(
        name="duel",
        allies=((ally, 1),) if not isinstance(ally, tuple) else ally,
        enemies=((enemy, 1),) if not isinstance(enemy, tuple) else enemy,
        limit=limit,
    )
    engine = SkirmishEngine(game, difficulty=difficulty, **options)
    for i in range(len(engine.layout.units)):
        x = 10.0 if i < engine.layout.n else 10.0 + gap
        engine.battles.pos[:, i, 0] = x, 16.0 + 2.0 * (i if i < engine.layout.n else 0)
    engine.encode()
    return engine


def act(engine, *actions):
    step_rows(engine, torch.tensor([actions]), ALL)


def pools(engine):
    return engine.battles.pools[:, :, 0].tolist()


def random_actions(engine, rng, illegal=0.0):
    mask = engine.tensors["mask"].cpu().numpy()
    return torch.from_numpy((rng.random(mask.shape) * (mask + illegal)).argmax(-1))


DUMMY = UnitType(name="dummy", health=1000.0, speed=0.0)
SHIELDED = UnitType(name="shielded", health=1000.0, shield=9.0, armor=2.0, speed=0.0)


def test_a_marine_shoots_every_cooldown():
    """One shot at tick 0 and at the next whole tick after each 0.61 s = 13.664 ticks."""
    engine = duel("marine", DUMMY, 4.0)
    shots = [0, 14, 28, 42]
    for step in range(5):
        act(engine, 6)
        fired = sum(tick < 8 * (step + 1) for tick in shots)
        assert 1000 - engine.battles.health[1, 0] == 6 * fired, step


def test_armour_does_not_protect_a_shield():
    """6 points into 9 of shield, then 3 more and half of what armour leaves of the second."""
    engine = duel("marine", SHIELDED, 4.0)
    act(engine, 6)
    assert [pool[1] for pool in pools(engine)] == [1000.0, 3.0]
    act(engine, 6)
    assert [pool[1] for pool in pools(engine)] == [pytest.approx(1000 - (6 - 2) * 0.5), 0.0]


@pytest.mark.parametrize(
    ("shooter", "target", "shield", "health"),
    [
        ("marine", "zealot", 6, 5),
        ("stalker", "zealot", 13, 12),
        ("stalker", "stalker", 18, 17),
        ("zealot", "stalker", 16, 14),
        ("colossus", "zealot", 30, 28),
        ("marauder", "marine", 10, 10),
        ("marauder", "spine_crawler", 20, 18),
        ("spine_crawler", "stalker", 30, 29),
        ("zergling", "marine", 5, 5),
        ("hydralisk", "zealot", 12, 11),
        ("zealot", "medivac", 0, 0),
        ("medivac", "marine", 0, 0),
    ],
)
def test_damage_with_bonus_and_armour(shooter, target, shield, health):
    assert UNITS[shooter].damage_to(UNITS[target]) == (shield, health)


def test_a_hit_takes_at_least_half_a_point():
    weak, hard = UnitType(name="w", health=1, damage=1), UnitType(name="h", health=1, armor=9)
    assert weak.damage_to(hard) == (1, 0.5)


def test_without_a_weapon_there_is_no_damage():
    assert DUMMY.damage_to(UNITS["marine"]) == (0, 0)


def test_a_weak_hit_on_a_map_with_shields_takes_its_half_point():
    weak = UnitType(name="weak", health=45.0, damage=0.25, range=5.0)
    bare = UnitType(name="bare", health=100.0, speed=0.0)
    engine = duel(weak, ((bare, 1), (SHIELDED, 1)), 4.0)
    act(engine, 6)
    assert pools(engine)[0][1:] == [99.5, 1000.0]


def test_shields_come_back_after_160_ticks_without_damage():
    engine = duel("marine", SHIELDED, 4.0)
    act(engine, 6)  # hit at tick 0, and not again
    engine.battles.pos[0, 0, 0] = 0.5
    engine.encode()
    left = []
    for _ in range(25):
        act(engine, 1)
        left.append(float(engine.battles.shield[1, 0]))
    assert left[:18] == [3.0] * 18
    assert left[18:] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0]  # an eighth per tick, to the full


def test_a_unit_out_of_range_walks_and_then_shoots():
    """From 6 cells a marine needs reach 5 + 0.375 + 0.375: two ticks of 3.15 / 22.4 cells."""
    engine = duel("marine", DUMMY, 6.0)
    act(engine, 6)
    assert engine.battles.pos[0, 0, 0] == pytest.approx(10 + 2 * 3.15 / 22.4, abs=1e-5)
    assert engine.battles.health[1, 0] == 994


@pytest.mark.parametrize(("action", "dx", "dy"), [(2, 0, 1), (3, 0, -1), (4, 1, 0), (5, -1, 0)])
def test_moving_goes_eight_ticks_far_without_shooting(action, dx, dy):
    engine = duel("marine", DUMMY, 4.0)
    act(engine, action)
    x, y = engine.battles.pos[:, 0, 0]
    way = 8 * 3.15 / 22.4
    assert (x, y) == (
        pytest.approx(10 + dx * way, abs=1e-4),
        pytest.approx(16 + dy * way, abs=1e-4),
    )
    assert engine.battles.health[1, 0] == 1000


def test_a_stopped_unit_shoots_at_what_is_near_but_does_not_walk():
    engine = duel("marine", DUMMY, 5.0)
    act(engine, 1)
    assert engine.battles.health[1, 0] == 994
    engine = duel("marine", DUMMY, 6.0)
    act(engine, 1)
    assert (engine.battles.health[1, 0], engine.battles.pos[0, 0, 0]) == (1000, 10)


@pytest.mark.parametrize(
    ("place", "action", "end"),
    [
        ((1.0, 16.0), 5, (0.0, 16.0)),
        ((10.0, 9.0), 3, (10.0, 8.0)),
        ((10.0, 22.99), 2, (10.0, 24 - 2**-6)),
        ((30.99, 16.0), 4, (32 - 2**-6, 16.0)),
    ],
)
def test_nobody_leaves_the_field(place, action, end):
    """A step is 1.125 cells, and allowed where one cell on is still on the field."""
    engine = duel("marine", DUMMY, 6.0)
    engine.battles.pos[:, 0, 0] = place
    engine.encode()
    act(engine, action)
    assert tuple(engine.battles.pos[:, 0, 0]) == end


def test_units_push_each_other_apart_but_nobody_moves_a_building():
    engine = duel("marine", "marine", 0.25)
    act(engine, 1)
    x = engine.battles.pos[0, :, 0]
    assert x[1] - x[0] == pytest.approx(0.75, abs=1e-4)
    assert x.sum() == pytest.approx(20.25, abs=1e-4)
    engine = duel("marine", DUMMY, 0.25)
    act(engine, 1)
    assert engine.battles.pos[0, 1, 0] == 10.25
    assert engine.battles.pos[0, 0, 0] == pytest.approx(9.5, abs=1e-4)


def test_what_flies_passes_over():
    engine = duel((("marine", 1), ("medivac", 1)), DUMMY, 10.0)
    engine.battles.pos[:, 1] = engine.battles.pos[:, 0]
    engine.encode()
    act(engine, 1, 1)
    assert (engine.battles.pos[:, 0] == engine.battles.pos[:, 1]).all()


def test_a_medivac_heals_for_energy():
    """12.6 points a second, at 3 points per unit of energy, not beyond full health."""
    engine = duel((("marine", 1), ("medivac", 1)), DUMMY, 10.0)
    engine.battles.health[0, 0] = 20.0
    engine.encode()
    act(engine, 1, 6)
    gained = engine.battles.health[0, 0] - 20
    assert gained == pytest.approx(8 * 12.6 / 22.4, abs=1e-4)
    assert engine.battles.energy[1, 0] == pytest.approx(50 - gained / 3 + 8 * 0.03516, abs=1e-3)
    for _ in range(6):
        act(engine, 1, 6)
    assert engine.battles.health[0, 0] == 45
    assert engine.tensors["mask"][0, 1, 6:].tolist() == [True, False]


def crowd(ally, places, enemy="zergling"):
    """Return a fight of one ally at (10, 16) against enemies at these places, who wait."""
    game = SkirmishMap(
        name="crowd", allies=((ally, 1),), enemies=((enemy, len(places)),), limit=100
    )
    engine = SkirmishEngine(game)
    engine.battles.pos[:, :, 0] = np.transpose([(10.0, 16.0), *places])
    engine.battles.weapon_cooldown[1:] = 1e6
    engine.encode()
    return engine


def test_a_baneling_hits_all_around_its_target_and_is_spent():
    """16 and 19 more against what is light, within 2.2 cells of the target; once."""
    places = [(10.7, 16.0), (12.8, 16.0), (10.7, 18.1), (13.0, 16.0)]
    heavy = UnitType(name="heavy", health=80.0, armor=1.0, shield=9.0, attribute=None, speed=0.0)
    engine = crowd("baneling", places, heavy)
    act(engine, 6)
    health, shield = pools(engine)
    assert health == pytest.approx([0] + [80 - 15 * 7 / 16] * 3 + [80], abs=1e-4)
    assert shield == [0, 0, 0, 0, 9]
    assert engine.tensors["terminated"][0]
    engine = crowd("baneling", [(10.7, 16.0), (11.5, 16.0)])
    act(engine, 6)
    assert pools(engine)[0] == [0, 0, 0]  # 35 points of 35
    assert not engine.tensors["metrics"][0, 0]  # nobody is left to win


def test_a_colossus_hits_beside_its_target_but_neither_friends_nor_what_flies():
    engine = crowd("colossus", [(15.0, 16.0), (15.0, 16.8), (15.0, 17.0)])
    act(engine, 6)
    assert pools(engine)[0][1:] == [5, 5, 35]
    game = SkirmishMap(
        name="mixed",
        allies=(("colossus", 1), ("zergling", 1)),
        enemies=(("zergling", 1), (UnitType(name="bird", health=150.0, flying=True), 1)),
        limit=100,
    )
    engine = SkirmishEngine(game)
    engine.battles.pos[:, :, 0] = np.transpose([(10, 16), (15.4, 16.6), (15, 16), (15.4, 15.4)])
    engine.battles.weapon_cooldown[1:3] = 1e6
    engine.encode()
    act(engine, 6, 1)
    assert pools(engine)[0] == [200, 35, 5, 150]


def test_the_enemy_comes_and_shoots_at_the_nearest():
    game = SkirmishMap(name="t", allies=((DUMMY, 2),), enemies=(("marine", 1),), limit=50)
    engine = SkirmishEngine(game)
    engine.battles.pos[:, :, 0] = np.array([[10, 10, 20], [16, 19, 16]])
    engine.encode()
    for _ in range(8):
        act(engine, 1, 1)
    assert engine.battles.health[0, 0] < 1000
    assert engine.battles.health[1, 0] == 1000
    assert engine.battles.pos[0, 2, 0] < 16


def test_the_enemy_keeps_a_target_within_range():
    game = SkirmishMap(name="t", allies=((DUMMY, 2),), enemies=(("marine", 1),), limit=50)
    engine = SkirmishEngine(game)
    engine.battles.pos[:, :, 0] = np.array([[15, 16, 20], [16, 17, 16]])
    engine.battles.target[2] = 0  # the further one
    engine.encode()
    act(engine, 1, 1)
    assert engine.battles.health[:2, 0].tolist() == [994, 1000]


def test_a_hard_enemy_shoots_at_the_weakest_within_range():
    game = SkirmishMap(name="t", allies=((DUMMY, 2),), enemies=(("marine", 1),), limit=50)
    engine = SkirmishEngine(game, difficulty="hard")
    engine.battles.pos[:, :, 0] = np.array([[15, 16, 20], [16, 17, 16]])
    engine.battles.health[0] = 900
    engine.encode()
    act(engine, 1, 1)
    assert engine.battles.health[:2, 0].tolist() == [894, 1000]


def test_an_easy_enemy_shoots_more_slowly():
    left = {}
    for level in ("easy", "hard"):
        engine = duel(DUMMY, "marine", 5.0, difficulty=level)
        for _ in range(20):
            act(engine, 1)
        left[level] = 1000 - float(engine.battles.health[0, 0])
    assert left == {"easy": 6 * 8, "hard": 6 * 12}  # every 20.5 and 13.7 ticks


def test_the_signed_reward_takes_off_what_is_lost():
    """Own damage, 10 for the own unit's death and 200 for the defeat, on the same scale."""
    rewards = {}
    for kind in ("signed", "positive"):
        engine = duel(DUMMY, "marine", 4.0, reward=kind)
        engine.battles.health[0, 0] = 9.0
        engine.encode()
        rewards[kind] = []
        while not engine.tensors["terminated"][0]:
            act(engine, 1)
            rewards[kind].append(float(engine.tensors["rew_agents"][0, 0]) * 255 / 20)
        assert engine.tensors["metrics"].tolist() == [[0.0]]
    hit = [value for value in rewards["signed"] if value]
    assert hit == pytest.approx([-6.0, -(3 + 10 + 200)])
    assert not any(rewards["positive"])
    engine = duel("marine", "marine", 4.0, reward="signed")
    engine.battles.health[1, 0] = 5.0
    engine.encode()
    act(engine, 6)
    lost = 45.0 - float(engine.battles.health[0, 0])
    found = float(engine.tensors["rew_agents"][0, 0]) * 255 / 20
    assert found == pytest.approx(5 + 10 + 200 - lost)
    with pytest.raises(ValueError, match=r"SkirmishEngine\.reward must be one of"):
        SkirmishEngine("3m", reward="both")


def test_the_reward_of_a_whole_victory_is_20():
    """Damage, 10 for the kill and 200 for the win, over (45 + 10 + 200) / 20."""
    engine = duel("marine", "marine", 4.0)
    engine.battles.health[1, 0] = 8.0
    engine.encode()
    rewards = []
    while not engine.tensors["terminated"][0]:
        act(engine, 6)
        rewards.append(float(engine.tensors["rew_agents"][0, 0]))
    assert rewards == pytest.approx([6 * 20 / 255, (2 + 10 + 200) * 20 / 255])
    assert engine.tensors["metrics"].tolist() == [[1.0]]
    assert not engine.tensors["truncated"][0]
    assert not engine.tensors["alive"].any()
    assert engine.tensors["mask"][0].tolist() == [[True] + [False] * 6]


def test_defeat_terminates_without_a_win():
    engine = duel("marine", "marine", 4.0)
    engine.battles.health[0, 0] = 3.0
    engine.encode()
    act(engine, 2)
    assert engine.tensors["terminated"].tolist() == [True]
    assert engine.tensors["metrics"].tolist() == [[0.0]]
    assert engine.tensors["rew_agents"].tolist() == [[0.0]]


def test_both_may_die_at_once_and_nobody_wins():
    engine = duel("marine", "marine", 4.0)
    engine.battles.health[:, 0] = 3.0
    engine.encode()
    act(engine, 6)
    assert engine.tensors["terminated"].tolist() == [True]
    assert engine.tensors["metrics"].tolist() == [[0.0]]
    assert float(engine.tensors["rew_agents"]) == pytest.approx(13 * 20 / 255)


def test_only_healers_left_is_defeat():
    engine = duel((("marine", 1), ("medivac", 1)), "marine", 4.0)
    engine.battles.health[0, 0] = 3.0
    engine.encode()
    act(engine, 1, 1)
    assert engine.tensors["terminated"].tolist() == [True]
    assert engine.battles.health[1, 0] > 0


def test_the_time_limit_truncates():
    engine = duel("marine", DUMMY, 12.0, limit=2)
    act(engine, 1)
    assert not engine.tensors["truncated"][0]
    act(engine, 1)
    assert engine.tensors["truncated"][0]
    assert not engine.tensors["terminated"][0]
    assert engine.tensors["alive"].all()
    assert engine.tensors["mask"][0, 0, 1]


@pytest.mark.parametrize("name", MAPS)
def test_random_fights_stay_finite_and_pay_for_what_is_lost(name):
    """Legal and illegal actions; reward = points lost, kills and win, and at most 20 in sum.

    SMAC takes the absolute value of a step's damage, so points that shields regain, or that a
    medivac heals, can be earned again and count on top of the 20.
    """
    engine = SkirmishEngine(name, 4)
    lay, rng, rows = engine.layout, np.random.default_rng(0), np.arange(4)
    n, battles, tensors = lay.n, engine.battles, engine.tensors
    begin_rows(engine, rows, [0, 1, 2, 3])
    full = np.array([[u.health for u in lay.units], [u.shield for u in lay.units]])[:, :, None]
    total, again, left = np.zeros(4), np.zeros(4), rows
    scale = lay.max_reward / 20
    for _ in range(engine.spec.horizon):
        before = battles.pools.copy()
        asked = random_actions(engine, rng, illegal=0.3)
        step_rows(engine, asked, left)
        after = battles.pools
        for key in ("obs", "state"):
            assert torch.isfinite(tensors[key]).all()
            assert tensors[key].min() >= -1
        assert tensors["obs"].max() <= 1
        assert tensors["state"].max() <= lay.max_state
        assert (after >= 0).all()
        assert (after <= full).all()
        living = after[0] > 0
        places = battles.pos[:, living]
        assert (places >= [[0], [8]]).all()
        assert (places < [[32], [24]]).all()
        assert tensors["mask"].any(-1).all()
        change = (before - after)[:, n:].sum((0, 1))
        kills = ((before[0, n:] > 0) & (after[0, n:] <= 0)).sum(0)
        won = tensors["metrics"][:, 0].numpy()
        reward = tensors["rew_agents"][:, 0].numpy()
        expected = np.abs(change + 10 * kills) + 200 * won
        np.testing.assert_allclose(reward[left] * scale, expected[left], atol=1e-2)
        total[left] += reward[left]
        gained = np.clip(after - before, 0, None)[:, n:].sum((0, 1))
        again[left] += 2 * gained[left] / scale
        over = (tensors["terminated"] | tensors["truncated"]).numpy()
        left = left[~over[left]]
        if not len(left):
            break
    assert not len(left)
    assert (total <= 20 + again + 1e-3).all()
    assert battles.illegal.sum() > 0


class Audited(Dynamics):
    """Works out every shot again, one by one, from the unit types."""

    def __init__(self, engine):
        self.units, self.allies = engine.layout.units, engine.layout.n
        tables = Tables(engine.ops, engine.layout, DIFFICULTIES["normal"])
        super().__init__(engine.ops, engine.layout, tables, DIFFICULTIES["normal"])

    def _shoot(self, battles, tick):
        before, pos = battles.pools.copy(), battles.pos.copy()
        ready = battles.weapon_cooldown <= tick
        self.given = np.zeros_like(battles.health)
        super()._shoot(battles, tick)
        dealt, spent = np.zeros(battles.pools.shape), np.ones(battles.pools.shape)
        for i, e in np.argwhere(battles.fires):
            j = int(battles.target_index[i, e]) // battles.size
            a, b = self.units[i], self.units[j]
            assert (i < self.allies) == (j < self.allies) or not a.heal
            assert before[0, i, e] > 0
            assert before[0, j, e] > 0
            assert ready[i, e]
            apart = np.hypot(*(pos[:, i, e] - pos[:, j, e]))
            assert apart <= a.range + a.radius + b.radius + 1e-4
            to_shield, to_health = a.damage_to(b)
            dealt[:, j, e] += to_health, to_shield
            for k, c in enumerate(self.units if a.splash else ()):
                beside = np.hypot(*(pos[:, k, e] - pos[:, j, e]))
                foes = (i < self.allies) != (k < self.allies)
                if k != j and foes and before[0, k, e] > 0 and beside <= a.splash:
                    dealt[:, k, e] += a.damage_to(c)[::-1]
            if a.spent:
                spent[:, i, e] = 0
        stopped = np.minimum(before[1], dealt[1])
        through = dealt[0] * (1 - stopped / np.maximum(dealt[1], 1e-9))
        hit = np.maximum(before[0] - through, 0)
        np.testing.assert_allclose(battles.shield, (before[1] - stopped) * spent[1], atol=1e-3)
        np.testing.assert_allclose(battles.health, (hit + self.given) * spent[0], atol=1e-3)

    def _heal(self, battles, healer):
        i = healer.unit
        health, energy = battles.health.copy(), battles.energy[i].copy()
        super()._heal(battles, healer)
        given = battles.health - health
        assert (given >= 0).all()
        np.testing.assert_allclose(energy - battles.energy[i], given.sum(0) / 3, atol=1e-3)
        self.given += given


@pytest.mark.parametrize("name", MAPS)
def test_what_is_lost_is_what_was_shot(name):
    """Damage dealt is hit points and shields lost, but for what kills beyond the last point."""
    engine, rng = SkirmishEngine(name, 2, backend="numpy"), np.random.default_rng(2)
    rows = np.arange(2)
    engine.dynamics = Audited(engine)
    begin_rows(engine, rows, [2, 3])
    n, first = engine.layout.n, engine.battles.pools.copy()
    for _ in range(40):
        mask = engine.tensors["mask"].numpy()
        taste = np.where(np.arange(mask.shape[-1]) >= 6, 3.0, 1.0)
        taste[4] = 2.0  # walk to the enemy
        asked = torch.from_numpy((rng.random(mask.shape) * mask * taste).argmax(-1))
        step_rows(engine, asked, rows)
        over = (engine.tensors["terminated"] | engine.tensors["truncated"]).numpy()
        rows = rows[~over[rows]]
    lost = first - engine.battles.pools
    assert lost[:, :n].sum() > 0
    assert lost[:, n:].sum() > 0


def test_without_shields_and_healers_rewards_sum_to_20_at_most_and_a_win_gives_20():
    engine, rng = SkirmishEngine("4m_vs_3m", 32, difficulty="easy"), np.random.default_rng(0)
    rows, total = np.arange(32), np.zeros(32)
    begin_rows(engine, rows, range(32))
    while len(rows):
        mask = engine.tensors["mask"].numpy()
        taste = np.array([0.1, 0.1, 0, 0, 0.2, 0, 1.5, 1.2, 1.1])
        step_rows(
            engine,
            torch.from_numpy((mask * (taste + rng.random(mask.shape) * 0.01)).argmax(-1)),
            rows,
        )
        total[rows] += engine.tensors["rew_agents"][:, 0].numpy()[rows]
        over = (engine.tensors["terminated"] | engine.tensors["truncated"]).numpy()
        rows = rows[~over[rows]]
    won = engine.tensors["metrics"][:, 0].numpy() > 0
    assert won.any()
    assert total[won] == pytest.approx(20, abs=1e-3)
    assert (total[~won] < 20 * (30 + 135) / 365 + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "difficulty"),
    [(name, "normal") for name in MAPS]
    + [(name, "hard") for name in ("3m", "2s3z", "1c3s5z", "MMM", "2s_vs_1sc")],
)
def test_torch_and_numpy_take_the_same_step(name, difficulty):
    """From the same state: rounding may differ, and later the fights part."""
    one = SkirmishEngine(name, 3, difficulty=difficulty, backend="numpy")
    two = SkirmishEngine(name, 3, difficulty=difficulty, backend="torch")
    rows, rng = np.arange(3), np.random.default_rng(0)
    for engine in (one, two):
        begin_rows(engine, rows, [5, 6, 7])
    for _ in range(25):
        actions = random_actions(one, rng, illegal=0.1)
        for engine in (one, two):
            step_rows(engine, actions, rows)
        for key, value in one.tensors.items():
            torch.testing.assert_close(two.tensors[key], value, rtol=0, atol=1e-4)
        two.battles.packed.copy_(torch.from_numpy(one.battles.packed))
        two.battles.target.copy_(torch.from_numpy(one.battles.target))
        two.encode()
        if bool((one.tensors["terminated"] | one.tensors["truncated"]).any()):
            break


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(["3m", "2s3z", "8m_vs_9m", "MMM"]),
    size=st.integers(2, 40),
    seed=st.integers(0, 2**31 - 1),
    data=st.data(),
)
def test_an_episode_does_not_depend_on_its_neighbours(name, size, seed, data):
    """Bit for bit: alone, and as any row of a batch of which any part is advanced."""
    alone, many = SkirmishEngine(name), SkirmishEngine(name, size)
    row = data.draw(st.integers(0, size - 1))
    begin_rows(alone, ALL, [seed])
    begin_rows(many, np.array([row]), [seed])
    rng = np.random.default_rng(seed)
    for _ in range(12):
        actions = random_actions(many, rng, illegal=0.2)
        others = np.flatnonzero(rng.random(size) < rng.random())
        step_rows(many, actions, np.union1d(others, [row]))
        step_rows(alone, actions[row : row + 1], ALL)
        for key, value in alone.tensors.items():
            assert torch.equal(many.tensors[key][row], value[0]), key
        if alone.tensors["terminated"][0]:
            break


@pytest.mark.parametrize("rows", [[3, 7], [e for e in range(20) if e not in (3, 7)]])
@pytest.mark.parametrize("backend", ["numba", "numpy", "torch"])
def test_rows_left_out_do_not_change(rows, backend):
    """Few are taken out to be advanced; most are advanced by advancing all."""
    engine = SkirmishEngine("3m", 20, illegal="refuse", backend=backend)
    begin_rows(engine, np.arange(20), range(20))
    before = {key: value.clone() for key, value in engine.tensors.items()}
    asked = torch.full((20, 3), 99)  # of no meaning in the others, and not refused
    asked[rows] = 4
    step_rows(engine, asked, np.array(rows))
    for key, value in engine.tensors.items():
        same = [torch.equal(value[e], before[key][e]) for e in range(20)]
        assert all(s for e, s in enumerate(same) if e not in rows)
        if key == "state":
            assert not any(same[e] for e in rows)
    assert [engine.battles.steps[e] for e in range(20)] == [float(e in rows) for e in range(20)]
    assert asked[rows].eq(4).all()


def test_a_new_episode_is_not_won_because_the_last_one_of_another_row_was():
    engine = SkirmishEngine("3m", 20)
    engine.battles.health[3:, 3] = 0.0
    step_rows(engine, torch.ones(20, 3, dtype=torch.int64), np.array([3]))
    assert engine.tensors["metrics"][3].tolist() == [1.0]
    begin_rows(engine, np.array([7]), [0])
    assert engine.tensors["metrics"][7].tolist() == [0.0]


def test_seeds_decide_where_units_start():
    engine = SkirmishEngine("3m", 3)
    begin_rows(engine, np.arange(3), [4, 4, 5])
    pos = engine.battles.pos
    assert (pos[..., 0] == pos[..., 1]).all()
    assert (pos[..., 0] != pos[..., 2]).any()


@pytest.mark.parametrize("name", MAPS)
def test_allies_of_a_type_start_sorted_by_place_and_apart(name):
    engine = SkirmishEngine(name, 20)
    begin_rows(engine, np.arange(20), range(20))
    pos, units = engine.battles.pos, engine.layout.units
    for e in range(20):
        order = [(u.name, *pos[:, i, e]) for i, u in enumerate(engine.layout.allies)]
        for kind in {u.name for u in engine.layout.allies}:
            of_kind = [spot for spot in order if spot[0] == kind]
            assert of_kind == sorted(of_kind)
        for i, a in enumerate(units):
            for j, b in enumerate(units[:i]):
                if a.flying == b.flying:
                    far = np.hypot(*(pos[:, i, e] - pos[:, j, e]))
                    assert far >= a.radius + b.radius - 0.01


def test_illegal_actions_are_replaced_and_counted():
    engine = duel((("marine", 2),), DUMMY, 8.0)
    engine.battles.health[1, 0] = 0.0
    engine.battles.pos[:, 1, 0] = 1e4
    engine.encode()
    for bad in (6, 0, 7, -1, 2**40):  # too far; alive; out of range
        act(engine, bad, 0)
        last = engine.tensors["state"][0, -14:].reshape(2, 7).argmax(-1)
        assert last.tolist() == [1, 0]
    assert engine.battles.illegal.tolist() == [5]
    act(engine, 1, 4)  # the dead do nothing
    assert engine.battles.illegal.tolist() == [6]
    assert engine.battles.pos[0, 1, 0] > 1e3
    begin_rows(engine, ALL, [0])
    assert engine.battles.illegal.tolist() == [0]


@pytest.mark.parametrize("backend", ["numba", "numpy", "torch"])
def test_illegal_actions_can_be_refused(backend):
    engine = SkirmishEngine("3m", 2, illegal="refuse", backend=backend)
    begin_rows(engine, np.arange(2), [0, 1])
    step_rows(engine, torch.ones(2, 3, dtype=torch.int64), np.arange(2))
    bad = torch.tensor([[1, 1, 1], [1, 1, 8]])
    for rows in ([0, 1], [1]):
        text = "act must be an available action of agent 2 in environment 1, got 8. See tensors"
        with pytest.raises(ValueError, match=text):
            step_rows(engine, bad, np.array(rows))


def test_an_unknown_map_lists_the_known_ones_nearest_first():
    with pytest.raises(
        ValueError, match=r"SkirmishEngine\.game must be one of \['2s3z', .*got '2s3x'"
    ):
        SkirmishEngine("2s3x")
    with pytest.raises(TypeError, match="must be a name or a SkirmishMap, got 3"):
        SkirmishEngine(3)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"num_envs": 0}, r"SkirmishEngine\.num_envs must be an int >= 1, got 0"),
        ({"difficulty": "7"}, r"difficulty must be one of \['easy', 'normal', 'hard'\], got '7'"),
        ({"illegal": "ignore"}, r"illegal must be one of \['replace', 'refuse'\]"),
        ({"backend": "jax"}, "backend must be one of"),
        ({"backend": "numpy", "device": "meta"}, "backend must be 'torch' on meta, got 'numpy'"),
        ({"backend": "numba", "device": "meta"}, "backend must be 'torch' on meta, got 'numba'"),
        ({"device": "gpu"}, r"device must be a device that torch can use here, got 'gpu'\. torch"),
    ],
)
def test_bad_options_are_refused(option, text):
    with pytest.raises(ValueError, match=text):
        SkirmishEngine("3m", **option)


def test_bad_batches_and_seeds_are_refused():
    engine = SkirmishEngine("3m", 2)
    with pytest.raises(ValueError, match=r"act must be of shape \(2, 3\).*got \(3, 3\)"):
        step_rows(engine, torch.ones(3, 3, dtype=torch.int64), np.arange(2))
    with pytest.raises(TypeError, match=r"act must be an int64 tensor, got torch\.float32"):
        step_rows(engine, torch.ones(2, 3), np.arange(2))
    with pytest.raises(TypeError, match="act must be an int64 tensor, got ndarray"):
        step_rows(engine, np.ones((2, 3), np.int64), np.arange(2))
    joint, both = torch.ones(2, 3, dtype=torch.int64), torch.tensor([True, True])
    for backend in ("numpy", "torch"):
        engine = SkirmishEngine("3m", 2, backend=backend)
        for bad in (np.array([True, True]), torch.arange(2), None):
            with pytest.raises(TypeError, match=r"advance\.active must be a bool tensor, got "):
                engine.advance(joint, bad)
            with pytest.raises(TypeError, match=r"begin\.mask must be a bool tensor, got "):
                engine.begin(bad, torch.arange(2))
        with pytest.raises(ValueError, match=r"active must be of shape \(2,\), .*got \(3,\)"):
            engine.advance(joint, torch.ones(3, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"seeds must be of shape \(2,\), .*got \(1,\)"):
            engine.begin(both, torch.tensor([1]))
        for seeds in (torch.tensor([0.5, 1.0]), [0, 1], None):
            with pytest.raises(TypeError, match="seeds must be an int64 tensor, got"):
                engine.begin(both, seeds)
        engine.begin(~both, torch.arange(2))
        engine.advance(joint, ~both)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"allies": ()}, "allies must be at least one"),
        ({"allies": (("ghost", 1),)}, "allies must be one of .*'marine'.*got 'ghost'"),
        ({"enemies": (("medivac", 2),)}, "enemies must be units of which some fight"),
        ({"allies": (("marine", 0),)}, r"allies\['marine'\] must be an int in \[1, 200\], got 0"),
        ({"allies": ("marine",)}, r"allies must be pairs \(unit type, count\), got \('marine',\)"),
        ({"size": (32,)}, r"size must be 2 ints, cells, got \(32,\)"),
        ({"playable": (0, 8, 32)}, "playable must be 4 ints, cells"),
        ({"allies": (("marine", 150), ("zealot", 51))}, "allies must be at most 200 units"),
        ({"playable": (0, 0, 40, 10)}, "playable must be inside the size"),
        ({"ally_start": (40.0, 16.0)}, r"ally_start must be \(x, y\) inside"),
        ({"enemy_types": ("zealot",)}, "enemy_types must be the types"),
        ({"limit": 0}, "limit must be an int >= 1"),
        # 15 columns a cell and a quarter apart, that may begin 0.7 cells farther west
        (
            {"allies": (("marine", 85),)},
            r"allies must be units that .* from \(-0\.[45], .* Take fewer",
        ),
        ({"enemies": (("colossus", 60),)}, r"enemies must be units that can all begin inside play"),
        ({"ally_start": (9.0, 23.5)}, r"allies must be units that .* to \(9\.7, 24\.2\)"),
    ],
)
def test_bad_maps_are_refused(change, text):
    good = {"name": "x", "allies": (("marine", 1),), "enemies": (("zealot", 1),), "limit": 5}
    with pytest.raises(ValueError, match=text):
        SkirmishMap(**good | change)


def test_as_many_as_fit_begin_inside_the_field():
    large = {"size": (48, 32), "playable": (0, 8, 48, 24), "ally_start": (22.0, 16.0)}
    for count, field in ((84, {}), (200, large | {"enemy_start": (46.0, 16.0)})):
        game = SkirmishMap(
            name="x", allies=(("marine", count),), enemies=(("zealot", 1),), limit=5, **field
        )
        left, bottom, right, top = game.playable
        formation = Formation(game, ops_for("numpy", torch.device("cpu")), torch.device("cpu"))
        x, y = formation.start(torch.arange(200))
        assert min(x.min() - left, y.min() - bottom) >= 0.0
        assert max(x.max() - right, y.max() - top) < 0.0


def test_two_types_of_one_name_are_refused():
    """A name is what types are told apart by; to numpy and torch the two were one."""
    small, large = (UnitType(name="tank", health=health, damage=2.0) for health in (20.0, 300.0))
    marines = (UnitType(name="marine", health=500.0), 1)
    for side, allies, enemies in (
        ("allies", ((small, 1), (large, 1)), (("zealot", 1),)),
        ("enemies", ((small, 1),), ((large, 1),)),
        ("enemies", (("marine", 1),), (marines,)),
    ):
        with pytest.raises(ValueError, match=rf"SkirmishMap\.{side} must be units of one type to"):
            SkirmishMap(name="x", allies=allies, enemies=enemies, limit=5)
    again = UnitType(name="tank", health=20.0, damage=2.0)
    game = SkirmishMap(name="x", allies=((small, 1), (again, 1)), enemies=((again, 2),), limit=5)
    assert game.ally_types == ()  # types that are equal are one


@pytest.mark.parametrize(
    "change",
    [
        *({"health": 0}, {"speed": 6.0}, {"armor": -1}, {"attacks": 0}, {"range": 1e4}),
        *({"splash": -1}, {"attribute": "heavy"}, {"bonus": 7.0}),
    ],
)
def test_bad_units_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"UnitType\.{name} must be"):
        UnitType(**{"name": "x", "health": 1.0} | change)


def test_vector_env_takes_a_batch_where_there_is_one():
    from robustmarl import envs
    from robustmarl.envs.vector import JointVectorEnv

    make = lambda: envs.skirmish("3m", difficulty="easy")  # noqa: E731
    engine = vector_env(make, 3)
    assert isinstance(engine, SkirmishEngine)
    assert (len(engine), engine.game.name) == (3, "3m")
    assert vector_env(envs.skirmish("2m_vs_1z"), 2).game.name == "2m_vs_1z"
    wrapped = lambda: envs.describe(make(), horizon=60)  # noqa: E731
    assert isinstance(vector_env(wrapped, 2), JointVectorEnv)
    built = []
    vector_env(lambda: built.append(envs.TwoStepGame()) or built[-1], 3)
    assert len(built) == 3
