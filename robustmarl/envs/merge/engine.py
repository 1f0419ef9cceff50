"""Many episodes of cars that merge, side by side: highway-env's cars, compiled."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_int, check_kind
from robustmarl.envs.merge import rules
from robustmarl.envs.merge.rules import Traffic, draw_start
from robustmarl.envs.merge.stage import MergeStage
from robustmarl.envs.scenes import Stage
from robustmarl.joint import TeamSpec, check_act, check_seeds, flagged

__all__ = ["MergeEngine", "lane_table", "team_spec"]

Kernel: TypeAlias = Any
"""A module that numba compiles: what it does to functions has no type."""


class MergeEngine:
    """E episodes of :func:`merge`, stepped together without highway-env; a ``VectorEngine``.

    An episode begins where the environment with its seed begins, and its cars drive as
    highway-env's do, to rounding: numpy's functions and the C library's may differ in a last bit.

    Args:
        traffic: who drives.
        num_envs: E, >= 1.

    Attributes:
        tensors: see ``robustmarl.joint.VectorEngine``.
        car: of agents, human drivers and, behind the last one, the obstacle, float64 (E, M + 1, 8):
            x, y, m, heading, speed, target speed, m/s, and what ``_drive_kernel`` knows besides.
        count: how many cars there are, and steps that were made, int64 (E, 2).

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: if ``num_envs`` is below 1.

    Example:
        >>> import torch
        >>> engine = MergeEngine(Traffic(cavs=2, hdvs=(0, 0)), 2)
        >>> engine.begin(torch.tensor([True, True]), torch.tensor([3, 4]))
        >>> engine.advance(torch.ones(2, 2, dtype=torch.int64), torch.tensor([True, False]))
        >>> engine.tensors["obs"].shape, engine.spec.metrics
        (torch.Size([2, 2, 25]), ('success', 'crashed'))
    """

    def __init__(self, traffic: Traffic, num_envs: int = 1) -> None:
        check_kind("MergeEngine.traffic", traffic, Traffic, "a Traffic")
        num_envs = check_int("MergeEngine.num_envs", num_envs, 1)
        self.traffic, self.spec = traffic, team_spec(traffic)
        drive, _ = _kernels()
        rows = traffic.most + 1
        self.car = np.zeros((num_envs, rows, drive.CAR))
        self._whole = np.zeros((num_envs, rows, drive.DRIVEN), np.int64)
        self.count = np.zeros((num_envs, 2), np.int64)
        self.tensors = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"} | {
            "terminated": torch.zeros(num_envs, dtype=torch.bool),
            "truncated": torch.zeros(num_envs, dtype=torch.bool),
            "metrics": torch.zeros(num_envs, len(self.spec.metrics)),
        }
        self._arguments()
        self.begin(torch.ones(num_envs, dtype=torch.bool), torch.arange(num_envs))

    def _arguments(self) -> None:
        """Make the kernels' arguments of what there is."""
        drive, show = _kernels()
        out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        lanes, rows = lane_table(), self.car.shape[1]
        cars = self.car, self._whole, self.count
        self._drive = (
            _record(drive.RULES, self.traffic),
            *(lanes, *cars),
            *(np.zeros((2, rows)), np.zeros((2, 4, 2))),
        )
        self._view = (
            _record(show.RULES, self.traffic),
            *(lanes, *cars),
            *(np.zeros(rows, np.int64), np.zeros(rows)),
            *(out["obs"], out["state"], out["rew_agents"], out["mask"], out["alive"]),
            *(out["terminated"], out["truncated"], out["metrics"]),
        )

    def __len__(self) -> int:
        return len(self.car)

    def __getstate__(self) -> dict[str, Any]:
        return {key: kept for key, kept in vars(self).items() if key not in ("_drive", "_view")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._arguments()

    def stage(self) -> Stage:
        """Return what tells where cars are in the first episode."""
        hit = _kernels()[0].CRASHED

        def cars() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            there = self.count[0, 0]
            return self.car[0, :there, :2], self._whole[0, :there, hit] > 0

        return MergeStage(self.traffic.agents, cars)

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,), >= 0."""
        rows = flagged("MergeEngine.begin.mask", mask, len(self))
        check_seeds("MergeEngine.begin.seeds", seeds, len(self))
        drive, show = _kernels()
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            start = draw_start(np.random.Generator(np.random.PCG64(seed)), self.traffic)
            cars = len(start.speed)
            placed = self.car[e]
            placed[:] = 0.0
            placed[:cars, drive.X] = start.along
            placed[:cars, drive.Y] = np.where(start.on_ramp, rules.RAMP, 0.0)
            placed[:cars, drive.SPEED] = placed[:cars, drive.TARGET_SPEED] = start.speed
            # highway-env's drivers think about lanes at times that depend on their place
            places = placed[:cars, drive.X] + placed[:cars, drive.Y]
            placed[:cars, drive.TIMER] = places * np.pi % 1.0
            placed[cars, [drive.X, drive.Y]] = rules.END_OF_LANES
            self._whole[e] = 0
            self.count[e] = cars, 0
        for key in ("rew_agents", "terminated", "truncated"):
            self.tensors[key][mask] = 0
        for key in ("mask", "alive"):
            self.tensors[key][mask] = True
        drive.begin(rows, self._drive)
        show.show(rows, False, self._view)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, N).

        Raises:
            TypeError: if ``act`` holds numbers of another kind, or ``active`` no flags.
            ValueError: for another shape, or an action out of range.
        """
        rows = flagged("MergeEngine.advance.active", active, len(self))
        check_act("MergeEngine.advance.act", act, self.spec, len(self))
        joint, actions = np.ascontiguousarray(act.numpy(), np.int64), len(rules.ACTIONS)
        if len(rows) and not 0 <= joint[rows].min() <= joint[rows].max() < actions:
            rule = f"indices below {actions}"
            check(False, "MergeEngine.advance.act", rule, joint[rows].tolist())
        drive, show = _kernels()
        drive.advance(rows, joint, self._drive)
        show.show(rows, True, self._view)


