"""Pictures and replays of a battle, without a display."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustmarl._checks import check, check_int, check_kind, check_number, check_path, writing
from robustmarl.envs._extras import require
from robustmarl.envs.skirmish.engine import SkirmishEngine

__all__ = ["Figure", "draw", "picture", "save_replay"]

Colour: TypeAlias = tuple[int, int, int]

_CELL = 20  # pixels
_BAR, _BAR_HEIGHT = 16, 2  # pixels: how long a bar of full health is, and how high
_HEALTH_ABOVE, _SHIELD_ABOVE = 4, 7  # pixels between a unit's top and its bars' top
_GROUND, _EDGE = (24, 28, 24), (60, 66, 60)
_BLUE, _RED = (70, 140, 255), (255, 80, 60)
_HEALTH, _SHIELD = (90, 220, 90), (170, 220, 255)


def picture(engine: SkirmishEngine, env: int = 0) -> NDArray[np.uint8]:
    """Return one environment as an image, uint8 (H, W, 3), north up.

    Allies are blue, enemies red; the bars above them show health and, lighter, shield.

    Raises:
        ValueError: if there is no such environment.
    """
    check_kind("picture.engine", engine, SkirmishEngine, "a SkirmishEngine")
    env = check_int("picture.env", env, 0, len(engine) - 1)
    battles, host = engine.battles, engine.ops.host
    pos, pools = (
        np.asarray(host(array[:, :, env]), np.float32) for array in (battles.pos, battles.pools)
    )
    units = [
        Figure(
            x=pos[0, i],
            y=pos[1, i],
            radius=unit.radius,
            health=pools[0, i] / unit.health,
            shield=pools[1, i] / unit.shield if unit.shield else None,
            ally=i < engine.layout.n,
        )
        for i, unit in enumerate(engine.layout.units)
        if pools[0, i] > 0
    ]
    return draw(engine.game.playable, units)


class Figure(NamedTuple):
    """A living unit in a picture: place and size in cells, health and shield in [0, 1]."""

    x: float
    y: float
    radius: float
    health: float
    shield: float | None
    ally: bool


def draw(bounds: tuple[int, int, int, int], units: Iterable[Figure]) -> NDArray[np.uint8]:
    """Return an image, uint8 (H, W, 3), of units on a field.

    Args:
        bounds: left, bottom, right and top of the field, cells.
        units: whom to draw, later ones above earlier ones.
    """
    left, bottom, right, top = bounds
    size = ((top - bottom) * _CELL, (right - left) * _CELL, 3)
    image = np.empty(size, np.uint8)
    image[:] = _GROUND
    image[::_CELL] = image[:, ::_CELL] = _EDGE
    y, x = np.mgrid[: size[0], : size[1]]
    for unit in units:
        column, row = (unit.x - left) * _CELL, (top - unit.y) * _CELL
        radius = unit.radius * _CELL
        inside = (x - column) ** 2 + (y - row) ** 2 <= radius**2
        image[inside] = _BLUE if unit.ally else _RED
        _bar(image, column, row - radius - _HEALTH_ABOVE, unit.health, _HEALTH)
        if unit.shield is not None:
            _bar(image, column, row - radius - _SHIELD_ABOVE, unit.shield, _SHIELD)
    return image


def save_replay(path: str | Path, frames: Sequence[NDArray[np.uint8]], *, fps: float = 3.0) -> None:
    """Write pictures as an animated GIF, or as MP4 (H.264), which needs the extra ``[video]``.

    Args:
        path: ends in ``.gif`` or ``.mp4``.
        frames: images of one size, uint8 (H, W, 3), at least one.
        fps: frames per second, > 0; an environment step lasts 0.36 s in the game.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for another file type, no frames, frames that are no such images, or of
            different sizes.
        ImportError: for MP4 without the extra.
    """
    path = check_path("save_replay.path", path)
    rule = "a file name that ends in .gif or .mp4"
    check(path.suffix in (".gif", ".mp4"), "save_replay.path", rule, str(path))
    check_kind("save_replay.frames", frames, Sequence, "a sequence of images")
    check(len(frames) > 0, "save_replay.frames", "at least one image", frames)
    where, rule = "save_replay.frames", "images, uint8 arrays (H, W, 3)"
    for frame in frames:
        check_kind(where, frame, np.ndarray, rule)
        check(frame.dtype == np.uint8 and _is_image(frame), where, rule, frame)
    fps = check_number("save_replay.fps", fps, 0.0, open_low=True)
    shapes = {frame.shape for frame in frames}
    check(len(shapes) == 1, "save_replay.frames", "images of one size", sorted(shapes))
    with writing("save_replay.path", path):
        if path.suffix == ".mp4":
            _write_mp4(path, frames, fps)
        else:
            from PIL import Image

            first, *rest = (Image.fromarray(frame) for frame in frames)
            first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _is_image(frame: NDArray[np.generic]) -> bool:
    return frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0


def _write_mp4(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    ffmpeg = require("imageio_ffmpeg", "video")
    path.open("wb").close()  # says itself why it cannot be written to
    height, width, _ = frames[0].shape
    # H.264 takes even numbers of pixels alone: one more of the ground's colour at most.
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    padded = [np.pad(frame, odd, mode="edge") for frame in frames]
    rows, columns = padded[0].shape[:2]
    raw = f"-f rawvideo -pix_fmt rgb24 -s {columns}x{rows} -r {fps} -i -"
    coded = "-an -vcodec libx264 -pix_fmt yuv420p -crf 18"  # a quality at which nothing shows
    command = [ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *raw.split(), *coded.split()]
    pictures = b"".join(np.ascontiguousarray(frame).tobytes() for frame in padded)
    done = subprocess.run([*command, str(path)], input=pictures, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"ffmpeg could not write {str(path)!r}: {done.stderr.decode().strip()}")


def _bar(
    image: NDArray[np.uint8], column: float, row: float, fraction: float, colour: Colour
) -> None:
    """Draw a bar in the middle of a column, from a row down, filled from the left."""
    top, left = max(int(row), 0), max(int(column) - _BAR // 2, 0)
    filled = max(round(_BAR * fraction), 1)
    image[top : top + _BAR_HEIGHT, left : left + _BAR] = _EDGE
    image[top : top + _BAR_HEIGHT, left : left + filled] = colour
