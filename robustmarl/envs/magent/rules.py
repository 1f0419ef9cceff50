"""What is played: who meets whom on which map, what is worth how much, and who wins."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import check, check_int, check_number, flags_of, keep
from robustmarl._seeding import stream_seed
from robustmarl.envs._extras import require

__all__ = ["BattleRules", "PursuitRules", "Rules"]

_KILL_REWARD = 5.0  # what magent2's battle pays, whatever else is set
_TAG_REWARD = 1.0  # what its pursuit pays a predator

_MODULE = "magent2.environments."
_DISTINCT_SEEDS = 2**31 - 2  # magent2's generator has as many states; 0 and 2^31 - 1 are like 1

# magent2's formation: a share of all cells for each side, so many columns between it and the middle
_DENSITY, _GAP, _SPACING = 0.04, 3, 2
# magent2's pursuit: shares of all cells
_WALLS, _PREDATORS, _PREY = 0.03, 0.0125, 0.025
# Predators take four cells and are placed at random, by a process that ends the program where it
# finds no place: at these shares it finds one in a few tries.
_PREDATOR_CELLS, _MOST_PREDATORS, _MOST_TAKEN = 4, 0.25, 0.5


@dataclass(frozen=True, kw_only=True)
class Rules(ABC):
    """A game of two teams in magent2.

    Attributes:
        name: of the game.
        teams: names of the two.
        metrics: names of the episode's figures.
        map_size: edge of the square map, cells, the wall around it included.
        horizon: steps, at which an episode is truncated.
        minimap: whether agents see where on the map everybody and they themselves are.
        extra_features: whether they see their number in binary, their last action and reward.
    """

    name: ClassVar[str]
    teams: ClassVar[tuple[str, str]]
    metrics: ClassVar[tuple[str, ...]]

    map_size: int
    horizon: int = 400
    minimap: bool = False
    extra_features: bool = False

    def _keep(self, lowest: int) -> None:
        name = type(self).__name__
        minimap, extra = flags_of(name, minimap=self.minimap, extra_features=self.extra_features)
        keep(
            self,
            map_size=check_int(f"{name}.map_size", self.map_size, lowest),
            horizon=check_int(f"{name}.horizon", self.horizon, 1),
            minimap=minimap,
            extra_features=extra,
        )

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """How many agents the teams have."""

    @abstractmethod
    def config(self) -> Any:
        """Return magent2's configuration of the game.

        Raises:
            ImportError: if magent2 is not installed.
        """

    @abstractmethod
    def place(self, grid: Any, seed: int) -> None:
        """Put everything on the empty map of ``grid``, a magent2 ``GridWorld``."""

    @abstractmethod
    def reward_range(self, team: int) -> tuple[float, float]:
        """Return bounds of what an agent can earn in one step."""

    @abstractmethod
    def tally(
        self,
        counts: NDArray[np.int64],
        team: int,
        attacks: NDArray[np.bool_],
        rewards: NDArray[np.float32],
        alive: NDArray[np.bool_],
    ) -> None:
        """Add to ``counts``, (2, 2), what the figures are made of.

        Args:
            counts: of this episode so far.
            team: whose step it is, 0 or 1.
            attacks: which of those who lived before the step attacked, (K,).
            rewards: theirs, (K,).
            alive: which of them live after it, (K,).
        """

    @abstractmethod
    def figures(self, counts: NDArray[np.int64]) -> tuple[float, ...]:
        """Return ``metrics`` of an episode that ends with these counts."""


def engine_seed(seed: int) -> int:
    """Return a seed for magent2's own generator."""
    return 1 + stream_seed(seed, "magent2") % _DISTINCT_SEEDS


