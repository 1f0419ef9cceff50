"""Weights and episodes, compared bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustmarl.joint import JointBatch

__all__ = ["same_episodes", "same_tensors", "weights_of"]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's weights by name."""
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether both have the same names, each with the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same_episodes(one: JointBatch, other: JointBatch) -> bool:
    """Return whether all arrays of two batches are the same."""
    return same_tensors(one.flat(), other.flat())
