"""Where units are in a battle, who shoots at whom, and what agents believe of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.scenes import Entity, Ghost, Scene, Shot, Stage
from robustmarl.envs.skirmish._ops import Arena, ops_for
from robustmarl.envs.skirmish.battles import Battles
from robustmarl.envs.skirmish.dynamics import Dynamics
from robustmarl.envs.skirmish.layout import ATTACK, Layout
from robustmarl.envs.skirmish.rules import SIGHT, Tactics
from robustmarl.envs.skirmish.tables import Tables

if TYPE_CHECKING:  # which hands out its stage
    from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["SkirmishStage"]

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

_WAYS = ("no-op", "stop", "north", "south", "east", "west")  # by number, see layout
_PRESENT = 0.05  # believed health below which a unit is taken for dead or out of sight


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A battle in one step, of U units, allies before enemies.

    Attributes:
        packed: all their figures, see ``Battles``, (7 U + 2,).
        target: the unit that each aims at, (U,).
        act: what the agents did in the step that led here, (N,).
    """

    packed: Floats
    target: Ints
    act: Ints

    @property
    def pos(self) -> Floats:
        """Places, cells, (2, U)."""
        return self.packed[: 2 * len(self.target)].reshape(2, -1)

    @property
    def pools(self) -> Floats:
        """Health and shield, points, (2, U); without health is dead."""
        return self.packed[2 * len(self.target) : 4 * len(self.target)].reshape(2, -1)

    @property
    def step(self) -> int:
        """Steps since the battle began."""
        return int(self.packed[7 * len(self.target)])

    def lives(self, unit: int) -> bool:
        """Return whether a unit does."""
        return bool(self.pools[0, unit] > 0.0)

    def place(self, unit: int) -> tuple[float, float]:
        """Return where it is, cells."""
        return float(self.pos[0, unit]), float(self.pos[1, unit])


class _Again(Dynamics):
    """Plays a step once more, to see who shot whom in it.

    What is left of a step does not tell: whoever's target died has aimed at another since.
    """

    def __init__(self, layout: Layout, tactics: Tactics) -> None:
        ops = ops_for("numpy", torch.device("cpu"))
        super().__init__(ops, layout, Tables(ops, layout, tactics), tactics)
        self._battles, self._units = Battles(ops, layout, Arena(ops), 1), layout.units
        self._shots: dict[tuple[int, int], None] = {}  # a set that keeps their order

    def shots(self, before: _Look, act: Ints) -> list[tuple[int, int]]:
        """Return shooters and targets of the step that ``act`` (N,) led to from ``before``."""
        battles, array, self._shots = self._battles, self._ops.array, {}
        battles.packed[:, 0] = array(before.packed)
        battles.target[:, 0] = array(before.target, "int64")
        battles.act[0] = array(act, "int64")
        self.step(battles)
        return list(self._shots)

    @override
    def _shoot(self, battles: Battles, tick: int) -> None:
        for unit in np.flatnonzero(np.asarray(battles.fires[:, 0], np.bool_)).tolist():
            target = int(battles.target[unit, 0])
            if any(self._units[unit].damage_to(self._units[target])):
                self._shots[unit, target] = None
        super()._shoot(battles, tick)


class SkirmishStage(Stage):
    """The first battle of an engine.

    Args:
        engine: whose battle is looked at.
        tactics: how its enemy plays.
    """

    def __init__(self, engine: SkirmishEngine, tactics: Tactics) -> None:
        self._engine, layout = engine, engine.layout
        self._again = _Again(layout, tactics)
        self._names = (*engine.spec.agents, *(f"enemy_{j}" for j in range(layout.m)))
        self._now: _Look | None = None
        self.bounds = engine.game.playable
        self.actions = (*_WAYS, *(_aim(layout, j) for j in range(layout.num_actions - ATTACK)))

    @override
    def scene(self) -> Scene:
        now, before = self._look(), self._now
        self._now = now
        living = np.flatnonzero(now.pools[0] > 0.0).tolist()
        follows = before is not None and now.step == before.step + 1
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
            packed=np.array(host(battles.packed[:, 0]), np.float32),
            target=np.array(host(battles.target[:, 0]), np.int64),
            act=np.array(host(battles.act[0]), np.int64),
        )

    def _shots(self, now: _Look, before: _Look) -> Iterator[Shot]:
        for unit, target in self._again.shots(before, now.act):
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
