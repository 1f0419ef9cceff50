"""E joint environments stepped into preallocated arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import all_finite, check, check_function, check_int
from robustmarl.envs.joint import JointEnv
from robustmarl.joint import VectorEngine, check_act, check_seeds, flagged, spec_of
from robustmarl.typing import Env

__all__ = ["EngineMaker", "EnvMaker", "JointVectorEnv", "offers_batch", "vector_env"]


class EngineMaker(Protocol):
    """What builds a native batch of environments."""

    def make_engine(self, num_envs: int) -> VectorEngine:
        """Return ``num_envs`` environments side by side."""


EnvMaker: TypeAlias = Callable[[], Env] | EngineMaker
"""A function that builds one environment, or what builds a native batch of them."""


class JointVectorEnv:
    """Steps E parallel environments one after another in this process; a ``VectorEngine``.

    Every episode is seeded on its own, so an environment has no state to checkpoint.

    Args:
        make_env: builds one environment; called ``num_envs`` times.
        num_envs: E, >= 1.

    Raises:
        TypeError: if ``make_env`` is not callable.
        ValueError: if environments differ, at construction; for non-finite observations, states
            or rewards, naming environment, agent and step, when stepping.
    """

    def __init__(self, make_env: Callable[[], Env], num_envs: int = 1) -> None:
        num_envs = check_int("JointVectorEnv.num_envs", num_envs, 1)
        rule, remedy = "a function that builds an environment", "Write lambda: env."
        check_function("JointVectorEnv.make_env", make_env, rule, remedy)
        envs = [make_env() for _ in range(num_envs)]
        distinct = len({id(getattr(env, "unwrapped", env)) for env in envs}) == num_envs
        rule = "a function that builds a new env each time"
        check(distinct, "JointVectorEnv.make_env", rule, envs[0])
        self.spec = spec_of(envs[0])
        self._closed = False
        arrays = {k: v for k, v in self.spec.empty(num_envs).items() if k != "act"}
        # side by side in memory, so that one look tells whether all of them are finite
        floats = {key: arrays[key] for key in ("obs", "state", "rew_agents")}
        sizes = [values.numel() for values in floats.values()]
        together = torch.zeros(sum(sizes))
        parts = zip(floats.items(), together.split(sizes), strict=True)
        arrays |= {key: part.view(values.shape) for (key, values), part in parts}
        arrays["terminated"] = torch.zeros(num_envs, 1, dtype=torch.bool)
        arrays["truncated"] = torch.zeros(num_envs, 1, dtype=torch.bool)
        shared = {key: tensor.numpy() for key, tensor in arrays.items()}
        self._floats = together.numpy()
        self._checked = {
            "observation": shared["obs"],
            "state": shared["state"],
            "reward": shared["rew_agents"],
        }
        self.joint = [
            JointEnv(env, {key: array[e] for key, array in shared.items()}, self.spec, e)
            for e, env in enumerate(envs)
        ]
        self.tensors = arrays | {
            "terminated": arrays["terminated"][:, 0],
            "truncated": arrays["truncated"][:, 0],
            "metrics": torch.zeros(num_envs, len(self.spec.metrics)),
        }
        self._terminated, self._truncated = shared["terminated"][:, 0], shared["truncated"][:, 0]

    def __len__(self) -> int:
        return len(self.joint)

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "JointVectorEnv cannot be pickled or copied: its environments write into its arrays. "
            "Make another, JointVectorEnv(make_env, num_envs); episodes follow from their seeds."
        )

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), from ``seeds``, int64 (E,)."""
        rows = flagged("JointVectorEnv.begin.mask", mask, len(self))
        check_seeds("JointVectorEnv.begin.seeds", seeds, len(self))
        for e, seed in zip(rows.tolist(), seeds.numpy()[rows].tolist(), strict=True):
            self.joint[e].begin(seed)
        self._check_finite()

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,); ``act``: (E, N) or (E, N, A)."""
        rows = flagged("JointVectorEnv.advance.active", active, len(self))
        check_act("JointVectorEnv.advance.act", act, self.spec, len(self))
        actions = act.numpy() if self.spec.continuous else act.tolist()
        for e in rows.tolist():
            self.joint[e].advance(actions[e])
        self._check_finite()
        if self.spec.metrics:
            for e in rows[(self._terminated | self._truncated)[rows]].tolist():
                values = [self.joint[e].metric(name) for name in self.spec.metrics]
                self.tensors["metrics"][e] = torch.tensor(values)

    def close(self) -> None:
        """Close all environments."""
        if not self._closed:
            self._closed = True
            for joint in self.joint:
                joint.env.close()

    def _check_finite(self) -> None:
        if all_finite(self._floats):
            return
        for what, values in self._checked.items():
            for place in np.argwhere(~np.isfinite(values))[:1]:
                e = int(place[0])
                agent = "" if what == "state" else f"agent {self.spec.agents[place[1]]!r}, "
                raise ValueError(
                    f"{what} must be finite, got {float(values[tuple(place)])} from environment "
                    f"{e}, {agent}step {self.joint[e].steps}."
                )


def vector_env(
    make_env: EnvMaker, num_envs: int, device: torch.device | str = "cpu"
) -> VectorEngine:
    """Return ``num_envs`` environments side by side, as one native batch where there is one.

    ``make_env``, or the environment that it builds, offers a batch by ``make_engine(num_envs)``.
    What a wrapper hands on does not count: the batch would leave the wrapper out.

    Args:
        make_env: see :data:`EnvMaker`.
        num_envs: E, >= 1.
        device: where the batch is to live, if its ``make_engine`` takes a ``device``; all others
            live on the CPU.

    Raises:
        TypeError: if ``make_env`` is neither callable nor offers a batch.
        ValueError: for a bad number, or environments that differ.
    """
    num_envs = check_int("vector_env.num_envs", num_envs, 1)
    if offers_batch(make_env):
        return _batch(cast(EngineMaker, make_env).make_engine, num_envs, device)
    make_one = cast("Callable[[], Env]", make_env)
    rule, remedy = "a function that builds an environment", "Write lambda: env."
    check_function("vector_env.make_env", make_one, rule, remedy)
    built = [make_one()]
    if offers_batch(built[0]):
        return _batch(cast(EngineMaker, built[0]).make_engine, num_envs, device)
    return JointVectorEnv(lambda: built.pop() if built else make_one(), num_envs)


def offers_batch(maker: object) -> bool:
    """Return whether ``maker`` itself builds native batches; a class, asked when built, does not.

    Only what it has is looked at: PettingZoo's wrappers hand out all that the inside has.
    """
    static = inspect.getattr_static(maker, "make_engine", None)
    return static is not None and not isinstance(maker, type)


def _batch(
    make_engine: Callable[..., VectorEngine], num_envs: int, device: torch.device | str
) -> VectorEngine:
    if "device" in inspect.signature(make_engine).parameters:
        return make_engine(num_envs, device=device)
    return make_engine(num_envs)
