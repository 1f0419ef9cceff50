"""Level-based foraging: lbforaging's game as a parallel environment."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, SupportsIndex, TypedDict

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from typing_extensions import Unpack, override

from robustmarl._checks import (
    check,
    check_choice,
    check_each,
    check_index,
    check_int,
    check_number,
    flags_of,
)
from robustmarl.envs._base import CheckedEnv, MaskedObs, masked_spaces, read_index
from robustmarl.envs._extras import require
from robustmarl.envs._lbf_batch import ForagingEngine
from robustmarl.envs._lbf_stage import ForagingStage
from robustmarl.envs.scenes import Stage
from robustmarl.envs.skirmish.compiled import can_compile
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import VectorEngine, spec_of
from robustmarl.typing import Env, ResetResult, StepResult

if TYPE_CHECKING:  # importing it needs lbforaging
    from robustmarl.envs._lbf_engine import Engine

__all__ = ["ForagingParallelEnv", "foraging", "foraging_from_id"]

_NUM_ACTIONS = 6  # nothing, north, south, west, east, load

# A picture: pixels of a cell, and between things and the grid; brightness of its parts.
_CELL, _FOOD_MARGIN, _PLAYER_MARGIN = 16, 2, 4
_GROUND, _GRID, _OTHER_CHANNELS, _WEAKEST, _STRONGEST = 20, 70, 40, 100, 255
_RED, _BLUE = 0, 2  # channels

_ID = re.compile(
    r"Foraging(?P<grid>-grid)?(?:-(?P<sight>[1-9]\d*)s)?-(?P<rows>\d+)x(?P<cols>\d+)"
    r"-(?P<players>\d+)p-(?P<foods>\d+)f(?P<coop>-coop)?(?P<ind>-ind)?(?P<pen>-pen)?-v3"
)


class _Settings(TypedDict, total=False):
    """Arguments of :func:`foraging`."""

    size: int | tuple[int, int]
    players: int
    foods: int
    coop: bool
    sight: int | None
    max_player_level: int | Sequence[int]
    max_food_level: int | Sequence[int] | None
    min_player_level: int | Sequence[int]
    min_food_level: int | Sequence[int]
    penalty: float
    horizon: int
    normalize_reward: bool
    grid_observation: bool
    observe_agent_levels: bool
    share_cells: bool
    mask: bool
    render_mode: str | None


class ForagingParallelEnv(CheckedEnv[NDArray[np.float32] | MaskedObs, SupportsIndex]):
    """Players of different levels collect food that may take several of them.

    Observations are lbforaging's, flat, beside an action mask. Its time limit ends an episode
    as finished; here it truncates, and only an empty field terminates. The last infos say
    ``success``: 1.0 if all food was collected, else 0.0.

    Args:
        engine: the game, from :func:`foraging`.
        mask: observations come with an action mask; else each is its vector alone.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self, engine: Engine, *, mask: bool = True, render_mode: str | None = None
    ) -> None:
        self.engine, self.render_mode, self._has_mask = engine, render_mode, mask
        self.metadata = {
            "name": "foraging",
            "render_modes": ["rgb_array"],
            "render_fps": 5,
            "team_reward": "sum",
            "horizon": engine._max_episode_steps,
            "episode_metrics": ("success",),
        }
        self.possible_agents = [f"player_{i}" for i in range(len(engine.players))]
        self.agents = []
        box: Box = engine.observation_space[0]
        seen = Box(box.low, box.high, dtype=np.float32)
        spaces = masked_spaces(self.possible_agents, seen, _NUM_ACTIONS)
        self.observation_spaces, self.action_spaces = spaces
        if not mask:
            self.observation_spaces = dict.fromkeys(self.possible_agents, seen)

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        obs, _ = self.engine.reset(seed=seed, options=options)
        self.agents, self._begun = self.possible_agents[:], True
        return self._observe(obs), {agent: {} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents, engine = self.agents, self.engine
        joint = [read_index(agent, actions[agent], _NUM_ACTIONS) for agent in agents]
        obs, rewards, over, _, _ = engine.step(joint)
        terminated = over and not engine.field.any()
        ending = {"success": float(terminated)} if over else {}
        if over:
            self.agents = []
        return (
            self._observe(obs),
            {agent: float(reward) for agent, reward in zip(agents, rewards, strict=True)},
            dict.fromkeys(agents, bool(terminated)),
            dict.fromkeys(agents, bool(over and not terminated)),
            {agent: ending.copy() for agent in agents},
        )

    @override
    def state(self) -> NDArray[np.float32]:
        """Return all observations in a row.

        Raises:
            RuntimeError: before the first reset.
        """
        self._check_begun("state")
        return self.engine._make_gym_obs().reshape(-1)

    @override
    def render(self) -> NDArray[np.uint8]:
        """Return a picture, uint8 (H, W, 3): blue players and red food, brighter if stronger.

        Raises:
            RuntimeError: before the first reset.
            ValueError: without a render mode.
        """
        good = self.render_mode == "rgb_array"
        check(good, "foraging.render_mode", "'rgb_array' to render", self.render_mode)
        self._check_begun("render")
        engine = self.engine
        rows, cols = engine.field.shape
        picture = np.full((rows * _CELL, cols * _CELL, 3), _GROUND, np.uint8)
        picture[::_CELL] = picture[:, ::_CELL] = _GRID
        things = [(*p.position, p.level, _BLUE) for p in engine.players]
        things += [
            (row, col, engine.field[row, col], _RED) for row, col in np.argwhere(engine.field)
        ]
        strongest = max(int(level) for *_, level, _ in things)
        for row, col, level, channel in things:
            margin = _FOOD_MARGIN if channel == _RED else _PLAYER_MARGIN
            top, left = row * _CELL + 1 + margin, col * _CELL + 1 + margin
            size = _CELL - 1 - 2 * margin
            colour = np.full(3, _OTHER_CHANNELS, np.uint8)
            colour[channel] = _WEAKEST + (_STRONGEST - _WEAKEST) * int(level) // strongest
            picture[top : top + size, left : left + size] = colour
        return picture

    def make_engine(self, num_envs: int) -> VectorEngine:
        """Return ``num_envs`` games like this one, stepped together; training uses it.

        They are compiled by numba where it is there, else stepped one after another.
        """
        if can_compile():
            game = copy.deepcopy(self.engine)
            game.silent = True  # compiled code says what players see
            return ForagingEngine(game, spec_of(self), num_envs, masked=self._has_mask)
        return JointVectorEnv(lambda: copy.deepcopy(self), num_envs)

    def stage(self) -> Stage:
        """Return what tells where players and food are."""
        return ForagingStage(self.engine, self.possible_agents)

    def _observe(
        self, obs: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]] | dict[str, MaskedObs]:
        if not self._has_mask:
            return dict(zip(self.possible_agents, obs, strict=True))
        mask = self.engine.mask
        return {
            agent: {"observation": row, "action_mask": available}
            for agent, row, available in zip(self.possible_agents, obs, mask, strict=True)
        }


