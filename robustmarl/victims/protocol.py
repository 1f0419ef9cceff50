"""What attacks see of a policy: logits or means, and the gradient with respect to its input.

A victim is asked live: weights are never copied. ``victim.at(rows)`` binds what the attack does
not touch (:class:`Rows`), one row per agent and environment, and returns the
:class:`VictimView` that attacks call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from tianshou.algorithm.algorithm_base import Policy
from torch import Tensor

from robustmarl.joint import StepContext
from robustmarl.networks.calculus import Formula, Way
from robustmarl.typing import AnyAlgorithm

__all__ = [
    "UNBOUND",
    "Baselines",
    "HasVictim",
    "LossRows",
    "OutputLoss",
    "Rated",
    "Rows",
    "StepsAtOnce",
    "Victim",
    "VictimLike",
    "VictimView",
]


class OutputLoss(Protocol):
    """A loss on a victim's output that an attack raises."""

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits or means (M, A)."""

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d output, (M, A), up to a positive factor per row."""


@runtime_checkable
class VictimView(Protocol):
    """M bound rows of a victim; rows do not influence each other."""

    @property
    def continuous(self) -> bool:
        """Whether outputs are action means instead of logits."""

    @property
    def mask(self) -> Tensor | None:
        """Available actions, or action coordinates that exist, (M, A); None where all are."""

    @property
    def agents(self) -> Tensor | None:
        """Index of each row's agent, int64 (M,), None where it was not told."""

    def logits(self, obs: Tensor) -> Tensor:
        """Return logits (M, A) for observations (M, D), ``MASKED`` where unavailable."""

    def mean(self, obs: Tensor) -> Tensor:
        """Return mean actions (M, A) in [-1, 1] before clipping."""

    def output(self, obs: Tensor) -> Tensor:
        """Return ``mean(obs)`` if continuous, else ``logits(obs)``, (M, A)."""

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        """Return d loss / d obs, (M, D), up to a positive factor per row; touches no ``.grad``.

        ``loss`` is shown the output for ``obs`` and no other.
        """

    def advance(self, obs: Tensor) -> Tensor | None:
        """Return the hidden state (M, H) after ``obs`` was shown; None without memory."""


class StepsAtOnce(ABC):
    """A view that may take all steps of an attack in one call.

    A base class, not a protocol: attacks ask for it at every step of an episode.
    """

    @abstractmethod
    def sign_steps(self, way: Way, formula: Formula) -> tuple[Tensor, bool] | None:
        """Return where steps along the gradient's sign lead, or None where it has to be asked.

        Args:
            way: where they begin, how they are bounded, how many there are.
            formula: the loss that is raised; labels without a name are written to it.

        Returns:
            observations (M, D), and whether the gradients of the last step are finite.
        """


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Everything about M agent-steps that an attack or a loss term does not touch.

    Attributes:
        mask: available actions, or the action coordinates that exist, bool (M, A); None is all.
        obs_mask: the observation's coordinates that exist, bool (M, D); None is all. The others
            are padding of agents with smaller observations: a view shows them as zeros.
        hidden: hidden state before the observation, (M, H), detached; None is zeros.
        last_act: last actions, int64 (M,), -1 for none yet, or float (M, A); None is none yet.
        agents: index of each row's agent in the victim's own order, int64 (M,); None is agent 0.
        state: global state, (M, S); only victims that act on it need it.
        side: further inputs of the policy by name, (M, ...) each, which stay as they are while
            the observation is perturbed: beliefs, the neighbours' mean action, messages.

    Example:
        >>> rows = Rows(agents=torch.tensor([0, 1, 2]))
        >>> rows.select(torch.tensor([2, 0])).agents
        tensor([2, 0])
    """

    mask: Tensor | None = None
    obs_mask: Tensor | None = None
    hidden: Tensor | None = None
    last_act: Tensor | None = None
    agents: Tensor | None = None
    state: Tensor | None = None
    side: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, index: Tensor) -> Rows:
        """Return the rows ``index``, int64 (K,) or bool (M,)."""

        def pick(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return Rows(
            mask=pick(self.mask),
            obs_mask=pick(self.obs_mask),
            hidden=pick(self.hidden),
            last_act=pick(self.last_act),
            agents=pick(self.agents),
            state=pick(self.state),
            side={name: values[index] for name, values in self.side.items()},
        )


UNBOUND = Rows()
"""Rows of which nothing is told: all actions available, no memory, agent 0."""


class Victim(Protocol):
    """A live policy that attacks may query."""

    @property
    def continuous(self) -> bool:
        """Whether actions are vectors."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def hidden_size(self) -> int:
        """H, 0 for a policy without memory."""

    @property
    def agents(self) -> tuple[str, ...] | None:
        """Names of its agents in its own order, None where it does not tell agents apart."""

    @property
    def obs_size(self) -> int | None:
        """D, the size of the observations it acts on; None where any will do."""

    @property
    def num_actions(self) -> int | None:
        """A, the size of its outputs; None where any will do."""

    @property
    def acting_only(self) -> bool:
        """Whether it can be asked only while it acts itself: ``side`` needs its memory."""

    def side(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return what :class:`Rows` calls ``side``, (E, N, ...) each, of one tick of its team."""

    def at(self, rows: Rows = UNBOUND) -> VictimView:
        """Return the view of M rows."""


@runtime_checkable
class Rated(Protocol):
    """A policy that says how likely it was to act as it did."""

    def log_prob(self, output: Tensor, act: Tensor) -> Tensor:
        """Return log-probabilities (...,) of actions, given logits or means (..., A)."""


class HasVictim(Protocol):
    """An algorithm or policy of this package, which knows the view of it that attacks query."""

    def victim(self) -> Victim | None:
        """Return the live view; None if there is nothing to query."""


class Baselines(Protocol):
    """A model of Stable-Baselines3, or of a library that has taken over its interface."""

    @property
    def policy(self) -> Any:
        """Its networks, a torch module."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, Any]:
        """Return actions for observations, and its memory."""


VictimLike: TypeAlias = (
    Victim | HasVictim | Policy | AnyAlgorithm | Baselines | Callable[[Tensor], Tensor]
)
"""What :func:`~robustmarl.victims.as_victim` takes: policies and algorithms of this package, of
Tianshou and of Stable-Baselines3, modules and functions of observations."""


@dataclass(frozen=True, kw_only=True)
class LossRows:
    """M agent-steps an algorithm learns from.

    Attributes:
        obs: clean observations, (M, D).
        rows: all else that its policy acts on.

    Example:
        >>> rows = LossRows(obs=torch.eye(3), rows=Rows(agents=torch.tensor([0, 1, 2])))
        >>> len(rows), rows.select(torch.tensor([2])).obs
        (3, tensor([[0., 0., 1.]]))
    """

    obs: Tensor
    rows: Rows = field(default_factory=Rows)

    def __len__(self) -> int:
        return len(self.obs)

    def select(self, index: Tensor) -> LossRows:
        """Return the rows ``index``, int64 (K,) or bool (M,)."""
        return LossRows(obs=self.obs[index], rows=self.rows.select(index))

    def view(self, victim: Victim) -> VictimView:
        """Return ``victim`` bound to these rows."""
        return victim.at(self.rows)
