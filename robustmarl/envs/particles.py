"""The particle tasks of TRAM [Wu2022]_: a team in a square of five by five, one reward for all.

Each is a parallel environment on mpe2's physics, and a batch that computes the same in numpy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_choice, check_flag, check_int
from robustmarl.envs._extras import require
from robustmarl.envs._mpe2 import ACCELERATION, MOVES, prepare_display
from robustmarl.envs._particle_stage import ParticleStage, bodies_of
from robustmarl.envs._particle_task import (
    EDGE,
    HALF,
    SMALL_RADIUS,
    SPREAD_RADIUS,
    Array64,
    Task,
    clip_cells,
    draw_places,
    formation_reward,
    gather_reward,
    lengths,
    tram_spread_reward,
)
from robustmarl.envs.mpe import MPEParallelEnv
from robustmarl.envs.scenes import Stage
from robustmarl.joint import check_act, check_seeds, flagged, spec_of

__all__ = [
    "ParticleEngine",
    "ParticleEnv",
    "Task",
    "formation",
    "formation_reward",
    "gather",
    "gather_reward",
    "tram_spread",
    "tram_spread_reward",
]

_MOVES = np.array(MOVES)


class ParticleEnv(MPEParallelEnv):
    """One of the tasks; see :func:`gather`, :func:`formation` and :func:`tram_spread`.

    Args:
        task: what is played.
        grid: cells and unit moves in place of mpe2's physics.
        horizon: steps, at which an episode is truncated.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
    """

    def __init__(self, task: Task, *, grid: bool, horizon: int, render_mode: str | None) -> None:
        prepare_display()
        require("mpe2", "mpe")
        from robustmarl.envs._particle_world import ParticleRawEnv

        raw = ParticleRawEnv(task, grid=grid, horizon=horizon, render_mode=render_mode)
        super().__init__(raw, name=task.name, team_reward="mean")
        self.task, self.grid = task, grid

    _field = (-HALF, -HALF, HALF, HALF)
    _own = 0  # agents see their own place first

    def make_engine(self, num_envs: int) -> ParticleEngine:
        """Return ``num_envs`` environments like this one, stepped together; training uses it."""
        return ParticleEngine(self, num_envs)


class ParticleEngine:
    """E environments of one task, stepped together; a ``VectorEngine``.

    Every episode follows from its seed alone, and equals that of the environment it was made
    from, bit for bit.

    Args:
        env: what to make copies of; its world says the physics.
        num_envs: E, >= 1.

    Attributes:
        tensors: see ``robustmarl.joint.VectorEngine``.
        places: positions of the agents, then of the landmarks, (E, N + L, 2).
        velocity: of the agents, (E, N, 2).

    Raises:
        TypeError: if ``env`` is another, or ``num_envs`` no int.
        ValueError: if ``num_envs`` is below 1.
    """

    def __init__(self, env: ParticleEnv, num_envs: int = 1) -> None:
        if not isinstance(env, ParticleEnv):
            raise TypeError(f"ParticleEngine.env must be a ParticleEnv, got {env!r}.")
        num_envs = check_int("ParticleEngine.num_envs", num_envs, 1)
        self.task, self.grid, self.spec = env.task, env.grid, spec_of(env)
        self._world, self._n = env.raw.world, self.task.agents
        self.places = np.zeros((num_envs, self._n + self.task.landmarks, 2))
        self.velocity = np.zeros((num_envs, self._n, 2))
        self._steps = np.zeros(num_envs, np.int64)
        accel = self._world.agents[0].accel
        self._accel = ACCELERATION if accel is None else accel
        # what each agent sees: numbers of the landmarks, then of the other agents, (N, L + N - 1)
        landmarks = list(range(self._n, self.places.shape[1]))
        agents = range(self._n)
        self._seen = np.array([landmarks + [j for j in agents if j != i] for i in agents])
        self._itself = np.eye(self._n, dtype=bool)
        self.tensors = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"} | {
            "terminated": torch.zeros(num_envs, dtype=torch.bool),
            "truncated": torch.zeros(num_envs, dtype=torch.bool),
            "metrics": torch.zeros(num_envs, 0),
        }
        self.tensors["mask"][:] = True
        self.tensors["alive"][:] = True
        self._out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        self.begin(torch.ones(num_envs, dtype=torch.bool), torch.arange(num_envs))

    def __len__(self) -> int:
        return len(self.places)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._out = {key: tensor.numpy() for key, tensor in self.tensors.items()}  # views again

    def stage(self) -> Stage:
        """Return what tells where bodies are in the first environment."""
        field, own = ParticleEnv._field, ParticleEnv._own
        return ParticleStage(bodies_of(self._world), lambda: self.places[0], field, own=own)

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,), >= 0."""
        rows = flagged("ParticleEngine.begin.mask", mask, len(self))
        check_seeds("ParticleEngine.begin.seeds", seeds, len(self))
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            rng = np.random.Generator(np.random.PCG64(seed))
            self.places[e] = draw_places(rng, self.task, self.grid)
        self.velocity[rows] = 0.0
        self._steps[rows] = 0
        self._out["rew_agents"][rows] = 0.0
        self._out["truncated"][rows] = False
        self._show(rows, self.places[rows])

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, N).

        Raises:
            TypeError: if ``act`` holds numbers of another kind, or ``active`` no flags.
            ValueError: for another shape, or an action out of range.
        """
        rows = flagged("ParticleEngine.advance.active", active, len(self))
        check_act("ParticleEngine.advance.act", act, self.spec, len(self))
        if not len(rows):
            return
        joint = act.numpy()[rows]
        if joint.min() < 0 or joint.max() >= len(_MOVES):
            rule = f"indices below {len(_MOVES)}"
            check(False, "ParticleEngine.advance.act", rule, joint.tolist())
        places = self.places[rows]
        agents = places[:, : self._n]
        control = _MOVES[joint] * self._accel + 0.0  # turns -0.0 into 0.0, as mpe2's noise does
        if self.grid:
            agents[:] = clip_cells(agents + control)
        else:
            self._move(rows, agents, control)
        self.places[rows] = places
        reward = self.task.reward(agents, places[:, self._n :])
        self._out["rew_agents"][rows] = reward[:, None]
        self._steps[rows] += 1
        self._out["truncated"][rows] = self._steps[rows] >= self.spec.horizon
        self._show(rows, places)

    def _move(self, rows: NDArray[np.int64], agents: Array64, force: Array64) -> None:
        """Integrate mpe2's equations of motion over one step, with its order of operations."""
        world = self._world
        gap = agents[:, :, None] - agents[:, None]
        distance = lengths(gap)
        distance[:, self._itself] = np.inf  # nobody pushes itself
        depth = -(distance - 2.0 * self.task.radius) / world.contact_margin
        penetration = np.logaddexp(0, depth) * world.contact_margin
        if penetration.any():
            push = world.contact_force * gap / distance[..., None] * penetration[..., None]
            for other in range(self._n):  # in mpe2's order of summation
                force = push[:, :, other] + force
        velocity = self.velocity[rows]
        agents += velocity * world.dt
        mass = world.agents[0].mass
        self.velocity[rows] = velocity * (1 - world.damping) + force / mass * world.dt

    def _show(self, rows: NDArray[np.int64], places: Array64) -> None:
        """Write the observations and states of places (R, N + L, 2)."""
        agents = places[:, : self._n]
        obs = np.empty((len(rows), self._n, self.spec.obs_size), np.float32)
        obs[..., :2] = agents
        relative = places[:, self._seen] - agents[:, :, None]
        obs[..., 2:] = relative.reshape(*obs.shape[:2], self.spec.obs_size - 2)
        self._out["obs"][rows] = obs
        self._out["state"][rows] = obs.reshape(len(rows), self.spec.state_size)


