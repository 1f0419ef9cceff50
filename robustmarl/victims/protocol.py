"""What attacks see of a policy: logits or means, and the gradient with respect to its input.

A victim is asked live: weights are never copied. ``victim.at(...)`` fixes what the attack does
not touch (mask, hidden state, last action, agent index, global state) for M rows, one row per
agent and environment, and returns the bound :class:`VictimView` that attacks call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["OutputLoss", "Victim", "VictimRows", "VictimView"]


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
        """Available actions (M, A), None where all are."""

    @property
    def agents(self) -> Tensor | None:
        """Index of each row's agent, int64 (M,), None where it was not told."""

    def logits(self, obs: Tensor) -> Tensor:
        """Return logits (M, A) for observations (M, D), ``MASKED`` where unavailable."""

    def mean(self, obs: Tensor) -> Tensor:
        """Return mean actions (M, A) in [-1, 1] before clipping."""

    def output(self, obs: Tensor) -> Tensor:
        """Return ``mean(obs)`` if continuous, else ``logits(obs)``."""

    def input_gradient(self, obs: Tensor, loss: OutputLoss) -> Tensor:
        """Return d loss / d obs, (M, D), up to a positive factor per row; touches no ``.grad``.

        ``loss`` is shown the output for ``obs`` and no other.
        """

    def advance(self, obs: Tensor) -> Tensor | None:
        """Return the hidden state (M, H) after ``obs`` was shown; None without memory."""


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

    def at(
        self,
        mask: Tensor | None = None,
        hidden: Tensor | None = None,
        last_act: Tensor | None = None,
        agents: Tensor | None = None,
        state: Tensor | None = None,
    ) -> VictimView:
        """Return the view of M rows.

        Args:
            mask: available actions, bool (M, A); None: all.
            hidden: hidden state before the observation, (M, H); None: zeros.
            last_act: last actions, int64 (M,) or float (M, A); None: none yet. -1 is no action.
            agents: index of each row's agent, int64 (M,); None: all agent 0.
            state: global state, (M, S); only victims that act on it need it.
        """


@dataclass(frozen=True, kw_only=True)
class VictimRows:
    """M rows an algorithm learns from, with all that its policy needs to act on them.

    Attributes:
        obs: clean observations, (M, D).
        mask: available actions, bool (M, A), or None.
        hidden: hidden state before the observation, (M, H), detached, or None.
        last_act: last actions, (M,) or (M, A), or None.
        agents: index of each row's agent, int64 (M,), or None.
    """

    obs: Tensor
    mask: Tensor | None = None
    hidden: Tensor | None = None
    last_act: Tensor | None = None
    agents: Tensor | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def select(self, index: Tensor) -> VictimRows:
        """Return the rows ``index``, int64 (K,) or bool (M,)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen: Any = {k: None if v is None else v[index] for k, v in values.items()}
        return VictimRows(**chosen)

    def view(self, victim: Victim) -> VictimView:
        """Return ``victim`` bound to these rows."""
        return victim.at(self.mask, self.hidden, self.last_act, self.agents)
