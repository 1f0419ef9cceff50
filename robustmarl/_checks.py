"""Argument checks with one wording: ``Class.param must be <rule>, got <repr>. <Remedy>``."""

import difflib
import math
import operator
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import SupportsIndex, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "all_finite",
    "check",
    "check_choice",
    "check_device",
    "check_index",
    "check_int",
    "check_known",
    "check_names",
    "check_number",
    "check_seed",
    "check_usable",
    "speaking_for",
]


def check(good: bool, where: str, rule: str, value: object, remedy: str = "") -> None:
    """Raise ``ValueError`` in the house wording unless ``good``."""
    if not good:
        raise ValueError(_text(where, rule, value, remedy))


def check_number(
    where: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    unit: str = "",
) -> float:
    """Return ``value``, numpy's too, as a float in ``[low, high]``, or ``(low, high]``."""
    bounds = _bounds(low, high, open_low)
    rule = f"a number{bounds}{', ' + unit if unit else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(_text(where, rule, value))
    inside = (low < value if open_low else low <= value) and value <= high
    check(bool(inside) and not math.isnan(value), where, rule, value)
    return float(value)


def check_int(where: str, value: object, low: int = 1, high: float = math.inf) -> int:
    """Return ``value``, an int or one of numpy's in ``[low, high]``, as an int."""
    rule = f"an int{_bounds(low, high, False)}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(_text(where, rule, value))
    check(bool(low <= value <= high), where, rule, value)
    return int(value)


def check_index(where: str, value: object) -> int:
    """Return ``value``, an integer of whatever kind (numpy's, torch's), as an int."""
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise TypeError(_text(where, "an int", value)) from None


def check_seed(where: str, seed: object) -> int:
    """Return ``seed``, an integer but not a bool, as an int."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(_text(where, "an int or None", seed))
    return int(seed)


def check_choice(where: str, value: object, choices: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    check(value in choices, where, f"one of {list(choices)}", value)


def check_known(where: str, name: str, known: Collection[str]) -> None:
    """Raise unless ``name`` is ``known``; the message lists the known ones, nearest first."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=len(known), cutoff=0.0)
        check(False, where, f"one of {near}", name)


def check_names(where: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple, all of them known; a bare string is refused."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        remedy = f"Write [{names!r}]." if isinstance(names, str) else ""
        raise TypeError(_text(where, "a collection of names", names, remedy))
    names = tuple(names)
    unknown = sorted(set(names).difference(known))
    check(not unknown, where, f"among {list(known)}", unknown)
    check(len(set(names)) == len(names), where, "without repetition", names)
    return names


def check_device(where: str, device: torch.device, expected: torch.device) -> None:
    """Raise unless both devices are of one kind and index."""
    same = device.type == expected.type and (device.index or 0) == (expected.index or 0)
    check(same, where, f"on {expected}", str(device), f"Move it with .to({str(expected)!r}).")


def check_usable(where: str, device: torch.device | str) -> torch.device:
    """Return ``device``, on which torch can make tensors here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        rule, reason = "a device that torch can use here", str(error).partition("\n")[0]
        raise ValueError(_text(where, rule, device, f"torch says: {reason}")) from error
    return found


def all_finite(values: Tensor | NDArray[np.generic]) -> bool:
    """Return whether no element of ``values`` is NaN or infinite.

    A sum is finite only if all of its terms are, and is one number to look at; it may overflow,
    however, where they are, which a second look tells.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(values.sum())
    if math.isfinite(total):
        return True
    finite = np.isfinite(values) if isinstance(values, np.ndarray) else values.isfinite()
    return bool(finite.all())


def _bounds(low: float, high: float, open_low: bool) -> str:
    if low == -math.inf and high == math.inf:
        return ""
    if high == math.inf:
        return f" {'>' if open_low else '>='} {low:g}"
    return f" in {'(' if open_low else '['}{low:g}, {high:g}]"


def _text(where: str, rule: str, value: object, remedy: str = "") -> str:
    return f"{where} must be {rule}, got {value!r}.{' ' + remedy if remedy else ''}"


@contextmanager
def speaking_for(outer: object, inner: type) -> Iterator[None]:
    """Let errors about ``inner``'s arguments name the class that the user gave them to."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error).replace(f"{inner.__name__}.", f"{type(outer).__name__}.")
        if text == str(error):
            raise
        raise type(error)(text) from error
