"""A PettingZoo parallel environment as rows of joint arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmarl.joint import TeamSpec, spec_of, split_obs
from robustmarl.typing import Env

__all__ = ["JointEnv"]

NO_OP = 0
_NOTHING: dict[str, Any] = {}


class JointEnv:
    """Writes one environment's observations, masks and rewards into given array rows.

    Agents that are dead or not yet there have zero observations, ``alive`` False and only the
    no-op (action 0) available; so have those that stay although their infos say ``alive`` False.
    An episode ends when no agent is left: as a termination if all of the last agents terminated,
    else as a truncation. Every episode gets a seed, unless ``metadata["relaunches_to_seed"]`` of
    ``env`` is true: then only the first one does, and those after it go on from there.

    Args:
        env: a parallel environment.
        rows: this environment's row of each array of ``TeamSpec.empty``, and of ``terminated``
            and ``truncated`` (shape (1,) views).
        spec: what ``env`` must look like; None asks it.

    Raises:
        ValueError: if ``env`` does not fit ``spec``.
    """

    def __init__(self, env: Env, rows: dict[str, NDArray[Any]], spec: TeamSpec) -> None:
        self.env, self.spec, self._rows = env, spec, rows
        if difference := spec.describe_difference(spec_of(env)):
            raise ValueError(f"JointEnv.env must be like the first environment, got {difference}.")
        self._index = {agent: i for i, agent in enumerate(spec.agents)}
        self._full_mask = np.zeros((spec.num_agents, spec.num_actions), dtype=bool)
        for i, size in enumerate(spec.action_sizes):
            self._full_mask[i, :size] = True
        self._no_op = np.zeros(spec.num_actions, dtype=bool)
        self._no_op[NO_OP] = True
        if spec.continuous:
            self._no_op[:] = True
        self._all_alive = False
        padded = len(set(spec.obs_sizes)) > 1
        self._plain_state = spec.state_layout == "concatenated" and not padded
        self._low = [np.asarray(low, np.float32) for low in spec.action_low]
        self._high = [np.asarray(high, np.float32) for high in spec.action_high]
        self.steps = 0
        self.infos: dict[str, dict[str, Any]] = {}
        # a game that has to be launched anew for a seed is seeded for its first episode only
        self._seed_once = bool(env.metadata.get("relaunches_to_seed", False))
        self._seeded = False

    def begin(self, seed: int) -> None:
        """Reset to a new episode and write its first observations."""
        self.steps = 0
        self._all_alive = False
        self._rows["terminated"][0] = self._rows["truncated"][0] = False
        self._rows["rew_agents"][:] = 0.0
        obs, infos = self.env.reset(seed=None if self._seed_once and self._seeded else seed)
        self._seeded = True
        self._write(obs, infos, _living(self.env.agents, infos))

    def advance(self, act: list[Any]) -> None:
        """Step with one joint action: N indices, or N vectors in [-1, 1]."""
        self.steps += 1
        if self.spec.continuous:
            actions = {a: self._to_box(self._index[a], act) for a in self.env.agents}
        else:
            actions = {a: act[self._index[a]] for a in self.env.agents}
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        rew = self._rows["rew_agents"]
        rew[:] = 0.0
        for agent, reward in rewards.items():
            rew[self._index[agent]] = reward
        alive = frozenset(self.env.agents)
        if not alive:
            ended = [a for a in obs if terminated.get(a) or truncated.get(a)]
            all_terminated = all(terminated.get(a) for a in ended) if ended else True
            self._rows["terminated"][0] = all_terminated
            self._rows["truncated"][0] = not all_terminated
            alive = frozenset(a for a in ended if not terminated.get(a))
            self.infos = infos
        self._write(obs, infos, _living(alive, infos))

    def metric(self, name: str) -> float:
        """Return a figure from the last infos: the mean over the agents that report it."""
        values = [info[name] for info in self.infos.values() if name in info]
        return float(np.mean(values)) if values else float("nan")

    def _to_box(self, i: int, act: Any) -> NDArray[np.float32]:
        low, high = self._low[i], self._high[i]
        unit = np.clip(np.asarray(act[i][: len(low)], np.float32), -1.0, 1.0)
        return low + (unit + 1.0) * 0.5 * (high - low)

    def _write(self, obs: dict[str, Any], infos: dict[str, Any], alive: frozenset[str]) -> None:
        rows, index, sizes = self._rows, self._index, self.spec.obs_sizes
        everyone = len(obs) == len(index) and len(alive) == len(index)
        out, mask = rows["obs"], rows["mask"]
        if not everyone:
            out[:] = 0.0
            rows["alive"][:] = False
            mask[:] = self._no_op
            self._all_alive = False
        elif not self._all_alive:
            rows["alive"][:] = True
            mask[:] = self._full_mask
            self._all_alive = True
        for agent, raw in obs.items():
            i = index[agent]
            seen, available = split_obs(raw)
            try:
                out[i, : sizes[i]] = seen
            except (ValueError, TypeError) as error:
                shape = np.shape(seen)
                raise ValueError(
                    f"observation of {agent!r} must keep the shape ({sizes[i]},) of its space, "
                    f"got {shape} at step {self.steps}. The environment's spaces may not change."
                ) from error
            if agent in alive:
                if not everyone:
                    rows["alive"][i] = True
                    mask[i] = self._full_mask[i]
                if available is None and agent in infos:
                    available = infos[agent].get("action_mask")
                if available is not None:
                    mask[i, : len(available)] = available
                    self._all_alive = False  # the next step may leave the mask out
        state = rows["state"]
        if self._plain_state:
            state[:] = out.reshape(-1)
        elif self.spec.state_layout == "concatenated":
            state[:] = np.concatenate([out[i, :size] for i, size in enumerate(sizes)])
        else:
            state[:] = self.env.state()


def _living(agents: Iterable[str], infos: dict[str, dict[str, Any]]) -> frozenset[str]:
    return frozenset(agent for agent in agents if infos.get(agent, _NOTHING).get("alive", True))
