"""The few operations that numpy and torch do not share by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["NumpyOps", "TorchOps", "ops_for"]


class NumpyOps:
    """Arrays on the CPU."""

    xp: Any = np

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return np.zeros(shape, dtype)

    def array(self, values: Any, dtype: str = "float32") -> Any:
        return np.array(values, dtype)

    def arange(self, n: int) -> Any:
        return np.arange(n, dtype=np.int64)

    def pick(self, source: Any, index: Any, out: Any) -> Any:
        """Gather columns of ``source`` (F, L) at ``index`` (...) into ``out`` (F, ...)."""
        return np.take(source, index, axis=1, out=out, mode="clip")

    def put_where(self, target: Any, source: Any, where: Any) -> None:
        np.copyto(target, source, where=where)

    def scatter(self, index: Any, amount: Any, out: Any) -> Any:
        """Sum ``amount`` into ``out`` at flat ``index``; both have ``out``'s shape."""
        sums = np.bincount(index.reshape(-1), amount.reshape(-1), out.size)
        out[...] = sums.reshape(out.shape)
        return out

    def sum(self, values: Any, axis: int, out: Any) -> None:
        """Sum in double precision, so that the order does not show in the float32 result."""
        out[...] = np.add.reduce(values, axis, np.float64)

    def some(self, flags: Any) -> bool:
        """Return whether any flag is set, where that is cheap to know; else True."""
        return bool(flags.any())

    def tensor(self, array: Any) -> torch.Tensor:
        """Return ``array`` as a tensor that shares its memory."""
        return torch.from_numpy(array)

    def bring(self, tensor: torch.Tensor) -> Any:
        """Return a tensor as an array of this kind."""
        return tensor.cpu().numpy()


class TorchOps:
    """Tensors on any device."""

    xp: Any = torch

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=self.device)

    def array(self, values: Any, dtype: str = "float32") -> Any:
        kind = getattr(torch, dtype)
        return torch.as_tensor(np.asarray(values), dtype=kind, device=self.device)

    def arange(self, n: int) -> Any:
        return torch.arange(n, device=self.device)

    def pick(self, source: Any, index: Any, out: Any) -> Any:
        return out.copy_(source[:, index])

    def put_where(self, target: Any, source: Any, where: Any) -> None:
        target.copy_(torch.where(where, source, target))

    def scatter(self, index: Any, amount: Any, out: Any) -> Any:
        out.zero_()
        out.view(-1).scatter_add_(0, index.reshape(-1), amount.reshape(-1))
        return out

    def sum(self, values: Any, axis: int, out: Any) -> None:
        out.copy_(torch.sum(values, axis, dtype=torch.float64))

    def some(self, flags: Any) -> bool:
        return True  # asking would wait for the device

    def tensor(self, array: Any) -> torch.Tensor:
        return array

    def bring(self, tensor: torch.Tensor) -> Any:
        return tensor.to(self.device)


def ops_for(backend: str, device: torch.device) -> Any:
    """Return the operations of ``"numpy"`` or ``"torch"``."""
    return NumpyOps() if backend == "numpy" else TorchOps(device)
