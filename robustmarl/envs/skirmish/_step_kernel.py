"""The rules once more, battle by battle, for numba to compile: a step.

``dynamics`` and ``referee`` say what a step is and why. This says the same in loops, in the order
in which they compute, so that every bit comes out alike: a rule is changed there first, then here,
and the tests hold the two together on every map. Importing this module compiles it, or reads what
was compiled before.

Constants of other modules come as arguments: imported ones would stay in the compiled code after
their values had changed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, float64, from_dtype, int64, types, void
from numpy.typing import NDArray

from robustmarl.envs.skirmish._numba import entry, inner

__all__ = ["AIMS", "FLAGS", "NOW", "NUMBERS", "PAIRS", "RULES", "SUMS", "TRAITS", "advance"]

# Constants of every unit, rows of ``trait`` and of ``number``, and of every pair, of ``pair``,
# whose last row is measured in every battle anew.
FULL_HEALTH, FULL_SHIELD, SPEED, COOLDOWN, GRAVE, SPLASH_SQUARED, HEALS, LEAST_ENERGY = range(8)
TARGET_OF_ACTION, FIGHTER, HEALER, SPLASHES, SPENT = range(5)
REACH, SHIELD_DAMAGE, HEALTH_DAMAGE, CONTACT, YIELDING, HANDICAP, PATIENT_HANDICAP = range(7)
TRAITS, NUMBERS, DISTANCE, PAIRS = 8, 5, 7, 8

# What units are at the moment: rows of ``now``, those of ``Battles.packed`` first, ...
X, Y, HEALTH, SHIELD, WAIT, CALM, ENERGY, KEPT = range(8)
POINTS, LOW_X, LOW_Y, HIGH_X, HIGH_Y, ORDERED_X, ORDERED_Y = range(KEPT, KEPT + 7)
TO_X, TO_Y, AWAY, CHASE, NOW = range(KEPT + 7, KEPT + 12)
# ... of ``aim``, ``flag`` and ``sums``.
TARGET, ORDERED_TARGET, AIMS = range(3)
HAS_TARGET, OBEYS, MAY_SHOOT, FIRES, OUT_OF_REACH, WAS_ALIVE, FLAGS = range(7)
SHIELD_HITS, HEALTH_HITS, SHIELD_BESIDE, HEALTH_BESIDE, SUMS = range(5)
SHIFT_X, SHIFT_Y = range(2)

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("n", "actions", "no_op", "stop", "north", "attack")),
        *((name, np.int64) for name in ("ticks", "ticks_per_decision", "ticks_per_choice")),
        *((name, np.bool_) for name in ("stands", "focus", "signed", "any_shield")),
        *((name, np.float32) for name in ("left", "bottom", "right", "top", "out_of_play")),
        *((name, np.float32) for name in ("tiny", "calm", "shield_back", "energy_back")),
        *((name, np.float32) for name in ("full_energy", "points_per_energy", "limit")),
        *((name, np.float64) for name in ("win", "kill", "scale")),
    ],
    align=True,
)
"""What is the same for all units: of the rules, of a map, and of how the enemy plays."""


class Battle(NamedTuple):
    """What a step is worked out from and in, for one battle after another.

    Attributes:
        rules: a record of ``RULES``.
        trait: constants of units, float32 (TRAITS, U).
        number: the same, int64 (NUMBERS, U).
        pair: figures of pairs, float32 (PAIRS, U, U).
        steps: ``Tables.steps``.
        packed: of ``Battles``, (E, 7 U + 2) here, as are ``target``, (E, U), ``played`` (there
            ``act``), ``mask`` and what is written, ``rewards`` (there ``rew_agents``),
            ``terminated``, ``truncated`` and ``metrics``.
        now: what units are at the moment, float32 (NOW, U).
        aim: whom they aim at, int64 (AIMS, U).
        flag: what they do, bool (FLAGS, U).
        sums: what they suffer, float64 (SUMS, U).
    """

    rules: Any
    trait: NDArray[np.float32]
    number: NDArray[np.int64]
    pair: NDArray[np.float32]
    steps: NDArray[np.float32]
    packed: NDArray[np.float32]
    target: NDArray[np.int64]
    played: NDArray[np.int64]
    mask: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    metrics: NDArray[np.float32]
    now: NDArray[np.float32]
    aim: NDArray[np.int64]
    flag: NDArray[np.bool_]
    sums: NDArray[np.float64]


@inner
def _load(b: Battle, k: int) -> None:
    units = b.now.shape[1]
    for i in range(units):
        for row in range(KEPT):
            b.now[row, i] = b.packed[k, row * units + i]
        b.aim[TARGET, i] = b.target[k, i]


@inner
def _store(b: Battle, k: int) -> None:
    units = b.now.shape[1]
    for i in range(units):
        for row in range(KEPT):
            b.packed[k, row * units + i] = b.now[row, i]
        b.target[k, i] = b.aim[TARGET, i]


@inner
def _legalise(b: Battle, k: int, act: NDArray[np.int64]) -> None:
    """``SkirmishEngine._legalise``."""
    units, replaced = b.now.shape[1], 0
    for i in range(b.rules.n):
        action = act[k, i]
        if not (0 <= action < b.rules.actions and b.mask[k, i, action]):
            action = b.rules.stop if b.now[HEALTH, i] > 0 else b.rules.no_op
            replaced += 1
        b.played[k, i] = action
    b.packed[k, KEPT * units + 1] += float32(replaced)


@inner
def _take_orders(b: Battle, k: int) -> None:
    """``Referee.look`` and ``Dynamics._take_orders``."""
    rules, now = b.rules, b.now
    for i in range(now.shape[1]):
        now[POINTS, i] = now[HEALTH, i] + now[SHIELD, i]
        b.flag[WAS_ALIVE, i] = now[HEALTH, i] > 0
        b.flag[MAY_SHOOT, i] = True
        now[LOW_X, i], now[HIGH_X, i] = rules.left, rules.right
        now[LOW_Y, i], now[HIGH_Y, i] = rules.bottom, rules.top
        _bury_if_dead(b, i)
    for i in range(rules.n):
        action = b.played[k, i]
        attacks = action >= rules.attack
        now[ORDERED_X, i] = b.steps[0, action] * b.trait[SPEED, i]
        now[ORDERED_Y, i] = b.steps[1, action] * b.trait[SPEED, i]
        b.flag[HAS_TARGET, i] = attacks
        b.aim[ORDERED_TARGET, i] = action + b.number[TARGET_OF_ACTION, i] if attacks else 0
        b.flag[MAY_SHOOT, i] = attacks or action < rules.north


@inner
def _bury_if_dead(b: Battle, i: int) -> None:
    """``Dynamics._remove_dead``."""
    if b.now[HEALTH, i] <= 0:
        for bound in range(LOW_X, HIGH_Y + 1):
            b.now[bound, i] = b.trait[GRAVE, i]


@inner
def _collide(b: Battle) -> None:
    """``Dynamics._collide``; every pair once, which adds in the same order."""
    now, pair, sums, units = b.now, b.pair, b.sums, b.now.shape[1]
    for i in range(units):
        sums[SHIFT_X, i] = sums[SHIFT_Y, i] = 0.0
    for j in range(units):
        touches = False
        for i in range(j + 1):
            gap_x, gap_y = now[X, i] - now[X, j], now[Y, i] - now[Y, j]
            distance = math.sqrt(gap_x * gap_x + gap_y * gap_y + b.rules.tiny)
            pair[DISTANCE, j, i] = distance
            touches |= pair[CONTACT, j, i] > distance
        for i in range(j if touches else 0):
            overlap = pair[CONTACT, j, i] - pair[DISTANCE, j, i]
            if overlap > 0:
                _push(b, j, i, overlap)
                _push(b, i, j, overlap)
    for i in range(units):
        now[X, i] += float32(sums[SHIFT_X, i])
        now[Y, i] += float32(sums[SHIFT_Y, i])


@inner
def _push(b: Battle, i: int, j: int, overlap: np.float32) -> None:
    """Have ``j`` give way to ``i``."""
    push = overlap * b.pair[YIELDING, i, j] / _apart(b, i, j)
    b.sums[SHIFT_X, j] += (b.now[X, j] - b.now[X, i]) * push
    b.sums[SHIFT_Y, j] += (b.now[Y, j] - b.now[Y, i]) * push


@inner
def _apart(b: Battle, i: int, j: int) -> np.float32:
    """Return the distance of two units as it was when it was measured last."""
    return b.pair[DISTANCE, max(i, j), min(i, j)]


@inner
def _nearest(b: Battle, i: int) -> int:
    """Return whom unit ``i`` finds nearest of the other side, handicaps included."""
    begin, end = (b.rules.n, b.now.shape[1]) if i < b.rules.n else (0, b.rules.n)
    best, nearest = float32(np.inf), begin
    for j in range(begin, end):
        distance = _apart(b, i, j) + b.pair[HANDICAP, i, j]
        if distance < best:
            best, nearest = distance, j
    return nearest


@inner
def _weakest(b: Battle, i: int) -> int:
    """Return the weakest ally that enemy ``i`` reaches, else the nearest one."""
    best, weakest = float32(np.inf), 0
    for j in range(b.rules.n):
        distance = _apart(b, i, j)
        badness = distance + b.pair[HANDICAP, i, j]
        if distance <= b.pair[REACH, i, j]:
            points = b.now[HEALTH, j] + b.now[SHIELD, j]
            badness = points - b.rules.out_of_play + (badness - distance)
        if badness < best:
            best, weakest = badness, j
    return weakest


@inner
def _choose_for_enemies(b: Battle) -> None:
    """``Dynamics._choose_for_enemies``."""
    for i in range(b.rules.n, b.now.shape[1]):
        target = b.aim[TARGET, i]
        if b.rules.focus:
            target = _weakest(b, i)
        elif not _apart(b, i, target) <= b.pair[REACH, i, target]:
            target = _nearest(b, i)
        b.aim[TARGET, i] = target
        hunts = not _apart(b, i, target) <= b.pair[REACH, i, target]
        if b.rules.stands:
            hunts = hunts and b.now[WAIT, i] <= 0
        b.now[CHASE, i] = b.trait[SPEED, i] if hunts else float32(0)


@inner
def _choose_targets(b: Battle, enemies_choose: bool) -> None:
    """``Dynamics._choose_targets``."""
    n, units = b.rules.n, b.now.shape[1]
    if enemies_choose:
        _choose_for_enemies(b)
    for i in range(n):
        ordered = b.aim[ORDERED_TARGET, i]
        obeys = b.flag[HAS_TARGET, i] and b.now[HEALTH, ordered] > 0
        b.flag[OBEYS, i] = obeys
        b.now[CHASE, i] = b.trait[SPEED, i] if obeys else float32(0)
        b.aim[TARGET, i] = ordered if obeys else _nearest(b, i)
    for i in range(units):
        if b.number[HEALER, i] and not (i < n and b.flag[OBEYS, i]):
            b.aim[TARGET, i] = _choose_patient(b, i)


@inner
def _choose_patient(b: Battle, i: int) -> int:
    """``Dynamics._choose_patient``, without an order."""
    n, units = b.rules.n, b.now.shape[1]
    begin, end = (0, n) if i < n else (n, units)
    best, patient = np.inf, begin
    for j in range(begin, end):
        badness = float64(_apart(b, i, j) + b.pair[PATIENT_HANDICAP, i, j])
        if not b.now[HEALTH, j] < b.trait[FULL_HEALTH, j]:
            badness += float64(b.rules.out_of_play)
        if badness < best:
            best, patient = badness, j
    return patient


@inner
def _aim(b: Battle, tick: np.float32) -> bool:
    """``Dynamics._aim``, for those who may shoot or walk; return whether anybody shoots."""
    now, flag, anybody = b.now, b.flag, False
    for i in range(now.shape[1]):
        flag[FIRES, i] = False
        ready = flag[MAY_SHOOT, i] and now[WAIT, i] <= tick
        if ready or now[CHASE, i] > 0:
            target = b.aim[TARGET, i]
            to_x, to_y = now[X, target] - now[X, i], now[Y, target] - now[Y, i]
            away = math.sqrt(to_x * to_x + to_y * to_y + b.rules.tiny)
            now[TO_X, i], now[TO_Y, i], now[AWAY, i] = to_x, to_y, away
            flag[OUT_OF_REACH, i] = away > b.pair[REACH, i, target]
            flag[FIRES, i] = ready and not flag[OUT_OF_REACH, i]
            anybody |= flag[FIRES, i]
    return anybody


@inner
def _hit_beside(b: Battle, i: int) -> None:
    """``Dynamics._beside_targets`` of one shooter, and what it does to them."""
    now, n = b.now, b.rules.n
    centre_x, centre_y = now[X, i] + now[TO_X, i], now[Y, i] + now[TO_Y, i]
    begin, end = (n, now.shape[1]) if i < n else (0, n)
    for j in range(begin, end):
        gap_x, gap_y = now[X, j] - centre_x, now[Y, j] - centre_y
        near = gap_x * gap_x + gap_y * gap_y <= b.trait[SPLASH_SQUARED, i]
        if near and j != b.aim[TARGET, i]:
            b.sums[HEALTH_BESIDE, j] += b.pair[HEALTH_DAMAGE, i, j]
            b.sums[SHIELD_BESIDE, j] += b.pair[SHIELD_DAMAGE, i, j]


@inner
def _heal(b: Battle, i: int) -> None:
    """``Dynamics._heal``."""
    patient = b.aim[TARGET, i]
    health = b.now[HEALTH, patient]
    lacks = b.trait[FULL_HEALTH, patient] - health
    if b.now[ENERGY, i] >= b.trait[LEAST_ENERGY, i] and lacks > 0 and health > 0:
        given = min(lacks, b.trait[HEALS, i])
        b.now[HEALTH, patient] = health + given
        b.now[ENERGY, i] -= given / b.rules.points_per_energy


@inner
def _shoot(b: Battle, tick: np.float32) -> None:
    """``Dynamics._shoot``."""
    now, sums, units = b.now, b.sums, b.now.shape[1]
    sums[:] = 0.0
    for i in range(units):
        if b.flag[FIRES, i]:
            target = b.aim[TARGET, i]
            sums[HEALTH_HITS, target] += b.pair[HEALTH_DAMAGE, i, target]
            sums[SHIELD_HITS, target] += b.pair[SHIELD_DAMAGE, i, target]
            if b.number[SPLASHES, i]:
                _hit_beside(b, i)
    for i in range(units):
        hits = float32(sums[HEALTH_HITS, i]) + float32(sums[HEALTH_BESIDE, i])
        if b.rules.any_shield:
            hits *= _past_shield(b, i, tick)
        now[HEALTH, i] = max(now[HEALTH, i] - hits, float32(0))
    for i in range(units):
        if b.flag[FIRES, i] and b.number[HEALER, i]:
            _heal(b, i)
    for i in range(units):
        if b.flag[FIRES, i]:
            now[WAIT, i] = b.trait[COOLDOWN, i] + tick
            if b.number[SPENT, i]:
                now[HEALTH, i] = now[SHIELD, i] = 0
        _bury_if_dead(b, i)


@inner
def _past_shield(b: Battle, i: int, tick: np.float32) -> float:
    """``Dynamics._stop_at_shields``; return which part of the hits is not stopped."""
    hits = float32(b.sums[SHIELD_HITS, i]) + float32(b.sums[SHIELD_BESIDE, i])
    if hits > 0:
        b.now[CALM, i] = -tick
    stopped = min(b.now[SHIELD, i], hits)
    b.now[SHIELD, i] -= stopped
    return (hits - stopped) / max(hits, b.rules.tiny)


@inner
def _move(b: Battle) -> None:
    """``Dynamics._move``."""
    now = b.now
    for i in range(now.shape[1]):
        chases = now[CHASE, i] > 0 and b.flag[OUT_OF_REACH, i]
        if chases and now[AWAY, i] < b.rules.out_of_play:
            stride = now[CHASE, i] / now[AWAY, i]
            now[X, i] += now[TO_X, i] * stride
            now[Y, i] += now[TO_Y, i] * stride
        if i < b.rules.n:
            now[X, i] += now[ORDERED_X, i]
            now[Y, i] += now[ORDERED_Y, i]
        now[X, i] = min(max(now[X, i], now[LOW_X, i]), now[HIGH_X, i])
        now[Y, i] = min(max(now[Y, i], now[LOW_Y, i]), now[HIGH_Y, i])


@inner
def _recover(b: Battle) -> None:
    """``Dynamics._recover``."""
    now, rules = b.now, b.rules
    for i in range(now.shape[1]):
        now[WAIT, i] = max(now[WAIT, i] - float32(rules.ticks), float32(0))
        if rules.any_shield:
            now[CALM, i] += float32(rules.ticks)
            if now[CALM, i] >= rules.calm and now[HEALTH, i] > 0:
                now[SHIELD, i] += rules.shield_back
            now[SHIELD, i] = min(now[SHIELD, i], b.trait[FULL_SHIELD, i])
        if b.number[HEALER, i]:
            energy = now[ENERGY, i] + rules.energy_back
            now[ENERGY, i] = min(max(energy, float32(0)), rules.full_energy)


@inner
def _judge(b: Battle, k: int) -> None:
    """``Referee.judge``."""
    points, losses, kills, deaths = 0.0, 0.0, 0, 0
    allies, enemies = False, False
    for i in range(b.now.shape[1]):
        alive = b.now[HEALTH, i] > 0
        lost = b.now[POINTS, i] - b.now[HEALTH, i] - b.now[SHIELD, i]
        died = b.flag[WAS_ALIVE, i] and not alive
        goes_on = alive and b.number[FIGHTER, i] > 0
        if i < b.rules.n:
            losses, deaths, allies = losses + lost, deaths + died, allies or goes_on
        else:
            points, kills, enemies = points + lost, kills + died, enemies or goes_on
    won, lost_it = allies and not enemies, enemies and not allies
    if b.rules.signed:
        reward = points - losses + b.rules.kill * (kills - deaths)
        reward = reward + b.rules.win * won - b.rules.win * lost_it
    else:
        reward = abs(points + b.rules.kill * kills) + b.rules.win * won
    for i in range(b.rules.n):
        b.rewards[k, i] = reward * b.rules.scale
    steps = b.packed[k, KEPT * b.now.shape[1]] + float32(1)
    b.packed[k, KEPT * b.now.shape[1]] = steps
    over = not (allies and enemies)
    b.terminated[k], b.truncated[k] = over, not over and steps >= b.rules.limit
    b.metrics[k, 0] = won


_flags, _floats, _ints = boolean[:, ::1], float32[:, ::1], int64[:, ::1]
_battle = types.Tuple(  # of what a Battle is made of, its rules as an array (1,)
    [
        *(from_dtype(RULES)[::1], _floats, _ints, float32[:, :, ::1], _floats),
        *(_floats, _ints, _ints, boolean[:, :, ::1]),
        *(_floats, boolean[::1], boolean[::1], _floats),
        *(_floats, _ints, _flags, float64[:, ::1]),
    ]
)


@entry(void(int64[::1], _ints, _battle))
def advance(rows: NDArray[np.int64], act: NDArray[np.int64], battle: tuple[Any, ...]) -> None:
    """Step battles, but for what agents see of them.

    Args:
        rows: which, int64 (R,).
        act: the actions of all, int64 (E, N).
        battle: what a :class:`Battle` is made of, its rules as an array (1,).
    """
    b = Battle(battle[0][0], *battle[1:])
    for k in rows:
        _load(b, k)
        _legalise(b, k, act)
        _take_orders(b, k)
        for first in range(0, b.rules.ticks, b.rules.ticks_per_decision):
            _collide(b)
            _choose_targets(b, first % b.rules.ticks_per_choice == 0)
            for tick in range(first, min(first + b.rules.ticks_per_decision, b.rules.ticks)):
                if _aim(b, float32(tick)):
                    _shoot(b, float32(tick))
                _move(b)
        _recover(b)
        _store(b, k)
        _judge(b, k)
