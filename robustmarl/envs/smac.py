"""SMAC, the StarCraft Multi-Agent Challenge, as a parallel environment."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any, SupportsIndex

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from typing_extensions import override

from robustmarl._checks import check, check_choice, check_known, check_names, check_seed
from robustmarl._seeding import mix
from robustmarl.envs._base import CheckedEnv, MaskedObs, masked_spaces, read_action
from robustmarl.envs.skirmish.layout import NO_OP, STOP, Layout
from robustmarl.envs.skirmish.maps import MAPS
from robustmarl.envs.skirmish.render import Figure, draw
from robustmarl.envs.skirmish.rules import DIFFICULTIES
from robustmarl.typing import ResetResult, StepResult

__all__ = ["SmacParallelEnv", "smac"]

_LEVELS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "A")
_RESERVED = ("map_name", "difficulty", "seed", "continuing_episode")  # ours to set
_SEEDS = 2**32  # StarCraft II's are 32 bits wide
_GUIDE = "See 'SMAC' in the documentation."


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
        make_game: Callable[[int | None], Any],
        *,
        dead: str = "stay",
        illegal: str = "replace",
        render_mode: str | None = None,
    ) -> None:
        check_choice("smac.dead", dead, ("stay", "leave"))
        check_choice("smac.illegal", illegal, ("replace", "refuse"))
        check_choice("smac.render_mode", render_mode, (None, "rgb_array"))
        self._make, self.render_mode = make_game, render_mode
        self._leave, self._refuse = dead == "leave", illegal == "refuse"
        self.game = game = make_game(None)
        name, size = game.map_name, game.get_env_info()
        self.metadata = {
            "name": f"smac_{name}",
            "render_modes": ["rgb_array"],
            "render_fps": 3,
            "team_reward": "sum" if self._leave else "mean",
            "horizon": size["episode_limit"],
            "episode_metrics": ("battle_won",),
            "relaunches_to_seed": True,
        }
        n, actions = size["n_agents"], size["n_actions"]
        self.possible_agents = [f"agent_{i}" for i in range(n)]
        self.agents = []
        # StarCraft2Env counts the time step twice in sizes, and appends it after both places
        wide = int(getattr(game, "obs_timestep_number", False))
        joint = getattr(game, "obs_instead_of_state", False)
        seen = Box(-1.0, 1.0, (size["obs_shape"] + wide,), np.float32)
        spaces = masked_spaces(self.possible_agents, seen, actions)
        self.observation_spaces, self.action_spaces = spaces
        high = Layout(MAPS[name]).max_state if name in MAPS else np.inf
        states = size["state_shape"] + (n * wide if joint else 0)
        self.state_space = Box(-1.0, high, (states,), np.float32)
        self._mask = np.zeros((n, actions), np.int8)
        self._state = np.zeros(states, np.float32)
        self._root: int | None = None
        self._relaunches = 0
        self._begun = False  # whether this game has been reset
        self._goes_on = False  # whether it can be reset again
        self._illegal = 0

    @override
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        """Start an episode.

        A seed launches the game anew, which takes several seconds. Without one, the next
        episode goes on from the last one in the same game; only if that game has not finished
        any episode yet, or has crashed, a new one is launched.

        Raises:
            RuntimeError: if the game crashes again after it was launched anew.
            TypeError: if the seed is not an int.
        """
        if seed is not None:
            self._root, self._relaunches = check_seed("reset.seed", seed), 0
            self._relaunch()
        elif self._begun and not self._goes_on:
            # reset again before its first end, a game would launch twice, and count twice the
            # health that it divides rewards by
            self._relaunches += 1
            self._relaunch()
        obs = self._begin()
        self.agents = self.possible_agents[:]
        self._illegal = 0
        return self._look(obs, self.agents), {agent: {"alive": True} for agent in self.agents}

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
        obs = self._see()
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
            self._look(obs, agents),
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
    def render(self) -> Any:
        """Return a picture like skirmish's, uint8 (H, W, 3), of the whole map.

        It needs no display, unlike smac's renderer, which pysc2 4.0 does not let run on
        Python 3.11 and later.

        Raises:
            RuntimeError: before the first reset.
            ValueError: without a render mode.
        """
        good = self.render_mode == "rgb_array"
        check(good, "smac.render_mode", "'rgb_array' to render", self.render_mode)
        if not self._begun:
            raise RuntimeError("render must come after reset, got no game. Call reset() first.")
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
        seed = self._root
        if seed is not None and self._relaunches:  # not the same episodes again
            seed = mix(seed, self._relaunches)
        self.game = self._make(None if seed is None else seed % _SEEDS)

    def _begin(self) -> NDArray[np.float32]:
        restarts = self.game.force_restarts
        self.game.reset()
        if self.game.force_restarts != restarts:  # what it shows may be from before the crash
            self._relaunch()
            self.game.reset()
            if self.game.force_restarts:
                raise RuntimeError("StarCraft II must start an episode, got a crash, twice.")
        self._begun = True
        return self._see()

    def _see(self) -> NDArray[np.float32]:
        self._mask[:] = self.game.get_avail_actions()
        self._state = np.asarray(self.game.get_state(), np.float32)
        return np.asarray(self.game.get_obs(), np.float32)

    def _look(self, obs: NDArray[np.float32], agents: list[str]) -> dict[str, Any]:
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
    **options: Any,
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
    _require_package()
    game = _import("smac.env").StarCraft2Env
    check_known("smac.map", map, _import("smac.env.starcraft2.maps.smac_maps").map_param_registry)
    known = [name for name in inspect.signature(game).parameters if name not in _RESERVED]
    check_names("smac.options", options, known)
    _require_binary(map, options.get("game_version"))

    def make(seed: int | None) -> Any:
        return game(
            map_name=map, difficulty=difficulty, seed=seed, continuing_episode=True, **options
        )

    return SmacParallelEnv(make, dead=dead, illegal=illegal, render_mode=render_mode)


def _require_package() -> None:
    """Raise unless ``smac`` is the StarCraft one; SMAC3, of that name too, is not imported."""
    install = (
        "Install it with: pip install --no-deps git+https://github.com/oxwhirl/smac.git "
        "&& pip install pysc2 s2clientprotocol pygame."
    )
    found = find_spec("smac")
    if found is None:
        raise ImportError(
            f"envs.smac needs the package 'smac', the StarCraft one. {install} {_GUIDE}"
        )
    if PathFinder.find_spec("smac.env", found.submodule_search_locations or []) is None:
        raise ImportError(
            f"envs.smac needs the package 'smac' of StarCraft, got another one at {found.origin}. "
            "PyPI's 'smac' is AutoML's SMAC3, with the same import name: use an environment "
            f"without it. {install} {_GUIDE}"
        )


def _import(module: str) -> ModuleType:
    try:
        with warnings.catch_warnings():  # about what their own dependencies deprecate
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"envs.smac needs the package {error.name!r}, on which 'smac' depends. "
            f"Install it with pip. {_GUIDE}"
        ) from error
    except TypeError as error:
        if "Descriptors cannot be created directly" not in str(error):
            raise
        raise ImportError(
            "envs.smac needs a protobuf that reads StarCraft II's old messages, got a newer one. "
            "Set the environment variable PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python before "
            f"Python starts, or install 'protobuf<3.21'. {_GUIDE}"
        ) from error


def _require_binary(name: str, version: str | None) -> None:
    """Raise unless pysc2 finds StarCraft II and the map."""
    launch_error: type[Exception] = _import("pysc2.lib.sc_process").SC2LaunchError
    try:
        config = _import("pysc2.run_configs").get(version=version)
    except (OSError, launch_error) as error:
        raise FileNotFoundError(
            f"envs.smac needs StarCraft II where pysc2 looks for it, got: {error}. Install it, "
            "and set the environment variable SC2PATH to its folder unless that is "
            f"~/StarCraftII. {_GUIDE}"
        ) from error
    path = _import("pysc2.maps").get(name).path
    try:
        config.map_data(path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"envs.smac needs the map file {path!r} in the folder Maps of StarCraft II, got: "
            f"{error} Put smac's folder SMAC_Maps there. {_GUIDE}"
        ) from error
