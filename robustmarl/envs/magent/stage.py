"""Where everybody is in a game of magent2, and who attacks whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from robustmarl.envs.magent.rules import BattleRules
from robustmarl.envs.scenes import Entity, Scene, Shot, Stage

if TYPE_CHECKING:
    from robustmarl.envs.magent.engine import MagentEngine

__all__ = ["MagentStage"]

_WIDE = 0.42  # radius of a body of one cell: neighbours do not touch


class MagentStage(Stage):
    """The first game of an engine; what its agents see is a picture, which tells of no entity.

    Args:
        engine: whose game is looked at.
    """

    downward = True

    def __init__(self, engine: MagentEngine) -> None:
        self._engine = engine
        edge = float(engine.rules.map_size)
        self.bounds = (0.0, 0.0, edge, edge)

    @override
    def scene(self) -> Scene:
        engine = self._engine
        game, names = engine.games[0], engine.spec.agents
        mortal = isinstance(engine.rules, BattleRules)
        entities = tuple(
            Entity(
                name=names[i],
                x=float(game.places[i, 0]) + layout.body / 2,
                y=float(game.places[i, 1]) + layout.body / 2,
                team=layout.name,
                radius=_WIDE * layout.body,
                health=float(game.health[i]) if mortal else None,
            )
            for layout in engine.layouts
            for i in range(layout.rows.start, layout.rows.stop)
            if game.health[i] > 0.0
        )
        walls = np.argwhere(game.map[:, :, 0] > 0.0).astype(float).tolist()
        return Scene(
            entities=entities,
            shots=tuple(self._shots()),
            walls=tuple((column, row) for column, row in walls),
        )

    def _shots(self) -> Iterator[Shot]:
        engine = self._engine
        game = engine.games[0]
        for layout in engine.layouts:
            for i in range(layout.rows.start, layout.rows.stop):
                attack = int(game.act[i]) - layout.attack_base
                if game.health[i] > 0.0 and attack >= 0:
                    hit = game.places[i] + layout.body // 2 + layout.reach[attack] + 0.5
                    yield Shot(engine.spec.agents[i], *hit.tolist())
