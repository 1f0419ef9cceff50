"""How the kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["entry", "inner"]

F = TypeVar("F", bound=Callable[..., object])

njit: Any = numba.njit  # some of its options have no type


def entry(*signature: object) -> Callable[[F], F]:
    """Compile a function for arguments of these types as it is defined, and keep the code.

    It is kept beside the package or, where that cannot be written, where numba keeps the user's;
    where neither can, every process compiles it anew.
    """

    def compiled(function: F) -> F:
        try:
            return _compile(function, *signature, cache=True)
        except (OSError, RuntimeError):  # numba found no place, or could not write there
            return _compile(function, *signature)

    return compiled


def inner(function: F) -> F:
    """Compile a function that only compiled code calls, together with what calls it."""
    return _compile(function, no_cpython_wrapper=True, forceinline=True)


def _compile(function: F, *signature: object, **options: bool) -> F:
    """Compile a function that divides and rounds as numpy does.

    The kernels make no arrays: that none is counted saves them most of their time.
    """
    options |= {"no_cfunc_wrapper": True, "_nrt": False}
    return cast("F", njit(*signature, error_model="numpy", **options)(function))
