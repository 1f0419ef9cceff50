"""What is where in an environment, and what agents believe is where: for those who draw it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bounds", "Entity", "Ghost", "Line", "Scene", "Shot", "Stage", "Staged", "stage_of"]

Bounds: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top; where y grows downwards, left, top, right and bottom."""

Line: TypeAlias = tuple[tuple[float, float], ...]
"""What is painted on the ground, from corner to corner, x and y."""


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something that has a place.

    Attributes:
        name: unique among what is there; an agent's is its name in the environment.
        x: its middle, in the environment's unit of length.
        y: likewise.
        team: whom it belongs to, or what it is; what is of one team has one colour.
        kind: what it is, in a word; empty where the team says it.
        label: one or two characters that are written on it.
        radius: of its body, > 0, same unit.
        square: whether it is drawn as a square: what is no agent.
        health: what is left of its health, in [0, 1], None where nothing can happen to it.
        shield: likewise.
    """

    name: str
    x: float
    y: float
    team: str = ""
    kind: str = ""
    label: str = ""
    radius: float = 0.4
    square: bool = False
    health: float | None = None
    shield: float | None = None


class Shot(NamedTuple):
    """Who shot in the step that led here, and the place that was hit."""

    name: str
    x: float
    y: float


class Ghost(NamedTuple):
    """An entity as an agent believes it to be: its name, place, and health in [0, 1]."""

    name: str
    x: float
    y: float
    health: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is there in one step.

    Attributes:
        entities: what is there; who has died or been eaten is not.
        shots: of the step before.
        walls: left and lower ends (where y grows downwards: upper) of unit squares.
    """

    entities: tuple[Entity, ...]
    shots: tuple[Shot, ...] = ()
    walls: tuple[tuple[float, float], ...] = ()


class Stage(ABC):
    """Tells what is where in one environment, whenever it is asked.

    Attributes:
        bounds: of what can be seen.
        downward: whether y grows downwards, as rows do.
        actions: names of the actions, by number; empty where they are not told.
        lines: what is painted on the ground.
    """

    bounds: Bounds
    downward: ClassVar[bool] = False
    actions: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()

    @abstractmethod
    def scene(self) -> Scene:
        """Return what is there now; asked once a step, from an episode's first on."""

    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        """Return what an observation shows, at the places where it shows it.

        Args:
            agent: who observes.
            seen: its observation, (D,), perturbed or not.
        """
        return ()


@runtime_checkable
class Staged(Protocol):
    """An environment, or an engine of one, that tells what is where."""

    def stage(self) -> Stage:
        """Return what tells it, of an engine's first environment."""


def stage_of(env: object) -> Stage | None:
    """Return what tells where things are in ``env``, wrapped or not; None if nothing does."""
    stage = getattr(env, "stage", None)
    return stage() if callable(stage) else None
