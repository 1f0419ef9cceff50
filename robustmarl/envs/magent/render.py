"""Pictures of magent2's games, without a display."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from robustmarl._checks import check_int, check_kind
from robustmarl.envs.magent.engine import MagentEngine

__all__ = ["picture"]

_CELL = 10  # pixels
_GROUND, _WALL, _ATTACK = (24, 28, 24), (110, 110, 110), (255, 220, 90)
_TEAMS = ((255, 80, 60), (70, 140, 255))  # red or predators, blue or prey
_FAINTEST = 0.35  # of the colour, what is left without health


def picture(engine: MagentEngine, env: int = 0) -> NDArray[np.uint8]:
    """Return one game as an image, uint8 (H, W, 3).

    Red or predators are red, blue or prey blue, and the paler the less health they have. Lines are
    the last step's attacks, of those who lived through it.

    Raises:
        ValueError: if there is no such environment.
    """
    check_kind("picture.engine", engine, MagentEngine, "a MagentEngine")
    game = engine.games[check_int("picture.env", env, 0, len(engine) - 1)]
    edge = engine.rules.map_size * _CELL
    image = Image.new("RGB", (edge, edge), _GROUND)
    pen = ImageDraw.Draw(image)
    for column, row in np.argwhere(game.map[:, :, 0] > 0.0).tolist():
        pen.rectangle(_square(column, row, 1), fill=_WALL)
    for layout, colour in zip(engine.layouts, _TEAMS, strict=True):
        for i in range(layout.rows.start, layout.rows.stop):
            if game.health[i] > 0.0:
                share = _FAINTEST + (1.0 - _FAINTEST) * float(game.health[i])
                shade = tuple(round(share * part) for part in colour)
                column, row = game.places[i].tolist()
                pen.rectangle(_square(column, row, layout.body), fill=shade)
    for layout in engine.layouts:
        for i in range(layout.rows.start, layout.rows.stop):
            attack = int(game.act[i]) - layout.attack_base
            if game.health[i] > 0.0 and attack >= 0:
                column, row = (game.places[i] + (layout.body - 1) / 2).tolist()
                right, down = (game.places[i] + layout.body // 2 + layout.reach[attack]).tolist()
                pen.line((*_middle(column, row), *_middle(right, down)), fill=_ATTACK, width=2)
    return np.array(image)


def _square(column: int, row: int, body: int) -> tuple[int, int, int, int]:
    left, top = column * _CELL, row * _CELL
    return left, top, left + body * _CELL - 2, top + body * _CELL - 2


def _middle(column: float, row: float) -> tuple[float, float]:
    return (column + 0.5) * _CELL, (row + 0.5) * _CELL
