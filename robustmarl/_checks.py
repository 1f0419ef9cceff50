"""Argument checks with one wording: ``Class.param must be <rule>, got <repr>. <Remedy>``."""

import difflib
import errno
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import SupportsIndex, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "all_finite",
    "check",
    "check_choice",
    "check_device",
    "check_each",
    "check_flag",
    "check_function",
    "check_has",
    "check_index",
    "check_int",
    "check_kind",
    "check_known",
    "check_names",
    "check_number",
    "check_path",
    "check_seed",
    "check_teams",
    "check_tensor",
    "check_text",
    "check_usable",
    "flags_of",
    "keep",
    "sizes_of",
    "speaking_for",
    "writing",
]

_T = TypeVar("_T")

LONGEST = 200
"""Of longer values the beginning is shown only: the rule must not be lost in them."""

LONGEST_TEXT = 1000
"""Of texts more is shown, which may say themselves what is wrong."""


def check(good: bool, where: str, rule: str, value: object, remedy: str = "") -> None:
    """Raise ``ValueError`` in the house wording unless ``good``."""
    if not good:
        raise ValueError(_text(where, rule, value, remedy))


def check_kind(
    where: str, value: object, kind: type | UnionType, rule: str, remedy: str = ""
) -> None:
    """Raise ``TypeError`` in the house wording unless ``value`` is of ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(_text(where, rule, value, remedy))


def check_function(where: str, value: object, rule: str, remedy: str = "") -> None:
    """Raise ``TypeError`` in the house wording unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(_text(where, rule, value, remedy))


def check_has(
    where: str, value: object, methods: Collection[str], rule: str, remedy: str = ""
) -> None:
    """Raise ``TypeError`` in the house wording unless ``value``, no class, has ``methods``."""
    if isinstance(value, type) or not all(callable(getattr(value, m, None)) for m in methods):
        raise TypeError(_text(where, rule, value, remedy))


def check_number(
    where: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
    unit: str = "",
) -> float:
    """Return ``value``, numpy's or torch's too, as a float in ``[low, high]``, or between them.

    It is finite unless ``infinite`` allows what is not.
    """
    if type(value) is float and low < value < high:
        return value  # the usual case, told before any text is made: schedules are checked in steps
    value = _plain(value)
    kept = f"{', ' + unit if unit else ''}"
    rule = f"a number{_bounds(low, high, open_low, open_high)}{kept}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(_text(where, rule, value))
    inside = low < value if open_low else low <= value
    inside = inside and (value < high if open_high else value <= high)
    check(bool(inside) and not math.isnan(value), where, rule, value)
    check(infinite or not math.isinf(value), where, f"finite{kept}", value)
    try:
        return float(value)
    except OverflowError:
        raise ValueError(_text(where, f"finite{kept}", value)) from None


def check_int(where: str, value: object, low: int = 1, high: float = math.inf) -> int:
    """Return ``value``, an int or one of numpy's in ``[low, high]``, as an int."""
    value = _plain(value)
    rule = f"an int{_bounds(low, high, False)}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(_text(where, rule, value))
    check(low <= value <= high, where, rule, value)
    return value


def check_flag(where: str, value: object) -> bool:
    """Return ``value``, a bool or one of numpy's, as a bool: a text is no answer to yes or no."""
    value = _plain(value)
    if not isinstance(value, bool):
        raise TypeError(_text(where, "a bool", value))
    return value


def check_tensor(where: str, value: object, like: object = None) -> None:
    """Raise unless ``value`` is a tensor, of the shape of ``like`` if that is one, too."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(_text(where, "a tensor", value))
    # Another shape would be hidden by broadcasting.
    if isinstance(like, torch.Tensor) and value.shape != like.shape:
        raise ValueError(_text(where, f"of shape {tuple(like.shape)}", value))


def sizes_of(name: str, **sizes: object) -> list[int]:
    """Return ``sizes`` of ``name``, each an int >= 1, as ints."""
    return [check_int(f"{name}.{key}", size, 1) for key, size in sizes.items()]


def flags_of(name: str, **flags: object) -> list[bool]:
    """Return ``flags`` of ``name``, as bools."""
    return [check_flag(f"{name}.{key}", flag) for key, flag in flags.items()]


def check_each(
    where: str, values: object, one: Callable[[str, object], _T], rule: str
) -> tuple[_T, ...]:
    """Return ``values``, a tuple, list, array or tensor, as a tuple of what ``one`` returns."""
    if isinstance(values, np.ndarray | torch.Tensor) and values.ndim > 0:
        values = values.tolist()
    if not isinstance(values, tuple | list):
        raise TypeError(_text(where, rule, values))
    return tuple(one(where, value) for value in values)


def keep(settings: object, **values: object) -> None:
    """Give fields of a frozen dataclass the plain values that their checks returned."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def check_index(where: str, value: object) -> int:
    """Return ``value``, an integer of whatever kind (numpy's, torch's), as an int."""
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise TypeError(_text(where, "an int", value)) from None


def check_text(where: str, value: object) -> str:
    """Return ``value``, a text, as Python's own."""
    if not isinstance(value, str):
        raise TypeError(_text(where, "a text", value))
    return str(value)


def check_path(where: str, path: object) -> Path:
    """Return ``path``, a text or path, as a path."""
    check_kind(where, path, str | os.PathLike, "a path")
    return Path(cast("str | os.PathLike[str]", path))


_NO_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


