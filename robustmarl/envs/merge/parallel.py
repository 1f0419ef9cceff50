"""Merging on a motorway as a PettingZoo parallel environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsIndex

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import (
    check,
    check_choice,
    check_kind,
    check_seed,
    speaking_for,
)
from robustmarl.envs._base import CheckedEnv, Spaces, read_index
from robustmarl.envs._extras import require
from robustmarl.envs._mpe2 import prepare_display
from robustmarl.envs.merge.engine import MergeEngine
from robustmarl.envs.merge.rules import ACTIONS, FEATURES, LANES, METRICS, SEEN, Traffic
from robustmarl.envs.merge.stage import MergeStage
from robustmarl.envs.scenes import Stage
from robustmarl.typing import ResetResult, StepResult

__all__ = ["MergeParallelEnv", "merge"]

_ON_MAIN = (LANES[0], LANES[1], LANES[3])


class MergeParallelEnv(CheckedEnv[NDArray[np.float32], SupportsIndex]):
    """Cars that merge; see :func:`merge`.

    Args:
        traffic: who drives.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
    """

    def __init__(self, traffic: Traffic, *, render_mode: str | None = None) -> None:
        check_kind("MergeParallelEnv.traffic", traffic, Traffic, "a Traffic")
        check_choice("MergeParallelEnv.render_mode", render_mode, (None, "rgb_array", "human"))
        prepare_display()
        require("highway_env", "highway")
        from robustmarl.envs.merge._world import MergeWorld

        self.traffic, self.render_mode = traffic, render_mode
        self.world = MergeWorld(traffic, render_mode)
        self.metadata = {
            "name": "merge",
            "render_modes": ["human", "rgb_array"],
            "render_fps": MergeWorld.metadata["render_fps"],
            "team_reward": "mean",
            "horizon": traffic.horizon,
            "episode_metrics": METRICS,
        }
        self.possible_agents = list(traffic.agents)
        self.agents = []
        self.observation_spaces: Spaces = dict.fromkeys(self.possible_agents, _seen())
        self.action_spaces = dict.fromkeys(self.possible_agents, Discrete(len(ACTIONS)))

    def make_engine(self, num_envs: int) -> MergeEngine:
        """Return ``num_envs`` environments like this one, stepped together; training uses it."""
        return MergeEngine(self.traffic, num_envs)

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        seed = None if seed is None else check_seed("reset.seed", seed)
        self._seen, _ = self.world.reset(seed=seed)
        self.agents, self._begun = self.possible_agents[:], True
        return self._observe(), {agent: {} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents = self.agents
        joint = tuple(read_index(agent, actions[agent], len(ACTIONS)) for agent in agents)
        self._seen, reward, terminated, truncated, _ = self.world.step(joint)
        truncated = truncated and not terminated
        told: dict[str, float] = {}
        if terminated or truncated:
            self.agents = []
            merged = all(car.lane_index in _ON_MAIN for car in self.world.controlled_vehicles)
            figures = float(merged and not terminated), float(terminated)
            told = dict(zip(METRICS, figures, strict=True))
        return (
            self._observe(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            {agent: told.copy() for agent in agents},
        )

    @override
    def state(self) -> NDArray[np.float32]:
        """Return all observations in a row, as the task's authors have it, (25 N,).

        Raises:
            RuntimeError: before the first reset.
        """
        self._check_begun("state")
        return self._seen.reshape(-1)

    @override
    def render(self) -> NDArray[np.uint8] | None:
        """Return highway-env's picture of the agents, uint8 (120, 1200, 3), 4 pixels a metre.

        Raises:
            RuntimeError: before the first reset.
            ValueError: without a render mode.
        """
        rule = "'rgb_array' or 'human' to render"
        check(self.render_mode is not None, "merge.render_mode", rule, self.render_mode)
        self._check_begun("render")
        return self.world.render()

    @override
    def close(self) -> None:
        self.world.close()

    def stage(self) -> Stage:
        """Return what tells where cars are."""

        def cars() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            found = self.world.road.vehicles
            return np.array([c.position for c in found]), np.array([c.crashed for c in found])

        return MergeStage(self.possible_agents, cars)

    def _observe(self) -> dict[str, NDArray[np.float32]]:
        return dict(zip(self.possible_agents, self._seen.copy(), strict=True))


def _seen() -> Box:
    """Return the space of an observation: presence in [0, 1], all else wherever cars may be."""
    low = np.full((SEEN, FEATURES), -np.inf, np.float32)
    low[:, 0] = 0.0
    high = np.full((SEEN, FEATURES), np.inf, np.float32)
    high[:, 0] = 1.0
    return Box(low.reshape(-1), high.reshape(-1), dtype=np.float32)


def merge(
    cavs: int = 3,
    *,
    hdvs: tuple[int, int] = (1, 4),
    horizon: int = 100,
    render_mode: str | None = None,
) -> MergeParallelEnv:
    """Return ATSA's CAV task [Zhou2025]_: cars on a ramp and a main lane become one line.

    The road of [Chen2023]_, simulated by highway-env: a main lane of 520 m, to which a ramp comes
    near from 220 m on; from 320 to 420 m runs a merge lane, at whose end an obstacle stands. Half
    the cars, rounded down, start on the main lane, the others on the ramp, at 25 to 27 m/s. Human
    drivers follow highway-env's IDM and MOBIL. A step is a fifth of a second.

    An agent sees five cars, itself and the four nearest along the road of those within 180 m, as
    presence, x / 150, y / 12, and velocities / 45: its own absolute, of others the difference, and
    zeros where there is none. Actions are left, idle, right, faster and slower, between target
    speeds of 10, 15, 20, 25 and 30 m/s; all are always available.

    All agents earn the mean over agents of :func:`~robustmarl.envs.merge.rules.car_reward`. A
    crash of any of them terminates the episode. The last infos tell ``success``, 1.0 where nobody
    crashed and all are on the main lane, and ``crashed``, 1.0 where any agent did, whose mean is
    the crash rate.

    Args:
        cavs: connected autonomous vehicles, the agents, 1 to 12.
        hdvs: the fewest and the most human-driven vehicles; each number between is as likely.
        horizon: steps, at which an episode is truncated, >= 1.
        render_mode: ``"rgb_array"``, ``"human"`` or None; the first needs no display.

    Raises:
        ImportError: if highway-env is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> from robustmarl import algorithms, evaluation
        >>> team = algorithms.QMIX.for_env(merge(), seed=0)
        >>> found = evaluation.rollout(team, merge, episodes=2)
        >>> sorted(found.metrics), bool((found.lengths <= 100).all())
        (['crashed', 'success'], True)
    """
    check_choice("merge.render_mode", render_mode, (None, "rgb_array", "human"))
    with speaking_for("merge", Traffic):
        traffic = Traffic(cavs=cavs, hdvs=hdvs, horizon=horizon)
    return MergeParallelEnv(traffic, render_mode=render_mode)
