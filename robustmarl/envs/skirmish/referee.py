"""What a step was worth, and whether it was the last."""

from __future__ import annotations

from typing import NamedTuple

from robustmarl.envs.skirmish._ops import Array, Ops
from robustmarl.envs.skirmish.battles import Battles
from robustmarl.envs.skirmish.layout import NO_OP, Layout
from robustmarl.envs.skirmish.rules import KILL, REWARD_SCALE, WIN
from robustmarl.envs.skirmish.tables import Tables

__all__ = ["Before", "Referee"]


class Before(NamedTuple):
    """What there was before a step.

    Attributes:
        points: health and shield, (U, E).
        alive: bool (U, E).
    """

    points: Array
    alive: Array


class Referee:
    """SMAC's rewards and endings.

    Args:
        ops: numpy's or torch's operations.
        layout: of the map.
        tables: its constants.
        signed: whether what the allies lose counts, too.
    """

    def __init__(self, ops: Ops, layout: Layout, tables: Tables, *, signed: bool) -> None:
        self._ops, self._n, self._limit, self._signed = ops, layout.n, layout.game.limit, signed
        self._can_fight = tables.can_fight > 0
        self._scale = REWARD_SCALE / layout.max_reward

    def look(self, battles: Battles) -> Before:
        """Remember what there is now."""
        return Before(battles.health + battles.shield, battles.health > 0)

    def judge(self, battles: Battles, before: Before) -> None:
        """Count a step, and write its rewards and whether it ended an episode."""
        xp, n, out = self._ops.xp, self._n, battles.out
        alive = battles.health > 0
        lost = before.points - battles.health - battles.shield
        # in double precision sums of such numbers are exact, whatever their order
        points = xp.sum(lost[n:], axis=0, dtype=xp.float64)
        kills = (before.alive[n:] & ~alive[n:]).sum(0)
        can_go_on = alive & self._can_fight  # a side of healers alone is beaten
        allies, enemies = can_go_on[:n].any(0), can_go_on[n:].any(0)
        won, lost_it = allies & ~enemies, enemies & ~allies
        battles.steps += 1.0
        over = ~(allies & enemies)
        out["terminated"][...] = over
        out["truncated"][...] = ~over & (battles.steps >= self._limit)
        out["metrics"][:, 0] = won
        if self._signed:
            points = points - xp.sum(lost[:n], axis=0, dtype=xp.float64)
            deaths = (before.alive[:n] & ~alive[:n]).sum(0)
            reward = points + KILL * (kills - deaths) + WIN * won - WIN * lost_it
        else:  # points are negative where shields regain more than is shot: SMAC takes abs
            reward = abs(points + KILL * kills) + WIN * won
        out["rew_agents"][...] = (reward * self._scale)[:, None]

    def send_off(self, battles: Battles) -> None:
        """After an end there are no agents, hence only no-ops; to be called last of a step."""
        out = battles.out
        over = out["terminated"]
        if self._ops.some(over):
            plays = ~over[:, None]
            out["alive"] &= plays
            out["mask"][:, :, NO_OP + 1 :] &= plays[:, None]
            out["mask"][:, :, NO_OP] |= ~plays
