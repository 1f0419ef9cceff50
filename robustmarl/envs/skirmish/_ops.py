"""One code over numpy and torch: what their arrays share, and the few operations they do not.

``Array`` and ``Functions`` name what the battles use of both libraries alike. Neither library's
own annotations say that it fits (parameters have other names), so ``ops_for`` asserts it; the
tests step both and compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import EllipsisType
from typing import ClassVar, Literal, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Arena", "Array", "Functions", "Ops", "ops_for"]

Kind: TypeAlias = Literal["float32", "int64", "bool"]
Shape: TypeAlias = tuple[int, ...]
Key: TypeAlias = "int | slice | EllipsisType | Array | NDArray[np.int64] | None"
Value: TypeAlias = "Array | float"


class Array(Protocol):
    """A numpy array or a torch tensor."""

    @property
    def shape(self) -> Shape: ...
    @property
    def T(self) -> Array: ...  # noqa: N802 - numpy's name, and torch's
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Array]: ...
    def __getitem__(self, key: Key | tuple[Key, ...], /) -> Array: ...
    def __setitem__(self, key: Key | tuple[Key, ...], value: Value, /) -> None: ...
    def __bool__(self) -> bool: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __abs__(self) -> Array: ...
    def __neg__(self) -> Array: ...
    def __invert__(self) -> Array: ...
    def __add__(self, other: Value, /) -> Array: ...
    def __radd__(self, other: float, /) -> Array: ...
    def __sub__(self, other: Value, /) -> Array: ...
    def __mul__(self, other: Value, /) -> Array: ...
    def __rmul__(self, other: float, /) -> Array: ...
    def __truediv__(self, other: Value, /) -> Array: ...
    def __and__(self, other: Array, /) -> Array: ...
    def __or__(self, other: Array, /) -> Array: ...
    def __lt__(self, other: Value, /) -> Array: ...
    def __le__(self, other: Value, /) -> Array: ...
    def __gt__(self, other: Value, /) -> Array: ...
    def __ge__(self, other: Value, /) -> Array: ...
    def __eq__(self, other: Value, /) -> Array: ...  # type: ignore[override]
    def __ne__(self, other: Value, /) -> Array: ...  # type: ignore[override]
    def reshape(self, *shape: int) -> Array: ...
    def all(self) -> Array: ...
    def any(self, axis: int = ...) -> Array: ...
    def sum(self, axis: int) -> Array: ...


class _Into(Protocol):
    """A function of one array."""

    def __call__(self, values: Array, /, *, out: Array) -> Array: ...


class _IntoFromTwo(Protocol):
    """A function of two arrays, element by element; ``out`` may be one of them."""

    def __call__(self, one: Array, other: Value, /, *, out: Array = ...) -> Array: ...


class Functions(Protocol):
    """The functions of ``numpy`` and of ``torch`` that have one name and one meaning."""

    add: _IntoFromTwo
    subtract: _IntoFromTwo
    multiply: _IntoFromTwo
    divide: _IntoFromTwo
    minimum: _IntoFromTwo
    maximum: _IntoFromTwo
    less: _IntoFromTwo
    less_equal: _IntoFromTwo
    greater: _IntoFromTwo
    greater_equal: _IntoFromTwo
    logical_and: _IntoFromTwo
    logical_not: _Into
    sqrt: _Into
    float64: object

    def argmin(self, values: Array, /, *, axis: int) -> Array: ...
    def clip(self, values: Array, low: float, high: float, /) -> Array: ...
    def moveaxis(self, values: Array, source: int | Shape, to: int | Shape, /) -> Array: ...
    def sum(self, values: Array, /, *, axis: int, dtype: object) -> Array: ...
    def take(self, values: Array, flat_index: Array, /) -> Array: ...
    def where(self, condition: Array, one: Value, other: Value, /) -> Array: ...
    def zeros_like(self, values: Array, /) -> Array: ...


class Ops(Protocol):
    """What numpy and torch do by different names."""

    @property
    def xp(self) -> Functions:
        """The functions that they do share."""

    def zeros(self, shape: Shape, dtype: Kind = "float32") -> Array:
        """Return new memory, all zero."""

    def array(self, values: ArrayLike, dtype: Kind = "float32") -> Array:
        """Return numbers as an array."""

    def copy(self, array: Array) -> Array:
        """Return a copy in memory of its own."""

    def arange(self, n: int) -> Array:
        """Return 0, ..., n - 1, int64."""

    def pick(self, source: Array, index: Array, out: Array) -> Array:
        """Gather columns of ``source`` (F, L) at ``index`` (...) into ``out`` (F, ...)."""

    def put_where(self, target: Array, source: Array, where: Array) -> None:
        """Overwrite ``target`` with ``source`` where a flag is set; all broadcast."""

    def scatter(self, index: Array, amount: Array, out: Array) -> Array:
        """Sum ``amount`` into ``out`` at flat ``index``; both have ``out``'s shape."""

    def sum(self, values: Array, axis: int, out: Array) -> None:
        """Sum in double precision, so that the order does not show in the float32 result."""

    def some(self, flags: Array) -> bool:
        """Return whether any flag is set, where that is cheap to know; else True."""

    def tensor(self, array: Array) -> Tensor:
        """Return an array as a tensor that shares its memory."""

    def bring(self, tensor: Tensor) -> Array:
        """Return a tensor as an array of this kind."""

    def host(self, array: Array) -> NDArray[np.generic]:
        """Return an array as numpy's, on the CPU."""


