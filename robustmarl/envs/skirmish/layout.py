"""Where each feature lies in SMAC's observations, states and actions."""

from __future__ import annotations

import numpy as np

from robustmarl.envs.skirmish.maps import SkirmishMap
from robustmarl.envs.skirmish.rules import FULL_ENERGY, KILL, TICKS_PER_SECOND, WIN
from robustmarl.typing import Array

__all__ = ["ATTACK", "EAST", "NORTH", "NO_OP", "SOUTH", "STOP", "WEST", "Layout"]

# Actions: ATTACK + j is on target j, an enemy, or an ally if a healer's.
NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)

_MOVES = 4  # north, south, east, west
_OTHER = 5  # of another unit: can attack (an ally: visible), distance, x, y, health
_STATE_ALLY = 4  # health, cooldown, x, y
_STATE_ENEMY = 3  # health, x, y


class Layout:
    """Sizes of the arrays of a map, and what is constant in them.

    An observation holds four move masks, then per enemy ``[can attack, distance, x, y, health,
    (shield), (type)]``, per other ally ``[visible, distance, x, y, health, (shield), (type)]``
    and of the agent itself ``[health, (shield), (type)]``. The state holds per ally ``[health,
    cooldown, x, y, (shield), (type)]``, per enemy ``[health, x, y, (shield), (type)]`` and the
    last actions, one-hot. Shields are there if that side has any, types if a side mixes them.

    Args:
        game: the map.

    Attributes:
        units: the U = N + M units, allies before enemies.
        n: N, the number of allies, who are the agents.
        m: M, the number of enemies.
        healers: numbers of the allies that heal.
        types: length of a one-hot type, 0 where no side mixes types.
        shield: 1 if any unit has a shield, else 0; ``ally_shield`` and ``enemy_shield`` by side.
        num_actions: six that need no target, and one per target.
        enemy_size: features of an enemy in an observation; ``ally_size`` of another ally.
        obs_enemies: their part of an observation, as are ``obs_moves``, ``obs_allies`` and
            ``obs_itself``.
        state_allies: their part of a state, as are ``state_enemies`` and ``state_acts``.
        max_reward: what a victory without a scratch earns before scaling.
    """

    def __init__(self, game: SkirmishMap) -> None:
        self.game = game
        self.allies, self.enemies = game.ally_units, game.enemy_units
        self.units = self.allies + self.enemies
        self.n, self.m = len(self.allies), len(self.enemies)
        self.healers = tuple(i for i, unit in enumerate(self.allies) if unit.heal)
        self.types = len(game.ally_types)
        self.ally_shield, self.enemy_shield = (int(some) for some in game.shields)
        self.shield = max(self.ally_shield, self.enemy_shield)
        targets = max(self.m, self.n) if self.healers else self.m  # healers' are allies
        self.num_actions = ATTACK + targets

        self.enemy_size = _OTHER + self.enemy_shield + self.types
        self.ally_size = _OTHER + self.ally_shield + self.types
        itself_size = 1 + self.ally_shield + self.types
        sizes = (_MOVES, self.m * self.enemy_size, (self.n - 1) * self.ally_size, itself_size)
        self.obs_moves, self.obs_enemies, self.obs_allies, self.obs_itself = _parts(sizes)
        self.obs_size = sum(sizes)

        self.state_ally_size = _STATE_ALLY + self.ally_shield + self.types
        self.state_enemy_size = _STATE_ENEMY + self.enemy_shield + self.types
        sizes_of_state = (
            self.n * self.state_ally_size,
            self.m * self.state_enemy_size,
            self.n * self.num_actions,
        )
        self.state_allies, self.state_enemies, self.state_acts = _parts(sizes_of_state)
        self.state_size = sum(sizes_of_state)

        points = sum(unit.health + unit.shield for unit in self.enemies)
        self.max_reward = KILL * self.m + WIN + points

    @property
    def max_state(self) -> float:
        """The highest value in a state: 1, or more where a wait or energy exceeds its divisor."""
        most = [FULL_ENERGY if u.heal else u.cooldown * TICKS_PER_SECOND for u in self.allies]
        shown = (x / unit.max_cooldown for x, unit in zip(most, self.allies, strict=True))
        return max(1.0, *shown)

    def feature_names(self) -> list[str]:
        """Return what each coordinate of an observation is, (D,); allies are the others."""
        kinds = [f"type {kind}" for kind in range(self.types)]

        def of(unit: str, first: str, shield: int) -> list[str]:
            shields = ["shield"] * shield
            named = [first, "distance", "x", "y", "health", *shields, *kinds]
            return [f"{unit} {name}" for name in named]

        itself = ["health", *["shield"] * self.ally_shield, *kinds]
        return [
            *(f"can walk {way}" for way in ("north", "south", "east", "west")),
            *(n for j in range(self.m) for n in of(f"enemy {j}", "in range", self.enemy_shield)),
            *(n for j in range(self.n - 1) for n in of(f"ally {j}", "visible", self.ally_shield)),
            *(f"own {name}" for name in itself),
        ]

    def one_hot_types(self) -> Array:
        """Return (types, U): the enemies' order may differ from the allies'."""
        ally_types = self.game.ally_types
        enemy_types = self.game.enemy_types or ally_types
        one_hot = np.zeros((self.types, self.n + self.m), np.float32)
        for i, unit in enumerate(self.units if self.types else ()):
            one_hot[(ally_types if i < self.n else enemy_types).index(unit.name), i] = 1.0
        return one_hot


def _parts(sizes: tuple[int, ...]) -> list[slice]:
    """Return adjacent slices of these sizes."""
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
