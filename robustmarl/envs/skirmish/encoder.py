"""What agents see: SMAC's observations, states and available actions of many battles at once."""

from __future__ import annotations

from collections.abc import Iterator

from robustmarl.envs.skirmish._ops import Arena, Array, Ops
from robustmarl.envs.skirmish.battles import Battles
from robustmarl.envs.skirmish.layout import ATTACK, NO_OP, NORTH, STOP, Layout
from robustmarl.envs.skirmish.rules import SHOOT, SIGHT
from robustmarl.envs.skirmish.tables import Tables

__all__ = ["Encoder"]


class Encoder:
    """Writes observations, masks and states of ``battles`` into its ``out``.

    The constructor lays out scratch space and views, so that a call only computes: features
    first, one after another for all units or pairs of units, then copies of them to where they
    belong. Dead units have health 0 and lie further than sight from everybody, so that they
    need no mask of their own.

    Args:
        layout: of the map.
        tables: its constants.
        ops: numpy's or torch's operations.
        battles: what to write about.
        arena: where scratch memory is from.
    """

    def __init__(
        self, layout: Layout, tables: Tables, ops: Ops, battles: Battles, arena: Arena
    ) -> None:
        self._layout, self._tables, self._ops, self._battles = layout, tables, ops, battles
        take, e = arena.take, battles.size
        n, m, types, shield = layout.n, layout.m, layout.types, layout.shield
        u = n + m
        self._set_constants()
        self._fraction = take(1 + shield, u, e)  # of full health, and shield
        self._alive, self._alive_factor = take(u, e, kind="bool"), take(u, e)
        # pairs (observer, observed): every agent with every enemy, then with every other agent
        pairs = n * (m + n - 1)
        self._offset, self._spare = take(2, pairs, e), take(2, pairs, e)
        self._distance_squared = take(pairs, e)
        self._in_sight, self._in_range = take(pairs, e, kind="bool"), take(pairs, e, kind="bool")
        # can target (an ally: visible), distance, x, y, health, shield, types
        self._pair = take(5 + shield + types, pairs, e)
        # health, cooldown, x, y, shield, types
        self._unit = take(4 + shield + types, u, e)
        self._can_move = take(4, n, e, kind="bool")
        self._can_target = take(n, layout.num_actions - ATTACK, e, kind="bool")
        self._copies = list(self._where_features_belong())
        acts = battles.out["state"][:, layout.state_acts]
        self._last_acts = acts.reshape(e, n, layout.num_actions)

    def _set_constants(self) -> None:
        layout, array = self._layout, self._ops.array
        n, m = layout.n, layout.m
        others = [[j for j in range(n) if j != i] for i in range(n)]
        observer = [i for i in range(n) for _ in range(m)]
        observer += [i for i in range(n) for _ in range(n - 1)]
        observed = [n + j for _ in range(n) for j in range(m)]
        observed += [j for row in others for j in row]
        self._observer, self._observed = array(observer, "int64"), array(observed, "int64")
        # SMAC: medivacs heal no medivacs, themselves included
        patients = [j for j in range(n) if j not in layout.healers]
        self._healing: list[tuple[int, Array, Array]] = []  # healer, patients, pairs of the two
        for i in layout.healers:
            first = n * m + i * (n - 1)  # pair of this healer with another ally
            pairs = [first + others[i].index(j) for j in patients]
            self._healing.append((i, array(patients, "int64"), array(pairs, "int64")))
        one_hot = layout.one_hot_types()
        self._types = array(one_hot[:, :, None])
        self._types_observed = array(one_hot[:, observed][:, :, None])
        self._action_numbers = self._ops.arange(layout.num_actions)

    def _where_features_belong(self) -> Iterator[tuple[Array, Array]]:
        """Yield views of the output, and the views of scratch that belong there."""
        layout, out, move_axis = self._layout, self._battles.out, self._ops.xp.moveaxis
        n, m, e, types = layout.n, layout.m, self._battles.size, layout.types
        obs, mask, state = out["obs"], out["mask"], out["state"]

        def by_row(source: Array) -> Array:
            """Turn (F, A, B, E) into (E, A, B, F), and (F, A, E) into (E, A, F)."""
            last = len(source.shape) - 1
            order = (last, *range(1, last), 0)
            return move_axis(source, order, tuple(range(last + 1)))

        def features(target: Array, source: Array, shield: int) -> Iterator[tuple[Array, Array]]:
            """Leave out the shield's feature where only the other side has shields."""
            if shield == layout.shield:
                yield target, by_row(source)
                return
            before = source.shape[0] - 1 - types
            yield target[..., :before], by_row(source[:before])
            if types:
                yield target[..., before:], by_row(source[before + 1 :])

        size = self._pair.shape[0]
        enemies = obs[:, :, layout.obs_enemies].reshape(e, n, m, layout.enemy_size)
        seen = self._pair[:, : n * m].reshape(size, n, m, e)
        yield from features(enemies, seen, layout.enemy_shield)
        allies = obs[:, :, layout.obs_allies].reshape(e, n, n - 1, layout.ally_size)
        seen = self._pair[:, n * m :].reshape(size, n, n - 1, e)
        yield from features(allies, seen, layout.ally_shield)
        yield obs[:, :, layout.obs_moves], by_row(self._can_move)
        itself, pools = obs[:, :, layout.obs_itself], 1 + layout.ally_shield
        yield itself[..., :pools], by_row(self._fraction[:pools, :n])
        if types:
            yield itself[..., -types:], by_row(self._unit[-types:, :n])

        allies = state[:, layout.state_allies].reshape(e, n, layout.state_ally_size)
        yield from features(allies, self._unit[:, :n], layout.ally_shield)
        enemies = state[:, layout.state_enemies].reshape(e, m, layout.state_enemy_size)
        yield enemies[..., 0], move_axis(self._unit[0, n:], 0, 1)
        # SMAC does not tell the enemies' cooldown, feature 1
        yield from features(enemies[..., 1:], self._unit[2:, n:], layout.enemy_shield)

        yield mask[:, :, NORTH:ATTACK], by_row(self._can_move)
        yield mask[:, :, ATTACK:], move_axis(self._can_target, 2, 0)
        yield mask[:, :, STOP], move_axis(self._alive[:n], 0, 1)
        yield out["alive"], move_axis(self._alive[:n], 0, 1)

    def write(self) -> None:
        """Fill the arrays from what the units are now."""
        self._write_pairs()
        self._write_moves()
        self._write_units()
        for target, source in self._copies:
            target[...] = source
        out = self._battles.out
        self._ops.xp.logical_not(out["alive"], out=out["mask"][:, :, NO_OP])
        self._last_acts[...] = self._battles.act[:, :, None] == self._action_numbers

    def _write_pairs(self) -> None:
        """Work out what every agent sees of every other unit."""
        xp, ops, battles, pair = self._ops.xp, self._ops, self._battles, self._pair
        n, m, shield = self._layout.n, self._layout.m, self._layout.shield
        xp.divide(battles.pools[: 1 + shield], self._tables.full, out=self._fraction)
        ops.pick(battles.pos, self._observed, self._offset)
        ops.pick(battles.pos, self._observer, self._spare)
        xp.subtract(self._offset, self._spare, out=self._offset)
        xp.multiply(self._offset, self._offset, out=self._spare)
        xp.add(self._spare[0], self._spare[1], out=self._distance_squared)
        xp.less(self._distance_squared, SIGHT * SIGHT, out=self._in_sight)
        xp.less_equal(self._distance_squared, SHOOT * SHOOT, out=self._in_range)
        xp.sqrt(self._distance_squared, out=pair[1])
        xp.divide(pair[1], SIGHT, out=pair[1])
        xp.divide(self._offset, SIGHT, out=pair[2:4])
        ops.pick(self._fraction, self._observed, pair[4 : 5 + shield])
        self._can_target[:, :m] = self._in_range[: n * m].reshape(n, m, -1)
        if len(self._can_target[0]) > m:  # more allies to heal than enemies to shoot at
            self._can_target[:, m:] = False
        for i, patients, pairs in self._healing:
            self._can_target[i] = False
            self._can_target[i, patients] = self._in_range[pairs]
        # as in SMAC, a healer reads of enemy j whether it can heal ally j
        pair[0, : n * m] = self._can_target[:, :m].reshape(n * m, -1)
        pair[0, n * m :] = 1.0
        xp.multiply(pair[: 5 + shield], self._in_sight, out=pair[: 5 + shield])
        if self._layout.types:
            xp.multiply(self._types_observed, self._in_sight, out=pair[5 + shield :])

    def _write_moves(self) -> None:
        """Work out where agents can walk."""
        xp, n, can_move = self._ops.xp, self._layout.n, self._can_move
        xp.greater(self._battles.health, 0.0, out=self._alive)
        x, y = self._battles.pos[0, :n], self._battles.pos[1, :n]
        low_x, low_y, high_x, high_y = self._tables.walkable
        xp.less(y, high_y, out=can_move[0])
        xp.greater_equal(y, low_y, out=can_move[1])
        xp.less(x, high_x, out=can_move[2])
        xp.greater_equal(x, low_x, out=can_move[3])
        xp.logical_and(can_move, self._alive[:n], out=can_move)

    def _write_units(self) -> None:
        """Work out what the state says of every unit."""
        xp, layout, battles, unit = self._ops.xp, self._layout, self._battles, self._unit
        tables = self._tables
        n, shield = layout.n, layout.shield
        self._alive_factor[...] = self._alive
        unit[0] = self._fraction[0]
        if shield:
            unit[4] = self._fraction[1]
        xp.divide(battles.weapon_cooldown[:n], tables.max_cooldown, out=unit[1, :n])
        for i in layout.healers:
            unit[1, i] = battles.energy[i] / layout.allies[i].max_cooldown
        xp.subtract(battles.pos, tables.centre, out=unit[2:4])
        xp.divide(unit[2:4], tables.extent, out=unit[2:4])
        xp.multiply(unit[1:4], self._alive_factor, out=unit[1:4])
        if layout.types:
            xp.multiply(self._types, self._alive_factor, out=unit[4 + shield :])
