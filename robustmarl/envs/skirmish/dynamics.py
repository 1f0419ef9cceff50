"""One step of all battles: eight ticks of aiming, shooting, healing, splash and movement.

Everything is done to all units of all battles at once, mostly in place: at the sizes at hand an
array that is not allocated costs less than what is computed in it.
"""

from __future__ import annotations

from robustmarl.envs.skirmish._ops import Array, Ops
from robustmarl.envs.skirmish.battles import Battles
from robustmarl.envs.skirmish.layout import ATTACK, NORTH, Layout
from robustmarl.envs.skirmish.rules import (
    ENERGY_PER_TICK,
    FULL_ENERGY,
    HEALTH_PER_ENERGY,
    OUT_OF_PLAY,
    SHIELD_PER_TICK,
    TICKS_PER_DECISION,
    TICKS_PER_STEP,
    TICKS_TO_CALM,
    TINY,
    Tactics,
)
from robustmarl.envs.skirmish.tables import Healer, Splash, Tables

__all__ = ["Dynamics"]


class Dynamics:
    """The laws of the game on one map.

    Args:
        ops: numpy's or torch's operations.
        layout: of the map.
        tables: its constants.
        tactics: how the enemy plays.
    """

    def __init__(self, ops: Ops, layout: Layout, tables: Tables, tactics: Tactics) -> None:
        self._ops, self._xp, self._n = ops, ops.xp, layout.n
        self._tables, self._tactics = tables, tactics

    def step(self, battles: Battles) -> None:
        """Play one step: the agents' orders are ``battles.act``, legal ones."""
        self._take_orders(battles)
        for tick in range(TICKS_PER_STEP):
            if tick % TICKS_PER_DECISION == 0:
                self._collide(battles)
                self._choose_targets(battles, tick % self._tactics.ticks_per_choice == 0)
            self._aim(battles, tick)
            if self._ops.some(battles.fires):
                self._shoot(battles, tick)
            self._move(battles)
        self._recover(battles)

    def _take_orders(self, battles: Battles) -> None:
        """Work out what stays the same for the step."""
        xp, tables, n = self._xp, self._tables, self._n
        act = battles.act.T
        self._ops.pick(tables.steps, act, battles.ordered_move)
        xp.multiply(battles.ordered_move, tables.speed[:n], out=battles.ordered_move)
        xp.greater_equal(act, ATTACK, out=battles.has_target)
        target = xp.where(battles.has_target, act + tables.target_of_action, 0)
        battles.ordered_target[...] = target
        battles.ordered_index[...] = battles.ordered_target * battles.size + battles.battle
        # who was told to walk does not shoot; a stopped unit does, at what is near
        battles.may_shoot[n:] = True
        battles.may_shoot[:n] = battles.has_target | (act < NORTH)
        battles.low[...] = tables.low
        battles.high[...] = tables.high
        self._remove_dead(battles)
        if tables.one_kind_each:
            figures = battles.reach, battles.shield_damage, battles.health_damage
            for figure, values in zip(figures, tables.against_that_kind, strict=True):
                figure[...] = values

    def _collide(self, battles: Battles) -> None:
        """Measure all distances, and push overlapping units apart."""
        xp, tables, gap, push = self._xp, self._tables, battles.gap, battles.push
        xp.subtract(battles.pos[:, None], battles.pos[:, :, None], out=gap)
        xp.multiply(gap, gap, out=battles.gap_squared)
        distance = battles.distance
        xp.add(battles.gap_squared[0], battles.gap_squared[1], out=distance)
        xp.add(distance, TINY, out=distance)
        xp.sqrt(distance, out=distance)
        xp.subtract(tables.contact, distance, out=push)  # how much they overlap
        xp.maximum(push, tables.zero, out=push)
        xp.multiply(push, tables.yielding, out=push)
        xp.divide(push, distance, out=push)
        xp.multiply(gap, push, out=gap)
        self._ops.sum(gap, 1, battles.shift)
        xp.add(battles.pos, battles.shift, out=battles.pos)

    def _choose_targets(self, battles: Battles, enemies_choose: bool) -> None:
        """Choose the ordered target, else the nearest; enemies keep one within reach."""
        xp, tables, n = self._xp, self._tables, self._n
        from_allies, from_enemies = battles.distance[:n, n:], battles.distance[n:, :n]
        if tables.handicap is not None:
            from_allies = from_allies + tables.handicap[:n, n:]
            from_enemies = from_enemies + tables.handicap[n:, :n]
        if enemies_choose:
            self._choose_for_enemies(battles, from_enemies)
        xp.greater(xp.take(battles.health, battles.ordered_index), 0.0, out=battles.obeys)
        xp.logical_and(battles.obeys, battles.has_target, out=battles.obeys)
        battles.hunts[:n] = battles.obeys  # without an order nobody leaves its place
        nearest = xp.argmin(from_allies, axis=1) + n
        battles.target[:n] = xp.where(battles.obeys, battles.ordered_target, nearest)
        for healer in tables.healers:
            self._choose_patient(battles, healer)
        xp.multiply(battles.target, battles.size, out=battles.target_index)
        xp.add(battles.target_index, battles.battle, out=battles.target_index)
        xp.multiply(battles.hunts, tables.speed, out=battles.chase_speed)
        if not tables.one_kind_each:
            pair = battles.pair_row + battles.target
            battles.reach[...] = xp.take(tables.reach, pair)
            battles.shield_damage[...] = xp.take(tables.shield_damage, pair)
            battles.health_damage[...] = xp.take(tables.health_damage, pair)

    def _choose_for_enemies(self, battles: Battles, distance: Array) -> None:
        """Choose by ``distance`` (M, N, E), handicaps included; who is in reach stays there."""
        xp, tables, n = self._xp, self._tables, self._n
        target = battles.target[n:]
        if self._tactics.focus:
            in_reach = battles.distance[n:, :n] <= tables.reach[n:, :n]
            points = battles.health[:n] + battles.shield[:n]
            handicap = distance - battles.distance[n:, :n]
            # the weakest within reach comes before everybody else, of whom the nearest counts
            weakness = points - OUT_OF_PLAY + handicap
            target[...] = xp.argmin(xp.where(in_reach, weakness, distance), axis=1)
        else:
            keeps = self._enemies_reach(battles, target)
            target[...] = xp.where(keeps, target, xp.argmin(distance, axis=1))
        hunts = ~self._enemies_reach(battles, target)
        if self._tactics.stands:
            hunts = hunts & (battles.weapon_cooldown[n:] <= 0.0)
        battles.hunts[n:] = hunts

    def _enemies_reach(self, battles: Battles, target: Array) -> Array:
        """Return which enemies can shoot at ``target`` (M, E) from where they are."""
        xp, n = self._xp, self._n
        pair = battles.pair_row[n:] + target
        reach = xp.take(self._tables.reach, pair)
        return xp.take(battles.distance, pair * battles.size + battles.battle) <= reach

    def _choose_patient(self, battles: Battles, healer: Healer) -> None:
        """Choose the nearest hurt unit of the healer's side, unless another was ordered."""
        xp, tables, (i, side, _) = self._xp, self._tables, healer
        hurt = battles.health[side] < tables.health[side]
        distance = battles.distance[i, side] + tables.patient_handicap[i, side]
        patient = xp.argmin(distance + OUT_OF_PLAY * (~hurt), axis=0) + side.start
        if i < self._n:
            patient = xp.where(battles.obeys[i], battles.ordered_target[i], patient)
        battles.target[i] = patient

    def _aim(self, battles: Battles, tick: int) -> None:
        """Measure the way to each target, and see who shoots in this tick."""
        xp, to_target, distance = self._xp, battles.to_target, battles.target_distance
        self._ops.pick(battles.pos.reshape(2, -1), battles.target_index, to_target)
        xp.subtract(to_target, battles.pos, out=to_target)
        xp.multiply(to_target, to_target, out=battles.shift)
        xp.add(battles.shift[0], battles.shift[1], out=distance)
        xp.add(distance, TINY, out=distance)
        xp.sqrt(distance, out=distance)
        xp.greater(distance, battles.reach, out=battles.out_of_reach)
        xp.less_equal(battles.weapon_cooldown, float(tick), out=battles.fires)
        xp.greater(battles.fires, battles.out_of_reach, out=battles.fires)  # ready, and in reach
        xp.logical_and(battles.fires, battles.may_shoot, out=battles.fires)

    def _shoot(self, battles: Battles, tick: int) -> None:
        """Take all shots of a tick at once: shields first, then hit points less armour."""
        xp, ops, tables, shot = self._xp, self._ops, self._tables, battles.shot
        splash, beside = tables.splash, None
        xp.multiply(battles.health_damage, battles.fires, out=shot)
        ops.scatter(battles.target_index, shot, battles.health_hits)
        if splash is not None:
            beside = self._beside_targets(battles, splash)
            ops.sum(beside * splash.health_damage, 0, shot)
            battles.health_hits += shot
        if tables.any_shield:
            xp.multiply(battles.shield_damage, battles.fires, out=shot)
            ops.scatter(battles.target_index, shot, battles.shield_hits)
            if splash is not None and beside is not None:
                ops.sum(beside * splash.shield_damage, 0, shot)
                battles.shield_hits += shot
            self._stop_at_shields(battles, tick)
        xp.subtract(battles.health, battles.health_hits, out=battles.health)
        xp.maximum(battles.health, tables.zero, out=battles.health)
        for healer in tables.healers:
            self._heal(battles, healer)
        ops.put_where(battles.weapon_cooldown, tables.cooldown + float(tick), battles.fires)
        if tables.spent is not None:
            for pool in battles.pools:
                ops.put_where(pool, tables.zero, battles.fires & tables.spent)
        self._remove_dead(battles)

    def _beside_targets(self, battles: Battles, splash: Splash) -> Array:
        """Return who is near the target of whose splashing shot, bool (S, U, E)."""
        shooters = splash.shooters
        centre = battles.pos[:, shooters] + battles.to_target[:, shooters]
        gap = battles.pos[:, None] - centre[:, :, None]
        near = gap[0] * gap[0] + gap[1] * gap[1] <= splash.radius_squared
        other = self._tables.unit != battles.target[shooters][:, None]
        return near & other & battles.fires[shooters][:, None]

    def _stop_at_shields(self, battles: Battles, tick: int) -> None:
        """Let shields take what they can of a tick's hits.

        All hits of a tick count as one: of a shield that breaks, the part of them that it did not
        stop goes on to the hit points, where it is worth what their damage to hit points is.
        """
        xp, ops, tables, hits = self._xp, self._ops, self._tables, battles.shield_hits
        # so that the end of the step, which adds all its ticks, leaves those since the hit
        ops.put_where(battles.since_hit, tables.since_tick[tick], hits > 0)
        stopped = xp.minimum(battles.shield, hits)
        xp.subtract(battles.shield, stopped, out=battles.shield)
        through = (hits - stopped) / xp.maximum(hits, tables.tiny)
        xp.multiply(battles.health_hits, through, out=battles.health_hits)

    def _heal(self, battles: Battles, healer: Healer) -> None:
        """Give a patient what it lacks, a healer can give in a tick, and its energy pays for."""
        xp, tables, (i, _, per_tick) = self._xp, self._tables, healer
        patient = battles.target_index[i]
        health = xp.take(battles.health, patient)
        lacks = xp.take(tables.health, battles.target[i]) - health
        enough_energy = battles.energy[i] >= per_tick / HEALTH_PER_ENERGY
        heals = battles.fires[i] & enough_energy & (lacks > 0) & (health > 0)
        most = xp.zeros_like(lacks) + per_tick
        given = xp.where(heals, xp.minimum(lacks, most), lacks * 0.0)
        battles.health[battles.target[i], battles.battle] += given
        battles.energy[i] -= given / HEALTH_PER_ENERGY

    def _move(self, battles: Battles) -> None:
        """Walk: as ordered, or towards a target that is out of reach."""
        xp, n, pos, to_target = self._xp, self._n, battles.pos, battles.to_target
        xp.less(battles.target_distance, OUT_OF_PLAY, out=battles.in_play)  # not after the dead
        xp.logical_and(battles.out_of_reach, battles.in_play, out=battles.out_of_reach)
        xp.divide(battles.chase_speed, battles.target_distance, out=battles.stride)
        xp.multiply(battles.stride, battles.out_of_reach, out=battles.stride)
        xp.multiply(to_target, battles.stride, out=to_target)
        xp.add(pos, to_target, out=pos)
        xp.add(pos[:, :n], battles.ordered_move, out=pos[:, :n])
        xp.maximum(pos, battles.low, out=pos)
        xp.minimum(pos, battles.high, out=pos)

    def _remove_dead(self, battles: Battles) -> None:
        """Leave the dead no place but their grave, where nobody meets them.

        They get there with the next movement, by the same bounds that keep the living on the
        field.
        """
        graves, dead = self._tables.graves, battles.dead
        self._xp.less_equal(battles.health, 0.0, out=dead)
        if self._ops.some(dead):
            self._ops.put_where(battles.low, graves, dead)
            self._ops.put_where(battles.high, graves, dead)

    def _recover(self, battles: Battles) -> None:
        """Let weapons cool down, and shields and energy return, for all ticks of a step."""
        xp, tables = self._xp, self._tables
        xp.subtract(battles.weapon_cooldown, float(TICKS_PER_STEP), out=battles.weapon_cooldown)
        xp.maximum(battles.weapon_cooldown, tables.zero, out=battles.weapon_cooldown)
        if tables.any_shield:
            xp.add(battles.since_hit, float(TICKS_PER_STEP), out=battles.since_hit)
            returns = (battles.since_hit >= TICKS_TO_CALM) & (battles.health > 0)
            shield = battles.shield + returns * (SHIELD_PER_TICK * TICKS_PER_STEP)
            battles.shield[...] = xp.minimum(shield, tables.shield)
        for i, _, _ in tables.healers:
            energy = battles.energy[i] + ENERGY_PER_TICK * TICKS_PER_STEP
            battles.energy[i] = xp.clip(energy, 0.0, FULL_ENERGY)
