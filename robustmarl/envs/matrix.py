"""Games whose every state and joint action can be listed: exact answers for tests."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from robustmarl._checks import check, check_int, check_number, check_text, sizes_of, speaking_for
from robustmarl.envs._team_game import TeamGame
from robustmarl.typing import Array

__all__ = ["MatrixGame", "SignalMatching", "TwoStepGame", "climbing"]


class MatrixGame(TeamGame):
    """A repeated matrix game of a team.

    Every agent earns ``payoff[a_1, ..., a_N]`` and observes its own number, one-hot. The game is
    over after ``steps`` steps: a termination, because nothing would follow.

    Args:
        payoff: team rewards, shape (A_1, ..., A_N), finite.
        steps: rounds in an episode, >= 1.
        name: what ``metadata["name"]`` says.

    Raises:
        TypeError: if ``steps`` is not an int.
        ValueError: if ``payoff`` is empty or not finite, or ``steps`` below 1.

    Example:
        >>> game = MatrixGame([[1.0, 0.0], [0.0, 2.0]])
        >>> _ = game.reset(seed=0)
        >>> game.step({"agent_0": 1, "agent_1": 1})[1]
        {'agent_0': 2.0, 'agent_1': 2.0}
    """

    def __init__(self, payoff: ArrayLike, *, steps: int = 1, name: str = "matrix") -> None:
        rule = "finite numbers, with one axis per agent"
        try:
            table = np.array(payoff, np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"MatrixGame.payoff must be {rule}, got {payoff!r}.") from None
        good = table.ndim >= 1 and table.size > 0 and bool(np.isfinite(table).all())
        check(good, "MatrixGame.payoff", rule, payoff)
        steps, name = check_int("MatrixGame.steps", steps, 1), check_text("MatrixGame.name", name)
        super().__init__(
            name=name,
            actions=table.shape,
            obs_box=_unit_box(table.ndim),
            state_space=_unit_box(1),
            horizon=steps,
            time_limit=False,
        )
        self.payoff: NDArray[np.float64] = table

    @override
    def state(self) -> Array:
        """Return the only state, [1.0]."""
        return np.ones(1, np.float32)

    def first_states(self) -> dict[int, float]:
        """Return the only first state: no step was played."""
        return {0: 1.0}

    def shown(self, state: int) -> Array:
        """Return what each agent observes after so many steps, (N, N)."""
        return self._views()

    def follow(self, state: int, joint: tuple[int, ...]) -> tuple[float, dict[int, float]]:
        """Return the reward, and the next state unless it is over."""
        after = state + 1
        return float(self.payoff[joint]), {after: 1.0} if after < self._horizon else {}

    @override
    def _begin(self) -> None:
        pass

    @override
    def _play(self, joint: tuple[int, ...]) -> float:
        return float(self.payoff[joint])

    @override
    def _views(self) -> Array:
        return np.eye(self.payoff.ndim, dtype=np.float32)


def climbing(*, steps: int = 1) -> MatrixGame:
    """Return the climbing game, whose optimum (11, at (0, 0)) is dangerous to look for.

    Whoever plays its action 0 alone costs the team 30. Payoffs are those of Claus and Boutilier
    (1998).

    Example:
        >>> game = climbing()
        >>> _ = game.reset(seed=0)
        >>> game.step({"agent_0": 0, "agent_1": 1})[1]
        {'agent_0': -30.0, 'agent_1': -30.0}
    """
    payoff = [[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]]
    with speaking_for("climbing", MatrixGame):
        return MatrixGame(payoff, steps=steps, name="climbing")


class TwoStepGame(TeamGame):
    """The two-step game of QMIX: the first agent chooses which matrix is played next.

    Its action 0 leads to a matrix of 7s, action 1 to ``[[0, 1], [1, 8]]``; the first step earns
    nothing. Agents observe the state, one-hot of three. The optimal return is 8; a sum of the
    agents' values finds 7 only.

    Attributes:
        payoffs: rewards in each state, shape (3, 2, 2).

    Example:
        >>> game = TwoStepGame()
        >>> _ = game.reset(seed=0)
        >>> _ = game.step({"agent_0": 1, "agent_1": 0})  # to the second matrix
        >>> game.step({"agent_0": 1, "agent_1": 1})[1]
        {'agent_0': 8.0, 'agent_1': 8.0}
    """

    payoffs: NDArray[np.float64] = np.array(
        [[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]], np.float64
    )

    def __init__(self) -> None:
        super().__init__(
            name="two_step",
            actions=(2, 2),
            obs_box=_unit_box(3),
            state_space=_unit_box(3),
            horizon=2,
            time_limit=False,
        )
        self._game_state = 0

    @override
    def state(self) -> Array:
        """Return the state, one-hot, shape (3,)."""
        return np.eye(3, dtype=np.float32)[self._game_state]

    def first_states(self) -> dict[int, float]:
        """Return the only first state, 0."""
        return {0: 1.0}

    def shown(self, state: int) -> Array:
        """Return what each agent observes in a state, (2, 3)."""
        return np.tile(np.eye(3, dtype=np.float32)[state], (2, 1))

    def follow(self, state: int, joint: tuple[int, ...]) -> tuple[float, dict[int, float]]:
        """Return the reward, and the state that the first agent chose if it is the first step."""
        return float(self.payoffs[state][joint]), {1 + joint[0]: 1.0} if state == 0 else {}

    @override
    def _begin(self) -> None:
        self._game_state = 0

    @override
    def _play(self, joint: tuple[int, ...]) -> float:
        reward = float(self.payoffs[self._game_state][joint])
        if self._steps == 0:  # the first agent has chosen; after the second step it is over
            self._game_state = 1 + joint[0]
        return reward

    @override
    def _views(self) -> Array:
        return np.tile(self.state(), (2, 1))


class SignalMatching(TeamGame):
    """Every agent shall play the context that all of them see: made to be attacked.

    In each step a context c in {0, 1} is drawn and shown one-hot, each coordinate with noise of
    its own, uniform in ``[-noise, noise]``. All agents earn 1 if all play c, else 0. Without
    noise an observation attack of l-infinity size 0.5 hides the context and a larger one inverts
    it. Episodes are truncated.

    Args:
        agents: N, >= 1.
        noise: half width of the noise, observation units, >= 0.
        horizon: steps.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> game = SignalMatching(agents=2)
        >>> obs, _ = game.reset(seed=0)
        >>> game.step({agent: int(seen.argmax()) for agent, seen in obs.items()})[1]
        {'agent_0': 1.0, 'agent_1': 1.0}
    """

    def __init__(self, agents: int = 2, *, noise: float = 0.0, horizon: int = 10) -> None:
        agents, horizon = sizes_of("SignalMatching", agents=agents, horizon=horizon)
        self._noise = check_number("SignalMatching.noise", noise, 0.0)
        super().__init__(
            name="signal_matching",
            actions=(2,) * agents,
            obs_box=_unit_box(2, margin=self._noise),
            state_space=_unit_box(2),
            horizon=horizon,
            time_limit=True,
        )
        self.context = 0

    @override
    def state(self) -> Array:
        """Return the context without noise, shape (2,)."""
        return np.eye(2, dtype=np.float32)[self.context]

    def first_states(self) -> dict[tuple[int, int], float]:
        """Return the first states, (steps played, context): without noise they are listed."""
        rule, remedy = "0 for states to be listed", "Write SignalMatching(noise=0.0)."
        check(self._noise == 0.0, "SignalMatching.noise", rule, self._noise, remedy)
        return {(0, 0): 0.5, (0, 1): 0.5}

    def shown(self, state: tuple[int, int]) -> Array:
        """Return what each agent observes in a state, (N, 2)."""
        return np.tile(np.eye(2, dtype=np.float32)[state[1]], (len(self._action_sizes), 1))

    def follow(
        self, state: tuple[int, int], joint: tuple[int, ...]
    ) -> tuple[float, dict[tuple[int, int], float]]:
        """Return the reward and the next states; the next context is drawn evenly."""
        steps, context = state[0] + 1, state[1]
        reward = float(all(action == context for action in joint))
        return reward, {(steps, 0): 0.5, (steps, 1): 0.5} if steps < self._horizon else {}

    @override
    def _begin(self) -> None:
        self.context = int(self._rng.integers(2))

    @override
    def _play(self, joint: tuple[int, ...]) -> float:
        reward = float(all(action == self.context for action in joint))
        self._begin()
        return reward

    @override
    def _views(self) -> Array:
        clean = np.tile(self.state(), (len(self._action_sizes), 1))
        if self._noise == 0.0:
            return clean
        noise = self._rng.uniform(-self._noise, self._noise, clean.shape)
        return np.asarray(clean + noise, np.float32)


def _unit_box(size: int, margin: float = 0.0) -> Box:
    """Return [-margin, 1 + margin] in every coordinate."""
    return Box(-margin, 1.0 + margin, (size,), np.float32)