@dataclass(frozen=True, kw_only=True)
class BattleRules(Rules):
    """Two equal teams, red on the left and blue on the right; see :func:`battle`.

    Args:
        map_size: edge of the map, cells, >= 12.
        horizon: steps, at which an episode is truncated, >= 1.
        minimap: see :func:`battle`.
        extra_features: see :func:`battle`.
        jitter: each agent begins on one of the four cells of its place, drawn from the seed.
        step_reward: for every step.
        attack_penalty: for an attack, whatever it hits.
        attack_opponent_reward: for one that hits an opponent.
        dead_penalty: in place of everything else that the step brought, for dying.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.
    """

    name: ClassVar[str] = "battle"
    teams: ClassVar[tuple[str, str]] = ("red", "blue")
    metrics: ClassVar[tuple[str, ...]] = ("red_won", "blue_won", "tie", "red_kills", "blue_kills")

    jitter: bool = True
    step_reward: float = -0.005
    attack_penalty: float = -0.1
    attack_opponent_reward: float = 0.2
    dead_penalty: float = -0.1

    def __post_init__(self) -> None:
        self._keep(12)
        (jitter,) = flags_of("BattleRules", jitter=self.jitter)
        rewards = {
            key: check_number(f"BattleRules.{key}", value, unit="reward")
            for key, value in self._rewards.items()
        }
        keep(self, jitter=jitter, **rewards)

    @property
    def _rewards(self) -> dict[str, float]:
        return {
            "step_reward": self.step_reward,
            "dead_penalty": self.dead_penalty,
            "attack_penalty": self.attack_penalty,
            "attack_opponent_reward": self.attack_opponent_reward,
        }

    @property
    @override
    def sizes(self) -> tuple[int, int]:
        return len(self.formation(0)), len(self.formation(1))

    @override
    def config(self) -> Any:
        module = require(f"{_MODULE}battle.battle", "magent")
        return module.get_config(
            map_size=self.map_size, minimap_mode=self.minimap, seed=None, **self._rewards
        )

    def formation(self, team: int) -> NDArray[np.int32]:
        """Return where a team's agents stand in magent2's formation, (n, 2): column, row.

        Args:
            team: 0 is red, 1 blue.
        """
        middle = self.map_size // 2
        edge = _SPACING * int(math.sqrt(self.map_size**2 * _DENSITY))
        left = (middle - _GAP - edge, middle + _GAP)[team]
        top = (self.map_size - edge) // 2
        inside = range(1, self.map_size - 1)
        columns = [x for x in range(left, left + edge, _SPACING) if x in inside]
        rows = [y for y in range(top, top + edge, _SPACING) if y in inside]
        places = [(x, y) for x in columns for y in rows]
        # where the map cuts a column off on one side only, blue goes without as many
        return np.array(places if team == 0 else places[: len(self.formation(0))], np.int32)

    @override
    def place(self, grid: Any, seed: int) -> None:
        rng = np.random.Generator(np.random.PCG64(stream_seed(seed, "formation")))
        for team, handle in enumerate(grid.get_handles()):
            places = self.formation(team)
            if self.jitter:
                moved = rng.integers(0, 2, places.shape, np.int32)
                moved[:, 0] *= 1 - 2 * team  # towards the other team
                places = places + moved
            grid.add_agents(handle, method="custom", pos=places)

    @override
    def reward_range(self, team: int) -> tuple[float, float]:
        values = list(self._rewards.values())
        most = _KILL_REWARD + sum(max(value, 0.0) for value in values)
        return sum(min(value, 0.0) for value in values), most

    @override
    def tally(
        self,
        counts: NDArray[np.int64],
        team: int,
        attacks: NDArray[np.bool_],
        rewards: NDArray[np.float32],
        alive: NDArray[np.bool_],
    ) -> None:
        # nobody dies here but by an opponent's blow
        counts[1 - team, 0] += len(alive) - np.count_nonzero(alive)

    @override
    def figures(self, counts: NDArray[np.int64]) -> tuple[float, ...]:
        red, blue = counts[:, 0].tolist()
        return float(red > blue), float(blue > red), float(red == blue), float(red), float(blue)


