"""Where cars are on the road, and where agents believe the others to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.merge.rules import (
    ACTIONS,
    AMPLITUDE,
    BEFORE,
    BEND,
    CONVERGING,
    END_OF_LANES,
    FEATURES,
    MERGE,
    RAMP,
    SCALES,
    SEEN,
    nearest,
)
from robustmarl.envs.scenes import Entity, Ghost, Line, Scene, Stage

__all__ = ["MergeStage"]

_WIDER = 10.0  # the road is drawn so many times as wide as it is: it is fifty times as long as wide
_HALF = 2.0  # of a lane's width, m
_FARTHEST = 720.0  # where cars are after some twenty seconds, m; the road goes on where it ends
_THERE = 0.5  # a presence below which nobody is taken to be there
_CAR, _BLOCK = 7.0, 5.0  # radii of what is drawn, m
_WRECK = "X"

Cars: TypeAlias = tuple[NDArray[np.float64], NDArray[np.bool_]]


class MergeStage(Stage):
    """The road of an environment or of an engine's first episode, ten times as wide as it is.

    Args:
        names: the agents'.
        cars: tells where cars are now, agents first, x and y, m, (cars, 2), and which have
            crashed, bool (cars,): those are labelled X.
    """

    downward = True
    actions = ACTIONS
    bounds = (0.0, -_WIDER * 3.0, _FARTHEST, _WIDER * (RAMP + 3.0))

    def __init__(self, names: Sequence[str], cars: Callable[[], Cars]) -> None:
        self._names, self._cars = tuple(names), cars
        self.lines = _borders()

    @override
    def scene(self) -> Scene:
        places, crashed = self._cars()
        cars = [
            Entity(
                name=self._name(i),
                x=x,
                y=_WIDER * y,
                team="agent" if i < len(self._names) else "human",
                label=_WRECK if hit else str(i) if i < len(self._names) else "",
                radius=_CAR,
            )
            for i, ((x, y), hit) in enumerate(zip(places.tolist(), crashed.tolist(), strict=True))
        ]
        x, y = END_OF_LANES
        end = Entity(
            name="obstacle", x=x, y=_WIDER * y, team="obstacle", radius=_BLOCK, square=True
        )
        return Scene(entities=(*cars, end))

    @override
    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        number = self._names.index(agent)
        rows = seen.astype(np.float64).reshape(SEEN, FEATURES)[:, :3] * (1.0, *SCALES[:2])
        rows[1:, 1:] += rows[0, 1:]  # it believes to be where it sees itself, too
        whom = [number, *nearest(self._cars()[0].tolist(), number)][:SEEN]
        pairs = zip(whom, rows.tolist())  # noqa: B905 - of some rows there is nobody
        return [Ghost(self._name(i), x, _WIDER * y) for i, (there, x, y) in pairs if there > _THERE]

    def _name(self, number: int) -> str:
        agents = len(self._names)
        return self._names[number] if number < agents else f"human_{number - agents}"


def _borders() -> tuple[Line, ...]:
    """Return what is painted beside the lanes."""
    meets, end = BEFORE + CONVERGING, END_OF_LANES[0]
    bend = np.linspace(0.0, CONVERGING, 21)
    amplitude, pulsation, phase = BEND
    middle = RAMP - AMPLITUDE + amplitude * np.sin(pulsation * bend + phase)
    x = np.concatenate([[0.0], BEFORE + bend, [end]])
    ramp = np.concatenate([[RAMP], middle, [END_OF_LANES[1]]])
    inner = ramp[:-1] - _HALF  # up to where it meets the main lane's border
    main = [(0.0, -_HALF), (_FARTHEST, -_HALF)]
    beside = [(0.0, _HALF), (meets, _HALF)]
    after = [(end, END_OF_LANES[1] + _HALF), (end, _HALF), (_FARTHEST, _HALF)]
    dashes = [
        [(start, _HALF), (start + MERGE / 20, _HALF)]
        for start in np.arange(meets + MERGE / 40, end, MERGE / 10).tolist()
    ]
    outer = list(zip(x.tolist(), (ramp + _HALF).tolist(), strict=True))
    within = list(zip(x[:-1].tolist(), inner.tolist(), strict=True))
    lines = [main, beside, after, outer, within, *dashes]
    return tuple(tuple((x, _WIDER * y) for x, y in line) for line in lines)
