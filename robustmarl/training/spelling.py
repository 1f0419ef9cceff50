"""How things of this package were made, spelled as plain data, and made again of it.

What is spelled may go into files that load without executing code: names of this package's public
rooms, and what these were given. Nothing else is ever imported or called.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from tianshou.algorithm import optim as factories
from tianshou.algorithm.optim import OptimizerFactory, TorchOptimizerFactory

from robustmarl._checks import check, check_kind, check_known
from robustmarl.learning.optim import ScheduledFactory, torch_factory
from robustmarl.training.fingerprint import fingerprint

__all__ = ["Spelled", "made_of", "public_name", "spelled", "spelled_class"]

Spelled: TypeAlias = (
    "bool | int | float | str | list[Spelled] | tuple[Spelled, ...] | dict[str, Spelled] | None"
)
"""Plain data; a dict has one of the keys ``name``, ``call``, ``later``, ``class``, ``mapping``."""

ROOMS = (
    "adversaries",
    "algorithms",
    "attacks",
    "budgets",
    "envs",
    "joint",
    "losses",
    "networks",
    "perturbers",
    "schedules",
)
"""Where names are looked up; also torch's optimizers, and Tianshou's factories of them."""


def spelled(where: str, value: object) -> Spelled:
    """Return ``value`` as plain data.

    Numbers, text, sequences and mappings of them; classes and functions of :data:`ROOMS`, objects
    of these that keep what they were told under its names, and ``partial`` of them; optimizer
    factories.

    Args:
        where: what it is, for messages.
        value: what is spelled.

    Raises:
        TypeError: for anything else, by where it is.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return cast(Spelled, value)
    if type(value) in (list, tuple):
        several = cast("list[object]", value)
        found = [spelled(f"{where}[{i}]", one) for i, one in enumerate(several)]
        return found if type(value) is list else tuple(found)
    if isinstance(value, Mapping):
        return {"mapping": _mapping(where, value)}
    if isinstance(value, partial):
        given = [spelled(f"{where}.args[{i}]", one) for i, one in enumerate(value.args)]
        return {
            "later": _name(where, value.func),
            "args": given,
            "with": _mapping(where, value.keywords),
        }
    if isinstance(value, OptimizerFactory):
        return _optimizer(where, value)
    if isinstance(value, type) or inspect.isroutine(value):
        return {"name": _name(where, value)}
    found_object: Spelled = {
        "call": _name(where, type(value)),
        "with": _mapping(where, _told(where, value)),
    }
    again = made_of(where, found_object)
    same = fingerprint(value=value) == fingerprint(value=again)
    if not same:  # it keeps something else under the name of what it was told
        raise _unspellable(where, value)
    return found_object


def spelled_class(where: str, cls: type) -> Spelled:
    """Return a class of this package, or one that only joins such, as plain data.

    Raises:
        TypeError: for a class with a body of its own: another process has not got it.
    """
    if public_name(cls) is not None:
        return {"name": _name(where, cls)}
    own = [key for key in vars(cls) if key not in _OF_ALL_CLASSES]
    if own:
        raise TypeError(
            f"{where} must be a class of this package, or one that joins such and adds nothing, "
            f"got {cls.__name__}, which defines {', '.join(own)}."
        )
    return {"class": cls.__name__, "bases": [_name(where, base) for base in cls.__bases__]}


