"""Where players and food are, and where players believe them to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.scenes import Entity, Ghost, Scene, Stage

__all__ = ["Field", "Forager", "ForagingStage"]

_THERE = 0.5  # a level, or a row, below which nothing is taken to be there


class Forager(Protocol):
    """A player."""

    position: tuple[int, int]
    level: int


class Field(Protocol):
    """A game as lbforaging's engine shows itself."""

    sight: int
    max_num_food: int
    _grid_observation: bool
    _observe_agent_levels: bool

    @property
    def field(self) -> NDArray[np.integer[Any]]:
        """Levels of food, (rows, columns)."""

    @property
    def players(self) -> Sequence[Forager]:
        """Where they are."""


class ForagingStage(Stage):
    """A field of level-based foraging.

    Args:
        engine: the game.
        names: the players'.
    """

    downward = True
    actions = ("nothing", "north", "south", "west", "east", "load")

    def __init__(self, engine: Field, names: Sequence[str]) -> None:
        self._engine, self._names = engine, tuple(names)
        rows, columns = engine.field.shape
        self.bounds = (0.0, 0.0, float(columns), float(rows))

    @override
    def scene(self) -> Scene:
        players = [
            Entity(name=name, x=x, y=y, team="player", label=f"L{player.level}")
            for name, player in zip(self._names, self._engine.players, strict=True)
            for x, y in [_middle(*player.position)]
        ]
        foods = [
            Entity(
                name=_food(row, column),
                x=column + 0.5,
                y=row + 0.5,
                team="food",
                label=f"L{self._engine.field[row, column]}",
                radius=0.34,
                square=True,
            )
            for row, column in np.argwhere(self._engine.field).tolist()
        ]
        return Scene(entities=(*players, *foods))

    @override
    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        return [] if self._engine._grid_observation else list(self._ghosts(agent, seen))

    def _ghosts(self, agent: str, seen: NDArray[np.float32]) -> Iterator[Ghost]:
        """Read coordinates in the order in which the game writes them."""
        engine, number = self._engine, self._names.index(agent)
        row, column = engine.players[number].position
        sight = engine.sight
        top, left = max(row - sight, 0), max(column - sight, 0)
        foods = [
            _food(r, c)
            for r, c in np.argwhere(engine.field).tolist()
            if top <= r <= row + sight and left <= c <= column + sight
        ]
        size = 3 if engine._observe_agent_levels else 2
        others = [
            name
            for name, player in zip(self._names, engine.players, strict=True)
            if name != agent and _in_sight(player.position, top, left, 2 * sight)
        ]
        first_player = 3 * engine.max_num_food
        for name, (down, across, level) in zip(foods, seen[:first_player].reshape(-1, 3)):  # noqa: B905
            if level > _THERE:
                yield Ghost(name, *_middle(float(down) + top, float(across) + left))
        players = seen[first_player:].reshape(-1, size)
        for name, (down, across, *_) in zip([agent, *others], players):  # noqa: B905 - some unseen
            if down > -_THERE and across > -_THERE:
                yield Ghost(name, *_middle(float(down) + top, float(across) + left))


def _food(row: int, column: int) -> str:
    """Return the name of the food in a cell, which stays there until it is eaten."""
    return f"food {row},{column}"


def _middle(row: float, column: float) -> tuple[float, float]:
    return column + 0.5, row + 0.5


def _in_sight(position: tuple[int, int], top: int, left: int, span: int) -> bool:
    row, column = position
    return 0 <= row - top <= span and 0 <= column - left <= span
