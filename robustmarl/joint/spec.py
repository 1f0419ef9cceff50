"""What the arrays of a team look like: agents, sizes, rewards, horizon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import check, check_choice, check_names, check_teams
from robustmarl.joint.reading import metadata_of
from robustmarl.typing import Env, TeamReward

__all__ = ["TeamSpec", "check_parallel", "spec_of", "split_obs"]

Layout = Literal["joint", "per_agent", "concatenated"]


@dataclass(frozen=True, kw_only=True)
class TeamSpec:
    """Sizes of the joint arrays, for N agents of possibly different spaces.

    Attributes:
        agents: all possible agents, in the environment's order; the N axis of every array.
        teams: team name to the indices of its agents; one team named ``team`` by default.
        obs_sizes: true observation size per agent; arrays are padded to ``obs_size``.
        action_sizes: number of actions, or of action coordinates, per agent.
        continuous: whether actions are vectors in [-1, 1] instead of indices.
        action_low: per agent the lower ends of its action box (continuous only).
        action_high: per agent the upper ends (continuous only).
        state_size: S, the size of the global state.
        state_layout: ``joint`` (S,), of a state of two axes the rows one after another;
            ``per_agent`` (N, S), one row for each agent; or ``concatenated`` observations, where
            the environment has no state of one or two axes.
        team_reward: whether a team's reward is the sum or the mean over its agents.
        horizon: the most steps in an episode.
        metrics: names of per-episode figures that the environment reports in its last infos.
    """

    agents: tuple[str, ...]
    teams: Mapping[str, tuple[int, ...]]
    obs_sizes: tuple[int, ...]
    action_sizes: tuple[int, ...]
    continuous: bool
    state_size: int
    state_layout: Layout
    team_reward: TeamReward
    horizon: int
    action_low: tuple[tuple[float, ...], ...] = ()
    action_high: tuple[tuple[float, ...], ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.agents)

    @property
    def obs_size(self) -> int:
        """D, the largest observation."""
        return max(self.obs_sizes)

    @property
    def num_actions(self) -> int:
        """A, the largest number of actions or action coordinates."""
        return max(self.action_sizes)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(S,) or (N, S)."""
        one = (self.state_size,)
        return (self.num_agents, *one) if self.state_layout == "per_agent" else one

    @property
    def joint_state_size(self) -> int:
        """Size of the team's whole state: of all agents' states where each has its own."""
        return self.state_size * (self.num_agents if self.state_layout == "per_agent" else 1)

    def team_indices(self, team: str | None = None) -> tuple[int, ...]:
        """Return the agent indices of ``team``; None is the only team.

        Raises:
            ValueError: for an unknown team, or None where there are several.
        """
        if team is None:
            rule = f"one of {list(self.teams)} where there are several teams"
            check(len(self.teams) == 1, "TeamSpec.team", rule, team)
            (team,) = self.teams
        check_choice("TeamSpec.team", team, list(self.teams))
        return self.teams[team]

    def of_team(self, team: str | None = None) -> TeamSpec:
        """Return the spec of one team's slice of the arrays; the state stays the global one."""
        rows = self.team_indices(team)
        if len(rows) == self.num_agents:
            return self

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in rows) if values else ()

        (name,) = (n for n, r in self.teams.items() if r == rows)
        return replace(
            self,
            agents=pick(self.agents),
            teams={name: tuple(range(len(rows)))},
            obs_sizes=pick(self.obs_sizes),
            action_sizes=pick(self.action_sizes),
            action_low=pick(self.action_low),
            action_high=pick(self.action_high),
        )

    def action_shape(self) -> tuple[int, ...]:
        """Return the shape of one joint action: (N,) indices or (N, A) vectors."""
        return (self.num_agents, self.num_actions) if self.continuous else (self.num_agents,)

    def joint_action_space(self) -> gymnasium.Space[Any]:
        """Return the space of one joint action: indices, or vectors in [-1, 1]."""
        if self.continuous:
            return gymnasium.spaces.Box(-1.0, 1.0, self.action_shape())
        return gymnasium.spaces.MultiDiscrete(list(self.action_sizes))

    def empty(self, *lead: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return zeroed arrays of one step: keys ``obs mask state alive act rew_agents``."""
        n = self.num_agents

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*lead, *shape, dtype=dtype, device=device)

        act = torch.float32 if self.continuous else torch.int64
        return {
            "obs": zeros(n, self.obs_size),
            "mask": zeros(n, self.num_actions, dtype=torch.bool),
            "state": zeros(*self.state_shape),
            "alive": zeros(n, dtype=torch.bool),
            "act": zeros(*self.action_shape(), dtype=act),
            "rew_agents": zeros(n),
        }

    def obs_mask(self, device: torch.device | str = "cpu") -> Tensor | None:
        """Return which coordinates of observations exist, bool (N, D); None if all do."""
        return _existing(self.obs_sizes, torch.device(device))

    def action_mask(self, device: torch.device | str = "cpu") -> Tensor | None:
        """Return which actions, or action coordinates, exist, bool (N, A); None if all do."""
        return _existing(self.action_sizes, torch.device(device))

    def describe_difference(self, other: TeamSpec) -> str:
        """Return the fields in which two specs differ, '' if none; for error messages."""
        names = [n for n in self.__dataclass_fields__ if getattr(self, n) != getattr(other, n)]
        return ", ".join(f"{n}: {getattr(self, n)!r} != {getattr(other, n)!r}" for n in names)


@lru_cache(maxsize=64)
def _existing(sizes: tuple[int, ...], device: torch.device) -> Tensor | None:
    if len(set(sizes)) == 1:
        return None
    return torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]


def check_parallel(where: str, env: object) -> None:
    """Raise ``TypeError`` unless ``env`` is a parallel environment."""
    rule = "a PettingZoo ParallelEnv"
    if isinstance(env, type):
        raise TypeError(f"{where} must be {rule}, got the class {env.__name__}. Make one of it.")
    if not hasattr(env, "possible_agents") or hasattr(env, "agent_iter"):
        raise TypeError(
            f"{where} must be {rule}, got {type(env).__name__}. "
            "Convert an AEC environment with pettingzoo.utils.conversions.aec_to_parallel."
        )


def split_obs(obs: Any) -> tuple[Any, Any]:
    """Return (observation, action mask or None) of one agent's raw observation.

    Example:
        >>> from robustmarl import envs
        >>> env = envs.skirmish("3m")
        >>> obs, mask = split_obs(env.reset(seed=0)[0][env.possible_agents[0]])
        >>> obs.shape, mask.shape
        ((30,), (9,))
    """
    if type(obs) is dict or isinstance(obs, Mapping):  # the usual case, told at once
        return obs["observation"], obs.get("action_mask")
    return obs, None


def spec_of(env: Env) -> TeamSpec:
    """Return the spec of a PettingZoo parallel environment.

    Raises:
        ValueError: if observations are not flat boxes, or have parts beside ``"observation"`` and
            ``"action_mask"`` (with the wrapper that flattens them), if actions are mixed or
            unbounded, if team reward or horizon are not stated, or if the teams that are do not
            have every agent exactly once.
        TypeError: if ``env`` is not a parallel environment, or states something of a wrong kind.

    Example:
        >>> from robustmarl import envs
        >>> spec = spec_of(envs.skirmish("3s_vs_3z"))
        >>> spec.num_agents, spec.obs_size, spec.num_actions, spec.state_size, spec.horizon
        (3, 36, 9, 54, 150)
    """
    check_parallel("spec_of.env", env)
    agents = tuple(env.possible_agents)
    check(len(agents) > 0, "spec_of.env.possible_agents", "non-empty", agents)
    obs_sizes = tuple(_obs_size(env, agent) for agent in agents)
    spaces = [env.action_space(agent) for agent in agents]
    kinds = {type(space) for space in spaces}
    discrete = kinds == {gymnasium.spaces.Discrete}
    continuous = kinds == {gymnasium.spaces.Box}
    rule = "all Discrete or all Box"
    check(discrete or continuous, "env.action_space", rule, sorted(k.__name__ for k in kinds))
    low: tuple[tuple[float, ...], ...] = ()
    high: tuple[tuple[float, ...], ...] = ()
    if continuous:
        boxes = cast("list[gymnasium.spaces.Box]", spaces)
        for agent, box in zip(agents, boxes, strict=True):
            flat = len(box.shape) == 1 and bool(np.isfinite([box.low, box.high]).all())
            check(flat, f"env.action_space({agent!r})", "a bounded Box of one axis", box)
        low = tuple(tuple(box.low.tolist()) for box in boxes)
        high = tuple(tuple(box.high.tolist()) for box in boxes)
        sizes = tuple(int(box.shape[0]) for box in boxes)
    else:
        choices = cast("list[gymnasium.spaces.Discrete]", spaces)
        for agent, choice in zip(agents, choices, strict=True):
            check(choice.start == 0, f"env.action_space({agent!r}).start", "0", choice)
        sizes = tuple(int(choice.n) for choice in choices)
    layout, state_size = _state(env, obs_sizes)
    return TeamSpec(
        agents=agents,
        teams=_teams(env, agents),
        obs_sizes=obs_sizes,
        action_sizes=sizes,
        continuous=continuous,
        state_size=state_size,
        state_layout=layout,
        team_reward=_team_reward(env, agents),
        horizon=_horizon(env),
        action_low=low,
        action_high=high,
        metrics=_metrics(env),
    )


def _obs_size(env: Env, agent: str) -> int:
    space = env.observation_space(agent)
    where, remedy = f"env.observation_space({agent!r})", "Flatten it: envs.flatten_obs(env)."
    if isinstance(space, gymnasium.spaces.Dict) and "observation" in space.spaces:
        extra = sorted(set(space.spaces) - {"observation", "action_mask"})
        rule = "without keys beside 'observation' and 'action_mask', which nobody would see"
        choice = f"{remedy} With keys=('observation',) it leaves the others out."
        check(not extra, where, rule, extra, choice)
        space = space["observation"]
    shape = space.shape if isinstance(space, gymnasium.spaces.Box) else ()
    check(len(shape) == 1, where, "a Box of one axis (or a Dict with 'observation')", space, remedy)
    return int(shape[0])


def _state(env: Env, obs_sizes: tuple[int, ...]) -> tuple[Layout, int]:
    space = getattr(env, "state_space", None)
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) in (1, 2):
        if len(space.shape) == 2 and space.shape[0] == len(obs_sizes):
            return "per_agent", int(space.shape[1])
        return "joint", int(np.prod(space.shape))
    return "concatenated", sum(obs_sizes)


def _teams(env: Env, agents: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    stated = metadata_of(env).get("teams")
    if stated is None:
        return {"team": tuple(range(len(agents)))}
    teams = check_teams("env.metadata['teams']", stated, agents)
    return {team: tuple(agents.index(a) for a in members) for team, members in teams.items()}


def _metrics(env: Env) -> tuple[str, ...]:
    stated = metadata_of(env).get("episode_metrics", ())
    return check_names("env.metadata['episode_metrics']", stated, stated)


def _team_reward(env: Env, agents: tuple[str, ...]) -> TeamReward:
    stated = metadata_of(env).get("team_reward")
    if stated is None and len(agents) == 1:
        return "sum"
    further = "" if _stated_horizon(env) is not None else ", horizon=100"
    remedy = f"State it: envs.describe(env, team_reward='sum'{further})."
    check(
        stated in ("sum", "mean"), "env.metadata['team_reward']", "'sum' or 'mean'", stated, remedy
    )
    return cast(TeamReward, stated)


def _stated_horizon(env: Env) -> object:
    """Return the horizon that an environment states, whatever it is, or None."""
    horizon: object = metadata_of(env).get("horizon")
    unwrapped = getattr(env, "unwrapped", env)
    for name in ("max_cycles", "max_steps", "episode_limit"):
        if horizon is None:
            horizon = getattr(unwrapped, name, None)
    return horizon


def _horizon(env: Env) -> int:
    horizon = _stated_horizon(env)
    remedy = "State it: envs.describe(env, horizon=100)."
    whole = isinstance(horizon, int | np.integer) and not isinstance(horizon, bool)
    good = whole and int(cast(int, horizon)) >= 1
    check(good, "env.metadata['horizon']", "an int >= 1, steps", horizon, remedy)
    return int(cast(int, horizon))
