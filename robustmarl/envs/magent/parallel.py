"""One of magent2's games as a PettingZoo parallel environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import (
    check,
    check_choice,
    check_flag,
    check_index,
    speaking_for,
)
from robustmarl._seeding import signed
from robustmarl.envs._base import CheckedEnv, EpisodeSeeds, Spaces
from robustmarl.envs.magent.engine import MagentEngine
from robustmarl.envs.magent.render import picture
from robustmarl.envs.magent.rules import BattleRules, PursuitRules, Rules
from robustmarl.envs.scenes import Stage
from robustmarl.typing import ResetResult, StepResult

if TYPE_CHECKING:  # importing it needs magent2
    from robustmarl.envs.magent._game import Layout

__all__ = ["MagentParallelEnv", "battle", "pursuit"]

_ALL = torch.ones(1, dtype=torch.bool)  # of an engine of one environment
_HIGHEST = 2.0  # of a view: a minimap's share, and 1 more where one is oneself


class MagentParallelEnv(CheckedEnv[NDArray[np.float32], SupportsIndex]):
    """Two teams on magent2's grid; see :func:`battle` and :func:`pursuit`.

    Who dies leaves ``agents``. The last infos tell for every agent the episode's figures.

    Args:
        rules: what is played.
        image: observations as (rows, columns, channels), as magent2 shows them: features are
            channels that are everywhere the same. Teams learn from flat ones.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self, rules: Rules, *, image: bool = False, render_mode: str | None = None
    ) -> None:
        self._image = check_flag("MagentParallelEnv.image", image)
        check_choice("MagentParallelEnv.render_mode", render_mode, (None, "rgb_array"))
        self.engine = engine = MagentEngine(rules)
        self.rules, self.render_mode = engine.rules, render_mode
        spec = engine.spec
        self.metadata = {
            "name": rules.name,
            "render_modes": ["rgb_array"],
            "render_fps": 5,
            "team_reward": spec.team_reward,
            "horizon": spec.horizon,
            "episode_metrics": spec.metrics,
            "teams": {
                team: tuple(spec.agents[i] for i in rows) for team, rows in spec.teams.items()
            },
        }
        self.possible_agents = list(spec.agents)
        self.agents = []
        seen_by: Spaces = {}
        acted_by: Spaces = {}
        self._layout_of: dict[str, Layout] = {}
        self._index = {agent: i for i, agent in enumerate(spec.agents)}
        for team, layout in enumerate(engine.layouts):
            seen, acted = self._box(team), Discrete(layout.actions)
            for agent in self.possible_agents[layout.rows]:
                seen_by[agent], acted_by[agent], self._layout_of[agent] = seen, acted, layout
        self.observation_spaces, self.action_spaces = seen_by, acted_by
        self.state_space = Box(0.0, 1.0, (spec.state_size,), np.float32)
        self._seeds = EpisodeSeeds()

    def make_engine(self, num_envs: int) -> MagentEngine:
        """Return ``num_envs`` games like this one, stepped together, with flat observations."""
        return MagentEngine(self.rules, num_envs)

    def fixed(self, team: str) -> tuple[bool, ...]:
        """Return which numbers of a team's flat observations are its own: features, no views.

        No sensor tells an agent its number, its last action and reward, and where it is: give it
        to ``LinfBall(fixed=...)``, and no attack touches them.

        Raises:
            ValueError: for an unknown team.
        """
        check_choice(f"{self.rules.name}.fixed.team", team, self.rules.teams)
        layout = self.engine.layouts[self.rules.teams.index(team)]
        view, features = (False,) * layout.view_size, (True,) * layout.feature_size
        if not self._image:
            return view + features
        cell = (False,) * layout.view[2] + features
        return cell * (layout.view[0] * layout.view[1])

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        self.engine.begin(_ALL, torch.tensor([signed(self._seeds.next(seed))]))
        self.agents = self.possible_agents[:]
        return self._observe(self.agents), {agent: {} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents, engine = self.agents, self.engine
        numbers = [self._index[agent] for agent in agents]
        joint = np.zeros((1, len(self.possible_agents)), np.int64)
        joint[0, numbers] = [self._legal(agent, actions[agent]) for agent in agents]
        engine.advance(torch.from_numpy(joint), _ALL)
        shown = {key: values[0] for key, values in engine.tensors.items()}
        alive = shown["alive"].numpy()[numbers].tolist()
        rewards = shown["rew_agents"].numpy()[numbers].tolist()
        over, cut = bool(shown["terminated"]), bool(shown["truncated"])
        told = {}
        if over or cut:
            told = dict(zip(engine.spec.metrics, shown["metrics"].tolist(), strict=True))
        self.agents = [a for a, lives in zip(agents, alive, strict=True) if lives and not cut]
        return (
            self._observe(agents),
            dict(zip(agents, rewards, strict=True)),
            {agent: not lives for agent, lives in zip(agents, alive, strict=True)},
            {agent: cut and lives for agent, lives in zip(agents, alive, strict=True)},
            {agent: told.copy() for agent in agents},
        )

    @override
    def state(self) -> NDArray[np.float32]:
        """Return magent2's map of walls and of both teams' presence and health, flat, (S,)."""
        state: NDArray[np.float32] = self.engine.tensors["state"][0].numpy().copy()
        return state

    @override
    def render(self) -> NDArray[np.uint8]:
        """Return a picture, uint8 (H, W, 3): the paler, the fewer health; lines are attacks."""
        good = self.render_mode == "rgb_array"
        check(good, f"{self.rules.name}.render_mode", "'rgb_array' to render", self.render_mode)
        return picture(self.engine)

    def stage(self) -> Stage:
        """Return what tells where everybody is."""
        return self.engine.stage()

    def _legal(self, agent: str, action: SupportsIndex) -> int:
        """Return an action as an int."""
        where = f"step.actions[{agent!r}]"
        number, size = check_index(where, action), self._layout_of[agent].actions
        check(0 <= number < size, where, f"an int in [0, {size - 1}]", number)
        return number

    def _observe(self, agents: list[str]) -> dict[str, NDArray[np.float32]]:
        """Return what ``agents`` see."""
        obs = self.engine.tensors["obs"][0].numpy().copy()
        index, layouts = self._index, self._layout_of
        return {agent: self._shaped(layouts[agent], obs[index[agent]]) for agent in agents}

    def _shaped(self, layout: Layout, row: NDArray[np.float32]) -> NDArray[np.float32]:
        row = row[: layout.obs_size]
        if not self._image:
            return row
        view = row[: layout.view_size].reshape(layout.view)
        if not layout.feature_size:
            return view
        features = np.broadcast_to(row[layout.view_size :], (*layout.view[:2], layout.feature_size))
        return np.concatenate([view, features], axis=-1)

    def _box(self, team: int) -> Box:
        """Return the space of what a team's agents see."""
        layout = self.engine.layouts[team]
        low = np.zeros(layout.obs_size, np.float32)
        high = np.full(layout.obs_size, _HIGHEST, np.float32)
        high[layout.view_size :] = 1.0
        if self.rules.extra_features:
            reward = layout.view_size + layout.reward_at
            least, most = self.rules.reward_range(team)
            # magent2 sums in float32, and bounds need not be tight
            low[reward], high[reward] = math.floor(least), math.ceil(most)
        if self._image:
            low, high = self._shaped(layout, low), self._shaped(layout, high)
        return Box(low, high, dtype=np.float32)


def battle(
    map_size: int = 20,
    *,
    horizon: int = 400,
    minimap: bool = False,
    extra_features: bool = False,
    image: bool = False,
    jitter: bool = True,
    step_reward: float = -0.005,
    attack_penalty: float = -0.1,
    attack_opponent_reward: float = 0.2,
    dead_penalty: float = -0.1,
    render_mode: str | None = None,
) -> MagentParallelEnv:
    """Return magent2's Battle: ``red`` on the left against ``blue`` on the right.

    An agent moves to one of 13 cells within two steps (action 6 stays) or hits one of the 8
    around it (13 to 20), for 2 of 10 points of health, of which 0.1 comes back in each step. A
    kill earns 5. Who has killed more wins; equal numbers are a tie and no win.

    Args:
        map_size: edge of the map, cells, >= 12: 20 is 12 against 12, 40 is 64 against 64
            [Zhou2022]_.
        horizon: steps, at which an episode is truncated, >= 1. It terminates with a team's end.
        minimap: views have two more channels, where on the map the teams are, and behind them
            stands where the agent is itself.
        extra_features: behind views stand the agent's number in binary, its last action, and the
            reward of the step before that.
        image: observations are (13, 13, channels), not flat; features fill channels of their own.
        jitter: each agent begins on one of the four cells of its place, drawn from the seed; else
            all episodes begin alike, as magent2's do.
        step_reward: for every step, reward.
        attack_penalty: for an attack, whatever it hits.
        attack_opponent_reward: for one that hits an opponent.
        dead_penalty: for dying.
        render_mode: ``"rgb_array"`` or None; needs no display.

    Raises:
        ImportError: if magent2 is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range.

    Example:
        >>> env = battle(map_size=12)
        >>> obs, _ = env.reset(seed=0)
        >>> len(obs), obs["red_0"].shape
        (4, (845,))
    """
    with speaking_for("battle", BattleRules):
        rules = BattleRules(
            map_size=map_size,
            horizon=horizon,
            minimap=minimap,
            extra_features=extra_features,
            jitter=jitter,
            step_reward=step_reward,
            attack_penalty=attack_penalty,
            attack_opponent_reward=attack_opponent_reward,
            dead_penalty=dead_penalty,
        )
    with speaking_for("battle", MagentParallelEnv):
        return MagentParallelEnv(rules, image=image, render_mode=render_mode)


def pursuit(
    map_size: int = 20,
    *,
    predators: int | None = None,
    prey: int | None = None,
    horizon: int = 400,
    minimap: bool = False,
    extra_features: bool = False,
    image: bool = False,
    tag_penalty: float = -0.2,
    prey_penalty: float = -1.0,
    render_mode: str | None = None,
) -> MagentParallelEnv:
    """Return magent2's Adversarial Pursuit: ``predator`` against ``prey``.

    A predator of two by two cells moves to one of 4 neighbours (action 2 stays) or tags one of the
    8 cells at its sides (5 to 12); a prey moves to one of 8 (action 4 stays). A tag that hits
    earns the predator 1 and costs the prey 1; nobody dies.

    Args:
        map_size: edge of the map, cells, >= 7; RoMFAC's has 50 with 32 predators and 64 prey
            [Zhou2022]_.
        predators: their number, at most what finds a place; None is one in 80 cells, as in magent2.
        prey: their number, likewise; None is one in 40 cells.
        horizon: steps, at which an episode is truncated, >= 1.
        minimap: as in :func:`battle`.
        extra_features: as in :func:`battle`.
        image: observations are (10, 10, channels) and (9, 9, channels), not flat.
        tag_penalty: what a tag costs the predator, reward, whatever it hits.
        prey_penalty: what a prey gets for each tag that hits it; RoMFAC prints -0.1.
        render_mode: ``"rgb_array"`` or None; needs no display.

    Raises:
        ImportError: if magent2 is not installed.
        TypeError: for an argument of a wrong kind.
        ValueError: for a value out of range, or more agents than find a place.

    Example:
        >>> env = pursuit(map_size=20)
        >>> obs, _ = env.reset(seed=0)
        >>> len(obs), obs["predator_0"].shape
        (15, (500,))
    """
    with speaking_for("pursuit", PursuitRules):
        rules = PursuitRules(
            map_size=map_size,
            horizon=horizon,
            minimap=minimap,
            extra_features=extra_features,
            predators=predators,
            prey=prey,
            tag_penalty=tag_penalty,
            prey_penalty=prey_penalty,
        )
    with speaking_for("pursuit", MagentParallelEnv):
        return MagentParallelEnv(rules, image=image, render_mode=render_mode)
