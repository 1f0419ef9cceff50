"""One reading of a network: its layers as typed values, in the order in which they are applied.

Input gradients (:class:`~robustmarl.networks.calculus.InputGradient`), compiled steps along them
(:class:`~robustmarl.networks.calculus.SignSteps`) and products of score functions
(:mod:`~robustmarl.networks.calculus.scores`) walk a :class:`Plan`; only this module asks what a
torch module is. A new kind of layer is a class in :data:`Layer`, a case in :func:`_read`
and one in each operation, which ends in ``assert_never``: mypy names those that are missing.

Layers refer to modules and tables, never to copies of weights, so whatever walks a plan sees
them as they are at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = [
    "Affine",
    "Gru",
    "Input",
    "Layer",
    "Norm",
    "OneHot",
    "Plan",
    "Relu",
    "Tanh",
    "Vector",
]


class Affine(NamedTuple):
    """x -> W x + b."""

    module: nn.Linear


class Relu(NamedTuple):
    """x -> max(x, 0)."""


class Tanh(NamedTuple):
    """x -> tanh x."""


class Norm(NamedTuple):
    """LayerNorm over the last axis."""

    module: nn.LayerNorm


class Gru(NamedTuple):
    """One step of a GRU of one layer: (x, hidden state) -> the next hidden state."""

    module: nn.GRU


Layer = Affine | Relu | Tanh | Norm | Gru
"""Whatever may stand in a plan."""


class OneHot(NamedTuple):
    """One-hot inputs of the first layer, given as indices.

    Looking rows up in a table is the linear map of one-hot vectors without building them.

    Attributes:
        name: what the indices are called where they are given.
        table: the block's weight, (K, H).
        optional: whether an index may be -1 for none, which adds nothing.
    """

    name: str
    table: Tensor
    optional: bool = False

    def added(self, index: Tensor) -> Tensor:
        """Return what indices (...,) int64 add to the first layer's output, (..., H)."""
        # torch's, which F.embedding calls after looking at options that are not used here.
        if not self.optional:
            return torch.embedding(self.table, index.to(self.table.device))
        rows = torch.embedding(self.table, index.clamp(min=0))
        return rows * (index >= 0).unsqueeze(-1)

    def vectors(self, index: Tensor) -> Tensor:
        """Return the one-hot vectors of indices (...,), (..., K) like the table."""
        numbers = torch.arange(len(self.table), device=index.device)
        return (index.unsqueeze(-1) == numbers).to(self.table)  # none of them for -1


class Vector(NamedTuple):
    """Inputs of the first layer that are given as vectors.

    Attributes:
        name: what they are called where they are given.
        table: the block's weight, (K, H).
    """

    name: str
    table: Tensor

    def added(self, vectors: Tensor) -> Tensor:
        """Return what vectors (..., K) add to the first layer's output, (..., H)."""
        return vectors @ self.table

    def vectors(self, vectors: Tensor) -> Tensor:
        """Return the vectors themselves."""
        return vectors


Input = OneHot | Vector
"""A block of the first layer's input that is not the observation."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a network does to an observation.

    Attributes:
        first: reads the observation.
        rest: the layers after it, in order.
        inputs: further blocks of the first layer's input, in the order in which they are added.
        columns: the observation's coordinates that the first layer reads; None is all.
    """

    first: Affine
    rest: tuple[Layer, ...]
    inputs: tuple[Input, ...] = ()
    columns: list[int] | None = None

    @classmethod
    def of(
        cls,
        *modules: nn.Module,
        inputs: tuple[Input, ...] = (),
        columns: list[int] | None = None,
    ) -> Plan | None:
        """Return the plan of ``modules`` one after the other, or None if it cannot be read.

        Args:
            modules: what is applied, in order; a sequential one stands for what it holds, a GRU
                for one step of it.
            inputs: blocks of the first layer's input besides the observation.
            columns: the observation's coordinates that the first layer reads.
        """
        layers: list[Layer] = []
        for module in modules:
            if not _read(module, layers):
                return None
        if not layers or not isinstance(layers[0], Affine):
            return None
        return cls(layers[0], tuple(layers[1:]), inputs, columns)


# What the modules that _read knows do when they are called.
_FORWARDS = {
    kind.forward
    for kind in (nn.Sequential, nn.Identity, nn.Linear, nn.ReLU, nn.Tanh, nn.LayerNorm, nn.GRU)
}


def _read(module: nn.Module, layers: list[Layer]) -> bool:
    """Append the layers that ``module`` stands for, and return whether it is known."""
    # A subclass or an object with a ``forward`` of its own, or a hook (``nn.utils.weight_norm``
    # works out the weight in one), would make the plan tell of another network than the one that
    # acts. A parametrized weight is worked out at each access, and is no parameter; in training
    # mode that may change it (``spectral_norm``).
    if type(module).forward not in _FORWARDS or "forward" in vars(module):
        return False
    if is_parametrized(module):
        return False
    if module._forward_pre_hooks or module._forward_hooks:
        return False
    match module:
        case nn.Linear():
            layers.append(Affine(module))
        case nn.ReLU():
            layers.append(Relu())
        case nn.Tanh():
            layers.append(Tanh())
        case nn.LayerNorm(normalized_shape=(_,)):
            layers.append(Norm(module))
        case nn.GRU() if _is_one_cell(module):
            layers.append(Gru(module))
        case nn.Sequential():
            for part in module:
                if not _read(part, layers):
                    return False
        case nn.Identity():
            pass
        case _:
            return False
    return True


def _is_one_cell(gru: nn.GRU) -> bool:
    """Return whether one cell with biases does all that ``gru`` does at a step."""
    further = gru.num_layers > 1 or gru.bidirectional or gru.proj_size or gru.batch_first
    return bool(gru.bias) and not further
