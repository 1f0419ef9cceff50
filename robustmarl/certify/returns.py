"""The least return that attacks can leave in a game whose states can be listed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import check, check_kind
from robustmarl.budgets import LinfBall
from robustmarl.certify.margins import check_victim, possible_actions
from robustmarl.networks import SeparateAgents
from robustmarl.victims import LossRows, NetworkVictim, Rows

__all__ = ["CertifiedReturn", "ListedGame", "certified_return"]

_StateT = TypeVar("_StateT", bound=Hashable)
_Joint: TypeAlias = tuple[int, ...]
_Branch: TypeAlias = tuple[float, Mapping[_StateT, float]]


@runtime_checkable
class ListedGame(Protocol[_StateT]):
    """A game of a team that can say what follows from every state and joint action.

    A state holds all that decides what follows, the number of steps played among it. It must never
    come twice in an episode, so that episodes end.
    """

    @property
    def possible_agents(self) -> list[str]:
        """The agents, in the order of joint actions and of rows of observations."""

    @property
    def action_sizes(self) -> Sequence[int]:
        """The number of each agent's actions."""

    def first_states(self) -> Mapping[_StateT, float]:
        """Return the states in which an episode may begin, with their probabilities."""

    def shown(self, state: _StateT) -> ArrayLike:
        """Return what each agent observes in a state, (N, D)."""

    def follow(
        self, state: _StateT, joint: tuple[int, ...]
    ) -> tuple[float, Mapping[_StateT, float]]:
        """Return the team's reward and the next states with probabilities, none at the end."""


@dataclass(frozen=True, kw_only=True)
class CertifiedReturn:
    """What becomes of a team of greedy agents in expectation, undiscounted.

    Attributes:
        clean: its return without attack.
        bound: no attack in the ball leaves less, however it depends on states and on the past.
        states: how many states were looked at.
    """

    clean: float
    bound: float
    states: int


def certified_return(
    victim: NetworkVictim, game: ListedGame[_StateT], ball: LinfBall
) -> CertifiedReturn:
    r"""Return the clean return of a greedy team and a lower bound of it under any attack.

    .. math:: \underline V(s) = \min_{a \in \prod_i C_i(s)} r(s, a)
              + \mathbb{E}_{s' \mid s, a} \underline V(s'), \qquad
              C_i(s) = \text{actions that may become greedy in } B_\epsilon(o_i(s))

    An attacker who sees the state chooses each agent's observation, and so its action, among those
    of :func:`possible_actions`; agents without memory are thus no more than moves of the attacker.
    Where these sets are exact, the bound is the worst case itself: with two actions and an affine
    network, say. Otherwise it lies below.

    Args:
        victim: a team's live view, ``algorithm.victim()``; without memory, discrete actions. It is
            bounded as if it played its greedy action.
        game: ``MatrixGame``, ``TwoStepGame``, ``ToyGame`` or ``SignalMatching`` without noise, or
            one of your own.
        ball: what may change of each observation.

    Raises:
        TypeError: for a victim that is no team's network, or a game that cannot be listed.
        ValueError: for a team with memory, continuous actions, side inputs, own last actions, or
            other agents or sizes than the game's; for a game in which a state comes again.

    Example:
        >>> from robustmarl import algorithms, budgets, envs
        >>> game = envs.MatrixGame([[7.0, 0.0], [0.0, 1.0]])
        >>> team = algorithms.QMIX.for_env(game, seed=0)
        >>> found = certified_return(team.victim(), game, budgets.LinfBall(epsilon=10.0))
        >>> found.bound, found.states  # agents can be made to play anything
        (0.0, 1)
    """
    check_victim("certified_return", victim)
    check_kind("certified_return.ball", ball, LinfBall, "a LinfBall")
    check_kind("certified_return.game", game, ListedGame, "a ListedGame")
    _check_stateless(victim)
    solver = _Solver(victim, game, ball)
    clean = bound = 0.0
    for state, probability in game.first_states().items():
        worth = solver.worth(state)
        clean += probability * worth.clean
        bound += probability * worth.bound
    return CertifiedReturn(clean=clean, bound=bound, states=len(solver.known))


