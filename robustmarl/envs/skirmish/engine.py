"""Many battles at once: the dynamics, over numpy or torch arrays.

Arrays have the environments on their last axis, so that one of them and thousands cost the
same number of calls. Units are the allies, then the enemies; U = N + M.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_choice, check_int, check_usable
from robustmarl._seeding import Draws, episode_key, stream_id
from robustmarl.envs.skirmish._ops import ops_for
from robustmarl.envs.skirmish.layout import (
    ATTACK,
    EAST,
    NO_OP,
    NORTH,
    SOUTH,
    STOP,
    WEST,
    Encoder,
    Layout,
)
from robustmarl.envs.skirmish.maps import (
    TICKS_PER_SECOND,
    TICKS_PER_STEP,
    SkirmishMap,
    UnitType,
    map_of,
)
from robustmarl.joint import TeamSpec

__all__ = ["DIFFICULTIES", "SkirmishEngine"]

METRICS = ("battle_won",)
_SPAWN = stream_id("spawn")
_FAR, _APART = 10_000.0, 100.0  # where the dead lie: alone, and out of everybody's sight
_NEARBY = 1_000.0
_TINY = 1e-12
_MOST = 0.6  # of the environments: so many are advanced by advancing all
_DECIDE = 2  # ticks between choices of targets, and between collisions
_REGENERATION, _CALM = 0.125, 160.0  # shield points per tick, after so many ticks in peace
_ENERGY, _FIRST_ENERGY, _FULL_ENERGY, _HEALTH_PER_ENERGY = 0.03516, 50.0, 200.0, 3.0
_ROWS, _GAP = 6, 0.5  # formation: units in a column, cells between two of them
_JITTER, _SHIFT = 0.2, 0.5  # cells by which a unit, and a side, start elsewhere at most
_WIN, _KILL, _SCALE = 200.0, 10.0, 20.0


@dataclass(frozen=True)
class _Tactics:
    """How the enemy plays.

    Attributes:
        slowness: a factor on the time between its shots.
        every: ticks between choices of targets.
        stands: whether its units stay where they are while their weapon cools down.
        focus: whether it shoots at the weakest in range instead of the nearest.
    """

    slowness: float
    every: int
    stands: bool
    focus: bool


DIFFICULTIES = {
    "easy": _Tactics(1.5, 8, stands=True, focus=False),
    "normal": _Tactics(1.1, 8, stands=True, focus=False),
    "hard": _Tactics(1.0, 2, stands=False, focus=True),
}
"""How strong the enemy is: slower shots, the built-in AI's habits, or focused fire."""


