"""What an argument may be and may not be, by kind: the rows of the catalogue's tables."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch


class Reached(Exception):  # noqa: N818 - it tells of success
    """Arguments were found good, and something is asked for: see ``evaluation.contract``."""


class Made(NamedTuple):
    """A value that is made anew for each call: a network, a tensor, a folder.

    Args:
        make: makes it.
        name: what the test is called after.
    """

    make: Callable[[], Any]
    name: str


class Pair(NamedTuple):
    """A value that is as good as another one."""

    given: Any
    plain: Any


@dataclass(frozen=True)
class Domain:
    """What one parameter refuses, and what it takes.

    Args:
        kinds: of a wrong kind: ``TypeError``.
        values: of a right kind, out of range: ``ValueError``.
        pairs: unusual but good values beside the plain ones that they stand for.
    """

    kinds: tuple[Any, ...] = ()
    values: tuple[Any, ...] = ()
    pairs: tuple[Pair, ...] = ()

    def __or__(self, other: "Domain") -> "Domain":
        return Domain(
            self.kinds + other.kinds, self.values + other.values, self.pairs + other.pairs
        )


@dataclass(frozen=True)
class Subject:
    """One public callable: a good call, and what its parameters refuse and take.

    Args:
        call: what is called; a method's class is covered by it, too.
        good: makes the arguments of a good call.
        domains: by parameter.
        named: what messages call it, ``Class`` or ``function``; None is its own name.
        covers: what it stands for in the list of the public interface; None is ``call``.
    """

    call: Callable[..., Any]
    good: Callable[[], dict[str, Any]]
    domains: dict[str, Domain]
    named: str | None = None
    covers: Any = None

    @property
    def name(self) -> str:
        return self.named or owner(self.call).__name__


def briefly(domains: dict[str, Domain]) -> dict[str, Domain]:
    """Return the first values of each domain, for what shares its checks with another class."""
    return {
        name: Domain(domain.kinds[:2], domain.values[:2], domain.pairs[:1])
        for name, domain in domains.items()
    }


def owner(call: Any) -> Any:
    """Return the class of a classmethod, or the callable itself."""
    if isinstance(call, functools.partial):
        return owner(call.func)
    bound = getattr(call, "__self__", None)
    return bound if isinstance(bound, type) else call


def number(
    good: float | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> Domain:
    """A finite number in [low, high], or between them."""
    kinds = ("1", True, [0.5], 1j) + (() if optional else (None,))
    values = (math.nan, math.inf, -math.inf)
    if low > -math.inf:
        values += (low if open_low else low - 0.5,)
    if high < math.inf:
        values += (high if open_high else high + 0.5,)
    if good is None:
        good = min(max(low, 0.0) + 0.5, high) if low > -math.inf else 0.5
    pairs = (
        Pair(np.float64(good), good),
        Pair(np.float32(good), float(np.float32(good))),
        Pair(np.array(good), good),
    )
    if low <= 1 < high or (high == 1 and not open_high):
        pairs += (Pair(np.int64(1), 1.0),)
    return Domain(kinds, values, pairs)


def integer(
    good: int | None = None, low: int = 1, high: float = math.inf, *, optional: bool = False
) -> Domain:
    """An int in [low, high]."""
    good = low + 1 if good is None else good
    kinds = ("2", 2.5, True, [2]) + (() if optional else (None,))
    values = (low - 1,) + ((int(high) + 1,) if high < math.inf else ())
    pairs = (Pair(np.int64(good), good), Pair(np.uint32(good), good), Pair(np.array(good), good))
    return Domain(kinds, values, pairs)


def flag() -> Domain:
    """True or False, not what Python would take for it."""
    return Domain(
        ("no", 1, None, [True]), (), (Pair(np.bool_(True), True), Pair(np.bool_(False), False))
    )


def choice(*, optional: bool = False) -> Domain:
    """One of a few names."""
    values = ("other", 3, ("other",), np.array(["a", "b"])) + (() if optional else (None,))
    return Domain((), values)


def widths() -> Domain:
    """Widths of hidden layers."""
    return Domain(
        (64, "64", None, (2.5,), ("8",)),
        ((), (0,), (8, -1)),
        (Pair([8], (8,)), Pair((np.int64(8),), (8,))),
    )


def names(*good: str, required: bool = False) -> Domain:
    """Names of agents, without repetition."""
    kinds = (good[0], 3, (3,)) + ((None,) if required else ())
    pairs = (Pair(list(good), good), Pair(tuple(np.array(good)), good))
    return Domain(kinds, ((), (good[0], good[0])), pairs)


def seed() -> Domain:
    """The seed of random streams."""
    return Domain(("0", 1.5, True, None), (-1,), (Pair(np.int64(3), 3), Pair(np.array(3), 3)))


def device() -> Domain:
    """Where tensors live."""
    missing = () if torch.cuda.is_available() else ("cuda",)
    return Domain((3.5, ["cpu"], None), ("cud", *missing), (Pair(torch.device("cpu"), "cpu"),))


def instance(*others: Any, optional: bool = False) -> Domain:
    """An object of one class; ``others`` are near misses."""
    return Domain((3, "text", object) + (() if optional else (None,)) + others)


def function(*, optional: bool = False) -> Domain:
    """Something to call."""
    return Domain((3, "text") + (() if optional else (None,)))


def schedule(low: float = -math.inf, high: float = math.inf, *, optional: bool = False) -> Domain:
    """A number, or one over time."""
    from robustmarl.schedules import Constant, Linear

    values = (math.nan, math.inf)
    if low > -math.inf:
        values += (low - 1.0, Constant(low - 1.0), Linear(low - 1.0, low, over=5))
    if high < math.inf:
        values += (high + 1.0, Linear(high, high + 1.0, over=5))
    good = min(max(low, 0.0) + 0.5, high)
    pairs = (Pair(np.float64(good), good), Pair(np.array(good), good), Pair(Constant(good), good))
    return Domain(("1", True, [0.5]) + (() if optional else (None,)), values, pairs)


def text(*, optional: bool = False) -> Domain:
    """A text."""
    return Domain((3, ["text"], b"text") + (() if optional else (None,)))


def tensor(shape: tuple[int, ...] | None = None) -> Domain:
    """A tensor; ``shape`` is one that does not fit."""
    wrong = () if shape is None else (Made(lambda: torch.zeros(shape), f"shape{shape}"),)
    return Domain((3, "text", None), wrong)
