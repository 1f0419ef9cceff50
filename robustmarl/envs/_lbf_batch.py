"""Many of lbforaging's games at once, stepped by compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_int
from robustmarl.envs._lbf_stage import ForagingStage
from robustmarl.envs.scenes import Stage
from robustmarl.joint import TeamSpec, check_act, check_seeds, flagged

if TYPE_CHECKING:  # importing it needs lbforaging
    from robustmarl.envs._lbf_engine import Engine

__all__ = ["ForagingEngine"]

Kernel: TypeAlias = Any
"""The module that numba compiles: what it does to functions has no type."""


class ForagingEngine:
    """E games of level-based foraging, stepped together; a ``VectorEngine``.

    Every episode follows from its seed alone, and equals that of the game it is made from, bit for
    bit: lbforaging draws how it begins, and its rules are compiled.

    Args:
        game: lbforaging's, of which it plays copies; it is reset in passing.
        spec: of the environment.
        num_envs: E, >= 1.
        masked: whether masks say what does something; else everything is available.

    Attributes:
        tensors: see ``robustmarl.joint.VectorEngine``.
        field: levels of food, int64 (E, rows, columns).
        place: of players, row and column, int64 (E, N, 2).
    """

    def __init__(self, game: Engine, spec: TeamSpec, num_envs: int, *, masked: bool) -> None:
        num_envs = check_int("ForagingEngine.num_envs", num_envs, 1)
        self.spec, self._game, self._masked = spec, game, masked
        players = spec.num_agents
        self.field = np.zeros((num_envs, *game.field.shape), np.int64)
        self.place = np.zeros((num_envs, players, 2), np.int64)
        self._level = np.ones((num_envs, players), np.int64)
        self._spawned, self._steps = np.ones((2, num_envs), np.int64)
        self.tensors = {k: v for k, v in spec.empty(num_envs).items() if k != "act"} | {
            "terminated": torch.zeros(num_envs, dtype=torch.bool),
            "truncated": torch.zeros(num_envs, dtype=torch.bool),
            "metrics": torch.zeros(num_envs, len(spec.metrics)),
        }
        self._prepare()
        self.begin(torch.ones(num_envs, dtype=torch.bool), torch.arange(num_envs))

    def __len__(self) -> int:
        return len(self.field)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_kernel", "_games")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._prepare()

    def _prepare(self) -> None:
        """Lay out what compiled code works on, which shares the tensors' memory."""
        # imported here, where it is needed: that compiles it
        self._kernel: Kernel = import_module("robustmarl.envs._lbf_kernel")
        game, players = self._game, self.spec.num_agents
        rules = np.zeros((), self._kernel.RULES)
        told = {
            "sight": game.sight,
            "horizon": game._max_episode_steps,
            "foods": game.max_num_food,
            "penalty": game.penalty,
            "normalize": game._normalize_reward,
            "levels": game._observe_agent_levels,
            "grid": game._grid_observation,
            "share": game.share_cells,
            "masked": self._masked,
        }
        for name, value in told.items():
            rules[name] = value
        out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        self._games = self._kernel.Games(
            rules=rules[()],
            field=self.field,
            place=self.place,
            level=self._level,
            spawned=self._spawned,
            steps=self._steps,
            obs=out["obs"],
            state=out["state"],
            mask=out["mask"],
            alive=out["alive"],
            reward=out["rew_agents"],
            success=out["metrics"],
            terminated=out["terminated"],
            truncated=out["truncated"],
            target=np.zeros((players, 2), np.int64),
            loading=np.zeros(players, np.bool_),
            gain=np.zeros(players),
        )

    def stage(self) -> Stage:
        """Return what tells where players and food are in the first game."""
        return ForagingStage(_First(self), self.spec.agents)

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,), >= 0."""
        rows = flagged("ForagingEngine.begin.mask", mask, len(self))
        check_seeds("ForagingEngine.begin.seeds", seeds, len(self))
        game = self._game
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            game.reset(seed=seed)
            self.field[e] = game.field
            self.place[e] = [player.position for player in game.players]
            self._level[e] = [player.level for player in game.players]
            self._spawned[e] = game.field.sum()
        self._kernel.show(rows, self._games)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the games that are ``active``, bool (E,), with ``act``, int64 (E, N).

        Raises:
            TypeError: if ``act`` holds numbers of another kind, or ``active`` no flags.
            ValueError: for another shape, or an action out of range.
        """
        rows = flagged("ForagingEngine.advance.active", active, len(self))
        check_act("ForagingEngine.advance.act", act, self.spec, len(self))
        joint = act.numpy()
        played = joint[rows]
        if len(rows) and (played.min() < 0 or played.max() >= self.spec.num_actions):
            rule = f"indices below {self.spec.num_actions}"
            check(False, "ForagingEngine.advance.act", rule, played.tolist())
        self._kernel.advance(rows, np.ascontiguousarray(joint, np.int64), self._games)


@dataclass
class _Player:
    position: tuple[int, int]
    level: int


class _First:
    """The first game, as lbforaging's own shows itself."""

    def __init__(self, engine: ForagingEngine) -> None:
        self._engine, game = engine, engine._game
        self.sight, self.max_num_food = game.sight, game.max_num_food
        self._grid_observation = game._grid_observation
        self._observe_agent_levels = game._observe_agent_levels

    @property
    def field(self) -> NDArray[np.int64]:
        return self._engine.field[0]

    @property
    def players(self) -> list[_Player]:
        places, levels = self._engine.place[0].tolist(), self._engine._level[0].tolist()
        return [
            _Player((row, col), level) for (row, col), level in zip(places, levels, strict=True)
        ]
