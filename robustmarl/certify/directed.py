r"""Directed attacks in games of a few states, solved exactly: what ATSA's theorems are about.

A director names an action :math:`\hat a^j` for each agent of a team that stands still, and a
generator shows the agent what makes it do :math:`d^j(s, \hat a^j)`: the action that was named,
where observations may be moved that far. The director earns the team's reward, turned, and the
entropy of what it names [Zhou2025]_, which is discounted here,

.. math:: J = E \sum_t \gamma^t \Bigl(-r\bigl(s_t, d(s_t, \hat a_t)\bigr)
          + \alpha\, H\bigl(h(\cdot \mid s_t)\bigr)\Bigr) .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import (
    check,
    check_each,
    check_flag,
    check_index,
    check_int,
    check_kind,
    check_number,
    keep,
)
from robustmarl.certify.sasg import (
    Policy,
    StateAdversarialGame,
    Values,
    check_play,
    check_policy,
    numbers,
)

__all__ = ["DirectedGame", "SoftValues"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


class SoftValues(NamedTuple):
    """A director's joint policy, and what it earns, entropy included.

    Attributes:
        policy: probabilities of joint names, (S, A_1, ..., A_N).
        q: soft values of joint names, likewise; also of those that may not be named.
        value: soft values of states, (S,).
    """

    policy: Values
    q: Values
    value: Values


@dataclass(frozen=True, eq=False)
class DirectedGame:
    """A team that stands still, and all that a director can have it do.

    The director sees the state, and draws for each agent, or for all of them together.

    Args:
        reward: the team's, (S, A_1, ..., A_N), expected over the next state.
        transition: probabilities of the next state, (S, A_1, ..., A_N, S).
        does: what each agent does in a state where an action is named, one int (S, A_j) per agent.
        gamma: discount, in [0, 1).
        alpha: the director's temperature, >= 0.
        names: what may be named, one bool (S, A_j) per agent, in each state at least one; None is
            everything. For an agent that nobody attacks leave one, as its entropy is earned, too.

    Raises:
        TypeError: for what are no arrays of these kinds.
        ValueError: for arrays that do not fit each other, or a number out of range.

    Example:
        >>> reward = np.array([[3.0, 0.0, 1.0]])  # one agent, one state; it plays the first action
        >>> stay, reached = np.ones((1, 3, 1)), [np.array([[0, 1, 0]])]  # the third is out of reach
        >>> game = DirectedGame(reward, stay, reached, gamma=0.0, alpha=1.0)
        >>> game.optimal().policy.round(3), game.played(game.optimal().policy).round(3)
        (array([[0.045, 0.909, 0.045]]), array([[0.091, 0.909, 0.   ]]))
    """

    reward: ArrayLike
    transition: ArrayLike
    does: Sequence[ArrayLike]
    gamma: float
    alpha: float
    names: Sequence[ArrayLike] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        reward = numbers(f"{name}.reward", self.reward)
        several = reward.ndim > 1 and reward.size > 0
        check(several, f"{name}.reward", "the team's, (S, A_1, ..., A_N)", reward.shape)
        transition = numbers(f"{name}.transition", self.transition)
        size = (*reward.shape, len(reward))
        check(transition.shape == size, f"{name}.transition", f"of shape {size}", transition.shape)
        check_play(name, transition)
        sizes = [(len(reward), actions) for actions in reward.shape[1:]]
        does = _arrays(f"{name}.does", self.does, sizes, "whole numbers")
        known = all(bool(((one >= 0) & (one < one.shape[1])).all()) for one in does)
        check(known, f"{name}.does", "actions of each agent", [one.tolist() for one in does])
        names = [np.ones(size, np.int64) for size in sizes]
        if self.names is not None:
            names = _arrays(f"{name}.names", self.names, sizes, "bools")
        some = all(bool((((one == 0) | (one == 1)).all()) & one.any(axis=1).all()) for one in names)
        rule = "bools, true in each state for at least one"
        check(some, f"{name}.names", rule, [one.tolist() for one in names])
        gamma = check_number(f"{name}.gamma", self.gamma, 0.0, 1.0)
        check(gamma < 1.0, f"{name}.gamma", "below 1: episodes have no end", gamma)
        alpha = check_number(f"{name}.alpha", self.alpha, 0.0)
        allowed = [one.astype(np.bool_) for one in names]
        for array in (reward, transition, *does, *allowed):
            array.flags.writeable = False  # what is computed of them is kept
        keep(self, reward=reward, transition=transition, does=does, names=allowed)
        keep(self, gamma=gamma, alpha=alpha)

    @classmethod
    def against(cls, game: StateAdversarialGame, policy: Policy, alpha: float) -> Self:
        """Return the game of a director whose generator finds what makes an agent do as named.

        It is among the states that the agent may be shown; where none does, the agent sees the
        truth. For agents that are not attacked their own action alone is named.

        Args:
            game: of a team, whose agents all earn the same.
            policy: the team's, deterministic: one per agent, (S, A_j).
            alpha: the director's temperature, >= 0.

        Raises:
            TypeError: for another kind of game, or what is no policy.
            ValueError: for agents with rewards of their own, or a policy that draws.
        """
        where = f"{cls.__name__}.against"
        check_kind(f"{where}.game", game, StateAdversarialGame, "a StateAdversarialGame")
        reward, sets = np.asarray(game.reward), np.asarray(game.sets)
        same = bool((reward == reward[0]).all())
        check(same, f"{where}.game.reward", "the same for all agents", reward.tolist())
        sizes = [(reward.shape[1], size) for size in reward.shape[2:]]
        probabilities = check_policy(f"{where}.policy", policy, sizes)
        sharp = all(bool((one.max(axis=1) == 1.0).all()) for one in probabilities)
        rule = "deterministic, one action of probability 1 in each state"
        check(sharp, f"{where}.policy", rule, [one.tolist() for one in probabilities])
        does, names = [], []
        for agent, own in enumerate(probabilities):
            plays, actions = own == 1.0, np.arange(own.shape[1])
            attacked = agent < len(sets)
            reach = (sets[agent][:, :, None] & plays).any(axis=1) if attacked else plays
            does.append(np.where(reach, actions, own.argmax(axis=1)[:, None]))
            names.append(np.ones_like(plays) if attacked else plays)
        return cls(reward[0], game.transition, does, game.gamma, alpha, names)

    @cached_property
    def _done(self) -> tuple[NDArray[np.int64], ...]:
        """Where in rewards and transitions joint names lead, for each axis."""
        axes = np.ndim(self.reward)
        does = [_along(np.asarray(one, np.int64), j, axes) for j, one in enumerate(self.does)]
        return np.arange(len(does[0])).reshape(-1, *[1] * (axes - 1)), *does

    @cached_property
    def _directed(self) -> tuple[Values, Values, NDArray[np.bool_]]:
        """The director's reward and transitions by what it names, and what it may name."""
        reward, transition = np.asarray(self.reward), np.asarray(self.transition)
        allowed = [_along(one, j, reward.ndim) for j, one in enumerate(self._names)]
        return -reward[self._done], transition[self._done], reduce(np.logical_and, allowed)

    @property
    def _names(self) -> list[NDArray[np.bool_]]:
        assert self.names is not None  # filled in when it was made
        return [np.asarray(one, np.bool_) for one in self.names]

    def together(self, own: Policy) -> Values:
        """Return the joint policy, (S, A_1, ..., A_N), of names that are drawn apart: Eq. (3).

        Args:
            own: the probabilities of each agent's names, (S, A_j).

        Raises:
            TypeError: for what is no policy.
            ValueError: for what is none of these agents', or names what may not be named.
        """
        return self._together(self._own("together", own))

    def _together(self, own: Sequence[Values]) -> Values:
        spread = [_along(one, j, len(own) + 1) for j, one in enumerate(own)]
        return np.asarray(reduce(np.multiply, spread), np.float64)

    def evaluate(self, policy: ArrayLike) -> SoftValues:
        r"""Return a joint policy's soft values: the fixed point of ATSA's Lemma E.1.

        .. math:: Q(s, \hat a) = \hat r + \gamma \sum_{s'} \hat p(s' \mid s, \hat a)\, V(s'),
                  \qquad V(s) = \sum_{\hat a} h(\hat a \mid s)
                  \bigl(Q(s, \hat a) - \alpha \log h(\hat a \mid s)\bigr)

        Args:
            policy: probabilities of joint names, (S, A_1, ..., A_N).

        Raises:
            TypeError: for what is no array.
            ValueError: for what is no policy, or names what may not be named.
        """
        return self._evaluate(self._joint("evaluate", policy))

    def _evaluate(self, policy: Values) -> SoftValues:
        reward, transition, _ = self._directed
        value = self._total(policy, reward - self.alpha * _log(policy))
        return SoftValues(policy, reward + self.gamma * transition @ value, value)

    def _total(self, policy: Values, reward: Values) -> Values:
        """Return what ``reward`` adds up to under a policy, discounted, (S,)."""
        _, transition, _ = self._directed
        axes = tuple(range(1, policy.ndim))
        step = (policy[..., None] * transition).sum(axis=axes)
        earned = (policy * reward).sum(axis=axes)
        found = np.linalg.solve(np.eye(len(step)) - self.gamma * step, earned)
        where, rule = f"{type(self).__name__}.reward", "so small that returns are finite numbers"
        check(bool(np.isfinite(found).all()), where, rule, np.asarray(self.reward).tolist())
        return np.asarray(found)

    def optimal(self) -> SoftValues:
        r"""Return the best joint policy: ATSA's Proposition 3.2.

        .. math:: h(\hat a \mid s) = e^{(Q(s, \hat a) - V(s)) / \alpha}, \qquad
                  V(s) = \alpha \log \sum_{\hat a} e^{Q(s, \hat a) / \alpha}

        It names agents' actions together, not each for itself. Found by soft policy iteration. At
        temperature 0 it is the strongest of all, and names the first of equally good ones.
        """
        reward, _, allowed = self._directed
        found = self._evaluate(self._soft(reward, allowed))
        while True:
            trial = self._evaluate(self._soft(found.q, allowed))
            # A step raises some value and lowers none; where rounding says otherwise, tied names
            # would take turns for ever. The last step is the nearer one, by its square.
            if not (_rises(trial, found) and trial.value.sum() > found.value.sum()):
                return trial
            found = trial

    def improved(self, own: Policy, agents: Sequence[int] | None = None) -> list[Values]:
        r"""Return individual policies, (S, A_j) each, after a step of ATSA's Lemma E.2.

        .. math:: h^j(\hat a^j \mid s) \propto e^{Q^j(s, \hat a^j) / \alpha}, \qquad
                  Q^j(s, \hat a^j) = \sum_{\hat a^{-j}} h^{-j}(\hat a^{-j} \mid s)\, Q(s, \hat a)

        The lemma does not say what :math:`Q^j` of a joint Q is. This one is the agent's own share
        of it, but for a constant, wherever there are shares.

        Args:
            own: the probabilities of each agent's names, (S, A_j).
            agents: who improves, all on the former policies of the others; None is everybody.

        Raises:
            TypeError: for what is no policy, or no agents.
            ValueError: for what is none of these agents', or names what may not be named.
        """
        count, where = len(self.does), f"{type(self).__name__}.improved.agents"
        rule = f"agents below {count}, at least one"
        chosen = tuple(range(count))
        if agents is not None:
            chosen = check_each(where, agents, check_index, rule)
        check(bool(chosen) and all(0 <= one < count for one in chosen), where, rule, agents)
        return self._improved(self._own("improved", own), chosen)

    def _improved(self, own: list[Values], agents: Sequence[int]) -> list[Values]:
        q, after = self._evaluate(self._together(own)).q, list(own)
        for j in agents:
            others = [np.ones_like(one) if k == j else one for k, one in enumerate(own)]
            axes = tuple(axis for axis in range(1, q.ndim) if axis != j + 1)
            after[j] = self._soft((self._together(others) * q).sum(axis=axes), self._names[j])
        return after

    def settled(
        self, own: Policy, *, at_once: bool = False, rounds: int = 1000
    ) -> list[SoftValues]:
        """Return what factorised soft policy iteration goes through, what it begins with first.

        Rounds go on until no probability moves any more, or there were so many.

        Args:
            own: the probabilities of each agent's names that it begins with, (S, A_j).
            at_once: all agents improve on the former policies of the others, as ATSA's Theorem 3.4
                has it; else one after the other.
            rounds: at most, >= 1.

        Raises:
            TypeError: for what is no policy, or no number.
            ValueError: for what is none of these agents', or names what may not be named.
        """
        policies, name = self._own("settled", own), f"{type(self).__name__}.settled"
        rounds = check_int(f"{name}.rounds", rounds)
        everybody = range(len(policies))
        together = check_flag(f"{name}.at_once", at_once)
        turns = [list(everybody)] if together else [[agent] for agent in everybody]
        found = [self._evaluate(self._together(policies))]
        for _ in range(rounds):
            before = policies
            for turn in turns:
                policies = self._improved(policies, turn)
            found.append(self._evaluate(self._together(policies)))
            moved = (np.abs(a - b).max() for a, b in zip(policies, before, strict=True))
            if max(moved) < 1e-12:  # rounding
                break
        return found

    def played(self, policy: ArrayLike) -> Values:
        """Return the probabilities of what agents do, (S, A_1, ..., A_N), under a joint policy.

        Args:
            policy: probabilities of joint names, likewise.

        Raises:
            TypeError: for what is no array.
            ValueError: for what is no policy, or names what may not be named.
        """
        named = self._joint("played", policy)
        found = np.zeros_like(named)
        np.add.at(found, self._done, named)
        return found

    def left(self, policy: ArrayLike) -> Values:
        """Return what the team earns, (S,), where a joint policy names what it does.

        Args:
            policy: probabilities of joint names, (S, A_1, ..., A_N).

        Raises:
            TypeError: for what is no array.
            ValueError: for what is no policy, or names what may not be named.
        """
        return self._total(self._joint("left", policy), -self._directed[0])

    def realised(self) -> DirectedGame:
        """Return the observation adversary's own game, whose names are what agents do.

        It is the same attack, but that the entropy of what is done is earned, not that of names.
        """
        does, names = [], []
        for one, named in zip(self.does, self._names, strict=True):
            done = np.zeros_like(named)
            states, actions = np.nonzero(named)
            done[states, np.asarray(one)[states, actions]] = True
            does.append(np.tile(np.arange(named.shape[1]), (len(named), 1)))
            names.append(done)
        return replace(self, does=does, names=names)

    def _soft(self, q: Values, allowed: NDArray[np.bool_]) -> Values:
        """Return softmax(q / alpha) over what is allowed, in each state."""
        flat = np.where(allowed, q, -np.inf).reshape(len(q), -1)
        if self.alpha == 0.0:
            best = np.zeros_like(flat)
            best[np.arange(len(flat)), flat.argmax(axis=1)] = 1.0
            return best.reshape(q.shape)
        weight = np.exp((flat - flat.max(axis=1, keepdims=True)) / self.alpha)
        return np.asarray((weight / weight.sum(axis=1, keepdims=True)).reshape(q.shape))

    def _joint(self, method: str, policy: ArrayLike) -> Values:
        """Return a joint policy, checked."""
        reward, _, allowed = self._directed
        where = f"{type(self).__name__}.{method}.policy"
        given = numbers(where, policy)
        check(given.shape == reward.shape, where, f"of shape {reward.shape}", given.shape)
        flat = given.reshape(len(given), -1)
        rows = check_policy(where, [flat], [flat.shape])[0].reshape(given.shape)
        check(not rows[~allowed].any(), where, "of what may be named", given.tolist())
        return rows

    def _own(self, method: str, own: Policy) -> list[Values]:
        """Return the agents' own policies, checked."""
        where = f"{type(self).__name__}.{method}.own"
        sizes = [(len(one), one.shape[1]) for one in self._names]
        given = check_policy(where, own, sizes)
        good = not any(one[~names].any() for one, names in zip(given, self._names, strict=True))
        check(good, where, "of what may be named", [one.tolist() for one in given])
        return given


