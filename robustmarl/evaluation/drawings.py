"""Recorded episodes as pictures: what is there, and what one agent believes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from robustmarl.envs.scenes import Bounds, Entity, Scene

if TYPE_CHECKING:  # which is drawn by what is here
    from robustmarl.evaluation.recordings import RecordedEpisode, RecordedStep, Recording

__all__ = ["draw"]

Picture: TypeAlias = NDArray[np.uint8]
Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]

_WIDTH = 600  # pixels of a field
_WHOLE = 0.25  # share of a field that is in use from which all of it is drawn
_MARGIN, _FLATTEST = 0.1, 0.6  # around what is in use; its least height by its width
_LINE = 26  # pixels of a line of text: one above the field, and one or two below it
_APART = 16  # least pixels between two texts in a line
_LEAST = 7.0  # pixels of a body's radius
_STILL = 8  # pictures for which an ending stands
_GROUND, _GRID, _TEXT, _PLATE = (24, 28, 24), (38, 44, 38), (235, 235, 235), (0, 0, 0)
_CHANGED, _BELIEVER = (255, 190, 40), (255, 255, 255)
_HEALTH, _SHIELD, _WALL = (90, 220, 90), (170, 220, 255), (90, 96, 90)
_PAINT = (120, 128, 120)
_TEAMS = ((70, 140, 255), (255, 80, 60), (110, 200, 100), (190, 140, 240))
_OF_NAME = {"blue": 0, "red": 1, "green": 2}  # of teams that are called so


def draw(recording: Recording, believer: str | None = None) -> list[Picture]:
    """Return pictures of all episodes, one after the other, uint8 (H, W, 3), of one size.

    Solid is what is there, hollow what the believer sees, at the places where it sees it; lines
    tie them. Thick lines are shots, a yellow ring is around agents whose action was changed. Teams
    are named in their colours, and the last picture tells how the episode ended.

    Args:
        recording: what is drawn.
        believer: whose beliefs are drawn; None is, step by step, the first agent whose action is
            another because of what it sees, or else the first that does not see the truth.
    """
    frames: list[Picture] = []
    canvas = None if recording.bounds is None else _Canvas(recording, believer)
    teams = {} if canvas is None else {team: c for team, c in canvas.colours.items() if team}
    for episode in recording.episodes:
        last: Mapping[str, Point] = {}
        for number, step in enumerate(episode.steps):
            if canvas is not None and step.scene is not None:
                field = canvas.field(step, step.scene, last)
                last = {**last, **{one.name: (one.x, one.y) for one in step.scene.entities}}
            else:
                assert step.picture is not None  # a step has one of the two
                field = _enlarged(Image.fromarray(step.picture))
            frames.append(_framed(recording, field, episode, number, believer, teams))
        frames += frames[-1:] * _STILL
    return frames


def _framed(
    recording: Recording,
    field: Image.Image,
    episode: RecordedEpisode,
    number: int,
    believer: str | None,
    teams: Mapping[str, Colour],
) -> Picture:
    """Return a field between what is said above and below it."""
    width, height = field.size
    lines = 3 if teams else 2
    image = Image.new("RGB", (width, height + lines * _LINE), _PLATE)
    image.paste(field, (0, _LINE))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    step = episode.steps[number]
    pen.text((8, 5), recording.title, fill=_TEXT, font=font)
    texts = [f"step {number}"]
    if step.scene is not None and step.scene.shots:
        texts.append(f"shots: {len(step.scene.shots)}")
    if step.acts:
        texts.append(f"actions changed: {len(step.intended)}")
    if number == len(episode.steps) - 1:
        ending = [f"{name} {value:g}" for name, value in episode.figures.items()] or ["the end"]
        told = "   ".join([*texts, *ending])
        if pen.textlength(recording.title + told, font=font) + 16 + _APART <= width:
            texts += ending
        else:  # over the field, where there is room for it
            large = ImageFont.load_default(size=24)
            where = (width / 2, _LINE + 8)
            pen.text(where, "   ".join(ending), fill=_TEXT, font=large, anchor="ma")
    pen.text((width - 8, 5), "   ".join(texts), fill=_TEXT, font=font, anchor="ra")
    legend = ["yellow ring: action changed"] if teams else []
    if any(step.ghosts for step in episode.steps):
        who = "the agent in the white ring" if believer is None else f"{believer} (white ring)"
        legend.append(f"hollow: what {who} sees")
    pen.text((8, _LINE + height + 5), "   ".join(legend), fill=_TEXT, font=font)
    left = 8.0
    for team, colour in teams.items():
        pen.text((left, 2 * _LINE + height + 2), team, fill=colour, font=font)
        left += pen.textlength(team, font=font) + _APART
    return np.asarray(image)


def _enlarged(picture: Image.Image) -> Image.Image:
    """Return a small picture so many times as large that it is not much narrower than a field."""
    times = max(1, round(_WIDTH / picture.width))
    size = (picture.width * times, picture.height * times)
    return picture.resize(size, Image.Resampling.NEAREST)


def _believer_at(step: RecordedStep, believer: str | None) -> str | None:
    """Return whose beliefs are drawn in a step; see :func:`draw`."""
    if believer is not None:
        return believer if believer in step.ghosts else None
    misled = [agent for agent in step.ghosts if agent in step.intended]
    return next(iter([*misled, *step.ghosts]), None)


class _Canvas:
    """Draws the scenes of a recording, all on the same part of the field.

    Args:
        recording: what is drawn.
        believer: as of :func:`draw`.

    Attributes:
        colours: by team.
    """

    def __init__(self, recording: Recording, believer: str | None) -> None:
        assert recording.bounds is not None  # else there are pictures
        steps = [step for episode in recording.episodes for step in episode.steps]
        entities = [one for step in steps if step.scene for one in step.scene.entities]
        believed = [(step, _believer_at(step, believer)) for step in steps]
        ghosts = [(one.x, one.y, 0.0) for step, who in believed if who for one in step.ghosts[who]]
        places = [(one.x, one.y, one.radius) for one in entities]
        self._believer, self._downward = believer, recording.downward
        self._lines = recording.lines
        self._bounds = _shown(recording.bounds, places, ghosts)
        left, low, right, high = self._bounds
        self._scale = _WIDTH / (right - left)
        self._height = round((high - low) * self._scale)
        teams = list(dict.fromkeys(one.team for one in entities))
        self.colours = {
            team: _TEAMS[_OF_NAME.get(team, index) % len(_TEAMS)]
            for index, team in enumerate(teams)
        }

    def field(self, step: RecordedStep, scene: Scene, last: Mapping[str, Point]) -> Image.Image:
        """Return a step's picture; ``last`` is where things were before, by name."""
        image = Image.new("RGB", (_WIDTH, self._height), _GROUND)
        pen = ImageDraw.Draw(image)
        self._ground(pen, scene)
        things = {entity.name: entity for entity in scene.entities}
        for entity in scene.entities:
            self._thing(pen, entity, changed=entity.name in step.intended)
        for name, x, y in scene.shots:
            here = (things[name].x, things[name].y) if name in things else last.get(name)
            if here is not None:
                pen.line((*self._at(*here), *self._at(x, y)), fill=(255, 220, 120), width=2)
        believer = _believer_at(step, self._believer)
        if believer is not None and believer in things:
            self._ghosts(pen, step, things, believer)
        for entity in scene.entities:
            self._label(pen, entity)
        return image

    def _at(self, x: float, y: float) -> Point:
        left, low, _, high = self._bounds
        down = y - low if self._downward else high - y
        return (x - left) * self._scale, down * self._scale

    def _radius(self, entity: Entity) -> float:
        return max(entity.radius * self._scale, _LEAST)

    def _ground(self, pen: ImageDraw.ImageDraw, scene: Scene) -> None:
        left, low, right, high = self._bounds
        gap = 10.0 if right - left > 60 else 1.0
        for x in np.arange(np.ceil(left / gap) * gap, right, gap):
            column, _ = self._at(float(x), low)
            pen.line((column, 0, column, self._height), fill=_GRID)
        for y in np.arange(np.ceil(low / gap) * gap, high, gap):
            _, row = self._at(left, float(y))
            pen.line((0, row, _WIDTH, row), fill=_GRID)
        for x, y in scene.walls:
            (a, b), (c, d) = self._at(x, y), self._at(x + 1.0, y + 1.0)
            pen.rectangle((min(a, c), min(b, d), max(a, c), max(b, d)), fill=_WALL)
        for line in self._lines:
            pen.line([self._at(*corner) for corner in line], fill=_PAINT, width=2)

    def _thing(self, pen: ImageDraw.ImageDraw, entity: Entity, *, changed: bool) -> None:
        middle, radius = self._at(entity.x, entity.y), self._radius(entity)
        body = pen.rectangle if entity.square else pen.ellipse
        body(_around(middle, radius), fill=self.colours[entity.team])
        if changed:
            pen.ellipse(_around(middle, radius + 4), outline=_CHANGED, width=3)
        left, top = middle[0] - 11, middle[1] - radius - 9
        for share, colour in ((entity.health, _HEALTH), (entity.shield, _SHIELD)):
            if share is not None:
                pen.rectangle((left, top, left + 22, top + 3), fill=_GRID)
                pen.rectangle((left, top, left + 22 * min(share, 1.0), top + 3), fill=colour)
                top -= 5

    def _label(self, pen: ImageDraw.ImageDraw, entity: Entity) -> None:
        if entity.label:
            font = ImageFont.load_default(size=max(12.0, self._radius(entity)))
            middle = self._at(entity.x, entity.y)
            pen.text(middle, entity.label, fill=_PLATE, font=font, anchor="mm")

    def _ghosts(
        self,
        pen: ImageDraw.ImageDraw,
        step: RecordedStep,
        things: Mapping[str, Entity],
        believer: str,
    ) -> None:
        own = things[believer]
        pen.ellipse(
            _around(self._at(own.x, own.y), self._radius(own) + 8), outline=_BELIEVER, width=2
        )
        for name, x, y, _ in step.ghosts[believer]:
            entity = things.get(name)
            if entity is None:  # dead or eaten, and believed in
                pen.ellipse(_around(self._at(x, y), _LEAST), outline=_TEXT, width=2)
                continue
            colour = tuple((255 + part) // 2 for part in self.colours[entity.team])
            pen.line((*self._at(entity.x, entity.y), *self._at(x, y)), fill=colour, width=1)
            outline = pen.rectangle if entity.square else pen.ellipse
            outline(_around(self._at(x, y), self._radius(entity)), outline=colour, width=2)


def _around(middle: Point, radius: float) -> tuple[float, float, float, float]:
    x, y = middle
    return x - radius, y - radius, x + radius, y + radius


def _shown(
    bounds: Bounds, places: Sequence[tuple[float, float, float]], ghosts: Iterable[Sequence[float]]
) -> Bounds:
    """Return the part of a field that is drawn: where anybody goes, if that is little of it."""
    used = _box(places)
    left, low, right, high = bounds
    if (used[2] - used[0]) * (used[3] - used[1]) >= _WHOLE * (right - left) * (high - low):
        return _box([*places, (left, low, 0.0), (right, high, 0.0)])
    used = _box([*places, *ghosts])
    width = (used[2] - used[0]) * (1.0 + _MARGIN)
    height = (used[3] - used[1]) * (1.0 + _MARGIN)
    half_width = max(width, height * _FLATTEST) / 2.0
    half_height = max(height, width * _FLATTEST) / 2.0
    x, y = (used[0] + used[2]) / 2.0, (used[1] + used[3]) / 2.0
    return (
        max(left, x - half_width),
        max(low, y - half_height),
        min(right, x + half_width),
        min(high, y + half_height),
    )


def _box(places: Iterable[Sequence[float]]) -> Bounds:
    """Return the least bounds around discs, each x, y and radius."""
    x, y, radius = np.array(list(places), np.float64).T
    left, low = (x - radius).min(), (y - radius).min()
    right, high = (x + radius).max(), (y + radius).max()
    return float(left), float(low), float(right), float(high)
