"""Many of mpe2's worlds at once, stepped by compiled code."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_int
from robustmarl._seeding import HASH_CONSTANTS
from robustmarl.envs._mpe2 import ACCELERATION, World
from robustmarl.envs._particle_stage import ParticleStage, bodies_of
from robustmarl.envs._prey import DIRECTIONS, POINTS, STREAM, draw_key
from robustmarl.envs.scenes import Bounds, Stage
from robustmarl.envs.skirmish.compiled import can_compile
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import TeamSpec, VectorEngine, check_act, check_seeds, flagged
from robustmarl.typing import Env

__all__ = ["WorldEngine", "WorldRules", "worlds_of"]

Kernel: TypeAlias = Any
"""The module that numba compiles: what it does to functions has no type."""

_TASKS = ("spread", "tag", "predator_prey")  # by the kernel's numbers


@dataclass(frozen=True, kw_only=True)
class WorldRules:
    """What is played in mpe2's worlds.

    Attributes:
        task: ``"spread"``, ``"tag"`` or ``"predator_prey"``.
        spec: of the environment; its agents are the world's first.
        world: mpe2's, which says the physics.
        bounds: of what can be seen of it.
        landmarks: half the edge of the square in which landmarks lie at first; agents' is 1.
        ratio: weight of what agents earn on their own, in spread.
        sight: how far agents see.
        silence: zeros at the end of an observation.
        implicit: whether bodies move by the velocity that they have after a step, not before it.
    """

    task: str
    spec: TeamSpec
    world: World
    bounds: Bounds
    landmarks: float = 1.0
    ratio: float = 0.0
    sight: float = math.inf
    silence: int = 0
    implicit: bool = False


class WorldEngine:
    """E worlds of mpe2 in which one task is played, stepped together; a ``VectorEngine``.

    Every episode follows from its seed alone, and equals that of the environment whose rules these
    are, bit for bit.

    Args:
        rules: what is played.
        num_envs: E, >= 1.

    Attributes:
        tensors: see ``robustmarl.joint.VectorEngine``.
        places: positions of the agents, then of the landmarks, (E, N + L, 2).
        velocity: of the agents, (E, N, 2).
    """

    def __init__(self, rules: WorldRules, num_envs: int = 1) -> None:
        num_envs = check_int("WorldEngine.num_envs", num_envs, 1)
        self.rules, self.spec = rules, rules.spec
        self._agents, self._marks = len(rules.world.agents), len(rules.world.landmarks)
        self.places = np.zeros((num_envs, self._agents + self._marks, 2))
        self.velocity = np.zeros((num_envs, self._agents, 2))
        self._keys, self._steps = np.zeros((2, num_envs), np.int64)
        self.tensors = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"} | {
            "terminated": torch.zeros(num_envs, dtype=torch.bool),
            "truncated": torch.zeros(num_envs, dtype=torch.bool),
            "metrics": torch.zeros(num_envs, len(self.spec.metrics)),
        }
        actions = self.spec.action_mask()
        self.tensors["mask"][:] = True if actions is None else actions
        self.tensors["alive"][:] = True
        self._no_moves = np.zeros((0, 0), np.int64)
        self._no_motors = np.zeros((0, 0, 0), np.float32)
        self._prepare()
        self.begin(torch.ones(num_envs, dtype=torch.bool), torch.arange(num_envs))

    def __len__(self) -> int:
        return len(self.places)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_kernel", "_out", "_arguments")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._prepare()

    def _prepare(self) -> None:
        """Lay out what compiled code works on, which shares the tensors' memory."""
        self._out = out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        # imported here, where it is needed: that compiles it
        self._kernel: Kernel = import_module("robustmarl.envs._world_kernel")
        self._arguments = (
            _record(self._kernel, self.rules),
            *_bodies(self._kernel, self.rules.world),
            DIRECTIONS,
            *(self.places, self.velocity, self._keys, self._steps),
            *(out["obs"], out["state"], out["rew_agents"], out["metrics"], out["truncated"]),
            np.zeros((self._agents, 2)),
        )

    def stage(self) -> Stage:
        """Return what tells where bodies are in the first environment."""
        return ParticleStage(
            bodies_of(self.rules.world),
            lambda: self.places[0],
            self.rules.bounds,
            own=2,  # behind the velocity
            discrete=not self.spec.continuous,
        )

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,), >= 0."""
        rows = flagged("WorldEngine.begin.mask", mask, len(self))
        check_seeds("WorldEngine.begin.seeds", seeds, len(self))
        far, agents = self.rules.landmarks, self._agents
        flees = self.rules.task == "predator_prey"
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            rng = np.random.Generator(np.random.PCG64(seed))
            self.places[e, :agents] = rng.uniform(-1.0, 1.0, (agents, 2))
            self.places[e, agents:] = rng.uniform(-far, far, (self._marks, 2))
            if flees:
                self._keys[e] = draw_key(rng)
        self.velocity[rows] = 0.0
        self._steps[rows] = 0
        for key in ("rew_agents", "metrics", "truncated"):
            self._out[key][rows] = 0
        self._kernel.show(rows, self._arguments)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,).

        Args:
            act: int64 (E, N), or float32 (E, N, A) in [-1, 1].
            active: which; ``act`` means nothing elsewhere.

        Raises:
            TypeError: if ``act`` holds numbers of another kind, or ``active`` no flags.
            ValueError: for another shape, an action out of range, or one that is no number.
        """
        rows = flagged("WorldEngine.advance.active", active, len(self))
        check_act("WorldEngine.advance.act", act, self.spec, len(self))
        moves, motors = self._no_moves, self._no_motors
        if self.spec.continuous:
            motors = np.ascontiguousarray(act.numpy(), np.float32)
        else:
            moves = np.ascontiguousarray(act.numpy(), np.int64)
        wrong = self._kernel.advance(rows, moves, motors, self._arguments)
        if wrong >= 0:
            motors_rule = f"{self.spec.num_actions} numbers each"
            rule = motors_rule if self.spec.continuous else f"indices below {self.spec.num_actions}"
            check(False, "WorldEngine.advance.act", rule, act[wrong].tolist())


