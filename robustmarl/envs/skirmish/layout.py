"""SMAC's observation, state and available actions, from the facts about units."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import check, check_index
from robustmarl.envs.skirmish.maps import TICKS_PER_SECOND, SkirmishMap

__all__ = ["ATTACK", "Encoder", "Layout", "read_action"]

SIGHT, SHOOT = 9.0, 6.0
NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)


def read_action(agent: str, action: Any, mask: NDArray[Any], *, refuse: bool) -> tuple[int, bool]:
    """Return an agent's action as an int, and whether ``mask`` (A,) has it available.

    Raises:
        TypeError: if the action is not an integer.
        ValueError: if it is not available, with ``refuse``.
    """
    where = f"step.actions[{agent!r}]"
    number = check_index(where, action)
    available = 0 <= number < len(mask) and bool(mask[number])
    remedy = "See its action_mask, or pass illegal='replace'."
    check(available or not refuse, where, "an available action", number, remedy)
    return number, available


class Layout:
    """Sizes of the arrays of a map, and what is constant in them.

    An observation holds four move masks, then per enemy ``[can attack, distance, x, y, health,
    (shield), (type)]``, per other ally ``[visible, distance, x, y, health, (shield), (type)]``
    and of the agent itself ``[health, (shield), (type)]``. The state holds per ally ``[health,
    cooldown, x, y, (shield), (type)]``, per enemy ``[health, x, y, (shield), (type)]`` and the
    last actions, one-hot. Shields are there if that side has any, types if a side mixes them.

    Args:
        game: the map.
    """

    def __init__(self, game: SkirmishMap) -> None:
        self.game = game
        self.allies, self.enemies = game.ally_units, game.enemy_units
        self.units = self.allies + self.enemies
        self.n, self.m = len(self.allies), len(self.enemies)
        self.healers = tuple(i for i, unit in enumerate(self.allies) if unit.heal)
        self.types = len(game.ally_types)
        self.ally_shield, self.enemy_shield = (int(some) for some in game.shields)
        self.shield = max(self.ally_shield, self.enemy_shield)
        targets = max(self.m, self.n) if self.healers else self.m
        self.num_actions = ATTACK + targets
        self.enemy_size = 5 + self.enemy_shield + self.types
        self.ally_size = 5 + self.ally_shield + self.types
        own = 1 + self.ally_shield + self.types
        self.enemies_at, self.allies_at = 4, 4 + self.m * self.enemy_size
        self.own_at = self.allies_at + (self.n - 1) * self.ally_size
        self.obs_size = self.own_at + own
        self.state_ally = 4 + self.ally_shield + self.types
        self.state_enemy = 3 + self.enemy_shield + self.types
        self.last_at = self.n * self.state_ally + self.m * self.state_enemy
        self.state_size = self.last_at + self.n * self.num_actions
        points = sum(unit.health + unit.shield for unit in self.enemies)
        self.max_reward = 10.0 * self.m + 200.0 + points

    @property
    def max_state(self) -> float:
        """The highest value in a state: 1, or more where a cooldown exceeds SMAC's divisor."""
        ticks = [unit.cooldown * TICKS_PER_SECOND / unit.max_cooldown for unit in self.allies]
        return max(1.0, *ticks)

    def one_hot_types(self) -> np.ndarray:
        """Return (types, U): the enemies' order may differ from the allies'."""
        ours = self.game.ally_types
        theirs = self.game.enemy_types or ours
        hot = np.zeros((self.types, self.n + self.m), np.float32)
        for i, unit in enumerate(self.units if self.types else ()):
            hot[(ours if i < self.n else theirs).index(unit.name), i] = 1.0
        return hot


