"""highway-env's own simulation of the task; importing this needs highway-env."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box
from highway_env.envs.common.abstract import AbstractEnv
from highway_env.envs.common.action import MultiAgentAction
from highway_env.envs.common.graphics import EnvViewer
from highway_env.envs.common.observation import ObservationType
from highway_env.road.lane import LineType, SineLane, StraightLane
from highway_env.road.road import Road, RoadNetwork
from highway_env.vehicle.behavior import IDMVehicle
from highway_env.vehicle.controller import ControlledVehicle
from highway_env.vehicle.objects import Obstacle
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl.envs.merge.rules import (
    AFTER,
    AMPLITUDE,
    BEFORE,
    BEND,
    CONVERGING,
    FEATURES,
    HEADWAY_LIMIT,
    LANES,
    MERGE,
    MERGE_LANE,
    NEXT_LANE,
    PERCEPTION,
    POLICY_FREQUENCY,
    RAMP,
    SCALES,
    SEEN,
    SIMULATION_FREQUENCY,
    TARGET_SPEEDS,
    Traffic,
    car_reward,
    draw_start,
    nearest,
)

__all__ = ["MergeWorld", "network"]

_MAIN, _RAMP = LANES[0], LANES[4]


class TeamKinematics(ObservationType):
    """What all agents see, (agents, 25): highway-env's Kinematics without its tables of pandas."""

    @override
    def space(self) -> Box:
        agents = max(len(self.env.controlled_vehicles), 1)
        return Box(-np.inf, np.inf, (agents, SEEN * FEATURES), np.float32)

    @override
    def observe(self) -> NDArray[np.float32]:
        cars = self.env.road.vehicles
        moving = [(*car.position.tolist(), *car.velocity.tolist()) for car in cars]
        agents = len(self.env.controlled_vehicles)
        obs = np.zeros((agents, SEEN, FEATURES))
        for i in range(agents):  # cars begin with the agents
            mine = moving[i]
            others = nearest(moving, i, float(cars[i].lane.start[0]))[: SEEN - 1]
            obs[i, : 1 + len(others), 0] = 1.0
            obs[i, 0, 1:] = mine
            for row, j in enumerate(others, start=1):
                obs[i, row, 1:] = [a - b for a, b in zip(moving[j], mine, strict=True)]
        obs[..., 1:] /= SCALES
        return obs.astype(np.float32).reshape(agents, SEEN * FEATURES)


