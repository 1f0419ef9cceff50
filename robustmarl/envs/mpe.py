"""Multi-agent particle environments: mpe2's worlds without its turn-taking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_has,
    check_int,
    check_number,
    check_seed,
    check_text,
)
from robustmarl.envs._base import CheckedEnv, read_index
from robustmarl.envs._extras import require
from robustmarl.envs._mpe2 import (
    ACCELERATION,
    MOVES,
    RawEnv,
    World,
    close_window,
    made_of,
    packed,
    unpacked,
)
from robustmarl.envs._particle_stage import ParticleStage, Places, bodies_of
from robustmarl.envs._worlds import WorldRules, worlds_of
from robustmarl.envs.scenes import Bounds, Stage
from robustmarl.joint import VectorEngine, spec_of
from robustmarl.typing import Array, Env, ResetResult, StepResult

__all__ = ["MPEParallelEnv", "SpreadEnv", "spread"]

Motors: TypeAlias = NDArray[np.floating]
"""A continuous action: five numbers, of which the first does nothing."""

Action: TypeAlias = int | Motors

# exp(x) is exactly 0.0 in double precision from here down: its smallest number is exp(-744.44)
_UNDERFLOW = -746.0


class MPEParallelEnv(CheckedEnv[Array, Action]):
    """Steps the world of an mpe2 ``raw_env`` once per joint action.

    Observations, rewards, terminations and truncations are bit for bit those of mpe2's own
    ``parallel_env``, which passes every agent's action through a turn-taking environment. With
    ``render_mode`` ``"human"`` a window shows the beginning of an episode and each step.

    Args:
        raw: an mpe2 environment, not wrapped; it must not be stepped elsewhere.
        name: what ``metadata["name"]`` shall say.
        team_reward: how rewards make a team's reward, ``"sum"`` or ``"mean"``.
    """

    _field: ClassVar[Bounds] = (-1.0, -1.0, 1.0, 1.0)  # where bodies begin; they may leave it
    _own: int | None = None  # where agents see their own place, and what else behind it

    def __init__(self, raw: RawEnv, *, name: str, team_reward: str = "sum") -> None:
        where = type(self).__name__
        rule = "an mpe2 raw_env, not wrapped"
        check_has(f"{where}.raw", raw, ("_execute_world_step", "observe", "reset"), rule)
        name = check_text(f"{where}.name", name)
        check_choice(f"{where}.team_reward", team_reward, ("sum", "mean"))
        self.raw, self.render_mode = raw, raw.render_mode
        self.metadata = {
            **raw.metadata,
            "name": name,
            "team_reward": team_reward,
            "horizon": raw.max_cycles,
        }
        self.possible_agents = list(raw.possible_agents)
        self.agents = []
        self.observation_spaces, self.action_spaces = raw.observation_spaces, raw.action_spaces
        self.state_space = raw.state_space
        self._continuous: bool = raw.continuous_actions
        self._horizon: int = raw.max_cycles
        spaces = [raw.action_spaces[agent] for agent in self.possible_agents]
        self._sizes = [int(space.n) for space in spaces if isinstance(space, Discrete)]
        self._bounds = [(space.low, space.high) for space in spaces if isinstance(space, Box)]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "raw": packed(self.raw)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "raw": unpacked(state["raw"])}

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        seed = None if seed is None else check_seed("reset.seed", seed)
        self.raw.reset(seed=seed, options=options)
        self._begin()
        self.agents = self.possible_agents[:]
        self._steps, self._begun = 0, True
        self._follow()
        return self._observe(), {agent: {} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, Action]) -> StepResult:
        agents = self.agents
        rewards = self._advance([actions[agent] for agent in agents])
        self._steps += 1
        truncated = self._steps >= self._horizon
        terminated = not truncated and self._is_terminal()
        if truncated or terminated:
            self.agents = []
        self._follow()
        return (
            self._observe(),
            rewards,
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            self._infos(),
        )

    @override
    def state(self) -> Array:
        """Return all observations in a row, as mpe2 does, shape (S,).

        Raises:
            RuntimeError: before the first reset.
        """
        self._check_begun("state")
        return self._joint_state()

    @override
    def render(self) -> NDArray[np.uint8] | None:
        """Return mpe2's picture, uint8 (700, 700, 3), or show it.

        Raises:
            RuntimeError: before the first reset.
            ValueError: without a render mode.
        """
        where, rule = f"{type(self).__name__}.render_mode", "'rgb_array' or 'human' to render"
        check(self.render_mode is not None, where, rule, self.render_mode)
        self._check_begun("render")
        return self._picture()

    @override
    def close(self) -> None:
        """Close the window, if there is one; it may be opened again."""
        close_window(self.raw)

    def stage(self) -> Stage:
        """Return what tells where bodies are."""
        bodies, discrete = bodies_of(self.raw.world), not self._continuous
        return ParticleStage(bodies, self._places, self._field, own=self._own, discrete=discrete)

    def _places(self) -> Places:
        """Return where agents and landmarks are, (N + L, 2)."""
        world = self.raw.world
        return [entity.state.p_pos for entity in (*world.agents, *world.landmarks)]

    def _follow(self) -> None:
        """Show what has become of the game, if somebody wants to watch."""
        if self.render_mode == "human":
            self.render()

    def _begin(self) -> None:
        """Take note of an episode's first places."""

    def _joint_state(self) -> Array:
        return self.raw.state()

    def _picture(self) -> NDArray[np.uint8] | None:
        return self.raw.render()

    def _advance(self, actions: list[Action]) -> dict[str, float]:
        self.raw.current_actions = self._legal(actions)
        self.raw._execute_world_step()
        return dict(self.raw.rewards)

    def _observe(self) -> dict[str, Array]:
        return {agent: self.raw.observe(agent) for agent in self.possible_agents}

    def _is_terminal(self) -> bool:
        return bool(self.raw.scenario.is_terminal(self.raw.world))

    def _infos(self) -> dict[str, dict[str, object]]:
        return {agent: dict(self.raw.infos[agent]) for agent in self.possible_agents}

    def _legal(self, actions: list[Action]) -> Sequence[Action]:
        """Return actions clipped to their boxes, or refuse indices out of range."""
        if self._continuous:
            bounds = zip(self.possible_agents, actions, self._bounds, strict=True)
            return [_clipped(agent, motors, *box) for agent, motors, box in bounds]
        moves = cast("Sequence[int]", actions)
        sizes = zip(self.possible_agents, moves, self._sizes, strict=True)
        return [read_index(agent, move, size) for agent, move, size in sizes]


