"""The gradient of a plain network with respect to its input, derived by hand.

Every kind of layer has one function here, which returns its output and its pullback: what maps
the gradient with respect to the output to that with respect to the input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl.networks.calculus.plan import Affine, Gru, Layer, Norm, Plan, Relu, Tanh

__all__ = ["InputGradient"]

Pullback = Callable[[Tensor], Tensor]
Forward = Callable[[Tensor], tuple[Tensor, Pullback]]

# What autograd itself calls backward, one kernel each: composed of smaller operations they would
# cost more and round differently.
_RELU_BACKWARD = torch.ops.aten.threshold_backward.default
_TANH_BACKWARD = torch.ops.aten.tanh_backward.default
_NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward


class InputGradient:
    """The gradient of a network of affine layers, ReLU, Tanh and LayerNorm.

    At small batches autograd's bookkeeping costs more than the arithmetic. Layers are
    referenced, never copied, so the gradient is that of the current weights.
    """

    def __init__(self, first: nn.Linear, rest: list[Forward]) -> None:
        self._first, self._rest = first, rest

    @classmethod
    def of(cls, plan: Plan | None) -> InputGradient | None:
        """Return the input gradient of a network, or None where autograd has to find it."""
        if plan is None or plan.columns is not None:
            return None
        if any(_bends(one) and _bends(other) for one, other in pairwise(plan.rest)):
            return None  # a bend overwrites its input, which the one before keeps
        rest = []
        for layer in plan.rest:
            forward = _forward_of(layer)
            if forward is None:
                return None
            rest.append(forward)
        return cls(plan.first.module, rest)

    @torch.no_grad()
    def vjp(
        self, x: Tensor, cotangent: Callable[[Tensor], Tensor], extra: Tensor | None = None
    ) -> Tensor:
        """Return J(x)^T cotangent(output), (M, D).

        Args:
            x: input, (M, D).
            cotangent: maps the output (M, A) to its cotangent (M, A).
            extra: added to the first layer's output, (M, H), constant in ``x``.
        """
        pullbacks = []
        x = F.linear(x, self._first.weight, self._first.bias)
        if extra is not None:
            x += extra
        for forward in self._rest:
            x, pullback = forward(x)
            pullbacks.append(pullback)
        gradient = cotangent(x)
        for pullback in reversed(pullbacks):
            gradient = pullback(gradient)
        return gradient @ self._first.weight


def _bends(layer: Layer) -> bool:
    return isinstance(layer, Relu | Tanh)


def _forward_of(layer: Layer) -> Forward | None:
    match layer:
        case Affine(module):
            return partial(_affine, module)
        case Relu():
            return _relu
        case Tanh():
            return _tanh
        case Norm(module):
            return partial(_norm, module)
        case Gru():
            return None
    assert_never(layer)


def _affine(module: nn.Linear, x: Tensor) -> tuple[Tensor, Pullback]:
    weight = module.weight
    return F.linear(x, weight, module.bias), lambda gradient: gradient @ weight


def _relu(x: Tensor) -> tuple[Tensor, Pullback]:
    y = x.relu_()  # in place: nobody else reads the layer before, and memory is not allocated
    return y, lambda gradient: _RELU_BACKWARD(gradient, y, 0)


def _tanh(x: Tensor) -> tuple[Tensor, Pullback]:
    y = x.tanh_()  # in place, as above
    return y, lambda gradient: _TANH_BACKWARD(gradient, y)


def _norm(module: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Pullback]:
    shape, weight, bias = list(module.normalized_shape), module.weight, module.bias
    y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, module.eps)

    def pullback(gradient: Tensor) -> Tensor:
        # The mask asks for the input's gradient alone, not for those of weight and bias.
        wanted = [True, False, False]
        found: Tensor = _NORM_BACKWARD(gradient, x, shape, mean, rstd, weight, bias, wanted)[0]
        return found

    return y, pullback