class _Tables:
    """What is constant on a map: per unit (U, 1), or per pair of units (U, U, 1)."""

    def __init__(self, ops: Any, lay: Layout, tactics: _Tactics) -> None:
        units, n, u = lay.units, lay.n, lay.n + lay.m
        slow = [1.0] * n + [tactics.slowness] * lay.m

        def column(values: list[float]) -> Any:
            return ops.array(values)[:, None]

        def square(value: Callable[[UnitType, UnitType], float]) -> Any:
            return ops.array([[value(a, b) for b in units] for a in units])[:, :, None]

        self.health = column([unit.health for unit in units])
        self.shield = column([unit.shield for unit in units])
        self.speed = column([unit.speed / TICKS_PER_SECOND for unit in units])
        self.cooldown = column(
            [
                0.0 if a.heal else a.cooldown * TICKS_PER_SECOND * factor
                for a, factor in zip(units, slow, strict=True)
            ]
        )
        self.shields = any(unit.shield for unit in units)
        self.healers = [
            (i, slice(0, n) if i < n else slice(n, u)) for i, a in enumerate(units) if a.heal
        ]
        self.heal = [unit.heal / TICKS_PER_SECOND for unit in units]
        # where every unit has one kind of target, nothing depends on which of them it is
        sides = {a.name for a in lay.allies}, {a.name for a in lay.enemies}
        self.uniform = len(sides[0]) == len(sides[1]) == 1
        self.reach = square(lambda a, b: a.range + a.radius + b.radius)
        self.to_shield = square(lambda a, b: a.damage_to(b)[0])
        self.to_health = square(lambda a, b: a.damage_to(b)[1])
        other = [n if i < n else 0 for i in range(u)]
        rows = list(range(u))
        self.aimed = [t[rows, other] for t in (self.reach, self.to_shield, self.to_health)]
        throwers = [i for i, unit in enumerate(units) if unit.splash]
        self.throwers: Any = ops.array(throwers, "int64") if throwers else None
        if throwers:
            self.unit = ops.arange(u)[None, :, None]
            self.splash = column([units[i].splash ** 2 for i in throwers])[:, None]
            foes = ops.array([[(i < n) != (j < n) for j in range(u)] for i in throwers])
            self.beside = [
                t[self.throwers] * foes[:, :, None] for t in (self.to_shield, self.to_health)
            ]
        spent = any(unit.spent for unit in units)
        self.spent: Any = column([float(unit.spent) for unit in units]) > 0 if spent else None
        self.meet = square(lambda a, b: a.radius + b.radius if a.flying == b.flying else 0.0)
        index = ops.arange(u)
        self.meet[index, index] = 0.0
        # of an overlap of a and b, which part b gives way
        self.share = square(lambda a, b: 0.0 if not b.speed else 0.5 if a.speed else 1.0)
        avoid = square(lambda a, b: 20.0 if b.heal else 0.0)
        avoid += square(lambda a, b: 500.0 if a.damage and not a.damage_to(b)[0] else 0.0)
        self.avoid = avoid if bool((avoid > 0).any()) else None
        patients = square(lambda a, b: 500.0 if b.heal else 0.0)
        self.patients = patients
        self.fighters = ops.array([0.0 if unit.heal else 1.0 for unit in units])[:, None]
        self.far = ops.array([_FAR + _APART * i for i in range(u)])[None, :, None]
        left, bottom, right, top = lay.game.playable
        self.low = ops.array([left, bottom])[:, None, None]
        self.high = ops.array([right - 2**-6, top - 2**-6])[:, None, None]
        ways = np.zeros((2, lay.num_actions), np.float32)
        ways[1, NORTH], ways[1, SOUTH], ways[0, EAST], ways[0, WEST] = 1, -1, 1, -1
        self.ways = ops.array(ways)
        self.first_target = ops.array([[n if i < n else 0] for i in range(u)], "int64")
        # an attack's number to the unit: allies count as targets only for healers
        self.order = ops.array([[0 if i in lay.healers else n] for i in range(n)], "int64") - ATTACK
        self.zero = ops.array(0.0)


