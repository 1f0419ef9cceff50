r"""Directed attacks in games of a few states, solved exactly: what ATSA's theorems are about.

A director names an action :math:`\hat a^j` for each agent of a team that stands still, and a
generator shows the agent what makes it do :math:`d^j(s, \hat a^j)`: the action that was named,
where observations may be moved that far. The director earns the team's reward, turned, and the
entropy of what it names [Zhou2025]_,

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

from robustmarl._checks import check, check_int, check_kind, check_number, keep
from robustmarl.certify.sasg import (
    Policy,
    StateAdversarialGame,
    Values,
    check_play,
    check_policy,
    numbers,
)

__all__ = ["Directed", "DirectedGame"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Directed(NamedTuple):
    """What a director names, its soft values of names, and of states.

    Attributes:
        policy: probabilities of joint names, (S, A_1, ..., A_N).
        q: soft values of joint names, likewise.
        value: soft values, (S,).
    """

    policy: Values
    q: Values
    value: Values


@dataclass(frozen=True, eq=False)
class DirectedGame:
    """A team that stands still, and all that a director can have it do.

    Args:
        reward: the team's, (S, A_1, ..., A_N), expected over the next state.
        transition: probabilities of the next state, (S, A_1, ..., A_N, S).
        done: what each agent does in a state where an action is named, one int (S, A_j) per agent;
            of an agent that nobody attacks its own action, whatever is named.
        gamma: discount, in [0, 1).
        alpha: the director's temperature, >= 0.
        names: what may be named, one bool (S, A_j) per agent, in each state at least one; None is
            everything.

    Raises:
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
    done: Sequence[ArrayLike]
    gamma: float
    alpha: float
    names: Sequence[ArrayLike] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        reward = numbers(f"{name}.reward", self.reward)
        rule = "the team's, (S, A_1, ..., A_N)"
        check(reward.ndim > 1, f"{name}.reward", rule, reward.shape)
        transition = numbers(f"{name}.transition", self.transition)
        fits = reward.shape == transition.shape[:-1]
        check(fits, f"{name}.reward", rule, reward.shape)
        check_play(name, transition)
        sizes = [(len(reward), size) for size in reward.shape[1:]]
        done = [np.asarray(one) for one in self.done]
        good = [one.shape for one in done] == sizes
        good = good and all(np.issubdtype(one.dtype, np.integer) for one in done)
        good = good and all(
            bool(((one >= 0) & (one < size)).all())
            for one, (_, size) in zip(done, sizes, strict=True)
        )
        rule = f"whole numbers of shapes {sizes}, actions of each agent"
        check(good, f"{name}.done", rule, [one.tolist() for one in done])
        named = [np.ones(size, np.bool_) for size in sizes]
        if self.names is not None:
            named = [np.asarray(one, np.bool_) for one in self.names]
            good = [one.shape for one in named] == sizes
            good = good and all(bool(one.any(axis=-1).all()) for one in named)
            rule = f"of shapes {sizes}, in each state at least one"
            check(good, f"{name}.names", rule, [one.tolist() for one in named])
        gamma = check_number(f"{name}.gamma", self.gamma, 0.0, 1.0)
        check(gamma < 1.0, f"{name}.gamma", "below 1: episodes have no end", gamma)
        alpha = check_number(f"{name}.alpha", self.alpha, 0.0)
        whole = [one.astype(np.int64) for one in done]
        keep(self, reward=reward, transition=transition, done=whole, names=named)
        keep(self, gamma=gamma, alpha=alpha)

    @classmethod
    def against(cls, game: StateAdversarialGame, policy: Policy, alpha: float) -> Self:
        """Return the game of a director whose generator finds what makes an agent do as named.

        It is among the states that the agent may be shown; where none does, the agent sees the
        truth.

        Args:
            game: of a team, whose agents all earn the same.
            policy: the team's, deterministic: one per agent, (S, A_j).
            alpha: the director's temperature, >= 0.

        Raises:
            ValueError: for agents with rewards of their own, or a policy that draws.
        """
        name = cls.__name__
        check_kind(f"{name}.against.game", game, StateAdversarialGame, "a StateAdversarialGame")
        reward = np.asarray(game.reward)
        same = bool((reward == reward[0]).all())
        check(same, f"{name}.against.game.reward", "the same for all agents", reward.tolist())
        sizes = [(reward.shape[1], size) for size in reward.shape[2:]]
        probabilities = check_policy(f"{name}.against.policy", policy, sizes)
        sharp = all(bool((one.max(axis=-1) == 1.0).all()) for one in probabilities)
        rule = "deterministic, one action of probability 1 in each state"
        told = [one.tolist() for one in probabilities]
        check(sharp, f"{name}.against.policy", rule, told)
        sets, done = np.asarray(game.sets), []
        for agent, own in enumerate(probabilities):
            plays = own.argmax(axis=-1)
            reach = np.tile(plays[:, None], own.shape[1])
            if agent < len(sets):
                can = (sets[agent][:, :, None] & (own[None] == 1.0)).any(axis=1)
                reach = np.where(can, np.arange(own.shape[1]), reach)
            done.append(reach)
        return cls(reward[0], game.transition, done, game.gamma, alpha)

    @cached_property
    def _directed(self) -> tuple[Values, Values, NDArray[np.bool_]]:
        """The director's reward and transitions by what it names, and what it may name."""
        reward, transition = np.asarray(self.reward), np.asarray(self.transition)
        done = [
            _along(np.asarray(one, np.int64), j, reward.ndim) for j, one in enumerate(self.done)
        ]
        states = np.arange(len(reward)).reshape(-1, *[1] * (reward.ndim - 1))
        where = (states, *done)
        allowed = [
            _along(np.asarray(one, np.bool_), j, reward.ndim) for j, one in enumerate(self._names)
        ]
        return -reward[where], transition[where], reduce(np.logical_and, allowed)

    @property
    def _names(self) -> Sequence[ArrayLike]:
        assert self.names is not None  # filled in when it was made
        return self.names

    def together(self, own: Policy) -> Values:
        """Return the joint policy of agents whose names are drawn apart: ATSA, Eq. (3).

        Args:
            own: the probabilities of each agent's names, (S, A_j).

        Raises:
            ValueError: for what is none of these.
        """
        return self._together(self._own("together", own))

    def _together(self, own: Sequence[Values]) -> Values:
        spread = [_along(one, j, len(own) + 1) for j, one in enumerate(own)]
        return np.asarray(reduce(np.multiply, spread), np.float64)

    def evaluate(self, policy: ArrayLike) -> Directed:
        r"""Return a joint policy's soft values: the fixed point of ATSA's Lemma E.1.

        .. math:: Q(s, \hat a) = \hat r + \gamma \sum_{s'} \hat p(s' \mid s, \hat a)\, V(s'),
                  \qquad V(s) = \sum_{\hat a} h(\hat a \mid s)
                  \bigl(Q(s, \hat a) - \alpha \log h(\hat a \mid s)\bigr)

        Args:
            policy: probabilities of joint names, (S, A_1, ..., A_N).

        Raises:
            ValueError: for what is no policy, or names what may not be named.
        """
        return self._evaluate(self._joint("evaluate", policy))

    def _evaluate(self, policy: Values) -> Directed:
        reward, transition, _ = self._directed
        value = self._total(policy, reward - self.alpha * _log(policy))
        return Directed(policy, reward + self.gamma * transition @ value, value)

    def _total(self, policy: Values, reward: Values) -> Values:
        """Return what ``reward`` adds up to under a policy, discounted, (S,)."""
        _, transition, _ = self._directed
        axes = tuple(range(1, policy.ndim))
        step = (policy[..., None] * transition).sum(axis=axes)
        earned = (policy * reward).sum(axis=axes)
        return np.asarray(np.linalg.solve(np.eye(len(step)) - self.gamma * step, earned))

    def optimal(self) -> Directed:
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
            if not _rises(trial, found):
                return trial
            found = trial

    def improved(self, own: Policy, agents: Sequence[int] | None = None) -> list[Values]:
        r"""Return individual policies after a step of ATSA's Lemma E.2: soft policy improvement.

        .. math:: h^j(\hat a^j \mid s) \propto e^{Q^j(s, \hat a^j) / \alpha}, \qquad
                  Q^j(s, \hat a^j) = \sum_{\hat a^{-j}} h^{-j}(\hat a^{-j} \mid s)\, Q(s, \hat a)

        The lemma does not say what :math:`Q^j` of a joint Q is. This one is the agent's own share
        of it, but for a constant, wherever there are shares.

        Args:
            own: the probabilities of each agent's names, (S, A_j).
            agents: who improves, all on the former policies of the others; None is everybody.

        Raises:
            ValueError: for what is none of these.
        """
        return self._improved(self._own("improved", own), self._chosen("improved", agents))

    def _improved(self, own: list[Values], agents: Sequence[int]) -> list[Values]:
        q, after = self._evaluate(self._together(own)).q, list(own)
        for j in agents:
            others = [np.ones_like(one) if k == j else one for k, one in enumerate(own)]
            axes = tuple(axis for axis in range(1, q.ndim) if axis != j + 1)
            mine = (self._together(others) * q).sum(axis=axes)
            after[j] = self._soft(mine, np.asarray(self._names[j], np.bool_))
        return after

    def settled(self, own: Policy, *, at_once: bool = False, rounds: int = 1000) -> list[Directed]:
        """Return the policies that factorised soft policy iteration goes through, the first first.

        Rounds go on until no value moves any more, or there were so many.

        Args:
            own: the probabilities of each agent's names that it begins with, (S, A_j).
            at_once: all agents improve on the former policies of the others, as ATSA's Theorem 3.4
                has it; else one after the other.
            rounds: at most, >= 1.

        Raises:
            ValueError: for what is none of these.
        """
        policies = self._own("settled", own)
        rounds = check_int(f"{type(self).__name__}.settled.rounds", rounds)
        everybody = range(len(policies))
        turns = [list(everybody)] if at_once else [[agent] for agent in everybody]
        found = [self._evaluate(self._together(policies))]
        for _ in range(rounds):
            for turn in turns:
                policies = self._improved(policies, turn)
            found.append(self._evaluate(self._together(policies)))
            if not (_rises(found[-1], found[-2]) or _rises(found[-2], found[-1])):
                break
        return found

    def played(self, policy: ArrayLike) -> Values:
        """Return the probabilities of what agents do, (S, A_1, ..., A_N), under a joint policy.

        Args:
            policy: probabilities of joint names, likewise.

        Raises:
            ValueError: for what is no policy, or names what may not be named.
        """
        named = self._joint("played", policy)
        found = np.zeros_like(named)
        done = [_along(np.asarray(one, np.int64), j, named.ndim) for j, one in enumerate(self.done)]
        states = np.arange(len(named)).reshape(-1, *[1] * (named.ndim - 1))
        np.add.at(found, (states, *done), named)
        return found

    def left(self, policy: ArrayLike) -> Values:
        """Return what the team earns, (S,), where a joint policy names what it does.

        Args:
            policy: probabilities of joint names, (S, A_1, ..., A_N).

        Raises:
            ValueError: for what is no policy, or names what may not be named.
        """
        return self._total(self._joint("left", policy), -self._directed[0])

    def realised(self) -> DirectedGame:
        """Return the game in which only what is done may be named: the observation adversary's.

        Names and actions are then the same, so that it is the entropy of actions that is earned.

        Raises:
            ValueError: where an agent does nothing that is named.
        """
        pairs = zip(self.done, self._names, strict=True)
        kept = [
            np.asarray(names, np.bool_) & (np.asarray(one) == np.arange(np.shape(one)[1]))
            for one, names in pairs
        ]
        rule = "such that in each state each agent does something that can be named"
        good = all(bool(one.any(axis=-1).all()) for one in kept)
        check(good, f"{type(self).__name__}.done", rule, [one.tolist() for one in kept])
        return replace(self, names=kept)

    def _soft(self, q: Values, allowed: NDArray[np.bool_]) -> Values:
        """Return softmax(q / alpha) over what is allowed, in each state."""
        flat = np.where(allowed, q, -np.inf).reshape(len(q), -1)
        if self.alpha == 0.0:
            best = np.zeros_like(flat)
            best[np.arange(len(flat)), flat.argmax(axis=-1)] = 1.0
            return best.reshape(q.shape)
        weight = np.exp((flat - flat.max(axis=-1, keepdims=True)) / self.alpha)
        return np.asarray((weight / weight.sum(axis=-1, keepdims=True)).reshape(q.shape))

    def _joint(self, method: str, policy: ArrayLike) -> Values:
        """Return a joint policy, checked."""
        reward, _, allowed = self._directed
        where = f"{type(self).__name__}.{method}.policy"
        given = numbers(where, policy)
        check(given.shape == reward.shape, where, f"of shape {reward.shape}", given.shape)
        sums = np.abs(given.reshape(len(given), -1).sum(axis=-1) - 1.0).max(initial=0.0)
        good = bool((given >= 0.0).all()) and sums < 1e-6 and not given[~allowed].any()
        rule = "probabilities of what may be named, which add up to 1 in each state"
        check(good, where, rule, given.tolist())
        return given

    def _own(self, method: str, own: Policy) -> list[Values]:
        """Return the agents' own policies, checked."""
        where = f"{type(self).__name__}.{method}.own"
        shapes = [np.shape(one) for one in self.done]
        given = check_policy(where, own, [(states, size) for states, size in shapes])
        for one, names in zip(given, self._names, strict=True):
            good = not one[~np.asarray(names, np.bool_)].any()
            check(good, where, "of names that may be named", one.tolist())
        return given

    def _chosen(self, method: str, agents: Sequence[int] | None) -> list[int]:
        """Return who improves, checked."""
        count = len(self.done)
        chosen = list(range(count)) if agents is None else list(agents)
        good = bool(chosen) and all(0 <= one < count for one in chosen)
        where = f"{type(self).__name__}.{method}.agents"
        check(good, where, f"agents below {count}", chosen)
        return chosen


def _along(own: NDArray[_Scalar], agent: int, axes: int) -> NDArray[_Scalar]:
    """Return what is known of an agent's actions, (S, A_j), with ones for the others' axes."""
    shape = [1] * axes
    shape[0], shape[agent + 1] = own.shape
    return own.reshape(shape)


def _log(policy: Values) -> Values:
    """Return log-probabilities; of what never is named 0."""
    return np.log(np.where(policy > 0.0, policy, 1.0))


def _rises(trial: Directed, found: Directed) -> bool:
    """Return whether a value rose by more than rounding."""
    scale = max(np.abs(found.value).max(initial=0.0), np.abs(found.q).max(initial=0.0))
    return bool((trial.value > found.value + 1e-12 * scale).any())
