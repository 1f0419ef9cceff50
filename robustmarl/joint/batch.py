"""Episodes of one team as a learner samples them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["joint_state", "last_actions"]


def joint_state(state: Tensor, per_agent: bool) -> Tensor:
    """Return states (..., S) of (..., S) or, per agent, (..., N, S)."""
    return state.flatten(-2) if per_agent else state


def last_actions(act: Tensor, *, terminal: bool) -> Tensor:
    """Return the action before each step, (B, T, N, ...) or T+1 with the terminal step."""
    none = torch.zeros_like(act[:, :1]) if act.is_floating_point() else -torch.ones_like(act[:, :1])
    return torch.cat([none, act if terminal else act[:, :-1]], dim=1)
