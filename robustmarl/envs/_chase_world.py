"""The world of predator-prey, on mpe2's physics; importing this needs mpe2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import EzPickle
from mpe2._mpe_utils.core import Action, Agent, World
from mpe2._mpe_utils.simple_env import SimpleEnv
from mpe2.simple_tag.simple_tag import Scenario
from typing_extensions import override

from robustmarl.envs._mpe2 import MOVES
from robustmarl.envs._particle_task import Array64, lengths
from robustmarl.envs._prey import draw_key, flights

__all__ = ["PredatorPreyRawEnv"]

_CONTACT = 10.0  # reward of a contact


class _PredatorPrey(Scenario):
    """mpe2's simple_tag with prey that flees by a rule, and predators that see only so far."""

    def __init__(self, sight: float, prey_accel: float) -> None:
        super().__init__()
        self.sight, self.prey_accel = sight, prey_accel
        self.key, self.steps = 0, 0

    @override
    def make_world(
        self, num_good: int = 1, num_adversaries: int = 3, num_obstacles: int = 2
    ) -> World:
        world = super().make_world(num_good, num_adversaries, num_obstacles)
        for i, agent in enumerate(world.agents):
            if agent.adversary:
                agent.name = f"predator_{i}"
            else:
                agent.name, agent.accel = f"prey_{i - num_adversaries}", self.prey_accel
                agent.action_callback = self._flee
        return world

    @override
    def reset_world(self, world: World, np_random: np.random.Generator) -> None:
        super().reset_world(world, np_random)
        self.key, self.steps = draw_key(np_random), 0

    def contacts(self, world: World) -> int:
        """Return how many pairs of predator and prey touch."""
        pairs = [(a, b) for a in self.adversaries(world) for b in self.good_agents(world)]
        return sum(self.is_collision(predator, prey) for predator, prey in pairs)

    @override
    def observation(self, agent: Agent, world: World) -> Array64:
        seen = super().observation(agent, world)
        others = [other for other in world.agents if other is not agent]
        places = seen[4 : 4 + 2 * (len(world.landmarks) + len(others))].reshape(-1, 2)
        hidden = lengths(places) > self.sight
        places[hidden] = 0.0
        prey = [not other.adversary for other in others]
        velocities = seen[4 + places.size :].reshape(-1, 2)
        velocities[hidden[len(world.landmarks) :][prey]] = 0.0
        return seen

    def _flee(self, prey: Agent, world: World) -> Action:
        predators = self.adversaries(world)
        (way,) = flights(
            np.array([self.key]),
            np.array([self.steps]),
            prey.state.p_pos[None],
            np.array([[predator.state.p_pos for predator in predators]]),
            np.array([predator.size + prey.size for predator in predators]),
            self.good_agents(world).index(prey),
        )
        prey.action.u = way * prey.accel
        return prey.action


class PredatorPreyRawEnv(SimpleEnv, EzPickle):
    """mpe2's environment of predators; prey belongs to the world.

    Args:
        predators: how many.
        prey: how many.
        obstacles: how many.
        sight: how far predators see.
        prey_accel: what a step that prey takes with all its might is multiplied by.
        horizon: steps.
        continuous_actions: two motors in [-1, 1] in place of five indices.
        implicit: whether bodies move by the velocity that they have after a step, not before it.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
    """

    def __init__(
        self,
        *,
        predators: int,
        prey: int,
        obstacles: int,
        sight: float,
        prey_accel: float,
        horizon: int,
        continuous_actions: bool,
        implicit: bool,
        render_mode: str | None,
    ) -> None:
        EzPickle.__init__(
            self,
            predators=predators,
            prey=prey,
            obstacles=obstacles,
            sight=sight,
            prey_accel=prey_accel,
            horizon=horizon,
            continuous_actions=continuous_actions,
            implicit=implicit,
            render_mode=render_mode,
        )
        self.implicit = implicit
        scenario = _PredatorPrey(sight, prey_accel)
        super().__init__(
            scenario=scenario,
            world=scenario.make_world(prey, predators, obstacles),
            max_cycles=horizon,
            render_mode=render_mode,
            continuous_actions=continuous_actions,
        )
        self.agents = [agent.name for agent in self.world.policy_agents]
        self.possible_agents = self.agents[:]
        for agent in self.world.scripted_agents:
            del self.observation_spaces[agent.name]
        motors = Box(-1.0, 1.0, (self.world.dim_p,))
        self.action_spaces = {
            a: motors if continuous_actions else Discrete(len(MOVES)) for a in self.agents
        }
        size = len(self.agents) * len(self.observe(self.agents[0]))
        self.state_space = Box(-np.inf, np.inf, (size,))
        self.current_actions: Sequence[Any] = [None] * len(self.agents)

    @override
    def _execute_world_step(self) -> None:
        for agent, action in zip(self.world.policy_agents, self.current_actions, strict=True):
            motors = action if self.continuous_actions else MOVES[action]
            agent.action.u = np.asarray(motors, np.float64) * agent.accel
        moved = self.world.agents if self.implicit else []
        before = [agent.state.p_pos.copy() for agent in moved]
        self.world.step()
        for agent, place in zip(moved, before, strict=True):
            agent.state.p_pos = place + agent.state.p_vel * self.world.dt
        self.scenario.steps += 1
        reward = _CONTACT * self.scenario.contacts(self.world)
        self.rewards = dict.fromkeys(self.possible_agents, reward)
