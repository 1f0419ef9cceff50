"""The gradient of a plain network with respect to its input, derived by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PlainMLP"]

_RELU_BACKWARD = torch.ops.aten.threshold_backward.default  # one kernel each

_NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward

_TANH_BACKWARD = torch.ops.aten.tanh_backward.default


class PlainMLP:
    """A chain of linear layers, ReLU, Tanh and LayerNorm, with a hand-derived input gradient.

    At small batches autograd's bookkeeping costs more than the arithmetic. Layers are
    referenced, never copied, so the gradient is that of the current weights.
    """

    def __init__(self, first: nn.Linear, rest: list[nn.Module]) -> None:
        self._first, self._rest = first, rest

    @classmethod
    def of(cls, module: nn.Module) -> PlainMLP | None:
        """Return the plain MLP that ``module`` is, or None if it is anything else."""
        leaves = [leaf for leaf in _leaves(module) if not isinstance(leaf, nn.Identity)]
        known = all(isinstance(x, nn.Linear | nn.ReLU | nn.Tanh | nn.LayerNorm) for x in leaves)
        norms = [x for x in leaves if isinstance(x, nn.LayerNorm)]
        if not known or any(len(x.normalized_shape) != 1 for x in norms):
            return None
        if not leaves or not isinstance(leaves[0], nn.Linear):
            return None
        bends = [isinstance(x, nn.ReLU | nn.Tanh) for x in leaves]
        if any(one and other for one, other in pairwise(bends)):
            return None  # each overwrites its input, which must not be another's kept output
        return cls(leaves[0], leaves[1:])

    @torch.no_grad()
    def vjp(
        self, x: Tensor, cotangent: Callable[[Tensor], Tensor], extra: Tensor | None = None
    ) -> Tensor:
        """Return J(x)^T cotangent(output), (M, D).

        Args:
            x: input, (M, D).
            cotangent: maps the output (M, A) to its cotangent (M, A).
            extra: added to the first layer's pre-activation, (M, H), constant in ``x``.
        """
        kept: list[Any] = []
        x = nn.functional.linear(x, self._first.weight, self._first.bias)
        if extra is not None:
            x += extra
        for layer in self._rest:
            if isinstance(layer, nn.Linear):
                kept.append(None)
                x = nn.functional.linear(x, layer.weight, layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                shape = list(layer.normalized_shape)
                before = x
                x, mean, rstd = torch.native_layer_norm(
                    before, shape, layer.weight, layer.bias, layer.eps
                )
                kept.append((before, shape, mean, rstd))
            else:
                x = x.relu_() if isinstance(layer, nn.ReLU) else x.tanh_()
                kept.append(x)
        gradient = cotangent(x)
        for layer, saved in zip(reversed(self._rest), reversed(kept), strict=True):
            if isinstance(layer, nn.Linear):
                gradient = gradient @ layer.weight
            elif isinstance(layer, nn.LayerNorm):
                gradient = _NORM_BACKWARD(
                    gradient, *saved, layer.weight, layer.bias, [True, False, False]
                )[0]
            elif isinstance(layer, nn.ReLU):
                gradient = _RELU_BACKWARD(gradient, saved, 0)
            else:
                gradient = _TANH_BACKWARD(gradient, saved)
        return gradient @ self._first.weight


def _leaves(module: nn.Module) -> Iterable[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module