def team_spec(traffic: Traffic) -> TeamSpec:
    """Return what ``spec_of`` says of the environment."""
    agents, size = traffic.cavs, rules.SEEN * rules.FEATURES
    return TeamSpec(
        agents=traffic.agents,
        teams={"team": tuple(range(agents))},
        obs_sizes=(size,) * agents,
        action_sizes=(len(rules.ACTIONS),) * agents,
        continuous=False,
        state_size=size * agents,
        state_layout="concatenated",
        team_reward="mean",
        horizon=traffic.horizon,
        metrics=rules.METRICS,
    )


def lane_table() -> NDArray[np.float64]:
    """Return the lanes as the kernels read them, (6, 6), in the order of ``rules.LANES``.

    Columns are where a lane starts, x and y, m, its length, m, and amplitude, m, pulsation, 1/m,
    and phase, rad, of the sine by which it bends.
    """
    meets, beside = rules.BEFORE + rules.CONVERGING, rules.END_OF_LANES[1]
    return np.array(
        [
            (0.0, 0.0, meets, 0.0, 0.0, 0.0),
            (meets, 0.0, rules.MERGE, 0.0, 0.0, 0.0),
            (meets, beside, rules.MERGE, 0.0, 0.0, 0.0),
            (meets + rules.MERGE, 0.0, rules.AFTER, 0.0, 0.0, 0.0),
            (0.0, rules.RAMP, rules.BEFORE, 0.0, 0.0, 0.0),
            (rules.BEFORE, rules.RAMP - rules.AMPLITUDE, rules.CONVERGING, *rules.BEND),
        ]
    )


def _kernels() -> tuple[Kernel, Kernel]:
    """Return what drives and what shows, compiled where that is needed for the first time."""
    package = "robustmarl.envs.merge."
    return import_module(package + "_drive_kernel"), import_module(package + "_show_kernel")


def _record(kind: np.dtype[np.void], traffic: Traffic) -> NDArray[np.void]:
    """Return those of the rules that a kernel wants, (1,)."""
    speeds, scales = rules.TARGET_SPEEDS, rules.SCALES
    named = {
        "agents": traffic.cavs,
        "horizon": traffic.horizon,
        "frames": rules.SIMULATION_FREQUENCY // rules.POLICY_FREQUENCY,
        "dt": 1 / rules.SIMULATION_FREQUENCY,
        "speeds": len(speeds),
        "slowest": speeds[0],
        "spacing": speeds[1] - speeds[0],
        "seen": rules.SEEN,
        "features": rules.FEATURES,
        **dict(zip(("scale_x", "scale_y", "scale_vx", "scale_vy"), scales, strict=True)),
        "perception": rules.PERCEPTION,
        "crash": rules.CRASH_COST,
        "slow": rules.SLOW,
        "fast": rules.FAST,
        "merge": rules.MERGE_COST,
        "end": rules.END_OF_LANES[0],
        "spread": rules.MERGE_SPREAD,
        "headway": rules.HEADWAY_COST,
        "limit": rules.HEADWAY_LIMIT,
        "time": rules.HEADWAY_TIME,
    }
    return np.rec.array([tuple(named[name] for name in kind.names or ())], kind)
