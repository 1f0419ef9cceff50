"""The settings of a run as plain data, so that a resumed one can say which differ."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TypeAlias

import numpy as np
from tianshou.algorithm.algorithm_base import Algorithm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from robustmarl.learning.making import Making

__all__ = ["Fingerprint", "check_same_settings", "fingerprint"]

Scalar: TypeAlias = bool | int | float | str | None

Fingerprint: TypeAlias = dict[str, Scalar]
"""Dotted name, ``algorithm.optim.lr``, to value."""

# Where a schedule is, not what it is; and where weights are, or whence they came.
_PROGRESS = frozenset({"last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"})
_HOW = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})
_FREE = frozenset({"seed", "device", "last_epoch"})
_NORM = "max_grad_norm"  # an argument of learners that their optimizers keep

_SHOWN = 6  # differing settings named in an error: a wrong algorithm differs in all of them


def fingerprint(**parts: object) -> Fingerprint:
    """Return what ``parts`` were told: the arguments of their constructors, and theirs.

    Of teams and adversaries those of ``for_env``, too, which made their networks. Weights, and
    whatever else is no number, text, sequence or object with arguments that it keeps under their
    names, are left out.
    """
    found: Fingerprint = {}
    for name, part in parts.items():
        found |= dict(_walk(name, part, set()))
    return found


def check_same_settings(before: Mapping[str, Scalar], now: Mapping[str, Scalar]) -> None:
    """Raise ``ValueError`` that names what differs between a run and its continuation.

    What networks were made with, where gradients are clipped, and how adversaries play, older runs
    did not note.
    """
    if not any(_plays(name) for name in before):
        now = {k: v for k, v in now.items() if not _plays(k)}
    if not any(name.endswith(f".{_NORM}") for name in before):
        now = {k: v for k, v in now.items() if ".made." not in k and not k.endswith(f".{_NORM}")}
    # of ATSA's temperature they noted the present value
    for name in [k for k, v in before.items() if k.endswith(".alpha") and isinstance(v, float)]:
        before = {k: v for k, v in before.items() if k != name}
        now = {k: v for k, v in now.items() if k != name and not k.startswith(f"{name}.")}
    names = [*now, *(name for name in before if name not in now)]
    differing = [name for name in names if repr(before.get(name)) != repr(now.get(name))]
    if differing:
        first = differing[:_SHOWN]
        shown = [f"{name}={now.get(name)!r} (was {before.get(name)!r})" for name in first]
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise ValueError(
            "run.log must be Log(resume=True) with the settings of the run to resume, got "
            f"{', '.join(shown)}{more}. Give it the former ones, or another logdir."
        )


def _plays(name: str) -> bool:
    return name.startswith(("plays.", "plays[")) or name == "plays"


def _walk(name: str, value: object, seen: set[int]) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        value = str(value)
    if value is None or isinstance(value, bool):
        yield name, value
        return
    for kind in (int, float, str):
        if isinstance(value, kind):
            yield name, kind(value)  # plain, also of a subclass, so that it can be kept
            return
    if id(value) in seen:
        return
    seen = seen | {id(value)}
    if isinstance(value, Algorithm.Optimizer):
        yield f"{name}.{_NORM}", value._max_grad_norm
        value = value._optim
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _walk(f"{name}.{key}", one, seen)
    elif isinstance(value, Sequence):
        for i, one in enumerate(value):
            yield from _walk(f"{name}[{i}]" if len(value) > 1 else name, one, seen)
    elif isinstance(value, Optimizer):
        yield name, type(value).__name__
        for i, group in enumerate(value.param_groups):
            where = f"{name}[{i}]" if len(value.param_groups) > 1 else name
            yield from _walk(where, _told(group), seen)
    elif isinstance(value, LRScheduler):
        yield name, type(value).__name__
        for key, one in vars(value).items():
            if key in _PROGRESS or key.startswith("_"):
                continue
            over_time = callable(one) and hasattr(one, "unit")
            if over_time or isinstance(one, bool | int | float | str | np.generic | list | tuple):
                yield from _walk(f"{name}.{key}", one, seen)
    elif isinstance(value, partial):
        yield from _walk(name, value.func, seen)
        yield from _walk(f"{name}.args", value.args, seen)
        yield from _walk(name, value.keywords, seen)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield name, str(getattr(value, "__qualname__", type(value).__name__))
    elif not type(value).__module__.startswith("gymnasium"):  # spaces are the environment's
        yield name, type(value).__name__
        terms = getattr(value, "_terms", {})  # of loss mixins
        yield from _walk(f"{name}.terms", terms, seen)
        for argument in _arguments(type(value)):
            if argument not in _FREE and (one := _kept(value, argument)) is not None:
                yield from _walk(f"{name}.{argument}", one, seen)
        made = _kept(value, "made")
        for key, one in made.settings.items() if isinstance(made, Making) else ():
            # widths, say, which no part of it keeps under their name
            known = key in _FREE or key == _NORM or any(one is term for term in terms.values())
            if not known and _kept(value, key) is None:
                yield from _walk(f"{name}.made.{key}", one, seen)


def _told(group: Mapping[str, object]) -> dict[str, object]:
    """Return what an optimizer was told of some parameters, before schedules changed it."""
    left_out = _HOW | ({"momentum", "betas"} if "max_momentum" in group else set())
    known = {key: one for key, one in group.items() if key not in left_out}
    return known | {"lr": known.pop("initial_lr", group["lr"])}


def _kept(value: object, argument: str) -> object:
    """Return what an object keeps under an argument's name, None if that cannot be asked yet.

    Of what is a schedule, whose present value has the name, that is the schedule.
    """
    try:
        over_time: object = getattr(value, f"{argument}_schedule", None)
        return getattr(value, argument, None) if over_time is None else over_time
    except Exception:  # a property of somebody else's, before its time
        return None


def _arguments(cls: type) -> list[str]:
    """Return the names of the arguments of a constructor and of those it passes them on to."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is not None and base.__module__.split(".")[0] not in ("torch", "builtins"):
            with suppress(ValueError):  # compiled, and tells nothing
                names |= dict.fromkeys(list(inspect.signature(init).parameters)[1:])
    return list(names)
