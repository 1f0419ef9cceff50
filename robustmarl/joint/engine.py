"""What the collector steps: E environments in arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check
from robustmarl.joint.spec import TeamSpec

__all__ = ["VectorEngine", "check_act", "check_flags", "check_seeds", "flagged"]

_INTS, _FLOATS = (torch.int64, torch.int32), (torch.float32, torch.float64)


class VectorEngine(Protocol):
    """E environments in tensors that ``begin`` and ``advance`` overwrite in place.

    All tensors, given and kept, are on one device. An engine on an accelerator need never wait for
    it: who begins and who plays is told by flags, not by indices. One on the CPU may work in numpy,
    which shares the tensors' memory; :func:`flagged` gives it indices.

    An episode follows from its seed and the actions, whatever plays beside it. In the last step
    either ``terminated`` or ``truncated`` comes true, and ``metrics`` says how it went. After that
    the collector reads the row, and neither steps it nor reads it again before its next ``begin``:
    what becomes of it when others advance is the engine's choice.
    """

    spec: TeamSpec

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Always the same tensors, by name.

        ``obs mask state alive rew_agents`` as in ``TeamSpec.empty(E)``, ``terminated`` and
        ``truncated``, bool (E,), and ``metrics``, float32 (E, len(spec.metrics)).
        """

    def __len__(self) -> int:
        """Return E."""

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), each from its seed.

        ``seeds``, int64 (E,), means nothing elsewhere.
        """

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,).

        ``act``, int64 (E, N) or float32 (E, N, A) in [-1, 1], means nothing elsewhere.
        """

    def close(self) -> None:
        """Release the environments."""


def check_flags(where: str, flags: Tensor, size: int) -> None:
    """Raise unless ``flags`` is a bool tensor of shape (size,); reads no element."""
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        raise TypeError(f"{where} must be a bool tensor, got {_kind(flags)}.")
    if flags.shape != (size,):
        check(False, where, f"of shape {(size,)}, (environments,)", tuple(flags.shape))


def check_seeds(where: str, seeds: Tensor, size: int) -> None:
    """Raise unless ``seeds`` is an int64 tensor of shape (size,); reads no element."""
    if not isinstance(seeds, Tensor) or seeds.dtype != torch.int64:
        raise TypeError(f"{where} must be an int64 tensor, got {_kind(seeds)}.")
    if seeds.shape != (size,):
        check(False, where, f"of shape {(size,)}, (environments,)", tuple(seeds.shape))


def check_act(where: str, act: Tensor, spec: TeamSpec, size: int) -> None:
    """Raise unless ``act`` can be the actions of ``size`` environments; reads no element.

    Args:
        where: what is checked, for the message.
        act: int64 or int32 (E, N), or float32 or float64 (E, N, A).
        spec: of the environments.
        size: E.

    Raises:
        TypeError: for numbers of another kind.
        ValueError: for another shape.

    Example:
        >>> from robustmarl import envs
        >>> spec = envs.ToyEngine().spec
        >>> check_act("act", torch.zeros(4, 2, dtype=torch.int64), spec, 4)
        >>> check_act("act", torch.zeros(4, 2), spec, 4)
        Traceback (most recent call last):
        TypeError: act must be an int64 tensor, got torch.float32.
    """
    kinds, kind = (_FLOATS, "a float32") if spec.continuous else (_INTS, "an int64")
    if not isinstance(act, Tensor) or act.dtype not in kinds:
        raise TypeError(f"{where} must be {kind} tensor, got {_kind(act)}.")
    if act.shape != (shape := (size, *spec.action_shape())):
        axes = "(environments, agents, numbers)" if spec.continuous else "(environments, agents)"
        check(False, where, f"of shape {shape}, {axes}", tuple(act.shape))


def flagged(where: str, flags: Tensor, size: int) -> NDArray[np.int64]:
    """Return which of ``size`` environments are flagged: for engines on the CPU.

    Raises:
        TypeError: if ``flags`` is no bool tensor.
        ValueError: if it has another shape than (size,).

    Example:
        >>> flagged("flags", torch.tensor([False, True, True]), 3)
        array([1, 2])
    """
    check_flags(where, flags, size)
    return flags.numpy().nonzero()[0]


def _kind(value: object) -> object:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__
