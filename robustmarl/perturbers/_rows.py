"""The rows of joint arrays on which an attack is called."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["AllRows", "AttackedRows", "ChosenRows"]


class AttackedRows(Protocol):
    """Rows (M, ...) of joint arrays (E, N, ...), which attacks take."""

    attacked: Tensor
    """Who is attacked, bool (E, N)."""

    agents: Tensor
    """The agent of each row, int64 (M,)."""

    def pick(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, N, ...)."""

    def pick_envs(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, ...), which agents share."""

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with ``values`` (M, ...) where agents are attacked.

        Values of a victim with smaller observations leave the last coordinates as they are.
        """


class ChosenRows:
    """Just those who are attacked; the host has to know them.

    Args:
        attacked: bool (E, N).
        on_cpu: whether it is on the CPU, where numpy is faster; asking it is dear in a hot loop.
    """

    def __init__(self, attacked: Tensor, on_cpu: bool = False) -> None:
        self.attacked, self.on_cpu = attacked, on_cpu
        if on_cpu:
            self.envs, self.agents = map(torch.from_numpy, attacked.numpy().nonzero())
        else:
            self.envs, self.agents = attacked.nonzero().unbind(1)
        self._everybody = len(self.envs) == attacked.numel()  # as a rule: then rows are a view

    def pick(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, N, ...)."""
        return values.flatten(0, 1) if self._everybody else values[self.envs, self.agents]

    def pick_envs(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, ...)."""
        return values[self.envs]

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with ``values`` (M, ...) in these rows."""
        same = values.shape[1:] == others.shape[2:]
        if same and self._everybody:
            return values.view(others.shape)
        into = others.clone()
        if same:
            into[self.envs, self.agents] = values
        else:
            into[self.envs, self.agents, : values.shape[1]] = values
        return into


class AllRows:
    """All rows of the agents that may be attacked; who is not, keeps what is clean.

    An accelerator need not be waited for: which rows there are does not depend on what it holds.

    Args:
        attacked: bool (E, N), False for all but ``agents``.
        agents: who may be attacked, int64 (K,).
    """

    def __init__(self, attacked: Tensor, agents: Tensor) -> None:
        self.attacked = attacked
        self._agents, self._everybody = agents, len(agents) == attacked.shape[1]
        self._shape = (len(attacked), len(agents))
        self.agents = agents.repeat(len(attacked))

    def pick(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, N, ...)."""
        return (values if self._everybody else values[:, self._agents]).flatten(0, 1)

    def pick_envs(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) of ``values`` (E, ...)."""
        return values.unsqueeze(1).expand(*self._shape, *values.shape[1:]).flatten(0, 1)

    def spread(self, values: Tensor, others: Tensor) -> Tensor:
        """Return ``others`` (E, N, ...) with ``values`` (M, ...) where agents are attacked."""
        into, found = others.clone(), values.view(*self._shape, *values.shape[1:])
        if values.shape[1:] == others.shape[2:]:
            into[:, self._agents] = found
        else:
            into[:, self._agents, : values.shape[1]] = found
        attacked = self.attacked.view(*self.attacked.shape, *[1] * (others.dim() - 2))
        return torch.where(attacked, into, others)
