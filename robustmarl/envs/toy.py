"""The two-state game on which EIR-MAPPO shows what a belief about traitors is worth."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from robustmarl._checks import check, check_choice, check_flag, check_int, speaking_for
from robustmarl.envs._team_game import TeamGame
from robustmarl.joint import check_act, check_seeds, flagged, spec_of
from robustmarl.typing import Array

__all__ = ["ToyDynamics", "ToyEngine", "ToyGame"]

ToyDynamics = Literal["published", "alternating"]

ToyState = tuple[int, int, int, int, int]
"""Steps played, the state, and the last state and what both played in it."""


class ToyGame(TeamGame):
    """Two agents agree in state 0 and differ in state 1: such a success earns 1.

    The toy game of EIR-MAPPO in two variants. As published, a success leads to state 1 and a
    failure to state 0, so that the state tells whether the last step succeeded. In ours, the
    alternating one, a success leads to the other state and a failure changes nothing, so that an
    agent which sees the state alone knows nothing of the past. In both a team that coordinates
    earns 1 a step; if one agent plays against it, matching pennies leave one half. The first
    state is uniform.

    Observations are ``[s, agent, last s, last action of agent 0, of agent 1]``, the last three
    zero at first (which reads as a success); the state is all observations, shape (N, D).

    Args:
        horizon: steps, at which an episode is truncated.
        memoryless: leave the last state and the last joint action out.
        dynamics: ``"published"`` or ``"alternating"``.

    Raises:
        TypeError: if ``horizon`` is not an int.
        ValueError: if ``horizon`` is below 1, or for unknown dynamics.

    Example:
        >>> game = ToyGame()
        >>> obs, _ = game.reset(seed=0)
        >>> obs["agent_0"].tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0]
        >>> game.step({"agent_0": 1, "agent_1": 0})[1]
        {'agent_0': 1.0, 'agent_1': 1.0}
    """

    def __init__(
        self,
        *,
        horizon: int = 100,
        memoryless: bool = False,
        dynamics: ToyDynamics = "published",
    ) -> None:
        horizon = check_int("ToyGame.horizon", horizon, 1)
        memoryless = check_flag("ToyGame.memoryless", memoryless)
        check_choice("ToyGame.dynamics", dynamics, get_args(ToyDynamics))
        self._dynamics: ToyDynamics = dynamics
        self._obs_size = 2 if memoryless else 5
        super().__init__(
            name="eir_toy",
            actions=(2, 2),
            obs_box=Box(0.0, 1.0, (self._obs_size,), np.float32),
            state_space=Box(0.0, 1.0, (2, self._obs_size), np.float32),
            horizon=horizon,
            time_limit=True,
        )
        self._game_state = 0
        self._last = (0, 0, 0)  # the state before, and what both played in it

    def make_engine(self, num_envs: int) -> ToyEngine:
        """Return ``num_envs`` games like this one, stepped together; training uses it."""
        return ToyEngine(
            num_envs,
            horizon=self._horizon,
            memoryless=self._obs_size == 2,
            dynamics=self._dynamics,
        )

    @override
    def state(self) -> Array:
        """Return what each agent observes, shape (2, D)."""
        return self._views()

    def first_states(self) -> dict[ToyState, float]:
        """Return the two first states."""
        return {(0, 0, 0, 0, 0): 0.5, (0, 1, 0, 0, 0): 0.5}

    def shown(self, state: ToyState) -> Array:
        """Return what each agent observes in a state, (2, D)."""
        return self._rows(state[1], state[2:])

    def follow(
        self, state: ToyState, joint: tuple[int, ...]
    ) -> tuple[float, dict[ToyState, float]]:
        """Return the reward, and the next state unless it is over."""
        steps, before = state[0] + 1, state[1]
        success, after = self._moved(before, joint)
        # What is not shown is left out, so that fewer states are told apart.
        last = (before, joint[0], joint[1]) if self._obs_size > 2 else (0, 0, 0)
        return float(success), {(steps, after, *last): 1.0} if steps < self._horizon else {}

    @override
    def _begin(self) -> None:
        self._game_state, self._last = _first_state(self._rng), (0, 0, 0)

    @override
    def _play(self, joint: tuple[int, ...]) -> float:
        self._last = (self._game_state, joint[0], joint[1])
        success, self._game_state = self._moved(self._game_state, joint)
        return float(success)

    def _moved(self, state: int, joint: tuple[int, ...]) -> tuple[bool, int]:
        """Return whether a joint action succeeds in a state, and the next state."""
        success = (joint[0] == joint[1]) == (state == 0)
        # published: 1 after a success, 0 after a failure; alternating: the other state after a
        # success, which from state 1 is just the reverse
        reverse = self._dynamics == "alternating" and state == 1
        return success, int(success != reverse)

    @override
    def _views(self) -> Array:
        return self._rows(self._game_state, self._last)

    def _rows(self, state: int, last: tuple[int, ...]) -> Array:
        """Return observations of both agents in a state, after what came last."""
        rows = [[state, agent, *last] for agent in (0, 1)]
        return np.array(rows, np.float32)[:, : self._obs_size].copy()


class ToyEngine:
    """Many toy games as one batch; a ``robustmarl.joint.VectorEngine``.

    Args:
        num_envs: E, >= 1.
        horizon: steps, at which an episode is truncated.
        memoryless: leave the last state and the last joint action out.
        dynamics: see :class:`ToyGame`.

    Example:
        >>> import torch
        >>> engine = ToyEngine(num_envs=3)
        >>> engine.begin(torch.ones(3, dtype=torch.bool), torch.tensor([0, 1, 2]))
        >>> engine.tensors["obs"].shape
        torch.Size([3, 2, 5])
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        horizon: int = 100,
        memoryless: bool = False,
        dynamics: ToyDynamics = "published",
    ) -> None:
        num_envs = check_int("ToyEngine.num_envs", num_envs, 1)
        with speaking_for(self, ToyGame):
            game = ToyGame(horizon=horizon, memoryless=memoryless, dynamics=dynamics)
        self.spec = spec_of(game)
        self._alternating = dynamics == "alternating"
        self.tensors = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"}
        for key in ("terminated", "truncated"):
            self.tensors[key] = torch.zeros(num_envs, dtype=torch.bool)
        self.tensors["metrics"] = torch.zeros(num_envs, 0)
        self.tensors["mask"][:] = self.tensors["alive"][:] = True
        self.tensors["obs"][:, 1, 1] = self.tensors["state"][:, 1, 1] = 1.0  # agent 1's number
        self._out = {key: tensor.numpy() for key, tensor in self.tensors.items()}
        self._game_state = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._has_memory = not memoryless

    def __len__(self) -> int:
        return len(self._game_state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._out = {key: tensor.numpy() for key, tensor in self.tensors.items()}  # views again

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,), >= 0."""
        rows, out = flagged("ToyEngine.begin.mask", mask, len(self)), self._out
        check_seeds("ToyEngine.begin.seeds", seeds, len(self))
        chosen = seeds.numpy()[rows].tolist()
        self._game_state[rows] = [_first_state(np.random.default_rng(seed)) for seed in chosen]
        self._steps[rows] = 0
        out["rew_agents"][rows] = 0.0
        out["truncated"][rows] = False
        self._show(rows, 0.0)

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, 2).

        Raises:
            TypeError: if ``act`` holds no integers, or ``active`` no flags.
            ValueError: for another shape, or an action out of range.
        """
        rows = flagged("ToyEngine.advance.active", active, len(self))
        check_act("ToyEngine.advance.act", act, self.spec, len(self))
        played = act.numpy()[rows]
        if ((played < 0) | (played > 1)).any():
            check(False, "ToyEngine.advance.act", "indices below 2", played.tolist())
        state = self._game_state[rows]
        success = (played[:, 0] == played[:, 1]) == (state == 0)
        self._game_state[rows] = success != (self._alternating & (state == 1))  # see ToyGame._play
        self._steps[rows] += 1
        self._out["rew_agents"][rows] = success[:, None]
        self._out["truncated"][rows] = self._steps[rows] >= self.spec.horizon
        self._show(rows, np.column_stack([state, played])[:, None])

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def _show(self, rows: NDArray[np.int64], last: NDArray[np.int64] | float) -> None:
        """Write observations; ``last`` is the state before and both actions, (R, 1, 3)."""
        obs = self._out["obs"]
        obs[rows, :, 0] = self._game_state[rows, None]
        if self._has_memory:
            obs[rows, :, 2:] = last
        self._out["state"][rows] = obs[rows]


def _first_state(generator: np.random.Generator) -> int:
    return int(generator.integers(2))
