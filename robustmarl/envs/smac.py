"""SMAC, the StarCraft Multi-Agent Challenge, as a parallel environment."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol, SupportsIndex

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import (
    check,
    check_choice,
    check_function,
    check_known,
    check_names,
    check_seed,
)
from robustmarl._seeding import mix
from robustmarl.envs._base import CheckedEnv, MaskedObs, masked_spaces, read_action
from robustmarl.envs._smac_install import import_part, require_binary, require_package
from robustmarl.envs.skirmish.layout import NO_OP, STOP, Layout
from robustmarl.envs.skirmish.maps import MAPS
from robustmarl.envs.skirmish.render import Figure, draw
from robustmarl.envs.skirmish.rules import DIFFICULTIES
from robustmarl.typing import ResetResult, StepResult

__all__ = ["SmacParallelEnv", "smac"]

_LEVELS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "A")
_RESERVED = ("map_name", "difficulty", "seed", "continuing_episode")  # ours to set
_SEEDS = 2**32  # StarCraft II's are 32 bits wide


class _Place(Protocol):
    x: float
    y: float


class _Unit(Protocol):
    pos: _Place
    radius: float
    health: float
    health_max: float
    shield: float
    shield_max: float


class _Game(Protocol):
    """``smac.env.StarCraft2Env``, as far as it is used."""

    map_name: str
    map_x: int
    map_y: int
    force_restarts: int
    agents: Mapping[int, _Unit]
    enemies: Mapping[int, _Unit]

    def get_env_info(self) -> dict[str, int]: ...
    def reset(self) -> object: ...
    def step(self, actions: Sequence[int]) -> tuple[float, bool, Mapping[str, object]]: ...
    def get_obs(self) -> Sequence[NDArray[np.float32]]: ...
    def get_state(self) -> NDArray[np.float32]: ...
    def get_avail_actions(self) -> Sequence[Sequence[int]]: ...
    def save_replay(self) -> None: ...
    def close(self) -> None: ...


class SmacParallelEnv(CheckedEnv[MaskedObs, SupportsIndex]):
    """A team of units fights StarCraft II's own AI; see :func:`smac`.

    Spaces, keys and infos are those of ``envs.skirmish`` on the same map.

    Args:
        make_game: builds a ``smac.env.StarCraft2Env`` that is not launched yet, from a seed
            below 2**32 or None; with ``continuing_episode=True``, without which it does not
            tell a time limit from an end.
        dead: ``"stay"`` or ``"leave"``.
        illegal: ``"replace"`` or ``"refuse"``.
        render_mode: ``"rgb_array"`` or None.

    Attributes:
        game: the ``StarCraft2Env`` in use; another one after a relaunch.
    """

    def __init__(
        self,
        make_game: Callable[[int | None], _Game],
        *,
        dead: str = "stay",
        illegal: str = "replace",
        render_mode: str | None = None,
    ) -> None:
        check_choice("smac.dead", dead, ("stay", "leave"))
        check_choice("smac.illegal", illegal, ("replace", "refuse"))
        check_choice("smac.render_mode", render_mode, (None, "rgb_array"))
        check_function("smac.make_game", make_game, "a function of a seed that builds a game")
        self._make_game, self.render_mode = make_game, render_mode
        self._leave, self._refuse = dead == "leave", illegal == "refuse"
        self.game: _Game = make_game(None)
        game, name, sizes = self.game, self.game.map_name, self.game.get_env_info()
        self.metadata = {
            "name": f"smac_{name}",
            "render_modes": ["rgb_array"],
            "render_fps": 3,
            "team_reward": "sum" if self._leave else "mean",
            "horizon": sizes["episode_limit"],
            "episode_metrics": ("battle_won",),
            "relaunches_to_seed": True,
        }
        n, actions = sizes["n_agents"], sizes["n_actions"]
        self.possible_agents = [f"agent_{i}" for i in range(n)]
        self.agents = []
        # with the time step, observations are one feature longer than StarCraft2Env states
        with_time = int(getattr(game, "obs_timestep_number", False))
        obs_as_state = getattr(game, "obs_instead_of_state", False)
        seen = Box(-1.0, 1.0, (sizes["obs_shape"] + with_time,), np.float32)
        spaces = masked_spaces(self.possible_agents, seen, actions)
        self.observation_spaces, self.action_spaces = spaces
        high = Layout(MAPS[name]).max_state if name in MAPS else np.inf
        state_size = sizes["state_shape"] + (n * with_time if obs_as_state else 0)
        self.state_space = Box(-1.0, high, (state_size,), np.float32)
        self._mask = np.zeros((n, actions), np.int8)
        self._state = np.zeros(state_size, np.float32)
        self._seed: int | None = None  # the last one that a reset was given
        self._relaunches = 0  # without another seed since
        self._begun = False  # whether this game has been reset
        self._goes_on = False  # whether it can be reset again
        self._illegal = 0

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "smac's environment cannot be pickled or copied: StarCraft II is a process of its own. "
            "Make another by envs.smac(...); envs.skirmish plays the same maps in this process."
        )

    @override
    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> ResetResult:
        """Start an episode.

        A seed launches the game anew, which takes several seconds. Without one, the next
        episode goes on from the last one in the same game; only if that game has not finished
        any episode yet, or has crashed, a new one is launched.

        Raises:
            RuntimeError: if the game crashes again after it was launched anew.
            TypeError: if the seed is not an int.
        """
        if seed is not None:
            self._seed, self._relaunches = check_seed("reset.seed", seed), 0
            self._relaunch()
        elif self._begun and not self._goes_on:
            # reset again before its first end, a game would launch twice, and count twice the
            # health that it divides rewards by
            self._relaunches += 1
            self._relaunch()
        obs = self._begin()
        self.agents = self.possible_agents[:]
        self._illegal = 0
        return self._show(obs, self.agents), {agent: {"alive": True} for agent in self.agents}

    @override
    def _step(self, actions: Mapping[str, SupportsIndex]) -> StepResult:
        agents, game = self.agents, self.game
        reward, over, info = game.step(self._legal(actions))
        crashed = "battle_won" not in info
        if crashed:
            warnings.warn("StarCraft II crashed; the episode is truncated.", stacklevel=2)
        truncated = bool(over and (crashed or info.get("episode_limit", False)))
        terminated = bool(over and not truncated)
        if over:
            self._goes_on = not crashed
        obs = self._read()
        alive = self._mask[:, NO_OP] == 0
        if terminated:  # after an end there are no agents, hence only no-ops
            alive[:] = False
            self._mask[:] = 0
            self._mask[:, NO_OP] = 1
        living = dict(zip(self.possible_agents, alive.tolist(), strict=True))
        common = {
            "battle_won": bool(info.get("battle_won", False)),
            "illegal_actions": self._illegal,
        }
        gone = {agent: terminated or (self._leave and not living[agent]) for agent in agents}
        share = float(reward) / (len(agents) if self._leave else 1)
        if over:
            self.agents = []
        elif self._leave:
            self.agents = [agent for agent in agents if living[agent]]
        return (
            self._show(obs, agents),
            dict.fromkeys(agents, share),
            gone,
            {agent: truncated and not gone[agent] for agent in agents},
            {agent: {"alive": living[agent], **common} for agent in agents},
        )

    @override
    def state(self) -> NDArray[np.float32]:
        """Return SMAC's global state, shape (S,)."""
        return self._state.copy()

    @override
    def render(self) -> NDArray[np.uint8]:
        """Return a picture like skirmish's, uint8 (H, W, 3), of the whole map.

        It needs no display, unlike smac's renderer, which pysc2 4.0 does not let run on
        Python 3.11 and later.

        Raises:
            RuntimeError: before the first reset.
            ValueError: without a render mode.
        """
        good = self.render_mode == "rgb_array"
        check(good, "smac.render_mode", "'rgb_array' to render", self.render_mode)
        self._check_begun("render")
        game = self.game
        units = [
            Figure(
                x=unit.pos.x,
                y=unit.pos.y,
                radius=unit.radius,
                health=unit.health / unit.health_max,
                shield=unit.shield / unit.shield_max if unit.shield_max else None,
                ally=ally,
            )
            for ally, side in ((True, game.agents), (False, game.enemies))
            for unit in side.values()
            if unit.health > 0
        ]
        return draw((0, 0, game.map_x, game.map_y), units)

    @override
    def close(self) -> None:
        """Quit StarCraft II; a later reset launches it again."""
        self.agents = []
        if self._begun:
            self._relaunches += 1
            self._relaunch()

    def save_replay(self) -> None:
        """Write StarCraft II's replay of the game, to where the game keeps its replays.

        ``replay_dir`` and ``replay_prefix`` of :func:`smac` choose another place.
        """
        self.game.save_replay()

    def _relaunch(self) -> None:
        """Quit the game; the one that takes its place launches when it is reset."""
        self.game.close()
        self._begun = self._goes_on = False
        seed = self._seed
        if seed is not None and self._relaunches:  # not the same episodes again
            seed = mix(seed, self._relaunches)
        self.game = self._make_game(None if seed is None else seed % _SEEDS)

    def _begin(self) -> NDArray[np.float32]:
        """Start an episode in the game at hand, and return its observations (N, D)."""
        restarts = self.game.force_restarts
        self.game.reset()
        if self.game.force_restarts != restarts:  # what it shows may be from before the crash
            self._relaunch()
            self.game.reset()
            if self.game.force_restarts:
                raise RuntimeError("StarCraft II must start an episode, got a crash, twice.")
        self._begun = True
        return self._read()

    def _read(self) -> NDArray[np.float32]:
        """Take over what the game shows, and return its observations (N, D)."""
        self._mask[:] = self.game.get_avail_actions()
        self._state = np.asarray(self.game.get_state(), np.float32)
        return np.asarray(self.game.get_obs(), np.float32)

    def _show(self, obs: NDArray[np.float32], agents: list[str]) -> dict[str, MaskedObs]:
        mask = self._mask.copy()
        shown = {
            agent: {"observation": row, "action_mask": available}
            for agent, row, available in zip(self.possible_agents, obs, mask, strict=True)
        }
        return {agent: shown[agent] for agent in agents}

    def _legal(self, actions: Mapping[str, SupportsIndex]) -> list[int]:
        """Return one available action per possible agent, counting those that had to change."""
        present, joint = frozenset(self.agents), []
        for agent, mask in zip(self.possible_agents, self._mask, strict=True):
            fallback = NO_OP if mask[NO_OP] else STOP
            action = actions[agent] if agent in present else NO_OP
            number, available = read_action(agent, action, mask, refuse=self._refuse)
            self._illegal += not available
            joint.append(number if available else fallback)
        return joint