class Encoder:
    """Writes observations, masks and states of ``e`` environments into given arrays.

    The constructor lays out scratch space and views, so that a call only computes.

    Args:
        layout: of the map.
        ops: numpy's or torch's operations.
        units: ``pos`` (2, U, e), ``pools`` (2, U, e) of health and shield, ``wait`` (U, e)
            ticks, ``energy`` (U, e) and ``act`` (e, N), the last actions, -1 before the first.
            Units are the allies, then the enemies; dead ones have health 0 and lie further
            than sight from everybody.
        out: ``obs mask state alive`` as in ``TeamSpec.empty(e)``.
        take: gives scratch memory of a shape and dtype.
    """

    def __init__(self, layout: Layout, ops: Any, units: Any, out: Any, take: Any) -> None:
        self.ops, self.xp, self.lay, self.out = ops, ops.xp, layout, out
        self.pos, self.pools, self.wait = units["pos"], units["pools"], units["wait"]
        self.energy, self.act = units["energy"], units["act"]
        n, m, e = layout.n, layout.m, self.pos.shape[-1]
        u, types, shield = n + m, layout.types, layout.shield
        self._constants(n, m)
        self.frac = take((1 + shield, u, e))
        self.alive = take((u, e), "bool")
        self.living = take((u, e))
        # pairs (observer, observed): every agent with every enemy, then with every other agent
        pairs = n * (m + n - 1)
        self.rel, self.of = take((2, pairs, e)), take((2, pairs, e))
        self.square, self.seen = take((pairs, e)), take((pairs, e), "bool")
        self.near = take((pairs, e), "bool")
        self.pair = take((5 + shield + types, pairs, e))
        self.moves = take((4, n, e), "bool")
        self.can = take((n, layout.num_actions - ATTACK, e), "bool")
        self.unit = take((4 + shield + types, u, e))
        self.copies = self._copies(n, m, e)

    def _constants(self, n: int, m: int) -> None:
        lay, array = self.lay, self.ops.array
        others = [[j for j in range(n) if j != i] for i in range(n)]
        observer = [i for i in range(n) for _ in range(m)]
        observer += [i for i in range(n) for _ in range(n - 1)]
        observed = [n + j for _ in range(n) for j in range(m)]
        observed += [j for row in others for j in row]
        self.observer, self.observed = array(observer, "int64"), array(observed, "int64")
        fighters = [j for j in range(n) if j not in lay.healers]
        self.heals = [
            (
                i,
                array(fighters, "int64"),
                array([n * m + i * (n - 1) + others[i].index(j) for j in fighters], "int64"),
            )
            for i in lay.healers
        ]
        hot = lay.one_hot_types()
        self.hot = array(hot[:, :, None])
        self.hot_pair = array(hot[:, observed][:, :, None])
        units = lay.units
        full = [[u.health for u in units], [u.shield or 1.0 for u in units]]
        self.full = array(full)[: 1 + lay.shield, :, None]
        self.cooldown = array([u.max_cooldown for u in lay.allies])[:, None]
        left, bottom, right, top = lay.game.playable
        width, height = lay.game.size
        self.centre = array([width / 2, height / 2])[:, None, None]
        self.extent = array([width, height])[:, None, None]
        # a step of one cell, cut to whole cells, stays on the playable grid
        self.high_x, self.high_y = float(right - 1), float(top - 1)
        self.low_x, self.low_y = (float(v + 1) if v else 1e-30 for v in (left, bottom))
        self.indices = self.ops.arange(lay.num_actions)

    def _copies(self, n: int, m: int, e: int) -> list[tuple[Any, Any]]:
        lay, out, move = self.lay, self.out, self.xp.moveaxis
        types, a = lay.types, lay.num_actions
        obs, mask, state = out["obs"], out["mask"], out["state"]

        def rows(source: Any) -> Any:  # (F, A, B, e) to (e, A, B, F), or (F, A, e) to (e, A, F)
            last = len(source.shape) - 1
            order = (last, *range(1, last), 0)
            return move(source, order, tuple(range(last + 1)))

        def features(target: Any, source: Any, keep: int) -> list[tuple[Any, Any]]:
            if keep == lay.shield:
                return [(target, rows(source))]
            base = source.shape[0] - 1 - types
            pairs = [(target[..., :base], rows(source[:base]))]
            if types:
                pairs.append((target[..., base:], rows(source[base + 1 :])))
            return pairs

        enemy = obs[:, :, lay.enemies_at : lay.allies_at].reshape(e, n, m, lay.enemy_size)
        ally = obs[:, :, lay.allies_at : lay.own_at].reshape(e, n, n - 1, lay.ally_size)
        own = obs[:, :, lay.own_at :]
        f = self.pair.shape[0]
        first = lay.n * lay.state_ally
        state_ally = state[:, :first].reshape(e, n, lay.state_ally)
        state_enemy = state[:, first : lay.last_at].reshape(e, m, lay.state_enemy)
        self.hot_last = state[:, lay.last_at :].reshape(e, n, a)
        copies = [
            *features(enemy, self.pair[:, : n * m].reshape(f, n, m, e), lay.enemy_shield),
            *features(ally, self.pair[:, n * m :].reshape(f, n, n - 1, e), lay.ally_shield),
            (obs[:, :, :4], rows(self.moves)),
            (own[..., : 1 + lay.ally_shield], rows(self.frac[: 1 + lay.ally_shield, :n])),
            *features(state_ally, self.unit[:, :n], lay.ally_shield),
            (state_enemy[..., 0], move(self.unit[0, n:], 0, 1)),
            *features(state_enemy[..., 1:], self.unit[2:, n:], lay.enemy_shield),
            (mask[:, :, NORTH:ATTACK], rows(self.moves)),
            (mask[:, :, ATTACK:], move(self.can, 2, 0)),
            (mask[:, :, STOP], move(self.alive[:n], 0, 1)),
            (out["alive"], move(self.alive[:n], 0, 1)),
        ]
        if types:
            copies.append((own[..., -types:], rows(self.unit[-types:, :n])))
        return copies

    def __call__(self) -> None:
        """Fill the arrays from what the units are now."""
        xp, lay, pair, unit = self.xp, self.lay, self.pair, self.unit
        n, m, shield = lay.n, lay.m, lay.shield
        xp.divide(self.pools[: 1 + shield], self.full, out=self.frac)
        xp.greater(self.pools[0], 0.0, out=self.alive)
        self.living[...] = self.alive
        alive = self.alive[:n]

        self.ops.pick(self.pos, self.observed, self.rel)
        self.ops.pick(self.pos, self.observer, self.of)
        xp.subtract(self.rel, self.of, out=self.rel)
        xp.multiply(self.rel, self.rel, out=self.of)
        xp.add(self.of[0], self.of[1], out=self.square)
        xp.less(self.square, SIGHT * SIGHT, out=self.seen)
        xp.less_equal(self.square, SHOOT * SHOOT, out=self.near)
        xp.sqrt(self.square, out=pair[1])
        xp.divide(pair[1], SIGHT, out=pair[1])
        xp.divide(self.rel, SIGHT, out=pair[2:4])
        self.ops.pick(self.frac, self.observed, pair[4 : 5 + shield])
        self.can[:, :m] = self.near[: n * m].reshape(n, m, -1)
        if len(self.can[0]) > m:
            self.can[:, m:] = False
        for i, fighters, rows in self.heals:
            self.can[i] = False
            self.can[i, fighters] = self.near[rows]
        pair[0, : n * m] = self.can[:, :m].reshape(n * m, -1)
        pair[0, n * m :] = 1.0
        xp.multiply(pair[: 5 + shield], self.seen, out=pair[: 5 + shield])
        if lay.types:
            xp.multiply(self.hot_pair, self.seen, out=pair[5 + shield :])

        x, y, moves = self.pos[0, :n], self.pos[1, :n], self.moves
        xp.less(y, self.high_y, out=moves[0])
        xp.greater_equal(y, self.low_y, out=moves[1])
        xp.less(x, self.high_x, out=moves[2])
        xp.greater_equal(x, self.low_x, out=moves[3])
        xp.logical_and(moves, alive, out=moves)

        unit[0] = self.frac[0]
        if shield:
            unit[4] = self.frac[1]
        xp.divide(self.wait[:n], self.cooldown, out=unit[1, :n])
        for i in lay.healers:
            unit[1, i] = self.energy[i] / lay.allies[i].max_cooldown
        xp.subtract(self.pos, self.centre, out=unit[2:4])
        xp.divide(unit[2:4], self.extent, out=unit[2:4])
        xp.multiply(unit[1:4], self.living, out=unit[1:4])
        if lay.types:
            xp.multiply(self.hot, self.living, out=unit[4 + shield :])

        for target, source in self.copies:
            target[...] = source
        xp.logical_not(self.out["alive"], out=self.out["mask"][:, :, NO_OP])
        self.hot_last[...] = self.act[:, :, None] == self.indices
