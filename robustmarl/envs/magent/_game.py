"""One game in magent2's memory, read per team into rows of joint arrays; needs magent2."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from magent2.c_lib import _LIB
from magent2.gridworld import GridWorld
from numpy.typing import NDArray

from robustmarl.envs.magent.rules import Rules, engine_seed
from robustmarl.typing import Values

__all__ = ["Game", "Layout", "layouts_of"]

_NO_OP = 0  # what is left to the dead: the library's convention, magent2 does not ask them
_HEALTH = 2  # the channel of one's own team's health; 0 is walls, 1 one's own team
_NUMBER = 10  # digits of an agent's number in binary, which come first of the features
_POSITION = 2  # of the features, what tells where on the map one is; they come last


class Layout(NamedTuple):
    """What one team's agents see and do.

    Attributes:
        name: the team's.
        rows: of the joint arrays, the team's.
        view: rows, columns and channels of what they see around them.
        features: which of magent2's features they see behind it.
        num_features: of magent2's, all.
        actions: their number; moves come first.
        attack_base: the first that attacks.
        body: edge of an agent, cells.
        reach: per attack, where it goes, (attacks, 2): columns to the right and rows down.
    """

    name: str
    rows: slice
    view: tuple[int, int, int]
    features: slice
    num_features: int
    actions: int
    attack_base: int
    body: int
    reach: NDArray[np.int64]

    @property
    def view_size(self) -> int:
        """Numbers in a view."""
        return int(np.prod(self.view))

    @property
    def feature_size(self) -> int:
        """Numbers behind it."""
        return len(range(self.num_features)[self.features])

    @property
    def obs_size(self) -> int:
        """Numbers in an observation."""
        return self.view_size + self.feature_size

    @property
    def reward_at(self) -> int:
        """Which of all features is the reward: behind a number in binary and the last action."""
        return _NUMBER + self.actions


def layouts_of(rules: Rules) -> tuple[Layout, ...]:
    """Return the layouts of both teams."""
    grid = GridWorld(rules.config())
    found, first = [], 0
    for name, size, handle in zip(rules.teams, rules.sizes, grid.get_handles(), strict=True):
        rows, columns, channels = map(int, grid.get_view_space(handle))
        (num_features,) = map(int, grid.get_feature_space(handle))
        begin = num_features - _POSITION if rules.minimap else num_features
        base, attack_at = grid.get_view2attack(handle)
        downs, rights = np.nonzero(attack_at >= 0)
        reach = np.stack([rights - columns // 2, downs - rows // 2], axis=1)
        found.append(
            Layout(
                name=name,
                rows=slice(first, first + size),
                view=(rows, columns, channels),
                features=slice(0 if rules.extra_features else begin, num_features),
                num_features=num_features,
                actions=int(grid.get_action_space(handle)[0]),
                attack_base=int(base),
                body=2 - rows % 2,  # as a view has a middle cell around bodies of one cell only
                reach=reach,
            )
        )
        first += size
    return tuple(found)


class _Side:
    """A team in a game: who lives, in magent2's order, and what magent2 writes into."""

    def __init__(self, handle: ctypes.c_int32, layout: Layout, obs: NDArray[np.float32]) -> None:
        size = layout.rows.stop - layout.rows.start
        self.handle, self.layout = handle, layout
        self.everybody = np.arange(layout.rows.start, layout.rows.stop)
        self.living = self.everybody
        self.act = np.zeros(size, np.int32)
        self.reward = np.zeros(size, np.float32)
        self.alive = np.zeros(size, np.bool_)
        self.places = np.zeros((size, 2), np.int32)
        self.features = np.zeros((size, layout.num_features), np.float32)
        self.view = np.zeros((size, layout.view_size), np.float32)
        arrays = (self.act, self.reward, self.alive, self.places)
        self.act_at, self.reward_at, self.alive_at, self.places_at = map(_pointer, arrays)
        # while nobody is dead, views without anything behind them are the rows of the joint array
        fits = layout.view_size == obs.shape[1]
        self.straight = _addresses(obs[layout.rows], self.features) if fits else None
        self.apart = _addresses(self.view, self.features)
        rows, columns, channels = layout.view
        self.own_health = (rows // 2 * columns + columns // 2) * channels + _HEALTH

    @property
    def where(self) -> slice | NDArray[np.int64]:
        """Return the rows of the living."""
        return self.layout.rows if len(self.living) == len(self.everybody) else self.living


class Game:
    """One game, written into one environment's row of each joint array.

    Agents that die have their last view in the step of their death, zeros afterwards.

    Args:
        rules: what is played.
        layouts: of both teams, from :func:`layouts_of`.
        row: this environment's row of ``obs``, ``mask``, ``state``, ``alive``, ``rew_agents`` and,
            of one element, ``terminated`` and ``truncated``; C-contiguous.

    Attributes:
        map: the state, (columns, rows, channels): walls, and both teams' presence and health.
        places: column and row of all agents, (N, 2), of the dead where they died.
        health: in [0, 1], (N,).
        act: the last actions, (N,), -1 before the first.
        steps: since the episode began.
        counts: see :meth:`Rules.tally`.
    """

    def __init__(
        self, rules: Rules, layouts: tuple[Layout, ...], row: Mapping[str, Values]
    ) -> None:
        self.rules, self._row = rules, row
        self._grid = GridWorld(rules.config())
        self._game = self._grid.game
        self._over = ctypes.c_int32()
        self._sides = [
            _Side(handle, layout, row["obs"])
            for handle, layout in zip(self._grid.get_handles(), layouts, strict=True)
        ]
        agents, actions = row["mask"].shape
        self._every_action = np.zeros((agents, actions), np.bool_)
        for layout in layouts:
            self._every_action[layout.rows, : layout.actions] = True
        self.map = row["state"].reshape(rules.map_size, rules.map_size, -1)
        self._walls = np.zeros_like(self.map)
        self._fallen: NDArray[np.int64] = np.zeros(0, np.int64)
        self.places = np.zeros((agents, 2), np.int64)
        self.health = np.zeros(agents, np.float32)
        self.act = np.full(agents, -1)
        self.steps = 0
        self.counts = np.zeros((2, 2), np.int64)

    @property
    def is_over(self) -> bool:
        """Whether the episode has ended."""
        return bool(self._row["terminated"][0] or self._row["truncated"][0])

    def begin(self, seed: int) -> None:
        """Start an episode, which follows from ``seed``."""
        grid, row = self._grid, self._row
        grid.set_seed(engine_seed(seed))
        grid.reset()
        self.rules.place(grid, seed)
        self._walls[:] = 0.0
        columns, rows = _walls(grid, self.rules.map_size)
        self._walls[columns, rows, 0] = 1.0
        for side in self._sides:
            side.living = side.everybody
            side.alive[:] = True
        self._fallen = self._fallen[:0]
        self.steps, self.act[:], self.counts[:] = 0, -1, 0
        row["obs"][:] = row["rew_agents"][:] = 0.0
        row["alive"][:] = True
        row["mask"][:] = self._every_action
        row["terminated"][0] = row["truncated"][0] = False
        self._read()

    def step(self, act: NDArray[np.int64]) -> None:
        """Play one step of actions (N,), legal ones, those of the dead excepted."""
        row, game = self._row, self._game
        for side in self._sides:
            side.act[: len(side.living)] = act[side.where]
            _LIB.env_set_action(game, side.handle, side.act_at)
        _LIB.env_step(game, ctypes.byref(self._over))
        self.act[:] = act
        self.steps += 1
        row["rew_agents"][:] = 0.0
        if len(self._fallen):
            row["obs"][self._fallen] = 0.0
        for team, side in enumerate(self._sides):
            count, where = len(side.living), side.where
            _LIB.env_get_reward(game, side.handle, side.reward_at)
            _LIB.env_get_info(game, side.handle, b"alive", side.alive_at)
            rewards, alive = side.reward[:count], side.alive[:count]
            row["rew_agents"][where] = rewards
            attacks = side.act[:count] >= side.layout.attack_base
            self.rules.tally(self.counts, team, attacks, rewards, alive)
        self._read()
        _LIB.gridworld_clear_dead(game)
        self._bury()
        over = bool(self._over.value)
        row["terminated"][0] = over
        row["truncated"][0] = not over and self.steps >= self.rules.horizon

    def _read(self) -> None:
        """Write what everybody sees who was not dead before, and the state of the living."""
        obs, game, state = self._row["obs"], self._game, self.map
        state[:] = self._walls
        for team, side in enumerate(self._sides):
            count, where, layout = len(side.living), side.where, side.layout
            straight = side.straight is not None and count == len(side.everybody)
            target = side.straight if straight else side.apart
            _LIB.env_get_observation(game, side.handle, target)
            if not straight:
                obs[where, : layout.view_size] = side.view[:count]
            if layout.feature_size:
                seen = side.features[:count, layout.features]
                obs[where, layout.view_size : layout.obs_size] = seen
            _LIB.env_get_info(game, side.handle, b"pos", side.places_at)
            alive = side.alive[:count]
            self.places[where] = side.places[:count]
            self.health[where] = np.where(alive, obs[where, side.own_health], 0.0)
            columns, rows = side.places[:count][alive].T
            state[columns, rows, 1 + 2 * team] = 1.0
            state[columns, rows, 2 + 2 * team] = self.health[where][alive]

    def _bury(self) -> None:
        """Take those who died in this step from the living; at a game's end, everybody."""
        row, fallen = self._row, []
        for side in self._sides:
            alive = side.alive[: len(side.living)]
            if not alive.all():
                fallen.append(side.living[~alive])
                side.living = side.living[alive]
        self._fallen = np.concatenate(fallen) if fallen else self._fallen[:0]
        if fallen or self._over.value:
            gone = slice(None) if self._over.value else self._fallen
            row["alive"][gone] = False
            row["mask"][gone] = False
            row["mask"][gone, _NO_OP] = True


def _pointer(array: Values) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _addresses(*arrays: Values) -> Any:
    """Return what magent2 takes for several arrays of float32."""
    kind = ctypes.POINTER(ctypes.c_float)
    return (kind * len(arrays))(*(array.ctypes.data_as(kind) for array in arrays))


def _walls(grid: GridWorld, map_size: int) -> NDArray[np.int32]:
    """Return columns and rows of all walls, (2, W); magent2's own call has room for 100 x 100."""
    found = np.zeros((map_size**2 + 1, 2), np.int32)
    _LIB.env_get_info(grid.game, -1, b"walls_info", _pointer(found))
    walls: NDArray[np.int32] = found[1 : 1 + found[0, 0]].T
    return walls