def smac(
    map: str = "3m",  # noqa: A002 - as in envs.skirmish
    *,
    difficulty: str = "7",
    dead: str = "stay",
    illegal: str = "replace",
    render_mode: str | None = None,
    **options: object,
) -> SmacParallelEnv:
    """Return one of SMAC's battles, played by StarCraft II.

    It takes the place of ``envs.skirmish(map)``: agents, spaces, masks, rewards and infos are
    the same. StarCraft II itself, SMAC's maps and the package ``smac`` from its repository have
    to be installed; the errors say what is missing.

    Seeding an episode launches the game anew, so ``training.run`` and ``evaluation.rollout``
    seed only the first episode of each environment, and resuming is not exact to the bit.

    Args:
        map: one of the maps that ``smac`` registers.
        difficulty: of StarCraft II's AI, ``"1"`` (very easy) to ``"7"`` (very hard, SMAC's
            default), ``"8"``, ``"9"`` and ``"A"`` (it cheats).
        dead: ``"stay"``: dead agents go on with zeros, only the no-op and the team's reward, as
            in SMAC. ``"leave"``: they terminate, and the agents that act get equal shares of
            the team's reward, so that it is the sum of theirs.
        illegal: ``"replace"`` actions that are masked or out of range by stop, and count them,
            or ``"refuse"`` them.
        render_mode: ``"rgb_array"`` or None; needs no display.
        options: further arguments of ``smac.env.StarCraft2Env``, e.g. ``game_version`` or
            ``reward_only_positive``. Those that change observations or states make the
            layout differ from skirmish's.

    Raises:
        FileNotFoundError: if StarCraft II or the map file is not there.
        ImportError: if ``smac`` is missing, is another package of that name, or cannot work
            with the installed ``protobuf``.
        TypeError: for an argument of a wrong kind.
        ValueError: for an unknown map (the known ones are listed) or option.
    """
    if not isinstance(map, str):
        raise TypeError(
            f"smac.map must be a name, got {map!r}. Maps of your own are for envs.skirmish."
        )
    foreign = difficulty in tuple(DIFFICULTIES)
    remedy = "StarCraft II's difficulties are not those of skirmish." if foreign else ""
    rule = f"one of {list(_LEVELS)}"
    check(difficulty in _LEVELS, "smac.difficulty", rule, difficulty, remedy)
    require_package()
    game_class = import_part("smac.env").StarCraft2Env
    registry = import_part("smac.env.starcraft2.maps.smac_maps").map_param_registry
    check_known("smac.map", map, registry)
    known = [name for name in inspect.signature(game_class).parameters if name not in _RESERVED]
    check_names("smac.options", options, known)
    require_binary(map, options.get("game_version"))

    def make(seed: int | None) -> _Game:
        return game_class(
            map_name=map, difficulty=difficulty, seed=seed, continuing_episode=True, **options
        )

    return SmacParallelEnv(make, dead=dead, illegal=illegal, render_mode=render_mode)