@dataclass(frozen=True, kw_only=True)
class PursuitRules(Rules):
    """Predators tag prey, and nobody dies; see :func:`pursuit`.

    Args:
        map_size: edge of the map, cells, >= 7.
        horizon: steps, at which an episode is truncated, >= 1.
        minimap: see :func:`battle`.
        extra_features: see :func:`battle`.
        predators: their number, >= 1; None is magent2's share of the cells, 1 in 80.
        prey: their number, >= 1; None is magent2's share, 1 in 40.
        tag_penalty: what a predator gets for a tag, whatever it hits.
        prey_penalty: what a prey gets for each tag that hits it.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range, or more agents than find a place.
    """

    name: ClassVar[str] = "pursuit"
    teams: ClassVar[tuple[str, str]] = ("predator", "prey")
    metrics: ClassVar[tuple[str, ...]] = ("tags", "misses")

    predators: int | None = None
    prey: int | None = None
    tag_penalty: float = -0.2
    prey_penalty: float = -1.0

    def __post_init__(self) -> None:
        self._keep(7)
        for key, share in (("predators", _PREDATORS), ("prey", _PREY)):
            number = getattr(self, key)
            number = max(int(self.map_size**2 * share), 1) if number is None else number
            keep(self, **{key: check_int(f"PursuitRules.{key}", number, 1)})
        for key in ("tag_penalty", "prey_penalty"):
            value = check_number(f"PursuitRules.{key}", getattr(self, key), unit="reward")
            keep(self, **{key: value})
        cells = (self.map_size - 2) ** 2
        predators, prey = self.sizes
        most = int(_MOST_PREDATORS * cells) // _PREDATOR_CELLS
        rule, remedy = "on a map of this size an int in [1, {}]", "Or pass a larger map_size."
        check(predators <= most, "PursuitRules.predators", rule.format(most), predators, remedy)
        most = int(_MOST_TAKEN * cells) - self.walls - _PREDATOR_CELLS * predators
        check(prey <= most, "PursuitRules.prey", rule.format(most), prey, remedy)

    @property
    @override
    def sizes(self) -> tuple[int, int]:
        assert self.predators is not None  # set by __post_init__
        assert self.prey is not None
        return self.predators, self.prey

    @property
    def walls(self) -> int:
        """How many cells inside are walls: magent2's share."""
        return int(self.map_size**2 * _WALLS)

    @override
    def config(self) -> Any:
        module = require(f"{_MODULE}adversarial_pursuit.adversarial_pursuit", "magent")
        config = module.get_config(
            map_size=self.map_size,
            minimap_mode=self.minimap,
            seed=None,
            tag_penalty=self.tag_penalty,
        )
        (rule,) = config.reward_rules  # [event, receivers, values, ends the game]
        rule[2] = [_TAG_REWARD, self.prey_penalty]
        return config

    @override
    def place(self, grid: Any, seed: int) -> None:
        grid.add_walls(method="random", n=self.walls)
        for handle, number in zip(grid.get_handles(), self.sizes, strict=True):
            grid.add_agents(handle, method="random", n=number)

    @override
    def reward_range(self, team: int) -> tuple[float, float]:
        if team == 0:
            return min(self.tag_penalty, 0.0), _TAG_REWARD + max(self.tag_penalty, 0.0)
        most = self.sizes[0] * self.prey_penalty  # all predators tag the same one
        return min(most, 0.0), max(most, 0.0)

    @override
    def tally(
        self,
        counts: NDArray[np.int64],
        team: int,
        attacks: NDArray[np.bool_],
        rewards: NDArray[np.float32],
        alive: NDArray[np.bool_],
    ) -> None:
        if team == 0:
            hit = attacks & (rewards > self.tag_penalty + _TAG_REWARD / 2)
            counts[0] += np.count_nonzero(hit), np.count_nonzero(attacks)

    @override
    def figures(self, counts: NDArray[np.int64]) -> tuple[float, ...]:
        tags, attempts = counts[0].tolist()
        return float(tags), float(attempts - tags)