_OF_ALL_CLASSES = frozenset(
    {
        "__abstractmethods__",
        "__annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__qualname__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)


def made_of(where: str, told: Spelled) -> Any:
    """Return what :func:`spelled` or :func:`spelled_class` was given, made anew.

    Raises:
        ValueError: for names that are not public here, or that refuse what they are given.
    """
    if isinstance(told, list | tuple):
        found = [made_of(where, one) for one in told]
        return found if isinstance(told, list) else tuple(found)
    if not isinstance(told, dict):
        return told
    if "mapping" in told:
        return _unmapped(where, told["mapping"])
    if "name" in told:
        return _named(where, told["name"])
    if "class" in told:
        bases = tuple(_named(where, base) for base in cast("list[Spelled]", told["bases"]))
        name = str(told["class"])
        check(all(isinstance(base, type) for base in bases), where, "a class of classes", told)
        return type(name, bases, {"__doc__": bases[-1].__doc__, "__module__": __name__})
    kind = next((key for key in ("call", "later") if key in told), None)
    check(kind is not None, where, "plain data that spells something", sorted(told))
    make = _named(where, told[cast(str, kind)])
    given = [made_of(where, one) for one in cast("list[Spelled]", told.get("args", []))]
    keywords = _unmapped(where, told.get("with", {}))
    if kind == "later":
        return partial(make, *given, **keywords)
    try:
        return make(*given, **keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be what this version can make, got: {error}") from error


def public_name(value: object) -> str | None:
    """Return under which name this package has a class or function, ``"attacks.PGD"``, or None."""
    name = getattr(value, "__name__", None)
    if not isinstance(name, str):
        return None
    for room in ROOMS:
        module = importlib.import_module(f"robustmarl.{room}")
        if name in module.__all__ and getattr(module, name) is value:
            return f"{room}.{name}"
    return None


def _name(where: str, value: object) -> str:
    found = public_name(value)
    if found is None:
        raise _unspellable(where, value)
    return found


def _unspellable(where: str, value: object) -> TypeError:
    name = getattr(value, "__qualname__", type(value).__name__)
    return TypeError(
        f"{where} must be plain data, or made by public names of this package alone, got {name}. "
        "Only such can be rebuilt from a file."
    )


def _named(where: str, name: Spelled) -> Any:
    check_kind(where, name, str, "a name")
    room, _, one = cast(str, name).partition(".")
    if room == "torch":
        check_known(where, one, _OPTIMIZERS)
        return partial(torch_factory, getattr(torch.optim, one))
    if room == "tianshou":
        check_known(where, one, _FACTORIES)
        return getattr(factories, one)
    check_known(where, room, ROOMS)
    module = importlib.import_module(f"robustmarl.{room}")
    check_known(where, one, module.__all__)
    return getattr(module, one)


_OPTIMIZERS = sorted(
    name
    for name, one in vars(torch.optim).items()
    if isinstance(one, type) and issubclass(one, torch.optim.Optimizer)
)
_FACTORIES = ("AdamOptimizerFactory", "RMSpropOptimizerFactory")


def _optimizer(where: str, factory: OptimizerFactory) -> Spelled:
    plain = factory.lr_scheduler_factory is None
    scheduled = isinstance(factory, ScheduledFactory) and factory.plain
    if (plain or scheduled) and isinstance(factory, TorchOptimizerFactory):
        cls = factory.optim_class
        if getattr(torch.optim, getattr(cls, "__name__", ""), None) is cls:
            name = f"torch.{cls.__name__}"
            over_time = {"lr": factory.schedule} if isinstance(factory, ScheduledFactory) else {}
            return {"call": name, "with": _mapping(where, factory.kwargs | over_time)}
    if plain and type(factory).__name__ in _FACTORIES:
        told = _mapping(where, _told(where, factory))
        return {"call": f"tianshou.{type(factory).__name__}", "with": told}
    raise _unspellable(where, factory)


def _told(where: str, value: object) -> dict[str, object]:
    """Return what an object was told, as it keeps it: by the arguments of its constructor."""
    if dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value) if one.init]
    else:
        parameters = inspect.signature(cast("Callable[..., object]", type(value))).parameters
        names = list(parameters)
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise _unspellable(f"{where}.{missing[0]}", value)
    return {name: getattr(value, name) for name in names}


def _mapping(where: str, values: Mapping[Any, object]) -> dict[str, Spelled]:
    for key in values:
        if not isinstance(key, str):
            raise TypeError(f"{where} must be with texts for keys, got {key!r}.")
    return {key: spelled(f"{where}.{key}", value) for key, value in values.items()}


def _unmapped(where: str, told: Spelled) -> dict[str, Any]:
    check_kind(where, told, dict, "a mapping from names")
    items = cast("dict[str, Spelled]", told).items()
    return {key: made_of(f"{where}.{key}", value) for key, value in items}
