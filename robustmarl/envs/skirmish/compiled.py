"""What is compiled: the kernels' arguments, made of what the rest of the battles is made of."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from robustmarl._seeding import HASH_CONSTANTS
from robustmarl.envs.skirmish._ops import Array
from robustmarl.envs.skirmish.battles import Battles
from robustmarl.envs.skirmish.formations import JITTER, SHIFT, SPAWN, Formation
from robustmarl.envs.skirmish.layout import ATTACK, NO_OP, NORTH, STOP, Layout
from robustmarl.envs.skirmish.rules import (
    ENERGY_PER_TICK,
    FULL_ENERGY,
    HEALTH_PER_ENERGY,
    KILL,
    OUT_OF_PLAY,
    REWARD_SCALE,
    SHIELD_PER_TICK,
    SHOOT,
    SIGHT,
    TICKS_PER_DECISION,
    TICKS_PER_STEP,
    TICKS_TO_CALM,
    TINY,
    WIN,
    Tactics,
)
from robustmarl.envs.skirmish.tables import Tables

__all__ = ["Compiled", "can_compile"]

Kernel: TypeAlias = Any
"""A module that numba compiles: what it does to functions has no type."""


def can_compile() -> bool:
    """Return whether numba is there and told by nobody to compile nothing."""
    try:
        numba: Kernel = import_module("numba")
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT


class Compiled:
    """Compiled loops that do, bit for bit, what ``Dynamics``, ``Referee`` and ``Encoder`` do.

    Args:
        layout: of the map.
        tables: its constants, numpy's.
        formation: where its units begin.
        tactics: how the enemy plays.
        battles: what is stepped, numpy's; the figures of each lie together.
        first: ``packed`` of one battle when it begins, but for the places, (7 U + 2, 1).
        signed: whether the reward counts what the allies lose.
    """

    def __init__(
        self,
        layout: Layout,
        tables: Tables,
        formation: Formation,
        tactics: Tactics,
        battles: Battles,
        first: Array,
        *,
        signed: bool,
    ) -> None:
        # imported here, where they are needed: that compiles them
        begin: Kernel = import_module("robustmarl.envs.skirmish._begin_kernel")
        step: Kernel = import_module("robustmarl.envs.skirmish._step_kernel")
        show: Kernel = import_module("robustmarl.envs.skirmish._show_kernel")
        units, out = len(layout.units), battles.out
        rules = _rules(layout, tables, tactics) | {"signed": signed}
        self._begin, self._step, self._show = begin.begin, step.advance, show.show
        chance = (*HASH_CONSTANTS, SPAWN, JITTER, SHIFT)
        self._start = (
            np.array([chance], begin.CHANCE),
            np.ascontiguousarray(formation.places[:, :, 0]),
            *(formation.own, formation.sides),
            *(first[:, 0], tables.first_target[:, 0]),
            *(battles.packed.T, battles.target.T, battles.act, out["rew_agents"]),
            *(out["terminated"], out["truncated"], out["metrics"]),
        )
        self._battle = (
            _record(step.RULES, rules),
            *_constants(step, layout, tables),
            tables.steps,
            *(battles.packed.T, battles.target.T, battles.act, out["mask"], out["rew_agents"]),
            *(out["terminated"], out["truncated"], out["metrics"]),
            np.zeros((step.NOW, units), np.float32),
            np.zeros((step.AIMS, units), np.int64),
            np.zeros((step.FLAGS, units), np.bool_),
            np.zeros((step.SUMS, units), np.float64),
        )
        self._view = (
            _record(show.RULES, rules),
            *_scales(show, layout, tables),
            *(battles.packed.T, battles.act, out["terminated"]),
            *(out["obs"], out["mask"], out["state"], out["alive"]),
            np.zeros((show.NOW, units), np.float32),
        )

    def begin(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """Begin the battles ``rows`` from their ``seeds``, (E,), and write what is seen of them."""
        self._begin(rows, np.ascontiguousarray(seeds), *self._start)
        self._show(rows, self._view)

    def advance(self, rows: NDArray[np.int64], act: Array) -> None:
        """Step the battles ``rows`` with ``act`` (E, N), and write what came of them."""
        self._step(rows, np.ascontiguousarray(act, np.int64), self._battle)
        self._show(rows, self._view)


def _rules(layout: Layout, tables: Tables, tactics: Tactics) -> dict[str, float]:
    """Return what is the same for all units, by the kernels' names."""
    places = {
        ("left", "bottom"): tables.low,
        ("right", "top"): tables.high,
        ("low_x", "low_y", "high_x", "high_y"): tables.walkable,
        ("centre_x", "centre_y"): tables.centre,
        ("width", "height"): tables.extent,
    }
    named = {
        name: float(value)
        for names, values in places.items()
        for name, value in zip(names, np.ravel(cast("NDArray[np.float32]", values)), strict=True)
    }
    return named | {
        "n": layout.n,
        "types": layout.types,
        "ally_shield": layout.ally_shield,
        "enemy_shield": layout.enemy_shield,
        "any_shield": tables.any_shield,
        "actions": layout.num_actions,
        "no_op": NO_OP,
        "stop": STOP,
        "north": NORTH,
        "attack": ATTACK,
        "ticks": TICKS_PER_STEP,
        "ticks_per_decision": TICKS_PER_DECISION,
        "ticks_per_choice": tactics.ticks_per_choice,
        "stands": tactics.stands,
        "focus": tactics.focus,
        "out_of_play": OUT_OF_PLAY,
        "tiny": TINY,
        "calm": TICKS_TO_CALM,
        "shield_back": SHIELD_PER_TICK * TICKS_PER_STEP,
        "energy_back": ENERGY_PER_TICK * TICKS_PER_STEP,
        "full_energy": FULL_ENERGY,
        "points_per_energy": HEALTH_PER_ENERGY,
        "limit": layout.game.limit,
        "win": WIN,
        "kill": KILL,
        "scale": REWARD_SCALE / layout.max_reward,
        "sight": SIGHT,
        "sight_squared": SIGHT * SIGHT,
        "range_squared": SHOOT * SHOOT,
    }