class _Arena:
    """Scratch memory that batches of different sizes share.

    Without ``sizes`` it hands out new memory and counts it; with them it hands out slices.
    """

    def __init__(self, ops: Any, sizes: dict[str, int] | None = None) -> None:
        self.ops, self.used = ops, dict.fromkeys(("float32", "int64", "bool"), 0)
        self.store: dict[str, Any] = {
            kind: ops.zeros((size,), kind) for kind, size in (sizes or {}).items()
        }

    def take(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        begin, size = self.used[dtype], math.prod(shape)
        self.used[dtype] = begin + size
        if not self.store:
            return self.ops.zeros(shape, dtype)
        return self.store[dtype][begin : begin + size].reshape(shape)


class _Battles:
    """The state of ``e`` environments, and scratch to advance them.

    ``flat`` and ``target`` are all that lives from step to step.
    """

    def __init__(self, ops: Any, lay: Layout, take: Any, e: int, out: dict[str, Any]) -> None:
        n, m = lay.n, lay.m
        u = n + m
        self.e, self.out = e, out
        self.flat = take((7 * u + 2, e))
        self.target = take((u, e), "int64")
        self.act = take((e, n), "int64")
        self.pos = self.flat[: 2 * u].reshape(2, u, e)
        self.pools = self.flat[2 * u : 4 * u].reshape(2, u, e)
        self.health, self.shield = self.pools[0], self.pools[1]
        self.wait = self.flat[4 * u : 5 * u]
        self.calm = self.flat[5 * u : 6 * u]
        self.energy = self.flat[6 * u : 7 * u]
        self.steps, self.illegal = self.flat[7 * u], self.flat[7 * u + 1]
        self.column = ops.arange(e)
        self.rows = ops.arange(u)[:, None] * u
        self.low, self.high = take((2, u, e)), take((2, u, e))
        self.gap, self.square = take((2, u, u, e)), take((2, u, u, e))
        self.dist, self.push = take((u, u, e)), take((u, u, e))
        self.shift, self.to = take((2, u, e)), take((2, u, e))
        self.away, self.hunts, self.chase, self.coef = (take((u, e)) for _ in range(4))
        self.reach, self.to_shield, self.to_health = (take((u, e)) for _ in range(3))
        self.shot, self.taken, self.hurt = (take((u, e)) for _ in range(3))
        self.dead, self.fire, self.far, self.free, self.flag = (
            take((u, e), "bool") for _ in range(5)
        )
        self.aim = take((u, e), "int64")
        self.move = take((2, n, e))
        self.attack, self.valid = take((n, e), "bool"), take((n, e), "bool")
        self.order = take((n, e), "int64")
        self.order_aim = take((n, e), "int64")
        self.encode = Encoder(lay, ops, self.__dict__, out, take)


class SkirmishEngine:
    """E battles on one map, stepped together; a ``VectorEngine`` that the collector can drive.

    Every episode follows from its seed alone, however many environments play beside it.

    Args:
        game: a map, or the name of one of ``MAPS``.
        num_envs: E, >= 1.
        difficulty: ``"easy"``, ``"normal"`` or ``"hard"``, see ``DIFFICULTIES``.
        illegal: what happens to actions that are masked or out of range: ``"replace"`` them by
            stop (no-op for the dead) and count them, or ``"refuse"`` them.
        reward: ``"positive"`` or ``"signed"``, see ``robustmarl.envs.skirmish``.
        device: where the arrays are.
        backend: ``"numpy"`` or ``"torch"``; None is numpy on the CPU, else torch.

    Attributes:
        tensors: see ``robustmarl.envs.vector.VectorEngine``.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range, a device that torch cannot use, or numpy on
            another device than the CPU.
    """

    def __init__(
        self,
        game: str | SkirmishMap,
        num_envs: int = 1,
        *,
        difficulty: str = "normal",
        illegal: str = "replace",
        reward: str = "positive",
        device: torch.device | str = "cpu",
        backend: str | None = None,
    ) -> None:
        self.game = map_of(game)
        check_int("SkirmishEngine.num_envs", num_envs, 1)
        check_choice("SkirmishEngine.difficulty", difficulty, DIFFICULTIES)
        check_choice("SkirmishEngine.illegal", illegal, ("replace", "refuse"))
        check_choice("SkirmishEngine.reward", reward, ("positive", "signed"))
        self._signed = reward == "signed"
        check_choice("SkirmishEngine.backend", backend, (None, "numpy", "torch"))
        self.device = check_usable("SkirmishEngine.device", device)
        cpu = self.device.type == "cpu"
        backend = backend or ("numpy" if cpu else "torch")
        fits = cpu or backend == "torch"
        check(fits, "SkirmishEngine.backend", f"'torch' on {self.device}", backend)
        self.layout = lay = Layout(self.game)
        self._e, self._refuse, self._tactics = (
            num_envs,
            illegal == "refuse",
            DIFFICULTIES[difficulty],
        )
        self.spec = TeamSpec(
            agents=tuple(f"agent_{i}" for i in range(lay.n)),
            teams={"team": tuple(range(lay.n))},
            obs_sizes=(lay.obs_size,) * lay.n,
            action_sizes=(lay.num_actions,) * lay.n,
            continuous=False,
            state_size=lay.state_size,
            state_layout="joint",
            team_reward="mean",
            horizon=self.game.limit,
            metrics=METRICS,
        )
        self.ops = ops_for(backend, self.device)
        self._tables = _Tables(self.ops, lay, self._tactics)
        self._arena = _Arena(self.ops)
        self.battles = self._battles(self._arena, num_envs)
        self._scratch: _Arena | None = None
        self._parts: dict[int, _Battles] = {}
        self._outputs = self.battles.out
        self.tensors: dict[str, Tensor] = {
            key: self.ops.tensor(array) for key, array in self._outputs.items()
        }
        self._base, self._columns = _formations(self.game)
        self.begin(np.arange(num_envs), [0] * num_envs)

    def __len__(self) -> int:
        return self._e

    @property
    def action_space(self) -> MultiDiscrete:
        """One joint action, as Tianshou's collector wants to know it."""
        return MultiDiscrete(list(self.spec.action_sizes))

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Start new episodes in ``rows``, each from its seed.

        Raises:
            TypeError: if a seed is not an int.
            ValueError: if rows and seeds differ in number, or a row is not an environment.
        """
        rows = self._check_rows("begin", rows)
        if len(seeds) != len(rows):
            check(False, "SkirmishEngine.begin.seeds", f"{len(rows)} ints, one per row", seeds)
        for seed in seeds:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
                raise TypeError(f"SkirmishEngine.begin.seeds must be ints, got {seed!r}.")
        if not len(rows):
            return
        part, index = self._part(rows, load=False)
        keys = [episode_key(int(seed), 0) for seed in seeds]
        keys += [keys[-1]] * (part.e - len(keys))
        tables, n = self._tables, self.layout.n
        u = self.layout.n + self.layout.m
        draws = Draws(torch.tensor(keys)).at(torch.tensor(0), _SPAWN).uniform(2 * u + 4)
        unit = (2.0 * draws - 1.0).numpy().T
        offset = _JITTER * np.stack([unit[self._columns], unit[u : 2 * u]])
        offset[:, :n] += _SHIFT * unit[2 * u : 2 * u + 2, None]
        offset[:, n:] += _SHIFT * unit[2 * u + 2 :, None]
        part.flat[...] = 0.0
        part.pos[...] = self.ops.array(self._base[:, :, None] + offset)
        part.health[...] = tables.health
        part.shield[...] = tables.shield
        part.energy[...] = _FIRST_ENERGY
        part.calm[...] = _CALM
        part.target[...] = tables.first_target
        part.act[...] = -1
        part.encode()
        for key in ("rew_agents", "terminated", "truncated"):
            part.out[key][...] = 0
        self._store(part, index)

    def advance(self, act: Tensor, rows: NDArray[np.int64]) -> None:
        """Step the environments ``rows`` with their rows of ``act``, int64 (E, N), on any device.

        Raises:
            TypeError: if ``act`` is not a tensor of integers.
            ValueError: if it has another shape, or holds a refused action.
        """
        rows = self._check_rows("advance", rows)
        self._check_act(act)
        if not len(rows):
            return
        joint = self.ops.bring(act)
        if self._e > len(rows) >= _MOST * self._e:
            self._advance_most(joint, rows)
            return
        part, index = self._part(rows, load=True)
        self._legalise(part, joint if index is None else joint[index], index)
        self._play(part)
        self._store(part, index)

    def _advance_most(self, joint: Any, rows: NDArray[np.int64]) -> None:
        """Advance everything, and put back what was left out in the middle of an episode."""
        ops, battles, outputs = self.ops, self.battles, self._outputs
        out = np.ones(self._e, np.bool_)
        out[rows] = False
        if self._refuse:  # only what was asked for
            index = ops.array(np.flatnonzero(out), "int64")
            joint = joint[ops.arange(self._e)]  # a copy: the caller's stays as it is
            joint[index] = ops.xp.where(outputs["mask"][index][:, :, NO_OP], NO_OP, STOP)
        over = ops.tensor(outputs["terminated"] | outputs["truncated"])
        out &= ~over.cpu().numpy()
        left = np.flatnonzero(out)
        if not len(left):
            self._legalise(battles, joint, None)
            self._play(battles)
            return
        index = ops.array(left, "int64")
        kept = battles.flat[:, index], battles.target[:, index], battles.act[index]
        shown = {key: values[index] for key, values in outputs.items()}
        self._legalise(battles, joint, None)
        self._play(battles)
        battles.flat[:, index], battles.target[:, index], battles.act[index] = kept
        for key, values in shown.items():
            outputs[key][index] = values

    def encode(self) -> None:
        """Write ``tensors`` anew, after the units of ``battles`` were changed by hand."""
        self.battles.encode()

    def _battles(self, arena: _Arena, e: int) -> _Battles:
        lay, take = self.layout, arena.take
        out = {
            "obs": take((e, lay.n, lay.obs_size)),
            "mask": take((e, lay.n, lay.num_actions), "bool"),
            "state": take((e, lay.state_size)),
            "alive": take((e, lay.n), "bool"),
            "rew_agents": take((e, lay.n)),
            "terminated": take((e,), "bool"),
            "truncated": take((e,), "bool"),
            "metrics": take((e, len(METRICS))),
        }
        return _Battles(self.ops, lay, take, e, out)

    def _part(self, rows: NDArray[np.int64], *, load: bool) -> tuple[_Battles, Any]:
        """Return what to advance, and the environments it stands for (None: all)."""
        if len(rows) == self._e:
            return self.battles, None
        coarse = max(1, self._e // 16)  # few sizes to keep: the last row fills up
        size = min(self._e, -(-len(rows) // coarse) * coarse)
        if size not in self._parts:
            if self._scratch is None:
                self._scratch = _Arena(self.ops, self._arena.used)
            self._scratch.used = dict.fromkeys(self._scratch.used, 0)
            self._parts[size] = self._battles(self._scratch, size)
        part = self._parts[size]
        padded = np.concatenate([rows, np.full(size - len(rows), rows[-1])])
        index = self.ops.array(padded, "int64")
        if load:
            part.flat[...] = self.battles.flat[:, index]
            part.target[...] = self.battles.target[:, index]
        return part, index

    def _store(self, part: _Battles, index: Any) -> None:
        if index is None:
            return
        self.battles.flat[:, index] = part.flat
        self.battles.target[:, index] = part.target
        self.battles.act[index] = part.act
        for key, values in part.out.items():
            self._outputs[key][index] = values

    def _check_rows(self, what: str, rows: Any) -> NDArray[np.int64]:
        rows = np.asarray(rows)
        good = rows.ndim == 1 and (not rows.size or rows.dtype.kind in "iu")
        if good and rows.size:
            good = bool(rows.min() >= 0 and rows.max() < self._e)
            rising = rows.size == 1 or bool((rows[1:] > rows[:-1]).all())
            good = good and (rising or len(np.unique(rows)) == rows.size)
        if not good:
            rule = f"different indices below {self._e}"
            check(False, f"SkirmishEngine.{what}.rows", rule, rows.tolist())
        return rows

    def _check_act(self, act: Tensor) -> None:
        if not isinstance(act, Tensor) or act.dtype not in (torch.int64, torch.int32):
            kind = act.dtype if isinstance(act, Tensor) else type(act).__name__
            raise TypeError(f"SkirmishEngine.advance.act must be an int64 tensor, got {kind}.")
        shape = (self._e, self.layout.n)
        if tuple(act.shape) != shape:
            rule = f"of shape {shape}, (environments, agents)"
            check(False, "SkirmishEngine.advance.act", rule, tuple(act.shape))

    def _legalise(self, part: _Battles, act: Any, index: Any) -> None:
        """Put legal actions into ``part.act``, and count those that had to be replaced."""
        xp, ops, size = self.ops.xp, self.ops, self.layout.num_actions
        inside = xp.clip(act, 0, size - 1)
        mask = self._outputs["mask"]
        if index is not None:
            mask = mask[index]
        cells = ops.arange(part.e * self.layout.n).reshape(part.e, -1) * size + inside
        legal = xp.take(mask, cells) & (inside == act)
        if self._refuse and not bool(legal.all()):
            at, agent = (int(v) for v in np.argwhere(~np.asarray(ops.tensor(legal).cpu()))[0])
            e = at if index is None else int(index[at])
            check(
                False,
                "SkirmishEngine.advance.act",
                f"an available action of agent {agent} in environment {e}",
                int(act[at, agent]),
                "See tensors['mask'], or pass illegal='replace'.",
            )
        fallback = xp.where(part.health[: self.layout.n].T > 0, 1, 0)
        part.act[...] = xp.where(legal, inside, fallback)
        part.illegal += (~legal).sum(1)

    def _play(self, w: _Battles) -> None:
        """Advance by one step of eight ticks, and write what came of it."""
        xp, ops, tables = self.ops.xp, self.ops, self._tables
        n = self.layout.n
        was = w.health + w.shield
        lived = w.health > 0
        act = w.act.T
        ops.pick(tables.ways, act, w.move)
        xp.multiply(w.move, tables.speed[:n], out=w.move)
        xp.greater_equal(act, ATTACK, out=w.attack)
        w.order[...] = xp.where(w.attack, act + tables.order, 0)
        w.order_aim[...] = w.order * w.e + w.column
        w.free[n:] = True
        w.free[:n] = w.attack | (act < NORTH)
        w.low[...] = tables.low
        w.high[...] = tables.high
        self._bury(w)
        if tables.uniform:
            for of, values in zip((w.reach, w.to_shield, w.to_health), tables.aimed, strict=True):
                of[...] = values
        for tick in range(TICKS_PER_STEP):
            if tick % _DECIDE == 0:
                self._collide(w)
                self._choose(w, tick % self._tactics.every == 0)
            self._tick(w, float(tick))
        self._rest(w)
        self._judge(w, was, lived)
        w.encode()
        self._end(w)

    def _collide(self, w: _Battles) -> None:
        """Measure all distances, and push overlapping units apart."""
        xp, tables = self.ops.xp, self._tables
        xp.subtract(w.pos[:, None], w.pos[:, :, None], out=w.gap)  # [:, j, i]: from j to i
        xp.multiply(w.gap, w.gap, out=w.square)
        xp.add(w.square[0], w.square[1], out=w.dist)
        xp.add(w.dist, _TINY, out=w.dist)
        xp.sqrt(w.dist, out=w.dist)
        xp.subtract(tables.meet, w.dist, out=w.push)
        xp.maximum(w.push, tables.zero, out=w.push)
        xp.multiply(w.push, tables.share, out=w.push)
        xp.divide(w.push, w.dist, out=w.push)
        xp.multiply(w.gap, w.push, out=w.gap)
        self.ops.sum(w.gap, 1, w.shift)
        xp.add(w.pos, w.shift, out=w.pos)

    def _choose(self, w: _Battles, enemy: bool) -> None:
        """Choose targets: the ordered one, or the nearest; enemies keep one within range."""
        xp, tables, n = self.ops.xp, self._tables, self.layout.n
        ours, theirs = w.dist[:n, n:], w.dist[n:, :n]
        if tables.avoid is not None:
            ours, theirs = ours + tables.avoid[:n, n:], theirs + tables.avoid[n:, :n]
        if enemy:
            self._choose_enemy(w, theirs)
        xp.greater(xp.take(w.health, w.order_aim), 0.0, out=w.valid)
        xp.logical_and(w.valid, w.attack, out=w.valid)
        w.hunts[:n] = w.valid
        w.target[:n] = xp.where(w.valid, w.order, xp.argmin(ours, axis=1) + n)
        for i, side in tables.healers:
            hurt = w.health[side] < tables.health[side]
            wish = w.dist[i, side] + tables.patients[i, side] + _NEARBY * (~hurt)
            patient = xp.argmin(wish, axis=0) + side.start
            w.target[i] = patient if i >= n else xp.where(w.valid[i], w.order[i], patient)
        xp.multiply(w.target, w.e, out=w.aim)
        xp.add(w.aim, w.column, out=w.aim)
        xp.multiply(w.hunts, tables.speed, out=w.chase)
        if not tables.uniform:
            rows = w.rows + w.target
            for table, of in (
                (tables.reach, w.reach),
                (tables.to_shield, w.to_shield),
                (tables.to_health, w.to_health),
            ):
                of[...] = xp.take(table, rows)

    def _choose_enemy(self, w: _Battles, theirs: Any) -> None:
        """Choose the enemies' targets; who has one within range stands until the next choice."""
        xp, tables, n = self.ops.xp, self._tables, self.layout.n
        current = w.target[n:]
        if self._tactics.focus:
            close = w.dist[n:, :n] <= tables.reach[n:, :n]
            weak = w.health[:n] + w.shield[:n] - _NEARBY + (theirs - w.dist[n:, :n])
            current[...] = xp.argmin(xp.where(close, weak, theirs), axis=1)
        else:
            kept = self._in_reach(w, current)
            current[...] = xp.where(kept, current, xp.argmin(theirs, axis=1))
        hunts = ~self._in_reach(w, current)
        if self._tactics.stands:
            hunts = hunts & (w.wait[n:] <= 0.0)
        w.hunts[n:] = hunts

    def _in_reach(self, w: _Battles, target: Any) -> Any:
        xp, n = self.ops.xp, self.layout.n
        rows = w.rows[n:] + target
        reach = xp.take(self._tables.reach, rows)
        return xp.take(w.dist, rows * w.e + w.column) <= reach

    def _tick(self, w: _Battles, tick: float) -> None:
        """Shoot, and move."""
        xp, ops, n = self.ops.xp, self.ops, self.layout.n
        ops.pick(w.pos.reshape(2, -1), w.aim, w.to)
        xp.subtract(w.to, w.pos, out=w.to)
        xp.multiply(w.to, w.to, out=w.shift)
        xp.add(w.shift[0], w.shift[1], out=w.away)
        xp.add(w.away, _TINY, out=w.away)
        xp.sqrt(w.away, out=w.away)
        xp.greater(w.away, w.reach, out=w.far)
        xp.less_equal(w.wait, tick, out=w.fire)
        xp.greater(w.fire, w.far, out=w.fire)  # ready and not too far
        xp.logical_and(w.fire, w.free, out=w.fire)
        if ops.some(w.fire):
            self._shoot(w, tick)
        xp.less(w.away, _NEARBY, out=w.flag)
        xp.logical_and(w.far, w.flag, out=w.far)
        xp.divide(w.chase, w.away, out=w.coef)
        xp.multiply(w.coef, w.far, out=w.coef)
        xp.multiply(w.to, w.coef, out=w.to)
        xp.add(w.pos, w.to, out=w.pos)
        xp.add(w.pos[:, :n], w.move, out=w.pos[:, :n])
        xp.maximum(w.pos, w.low, out=w.pos)
        xp.minimum(w.pos, w.high, out=w.pos)

    def _shoot(self, w: _Battles, tick: float) -> None:
        """Take all shots of a tick at once: shields first, then hit points less armour."""
        xp, ops, tables = self.ops.xp, self.ops, self._tables
        xp.multiply(w.to_health, w.fire, out=w.shot)
        ops.scatter(w.aim, w.shot, w.hurt)
        near = None if tables.throwers is None else self._near_targets(w)
        if near is not None:
            ops.sum(near * tables.beside[1], 0, w.shot)
            w.hurt += w.shot
        if tables.shields:
            xp.multiply(w.to_shield, w.fire, out=w.shot)
            ops.scatter(w.aim, w.shot, w.taken)
            if near is not None:
                ops.sum(near * tables.beside[0], 0, w.shot)
                w.taken += w.shot
            ops.put_where(w.calm, ops.array(-tick), w.taken > 0)
            stopped = xp.minimum(w.shield, w.taken)
            xp.subtract(w.shield, stopped, out=w.shield)
            through = (w.taken - stopped) / xp.maximum(w.taken, ops.array(_TINY))
            xp.multiply(w.hurt, through, out=w.hurt)
        xp.subtract(w.health, w.hurt, out=w.health)
        xp.maximum(w.health, tables.zero, out=w.health)
        for i, _ in tables.healers:
            self._heal(w, i)
        ops.put_where(w.wait, tables.cooldown + tick, w.fire)
        if tables.spent is not None:
            for pool in w.pools:
                ops.put_where(pool, tables.zero, w.fire & tables.spent)
        self._bury(w)

    def _near_targets(self, w: _Battles) -> Any:
        """Return who is near the target of whose splashing shot, (throwers, U, E), bool."""
        tables, throwers = self._tables, self._tables.throwers
        centre = w.pos[:, throwers] + w.to[:, throwers]
        gap = w.pos[:, None] - centre[:, :, None]
        near = gap[0] * gap[0] + gap[1] * gap[1] <= tables.splash
        return near & (tables.unit != w.target[throwers][:, None]) & w.fire[throwers][:, None]

    def _heal(self, w: _Battles, i: int) -> None:
        xp, tables = self.ops.xp, self._tables
        cost = tables.heal[i] / _HEALTH_PER_ENERGY
        patient = xp.take(w.health, w.aim[i])
        lost = xp.take(tables.health, w.target[i]) - patient
        on = w.fire[i] & (w.energy[i] >= cost) & (lost > 0) & (patient > 0)
        given = xp.where(on, xp.minimum(lost, xp.zeros_like(lost) + tables.heal[i]), lost * 0.0)
        w.health.reshape(-1)[w.aim[i]] += given
        w.energy[i] -= given / _HEALTH_PER_ENERGY

    def _bury(self, w: _Battles) -> None:
        """Pin the dead to a place where nobody meets them."""
        xp, ops, tables = self.ops.xp, self.ops, self._tables
        xp.less_equal(w.health, 0.0, out=w.dead)
        if ops.some(w.dead):
            ops.put_where(w.low, tables.far, w.dead)
            ops.put_where(w.high, tables.far, w.dead)

    def _rest(self, w: _Battles) -> None:
        """Let weapons cool down, and shields and energy return."""
        xp, tables = self.ops.xp, self._tables
        xp.subtract(w.wait, float(TICKS_PER_STEP), out=w.wait)
        xp.maximum(w.wait, tables.zero, out=w.wait)
        if tables.shields:
            xp.add(w.calm, float(TICKS_PER_STEP), out=w.calm)
            back = (w.calm >= _CALM) & (w.health > 0)
            w.shield[...] = xp.minimum(
                w.shield + back * (_REGENERATION * TICKS_PER_STEP), tables.shield
            )
        for i, _ in tables.healers:
            w.energy[i] = xp.clip(w.energy[i] + _ENERGY * TICKS_PER_STEP, 0.0, _FULL_ENERGY)

    def _judge(self, w: _Battles, was: Any, lived: Any) -> None:
        """Write rewards and endings."""
        xp, tables, lay, out = self.ops.xp, self._tables, self.layout, w.out
        n = lay.n
        alive = w.health > 0
        fit = alive & (tables.fighters > 0)
        lost = was - w.health - w.shield
        points = xp.sum(lost[n:], axis=0, dtype=xp.float64)  # exact, whatever the order
        kills = (lived[n:] & ~alive[n:]).sum(0)
        ours, theirs = fit[:n].any(0), fit[n:].any(0)
        won = ours & ~theirs
        w.steps += 1.0
        over = ~(ours & theirs)
        out["terminated"][...] = over
        out["truncated"][...] = ~over & (w.steps >= self.game.limit)
        out["metrics"][:, 0] = won
        if self._signed:
            points = points - xp.sum(lost[:n], axis=0, dtype=xp.float64)
            deaths = (lived[:n] & ~alive[:n]).sum(0)
            reward = points + _KILL * (kills - deaths) + _WIN * won - _WIN * (theirs & ~ours)
        else:
            reward = abs(points + _KILL * kills) + _WIN * won
        out["rew_agents"][...] = (reward * (_SCALE / lay.max_reward))[:, None]

    def _end(self, w: _Battles) -> None:
        """After an end there are no agents, hence only no-ops."""
        over, out = w.out["terminated"], w.out
        if self.ops.some(over):
            on = ~over[:, None]
            out["alive"] &= on
            out["mask"][:, :, 1:] &= on[:, None]
            out["mask"][:, :, NO_OP] |= ~on


def _formations(game: SkirmishMap) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return first positions (2, U), and the column in which each unit stands.

    Short weapons stand in front. Within a type, allies are sorted by x, then y, as SMAC does.
    """
    places: list[tuple[float, float]] = []
    columns: list[int] = []
    for units, (x, y), facing in (
        (game.ally_units, game.ally_start, 1),
        (game.enemy_units, game.enemy_start, -1),
    ):
        kinds = list(dict.fromkeys(units))
        depth = 0.0
        at: dict[UnitType, list[float]] = {}
        for kind in sorted(kinds, key=lambda k: (k.range, k.heal > 0)):
            step = 2 * kind.radius + _GAP
            count = -(-units.count(kind) // _ROWS)
            at[kind] = [depth + step * (i + 0.5) for i in range(count)]
            depth += step * count
        for kind in kinds:
            xs = sorted(x + facing * (depth / 2 - d) for d in at[kind])
            left = units.count(kind)
            for k, column in enumerate(xs):
                size = math.ceil(left / (len(xs) - k))
                left -= size
                for r in range(size):
                    places.append((column, y + (r - (size - 1) / 2) * (2 * kind.radius + _GAP)))
                    columns.append(len(set(columns)) if r == 0 else columns[-1])
    return np.array(places, np.float32).T, np.array(columns)
