"""What a report tells of recorded episodes, as small as it can be said."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustmarl.envs.scenes import Entity
from robustmarl.evaluation.recordings import Act, RecordedEpisode, RecordedStep, Recording

__all__ = ["EpisodeData", "FilmData", "StepData", "ThingData", "tell"]

_WIDEST = 480  # pixels of a picture: larger ones are made smaller

At: TypeAlias = list[float]
"""What a thing is, its number, then where: x and y, and health and shield where it has them."""


class ThingData(TypedDict):
    """An entity, as far as it stays the same."""

    name: str
    team: str
    kind: str
    label: str
    radius: float
    square: bool


class StepData(TypedDict, total=False):
    """A step; what it lacks is left out.

    Acts are the numbers of agents, of what they do and, where that is another, of what they would
    have done; what agents are shown are numbers of coordinates, what is true there and what is
    shown.
    """

    at: list[At]
    shots: list[At]
    ghosts: dict[str, list[At]]
    picture: str
    acts: list[list[int]]
    shown: dict[str, list[At]]
    earned: str


class EpisodeData(TypedDict):
    """An episode."""

    things: list[ThingData]
    walls: list[At]
    steps: list[StepData]
    figures: list[str]


class FilmData(TypedDict):
    """What is watched beside other films."""

    title: str
    attack: str
    agents: list[str]
    acts: list[str]
    bounds: list[float] | None
    downward: bool
    lines: list[list[At]]
    episodes: list[EpisodeData]


def tell(recording: Recording) -> FilmData:
    """Return what is shown of a recording."""
    agents = {agent: number for number, agent in enumerate(recording.agents)}
    acts = _Texts(recording.actions)
    episodes = [_episode(one, agents, acts) for one in recording.episodes]
    return {
        "title": recording.title,
        "attack": recording.attack,
        "agents": list(recording.agents),
        "acts": acts.told(),
        "bounds": None if recording.bounds is None else list(recording.bounds),
        "downward": recording.downward,
        "lines": [[list(corner) for corner in line] for line in recording.lines],
        "episodes": episodes,
    }


class _Texts:
    """Actions in words, each told once and then by its number.

    Args:
        actions: names of the actions, by number; empty where they are not told.
    """

    def __init__(self, actions: Sequence[str]) -> None:
        self._actions = actions
        self._numbers: dict[str, int] = {}

    def number(self, act: Act) -> int:
        """Return the number of an action's text."""
        return self._numbers.setdefault(self._text(act), len(self._numbers))

    def told(self) -> list[str]:
        """Return the texts, by number."""
        return list(self._numbers)

    def _text(self, act: Act) -> str:
        if isinstance(act, tuple):
            return f"({', '.join(f'{value:.2f}' for value in act)})"
        return self._actions[act] if act < len(self._actions) else f"action {act}"


def _episode(episode: RecordedEpisode, agents: Mapping[str, int], acts: _Texts) -> EpisodeData:
    scenes = [step.scene for step in episode.steps if step.scene is not None]
    things: dict[str, Entity] = {}
    for scene in scenes:
        for entity in scene.entities:
            things.setdefault(entity.name, entity)
    numbers = {name: number for number, name in enumerate(things)}
    earned, steps = 0.0, []
    for step in episode.steps:
        earned += step.reward
        steps.append(_step(step, numbers, agents, acts, earned))
    figures = [f"{name}: {value:g}" for name, value in episode.figures.items()]
    return {
        "things": [_thing(entity) for entity in things.values()],
        "walls": [list(wall) for wall in scenes[0].walls] if scenes else [],
        "steps": steps,
        "figures": figures,
    }


def _thing(entity: Entity) -> ThingData:
    return {
        "name": entity.name,
        "team": entity.team,
        "kind": entity.kind,
        "label": entity.label,
        "radius": entity.radius,
        "square": entity.square,
    }


def _acts(agent: str, step: RecordedStep) -> list[Act]:
    """Return what an agent does and, if that is another thing, what it would have done."""
    instead = [step.intended[agent]] if agent in step.intended else []
    return [step.acts[agent], *instead]


def _step(
    step: RecordedStep,
    numbers: Mapping[str, int],
    agents: Mapping[str, int],
    acts: _Texts,
    earned: float,
) -> StepData:
    data: StepData = {"earned": f"{earned:.2f}"}
    if step.acts:
        data["acts"] = [
            [agents[agent], *(acts.number(one) for one in _acts(agent, step))]
            for agent in step.acts
        ]
    if step.picture is not None:
        data["picture"] = _png(step.picture)
    if step.scene is None:
        if step.shown:  # where nobody tells where things are, numbers say why
            data["shown"] = {
                agent: [_rounded(k, true, seen) for k, true, seen in changes]
                for agent, changes in step.shown.items()
            }
        return data
    data["at"] = [
        _rounded(numbers[one.name], one.x, one.y, one.health, one.shield)
        for one in step.scene.entities
    ]
    if step.scene.shots:
        data["shots"] = [
            _rounded(numbers[name], x, y) for name, x, y in step.scene.shots if name in numbers
        ]
    if step.ghosts:
        data["ghosts"] = {
            agent: [
                _rounded(numbers[name], x, y, health)
                for name, x, y, health in ghosts
                if name in numbers
            ]
            for agent, ghosts in step.ghosts.items()
        }
    return data


def _rounded(number: int, *values: float | None) -> At:
    """Return numbers as short as eyes need them."""
    return [number, *(round(float(value), 3) for value in values if value is not None)]


def _png(picture: NDArray[np.uint8]) -> str:
    """Return a picture as an address that holds it."""
    image = Image.fromarray(picture)
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)))
    file = io.BytesIO()
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
