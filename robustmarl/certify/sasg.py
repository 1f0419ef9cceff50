r"""State-adversarial stochastic games of a few states, solved exactly.

In such a game [Zhou2022]_ N agents play in states s, and what M of them are shown of it is chosen
by adversaries: agent j < M is shown :math:`v^j(s) \in B^j(s)`, the world goes on from s.

.. math:: (\pi \circ v)(a \mid s) = \prod_{j < M} \pi^j(a^j \mid v^j(s))
          \prod_{j \ge M} \pi^j(a^j \mid s)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import check, check_each, check_index, check_number, keep

__all__ = ["StateAdversarialGame", "WorstCase"]

Values: TypeAlias = NDArray[np.float64]
Policy: TypeAlias = Sequence[ArrayLike]
"""Each agent's probabilities of its actions given the state that it is shown, (S, A_j)."""


class WorstCase(NamedTuple):
    """What adversaries choose, int64 (M, S), and what is left of an agent's values, (S,)."""

    shown: NDArray[np.int64]
    value: Values


@dataclass(frozen=True, eq=False)
class StateAdversarialGame:
    """A game whose states, joint actions and perturbations can all be listed.

    Args:
        reward: each agent's, (N, S, A_1, ..., A_N), expected over the next state.
        transition: probabilities of the next state, (S, A_1, ..., A_N, S).
        sets: ``sets[j, s, t]``, bool (M, S, S): whether agent j may be shown t where the state is
            s. Each state has itself, at least. M <= N; the first M agents are attacked.
        gamma: discount, in [0, 1).

    Raises:
        TypeError: for what are no arrays of numbers.
        ValueError: for arrays that do not fit each other, or a number out of range.

    Example:
        >>> reward = [[[1.0, 0.0], [0.0, 1.0]]]  # one agent earns 1 by playing the state
        >>> stay = np.repeat(np.eye(2)[:, None], 2, axis=1)
        >>> game = StateAdversarialGame(reward, stay, np.ones((1, 2, 2), dtype=bool), gamma=0.5)
        >>> plays_what_it_sees = [np.eye(2)]
        >>> game.value(plays_what_it_sees), game.worst(plays_what_it_sees, 0).value
        (array([[2., 2.]]), array([0., 0.]))
    """

    reward: ArrayLike
    transition: ArrayLike
    sets: ArrayLike
    gamma: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        reward = numbers(f"{name}.reward", self.reward)
        transition = numbers(f"{name}.transition", self.transition)
        sets = np.asarray(self.sets, np.bool_)
        agents, states = len(reward), len(transition)
        fits = reward.ndim == agents + 2 and reward.shape[1:] == transition.shape[:-1]
        check(fits, f"{name}.reward", "(N, S, A_1, ..., A_N)", reward.shape)
        check_play(name, transition)
        fits = sets.ndim == 3 and sets.shape[1:] == (states, states) and len(sets) <= agents
        fits = fits and bool(sets.diagonal(axis1=1, axis2=2).all())
        check(fits, f"{name}.sets", "(M, S, S) with M <= N, each state among its own", sets.shape)
        gamma = check_number(f"{name}.gamma", self.gamma, 0.0, 1.0)
        check(gamma < 1.0, f"{name}.gamma", "below 1: episodes have no end", gamma)
        keep(self, reward=reward, transition=transition, sets=sets, gamma=gamma)

    @property
    def _arrays(self) -> tuple[Values, Values, NDArray[np.bool_]]:
        """Rewards, transitions and sets, as they were kept."""
        return np.asarray(self.reward), np.asarray(self.transition), np.asarray(self.sets)

    def clean(self) -> NDArray[np.int64]:
        """Return the perturbation that shows every agent the truth, (M, S)."""
        _, transition, sets = self._arrays
        return np.tile(np.arange(len(transition)), (len(sets), 1))

    def joint(self, policy: Policy, shown: ArrayLike | None = None) -> Values:
        """Return the probabilities of joint actions, (S, A_1, ..., A_N), of policy after ``shown``.

        Args:
            policy: one per agent, (S, A_j) each; rows add up to 1 but for 1e-6.
            shown: what attacked agents are shown, int64 (M, S), from their sets; None is the truth.

        Raises:
            ValueError: for what is no policy of these agents, or may not be shown.
        """
        return self._joint(self._policy("joint", policy), self._views("joint", shown))

    def _joint(self, policy: list[Values], views: NDArray[np.int64]) -> Values:
        """Return what :meth:`joint` does; ``views`` may show anything, whatever is allowed."""
        found = np.ones(views.shape[-1])
        for agent, own in enumerate(policy):
            rows = own[views[agent]] if agent < len(views) else own
            found = found[..., None] * rows.reshape(len(rows), *[1] * agent, -1)
        return found

    def value(self, policy: Policy, shown: ArrayLike | None = None) -> Values:
        r"""Return each agent's values, (N, S): the solution of RoMFAC's Theorem 1.

        .. math:: V^j(s) = \sum_a (\pi \circ v)(a \mid s) \sum_{s'} p(s' \mid s, a)
                  \bigl(R^j + \gamma V^j(s')\bigr)

        Args:
            policy: one per agent, (S, A_j) each; rows add up to 1 but for 1e-6.
            shown: what attacked agents are shown, int64 (M, S), from their sets; None is the truth.

        Raises:
            ValueError: for what is no policy of these agents, or may not be shown.
        """
        return self._value(self._policy("value", policy), self._views("value", shown))

    def _value(self, policy: list[Values], views: NDArray[np.int64]) -> Values:
        reward, transition, _ = self._arrays
        play = self._joint(policy, views)
        states, axes = len(transition), tuple(range(1, play.ndim))
        step = (play[..., None] * transition).sum(axis=axes)
        earned = (play * reward).sum(axis=tuple(axis + 1 for axis in axes))
        solved = np.linalg.solve(np.eye(states) - self.gamma * step, earned.T)
        return np.asarray(solved.T, np.float64)

    def backup(
        self,
        value: ArrayLike,
        policy: Policy,
        agent: int,
        *,
        moved: Sequence[int] | None = None,
        shown: ArrayLike | None = None,
    ) -> WorstCase:
        r"""Return what the adversaries' Bellman operator makes of an agent's values.

        .. math:: (L^j V)(s) = \min_{\hat s \in B(s)} \sum_a \pi(a \mid s, \hat s) \sum_{s'}
                  p(s' \mid s, a) \bigl(R^j + \gamma V(s')\bigr)

        a contraction in the maximum norm with factor gamma: RoMFAC's Theorem 2, whose operator is
        not printed. Ties, but for 1e-12 of the largest value or reward, go to the first state.

        Args:
            value: of the agent, (S,).
            policy: one per agent, (S, A_j) each.
            agent: whose rewards are to fall.
            moved: the attacked agents whose perturbation is chosen; None is ``agent`` alone.
            shown: the perturbation of the other ones, int64 (M, S), from their sets; None is the
                truth.

        Raises:
            ValueError: for what is no value or policy of these agents, or may not be shown.
        """
        attacked = self._moved("backup", agent, moved)
        where, size = f"{type(self).__name__}.backup.value", (len(self._arrays[1]),)
        known = numbers(where, value)
        check(known.shape == size, where, f"of shape {size}", known.shape)
        probabilities, views = self._policy("backup", policy), self._views("backup", shown)
        return self._backup(known, probabilities, agent, attacked, views)

    def _backup(
        self,
        value: Values,
        policy: list[Values],
        agent: int,
        attacked: list[int],
        views: NDArray[np.int64],
    ) -> WorstCase:
        reward, transition, sets = self._arrays
        ahead = reward[agent] + self.gamma * transition @ value
        rounding = 1e-12 * self._scale(agent, value)
        lowest = np.full(len(transition), np.inf)
        best = views.copy()
        axes = tuple(range(1, ahead.ndim))
        for choice in itertools.product(range(len(transition)), repeat=len(attacked)):
            trial = views.copy()
            trial[attacked] = np.asarray(choice)[:, None]
            worth = (self._joint(policy, trial) * ahead).sum(axis=axes)
            allowed = np.logical_and.reduce(
                [sets[j, :, t] for j, t in zip(attacked, choice, strict=True)]
            )
            less = allowed & (worth < lowest - rounding)
            lowest = np.where(less, worth, lowest)
            best[:, less] = trial[:, less]
        return WorstCase(best, lowest)

    def worst(
        self,
        policy: Policy,
        agent: int,
        *,
        moved: Sequence[int] | None = None,
        shown: ArrayLike | None = None,
    ) -> WorstCase:
        """Return the worst perturbation for an agent, and the values that it leaves.

        The values are the operator's only fixed point; the perturbation is one of those that
        attain them in all states at once. Found by policy iteration, exactly.

        Args:
            policy: one per agent, (S, A_j) each.
            agent: whose rewards are to fall.
            moved: as of :meth:`backup`; all attacked agents, say, where a team shares its reward.
            shown: the perturbation of the other ones, int64 (M, S), from their sets; None is the
                truth.

        Raises:
            ValueError: for what is no policy of these agents, or may not be shown.
        """
        attacked = self._moved("worst", agent, moved)
        probabilities, views = self._policy("worst", policy), self._views("worst", shown)
        found, value = views, self._value(probabilities, views)[agent]
        while True:
            trial = self._backup(value, probabilities, agent, attacked, views)
            if not (trial.value < value - 1e-10 * self._scale(agent, value)).any():
                return WorstCase(found, value)
            after = self._value(probabilities, trial.shown)[agent]
            # Each improvement lowers no less than one value and raises none. Where rounding says
            # otherwise it would take turns with ties for ever.
            if not after.sum() < value.sum():
                return WorstCase(found, value)
            found, value = trial.shown, after

    def _scale(self, agent: int, value: Values) -> float:
        """Return the largest of an agent's values and rewards, by which rounding is measured."""
        rewards = np.abs(np.asarray(self.reward)[agent])
        return float(max(rewards.max(initial=0.0), np.abs(value).max(initial=0.0)))

    def _policy(self, method: str, policy: Policy) -> list[Values]:
        """Return the agents' probabilities, checked."""
        reward, transition, _ = self._arrays
        sizes = [(len(transition), size) for size in reward.shape[2:]]
        return check_policy(f"{type(self).__name__}.{method}.policy", policy, sizes)

    def _views(self, method: str, shown: ArrayLike | None) -> NDArray[np.int64]:
        """Return what is shown to attacked agents in each state, checked; None is the truth."""
        if shown is None:
            return self.clean()
        sets, views = np.asarray(self.sets), np.array(shown)
        good = np.issubdtype(views.dtype, np.integer) and views.shape == sets.shape[:2]
        good = good and bool(((views >= 0) & (views < sets.shape[-1])).all())
        good = good and bool(np.take_along_axis(sets, views[..., None], axis=-1).all())
        where = f"{type(self).__name__}.{method}.shown"
        rule = "whole numbers (M, S), what each agent may be shown in each state"
        check(good, where, rule, views.tolist())
        return views.astype(np.int64)

    def _moved(self, method: str, agent: int, moved: Sequence[int] | None) -> list[int]:
        """Return the agents whose perturbations are chosen, checked."""
        reward, _, sets = self._arrays
        where = f"{type(self).__name__}.{method}"
        agent = check_index(f"{where}.agent", agent)
        check(0 <= agent < len(reward), f"{where}.agent", f"below {len(reward)}", agent)
        attacked = [agent] if moved is None else list(moved)
        good = bool(attacked) and all(0 <= one < len(sets) for one in attacked)
        check(good, f"{where}.moved", f"agents below {len(sets)}, which are attacked", attacked)
        return attacked


