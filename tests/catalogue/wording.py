"""What makes a message about a bad argument a helpful one."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from catalogue.kinds import Reached

from robustmarl.envs._base import CheckedEnv

LONG = 200
"""Values whose ``repr`` is longer, or has several lines, are shown by their kind."""


AS_GIVEN = frozenset({"_made"})
"""What objects keep of their arguments to hand on, unread."""


def shown(value: Any) -> tuple[str, ...]:
    """Return texts of which a message about ``value`` has at least one."""
    text = repr(value)
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.ndim == 0:
        return (repr(value.item()),)
    if len(text) > LONG or "\n" in text or " at 0x" in text or callable(value):
        return (text, type(value).__name__, getattr(value, "__name__", text))
    if isinstance(value, torch.Tensor | np.ndarray):
        return (type(value).__name__, str(tuple(value.shape)), str(value.dtype))
    if not isinstance(value, list | tuple | dict):
        return (text, repr(str(value)), f"got {type(value).__name__}")
    several = list(value.values() if isinstance(value, dict) else value)  # one is at fault
    several += [one for part in several if isinstance(part, list) for one in part]
    kinds = {type(one).__name__ for one in (value, *several)}
    return (text, repr(several), *(repr(one) for one in several), *(f"got {k}" for k in kinds))


def complaint(error: Exception, name: str, param: str, value: Any) -> str:
    """Return what is wrong with the message of ``error``, '' if it helps.

    It names ``name.param``, says what that must be and what was given, in whole sentences.
    """
    message = str(error)
    pattern = rf"(^|\W){re.escape(name)}(\.(\w+\.)*{re.escape(param)}\b|\['{param}'\])"
    if not re.search(pattern, message):
        return f"does not name {name}.{param}: {message}"
    if not re.search(r"\b(must|has no)\b", message):
        return f"states no rule: {message}"
    part = message.partition("got ")[2].partition(". ")[0].strip(".[]()")  # of several, one
    if "got" in message and part not in repr(value) and not any(t in message for t in shown(value)):
        return f"does not show {value!r}: {message}"
    if "got" not in message and "has no" not in message:
        return f"does not say what it got: {message}"
    if not message.rstrip().endswith((".", ")")) or "\n" in message:
        return f"is no sentence: {message}"
    if len(message) > 3 * LONG:
        return f"is too long: {message}"
    return ""


def answer(
    call: Callable[[], Any], kind: type[Exception], name: str, param: str, value: Any
) -> str:
    """Return how ``call`` answers bad input: '' clearly, else what is wrong."""
    try:
        result = call()
    except Reached:
        return "taken silently"
    except Exception as error:
        if type(error) is not kind:
            return f"{type(error).__name__} in place of {kind.__name__}: {error}"
        return complaint(error, name, param, value)
    return f"taken silently: {type(result).__name__}"


def same(one: Any, other: Any, depth: int = 5) -> bool:
    """Return whether two results are the same as far as values tell, down to some depth."""
    if type(one) is not type(other) or depth == 0:
        return depth == 0 or bool(one == other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, np.random.Generator | np.random.RandomState):
        return True
    if isinstance(one, torch.nn.Module) and not same(one.state_dict(), other.state_dict()):
        return False
    if isinstance(one, CheckedEnv):
        return same(*((env.metadata, env.reset(seed=0), env.action_spaces) for env in (one, other)))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k], depth - 1) for k in one)
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(*pair, depth - 1) for pair in pairs)
    if isinstance(one, int | float | str | type | None) or not hasattr(one, "__dict__"):
        return (isinstance(one, float) and np.isnan(one)) or bool(one == other)
    if callable(one) and hasattr(one, "__code__"):
        return True  # two functions of one definition, made twice
    mine, theirs = ({k: v for k, v in vars(x).items() if k not in AS_GIVEN} for x in (one, other))
    return same(mine, theirs, depth - 1)
