"""Environments whose every event is scripted, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv


class Scripted(ParallelEnv):
    """Agents come and go as told; observations tell seed, step, agent and last action.

    Agent i observes ``[u, t / 10, i, last action, ...noise]`` cut or padded to its size, with u
    and the noise drawn from the seed, and earns ``1 + t + 10 i + action``.

    Args:
        n: number of agents.
        obs_sizes: per agent, at least 1.
        action_sizes: per agent.
        lengths: the episode's length is one of these, drawn from the seed.
        deaths: agent index to the step after which it is dead.
        arrivals: agent index to the first step at which it observes.
        masks: ``"dict"``: in the observation, ``"info"``: in the infos, None: nowhere.
        state: ``"joint"``, ``"per_agent"`` or None.
        continuous: Box actions from -1 to 2 in the first coordinate, from 0 to 4 in the others.
        end: how the last agents end: ``"terminated"``, ``"truncated"`` or ``"mixed"``.
        bad: (``"obs"`` or ``"reward"``, agent index, step, value): replaces that number.
        grows_at: step from which observations are one longer than declared.
    """

    render_mode = None

    def __init__(
        self,
        n: int = 2,
        *,
        obs_sizes: tuple[int, ...] | None = None,
        action_sizes: tuple[int, ...] | None = None,
        lengths: tuple[int, ...] = (4,),
        deaths: dict[int, int] | None = None,
        arrivals: dict[int, int] | None = None,
        masks: str | None = None,
        state: str | None = None,
        continuous: bool = False,
        end: str = "truncated",
        team_reward: str = "sum",
        horizon: int | None = None,
        teams: dict[str, tuple[str, ...]] | None = None,
        metrics: tuple[str, ...] = (),
        bad: tuple[str, int, int, float] | None = None,
        grows_at: int | None = None,
    ) -> None:
        self.possible_agents = [f"a{i}" for i in range(n)]
        self.agents = []
        self.obs_sizes = obs_sizes or (5,) * n
        self.action_sizes = action_sizes or (3,) * n
        self.lengths, self.masks, self.end = lengths, masks, end
        self.deaths, self.arrivals = deaths or {}, arrivals or {}
        self.state_kind, self.continuous = state, continuous
        self.bad, self.grows_at = bad, grows_at
        self.metadata = {
            "name": "scripted",
            "team_reward": team_reward,
            "horizon": horizon or max(lengths),
            "episode_metrics": metrics,
        }
        if teams is not None:
            self.metadata["teams"] = teams
        if state == "joint":
            self.state_space = Box(-99.0, 99.0, (3,), np.float32)
        elif state == "per_agent":
            self.state_space = Box(-99.0, 99.0, (n, 4), np.float32)
        self.t, self.length = 0, 0
        self.seeds: list[int | None] = []
        self.received: list[dict[str, Any]] = []
        self.closed = False

    def observation_space(self, agent: str) -> Any:
        i = self.possible_agents.index(agent)
        box = Box(-99.0, 99.0, (self.obs_sizes[i],), np.float32)
        if self.masks == "dict":
            mask = Box(0, 1, (self.action_sizes[i],), np.int8)
            return Dict({"observation": box, "action_mask": mask})
        return box

    def action_space(self, agent: str) -> Any:
        size = self.action_sizes[self.possible_agents.index(agent)]
        if self.continuous:
            low = np.array([-1.0] + [0.0] * (size - 1), np.float32)
            high = np.array([2.0] + [4.0] * (size - 1), np.float32)
            return Box(low, high, dtype=np.float32)
        return Discrete(size)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.seeds.append(seed)
        self.rng = np.random.default_rng(seed)
        self.u = float(self.rng.random())
        self.length = int(self.rng.choice(self.lengths))
        self.t = 0
        self.last = dict.fromkeys(self.possible_agents, 0.0)
        self.agents = [a for i, a in enumerate(self.possible_agents) if not self.arrivals.get(i)]
        return self._observe(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents), (actions, self.agents)
        self.received.append(dict(actions))
        played = self.agents
        index = self.possible_agents.index
        rewards = {}
        for agent in played:
            first = float(np.ravel(actions[agent])[0])
            if not self.continuous:
                assert self.available(agent)[int(first)], "an unavailable action was played"
            self.last[agent] = first
            rewards[agent] = 1.0 + self.t + 10.0 * index(agent) + first
            if self.bad is not None and self.bad[:3] == ("reward", index(agent), self.t):
                rewards[agent] = self.bad[3]
        self.t += 1
        over = self.t >= self.length
        dead = [a for a in played if self.deaths.get(index(a)) == self.t]
        left = [a for a in played if a not in dead]
        terminated = {a: a in dead for a in played}
        truncated = dict.fromkeys(played, False)
        if over:
            for k, agent in enumerate(left):
                cut = self.end == "truncated" or (self.end == "mixed" and k == 0)
                terminated[agent], truncated[agent] = not cut, cut
            left = []
        arrived = [] if over else [a for a in self.possible_agents if self._arrives(a)]
        self.agents = [a for a in self.possible_agents if a in left or a in arrived]
        shown = [*played, *arrived]
        return self._observe(shown), rewards, terminated, truncated, self._infos(shown)

    def state(self) -> Any:
        if self.state_kind == "joint":
            return np.array([self.u, self.t, len(self.agents)], np.float32)
        rows = [[self.u, self.t, i, self.last[a]] for i, a in enumerate(self.possible_agents)]
        return np.array(rows, np.float32)

    def close(self) -> None:
        self.closed = True

    def available(self, agent: str) -> Any:
        i = self.possible_agents.index(agent)
        size = self.action_sizes[i]
        mask = np.ones(size, np.int8)
        if self.masks is not None and size > 1:
            mask[1 + (self.t + i) % (size - 1)] = 0
        return mask

    def _arrives(self, agent: str) -> bool:
        return self.arrivals.get(self.possible_agents.index(agent)) == self.t

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        return {agent: self._row(agent) for agent in agents}

    def _row(self, agent: str) -> Any:
        i = self.possible_agents.index(agent)
        size = self.obs_sizes[i]
        noise = np.random.default_rng((int(self.u * 2**30), self.t, i)).standard_normal(size)
        row = np.array([self.u, self.t / 10, i, self.last[agent], *noise], np.float32)[:size]
        if self.bad is not None and self.bad[:3] == ("obs", i, self.t):
            row[0] = self.bad[3]
        if self.grows_at is not None and self.t >= self.grows_at:
            row = np.append(row, np.float32(0))
        if self.masks == "dict":
            return {"observation": row, "action_mask": self.available(agent)}
        return row

    def _infos(self, agents: list[str]) -> dict[str, Any]:
        infos: dict[str, Any] = {a: {"u": self.u, "steps": float(self.t)} for a in agents}
        if self.masks == "info":
            for agent in agents:
                infos[agent]["action_mask"] = self.available(agent)
        return infos


def armies(size: int = 64, length: int = 3) -> Scripted:
    """Two teams, ``red`` then ``blue``, each of ``size`` agents with spaces of its own."""
    names = tuple(f"a{i}" for i in range(2 * size))
    return Scripted(
        2 * size,
        obs_sizes=(5,) * size + (7,) * size,
        action_sizes=(3,) * size + (4,) * size,
        lengths=(length,),
        masks="info",
        state="joint",
        teams={"red": names[:size], "blue": names[size:]},
    )


def begin_rows(engine: Any, rows: Sequence[int], seeds: Sequence[int]) -> None:
    """Start episodes in the environments ``rows`` of an engine, each from its seed."""
    rows = torch.as_tensor(rows, dtype=torch.int64)
    given = torch.zeros(len(engine), dtype=torch.int64)
    given[rows] = torch.tensor(list(seeds), dtype=torch.int64)
    engine.begin(flags(engine, rows), given)


def step_rows(engine: Any, act: Any, rows: Sequence[int]) -> None:
    """Step the environments ``rows`` of an engine."""
    engine.advance(act, flags(engine, rows))


def flags(engine: Any, rows: Sequence[int]) -> torch.Tensor:
    """Return the flags, bool (E,), of the environments ``rows``."""
    mask = torch.zeros(len(engine), dtype=torch.bool)
    mask[torch.as_tensor(rows, dtype=torch.int64)] = True
    return mask