class _NumpyOps:
    """Arrays on the CPU."""

    xp: ClassVar = np

    def zeros(self, shape: Shape, dtype: Kind = "float32") -> NDArray[np.generic]:
        return np.zeros(shape, dtype)

    def array(self, values: ArrayLike, dtype: Kind = "float32") -> NDArray[np.generic]:
        return np.array(values, dtype)

    def copy(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array.copy()

    def arange(self, n: int) -> NDArray[np.int64]:
        return np.arange(n, dtype=np.int64)

    def pick(
        self, source: NDArray[np.float32], index: NDArray[np.int64], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return np.take(source, index, axis=1, out=out, mode="clip")

    def put_where(
        self, target: NDArray[np.float32], source: NDArray[np.float32], where: NDArray[np.bool_]
    ) -> None:
        np.copyto(target, source, where=where)

    def scatter(
        self, index: NDArray[np.int64], amount: NDArray[np.float32], out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        sums = np.bincount(index.reshape(-1), amount.reshape(-1), out.size)
        out[...] = sums.reshape(out.shape)
        return out

    def sum(self, values: NDArray[np.float32], axis: int, out: NDArray[np.float32]) -> None:
        out[...] = np.add.reduce(values, axis, np.float64)

    def some(self, flags: NDArray[np.bool_]) -> bool:
        return bool(flags.any())

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array)

    def bring(self, tensor: Tensor) -> NDArray[np.generic]:
        return tensor.cpu().numpy()

    def host(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array


class _TorchOps:
    """Tensors on any device."""

    xp: ClassVar = torch

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def zeros(self, shape: Shape, dtype: Kind = "float32") -> Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=self.device)

    def array(self, values: ArrayLike, dtype: Kind = "float32") -> Tensor:
        kind: torch.dtype = getattr(torch, dtype)
        return torch.as_tensor(np.asarray(values), dtype=kind, device=self.device)

    def copy(self, array: Tensor) -> Tensor:
        return array.clone()

    def arange(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)

    def pick(self, source: Tensor, index: Tensor, out: Tensor) -> Tensor:
        return out.copy_(source[:, index])

    def put_where(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        target.copy_(torch.where(where, source, target))

    def scatter(self, index: Tensor, amount: Tensor, out: Tensor) -> Tensor:
        out.zero_()
        out.view(-1).scatter_add_(0, index.reshape(-1), amount.reshape(-1))
        return out

    def sum(self, values: Tensor, axis: int, out: Tensor) -> None:
        out.copy_(torch.sum(values, axis, dtype=torch.float64))

    def some(self, flags: Tensor) -> bool:
        return True  # asking would wait for the device

    def tensor(self, array: Tensor) -> Tensor:
        return array

    def bring(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def host(self, array: Tensor) -> NDArray[np.generic]:
        return array.cpu().numpy()


def ops_for(backend: str, device: torch.device) -> Ops:
    """Return the operations of torch, if that is the ``backend``, else numpy's."""
    return cast("Ops", _TorchOps(device) if backend == "torch" else _NumpyOps())


class Arena:
    """Scratch memory that batches of different sizes share.

    Without ``sizes`` it hands out new memory and counts it; with them it hands out slices of one
    block per kind.

    Args:
        ops: numpy's or torch's operations.
        sizes: elements of each kind that will be asked for at most.

    Attributes:
        used: elements of each kind handed out.
    """

    def __init__(self, ops: Ops, sizes: dict[Kind, int] | None = None) -> None:
        self._ops = ops
        self._blocks = {kind: ops.zeros((size,), kind) for kind, size in (sizes or {}).items()}
        self.used: dict[Kind, int] = {"float32": 0, "int64": 0, "bool": 0}

    def take(self, *shape: int, kind: Kind = "float32") -> Array:
        """Return an array of a shape; what was handed out after :meth:`rewind` is shared."""
        begin, size = self.used[kind], math.prod(shape)
        self.used[kind] = begin + size
        if not self._blocks:
            return self._ops.zeros(shape, kind)
        return self._blocks[kind][begin : begin + size].reshape(*shape)

    def rewind(self) -> None:
        """Begin anew: the next arrays lie where the first ones did."""
        self.used = dict.fromkeys(self.used, 0)
