"""The contract of environment wrappers."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space
from pettingzoo.test import parallel_api_test

from robustmarl._checks import check_function, check_int, flags_of
from robustmarl.joint import split_obs
from robustmarl.testing._error import ContractError, requirement
from robustmarl.typing import Env, RobustnessWarning

__all__ = ["check_wrapper"]

_require = requirement("A wrapper")


def check_wrapper(
    wrap: Callable[[Env], Env],
    make_env: Callable[[], Env],
    *,
    observations_only: bool = True,
    identity: bool = False,
    steps: int = 60,
    seed: int = 0,
) -> None:
    """Check that a wrapped environment is still the environment that it claims to be.

    Wrapped and bare environment are reset with one seed and stepped with the same actions.

    Args:
        wrap: the wrapper.
        make_env: makes a fresh environment, of one team or several; the same seed gives the
            same episode.
        observations_only: whether rewards, terminations, truncations and state must not change.
        identity: whether observations must not change either, as with zero budget.
        steps: how many steps to compare; a new episode begins where one ends.
        seed: of the resets and of the actions.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: for an argument of a wrong kind.
        ValueError: for a number out of range.

    Example:
        >>> from robustmarl import envs
        >>> check_wrapper(lambda env: env, envs.spread)
    """
    check_function("check_wrapper.wrap", wrap, "callable")
    check_function("check_wrapper.make_env", make_env, "callable")
    observations_only, identity = flags_of(
        "check_wrapper", observations_only=observations_only, identity=identity
    )
    steps = check_int("check_wrapper.steps", steps, 1)
    seed = check_int("check_wrapper.seed", seed, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints
                parallel_api_test(wrap(make_env()), num_cycles=steps)
        except AssertionError as error:
            raise ContractError(
                f"A wrapped environment must pass PettingZoo's test: {error}"
            ) from error
        bare, wrapped = make_env(), wrap(make_env())
        same = list(bare.possible_agents) == list(wrapped.possible_agents)
        _require(same, "keep possible_agents")
        for agent in bare.possible_agents:
            kept = bare.action_space(agent) == wrapped.action_space(agent)
            _require(kept, f"keep the action_space of {agent!r}")
            wider = _contains(wrapped.observation_space(agent), bare.observation_space(agent))
            _require(wider, f"keep the observation_space of {agent!r}, or widen it")
        first = [_rollout(wrap(make_env()), steps, seed) for _ in range(2)]
        _require(_equal(*first), "repeat an episode when reset with the same seed")
        if observations_only:
            plain = _rollout(bare, steps, seed)
            for (name, one), (_, other) in zip(plain, first[0], strict=True):
                if name != "obs" or identity:
                    _require(_equal(one, other), f"leave {name} alone")
        bare.close()
        wrapped.close()


def _contains(space: Space[Any], inner: Space[Any]) -> bool:
    """Return whether all of ``inner`` is in ``space``, which may be a wider Box."""
    if isinstance(space, Dict) and isinstance(inner, Dict):
        same = space.spaces.keys() == inner.spaces.keys()
        return same and all(_contains(space[key], inner[key]) for key in inner.spaces)
    if isinstance(space, Box) and isinstance(inner, Box):
        same = space.shape == inner.shape and space.dtype == inner.dtype
        return same and bool((space.low <= inner.low).all() and (space.high >= inner.high).all())
    return space == inner


def _rollout(env: Env, steps: int, seed: int) -> list[tuple[str, object]]:
    """Return what happened, as (name, value) pairs in order."""
    random = np.random.default_rng(seed)
    obs, infos = env.reset(seed=seed)
    happened: list[tuple[str, object]] = [("obs", obs), *_state(env)]
    for step in range(steps):
        if not env.agents:
            obs, infos = env.reset(seed=seed + step + 1)
            happened += [("obs", obs), *_state(env)]
        actions = {}
        for agent in env.agents:
            env.action_space(agent).seed(int(random.integers(2**31)))
            mask = split_obs(obs[agent])[1]
            mask = infos.get(agent, {}).get("action_mask") if mask is None else mask
            mask = None if mask is None else np.asarray(mask, dtype=np.int8)
            actions[agent] = env.action_space(agent).sample(mask)
        obs, rewards, terminations, truncations, infos = env.step(actions)
        happened += [
            ("obs", obs),
            ("rewards", rewards),
            ("terminations", terminations),
            ("truncations", truncations),
            *_state(env),
        ]
    return happened


def _state(env: Env) -> list[tuple[str, object]]:
    return [("state", np.array(env.state()))] if hasattr(env, "state_space") else []


def _equal(one: object, other: object) -> bool:
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return False
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
