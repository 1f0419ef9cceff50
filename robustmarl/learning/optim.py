"""Optimizer factories, and their state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.optim import OptimizerFactory, TorchOptimizerFactory

from robustmarl._checks import check_kind, check_number

__all__ = ["adam", "check_factory", "check_max_grad_norm", "own_state_dict"]


def adam(lr: float, eps: float = 1e-8) -> OptimizerFactory:
    """Return Adam with fused kernels: for small networks the loop over tensors is the cost.

    Args:
        lr: step size, > 0.
        eps: added to the denominator, > 0; torch's default, PPO's learners take 1e-5.

    Example:
        >>> from robustmarl import algorithms, envs
        >>> team = algorithms.VDN.for_env(envs.climbing(), optim=adam(lr=1e-3), seed=0)
        >>> team.optim._optim.param_groups[0]["lr"]
        0.001
    """
    lr = check_number("adam.lr", lr, 0.0, open_low=True)
    eps = check_number("adam.eps", eps, 0.0, open_low=True)
    return TorchOptimizerFactory(torch.optim.Adam, lr=lr, eps=eps, fused=True)


def check_factory(where: str, factory: object) -> None:
    """Raise ``TypeError`` unless ``factory`` makes optimizers; the message says what to give."""
    remedy = "Give adam(5e-4) of robustmarl.learning, or one of Tianshou's."
    check_kind(where, factory, OptimizerFactory, "an optimizer factory", remedy)


def check_max_grad_norm(where: str, max_grad_norm: float | None) -> None:
    """Raise unless gradients can be clipped at this global norm; None clips none."""
    if max_grad_norm is not None:
        check_number(where, max_grad_norm, 0.0, open_low=True)


def own_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that Tianshou may take the optimizers from.

    Their state is copied, too: torch's optimizers keep the very tensors they are given, and
    would go on to change them.
    """
    optimizers = Algorithm._STATE_DICT_KEY_OPTIMIZERS
    copied = dict(state_dict)  # Tianshou removes the optimizers' entry from what it is given
    if optimizers in copied:
        copied[optimizers] = copy.deepcopy(copied[optimizers])
    return copied