def worlds_of(rules: WorldRules | None, env: Env, num_envs: int) -> VectorEngine:
    """Return ``num_envs`` environments like ``env`` side by side.

    Args:
        rules: what is played in it, None where compiled code does not know it; then, and where
            there is no compiler, environments are stepped one after another.
        env: what to make copies of.
        num_envs: E, >= 1.
    """
    if rules is not None and can_compile():
        return WorldEngine(rules, num_envs)
    return JointVectorEnv(lambda: copy.deepcopy(env), num_envs)


def _record(kernel: Kernel, rules: WorldRules) -> NDArray[np.void]:
    """Return what is the same for all bodies, (1,)."""
    spec, world = rules.spec, rules.world
    golden, first_factor, second_factor = HASH_CONSTANTS
    named = {
        "task": _TASKS.index(rules.task),
        "policy": spec.num_agents,
        "agents": len(world.agents),
        "horizon": spec.horizon,
        "silence": rules.silence,
        "points": POINTS,
        "golden": golden,
        "first_factor": first_factor,
        "second_factor": second_factor,
        "stream": STREAM,
        "dt": world.dt,
        "damping": world.damping,
        "strength": world.contact_force,
        "margin": world.contact_margin,
        "ratio": rules.ratio,
        "sight": rules.sight,
        "low": spec.action_low[0][0] if spec.continuous else 0.0,
        "high": spec.action_high[0][0] if spec.continuous else 0.0,
        "discrete": not spec.continuous,
        "implicit": rules.implicit,
    }
    return np.array([tuple(named[name] for name in kernel.RULES.names)], kernel.RULES)


def _bodies(kernel: Kernel, world: World) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the kernel's ``trait`` and ``flag``."""
    bodies = [*world.agents, *world.landmarks]
    trait = np.zeros((kernel.TRAITS, len(bodies)))
    flag = np.zeros((kernel.FLAGS, len(bodies)), np.bool_)
    trait[kernel.RADIUS] = [body.size for body in bodies]
    flag[kernel.COLLIDES] = [body.collide for body in bodies]
    for i, agent in enumerate(world.agents):
        trait[kernel.ACCEL, i] = ACCELERATION if agent.accel is None else agent.accel
        trait[kernel.FASTEST, i] = math.inf if agent.max_speed is None else agent.max_speed
        trait[kernel.MASS, i] = agent.mass
        flag[kernel.GOOD, i] = not getattr(agent, "adversary", False)
    return trait, flag
