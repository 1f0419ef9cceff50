"""The other teams in a game, and what is cut out for each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.data.controllers import Controller
from robustmarl.joint import TeamSpec

__all__ = ["Opponent", "Pick", "whole", "with_rows"]


class Opponent:
    """Another team's controller with its memory."""

    def __init__(
        self, number: int, spec: TeamSpec, team: str, controller: Controller, size: int
    ) -> None:
        self.number, self.controller = number, controller
        own = spec.of_team(team)
        controller.check_spec(own)
        self.rows = torch.tensor(spec.team_indices(team))
        self.pick = Pick(self.rows, own.obs_size, own.num_actions)
        self.continuous = spec.continuous
        self.last_act = own.empty(size, device=controller.device)["act"]
        shape = (size, own.num_agents, controller.hidden_size)
        width = controller.hidden_size
        self.hidden = torch.zeros(shape, device=controller.device) if width else None

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Forget the episodes of the environments ``rows``."""
        self.last_act = with_rows(self.last_act, rows, 0 if self.continuous else -1)
        if self.hidden is not None:
            self.hidden[rows] = 0.0


class Pick:
    """Cuts a team's rows, and its own padding, out of joint arrays (E, N, ...)."""

    def __init__(self, rows: Tensor, obs_size: int, num_actions: int) -> None:
        self.rows, self._obs, self._act = rows, obs_size, num_actions

    def __call__(self, values: Tensor) -> Tensor:
        """Return the team's slice of ``values``."""
        own = values[:, self.rows.to(values.device)]
        if values.dim() == 3:
            own = own[..., : self._act if values.dtype == torch.bool else self._obs]
        return own


def whole(values: Tensor) -> Tensor:
    """Return ``values``: the only team's slice."""
    return values


def with_rows(values: Tensor, rows: NDArray[np.int64], value: int) -> Tensor:
    """Return a copy with ``value`` in these rows; what is given may be a script's own tensor."""
    if values.device.type != "cpu":
        return values.index_fill(0, torch.as_tensor(rows, device=values.device), value)
    copy = values.numpy().copy()
    copy[rows] = value
    return torch.from_numpy(copy)