def foraging(
    size: int | tuple[int, int] = 8,
    players: int = 2,
    foods: int = 3,
    *,
    coop: bool = False,
    sight: int | None = None,
    max_player_level: int | Sequence[int] = 2,
    max_food_level: int | Sequence[int] | None = None,
    min_player_level: int | Sequence[int] = 1,
    min_food_level: int | Sequence[int] = 1,
    penalty: float = 0.0,
    horizon: int = 50,
    normalize_reward: bool = True,
    grid_observation: bool = False,
    observe_agent_levels: bool = True,
    share_cells: bool = False,
    mask: bool = True,
    render_mode: str | None = None,
) -> Env:
    """Return level-based foraging.

    Args:
        size: edge of the field, or its rows and columns, cells, >= 3.
        players: number of agents, >= 1, fewer than cells.
        foods: most pieces of food, >= 1; fewer, but not none, where there is no room for them.
        coop: food so strong that it takes the (up to three) weakest players together.
        sight: how many cells agents see around them, >= 1; None is the whole field.
        max_player_level: strongest player, for all or one each.
        max_food_level: strongest food, for all or one each; None is the sum of the three
            lowest player levels.
        min_player_level: weakest player, >= 1, for all or one each.
        min_food_level: weakest food, >= 1, for all or one each; without ``max_food_level`` no more
            than the three lowest of ``min_player_level`` together.
        penalty: what a failed attempt costs each loader, reward, >= 0.
        horizon: steps, at which an episode is truncated.
        normalize_reward: the rewards of all players for all food sum to 1.
        grid_observation: three layers (agents, food, free) around the agent, flattened, in
            place of coordinates.
        observe_agent_levels: observations tell the players' levels.
        share_cells: of several players that would enter a cell the first does, and cells hold any
            number, so that nobody can stand in another's way [Li2024]_; else nobody moves.
        mask: observations come with a mask of the actions that do something, which tells where
            food and walls are even to a team whose observations are false; without it what cannot
            be done does nothing.
        render_mode: ``"rgb_array"`` or None; needs no display.

    Raises:
        ImportError: if lbforaging is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> env = foraging(size=5, players=2, foods=1)
        >>> obs, _ = env.reset(seed=0)
        >>> env.metadata["team_reward"], obs["player_0"]["observation"].shape
        ('sum', (9,))
    """
    rows, cols = (check_int("foraging.size", edge, 3) for edge in _ints("foraging.size", size, 2))
    shape = rows, cols
    players = check_int("foraging.players", players, 1, rows * cols - 1)
    foods = check_int("foraging.foods", foods, 1)
    coop, normalize_reward, grid_observation, observe_agent_levels, share_cells, mask = flags_of(
        "foraging",
        coop=coop,
        normalize_reward=normalize_reward,
        grid_observation=grid_observation,
        observe_agent_levels=observe_agent_levels,
        share_cells=share_cells,
        mask=mask,
    )
    sight = max(shape) if sight is None else check_int("foraging.sight", sight, 1)
    penalty = check_number("foraging.penalty", penalty, 0.0)
    horizon = check_int("foraging.horizon", horizon, 1)
    check_choice("foraging.render_mode", render_mode, (None, "rgb_array"))
    players_least = _least_levels("player_level", min_player_level, max_player_level, players)
    food_least = _least_levels("food_level", min_food_level, max_food_level, foods)
    if max_food_level is None and not coop:  # then players' levels, which are drawn, bound it
        together = sum(sorted(players_least)[:3])
        where, rule = "foraging.min_food_level", f"at most {together} without max_food_level"
        remedy = "The three weakest players may load no more together. Raise min_player_level."
        check(max(food_least) <= together, where, rule, min_food_level, remedy)
    require("lbforaging.foraging.environment", "foraging")
    from robustmarl.envs._lbf_engine import Engine

    engine = Engine(
        players=players,
        min_player_level=min_player_level,
        max_player_level=max_player_level,
        min_food_level=min_food_level,
        max_food_level=max_food_level,
        field_size=shape,
        max_num_food=foods,
        sight=sight,
        max_episode_steps=horizon,
        force_coop=coop,
        normalize_reward=normalize_reward,
        grid_observation=grid_observation,
        observe_agent_levels=observe_agent_levels,
        penalty=penalty,
        share_cells=share_cells,
    )
    return ForagingParallelEnv(engine, mask=mask, render_mode=render_mode)