def _record(kind: np.dtype[np.void], rules: dict[str, float]) -> NDArray[np.void]:
    """Return those of the rules that a kernel wants, (1,)."""
    return np.array([tuple(rules[name] for name in kind.names or ())], kind)


def _constants(kernel: Kernel, layout: Layout, tables: Tables) -> list[NDArray[np.generic]]:
    """Return the step kernel's ``trait``, ``number`` and ``pair``."""
    units = len(layout.units)
    trait = np.zeros((kernel.TRAITS, units), np.float32)
    number = np.zeros((kernel.NUMBERS, units), np.int64)
    pair = np.zeros((kernel.PAIRS, units, units), np.float32)
    for row, values in (
        (kernel.FULL_HEALTH, tables.health),
        (kernel.FULL_SHIELD, tables.shield),
        (kernel.SPEED, tables.speed),
        (kernel.COOLDOWN, tables.cooldown),
    ):
        trait[row] = values[:, 0]
    trait[kernel.GRAVE] = tables.graves[0, :, 0]
    number[kernel.TARGET_OF_ACTION, : layout.n] = tables.target_of_action[:, 0]
    number[kernel.FIGHTER] = tables.can_fight[:, 0]
    for healer in tables.healers:
        number[kernel.HEALER, healer.unit] = 1
        trait[kernel.HEALS, healer.unit] = healer.per_tick
        trait[kernel.LEAST_ENERGY, healer.unit] = healer.per_tick / HEALTH_PER_ENERGY
    if tables.splash is not None:
        shooters, squared = tables.splash.shooters, tables.splash.radius_squared[:, 0, 0]
        for i, radius_squared in zip(shooters, squared, strict=True):
            number[kernel.SPLASHES, int(i)] = 1
            trait[kernel.SPLASH_SQUARED, int(i)] = float(radius_squared)
    if tables.spent is not None:
        number[kernel.SPENT] = tables.spent[:, 0]
    for row, values in (
        (kernel.REACH, tables.reach),
        (kernel.SHIELD_DAMAGE, tables.shield_damage),
        (kernel.HEALTH_DAMAGE, tables.health_damage),
        (kernel.CONTACT, tables.contact),
        (kernel.YIELDING, tables.yielding),
        (kernel.PATIENT_HANDICAP, tables.patient_handicap),
    ):
        pair[row] = values[:, :, 0]
    if tables.handicap is not None:
        pair[kernel.HANDICAP] = tables.handicap[:, :, 0]
    return [trait, number, pair]


def _scales(kernel: Kernel, layout: Layout, tables: Tables) -> list[NDArray[np.generic]]:
    """Return the showing kernel's ``trait`` and ``number``."""
    units = len(layout.units)
    trait = np.ones((kernel.TRAITS, units), np.float32)
    number = np.zeros((kernel.NUMBERS, units), np.int64)
    trait[kernel.FULL_HEALTH] = tables.full[0, :, 0]
    if layout.shield:
        trait[kernel.FULL_SHIELD] = tables.full[1, :, 0]
    trait[kernel.MAX_COOLDOWN, : layout.n] = tables.max_cooldown[:, 0]
    if layout.types:
        number[kernel.TYPE] = layout.one_hot_types().argmax(0)
    for healer in tables.healers:
        number[kernel.HEALER, healer.unit] = 1
    return [trait, number]
