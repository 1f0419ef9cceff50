"""A PettingZoo parallel environment as rows of joint arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmarl._checks import check
from robustmarl.joint import TeamSpec, spec_of, split_obs
from robustmarl.joint.masks import has_nan
from robustmarl.typing import Array, Env

__all__ = ["JointEnv"]

Row: TypeAlias = "Mapping[str, NDArray[np.float32] | NDArray[np.bool_]]"
Infos: TypeAlias = Mapping[str, Mapping[str, object]]
Action: TypeAlias = "int | Array"

NO_OP = 0
_NOTHING: Mapping[str, object] = {}


class JointEnv:
    """Writes one environment's observations, masks and rewards into given array rows.

    Agents that are dead or not yet there have zero observations, ``alive`` False and only the
    no-op (action 0) available; so have those that stay although their infos say ``alive`` False.
    An episode ends when no agent is left: as a termination if all of the last agents terminated,
    else as a truncation. Every episode gets a seed, unless ``metadata["relaunches_to_seed"]`` of
    ``env`` is true: then only the first one does, and those after it go on from there.

    Args:
        env: a parallel environment.
        row: this environment's row of each array of ``TeamSpec.empty``, and of ``terminated``
            and ``truncated`` (shape (1,) views).
        spec: what ``env`` must look like.
        number: which of the environments it is, for messages.

    Raises:
        ValueError: if ``env`` does not fit ``spec``; when stepped, if an observation or an action
            mask has another length than the agent's space.
    """

    def __init__(self, env: Env, row: Row, spec: TeamSpec, number: int = 0) -> None:
        self.env, self.spec, self._row, self._number = env, spec, row, number
        if difference := spec.describe_difference(spec_of(env)):
            raise ValueError(f"JointEnv.env must be like the first environment, got {difference}.")
        self._index = {agent: i for i, agent in enumerate(spec.agents)}
        # the actions that an agent has, as far as nobody says which of them are available
        self._every_action = np.zeros((spec.num_agents, spec.num_actions), dtype=bool)
        for i, size in enumerate(spec.action_sizes):
            self._every_action[i, :size] = True
        self._no_op = np.zeros(spec.num_actions, dtype=bool)
        self._no_op[NO_OP] = True
        if spec.continuous:
            self._no_op[:] = True
        # whether the row says already that all agents live and may do everything: it need not be
        # written again, which halves the cost of a step in environments without masks
        self._says_all = False
        padded = len(set(spec.obs_sizes)) > 1
        self._plain_state = spec.state_layout == "concatenated" and not padded
        self._low = [np.asarray(low, np.float32) for low in spec.action_low]
        self._high = [np.asarray(high, np.float32) for high in spec.action_high]
        self.steps = 0
        self.infos: Infos = {}
        # a game that has to be launched anew for a seed is seeded for its first episode only
        self._seed_once = bool(env.metadata.get("relaunches_to_seed", False))
        self._seeded = False

    def begin(self, seed: int) -> None:
        """Reset to a new episode and write its first observations."""
        self.steps = 0
        self._says_all = False
        self._row["terminated"][0] = self._row["truncated"][0] = False
        self._row["rew_agents"][:] = 0.0
        obs, infos = self.env.reset(seed=None if self._seed_once and self._seeded else seed)
        self._seeded = True
        self._write(obs, infos, _living(self.env.agents, infos))

    def advance(self, act: Sequence[Action]) -> None:
        """Step with one joint action: N indices, or N vectors in [-1, 1]."""
        self.steps += 1
        actions: dict[str, object]
        if self.spec.continuous:
            actions = {a: self._to_box(self._index[a], act) for a in self.env.agents}
        else:
            actions = {a: act[self._index[a]] for a in self.env.agents}
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        rew = self._row["rew_agents"]
        rew[:] = 0.0
        for agent, reward in rewards.items():
            rew[self._index[agent]] = reward
        alive = frozenset(self.env.agents)
        if not alive:
            ended = [a for a in obs if terminated.get(a) or truncated.get(a)]
            all_terminated = all(terminated.get(a) for a in ended) if ended else True
            self._row["terminated"][0] = all_terminated
            self._row["truncated"][0] = not all_terminated
            alive = frozenset(a for a in ended if not terminated.get(a))
            self.infos = infos
        self._write(obs, infos, _living(alive, infos))

    def metric(self, name: str) -> float:
        """Return a figure from the last infos: the mean over the agents that report it.

        Raises:
            ValueError: if no agent does, or not a finite number. Where a figure were left out of
                the episodes that do not report it, a success rate would be 1 whatever happens.
        """
        values = [info[name] for info in self.infos.values() if name in info]
        kind = self.env.metadata.get("name", type(self.env).__name__)
        where = f"environment {self._number} ({kind}), step {self.steps}"
        if not values:
            known = sorted({str(key) for info in self.infos.values() for key in info})
            raise ValueError(
                f"metric {name!r} must be in the last infos of every episode, got {known} from "
                f"{where}. Report 0.0 where it did not happen, or state other metrics: "
                "envs.describe(env, metrics=(...))."
            )
        try:
            mean = float(np.mean(np.asarray(values, np.float64)))
        except (TypeError, ValueError):
            mean = float("nan")
        if not np.isfinite(mean):
            raise ValueError(f"metric {name!r} must be a finite number, got {values} from {where}.")
        return mean

    def _to_box(self, i: int, act: Sequence[Action]) -> Array:
        low, high = self._low[i], self._high[i]
        own = np.asarray(act[i], np.float32)[: len(low)]  # the rest is padding
        unit = np.clip(own, -1.0, 1.0)
        box: Array = low + (unit + 1.0) * 0.5 * (high - low)
        return box

    def _write(self, obs: Mapping[str, ArrayLike], infos: Infos, alive: frozenset[str]) -> None:
        row, index, sizes = self._row, self._index, self.spec.obs_sizes
        everyone = len(obs) == len(index) and len(alive) == len(index)
        joint_obs, mask = row["obs"], row["mask"]
        if not everyone:
            joint_obs[:] = 0.0
            row["alive"][:] = False
            mask[:] = self._no_op
            self._says_all = False
        elif not self._says_all:
            row["alive"][:] = True
            mask[:] = self._every_action
            self._says_all = True
        for agent, raw in obs.items():
            i = index[agent]
            seen, available = split_obs(raw)
            try:
                joint_obs[i, : sizes[i]] = seen
            except (ValueError, TypeError) as error:
                shape = np.shape(seen)
                raise ValueError(
                    f"observation of {agent!r} must keep the shape ({sizes[i]},) of its space, "
                    f"got {shape} at step {self.steps}. The environment's spaces may not change."
                ) from error
            if agent in alive:
                if not everyone:
                    row["alive"][i] = True
                    mask[i] = self._every_action[i]
                if available is None and agent in infos:
                    available = infos[agent].get("action_mask")
                if available is not None:
                    if len(available) != self.spec.action_sizes[i]:
                        self._refuse_mask(agent, np.shape(available))
                    if has_nan(available):
                        where = f"environment {self._number}, step {self.steps}"
                        raise ValueError(
                            f"action_mask of {agent!r} must be flags, got NaN in {where}."
                        )
                    mask[i, : len(available)] = available
                    self._says_all = False  # the next step may leave the mask out
        state = row["state"]
        if self._plain_state:
            state[:] = joint_obs.reshape(-1)
        elif self.spec.state_layout == "concatenated":
            state[:] = np.concatenate([joint_obs[i, :size] for i, size in enumerate(sizes)])
        else:
            state[:] = self.env.state()

    def _refuse_mask(self, agent: str, shape: tuple[int, ...]) -> None:
        size = self.spec.action_sizes[self._index[agent]]
        check(
            False,
            f"action_mask of {agent!r} in environment {self._number}, step {self.steps},",
            f"of shape ({size},), one flag for each of the agent's {size} actions",
            shape,
            "Let the environment mask all of its actions, or correct its action_space.",
        )


def _living(agents: Iterable[str], infos: Infos) -> frozenset[str]:
    return frozenset(agent for agent in agents if infos.get(agent, _NOTHING).get("alive", True))
