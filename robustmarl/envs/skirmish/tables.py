"""What is constant on a map: figures of every unit, (U, 1), and of every pair, (U, U, 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from robustmarl.envs.skirmish._ops import Array, Ops
from robustmarl.envs.skirmish.layout import ATTACK, EAST, NORTH, SOUTH, WEST, Layout
from robustmarl.envs.skirmish.rules import (
    FAR,
    FAR_APART,
    HEALER_HANDICAP,
    TICKS_PER_SECOND,
    TICKS_PER_STEP,
    TINY,
    UNHURT_HANDICAP,
    Tactics,
)
from robustmarl.envs.skirmish.units import UnitType

__all__ = ["Healer", "Splash", "Tables"]

# The field ends just before its right and top edge, else SMAC would find units standing there
# off the map. Ours; a power of two, so that the difference is exact in float32.
_EDGE = 2.0**-6


class Healer(NamedTuple):
    """A unit that heals.

    Attributes:
        unit: its number.
        side: the units of its side.
        per_tick: hit points it gives in a tick.
    """

    unit: int
    side: slice
    per_tick: float


class Splash(NamedTuple):
    """Units whose shots hit beside the target; S of them.

    Attributes:
        shooters: their numbers, int64 (S,).
        radius_squared: cells squared, (S, 1, 1).
        shield_damage: to the shield of a unit beside the target, (S, U, 1); 0 to friends.
        health_damage: the same to its hit points.
    """

    shooters: Array
    radius_squared: Array
    shield_damage: Array
    health_damage: Array


class Tables:
    """Constants of a map as arrays.

    Args:
        ops: numpy's or torch's operations.
        layout: of the map.
        tactics: the enemy's, whose weapons may be slower.

    Attributes:
        health: at first, as is ``shield``; points, (U, 1).
        speed: cells per tick, (U, 1).
        cooldown: ticks between two shots, (U, 1); a healer gives a little every tick.
        can_fight: 1.0 for who is no healer, (U, 1): whom a side needs to go on.
        reach: between centres, at which the first can shoot at the second, cells, (U, U, 1).
        shield_damage: of one shot, (U, U, 1), as is ``health_damage``.
        contact: between centres, at which two bodies touch, (U, U, 1); 0 if one flies over the
            other.
        yielding: which part of their overlap the second gives way, (U, U, 1).
        handicap: cells by which a target counts as further away, (U, U, 1); None without any.
        patient_handicap: the same where healers choose whom to heal.
        one_kind_each: whether both sides have units of one kind. Then nothing depends on which
            unit it is that is aimed at, and ``reach``, ``shield_damage`` and ``health_damage``
            against that kind, (U, 1), are ``against_that_kind``.
        healers: units that heal.
        splash: units whose shots hit beside the target; None without any.
        spent: who dies of its own shot, bool (U, 1); None if nobody does.
        low: the least position, (2, 1, 1), as is ``high`` the largest.
        graves: the place of the dead, in both coordinates, (1, U, 1).
        full: by which a state divides hit points and, where any unit has one, shields, (2, U, 1) or
            (1, U, 1).
        max_cooldown: by which it divides allies' cooldowns, or a healer's energy, (N, 1).
        centre: of the map, from which it measures places, (2, 1, 1), and ``extent``, by which it
            divides them.
        walkable: x and y from which on a unit can walk west and south, and below which east and
            north: low x, low y, high x, high y.
        steps: by which an action moves a unit of speed 1, (2, A).
        target_of_action: what to add to an attack's number to have the target's, int64 (N, 1).
        first_target: the unit that each aims at before it has chosen, int64 (U, 1).
        unit: every unit's number, int64 (1, U, 1).
        zero: 0.0, as an array, as is ``tiny``; torch's minimum and maximum take no numbers.
        since_tick: by how many ticks the start of a step lies after each of its ticks, 0-d arrays.
    """

    def __init__(self, ops: Ops, layout: Layout, tactics: Tactics) -> None:
        self._ops, self._units = ops, layout.units
        units, n, u = layout.units, layout.n, layout.n + layout.m
        side_of = [slice(0, n) if i < n else slice(n, u) for i in range(u)]
        slowness = [1.0] * n + [tactics.slowness] * layout.m

        self.health = self._each(unit.health for unit in units)
        self.shield = self._each(unit.shield for unit in units)
        self.any_shield = any(unit.shield for unit in units)
        self.speed = self._each(unit.speed / TICKS_PER_SECOND for unit in units)
        self.cooldown = self._each(
            0.0 if unit.heal else unit.cooldown * TICKS_PER_SECOND * factor
            for unit, factor in zip(units, slowness, strict=True)
        )
        self.can_fight = self._each(0.0 if unit.heal else 1.0 for unit in units)

        self.reach = self._pairs(lambda a, b: a.range + a.radius + b.radius)
        self.shield_damage = self._pairs(lambda a, b: a.damage_to(b)[0])
        self.health_damage = self._pairs(lambda a, b: a.damage_to(b)[1])
        self.one_kind_each = len(set(layout.allies)) == len(set(layout.enemies)) == 1
        foe = ops.array([n if i < n else 0 for i in range(u)], "int64")  # one of the other side
        everyone = ops.arange(u)
        self.against_that_kind = [
            table[everyone, foe] for table in (self.reach, self.shield_damage, self.health_damage)
        ]

        self.contact = self._pairs(
            lambda a, b: a.radius + b.radius if a.flying == b.flying else 0.0
        )
        self.contact[everyone, everyone] = 0.0  # a unit does not push itself
        # two units make way by half each; a building does not, and the other by all of it
        self.yielding = self._pairs(lambda a, b: 0.0 if not b.speed else 0.5 if a.speed else 1.0)

        handicap = self._pairs(lambda a, b: HEALER_HANDICAP if b.heal else 0.0)
        handicap = handicap + self._pairs(
            lambda a, b: UNHURT_HANDICAP if a.damage and not a.damage_to(b)[0] else 0.0
        )
        self.handicap = handicap if bool((handicap > 0).any()) else None
        self.patient_handicap = self._pairs(lambda a, b: UNHURT_HANDICAP if b.heal else 0.0)

        self.healers = [
            Healer(i, side_of[i], unit.heal / TICKS_PER_SECOND)
            for i, unit in enumerate(units)
            if unit.heal
        ]
        self.splash = self._splash([i for i, unit in enumerate(units) if unit.splash], n)
        spent = any(unit.spent for unit in units)
        self.spent = self._each(float(unit.spent) for unit in units) > 0 if spent else None

        left, bottom, right, top = layout.game.playable
        self.low = ops.array([left, bottom])[:, None, None]
        self.high = ops.array([right - _EDGE, top - _EDGE])[:, None, None]
        self.graves = ops.array([FAR + FAR_APART * i for i in range(u)])[None, :, None]

        full = [[unit.health for unit in units], [unit.shield or 1.0 for unit in units]]
        self.full = ops.array(full)[: 1 + layout.shield, :, None]
        self.max_cooldown = self._each(unit.max_cooldown for unit in layout.allies)
        width, height = layout.game.size
        self.centre = ops.array([width / 2, height / 2])[:, None, None]
        self.extent = ops.array([width, height])[:, None, None]
        # SMAC's can_move: the place one cell on (half a move_amount), cut to whole cells, is
        # playable. int() cuts towards zero, so that x - 1 > -1 is still cell 0: where the field
        # begins at 0, x > 0 will do, which is x >= 1e-30.
        low_x, low_y = (float(edge + 1) if edge else 1e-30 for edge in (left, bottom))
        self.walkable = low_x, low_y, float(right - 1), float(top - 1)

        steps = np.zeros((2, layout.num_actions), np.float32)
        steps[1, NORTH], steps[1, SOUTH], steps[0, EAST], steps[0, WEST] = 1, -1, 1, -1
        self.steps = ops.array(steps)
        first_target = [0 if i in layout.healers else n for i in range(n)]  # ally 0, or enemy 0
        self.target_of_action = ops.array([[i - ATTACK] for i in first_target], "int64")
        self.first_target = foe[:, None]
        self.unit = ops.arange(u)[None, :, None]
        self.zero, self.tiny = ops.array(0.0), ops.array(TINY)
        self.since_tick = [ops.array(-float(tick)) for tick in range(TICKS_PER_STEP)]

    def _each(self, values: Iterable[float]) -> Array:
        return self._ops.array(list(values))[:, None]

    def _pairs(self, value: Callable[[UnitType, UnitType], float]) -> Array:
        """Return a table (U, U, 1) of a function of two units."""
        rows = [[value(a, b) for b in self._units] for a in self._units]
        return self._ops.array(rows)[:, :, None]

    def _splash(self, shooters: list[int], n: int) -> Splash | None:
        if not shooters:
            return None
        foes = [[(i < n) != (j < n) for j in range(len(self._units))] for i in shooters]
        index, hits = self._ops.array(shooters, "int64"), self._ops.array(foes)[:, :, None]
        return Splash(
            index,
            self._each(self._units[i].splash ** 2 for i in shooters)[:, None],
            self.shield_damage[index] * hits,
            self.health_damage[index] * hits,
        )
