"""What this package expects of a parallel environment."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.random import Generator
from numpy.typing import NDArray
from pettingzoo.test import parallel_api_test

from robustmarl._checks import check_function, check_int, flags_of
from robustmarl.joint import TeamSpec, spec_of, split_obs
from robustmarl.joint.reading import infos_of
from robustmarl.testing._error import ContractError
from robustmarl.typing import Env

__all__ = ["check_env"]


def check_env(
    make_env: Callable[[], Env],
    *,
    episodes: int = 3,
    seed: int = 0,
    stochastic: bool = True,
    time_limit: bool = True,
) -> None:
    """Check an environment against everything that wrappers and collectors rely on.

    PettingZoo's own API test; :func:`robustmarl.joint.spec_of` succeeds; observations and states
    lie in their spaces and keep their shapes; rewards are finite; masks allow an action; an
    episode keeps to the horizon; one seed and the same actions give the same whole episode, in
    a new environment and in one that has been used before. (PettingZoo's seed test compares a
    single step.)

    Args:
        make_env: builds one environment.
        episodes: how many seeds are tried, >= 1.
        seed: the first of them.
        stochastic: whether different seeds must lead to different episodes.
        time_limit: whether the horizon is a limit on time, which must truncate; False for a
            game that is really over then.

    Raises:
        ContractError: naming the first promise that is broken.
        TypeError: if an argument is of a wrong kind.
        ValueError: if ``episodes`` is below 1.

    Example:
        >>> from robustmarl import envs
        >>> check_env(envs.ToyGame)
    """
    check_function("check_env.make_env", make_env, "callable")
    episodes = check_int("check_env.episodes", episodes, 1)
    seed = check_int("check_env.seed", seed, 0)
    stochastic, time_limit = flags_of("check_env", stochastic=stochastic, time_limit=time_limit)
    try:
        spec = spec_of(make_env())
    except (TypeError, ValueError) as error:
        raise ContractError(f"spec_of fails: {error}") from error
    _check_api(make_env())
    used = make_env()
    traces, endings = [], []
    for episode in range(episodes):
        trace, ending = _play(make_env(), spec, seed + episode, actions=seed)
        traces.append(trace)
        endings.append(ending)
    for episode, trace in enumerate(traces):
        for how, env in (("new", make_env()), ("used", used)):
            again, _ = _play(env, spec, seed + episode, actions=seed)
            _demand_same(trace, again, seed + episode, how)
    different = any(_first_difference(traces[0], other) is not None for other in traces[1:])
    if stochastic and episodes > 1 and not different:
        raise ContractError(
            f"episodes with the seeds {seed} to {seed + episodes - 1} are identical: is the seed "
            "ignored? Pass stochastic=False if nothing in the environment is random."
        )
    at_horizon = [truncated for steps, truncated in endings if steps == spec.horizon]
    if time_limit and at_horizon and not any(at_horizon):
        raise ContractError(
            f"episodes of {spec.horizon} steps, the horizon, terminate: a time limit must "
            "truncate. Pass time_limit=False if the game is really over then."
        )


def _check_api(env: Env) -> None:
    complaints = ("Live agent", "Agent was given", "No agents present", "Your environment should")
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("always")
        try:
            parallel_api_test(env, num_cycles=200)
        except Exception as error:  # whatever it is, the environment caused it
            raise ContractError(f"PettingZoo's parallel_api_test fails: {error!r}") from error
    for warning in caught:
        if str(warning.message).startswith(complaints):
            raise ContractError(f"PettingZoo's parallel_api_test warns: {warning.message}")


Trace = list[dict[str, object]]
"""What every step of an episode showed."""


def _play(env: Env, spec: TeamSpec, seed: int, *, actions: int) -> tuple[Trace, tuple[int, bool]]:
    """Return everything that one episode of random actions shows, and how it ended."""
    rng = np.random.default_rng(actions)
    obs, infos = env.reset(seed=seed)
    infos = infos_of(infos)
    if list(env.agents) != [agent for agent in spec.agents if agent in env.agents]:
        raise ContractError(f"reset: agents {env.agents} are not among {spec.agents}, in order.")
    trace = [_look(env, spec, obs, step=0)]
    steps, truncated = 0, False
    while env.agents:
        joint = {
            agent: _sample(env, agent, _mask(obs, infos, agent, steps), rng) for agent in env.agents
        }
        obs, rewards, terminations, truncations, infos = env.step(joint)
        infos = infos_of(infos)
        steps += 1
        if steps >= spec.horizon and env.agents:
            raise ContractError(f"agents live on after {spec.horizon} steps, the horizon.")
        for agent, reward in rewards.items():
            if not np.isfinite(reward):
                raise ContractError(f"step {steps}: reward of {agent!r} is {reward!r}.")
        frame = _look(env, spec, obs, step=steps)
        truncated = any(truncations.values())
        trace.append(
            {**frame, "rewards": rewards, "terminated": terminations, "truncated": truncations}
        )
    reported = {name for info in infos.values() for name in info}
    if missing := [name for name in spec.metrics if name not in reported]:
        raise ContractError(f"the last infos lack the episode metrics {missing}.")
    return trace, (steps, truncated)


def _look(env: Env, spec: TeamSpec, obs: Mapping[str, object], *, step: int) -> dict[str, object]:
    for agent, seen in obs.items():
        if not env.observation_space(agent).contains(seen):
            where = env.observation_space(agent)
            raise ContractError(f"step {step}: {agent!r} observes {seen!r}, outside {where}.")
        if not np.isfinite(np.asarray(split_obs(seen)[0])).all():
            raise ContractError(f"step {step}: the observation of {agent!r} is not finite.")
    # a copy, because an environment may write into arrays that it has shown
    frame: dict[str, object] = {"obs": {agent: _copy(seen) for agent, seen in obs.items()}}
    if spec.state_layout != "concatenated":
        state = np.asarray(env.state())
        space: Box = env.state_space  # type: ignore[attr-defined]
        if state.shape != space.shape or not space.contains(state):
            raise ContractError(f"step {step}: state {state!r} is outside {space}.")
        if not np.isfinite(state).all():
            raise ContractError(f"step {step}: the state is not finite.")
        frame["state"] = state.copy()
    return frame


def _copy(seen: object) -> dict[str, np.ndarray]:
    observation, mask = split_obs(seen)
    parts = {"observation": np.array(observation)}
    return parts if mask is None else {**parts, "action_mask": np.array(mask)}


def _mask(
    obs: Mapping[str, object], infos: Mapping[str, Mapping[str, object]], agent: str, step: int
) -> NDArray[np.bool_] | None:
    _, mask = split_obs(obs[agent])
    if mask is None:
        mask = infos.get(agent, {}).get("action_mask")
    if mask is None:
        return None
    available = np.asarray(mask, bool)
    if not available.any():
        raise ContractError(f"step {step}: the mask of {agent!r} leaves no action.")
    return available


def _sample(env: Env, agent: str, mask: NDArray[np.bool_] | None, rng: Generator) -> object:
    space = env.action_space(agent)
    if isinstance(space, Box):
        return rng.uniform(space.low, space.high).astype(space.dtype)
    if not isinstance(space, Discrete):
        raise ContractError(f"the action space of {agent!r} is neither Box nor Discrete: {space}.")
    if mask is not None and len(mask) != space.n:
        raise ContractError(f"the mask of {agent!r} has {len(mask)} entries for {space}.")
    choices = np.arange(space.n) if mask is None else np.flatnonzero(mask)
    return int(rng.choice(choices))


def _demand_same(first: Trace, second: Trace, seed: int, how: str) -> None:
    where = _first_difference(first, second)
    if where is not None:
        raise ContractError(
            f"seed {seed} with the same actions gives another episode in a {how} environment, "
            f"from step {where} on."
        )


def _first_difference(first: Trace, second: Trace) -> int | None:
    for step, (one, other) in enumerate(zip(first, second, strict=False)):
        if not _same(one, other):
            return step
    return None if len(first) == len(second) else min(len(first), len(second))


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
