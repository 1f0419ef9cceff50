"""Replays that show what an agent believes beside what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from robustmarl._checks import check, check_int
from robustmarl.envs.skirmish.layout import Layout
from robustmarl.envs.skirmish.rules import SIGHT, TICKS_PER_STEP

if TYPE_CHECKING:  # whose stage is told by this module
    from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["Ghost", "Scene", "beliefs", "draw_scenes", "shots", "snapshot"]

Floats: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[float, float]

_CELL = 30  # pixels
_MARGIN = 2.5  # cells around all that moves
_HEAD, _FOOT = 26, 26  # pixels for text above and below the field
_PRESENT = 0.05  # believed health below which a unit is taken for dead or out of sight
_GROUND, _GRID, _TEXT, _PLATE = (24, 28, 24), (38, 44, 38), (235, 235, 235), (0, 0, 0)
_BLUE, _RED = (70, 140, 255), (255, 80, 60)
_BLUE_GHOST, _RED_GHOST = (165, 205, 255), (255, 185, 165)
_BLUE_SHOT, _RED_SHOT = (120, 180, 255), (255, 150, 80)
_CHANGED, _BELIEVER, _HEALTH = (255, 190, 40), (255, 255, 255), (90, 220, 90)


class Ghost(NamedTuple):
    """A unit as an agent believes it to be: its number, place in cells, health in [0, 1]."""

    unit: int
    x: float
    y: float
    health: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A battle in one step, of U units, allies before enemies.

    Attributes:
        pos: places, cells, (2, U).
        health: points, (U,); 0 is dead.
        cooldown: ticks until a weapon is ready, (U,).
        target: the unit that each aims at, (U,).
        seen: what the N agents see, (N, D), None where it was not recorded.
        changed: whose action is another than on the true observation, bool (N,), or None.
        step: steps since the battle began.
        outcome: how it ended, empty while it goes on.
    """

    pos: Floats
    health: Floats
    cooldown: Floats
    target: NDArray[np.int64]
    seen: Floats | None = None
    changed: NDArray[np.bool_] | None = None
    step: int = 0
    outcome: str = ""


def snapshot(engine: SkirmishEngine, env: int = 0) -> Scene:
    """Return one environment's battle as it is.

    Raises:
        ValueError: if there is no such environment.
    """
    check_int("snapshot.env", env, 0, len(engine) - 1)
    battles, host = engine.battles, engine.ops.host
    return Scene(
        pos=np.array(host(battles.pos[:, :, env]), np.float32),
        health=np.array(host(battles.health[:, env]), np.float32),
        cooldown=np.array(host(battles.weapon_cooldown[:, env]), np.float32),
        target=np.array(host(battles.target[:, env]), np.int64),
        step=int(host(battles.steps[env : env + 1])[0]),
    )


def beliefs(layout: Layout, agent: int, row: Floats, place: Point) -> list[Ghost]:
    """Return the units that an observation shows, where it shows them.

    Args:
        layout: of the map.
        agent: who observes.
        row: its observation, (D,), perturbed or not.
        place: where it is itself, cells.
    """
    enemies = row[layout.obs_enemies].reshape(layout.m, layout.enemy_size)
    allies = row[layout.obs_allies].reshape(layout.n - 1, layout.ally_size)
    others = [ally for ally in range(layout.n) if ally != agent]
    pairs = [
        *zip(range(layout.n, layout.n + layout.m), enemies, strict=True),
        *zip(others, allies, strict=True),
    ]
    found = []
    for unit, (_, _, x, y, health, *_) in pairs:
        if health > _PRESENT:
            there = place[0] + float(x) * SIGHT, place[1] + float(y) * SIGHT
            found.append(Ghost(unit, *there, min(float(health), 1.0)))
    return found


def shots(scene: Scene, before: Scene) -> list[tuple[int, int]]:
    """Return who shot at whom in the step that led from ``before`` to ``scene``, by number."""
    # A weapon that is less ready than waiting would have made it has been fired.
    waited = np.maximum(before.cooldown - TICKS_PER_STEP, 0.0)
    fired = (scene.cooldown > waited + 0.5) & (before.health > 0.0)
    pairs = [(unit, int(scene.target[unit])) for unit in np.flatnonzero(fired).tolist()]
    return [(unit, target) for unit, target in pairs if before.health[target] > 0.0]


def draw_scenes(
    layout: Layout, scenes: Sequence[Scene], *, believer: int | None = None, title: str = ""
) -> list[NDArray[np.uint8]]:
    """Return a battle's pictures, uint8 (H, W, 3) each, north up.

    Allies are blue, enemies red. Lines are shots of the step before; a yellow ring is around an
    agent whose action the attack changed. Hollow units are where ``believer``, ringed in white,
    believes them to be, with a line from where they are.

    Args:
        layout: of the map.
        scenes: the battle, step by step, at least one.
        believer: the agent whose beliefs are drawn; when it is dead nobody's are. None draws none.
        title: printed above.

    Raises:
        ValueError: for no scenes, or no such agent.
    """
    check(len(scenes) > 0, "draw_scenes.scenes", "at least one", len(scenes))
    if believer is not None:
        check_int("draw_scenes.believer", believer, 0, layout.n - 1)
    canvas = _Canvas(layout, _bounds(layout, scenes))
    return [
        canvas.draw(scene, before, believer, title)
        for scene, before in zip(scenes, [None, *scenes[:-1]], strict=True)
    ]


