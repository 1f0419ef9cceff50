"""The two-state game on which EIR-MAPPO shows what a belief about traitors is worth."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box
from typing_extensions import override

from robustmarl._checks import check_int
from robustmarl.envs._team_game import TeamGame
from robustmarl.typing import Array

__all__ = ["ToyGame"]


class ToyGame(TeamGame):
    """Two agents agree in state 0, differ in state 1; success earns 1 and changes the state.

    The toy game of EIR-MAPPO: in state 0 equal actions earn 1 and lead to state 1, in state 1
    unequal actions earn 1 and lead to state 0; otherwise nothing happens. The first state is
    uniform. A team that coordinates earns 1 a step; if one agent plays against it, matching
    pennies leave one half.

    Observations are ``[s, agent, last s, last action of agent 0, of agent 1]``, the last three
    zero at first (which reads as a success); the state is all observations, shape (N, D).

    Args:
        horizon: steps, at which an episode is truncated.
        memoryless: leave the last state and the last joint action out.

    Raises:
        TypeError: if ``horizon`` is not an int.
        ValueError: if ``horizon`` is below 1.
    """

    def __init__(self, *, horizon: int = 100, memoryless: bool = False) -> None:
        check_int("ToyGame.horizon", horizon, 1)
        self._size = 2 if memoryless else 5
        super().__init__(
            name="eir_toy",
            actions=(2, 2),
            obs_box=Box(0.0, 1.0, (self._size,), np.float32),
            state_space=Box(0.0, 1.0, (2, self._size), np.float32),
            horizon=horizon,
            time_limit=True,
        )
        self._at = 0
        self._last = (0, 0, 0)

    @override
    def state(self) -> Array:
        """Return what each agent observes, shape (2, D)."""
        return self._views()

    @override
    def _begin(self) -> None:
        self._at, self._last = int(self._rng.integers(2)), (0, 0, 0)

    @override
    def _play(self, joint: tuple[int, ...]) -> float:
        first, second = joint
        success = (first == second) == (self._at == 0)
        self._last = (self._at, first, second)
        if success:
            self._at = 1 - self._at
        return float(success)

    @override
    def _views(self) -> Array:
        rows = [[self._at, agent, *self._last] for agent in (0, 1)]
        return np.array(rows, np.float32)[:, : self._size].copy()