@contextmanager
def writing(where: str, path: object) -> Iterator[None]:
    """Say which argument named the file or folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:  # a full disk is no fault of the argument's
            raise
        reason = f"The system says: {error.strerror}."
        raise ValueError(
            _text(where, "a place that can be written to", str(path), reason)
        ) from error


def check_seed(where: str, seed: object) -> int:
    """Return ``seed``, an integer >= 0 but not a bool, as an int."""
    seed = _plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(_text(where, "an int or None", seed))
    check(seed >= 0, where, "an int >= 0 or None", seed)
    return seed


def check_choice(where: str, value: object, choices: Collection[object]) -> None:
    """Raise unless ``value`` is one of ``choices``, and of its kind."""
    good = any(isinstance(value, type(one)) and value == one for one in choices)
    check(good, where, f"one of {list(choices)}", value)


MOST_NAMES = 40
"""Of more names than these a message lists the nearest few only."""


def check_known(where: str, name: str, known: Collection[str], remedy: str = "") -> None:
    """Raise unless ``name`` is ``known``; the message lists the known ones, nearest first."""
    if name not in known:
        listed = len(known) if len(known) <= MOST_NAMES else 5
        near = sorted(known, key=lambda one: -_likeness(name, one))[:listed]
        others = f" or {len(known) - listed} others" if len(known) > listed else ""
        check(False, where, f"one of {near}{others}", name, remedy)


def _likeness(name: str, other: str) -> float:
    """Return how alike two names are, in capitals or not."""
    return difflib.SequenceMatcher(None, other.lower(), name.lower()).ratio()


def check_names(where: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple, all of them known; a bare string is refused."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        remedy = f"Write [{str(names)!r}]." if isinstance(names, str) else ""
        raise TypeError(_text(where, "a collection of names", names, remedy))
    names = tuple(names)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(_text(where, "a collection of names", names))
    names = tuple(str(name) for name in names)  # numpy's texts, too
    unknown = sorted(set(names).difference(known))
    check(not unknown, where, f"among {list(known)}", unknown)
    check(len(set(names)) == len(names), where, "without repetition", names)
    return names


def check_teams(where: str, teams: object, agents: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return ``teams``, names to agents, each with one at least, each agent in exactly one."""
    if not isinstance(teams, Mapping):
        raise TypeError(f"{where} must be a mapping from teams to agents, got {teams!r}.")
    found = {
        team: check_names(f"{where}[{team!r}]", names, agents) for team, names in teams.items()
    }
    for team, members in found.items():
        check(len(members) > 0, f"{where}[{team!r}]", "of one agent at least", members)
    named = sorted(agent for members in found.values() for agent in members)
    check(named == sorted(agents), where, f"a partition of the agents {list(agents)}", found)
    return found


def check_device(where: str, device: torch.device, expected: torch.device) -> None:
    """Raise unless both devices are of one kind and index."""
    same = device.type == expected.type and (device.index or 0) == (expected.index or 0)
    check(same, where, f"on {expected}", str(device), f"Move it with .to({str(expected)!r}).")


def check_usable(where: str, device: torch.device | str) -> torch.device:
    """Return ``device``, on which torch can make tensors here."""
    rule = "a device that torch can use here"
    check_kind(where, device, str | torch.device, rule)
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") + "."
        raise ValueError(_text(where, rule, device, f"torch says: {reason}")) from error
    return found


def all_finite(values: Tensor | NDArray[np.generic]) -> bool:
    """Return whether no element of ``values`` is NaN or infinite.

    A sum is finite only if all of its terms are, and is one number to look at; it may overflow,
    however, where they are, which a second look tells. Of squares, as BLAS is fast and warns of
    nothing.
    """
    if not isinstance(values, np.ndarray):  # told first: what asks a tensor is dear in hot loops
        if not values.is_cpu:
            return math.isfinite(float(values.sum())) or bool(values.isfinite().all())
        values = (values.detach() if values.requires_grad else values).numpy()
    # the type in quotes: to build it takes longer than all the rest
    numbers = cast("NDArray[np.float64]", values)
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def _bounds(low: float, high: float, open_low: bool, open_high: bool = False) -> str:
    if low == -math.inf and high == math.inf:
        return ""
    if high == math.inf:
        return f" {'>' if open_low else '>='} {low:g}"
    return f" in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def _plain(value: object) -> object:
    """Return a number of numpy's, or an array or tensor that holds just one, as Python's own."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        return value.item()
    return value


def _text(where: str, rule: str, value: object, remedy: str = "") -> str:
    return f"{where} must be {rule}, got {_shown(value)}.{' ' + remedy if remedy else ''}"


def _shown(value: object) -> str:
    """Return ``value`` as one line: of what is large, its kind and size alone."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0:
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        return f"{type(value).__name__} of shape {shape} and dtype {dtype}"
    text = repr(value)
    longest = LONGEST_TEXT if isinstance(value, str) else LONGEST
    if len(text) <= longest and "\n" not in text:
        return text
    return f"{type(value).__name__}: {text.partition(chr(10))[0][:longest]}..."


@contextmanager
def speaking_for(outer: object, inner: type | Callable[..., object]) -> Iterator[None]:
    """Let errors about ``inner``'s arguments name what the user gave them to.

    Args:
        outer: the object that is being made, or the name of a function.
        inner: the class or function to which it hands them on.
    """
    name = outer if isinstance(outer, str) else type(outer).__name__
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error).replace(f"{inner.__name__}.", f"{name}.")
        if text == str(error):
            raise
        raise type(error)(text) from error