def _bounds(layout: Layout, scenes: Sequence[Scene]) -> tuple[int, int, int, int]:
    """Return left, bottom, right and top of the part of the field where anybody goes."""
    places = np.concatenate([scene.pos[:, scene.health > 0.0] for scene in scenes], axis=1)
    low, high = places.min(axis=1) - _MARGIN, places.max(axis=1) + _MARGIN
    left, bottom, right, top = layout.game.playable
    return (
        max(int(np.floor(low[0])), left),
        max(int(np.floor(low[1])), bottom),
        min(int(np.ceil(high[0])), right),
        min(int(np.ceil(high[1])), top),
    )


class _Canvas:
    """Draws scenes of one battle, all of one size."""

    def __init__(self, layout: Layout, bounds: tuple[int, int, int, int]) -> None:
        self._layout, self._bounds = layout, bounds
        left, bottom, right, top = bounds
        self._field = ((right - left) * _CELL, (top - bottom) * _CELL)
        self._font = ImageFont.load_default(size=14)
        self._large = ImageFont.load_default(size=30)

    def draw(
        self, scene: Scene, before: Scene | None, believer: int | None, title: str
    ) -> NDArray[np.uint8]:
        """Return one picture."""
        width, height = self._field
        image = Image.new("RGB", (width, height + _HEAD + _FOOT), _GROUND)
        pen = ImageDraw.Draw(image)
        for x in range(0, width, _CELL):
            pen.line((x, _HEAD, x, _HEAD + height), fill=_GRID)
        for y in range(_HEAD, _HEAD + height + 1, _CELL):
            pen.line((0, y, width, y), fill=_GRID)
        shots = self._shots(pen, scene, before)
        for unit in np.flatnonzero(scene.health > 0.0):
            self._unit(pen, scene, int(unit))
        lives = believer is not None and scene.health[believer] > 0.0
        if believer is not None and lives and scene.seen is not None:
            self._ghosts(pen, scene, believer)
        self._plates(pen, scene, shots, believer, title)
        if scene.outcome:
            above = (width / 2, _HEAD + 8)
            pen.text(above, scene.outcome, fill=_TEXT, font=self._large, anchor="ma")
        return np.asarray(image)

    def _at(self, x: float, y: float) -> Point:
        left, _, _, top = self._bounds
        return (x - left) * _CELL, _HEAD + (top - y) * _CELL

    def _circle(self, place: Point, radius: float) -> tuple[float, float, float, float]:
        x, y = place
        return x - radius, y - radius, x + radius, y + radius

    def _shots(self, pen: ImageDraw.ImageDraw, scene: Scene, before: Scene | None) -> int:
        """Draw who shot at whom in the step that led here; return how many did."""
        if before is None:
            return 0
        fired = shots(scene, before)
        for unit, target in fired:
            # The dead are put away: where they were last is in the scene before.
            ends = [
                self._at(*(scene if scene.health[one] > 0.0 else before).pos[:, one])
                for one in (unit, target)
            ]
            colour = _BLUE_SHOT if unit < self._layout.n else _RED_SHOT
            pen.line((*ends[0], *ends[1]), fill=colour, width=2)
        return len(fired)

    def _unit(self, pen: ImageDraw.ImageDraw, scene: Scene, unit: int) -> None:
        kind, ally = self._layout.units[unit], unit < self._layout.n
        x, y = self._at(*scene.pos[:, unit])
        radius = max(kind.radius * _CELL, 7.0)
        pen.ellipse(self._circle((x, y), radius), fill=_BLUE if ally else _RED)
        if ally and scene.changed is not None and scene.changed[unit]:
            pen.ellipse(self._circle((x, y), radius + 4), outline=_CHANGED, width=3)
        bar, full = y - radius - 9, 22.0
        share = float(scene.health[unit]) / kind.health
        pen.rectangle((x - full / 2, bar, x + full / 2, bar + 3), fill=_GRID)
        pen.rectangle((x - full / 2, bar, x + full * (share - 0.5), bar + 3), fill=_HEALTH)

    def _ghosts(self, pen: ImageDraw.ImageDraw, scene: Scene, believer: int) -> None:
        assert scene.seen is not None  # asked for where there is one
        own = float(scene.pos[0, believer]), float(scene.pos[1, believer])
        radius = max(self._layout.units[believer].radius * _CELL, 7.0)
        pen.ellipse(self._circle(self._at(*own), radius + 8), outline=_BELIEVER, width=2)
        for ghost in beliefs(self._layout, believer, scene.seen[believer], own):
            colour = _BLUE_GHOST if ghost.unit < self._layout.n else _RED_GHOST
            place = self._at(ghost.x, ghost.y)
            if scene.health[ghost.unit] > 0.0:
                pen.line((*self._at(*scene.pos[:, ghost.unit]), *place), fill=colour, width=1)
            size = max(self._layout.units[ghost.unit].radius * _CELL, 7.0)
            pen.ellipse(self._circle(place, size), outline=colour, width=2)

    def _plates(
        self,
        pen: ImageDraw.ImageDraw,
        scene: Scene,
        shots: int,
        believer: int | None,
        title: str,
    ) -> None:
        width, height = self._field
        pen.rectangle((0, 0, width, _HEAD - 1), fill=_PLATE)
        pen.text((8, 5), title, fill=_TEXT, font=self._font)
        texts = [f"step {scene.step}", f"shots: {shots}"]
        if scene.changed is not None:
            texts.append(f"actions changed: {int(scene.changed.sum())}")
        pen.text((width - 8, 5), "   ".join(texts), fill=_TEXT, font=self._font, anchor="ra")
        pen.rectangle((0, _HEAD + height, width, _HEAD + height + _FOOT), fill=_PLATE)
        legend = "yellow ring: action changed" if scene.changed is not None else ""
        if believer is not None:
            legend += f"{'   ' if legend else ''}hollow: what agent {believer} (white ring) sees"
        pen.text((8, _HEAD + height + 5), legend, fill=_TEXT, font=self._font)