def foraging_from_id(
    id: str,  # noqa: A002 - gymnasium's name for it
    **overrides: Unpack[_Settings],
) -> Env:
    """Return the environment that lbforaging registers under ``id``.

    Args:
        id: e.g. ``"Foraging-2s-8x8-2p-3f-coop-v3"`` or ``"Foraging-grid-1s-5x5-2p-1f-v3"``;
            ``-ind`` (food of level 1) and ``-pen`` (penalty 0.1) are understood too.
        overrides: arguments of :func:`foraging` that replace those of the id.

    Raises:
        ImportError: if lbforaging is not installed.
        TypeError: if ``id`` is not a string, or for an argument of a wrong kind.
        ValueError: if ``id`` is not of this family, or for a value out of range.

    Example:
        >>> env = foraging_from_id("Foraging-4x4-2p-1f-coop-v3", mask=False, horizon=20)
        >>> env.reset(seed=0)[0]["player_0"].shape, env.metadata["horizon"]
        ((9,), 20)
    """
    settings = _arguments(id)
    settings.update(overrides)
    return foraging(**settings)


def _arguments(name: str) -> _Settings:
    rule = "like 'Foraging-8x8-2p-3f-v3'"
    if not isinstance(name, str):
        raise TypeError(f"foraging_from_id.id must be {rule}, got {name!r}.")
    found = _ID.fullmatch(name)
    if found is None:
        raise ValueError(f"foraging_from_id.id must be {rule}, got {name!r}.")
    return {
        "size": (int(found["rows"]), int(found["cols"])),
        "players": int(found["players"]),
        "foods": int(found["foods"]),
        "coop": found["coop"] is not None,
        "sight": None if found["sight"] is None else int(found["sight"]),
        "max_food_level": None if found["ind"] is None else 1,
        "penalty": 0.0 if found["pen"] is None else 0.1,
        "grid_observation": found["grid"] is not None,
    }


def _least_levels(
    what: str, low: int | Sequence[int], high: int | Sequence[int] | None, count: int
) -> list[int]:
    """Return ``low`` for each, if levels are ints >= 1, one or ``count`` of them, and in order."""
    sides = {"min": low} if high is None else {"min": low, "max": high}
    each: dict[str, list[int]] = {}
    for side, value in sides.items():
        where = f"foraging.{side}_{what}"
        each[side] = [check_int(where, level, 1) for level in _ints(where, value, count)]
    if "max" in each:
        ordered = all(a <= b for a, b in zip(each["min"], each["max"], strict=True))
        check(ordered, f"foraging.max_{what}", f"at least min_{what} = {low!r}", high)
    return each["min"]


def _ints(where: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    rule = f"an int, or {count} of them"
    if isinstance(value, int | np.integer):
        return (check_int(where, value),) * count
    several = check_each(where, value, check_index, rule)
    check(len(several) == count, where, rule, value)
    return several
