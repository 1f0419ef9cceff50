"""Where bodies are in a particle world, and where agents believe the others to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs._mpe2 import World
from robustmarl.envs.scenes import Bounds, Entity, Ghost, Scene, Stage

__all__ = ["ParticleStage", "Places", "bodies_of"]

Places: TypeAlias = (
    NDArray[np.float64] | Sequence[NDArray[np.float64]] | Sequence[tuple[float, float]]
)
"""Where bodies are, (N + L, 2)."""

_WAYS = ("stay", "left", "right", "down", "up")  # by number, see MOVES


class ParticleStage(Stage):
    """A world of mpe2 or one of its tasks in numpy.

    Args:
        bodies: agents, then landmarks, wherever they are.
        places: returns where they are, (N + L, 2).
        bounds: of what can be seen.
        own: where in an observation an agent's own place stands, with the places of landmarks
            and of other agents behind it, as seen from its own; None where that is not known.
            What is seen at exactly its own place is hidden from it.
        discrete: whether actions are numbers.
    """

    def __init__(
        self,
        bodies: Sequence[Entity],
        places: Callable[[], Places],
        bounds: Bounds,
        *,
        own: int | None = None,
        discrete: bool = True,
    ) -> None:
        self._bodies, self._places, self._own = bodies, places, own
        self._agents = [body.name for body in bodies if not body.square]
        self._landmarks = [body.name for body in bodies if body.square]
        self.bounds, self.actions = bounds, _WAYS if discrete else ()

    @override
    def scene(self) -> Scene:
        places = np.asarray(self._places(), np.float64).tolist()
        pairs = zip(self._bodies, places, strict=True)
        return Scene(entities=tuple(replace(body, x=x, y=y) for body, (x, y) in pairs))

    @override
    def ghosts(self, agent: str, seen: NDArray[np.float32]) -> Sequence[Ghost]:
        if self._own is None:
            return ()
        others = [name for name in self._agents if name != agent]
        names = [*self._landmarks, *others]
        first = self._own
        here = seen[first : first + 2].astype(np.float64)
        away = seen[first + 2 : first + 2 + 2 * len(names)].reshape(-1, 2)
        others_seen = zip(names, away, here + away, strict=True)
        found = [Ghost(name, *at.tolist()) for name, off, at in others_seen if off.any()]
        return [Ghost(agent, *here.tolist()), *found]


def bodies_of(world: World) -> list[Entity]:
    """Return the agents of a world, then its landmarks."""
    agents = [
        Entity(
            name=agent.name,
            x=0.0,
            y=0.0,
            team="adversary" if getattr(agent, "adversary", False) else "agent",
            label=agent.name.rpartition("_")[2],
            radius=float(agent.size),
        )
        for agent in world.agents
    ]
    landmarks = [
        Entity(
            name=landmark.name.replace(" ", "_"),
            x=0.0,
            y=0.0,
            team="landmark",
            radius=float(landmark.size),
            square=True,
        )
        for landmark in world.landmarks
    ]
    return [*agents, *landmarks]
