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

__all__ = ["ActData", "EpisodeData", "FilmData", "StepData", "ThingData", "tell"]

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


class ActData(TypedDict):
    """What an agent does, and would have done instead, null where that is the same."""

    agent: str
    act: str
    instead: str | None


class StepData(TypedDict, total=False):
    """A step; what it lacks is left out."""

    at: list[At]
    shots: list[At]
    ghosts: dict[str, list[At]]
    picture: str
    acts: list[ActData]
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
    bounds: list[float] | None
    downward: bool
    episodes: list[EpisodeData]


def tell(recording: Recording) -> FilmData:
    """Return what is shown of a recording."""
    return {
        "title": recording.title,
        "attack": recording.attack,
        "agents": list(recording.agents),
        "bounds": None if recording.bounds is None else list(recording.bounds),
        "downward": recording.downward,
        "episodes": [_episode(one, recording.actions) for one in recording.episodes],
    }


def _episode(episode: RecordedEpisode, actions: Sequence[str]) -> EpisodeData:
    scenes = [step.scene for step in episode.steps if step.scene is not None]
    things: dict[str, Entity] = {}
    for scene in scenes:
        for entity in scene.entities:
            things.setdefault(entity.name, entity)
    numbers = {name: number for number, name in enumerate(things)}
    earned, steps = 0.0, []
    for step in episode.steps:
        earned += step.reward
        steps.append(_step(step, numbers, actions, earned))
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


def _step(
    step: RecordedStep, numbers: Mapping[str, int], actions: Sequence[str], earned: float
) -> StepData:
    data: StepData = {"earned": f"{earned:.2f}"}
    if step.acts:
        data["acts"] = [
            {
                "agent": agent,
                "act": _named(act, actions),
                "instead": _named(step.intended[agent], actions)
                if agent in step.intended
                else None,
            }
            for agent, act in step.acts.items()
        ]
    if step.picture is not None:
        data["picture"] = _png(step.picture)
    if step.scene is None:
        return data
    data["at"] = [
        _rounded(numbers[one.name], one.x, one.y, one.health, one.shield)
        for one in step.scene.entities
    ]
    if step.scene.shots:
        data["shots"] = [_rounded(numbers[name], x, y) for name, x, y in step.scene.shots]
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


def _named(act: Act, actions: Sequence[str]) -> str:
    if isinstance(act, tuple):
        return f"({', '.join(f'{value:.2f}' for value in act)})"
    return actions[act] if act < len(actions) else f"action {act}"


def _png(picture: NDArray[np.uint8]) -> str:
    """Return a picture as an address that holds it."""
    image = Image.fromarray(picture)
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)))
    file = io.BytesIO()
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
