"""The worlds of the particle tasks, on mpe2's physics; importing this needs mpe2."""

from __future__ import annotations

import numpy as np
from gymnasium.utils import EzPickle
from mpe2._mpe_utils.core import Agent, Landmark, World
from mpe2._mpe_utils.scenario import BaseScenario
from mpe2._mpe_utils.simple_env import SimpleEnv
from typing_extensions import override

from robustmarl.envs._particle_task import HALF, Array64, Task, clip_cells, draw_places

__all__ = ["ParticleRawEnv"]


# Colours of mpe2's simple_spread.
_BLUE = (0.35, 0.35, 0.85)
_DARK = (0.25, 0.25, 0.25)
_WHITE = (1.0, 1.0, 1.0)


class _GridWorld(World):
    """Agents move by their controls, cell by cell, and pass through one another."""

    @override
    def step(self) -> None:
        for agent in self.agents:
            agent.state.p_pos = clip_cells(agent.state.p_pos + agent.action.u)


class _Scenario(BaseScenario):
    def __init__(self, task: Task, grid: bool) -> None:
        self.task, self.grid = task, grid

    @override
    def make_world(self) -> World:
        world = _GridWorld() if self.grid else World()
        world.agents = [Agent() for _ in range(self.task.agents)]
        for i, agent in enumerate(world.agents):
            agent.name, agent.size, agent.silent = f"agent_{i}", self.task.radius, True
            agent.color = np.array(_BLUE)
            if self.grid:
                agent.accel = 1.0  # one cell
        names = [f"landmark_{i}" for i in range(self.task.landmarks)]
        world.landmarks = [_landmark(name, _DARK) for name in names]
        return world

    @override
    def reset_world(self, world: World, np_random: np.random.Generator) -> None:
        places = draw_places(np_random, self.task, self.grid)
        for entity, place in zip(world.entities, places, strict=True):
            entity.state.p_pos, entity.state.p_vel = place.copy(), np.zeros(2)

    @override
    def reward(self, agent: Agent, world: World) -> float:
        return 0.0

    @override
    def global_reward(self, world: World) -> float:
        agents, landmarks = (
            np.array([[entity.state.p_pos for entity in kind]])
            for kind in (world.agents, world.landmarks)
        )
        return float(self.task.reward(agents, landmarks)[0])

    @override
    def observation(self, agent: Agent, world: World) -> Array64:
        here = agent.state.p_pos
        others = [other for other in world.agents if other is not agent]
        seen = [entity.state.p_pos - here for entity in [*world.landmarks, *others]]
        return np.concatenate([here, *seen])


class ParticleRawEnv(SimpleEnv, EzPickle):
    """mpe2's environment of one task; everybody earns the team's reward.

    Pictures are to scale, and show at least the square.

    Args:
        task: what is played.
        grid: cells and unit moves in place of mpe2's physics.
        horizon: steps.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
    """

    def __init__(self, task: Task, *, grid: bool, horizon: int, render_mode: str | None) -> None:
        EzPickle.__init__(self, task, grid=grid, horizon=horizon, render_mode=render_mode)
        scenario = _Scenario(task, grid)
        super().__init__(
            scenario=scenario,
            world=scenario.make_world(),
            max_cycles=horizon,
            render_mode=render_mode,
            local_ratio=0.0,
        )

    @override
    def draw(self) -> None:
        # mpe2 shows what lies farthest out at the picture's edge: for a moment an invisible
        # landmark lies in a corner of the square
        corner = _landmark("corner", _WHITE)
        corner.size, corner.state.p_pos = 0.0, np.full(2, HALF)
        self.original_cam_range = 1.0  # one unit of length is drawn as such
        self.world.landmarks.append(corner)
        try:
            super().draw()
        finally:
            self.world.landmarks.remove(corner)


def _landmark(name: str, colour: tuple[float, float, float]) -> Landmark:
    landmark = Landmark()
    landmark.name, landmark.collide, landmark.color = name, False, np.array(colour)
    return landmark
