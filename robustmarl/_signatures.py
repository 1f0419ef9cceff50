"""What classes take by keyword, read from their signatures: the one list of settings there is."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import (
    Any,
    ParamSpec,
    TypeVar,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = [
    "advised",
    "check_left",
    "keywords",
    "keywords_without_default",
    "passes_on",
    "typed_keywords",
    "typeddict_keys",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def keywords(cls: type, *, optional: bool = False) -> frozenset[str]:
    """Return the keywords of the constructor that ``cls`` itself defines, of its bases none.

    Args:
        cls: the class.
        optional: leave out those without a default.
    """
    if "__init__" not in vars(cls):
        return frozenset()
    _, *parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()  # without self
    named = (p for p in parameters if p.kind in _NAMED)
    return frozenset(p.name for p in named if not optional or p.default is not p.empty)


def keywords_without_default(cls: type) -> list[str]:
    """Return those of :func:`keywords` that have to be given by name."""
    if "__init__" not in vars(cls):
        return []
    parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    return [p.name for p in parameters if p.kind is kind and p.default is p.empty]


def passes_on(cls: type) -> bool:
    """Return whether ``cls`` leaves keywords that it does not know to the next class in line."""
    return "__init__" not in vars(cls) or _open_keyword(vars(cls)["__init__"]) is not None


def typeddict_keys(kind: Any) -> frozenset[str]:
    """Return the keys of a ``TypedDict``, those of its bases included."""
    return frozenset(kind.__required_keys__ | kind.__optional_keys__)


def typed_keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the keys of ``**settings: Unpack[SomeTypedDict]``; None where they are not typed."""
    rest = _open_keyword(function)
    hint = None if rest is None else get_type_hints(function).get(rest)
    if get_origin(hint) is not Unpack or not is_typeddict(get_args(hint)[0]):
        return None
    return typeddict_keys(get_args(hint)[0])


def advised(
    **parts: tuple[type, ...],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function answer a keyword that it does not have by where it belongs.

    Args:
        parts: by parameter the classes of settings that it takes, whose keywords are looked
            through.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        own = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs:
                if name not in own:
                    advice = _whose(name, parts) or _nearest(name, own)
                    raise TypeError(f"{function.__name__} has no parameter {name!r}. {advice}")
            return function(*args, **kwargs)

        return call

    return decorate


def _whose(name: str, parts: Mapping[str, tuple[type, ...]]) -> str:
    """Return which of the ``parts`` take a keyword, '' if none does."""
    for parameter, kinds in parts.items():
        takers = [kind.__name__ for kind in kinds if name in inspect.signature(kind).parameters]
        if takers:
            ways = " or ".join(f"{parameter}={taker}({name}=...)" for taker in takers)
            return f"Write {ways}."
    return ""


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}It takes {', '.join(known)}."


def check_left(cls: type, mixin: type) -> None:
    """Raise ``TypeError`` if an algorithm among the bases of ``cls`` hides ``mixin`` from it.

    A constructor that passes no keywords on ends the line: what stands right of it is never told
    its settings. So a mixin belongs to the left of the algorithm.
    """
    hidden = False
    for base in cls.__mro__[1:]:
        # No issubclass: an abstract class asks all its subclasses, and one that is still being made
        # would write its answer, no, into the memory of the base that it takes after.
        if mixin in base.__mro__:
            if hidden:
                right = sorted(cls.__bases__, key=lambda b: _hides(b, mixin))
                raise TypeError(
                    f"{cls.__name__} must have {mixin.__name__} left of the algorithm: "
                    f"class {cls.__name__}({_names(right)}), got ({_names(cls.__bases__)})."
                )
        elif not passes_on(base):
            hidden = True


def _hides(cls: type, mixin: type) -> bool:
    """Return whether ``cls`` ends the line before ``mixin``, were it left of it."""
    return not all(passes_on(base) for base in cls.__mro__ if base not in mixin.__mro__)


def _names(classes: Iterable[type]) -> str:
    return ", ".join(cls.__name__ for cls in classes)


def _open_keyword(function: Callable[..., Any]) -> str | None:
    """Return the name of the parameter ``**name``, None if there is none."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return parameter.name
    return None