class MergeWorld(AbstractEnv):
    """The road of ATSA's CAV task [Zhou2025]_ with highway-env's cars.

    The reward is the team's, the mean over agents. Lanes have no speed limit, of which [Chen2023]_
    knew nothing: human drivers keep the speed at which they start.

    Args:
        traffic: who drives.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
    """

    PERCEPTION_DISTANCE = PERCEPTION
    viewer: EnvViewer | None
    metadata: ClassVar[dict[str, object]] = {
        "render_modes": ["human", "rgb_array"],
        "render_fps": POLICY_FREQUENCY,
    }

    def __init__(self, traffic: Traffic, render_mode: str | None = None) -> None:
        self.traffic = traffic
        super().__init__(render_mode=render_mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "viewer": None}  # a window is nobody else's

    @classmethod
    @override
    def default_config(cls) -> dict[str, object]:
        return super().default_config() | {
            "simulation_frequency": SIMULATION_FREQUENCY,
            "policy_frequency": POLICY_FREQUENCY,
            "screen_width": 1200,
            "screen_height": 120,
            "scaling": 4.0,
            "centering_position": [0.5, 0.5],
        }

    @override
    def define_spaces(self) -> None:
        meta = {"type": "DiscreteMetaAction", "target_speeds": TARGET_SPEEDS}
        self.action_type = MultiAgentAction(self, meta)
        self.action_space = self.action_type.space()
        self.observation_type = TeamKinematics(self)
        self.observation_space = self.observation_type.space()

    @override
    def _reset(self) -> None:
        self.road = road = Road(network=network(), np_random=self.np_random)
        end = road.network.get_lane(MERGE_LANE).position(MERGE, 0.0)
        road.objects.append(Obstacle(road, end))
        start = draw_start(self.np_random, self.traffic)
        make = self.action_type.vehicle_class
        for i, (on_ramp, along, speed) in enumerate(zip(*start, strict=True)):
            lane = road.network.get_lane(_RAMP if on_ramp else _MAIN)
            kind = make if i < self.traffic.cavs else IDMVehicle
            road.vehicles.append(kind(road, lane.position(along, 0.0), speed=float(speed)))
        self.controlled_vehicles = road.vehicles[: self.traffic.cavs]

    @override
    def _reward(self, action: object) -> float:
        earned = [self._car_reward(car) for car in self.controlled_vehicles]
        return sum(earned) / len(earned)

    def _car_reward(self, car: ControlledVehicle) -> float:
        """Return what one agent earns by itself."""
        return car_reward(
            float(car.speed),
            float(car.position[0]),
            self.headway(car),
            on_merge_lane=car.lane_index == MERGE_LANE,
            crashed=car.crashed,
        )

    def headway(self, car: ControlledVehicle) -> float:
        """Return the gap between the middles of a car and of the next one ahead, m, at most 60.

        That is in its lane or, but on the merge lane, in the one behind it; obstacles do not count.
        """
        lanes = car.lane_index, NEXT_LANE.get(car.lane_index)
        x, gap = float(car.position[0]), HEADWAY_LIMIT
        for other in self.road.vehicles:
            ahead = float(other.position[0]) - x
            if 0.0 < ahead < gap and other.lane_index in lanes:
                gap = ahead
        return gap

    @override
    def _is_terminated(self) -> bool:
        return any(car.crashed for car in self.controlled_vehicles)

    @override
    def _is_truncated(self) -> bool:
        policy_steps = self.steps * POLICY_FREQUENCY // SIMULATION_FREQUENCY
        return policy_steps >= self.traffic.horizon

    @override
    def render(self) -> NDArray[np.uint8] | None:
        if self.viewer is None:
            self.viewer = EnvViewer(self)
            # with a dummy display highway-env would draw nothing, not even a picture
            self.viewer.enabled = True
        self.viewer.observer_vehicle = _Middle(self)
        return super().render()

    @override
    def close(self) -> None:
        if self.render_mode != "human":
            self.viewer = None  # which would end pygame, for everybody who draws with it
        super().close()

    @override
    def _automatic_rendering(self) -> None:
        if self.render_mode == "human":  # of pictures only the last one of a step is wanted
            super()._automatic_rendering()


class _Middle:
    """What a picture is centred on: the middle between the first agent and the last."""

    def __init__(self, world: MergeWorld) -> None:
        along = [float(car.position[0]) for car in world.controlled_vehicles]
        self.position = np.array([(min(along) + max(along)) / 2.0, RAMP / 2.0])


def network() -> RoadNetwork:
    """Return the road's lanes; agents and engine know them by their names in ``LANES``."""
    line, striped, none = LineType.CONTINUOUS_LINE, LineType.STRIPED, LineType.NONE
    ends = [0.0, *itertools.accumulate((BEFORE + CONVERGING, MERGE, AFTER))]
    main = [
        StraightLane([start, 0.0], [end, 0.0], line_types=sides, speed_limit=None)
        for start, end, sides in zip(
            ends[:-1], ends[1:], ([line, line], [line, striped], [line, line]), strict=True
        )
    ]
    closed = {"forbidden": True, "speed_limit": None}  # nobody may change to the ramp
    ramp = StraightLane([0.0, RAMP], [BEFORE, RAMP], line_types=[line, line], **closed)
    bend = SineLane(
        ramp.position(BEFORE, -AMPLITUDE),
        ramp.position(BEFORE + CONVERGING, -AMPLITUDE),
        *BEND,
        line_types=[line, line],
        **closed,
    )
    beside = bend.position(CONVERGING, 0.0)
    merge = StraightLane(beside, beside + np.array([MERGE, 0.0]), line_types=[none, line], **closed)
    roads = RoadNetwork()
    lanes = [main[0], main[1], merge, main[2], ramp, bend]
    for (start, end, _), lane in zip(LANES, lanes, strict=True):
        roads.add_lane(start, end, lane)
    return roads