def _clipped(agent: str, motors: Action, low: Motors, high: Motors) -> Motors:
    """Return an agent's motors in their box; NaN would spread to all places that are seen."""
    try:
        values = np.asarray(motors, np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != low.shape or not np.isfinite(values).all():
        check(False, f"step.actions[{agent!r}]", f"{len(low)} finite numbers", motors)
    return np.clip(motors, low, high)


class SpreadEnv(MPEParallelEnv):
    """simple_spread with its arithmetic done on floats, in mpe2's order of operations.

    Arrays of two numbers cost more than they compute. The world's own objects follow when
    somebody asks for them: :attr:`world`, and rendering.

    Args:
        raw: ``mpe2.simple_spread_v3.raw_env`` with full observations and one reward rule.
    """

    _own = 2  # behind the velocity

    def __init__(self, raw: RawEnv) -> None:
        super().__init__(raw, name="simple_spread_v3")
        world = raw.world
        self._n = len(world.agents)
        self._ratio: float = raw.local_ratio
        self._radius = [agent.size for agent in world.agents]
        self._accel = [ACCELERATION if a.accel is None else float(a.accel) for a in world.agents]
        self._mass = [float(agent.mass) for agent in world.agents]
        # what an agent hears: nobody speaks in this task, but observations keep the place
        self._silence = [0.0] * (world.dim_c * (self._n - 1))
        self._pos: list[tuple[float, float]] = []
        self._vel: list[tuple[float, float]] = []
        self._landmarks: list[tuple[float, float]] = []

    def make_engine(self, num_envs: int) -> VectorEngine:
        """Return ``num_envs`` environments like this one, stepped together; training uses it."""
        rules = WorldRules(
            task="spread",
            spec=spec_of(self),
            world=self.raw.world,
            bounds=self._field,
            ratio=self._ratio,
            silence=len(self._silence),
        )
        return worlds_of(rules, self, num_envs)

    @property
    def world(self) -> World:
        """mpe2's world with the present positions and velocities."""
        world = self.raw.world
        for agent, pos, vel in zip(world.agents, self._pos, self._vel, strict=True):
            agent.state.p_pos, agent.state.p_vel = np.array(pos), np.array(vel)
        return world

    @override
    def _begin(self) -> None:
        world = self.raw.world
        self._pos = [_pair(agent.state.p_pos) for agent in world.agents]
        self._vel = [_pair(agent.state.p_vel) for agent in world.agents]
        self._landmarks = [_pair(landmark.state.p_pos) for landmark in world.landmarks]
        self._pair_distances = self._distances()

    @override
    def _joint_state(self) -> Array:
        return np.array(self._joint_obs, np.float32)

    @override
    def _picture(self) -> NDArray[np.uint8] | None:
        _ = self.world  # brings mpe2's objects up to date
        return self.raw.render()

    @override
    def _places(self) -> Places:
        return [*self._pos, *self._landmarks]

    @override
    def _advance(self, actions: list[Action]) -> dict[str, float]:
        force = self._add_contacts(self._controls(self._legal(actions)))
        world = self.raw.world
        dt, keep = world.dt, 1 - world.damping
        for i, (x, y) in enumerate(self._pos):
            (vx, vy), (fx, fy), mass = self._vel[i], force[i], self._mass[i]
            self._pos[i] = (x + vx * dt, y + vy * dt)
            self._vel[i] = (vx * keep + fx / mass * dt, vy * keep + fy / mass * dt)
        self._pair_distances = self._distances()
        return self._rewards()

    @override
    def _is_terminal(self) -> bool:
        return False

    @override
    def _infos(self) -> dict[str, dict[str, object]]:
        return {agent: {} for agent in self.possible_agents}

    def _controls(self, actions: Sequence[Action]) -> list[list[float]]:
        """Return the force of each agent's motor, [x, y]."""
        if self._continuous:
            motors = cast("Sequence[Motors]", actions)
            moves = [(float(m[2] - m[1]), float(m[4] - m[3])) for m in motors]
        else:
            moves = [MOVES[move] for move in cast("Sequence[int]", actions)]
        # adding 0.0 turns -0.0 into 0.0, as mpe2's zero noise does
        return [[x * a + 0.0, y * a + 0.0] for (x, y), a in zip(moves, self._accel, strict=True)]

    def _add_contacts(self, force: list[list[float]]) -> list[list[float]]:
        """Add the repulsion of agents that touch: World.get_collision_force of mpe2."""
        world, radius, pos = self.raw.world, self._radius, self._pos
        strength, margin = world.contact_force, world.contact_margin
        for (a, b), distance in self._pair_distances.items():
            depth = -(distance - (radius[a] + radius[b])) / margin
            if depth < _UNDERFLOW:
                continue
            penetration = float(np.logaddexp(0, depth)) * margin
            (ax, ay), (bx, by) = pos[a], pos[b]
            fx = strength * (ax - bx) / distance * penetration
            fy = strength * (ay - by) / distance * penetration
            force[a][0] += fx
            force[a][1] += fy
            force[b][0] -= fx
            force[b][1] -= fy
        return force

    def _distances(self) -> dict[tuple[int, int], float]:
        """Return the distance of each pair of agents, the lower number first."""
        distances = {}
        for a, (ax, ay) in enumerate(self._pos):
            for b in range(a + 1, self._n):
                bx, by = self._pos[b]
                dx, dy = ax - bx, ay - by
                distances[a, b] = sqrt(dx * dx + dy * dy)
        return distances

    def _rewards(self) -> dict[str, float]:
        collisions = [0] * self._n
        for (a, b), distance in self._pair_distances.items():
            if distance < self._radius[a] + self._radius[b]:
                collisions[a] += 1
                collisions[b] += 1
        shared = 0.0
        for x, y in self._landmarks:
            shared -= min([sqrt((px - x) * (px - x) + (py - y) * (py - y)) for px, py in self._pos])
        common = shared * (1 - self._ratio)
        return {
            agent: common + (0.0 - count) * self._ratio
            for agent, count in zip(self.possible_agents, collisions, strict=True)
        }

    @override
    def _observe(self) -> dict[str, Array]:
        pos = self._pos
        values: list[float] = []
        for i, (x, y) in enumerate(pos):
            values += self._vel[i]
            values += (x, y)
            for landmark_x, landmark_y in self._landmarks:
                values += (landmark_x - x, landmark_y - y)
            for j, (other_x, other_y) in enumerate(pos):
                if j != i:
                    values += (other_x - x, other_y - y)
            values += self._silence
        self._joint_obs = values
        rows = np.array(values, np.float32).reshape(self._n, -1)
        return dict(zip(self.possible_agents, rows, strict=True))


def _pair(vector: NDArray[np.float64]) -> tuple[float, float]:
    x, y = vector.tolist()
    return x, y


def spread(
    agents: int = 3,
    *,
    local_ratio: float = 0.5,
    max_cycles: int = 25,
    continuous_actions: bool = False,
    render_mode: str | None = None,
    **options: object,
) -> Env:
    r"""Return mpe2's simple_spread: N agents cover N landmarks without colliding.

    Each agent earns :math:`(1 - \rho) R - \rho c_i`, with :math:`R` minus the sum over
    landmarks of the distance to the nearest agent, :math:`c_i` the agent's collisions and
    :math:`\rho` the local ratio; the team's reward is the sum. Episodes are truncated.

    Args:
        agents: N, agents and landmarks, >= 1.
        local_ratio: :math:`\rho`, weight of collisions, in [0, 1].
        max_cycles: the horizon, steps.
        continuous_actions: five motor values in [0, 1] in place of five indices.
        render_mode: ``"rgb_array"``, ``"human"`` or None.
        options: passed on to ``mpe2.simple_spread_v3.raw_env``. Those that change
            observations, rewards or endings use mpe2's own, slower arithmetic.

    Raises:
        ImportError: if mpe2 is not installed.
        TypeError: for an argument of a wrong kind, or an unknown option.
        ValueError: for a value out of range.

    Example:
        >>> env = spread(agents=2)
        >>> env.reset(seed=0)[0]["agent_0"].shape, int(env.action_space("agent_0").n)
        ((12,), 5)
    """
    agents = check_int("spread.agents", agents, 1)
    local_ratio = check_number("spread.local_ratio", local_ratio, 0.0, 1.0)
    max_cycles = check_int("spread.max_cycles", max_cycles, 1)
    continuous_actions = check_flag("spread.continuous_actions", continuous_actions)
    check_choice("spread.render_mode", render_mode, (None, "rgb_array", "human"))
    own = {
        "N": agents,
        "local_ratio": local_ratio,
        "max_cycles": max_cycles,
        "continuous_actions": continuous_actions,
        "render_mode": render_mode,
    }
    raw = made_of("spread", require("mpe2.simple_spread_v3", "mpe").raw_env, own, options)
    if any(value for key, value in options.items() if key != "dynamic_rescaling"):
        return MPEParallelEnv(raw, name="simple_spread_v3")
    return SpreadEnv(raw)
