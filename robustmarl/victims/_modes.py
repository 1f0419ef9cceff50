"""Networks answer attacks in evaluation mode, whatever mode they are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["EvaluationMode"]

Answer = TypeVar("Answer")


class EvaluationMode:
    """Calls functions with those modules in evaluation mode whose mode matters.

    Statistics of a batch would be overwritten by what an attack shows, and dropout would make its
    gradients random. Modules are found once; a call asks for their flags only. A module that is
    in training mode gets its mode back, each its own.

    Args:
        network: all of its modules are looked at, including itself.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parts = [module for module in network.modules() if _depends_on_mode(module)]

    def call(self, function: Callable[[Tensor], Answer], obs: Tensor) -> Answer:
        """Return ``function(obs)``."""
        training = [module for module in self._parts if module.training]
        if not training:
            return function(obs)
        for module in training:
            module.training = False
        try:
            return function(obs)
        finally:
            for module in training:
                module.training = True


# Of torch's own modules these look at their mode; those of anybody else may.
_MODE_DEPENDENT = (
    _DropoutNd,
    _NormBase,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)


def _depends_on_mode(module: nn.Module) -> bool:
    """Return whether what ``module`` computes may depend on its mode."""
    if isinstance(module, nn.RNNBase):
        return bool(module.dropout)  # else untouched: cuDNN goes back through training mode only
    if isinstance(module, _MODE_DEPENDENT):
        return True
    return not type(module).__module__.startswith(("torch.nn.modules.", "robustmarl.networks"))