def numbers(where: str, given: object) -> Values:
    """Return an array of finite numbers of its own."""
    try:
        found: Values = np.array(given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{where} must be an array of numbers, got {given!r}.") from None
    check(bool(np.isfinite(found).all()), where, "finite numbers", given)
    return found


def check_play(name: str, transition: Values) -> None:
    """Raise ``ValueError`` for what are no transitions (S, A_1, ..., A_N, S)."""
    sums = np.abs(transition.sum(axis=-1) - 1.0).max(initial=0.0)
    good = transition.shape[-1] == len(transition) and (transition >= 0.0).all() and sums < 1e-9
    rule = "probabilities (S, A_1, ..., A_N, S), which add up to 1 over the last axis"
    check(bool(good), f"{name}.transition", rule, transition.shape)


def check_policy(where: str, policy: object, sizes: list[tuple[int, int]]) -> list[Values]:
    """Return the agents' probabilities, of these shapes, with rows that add up to 1."""
    rule = f"one array of probabilities for each agent, of shapes {sizes}"
    found = check_each(where, policy, numbers, rule)
    shapes = [one.shape for one in found]
    check(shapes == sizes, where, f"of shapes {sizes}", shapes)
    for own in found:
        good = (own >= 0.0).all() and np.abs(own.sum(axis=-1) - 1.0).max(initial=0.0) < 1e-6
        check(bool(good), where, "probabilities, which add up to 1 in each state", own.tolist())
    return [own / own.sum(axis=-1, keepdims=True) for own in found]
