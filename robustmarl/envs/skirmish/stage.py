"""Where units are in a battle, who shoots at whom, and what agents believe of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.scenes import Entity, Ghost, Scene, Shot, Stage
from robustmarl.envs.skirmish import replay
from robustmarl.envs.skirmish.layout import ATTACK, Layout

if TYPE_CHECKING:
    from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["SkirmishStage"]

_WAYS = ("no-op", "stop", "north", "south", "east", "west")  # by number, see layout


class SkirmishStage(Stage):
    """The first battle of an engine.

    Args:
        engine: whose battle is looked at.
    """

    def __init__(self, engine: SkirmishEngine) -> None:
        self._engine, layout = engine, engine.layout
        self._names = (*engine.spec.agents, *(f"enemy_{j}" for j in range(layout.m)))
        self._before: replay.Scene | None = None
        self.bounds = engine.game.playable
        self.actions = (*_WAYS, *(_aim(layout, j) for j in range(layout.num_actions - ATTACK)))

    @override
    def scene(self) -> Scene:
        engine = self._engine
        now = replay.snapshot(engine)
        before = self._before if now.step > 0 else None
        self._before = now
        shots = () if before is None else tuple(self._shots(now, before))
        living = np.flatnonzero(now.health > 0.0).tolist()
        return Scene(entities=tuple(self._entity(unit, now) for unit in living), shots=shots)

    @override
    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        number, now = self._engine.spec.agents.index(agent), self._before
        if now is None or now.health[number] <= 0.0:
            return ()
        found = replay.beliefs(self._engine.layout, number, seen, _place(now, number))
        return [Ghost(self._names[unit], x, y, health) for unit, x, y, health in found]

    def _shots(self, now: replay.Scene, before: replay.Scene) -> Iterator[Shot]:
        for unit, target in replay.shots(now, before):
            # The dead are put away: where they were last is in the scene before.
            last = now if now.health[target] > 0.0 else before
            yield Shot(self._names[unit], *_place(last, target))

    def _entity(self, unit: int, now: replay.Scene) -> Entity:
        kind, ally = self._engine.layout.units[unit], unit < self._engine.layout.n
        shield = None
        if kind.shield:
            points = self._engine.ops.host(self._engine.battles.pools[1, unit, :1])
            shield = float(points[0]) / kind.shield
        x, y = _place(now, unit)
        return Entity(
            name=self._names[unit],
            x=x,
            y=y,
            team="team" if ally else "enemy",
            kind=kind.name,
            label=self._names[unit].rpartition("_")[2],
            radius=kind.radius,
            health=float(now.health[unit]) / kind.health,
            shield=shield,
        )


def _place(scene: replay.Scene, unit: int) -> tuple[float, float]:
    return float(scene.pos[0, unit]), float(scene.pos[1, unit])


def _aim(layout: Layout, target: int) -> str:
    """Return what the action on a target is; a healer's is an ally."""
    if not layout.healers:
        return f"attack enemy_{target}"
    return f"attack enemy_{target}, or heal agent_{target}"
