"""Files that load without executing code and are never half-written."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from robustmarl._checks import (
    check,
    check_kind,
    check_path,
    check_usable,
    writing,
)
from robustmarl.training.files import whole

__all__ = [
    "FORMAT",
    "check_finite",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]

FORMAT = "robustmarl/1"
"""Says that a file is ours, and which version wrote it."""


def save_checkpoint(path: str | Path, content: Mapping[str, object]) -> None:
    """Write ``content`` (tensors, numbers, text, lists, dicts) so that no reader sees a part.

    The file is written beside its place, flushed to disk, read back and renamed. Numbers of numpy
    are written as plain ones.

    Raises:
        TypeError: for what :func:`load_checkpoint` could not read, by its path in ``content``.
    """
    path = check_path("save_checkpoint.path", path)
    check_kind("save_checkpoint.content", content, Mapping, "a mapping from names")
    plain = {"format": FORMAT, **{key: _plain(value, key) for key, value in content.items()}}
    with writing("save_checkpoint.path", path), whole(path) as part:
        with part.open("xb") as file:
            torch.save(plain, file)
        torch.load(part, map_location="cpu", weights_only=True, mmap=True)


def _plain(value: object, where: str) -> object:
    """Return ``value`` with plain numbers for numpy's; refuse what does not load safely."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes, Tensor, Parameter):
        return value
    if type(value) in (dict, OrderedDict):
        items = cast("Mapping[object, object]", value).items()
        pairs = [(_plain(key, where), _plain(one, f"{where}[{key!r}]")) for key, one in items]
        if type(value) is dict:
            return dict(pairs)
        ordered = OrderedDict(pairs)
        ordered.__dict__.update(vars(value))  # a module's state_dict keeps its version there
        return ordered
    if type(value) in (list, tuple):
        several = cast("Sequence[object]", value)
        return type(several)([_plain(one, f"{where}[{i}]") for i, one in enumerate(several)])  # type: ignore[call-arg]
    try:
        torch.save(value, file := io.BytesIO())
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:
        raise TypeError(
            f"save_checkpoint.content: {where} must be tensors, numbers, text, or lists and dicts "
            f"of them, which load without running code, got {type(value).__name__}."
        ) from error
    return value


def check_finite(where: str, algorithm: object, remedy: str = "") -> None:
    """Raise ``ValueError`` for a weight that is not finite, or a buffer that is NaN, by name."""
    if not isinstance(algorithm, torch.nn.Module):
        return
    for name, values in algorithm.named_parameters():
        if not bool(values.isfinite().all()):
            got = f"{int((~values.isfinite()).sum())} of {values.numel()} not finite in {name!r}"
            raise ValueError(f"{where} must have finite weights, got {got}.{remedy}")
    for name, buffer in algorithm.named_buffers():
        if buffer.is_floating_point() and bool(buffer.isnan().any()):
            raise ValueError(f"{where} must have finite weights, got NaN in {name!r}.{remedy}")


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote, with ``weights_only=True``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, or not one of ours.
    """
    return read_checkpoint("load_checkpoint", path, device)


def read_checkpoint(
    name: str, path: str | Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return the content of a file that the user gave to the function ``name``."""
    where = f"{name}.path"
    check_path(where, path)
    device = check_usable(f"{name}.device", device)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where} must be a file, got {str(path)!r}.") from error
    except _UNREADABLE as error:
        raise ValueError(
            f"{where} must be a whole robustmarl checkpoint, got {str(path)!r}, which does not "
            f"load: {type(error).__name__}. It is truncated or was written by something else."
        ) from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    check(found == FORMAT, where, f"of format {FORMAT!r}", found)
    return dict(content)


_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
    AttributeError,
)
"""What torch raises for files of somebody else's making."""
