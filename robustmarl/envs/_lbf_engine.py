"""lbforaging's own game with cheaper observations; importing this needs lbforaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import gymnasium
import numpy as np
from lbforaging.foraging.environment import Action, ForagingEnv, Player
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import check_seed
from robustmarl.typing import Array

__all__ = ["Engine", "IndexedPlayer"]

Told: TypeAlias = tuple[Array, list[float], bool, bool, dict[str, object]]
"""What gymnasium's ``step`` returns, for all players together."""

_ACTIONS = list(Action)
_MOVES = {
    Action.NORTH: (-1, 0),
    Action.SOUTH: (1, 0),
    Action.WEST: (0, -1),
    Action.EAST: (0, 1),
}
# What a player may do, by five bits: whether north, south, west and east are free, from the lowest
# bit up, and whether food is beside it. Doing nothing is always allowed.
_AVAILABLE = np.array(
    [[True] + [bool(code >> bit & 1) for bit in range(5)] for code in range(32)], np.int8
)
_VALID = [[a for a, good in zip(_ACTIONS, row, strict=True) if good] for row in _AVAILABLE]


class IndexedPlayer(Player):
    """A player whose hash is its number: sets of players are walked in the same order always."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def __hash__(self) -> int:
        return self.index

    def __eq__(self, other: object) -> bool:
        return self is other


class Engine(ForagingEnv):
    """The game of lbforaging 2.0; only what the players see is computed otherwise.

    A game that would begin without food, which lbforaging counts as won, is drawn again.

    Args:
        share_cells: collisions are those of EIR-MAPPO's code [Li2024]_: of the players that would
            enter one cell the first does, whoever is there already, and the others stay.
        settings: of ``ForagingEnv``.

    Attributes:
        silent: True to work out nothing of what players see and may do: games are only drawn.
        mask: available actions, int8 (players, 6), of the present state.
    """

    def __init__(self, *, share_cells: bool = False, **settings: object) -> None:
        super().__init__(**settings)
        self.share_cells, self.silent = share_cells, False
        self.players: list[IndexedPlayer] = [IndexedPlayer(i) for i in range(self.n_agents)]

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Array, dict[str, object]]:
        told = self._placed(seed, options)
        while not self.field.any():
            told = self._placed(None, options)  # goes on with the same random numbers
        return told

    def _placed(
        self, seed: int | None, options: dict[str, object] | None
    ) -> tuple[Array, dict[str, object]]:
        """Return what lbforaging's reset does; it may find no place for food."""
        for player in self.players:  # else the last episode's positions block new ones
            player.position = None
        seed = None if seed is None else check_seed("reset.seed", seed)
        return super().reset(seed=seed, options=options)

    @override
    def step(self, actions: Sequence[int]) -> Told:
        if not self.share_cells:
            return super().step(actions)
        taken: set[tuple[int, int]] = set()
        played = []
        for player, number in zip(self.players, actions, strict=True):
            action = _ACTIONS[number]
            if action not in self._valid_actions[player]:
                action = Action.NONE
            if action in _MOVES:  # done here; to lbforaging, who moved stands still
                row, col = player.position
                down, right = _MOVES[action]
                if (cell := (row + down, col + right)) not in taken:
                    player.position = cell
                    taken.add(cell)
                action = Action.NONE
            played.append(action.value)
        return super().step(played)

    @override
    def _get_observation_space(self) -> gymnasium.spaces.Box:
        """Return a flat box; lbforaging 2.0 fails here for grid observations."""
        highest_level = max(self.max_player_level)
        if self.max_food_level is not None:
            highest_food = max(self.max_food_level)
        else:  # lbforaging's rule: what the three weakest players can load together
            highest_food = sum(sorted(self.max_player_level)[:3])
        if self._grid_observation:
            cells = (1 + 2 * self.sight) ** 2
            high = [highest_level if self._observe_agent_levels else 1] * cells
            high += [highest_food] * cells + [1] * cells
            low = [0] * len(high)
        else:
            edge = [self.field.shape[1] - 1, self.field.shape[0] - 1]
            if self.field.shape[0] != self.field.shape[1]:  # rows come first in observations
                edge = [max(edge)] * 2
            level, no_level = ([highest_level], [0]) if self._observe_agent_levels else ([], [])
            n = len(self.players)
            high = [*edge, highest_food] * self.max_num_food + [*edge, *level] * n
            low = [-1, -1, 0] * self.max_num_food + [-1, -1, *no_level] * n
        bounds = np.array(low, np.float32), np.array(high, np.float32)
        return gymnasium.spaces.Box(*bounds, dtype=np.float32)

    @override
    def _gen_valid_moves(self) -> None:
        if self.silent:
            return
        field = self.field.tolist()  # food levels; 0 is free
        last_row, last_col = len(field) - 1, len(field[0]) - 1
        codes = []
        for player in self.players:
            row, col = player.position
            up = field[row - 1][col] if row > 0 else None
            down = field[row + 1][col] if row < last_row else None
            left = field[row][col - 1] if col > 0 else None
            right = field[row][col + 1] if col < last_col else None
            # a wall (None) neither lets pass nor feeds
            code = (up == 0) | (down == 0) << 1 | (left == 0) << 2 | (right == 0) << 3
            codes.append(code | bool(up or down or left or right) << 4)
        self._valid_actions = {
            player: _VALID[code] for player, code in zip(self.players, codes, strict=True)
        }
        self.mask: NDArray[np.int8] = _AVAILABLE[codes]

    @override
    def _make_gym_obs(self) -> Array:
        if self.silent:
            return np.zeros(0, np.float32)
        return self._grids() if self._grid_observation else self._vectors()

    def _vectors(self) -> Array:
        """Return observations as coordinates, (players, D); from the corner of what one sees.

        Food in sight, then the player itself, then the others; what is not seen comes last in
        its group, as -1, -1 and level 0.
        """
        sight, span = self.sight, 2 * self.sight
        food_rows, food_cols = self.field.nonzero()
        food_levels = self.field[food_rows, food_cols].tolist()
        foods = list(zip(food_rows.tolist(), food_cols.tolist(), food_levels, strict=True))
        with_levels = self._observe_agent_levels
        unseen_player = [-1, -1, 0] if with_levels else [-1, -1]
        players = [(player, *player.position, player.level) for player in self.players]
        values: list[float] = []  # plain ints: cheaper one by one than arrays this small
        for player, row, col, own_level in players:
            top, left = max(row - sight, 0), max(col - sight, 0)
            bottom, right = row + sight, col + sight
            foods_seen = 0
            for food_row, food_col, level in foods:
                if top <= food_row <= bottom and left <= food_col <= right:
                    values += (food_row - top, food_col - left, level)
                    foods_seen += 1
            values += [-1, -1, 0] * (self.max_num_food - foods_seen)
            values += (row - top, col - left)
            if with_levels:
                values.append(own_level)
            unseen = 0
            for other, other_row, other_col, level in players:
                if other is player:
                    continue
                down, across = other_row - top, other_col - left
                # lbforaging measures from the corner here: at an edge that is farther than sight
                if 0 <= down <= span and 0 <= across <= span:
                    values += (down, across, level) if with_levels else (down, across)
                else:
                    unseen += 1
            values += unseen_player * unseen
        return np.array(values, np.float32).reshape(len(players), -1)

    def _grids(self) -> Array:
        """Return observations as three layers around each player, flat, (players, D)."""
        sight, (rows, cols) = self.sight, self.field.shape
        layers = np.zeros((3, rows + 2 * sight, cols + 2 * sight), np.float32)
        agents, foods, access = layers[:, sight : sight + rows, sight : sight + cols]
        foods[:] = self.field
        access[:] = self.field == 0
        for player in self.players:
            agents[player.position] = player.level if self._observe_agent_levels else 1
            access[player.position] = 0.0
        span = 2 * sight + 1
        return np.stack(
            [
                layers[:, row : row + span, col : col + span].reshape(-1)
                for row, col in (player.position for player in self.players)
            ]
        )

    @override
    def spawn_players(self, min_player_levels: object, max_player_levels: object) -> None:
        super().spawn_players(min_player_levels, max_player_levels)
        for player in self.players:  # plain ints are several times cheaper to compute with
            row, col = player.position
            player.position, player.level = (int(row), int(col)), int(player.level)
