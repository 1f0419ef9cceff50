"""Many games of magent2's, read per team straight into the joint arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check, check_int, check_kind
from robustmarl.envs._extras import require
from robustmarl.envs.magent.rules import Rules
from robustmarl.envs.magent.stage import MagentStage
from robustmarl.envs.scenes import Stage
from robustmarl.joint import TeamSpec, check_act, check_seeds, flagged

__all__ = ["MagentEngine"]

_CHANNELS = 5  # of the state: walls, and both teams' presence and health


class MagentEngine:
    """E games side by side; a ``VectorEngine`` that the collector can drive.

    Every episode follows from its seed alone. magent2 keeps its games where nobody can copy them:
    a copy of an engine plays each game's actions again.

    Args:
        rules: what is played.
        num_envs: E, >= 1.

    Attributes:
        layouts: what both teams see and do.
        games: of magent2.
        tensors: see ``robustmarl.joint.VectorEngine``.

    Raises:
        ImportError: if magent2 is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: if ``num_envs`` is below 1.
    """

    def __init__(self, rules: Rules, num_envs: int = 1) -> None:
        check_kind("MagentEngine.rules", rules, Rules, "BattleRules or PursuitRules")
        num_envs = check_int("MagentEngine.num_envs", num_envs, 1)
        require("magent2.gridworld", "magent")
        from robustmarl.envs.magent._game import Game, layouts_of

        self.rules = rules
        self.layouts = layouts_of(rules)
        self.spec = TeamSpec(
            agents=tuple(
                f"{layout.name}_{i}"
                for layout, size in zip(self.layouts, rules.sizes, strict=True)
                for i in range(size)
            ),
            teams={
                layout.name: tuple(range(layout.rows.start, layout.rows.stop))
                for layout in self.layouts
            },
            obs_sizes=self._per_agent(*(layout.obs_size for layout in self.layouts)),
            action_sizes=self._per_agent(*(layout.actions for layout in self.layouts)),
            continuous=False,
            state_size=rules.map_size**2 * _CHANNELS,
            state_layout="joint",
            team_reward="sum",
            horizon=rules.horizon,
            metrics=rules.metrics,
        )
        self.tensors = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"} | {
            "terminated": torch.zeros(num_envs, dtype=torch.bool),
            "truncated": torch.zeros(num_envs, dtype=torch.bool),
            "metrics": torch.zeros(num_envs, len(rules.metrics)),
        }
        out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        for key in ("terminated", "truncated"):
            out[key] = out[key][:, None]
        self.games = [
            Game(rules, self.layouts, {key: values[e] for key, values in out.items()})
            for e in range(num_envs)
        ]
        self._metrics = out["metrics"]
        self._action_sizes = np.array(self.spec.action_sizes)
        # what a copy plays again: seeds, and the actions of so many steps
        self._seeds = np.zeros(num_envs, np.int64)
        shape = (num_envs, rules.horizon, self.spec.num_agents)
        self._played = np.zeros(shape, np.uint8)
        for game in self.games:  # magent2 knows no team before somebody is on the map
            game.begin(0)

    def _per_agent(self, first: int, second: int) -> tuple[int, ...]:
        one, other = self.rules.sizes
        return (first,) * one + (second,) * other

    def __len__(self) -> int:
        return len(self.games)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "rules": self.rules,
            "seeds": self._seeds,
            "played": [self._played[e, : game.steps] for e, game in enumerate(self.games)],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        seeds, played = state["seeds"], state["played"]
        self.__init__(state["rules"], len(seeds))  # type: ignore[misc]
        for e, (seed, actions) in enumerate(zip(seeds.tolist(), played, strict=True)):
            self._begin(e, seed)
            for act in actions.astype(np.int64):
                self._step(e, act)

    def stage(self) -> Stage:
        """Return what tells where everybody is in the first game."""
        return MagentStage(self)

    def close(self) -> None:
        """Do nothing: magent2 frees a game with its last reference."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), each from its seed, int64 (E,).

        Raises:
            TypeError: if ``mask`` or ``seeds`` are tensors of another kind.
            ValueError: if one has another shape.
        """
        rows = flagged("MagentEngine.begin.mask", mask, len(self))
        check_seeds("MagentEngine.begin.seeds", seeds, len(self))
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            self._begin(e, seed)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, N).

        Who has died does nothing, whatever its action; an episode that has ended stays as it is.

        Raises:
            TypeError: if ``act`` holds numbers of another kind, or ``active`` no flags.
            ValueError: for another shape, or an action that an agent does not have.
        """
        rows = flagged("MagentEngine.advance.active", active, len(self))
        check_act("MagentEngine.advance.act", act, self.spec, len(self))
        joint = act.numpy()[rows]
        bad = (joint < 0) | (joint >= self._action_sizes)
        if bad.any():
            row, i = np.argwhere(bad)[0].tolist()
            agent, size = self.spec.agents[i], self.spec.action_sizes[i]
            rule = f"an int in [0, {size - 1}] for {agent!r} in environment {rows[row]}"
            check(False, "MagentEngine.advance.act", rule, int(joint[row, i]))
        for e, actions in zip(rows.tolist(), joint, strict=True):
            self._step(e, actions)

    def _begin(self, e: int, seed: int) -> None:
        self._seeds[e] = seed
        self.games[e].begin(seed)

    def _step(self, e: int, act: NDArray[np.int64]) -> None:
        game = self.games[e]
        if game.is_over:
            return
        self._played[e, game.steps] = act
        game.step(act)
        if game.is_over:
            self._metrics[e] = self.rules.figures(game.counts)
