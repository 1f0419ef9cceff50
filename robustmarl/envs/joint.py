"""A PettingZoo parallel environment as rows of joint arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeAlias, cast

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

from robustmarl.joint import TeamSpec, spec_of, split_obs
from robustmarl.joint.boxes import in_box
from robustmarl.joint.reading import (
    Roster,
    infos_of,
    kind_of,
    mask_of,
    metadata_of,
    number_of,
    row_of,
    state_of,
)
from robustmarl.typing import Array, Env, Obs, Values

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
    An episode ends when no agent is left, which the flags decide: who was terminated or truncated
    is gone, also from an environment that keeps it in ``agents``. It ends as a termination if all
    of the last agents terminated, else as a truncation; there values bootstrap from the last
    observations, where the environment shows none from those before.

    Every episode gets a seed, unless ``metadata["relaunches_to_seed"]`` of ``env`` is true: then
    only the first one does, and those after it go on from there.

    Args:
        env: a parallel environment.
        row: this environment's row of each array of ``TeamSpec.empty``, and of ``terminated``
            and ``truncated`` (shape (1,) views).
        spec: what ``env`` must look like.
        number: which of the environments it is, for messages.

    Raises:
        ValueError: if ``env`` does not fit ``spec``; when stepped, naming environment, agent and
            step, if an observation, a state or an action mask has another shape than its space, a
            reward is no number, an agent is unknown, nobody is there after a reset, or the last
            agents leave without a flag.
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
        self._shapes = [(size,) for size in spec.obs_sizes]
        self._boxes = [cast(Box, env.action_space(agent)) for agent in spec.agents]  # if continuous
        self._roster = Roster()
        self.steps = 0
        self.infos: Infos = {}
        # a game that has to be launched anew for a seed is seeded for its first episode only
        self._seed_once = bool(metadata_of(env).get("relaunches_to_seed", False))
        self._seeded = False

    def begin(self, seed: int) -> None:
        """Reset to a new episode and write its first observations."""
        self.steps = 0
        self._says_all = False
        self._row["terminated"][0] = self._row["truncated"][0] = False
        self._row["rew_agents"][:] = 0.0
        obs, infos = self.env.reset(seed=None if self._seed_once and self._seeded else seed)
        self._seeded = True
        self._roster.begin(self.env.agents, self._where)
        infos = infos_of(infos)
        self._write(obs, infos, _living(self._roster.left, infos))

    def advance(self, act: Sequence[Action]) -> None:
        """Step with one joint action: N indices, or N vectors in [-1, 1]."""
        self.steps += 1
        actions: dict[str, object]
        if self.spec.continuous:
            actions = {a: self._to_box(self._index[a], act) for a in self.env.agents}
        else:
            actions = {a: act[self._index[a]] for a in self.env.agents}
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        infos = infos_of(infos)
        self._reward(rewards)
        roster = self._roster
        roster.step(self.env.agents, terminated, truncated, self._where)
        alive = roster.left
        if not alive:
            all_terminated = all(terminated.get(a) for a in roster.ended)
            self._row["terminated"][0] = all_terminated
            self._row["truncated"][0] = not all_terminated
            alive = frozenset(a for a in roster.ended if not terminated.get(a))
            self.infos = infos
            obs = self._with_last(obs, alive)
        self._write(obs, infos, _living(alive, infos))

    def metric(self, name: str) -> float:
        """Return a figure from the last infos: the mean over the agents that report it.

        Raises:
            ValueError: if no agent does, or not a finite number. Where a figure were left out of
                the episodes that do not report it, a success rate would be 1 whatever happens.
        """
        values = [info[name] for info in self.infos.values() if name in info]
        where = self._where()
        if not values:
            known = sorted({str(key) for info in self.infos.values() for key in info})
            raise ValueError(
                f"metric {name!r} must be in the last infos of every episode, got {known} from "
                f"{where}. Report 0.0 where it did not happen, or state other metrics: "
                "envs.describe(env, episode_metrics=(...))."
            )
        try:
            mean = float(np.mean(np.asarray(values, np.float64)))
        except (TypeError, ValueError):
            mean = float("nan")
        if not np.isfinite(mean):
            raise ValueError(f"metric {name!r} must be a finite number, got {values} from {where}.")
        return mean

    def _where(self) -> str:
        return f"environment {self._number} ({kind_of(self.env)}), step {self.steps}"

    def _to_box(self, i: int, act: Sequence[Action]) -> Values:
        own = np.asarray(act[i], np.float32)[: self.spec.action_sizes[i]]  # the rest is padding
        return in_box(own, self._boxes[i])

    def _reward(self, rewards: Mapping[str, ArrayLike]) -> None:
        rew = self._row["rew_agents"]
        rew[:] = 0.0
        for agent, reward in rewards.items():
            if (i := self._index.get(agent)) is None:
                self._refuse_agent("rewards", agent)
            plain = type(reward) is float  # the usual case, told at once
            rew[i] = reward if plain else number_of(agent, reward, self._where)

    def _with_last(self, obs: Obs, cut: frozenset[str]) -> Obs:
        """Return last observations, of agents ``cut`` off that show none those before."""
        stand_ins = {}
        for agent in cut.difference(obs):
            i = self._index[agent]
            stand_ins[agent] = {
                "observation": self._row["obs"][i, : self.spec.obs_sizes[i]].copy(),
                "action_mask": self._row["mask"][i, : self.spec.action_sizes[i]].copy(),
            }
        return {**obs, **stand_ins} if stand_ins else obs

    def _write(self, obs: Mapping[str, ArrayLike], infos: Infos, alive: frozenset[str]) -> None:
        row, index, shapes, sizes = self._row, self._index, self._shapes, self.spec.obs_sizes
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
            if (i := index.get(agent)) is None:
                self._refuse_agent("observations", agent)
            seen, available = split_obs(raw)
            if not (isinstance(seen, np.ndarray) and seen.shape == shapes[i]):
                seen = row_of(agent, seen, shapes[i], self._where)
            joint_obs[i, : sizes[i]] = seen
            if agent in alive:
                if not everyone:
                    row["alive"][i] = True
                    mask[i] = self._every_action[i]
                if available is None and agent in infos:
                    available = infos[agent].get("action_mask")
                if available is not None:
                    size = self.spec.action_sizes[i]
                    flags = isinstance(available, np.ndarray) and available.dtype.kind in "bi"
                    if not (flags and available.shape == (size,)):  # else there is nothing to ask
                        available = mask_of(agent, available, size, self._where)
                    mask[i, :size] = available
                    self._says_all = False  # the next step may leave the mask out
        state = row["state"]
        if self._plain_state:
            state[:] = joint_obs.reshape(-1)
        elif self.spec.state_layout == "concatenated":
            state[:] = np.concatenate([joint_obs[i, :size] for i, size in enumerate(sizes)])
        else:
            found = self.env.state()
            plain = isinstance(found, np.ndarray) and found.shape == state.shape
            state[:] = found if plain else state_of(found, state.shape, self._where)

    def _refuse_agent(self, what: str, agent: str) -> NoReturn:
        raise ValueError(
            f"{what} must be of agents among {list(self.spec.agents)}, got {agent!r} in "
            f"{self._where()}. Let possible_agents name all that ever appear."
        )


def _living(agents: Iterable[str], infos: Infos) -> frozenset[str]:
    return frozenset(agent for agent in agents if infos.get(agent, _NOTHING).get("alive", True))