def _arrays(
    where: str, given: object, sizes: list[tuple[int, int]], kind: str
) -> list[NDArray[np.int64]]:
    """Return an array of whole numbers for each agent, copied, checked for kind and shape."""
    rule = f"{kind} of shapes {sizes}"
    told = [numbers(where, one) for one in check_each(where, given, lambda _, one: one, rule)]
    good = [one.shape for one in told] == sizes and all((one % 1.0 == 0.0).all() for one in told)
    check(good, where, rule, [one.tolist() for one in told])
    return [one.astype(np.int64) for one in told]


def _along(own: NDArray[_Scalar], agent: int, axes: int) -> NDArray[_Scalar]:
    """Return what is known of an agent's actions, (S, A_j), with ones for the others' axes."""
    shape = [1] * axes
    shape[0], shape[agent + 1] = own.shape
    return own.reshape(shape)


def _log(policy: Values) -> Values:
    """Return log-probabilities; of what is never named 0."""
    return np.log(np.where(policy > 0.0, policy, 1.0))


def _rises(trial: SoftValues, found: SoftValues) -> bool:
    """Return whether a value rose by more than rounding."""
    scale = max(np.abs(found.value).max(), np.abs(found.q).max())
    return bool((trial.value > found.value + 1e-12 * scale).any())