def tram_spread(
    *, agents: int = 3, grid: bool = False, horizon: int = 25, render_mode: str | None = None
) -> ParticleEnv:
    r"""Return TRAM's Spread: N agents cover N landmarks; every overlapping pair costs 1.

    Unlike mpe2's own :func:`spread`, everybody earns all of the team's reward,
    :func:`tram_spread_reward`, and bodies of radius 0.15 start in the square of edge 5.

    An agent observes its position, then where landmarks and other agents are from it: not its
    velocity, which it can remember. Moves are none, left, right, down and up.

    Args:
        agents: N, >= 1; the paper's is 3.
        grid: five by five integer cells, one cell a move, and bodies that pass through one
            another, in place of mpe2's physics.
        horizon: steps, at which an episode is truncated, >= 1.
        render_mode: ``"rgb_array"``, ``"human"`` or None; the first needs no display.

    Raises:
        ImportError: if mpe2 is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> env = tram_spread(grid=True)
        >>> env.reset(seed=0)[0]["agent_0"].shape
        (12,)
    """
    task = Task(
        name="tram_spread",
        agents=agents,
        landmarks=agents,
        radius=SPREAD_RADIUS,
        reward=tram_spread_reward,
    )
    return _make(task, grid, horizon, render_mode)


def gather(
    *, agents: int = 3, grid: bool = False, horizon: int = 25, render_mode: str | None = None
) -> ParticleEnv:
    """Return TRAM's Gather: N agents, 3 in the paper, meet at one landmark.

    The reward is :func:`gather_reward`; bodies have mpe2's radius 0.05. Arguments, errors and
    everything else are as in :func:`tram_spread`.

    Example:
        >>> env = gather(grid=True)
        >>> env.reset(seed=0)[0]["agent_0"].shape
        (8,)
    """
    task = Task(
        name="gather", agents=agents, landmarks=1, radius=SMALL_RADIUS, reward=gather_reward
    )
    return _make(task, grid, horizon, render_mode)


def formation(
    *, agents: int = 4, grid: bool = False, horizon: int = 25, render_mode: str | None = None
) -> ParticleEnv:
    """Return TRAM's Formation: N agents, 4 in the paper, make a square around one landmark.

    The square may be of any size. The reward is :func:`formation_reward`; bodies have mpe2's
    radius 0.05. Arguments, errors and everything else are as in :func:`tram_spread`.

    Example:
        >>> env = formation(grid=True)
        >>> env.reset(seed=0)[0]["agent_0"].shape
        (10,)
    """
    task = Task(
        name="formation", agents=agents, landmarks=1, radius=SMALL_RADIUS, reward=formation_reward
    )
    return _make(task, grid, horizon, render_mode)


def _make(task: Task, grid: bool, horizon: int, render_mode: str | None) -> ParticleEnv:
    name = task.name
    grid = check_flag(f"{name}.grid", grid)
    agents = check_int(f"{name}.agents", task.agents, 1, EDGE * EDGE if grid else math.inf)
    horizon = check_int(f"{name}.horizon", horizon, 1)
    check_choice(f"{name}.render_mode", render_mode, (None, "rgb_array", "human"))
    task = replace(task, agents=agents, landmarks=int(task.landmarks))
    return ParticleEnv(task, grid=grid, horizon=horizon, render_mode=render_mode)
