"""One battle as a PettingZoo parallel environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex, TypedDict

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import check, check_choice, speaking_for
from robustmarl._seeding import signed
from robustmarl.envs._base import CheckedEnv, EpisodeSeeds, MaskedObs, masked_spaces, read_action
from robustmarl.envs.scenes import Stage
from robustmarl.envs.skirmish.engine import SkirmishEngine
from robustmarl.envs.skirmish.maps import SkirmishMap, map_of
from robustmarl.envs.skirmish.render import picture
from robustmarl.typing import ResetResult, StepResult

__all__ = ["SkirmishParallelEnv", "skirmish"]

_ALL = torch.ones(1, dtype=torch.bool)  # of an engine of one environment


class _Settings(TypedDict):
    difficulty: str
    illegal: str
    reward: str


class SkirmishParallelEnv(CheckedEnv[MaskedObs, SupportsIndex]):
    """A team of units fights one that the engine plays; see :func:`skirmish`.

    Agents that die stay, as in SMAC: they see zeros, have only the no-op, and share the team's
    reward. The infos tell for every agent ``alive``, ``battle_won`` and ``illegal_actions``,
    the number of the team's actions replaced in this episode.

    Args:
        game: a map or its name.
        difficulty: see ``robustmarl.envs.skirmish.DIFFICULTIES``.
        illegal: ``"replace"`` or ``"refuse"``.
        reward: ``"positive"`` or ``"signed"``.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self,
        game: str | SkirmishMap,
        *,
        difficulty: str = "normal",
        illegal: str = "replace",
        reward: str = "positive",
        render_mode: str | None = None,
    ) -> None:
        check_choice("skirmish.render_mode", render_mode, (None, "rgb_array"))
        game = map_of(game, "skirmish.map")
        self._settings: _Settings = {
            "difficulty": difficulty,
            "illegal": illegal,
            "reward": reward,
        }
        with speaking_for("skirmish", SkirmishEngine):
            self.engine = engine = SkirmishEngine(game, **self._settings)
        self.game, self.render_mode = engine.game, render_mode
        self._refuse = illegal == "refuse"
        spec = engine.spec
        self.metadata = {
            "name": f"skirmish_{self.game.name}",
            "render_modes": ["rgb_array"],
            "render_fps": 3,
            "team_reward": spec.team_reward,
            "horizon": spec.horizon,
            "episode_metrics": spec.metrics,
        }
        self.possible_agents = list(spec.agents)
        self.agents = []
        seen = Box(-1.0, 1.0, (spec.obs_size,), np.float32)
        spaces = masked_spaces(self.possible_agents, seen, spec.num_actions)
        self.observation_spaces, self.action_spaces = spaces
        self.state_space = Box(-1.0, engine.layout.max_state, (spec.state_size,), np.float32)
        self._arrays = _views(engine)
        self._seeds = EpisodeSeeds()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._arrays = _views(self.engine)

    def make_engine(
        self, num_envs: int, device: torch.device | str = "cpu", backend: str | None = None
    ) -> SkirmishEngine:
        """Return ``num_envs`` battles like this one, stepped together; training uses it."""
        return SkirmishEngine(self.game, num_envs, device=device, backend=backend, **self._settings)

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        self.engine.begin(_ALL, torch.tensor([signed(self._seeds.next(seed))]))
        self.agents = self.possible_agents[:]
        return self._observe(), {agent: {"alive": True} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents, arrays = self.agents, self._arrays
        self.engine.advance(self._joint(actions), _ALL)
        terminated, truncated = bool(arrays["terminated"][0]), bool(arrays["truncated"][0])
        common = {
            "battle_won": bool(arrays["metrics"][0, 0]),
            "illegal_actions": int(self.engine.battles.illegal[0]),
        }
        infos = {
            agent: {"alive": bool(alive), **common}
            for agent, alive in zip(agents, arrays["alive"][0], strict=True)
        }
        if terminated or truncated:
            self.agents = []
        return (
            self._observe(),
            dict.fromkeys(agents, float(arrays["rew_agents"][0, 0])),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos,
        )

    @override
    def state(self) -> NDArray[np.float32]:
        """Return SMAC's global state, shape (S,)."""
        state: NDArray[np.float32] = self._arrays["state"][0].copy()
        return state

    @override
    def render(self) -> NDArray[np.uint8]:
        """Return a picture, uint8 (H, W, 3): allies blue, enemies red, health as brightness."""
        good = self.render_mode == "rgb_array"
        check(good, "skirmish.render_mode", "'rgb_array' to render", self.render_mode)
        return picture(self.engine)

    def stage(self) -> Stage:
        """Return what tells where everybody is."""
        return self.engine.stage()

    def _joint(self, actions: Mapping[str, SupportsIndex]) -> torch.Tensor:
        """Return the team's actions (1, N).

        What is out of range becomes the nearest such number, which the engine replaces and
        counts: an int of Python may be too large for a tensor.
        """
        size, joint = self.engine.layout.num_actions, []
        for agent, mask in zip(self.agents, self._arrays["mask"][0], strict=True):
            action, _ = read_action(agent, actions[agent], mask, refuse=self._refuse)
            joint.append(min(max(action, -1), size))
        return torch.tensor([joint])

    def _observe(self) -> dict[str, MaskedObs]:
        obs, mask = self._arrays["obs"][0].copy(), self._arrays["mask"][0].astype(np.int8)
        return {
            agent: {"observation": row, "action_mask": available}
            for agent, row, available in zip(self.possible_agents, obs, mask, strict=True)
        }


def _views(engine: SkirmishEngine) -> dict[str, NDArray[np.generic]]:
    return {key: tensor.numpy() for key, tensor in engine.tensors.items()}


def skirmish(
    map: str | SkirmishMap = "3m",  # noqa: A002 - what its users call it
    *,
    difficulty: str = "normal",
    illegal: str = "replace",
    reward: str = "positive",
    render_mode: str | None = None,
) -> SkirmishParallelEnv:
    """Return a micro-battle with SMAC's observations, states, masks, actions and rewards.

    The layout and its scales are SMAC's; the dynamics only resemble StarCraft II's, so win
    rates here are not SMAC's. ``training.run`` and ``evaluation.rollout`` step many of these as
    one batch.

    Args:
        map: the name of one of ``robustmarl.envs.skirmish.MAPS``, or a map of your own.
        difficulty: ``"easy"``, ``"normal"`` or ``"hard"``: how well the enemy plays.
        illegal: ``"replace"`` actions that are masked or out of range by stop, and count them,
            or ``"refuse"`` them.
        reward: ``"positive"``, or ``"signed"``: less own points and units lost and, in a defeat,
            200, all on the same scale; SMAC's ``reward_only_positive=False``,
            ``reward_negative_scale=1``, ``reward_defeat=-200``.
        render_mode: ``"rgb_array"`` or None; needs no display.

    Raises:
        TypeError: for an argument of a wrong kind.
        ValueError: for an unknown map (the known ones are listed) or option.

    Example:
        >>> env = skirmish("3s_vs_3z")
        >>> obs, _ = env.reset(seed=0)
        >>> {name: array.shape for name, array in obs[env.agents[0]].items()}
        {'observation': (36,), 'action_mask': (9,)}
    """
    return SkirmishParallelEnv(
        map, difficulty=difficulty, illegal=illegal, reward=reward, render_mode=render_mode
    )
