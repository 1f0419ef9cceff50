"""Files that load without executing code and are never half-written."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robustmarl._checks import check

__all__ = ["FORMAT", "load_checkpoint", "load_weights", "save_checkpoint", "save_weights"]

FORMAT = "robustmarl/1"
"""Says that a file is ours, and which version wrote it."""


def save_checkpoint(path: str | Path, content: Mapping[str, object]) -> None:
    """Write ``content`` (tensors, numbers, text, lists, dicts) so that no reader sees a part.

    The file is written beside its place, flushed to disk and renamed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())  # else the rename may reach the disk before the content does
    part.replace(path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what :func:`save_checkpoint` wrote, with ``weights_only=True``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, or not one of ours.
    """
    where = "load_checkpoint.path"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"{where} must be a whole robustmarl checkpoint, got {str(path)!r}, which does not "
            f"load: {type(error).__name__}. It is truncated or was written by something else."
        ) from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    check(found == FORMAT, where, f"of format {FORMAT!r}", found)
    return dict(content)


def save_weights(algorithm: torch.nn.Module, path: str | Path) -> None:
    """Write an algorithm's (or adversary's) weights and optimizers."""
    save_checkpoint(path, {"class": type(algorithm).__name__, "algorithm": algorithm.state_dict()})


def load_weights(algorithm: torch.nn.Module, path: str | Path) -> None:
    """Load what :func:`save_weights`, or a run's checkpoint, holds into ``algorithm``.

    Raises:
        ValueError: if the weights do not fit.
    """
    content = load_checkpoint(path)
    try:
        algorithm.load_state_dict(content["algorithm"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"load_weights.path must hold weights of {type(algorithm).__name__} with these sizes, "
            f"got a {content.get('class')}: {error}"
        ) from error
