"""Pictures and replays of a battle, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import check, check_int, check_number
from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["picture", "save_replay"]

_CELL = 20  # pixels
_GROUND, _EDGE = (24, 28, 24), (60, 66, 60)
_BLUE, _RED = (70, 140, 255), (255, 80, 60)
_HEALTH, _SHIELD = (90, 220, 90), (170, 220, 255)


def picture(engine: SkirmishEngine, env: int = 0) -> NDArray[np.uint8]:
    """Return one environment as an image, uint8 (H, W, 3), north up.

    Allies are blue, enemies red; the bars above them show health and, lighter, shield.

    Raises:
        ValueError: if there is no such environment.
    """
    check_int("picture.env", env, 0, len(engine) - 1)
    left, bottom, right, top = engine.game.playable
    size = ((top - bottom) * _CELL, (right - left) * _CELL, 3)
    image = np.empty(size, np.uint8)
    image[:] = _GROUND
    image[::_CELL] = image[:, ::_CELL] = _EDGE
    pos, pools = (_numpy(part[:, :, env]) for part in (engine.battles.pos, engine.battles.pools))
    y, x = np.mgrid[: size[0], : size[1]]
    for i, unit in enumerate(engine.layout.units):
        health, shield = pools[:, i]
        if health <= 0:
            continue
        column, row = (pos[0, i] - left) * _CELL, (top - pos[1, i]) * _CELL
        radius = unit.radius * _CELL
        inside = (x - column) ** 2 + (y - row) ** 2 <= radius**2
        image[inside] = _BLUE if i < engine.layout.n else _RED
        _bar(image, column, row - radius - 4, health / unit.health, _HEALTH)
        if unit.shield:
            _bar(image, column, row - radius - 7, shield / unit.shield, _SHIELD)
    return image


def save_replay(path: str | Path, frames: Sequence[NDArray[np.uint8]], *, fps: float = 3.0) -> None:
    """Write pictures as an animated GIF.

    Args:
        path: ends in ``.gif``.
        frames: images of one size, uint8 (H, W, 3), at least one.
        fps: frames per second, > 0; an environment step lasts 0.36 s in the game.

    Raises:
        ValueError: for another file type, no frames, or frames of different sizes.
    """
    path = Path(path)
    check(path.suffix == ".gif", "save_replay.path", "a file name that ends in .gif", str(path))
    check(len(frames) > 0, "save_replay.frames", "at least one image", len(frames))
    check_number("save_replay.fps", fps, 0.0, open_low=True)
    shapes = {frame.shape for frame in frames}
    check(len(shapes) == 1, "save_replay.frames", "images of one size", sorted(shapes))
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _bar(image: NDArray[np.uint8], column: float, row: float, part: float, colour: Any) -> None:
    top, start = max(int(row), 0), max(int(column) - 8, 0)
    image[top : top + 2, start : start + 16] = _EDGE
    image[top : top + 2, start : start + max(round(16 * part), 1)] = colour


def _numpy(array: Any) -> NDArray[np.float32]:
    return array.cpu().numpy() if hasattr(array, "cpu") else array