def _check_stateless(victim: NetworkVictim) -> None:
    where = "certified_return.victim"
    rule = "without memory: an attack changes what is remembered, and states do not tell it"
    size = victim.hidden_size
    check(size == 0, where, rule, f"hidden_size={size}", "Train it with recurrent=False.")
    network = victim.network
    one = network.of(0) if isinstance(network, SeparateAgents) else network
    plan = one.plan()
    inputs = [] if plan is None else [block.name for block in plan.inputs]
    beside = sorted(set(inputs).difference({"agents"}))
    remedy = "Train it with last_action=False."
    check(not beside, where, "acting on observations and ids alone", beside, remedy)


class _Worth(NamedTuple):
    clean: float
    bound: float


class _Solver(Generic[_StateT]):
    """Values of states, each worked out once."""

    def __init__(self, victim: NetworkVictim, game: ListedGame[_StateT], ball: LinfBall) -> None:
        self._victim, self._game, self._ball = victim, game, ball
        self._sizes, names = tuple(game.action_sizes), tuple(game.possible_agents)
        order = names if victim.agents is None else victim.agents
        where = "certified_return.game"
        check(set(names) <= set(order), where, f"of agents among {order}", names)
        fits = max(self._sizes) <= victim.num_actions
        check(fits, where, f"of at most {victim.num_actions} actions", self._sizes)
        self._agents = torch.tensor([order.index(name) for name in names], device=victim.device)
        numbers = torch.arange(victim.num_actions, device=victim.device)
        self._mask = numbers < torch.tensor(self._sizes, device=victim.device)[:, None]
        self.known: dict[_StateT, _Worth] = {}

    def worth(self, first: _StateT) -> _Worth:
        """Return the value of a state; a stack of its own, as episodes may be long."""
        waiting = [first]
        begun: dict[_StateT, tuple[_Joint, dict[_Joint, _Branch[_StateT]]]] = {}
        while waiting:
            state = waiting[-1]
            if state in self.known:
                waiting.pop()
                continue
            if state not in begun:
                greedy, possible = self._choices(state)
                joints = dict.fromkeys((greedy, *itertools.product(*possible)))
                branches = {joint: self._game.follow(state, joint) for joint in joints}
                begun[state] = greedy, branches
                unknown = {
                    after
                    for _, nexts in branches.values()
                    for after in nexts
                    if after not in self.known
                }
                again = begun.keys() & unknown
                rule = "a game whose states do not come again"
                check(not again, "certified_return.game", rule, sorted(map(repr, again)))
                if unknown:
                    waiting.extend(unknown)
                    continue
            greedy, branches = begun.pop(state)
            bound = min(self._value(branch).bound for branch in branches.values())
            self.known[state] = _Worth(self._value(branches[greedy]).clean, bound)
            waiting.pop()
        return self.known[first]

    def _value(self, branch: _Branch[_StateT]) -> _Worth:
        reward, nexts = branch
        clean = math.fsum(p * self.known[after].clean for after, p in nexts.items())
        bound = math.fsum(p * self.known[after].bound for after, p in nexts.items())
        return _Worth(reward + clean, reward + bound)

    @torch.no_grad()
    def _choices(self, state: _StateT) -> tuple[tuple[int, ...], list[list[int]]]:
        """Return the clean joint action, and what each agent may be made to play."""
        weight = next(self._victim.network.parameters())
        shown: NDArray[np.float64] = np.asarray(self._game.shown(state), np.float64)
        obs = torch.as_tensor(shown).to(weight)
        rows = LossRows(obs=obs, rows=Rows(mask=self._mask, agents=self._agents))
        greedy = rows.view(self._victim).logits(obs).argmax(dim=-1).tolist()
        possible = possible_actions(self._victim, rows, self._ball)
        return tuple(greedy), [row.nonzero()[:, 0].tolist() for row in possible]
