"""Observations of any kind as the flat rows that teams work on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from pettingzoo.utils import BaseParallelWrapper
from typing_extensions import override

from robustmarl._checks import check, check_names
from robustmarl.joint.spec import check_parallel
from robustmarl.typing import AnySpace, Array, Env, Obs, Options, ResetResult, StepResult

__all__ = ["FlattenedObs", "flatten_obs"]

_MASK = "action_mask"


class FlattenedObs(BaseParallelWrapper[str, Any, Any]):
    """An environment whose observations are flat; made by :func:`flatten_obs`."""

    def __init__(self, env: Env, keys: tuple[str, ...] | None) -> None:
        super().__init__(env)
        self._parts: dict[str, AnySpace] = {}
        self._spaces: dict[str, AnySpace] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        for agent in env.possible_agents:
            space = env.observation_space(agent)
            self._parts[agent] = part = _part(space, agent, keys)
            flat = _flat_box(part, agent)
            self._sizes[agent] = flat.shape
            self._spaces[agent] = flat
            if isinstance(space, Dict) and _MASK in space.spaces:
                self._spaces[agent] = Dict({"observation": flat, _MASK: space[_MASK]})

    @override
    def observation_space(self, agent: str) -> AnySpace:
        return self._spaces[agent]

    @override
    def reset(self, seed: int | None = None, options: Options | None = None) -> ResetResult:
        obs, infos = self.env.reset(seed=seed, options=options)
        return self._flat(obs), infos

    @override
    def step(self, actions: dict[str, Any]) -> StepResult:
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        return self._flat(obs), rewards, terminations, truncations, infos

    def _flat(self, obs: Obs) -> Obs:
        return {agent: self._flat_row(agent, seen) for agent, seen in obs.items()}

    def _flat_row(self, agent: str, seen: Any) -> Array | dict[str, Any]:
        part, mask = self._parts[agent], None
        try:
            if isinstance(part, Dict):
                seen, mask = {key: seen[key] for key in part}, seen.get(_MASK)
            row = np.asarray(gymnasium.spaces.flatten(part, seen), np.float32)
            good = row.shape == self._sizes[agent] and _inside(part, seen)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            good = False
        rule, remedy = f"of its space, {part}", "Correct the environment's observation_space."
        check(good, f"observation of {agent!r}", rule, seen, remedy)
        return row if mask is None else {"observation": row, _MASK: mask}


def flatten_obs(env: Env, *, keys: Collection[str] | None = None) -> Env:
    """Return ``env`` with observations that are flat float32 boxes, as teams need them.

    Discrete observations become one-hot, boxes of several axes (pictures too) and Tuples one row,
    in their order; boxes of integers become floating. Of Dict observations an ``"action_mask"``
    stays beside the row; the others are in it in the order of their space.

    Args:
        env: any parallel environment.
        keys: which keys of Dict observations to show, in this order; None is all.

    Raises:
        TypeError: if ``env`` is no parallel environment, or ``keys`` are no names.
        ValueError: for unknown keys, keys where observations are no Dict, and spaces of no fixed
            size (Graph, Sequence, Text); from ``reset`` and ``step`` for an observation that is
            not of its space.

    Example:
        >>> from robustmarl import envs
        >>> env = flatten_obs(envs.foraging())
        >>> env.observation_space("player_0")["observation"].shape
        (15,)
    """
    check_parallel("flatten_obs.env", env)
    return FlattenedObs(env, None if keys is None else _names(env, keys))


def _names(env: Env, keys: Collection[str]) -> tuple[str, ...]:
    spaces = [env.observation_space(agent) for agent in env.possible_agents]
    known = [key for space in spaces if isinstance(space, Dict) for key in space if key != _MASK]
    names = check_names("flatten_obs.keys", keys, list(dict.fromkeys(known)))
    check(len(names) > 0, "flatten_obs.keys", "at least one key, or None for all", keys)
    return names


def _part(space: AnySpace, agent: str, keys: tuple[str, ...] | None) -> AnySpace:
    """Return the space of what is to be shown of ``space``: without its mask, ``keys`` only."""
    if not isinstance(space, Dict):
        return space
    names = [key for key in space if key != _MASK] if keys is None else keys
    missing = [key for key in names if key not in space.spaces]
    check(not missing, "flatten_obs.keys", f"keys of {agent!r}'s observation", missing)
    return Dict([(key, space[key]) for key in names])  # pairs keep their order


def _flat_box(part: AnySpace, agent: str) -> Box:
    where = f"flatten_obs.env.observation_space({agent!r})"
    box = None if _has_text(part) else gymnasium.spaces.flatten_space(part)
    if not isinstance(box, Box):
        rule = "of a fixed size, not Graph, Sequence or Text"
        raise ValueError(f"{where} must be {rule}, got {part}.")
    return Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)


def _has_text(part: AnySpace) -> bool:
    """Return whether letters, whose numbers mean nothing, are in it; gymnasium takes them."""
    if isinstance(part, Dict | Tuple):
        return any(_has_text(one) for one in (part.values() if isinstance(part, Dict) else part))
    return isinstance(part, Text)


def _inside(part: AnySpace, seen: Any) -> bool:
    """Return whether indices are of their spaces: flattening takes -1 for the last one."""
    if isinstance(part, Dict):
        return all(_inside(one, seen[key]) for key, one in part.items())
    if isinstance(part, Tuple):
        return all(_inside(one, value) for one, value in zip(part, seen, strict=True))
    if isinstance(part, Discrete | MultiDiscrete):
        low, size = part.start, part.n if isinstance(part, Discrete) else part.nvec
        number = np.asarray(seen)
        return bool(((number >= low) & (number < low + size)).all())
    return True
