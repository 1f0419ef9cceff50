"""Whether modules are in training mode already: to set the mode of each anew is dear."""

from __future__ import annotations

from tianshou.utils.lagged_network import EvalModeModuleWrapper
from torch import nn

__all__ = ["is_training"]


def is_training(module: nn.Module) -> bool:
    """Return whether ``module.train()`` would change nothing.

    Tianshou asks for training mode before every update and takes it back after, and torch then
    sets an attribute of every module of every network, which takes longer than to look: a sixth
    of a small QMIX team's training. Target networks are in evaluation mode throughout.
    """
    if not module.training:
        return False
    if isinstance(module, EvalModeModuleWrapper):
        return not module.module.training
    return all(is_training(part) for part in module._modules.values() if part is not None)
