"""What compiled code reads of networks and of tensors, where there is any."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.networks.calculus.plan import Affine, Gru, Norm, Plan, Relu, Tanh

__all__ = ["Network", "array", "compiled", "fits", "read_network"]

_NOTHING = np.zeros((0, 0), np.float32)


@cache
def compiled(name: str) -> Any:
    """Return a module of compiled code by its name, None where there can be none."""
    try:
        numba = import_module("numba")
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:
        return None  # interpreted it would take minutes
    try:
        return import_module(f"robustmarl.networks.calculus._compiled.{name}")
    except (OSError, RuntimeError, numba.core.errors.NumbaError):
        return None  # no place to keep what is compiled, or a machine that it is not compiled for


class Network(NamedTuple):
    """A network as compiled code reads it.

    Attributes:
        layers: kind, fan-in, fan-out and addresses of weight and bias, int64 (L, 5).
        eps: of a LayerNorm, (L,).
        weights: what stands at the addresses. A weight that is worked out at each access (by a
            property, or a parametrization that came after the plan) would be gone without it.
    """

    layers: NDArray[np.int64]
    eps: NDArray[np.float32]
    weights: list[Tensor | None]


def read_network(kernel: Any, plan: Plan) -> Network | None:
    """Return a network as it is now, None where compiled code cannot read it.

    It is read without the columns of ``plan``: those that the first layer reads are all it knows.
    """
    layers, eps, width = [], [], plan.first.module.in_features
    weights: list[Tensor | None] = []
    for layer in (plan.first, *plan.rest):
        fan_in, weight, bias, small = width, None, None, 0.0
        match layer:
            case Affine(module):
                kind, weight, bias = kernel.AFFINE, module.weight, module.bias
                width = weight.shape[0]
                known = _stands(weight, (width, fan_in)) and _stands(bias, (width,))
            case Norm(module):
                kind, weight, bias, small = kernel.NORM, module.weight, module.bias, module.eps
                known = module.normalized_shape == (width,)
                known = known and _stands(weight, (width,)) and _stands(bias, (width,))
            case Relu():
                kind, known = kernel.RELU, True
            case Tanh():
                kind, known = kernel.TANH, True
            case Gru():
                return None
            case _:
                assert_never(layer)
        if not known:
            return None
        layers.append((kind, fan_in, width, _address(weight), _address(bias)))
        eps.append(small)
        weights += (weight, bias)
    return Network(np.array(layers, np.int64), np.array(eps, np.float32), weights)


def fits(values: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bool:
    """Return whether ``values``, if there are any, can be read by compiled code."""
    if values is None:
        return True
    return values.dtype is dtype and values.is_cpu and values.shape == shape


def array(values: Tensor | None, otherwise: NDArray[Any] = _NOTHING) -> NDArray[Any]:
    """Return the numbers of a tensor on the CPU, ``otherwise`` for None."""
    return otherwise if values is None else values.detach().contiguous().numpy()


def _stands(weight: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Return whether ``weight`` can be read from its address."""
    return weight is None or (fits(weight, shape) and weight.is_contiguous())


def _address(weight: Tensor | None) -> int:
    return 0 if weight is None else weight.data_ptr()
