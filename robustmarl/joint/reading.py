"""What environments tell, read in one way by collectors and wrappers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from robustmarl.joint.masks import has_nan
from robustmarl.typing import Array, Env, Infos, Values

__all__ = [
    "Roster",
    "Where",
    "infos_of",
    "kind_of",
    "mask_of",
    "metadata_of",
    "number_of",
    "row_of",
    "state_of",
]

Where: TypeAlias = Callable[[], str]
"""Tells environment and step, for messages."""

_NOBODY: frozenset[str] = frozenset()
_REAL = "biuf"  # numpy's kinds of numbers


def metadata_of(env: Env) -> Mapping[str, Any]:
    """Return an environment's metadata; nothing if it has none."""
    found = getattr(env, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def kind_of(env: Env) -> str:
    """Return what an environment is called, for messages."""
    name = metadata_of(env).get("name")
    return str(name) if name else type(getattr(env, "unwrapped", env)).__name__


def infos_of(infos: Infos | None) -> Infos:
    """Return the infos of a reset or step, where an environment may say None for nothing."""
    if infos is None:
        return {}
    if None in infos.values():
        return {agent: {} if info is None else info for agent, info in infos.items()}
    return infos


class Roster:
    """Who is left in an episode, by ``agents`` and by the flags of each step.

    Who was terminated or truncated is gone, whether the environment removes it from ``agents`` or
    not, until it has left and comes again.

    Attributes:
        left: names of who has not ended, in no order.
        ended: who ended in the last step.
    """

    def __init__(self) -> None:
        self.left = self.ended = self._gone = _NOBODY

    def begin(self, agents: Iterable[str], where: Where) -> None:
        """Note who is there after a reset.

        Raises:
            ValueError: if nobody is.
        """
        self.left, self.ended, self._gone = frozenset(agents), _NOBODY, _NOBODY
        if not self.left:
            raise ValueError(
                f"agents must not be empty after reset, got none in {where()}. Let its reset set "
                "self.agents = self.possible_agents[:]."
            )

    def step(
        self,
        agents: Collection[str],
        terminated: Mapping[str, bool],
        truncated: Mapping[str, bool],
        where: Where,
    ) -> None:
        """Note who is left after a step.

        Raises:
            ValueError: if the last agents leave without a flag that says how they ended, or had
                ended before.
        """
        if not self.left:
            if agents:
                raise ValueError(
                    f"step must not be called after an episode's end, got one in {where()}. All "
                    "had ended by their flags: reset, or let the environment remove them from "
                    "agents when they end."
                )
            return
        before, self.left = self.left, frozenset(agents)
        ends = any(terminated.values()) or any(truncated.values())
        self.ended = _NOBODY
        if ends or self._gone:
            flags = (*terminated.items(), *truncated.items())
            named, gone = self.left, self._gone | {name for name, flag in flags if flag}
            self.left, self.ended = named - gone, before & gone
            self._gone = gone & named  # who has left may come again
        if not self.left and not self.ended:
            raise ValueError(
                f"terminations or truncations must say how the last agents, {sorted(before)}, "
                f"ended, got neither in {where()}. Let the environment's step flag those that it "
                "removes from agents."
            )


def row_of(agent: str, seen: object, shape: tuple[int], where: Where) -> Values:
    """Return an observation as an array of ``shape``, which nothing is broadcast to.

    Raises:
        ValueError: if it is of another shape, or of no real numbers.
    """
    try:
        row = seen if isinstance(seen, np.ndarray) else np.asarray(seen)
    except ValueError:  # a list of unequal lists
        row = np.empty(0, object)
    if row.shape != shape or row.dtype.kind not in _REAL:
        got = row.shape if row.dtype.kind in _REAL else repr(seen)
        raise ValueError(
            f"observation of {agent!r} must keep the shape {shape} of its space, got {got} in "
            f"{where()}. Let the environment return an array of that shape, or correct its "
            "observation_space."
        )
    return row


def mask_of(agent: str, available: object, size: int, where: Where) -> Values:
    """Return an action mask as an array (size,), which nothing is broadcast to.

    Raises:
        ValueError: if it is of another length, or has NaN, which as a flag would be true.
    """
    mask = np.asarray(available)
    if mask.shape != (size,):
        raise ValueError(
            f"action_mask of {agent!r} in {where()}, must be of shape ({size},), one flag for each "
            f"of the agent's {size} actions, got {mask.shape}. Let the environment mask all of its "
            "actions, or correct its action_space."
        )
    if has_nan(mask):
        raise ValueError(f"action_mask of {agent!r} must be flags, got NaN in {where()}.")
    return mask


def number_of(agent: str, reward: object, where: Where) -> float:
    """Return a reward, an array of one element too, as a float.

    Raises:
        ValueError: if it is not one number.
    """
    try:
        values = np.asarray(reward, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if reward is None or values.size != 1:
        raise ValueError(
            f"reward of {agent!r} must be one number, got {reward!r} in {where()}. Let the "
            "environment return a float for each agent."
        )
    return float(values.reshape(()))


def state_of(found: ArrayLike, shape: tuple[int, ...], where: Where) -> Array:
    """Return what ``env.state()`` returned, float32 of ``shape``: (S,) or (N, S).

    The rows of a state of two axes may be asked for in one.

    Raises:
        ValueError: if it is of another size.
    """
    state = np.asarray(found, np.float32)
    if state.shape == shape:
        return state
    if state.ndim == 2 and (state.size,) == shape:
        return state.reshape(-1)
    raise ValueError(
        f"state must keep the shape {shape} of state_space, got {state.shape} in {where()}. Let "
        "state() return an array of that shape, or correct state_space."
    )
