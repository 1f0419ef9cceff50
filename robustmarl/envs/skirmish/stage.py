"""Where units are in a battle, who shoots at whom, and what agents believe of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.scenes import Entity, Ghost, Scene, Shot, Stage
from robustmarl.envs.skirmish.layout import ATTACK, Layout
from robustmarl.envs.skirmish.rules import SIGHT, TICKS_PER_STEP

if TYPE_CHECKING:  # which hands out its stage
    from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["SkirmishStage"]

Floats: TypeAlias = NDArray[np.float32]

_WAYS = ("no-op", "stop", "north", "south", "east", "west")  # by number, see layout
_PRESENT = 0.05  # believed health below which a unit is taken for dead or out of sight


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A battle in one step, of U units, allies before enemies.

    Attributes:
        pos: places, cells, (2, U).
        pools: health and shield, points, (2, U); without health is dead.
        cooldown: ticks until a weapon is ready, (U,).
        target: the unit that each aims at, (U,).
        step: steps since the battle began.
    """

    pos: Floats
    pools: Floats
    cooldown: Floats
    target: NDArray[np.int64]
    step: int

    def lives(self, unit: int) -> bool:
        """Return whether a unit does."""
        return bool(self.pools[0, unit] > 0.0)

    def place(self, unit: int) -> tuple[float, float]:
        """Return where it is, cells."""
        return float(self.pos[0, unit]), float(self.pos[1, unit])


class SkirmishStage(Stage):
    """The first battle of an engine.

    Args:
        engine: whose battle is looked at.
    """

    def __init__(self, engine: SkirmishEngine) -> None:
        self._engine, layout = engine, engine.layout
        self._names = (*engine.spec.agents, *(f"enemy_{j}" for j in range(layout.m)))
        self._now: _Look | None = None
        self.bounds = engine.game.playable
        self.actions = (*_WAYS, *(_aim(layout, j) for j in range(layout.num_actions - ATTACK)))

    @override
    def scene(self) -> Scene:
        now, before = self._look(), self._now
        self._now = now
        living = np.flatnonzero(now.pools[0] > 0.0).tolist()
        follows = before is not None and now.step > 0
        return Scene(
            entities=tuple(self._entity(unit, now) for unit in living),
            shots=tuple(self._shots(now, before)) if follows and before is not None else (),
        )

    @override
    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        number, now = self._engine.spec.agents.index(agent), self._now
        if now is None or not now.lives(number):
            return ()
        return list(self._ghosts(number, seen, now.place(number)))

    def _look(self) -> _Look:
        battles, host = self._engine.battles, self._engine.ops.host
        return _Look(
            pos=np.array(host(battles.pos[:, :, 0]), np.float32),
            pools=np.array(host(battles.pools[:, :, 0]), np.float32),
            cooldown=np.array(host(battles.weapon_cooldown[:, 0]), np.float32),
            target=np.array(host(battles.target[:, 0]), np.int64),
            step=int(host(battles.steps[:1])[0]),
        )

    def _shots(self, now: _Look, before: _Look) -> Iterator[Shot]:
        # A weapon that is less ready than waiting would have made it has been fired.
        waited = np.maximum(before.cooldown - TICKS_PER_STEP, 0.0)
        fired = (now.cooldown > waited + 0.5) & (before.pools[0] > 0.0)
        for unit in np.flatnonzero(fired).tolist():
            target = int(now.target[unit])
            if before.lives(target):
                # The dead are put away: where they were last is in the look before.
                last = now if now.lives(target) else before
                yield Shot(self._names[unit], *last.place(target))

    def _ghosts(self, agent: int, row: Floats, place: tuple[float, float]) -> Iterator[Ghost]:
        """Return the units that an observation (D,) shows, seen from ``place``."""
        layout = self._engine.layout
        enemies = row[layout.obs_enemies].reshape(layout.m, layout.enemy_size)
        allies = row[layout.obs_allies].reshape(layout.n - 1, layout.ally_size)
        others = [ally for ally in range(layout.n) if ally != agent]
        pairs = [
            *zip(range(layout.n, layout.n + layout.m), enemies, strict=True),
            *zip(others, allies, strict=True),
        ]
        for unit, (_, _, x, y, health, *_) in pairs:
            if health > _PRESENT:
                there = place[0] + float(x) * SIGHT, place[1] + float(y) * SIGHT
                yield Ghost(self._names[unit], *there, min(float(health), 1.0))

    def _entity(self, unit: int, now: _Look) -> Entity:
        kind, ally = self._engine.layout.units[unit], unit < self._engine.layout.n
        x, y = now.place(unit)
        health, shield = now.pools[:, unit].tolist()
        return Entity(
            name=self._names[unit],
            x=x,
            y=y,
            team="team" if ally else "enemy",
            kind=kind.name,
            label=self._names[unit].rpartition("_")[2],
            radius=kind.radius,
            health=health / kind.health,
            shield=shield / kind.shield if kind.shield else None,
        )


def _aim(layout: Layout, target: int) -> str:
    """Return what the action on a target is; a healer's is an ally."""
    if not layout.healers:
        return f"attack enemy_{target}"
    return f"attack enemy_{target}, or heal agent_{target}"
