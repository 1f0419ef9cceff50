"""The state of many battles, and the memory in which one step of them is worked out.

Arrays have the environments on their last axis, so that one of them and thousands cost the
same number of calls. Units are the allies, then the enemies: U = N + M.
"""

from __future__ import annotations

from robustmarl.envs.skirmish._ops import Arena, Ops
from robustmarl.envs.skirmish.layout import Layout

__all__ = ["METRICS", "Battles"]

METRICS = ("battle_won",)


class Battles:
    """E battles.

    ``packed`` and ``target`` are all that lives from step to step; ``out`` and ``act`` say what
    came of the last one. Everything else is scratch, named for what it holds within a step.

    Args:
        ops: numpy's or torch's operations.
        layout: of the map.
        arena: where the memory is from.
        size: E.
        together: whether the figures of a battle lie together in memory, in place of those of all
            battles: compiled code, which takes one battle after another, is faster so.

    Attributes:
        packed: the figures of all units and battles, float32 (7 U + 2, E); the ones down to
            ``illegal`` are views of it.
        pos: cells, (2, U, E).
        pools: what keeps a unit alive, points, (2, U, E): ``health`` and ``shield``.
        weapon_cooldown: ticks until a weapon is ready, (U, E).
        since_hit: ticks since a shield was last hit, (U, E).
        energy: of healers, (U, E).
        steps: played, (E,).
        illegal: actions that had to be replaced in this episode, (E,).
        target: the unit that each unit aims at, int64 (U, E).
        act: the actions played last, -1 before the first, int64 (E, N).
        out: what the agents and the trainer see, ``obs mask state alive rew_agents`` as in
            ``TeamSpec.empty(E)``, ``terminated`` and ``truncated`` (E,), ``metrics``.
    """

    def __init__(
        self, ops: Ops, layout: Layout, arena: Arena, size: int, *, together: bool = False
    ) -> None:
        take, n, u, e = arena.take, layout.n, layout.n + layout.m, size
        self.size = size
        self.out = {
            "obs": take(e, n, layout.obs_size),
            "mask": take(e, n, layout.num_actions, kind="bool"),
            "state": take(e, layout.state_size),
            "alive": take(e, n, kind="bool"),
            "rew_agents": take(e, n),
            "terminated": take(e, kind="bool"),
            "truncated": take(e, kind="bool"),
            "metrics": take(e, len(METRICS)),
        }
        figures = 7 * u + 2
        self.packed = take(e, figures).T if together else take(figures, e)
        self.target = take(e, u, kind="int64").T if together else take(u, e, kind="int64")
        self.act = take(e, n, kind="int64")
        self.pos = self.packed[: 2 * u].reshape(2, u, e)
        self.pools = self.packed[2 * u : 4 * u].reshape(2, u, e)
        self.health, self.shield = self.pools[0], self.pools[1]
        self.weapon_cooldown = self.packed[4 * u : 5 * u]
        self.since_hit = self.packed[5 * u : 6 * u]
        self.energy = self.packed[6 * u : 7 * u]
        self.steps, self.illegal = self.packed[7 * u], self.packed[7 * u + 1]

        # an array (U, E) is read at unit j of battle e by the flat index j * E + e, a table
        # (U, U) at the pair (i, j) by i * U + j
        self.battle = ops.arange(e)
        self.pair_row = ops.arange(u)[:, None] * u

        # what the agents ordered
        self.ordered_move = take(2, n, e)  # cells per tick
        self.has_target = take(n, e, kind="bool")
        self.ordered_target = take(n, e, kind="int64")
        self.ordered_index = take(n, e, kind="int64")  # the same, flat
        self.obeys = take(n, e, kind="bool")  # there is an ordered target, and it lives

        # who is where: [:, j, i] is from j to i
        self.gap, self.gap_squared = take(2, u, u, e), take(2, u, u, e)
        self.distance, self.push = take(u, u, e), take(u, u, e)
        self.shift = take(2, u, e)
        self.low, self.high = take(2, u, e), take(2, u, e)  # between which a unit may be

        # each unit and its target
        self.target_index = take(u, e, kind="int64")  # flat
        self.to_target = take(2, u, e)
        self.target_distance = take(u, e)
        self.reach, self.shield_damage, self.health_damage = (take(u, e) for _ in range(3))
        self.hunts = take(u, e)  # 1.0 if it walks after its target, else 0.0
        self.chase_speed, self.stride = take(u, e), take(u, e)
        self.may_shoot, self.fires = take(u, e, kind="bool"), take(u, e, kind="bool")
        self.out_of_reach, self.in_play = take(u, e, kind="bool"), take(u, e, kind="bool")

        # shots of one tick, by shooter and by who is hit
        self.shot, self.shield_hits, self.health_hits = (take(u, e) for _ in range(3))
        self.dead = take(u, e, kind="bool")
