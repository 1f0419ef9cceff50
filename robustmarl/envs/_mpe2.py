"""What is used of mpe2: its objects as far as they are read, and its constants.

mpe2 has no annotations that a type checker reads; these are what ``SimpleEnv`` and ``World`` are
to this package. Importing this needs no mpe2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Protocol

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from robustmarl._checks import check_int
from robustmarl.envs._base import Spaces
from robustmarl.typing import Array

__all__ = [
    "ACCELERATION",
    "MOVES",
    "NEIGHBORS",
    "Packed",
    "RawEnv",
    "World",
    "close_window",
    "made_of",
    "packed",
    "prepare_display",
    "unpacked",
]

NEIGHBORS = ("num_agent_neighbors", "num_landmark_neighbors")
"""Options by which agents observe the nearest others alone, in the order of their distances."""

# SimpleEnv._set_action: what an action does to an agent's motor, [x, y], ...
MOVES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
# ... and by what that is multiplied, unless the agent has an accel of its own.
ACCELERATION = 5.0


class _State(Protocol):
    p_pos: NDArray[np.float64]
    p_vel: NDArray[np.float64]


class _Entity(Protocol):
    name: str
    size: float
    collide: bool
    state: _State


class _Agent(_Entity, Protocol):
    accel: float | None
    max_speed: float | None
    mass: float


def made_of(
    name: str,
    make: Callable[..., RawEnv],
    own: Mapping[str, object],
    options: Mapping[str, object],
) -> RawEnv:
    """Return an environment of mpe2 for the function ``name``, which passes options on.

    Args:
        name: for error messages.
        make: mpe2's.
        own: its arguments that have a name of their own here.
        options: the others, as the user gave them.

    Raises:
        TypeError: for an option that there is not, or a neighbour's number of a wrong kind.
        ValueError: for no neighbours.
    """
    known = sorted(signature(make).parameters.keys() - own)
    strange = sorted(set(options).difference(known))
    if strange:
        raise TypeError(f"{name} must be given options among {known}, got {strange}.")
    few = {key: options[key] for key in NEIGHBORS if options.get(key) is not None}
    few = {key: check_int(f"{name}.{key}", n, 1) for key, n in few.items()}
    prepare_display()
    return make(**own, **{**options, **few})


class World(Protocol):
    """``mpe2._mpe_utils.core.World``: bodies and the physics between them."""

    agents: Sequence[_Agent]
    landmarks: Sequence[_Entity]
    dim_c: int
    dt: float
    damping: float
    contact_force: float
    contact_margin: float


class _Scenario(Protocol):
    def is_terminal(self, world: World) -> bool: ...


class RawEnv(Protocol):
    """``mpe2._mpe_utils.simple_env.SimpleEnv``, which takes turns."""

    metadata: dict[str, object]
    render_mode: str | None
    max_cycles: int
    possible_agents: list[str]
    observation_spaces: Spaces
    action_spaces: Spaces
    state_space: Box
    continuous_actions: bool
    local_ratio: float
    current_actions: Sequence[object]
    rewards: dict[str, float]
    infos: dict[str, Mapping[str, object]]
    world: World
    scenario: _Scenario
    renderOn: bool  # noqa: N815 - mpe2's name
    screen: object
    width: int
    height: int

    def reset(self, seed: int | None = None, options: dict[str, object] | None = None) -> None: ...
    def observe(self, agent: str) -> Array: ...
    def state(self) -> Array: ...
    def render(self) -> NDArray[np.uint8] | None: ...
    def _execute_world_step(self) -> None: ...


# What pygame made for a RawEnv to draw on, which no copy can have.
_DRAWING = frozenset({"viewer", "screen", "game_font", "renderOn", "clock"})


@dataclass(frozen=True)
class Packed:
    """A ``RawEnv`` as it is, its drawing aside: how it was made, and what became of it since."""

    kind: type[RawEnv]
    args: tuple[object, ...]
    settings: dict[str, object]
    attributes: dict[str, object]


def packed(raw: RawEnv) -> Packed:
    """Return what :func:`unpacked` makes a copy of ``raw`` from.

    mpe2's environments are of gymnasium's ``EzPickle``, whose copies begin a game of their own.
    """
    kept = vars(raw)
    attributes = {name: value for name, value in kept.items() if name not in _DRAWING}
    return Packed(type(raw), kept["_ezpickle_args"], kept["_ezpickle_kwargs"], attributes)


def unpacked(packed: Packed) -> RawEnv:
    """Return a copy in the same state."""
    prepare_display()
    raw = packed.kind(*packed.args, **packed.settings)
    vars(raw).update(packed.attributes)
    return raw


def close_window(raw: RawEnv) -> None:
    """Close the window of a ``RawEnv`` if it has one; its next picture opens another.

    mpe2's ``close`` ends all of pygame, for everybody who draws with it.
    """
    if raw.renderOn:
        import pygame

        pygame.display.quit()
        raw.screen, raw.renderOn = pygame.Surface((raw.width, raw.height)), False


def prepare_display() -> None:
    """Let pygame, which mpe2 draws with, be silent and need no display."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    displays = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}
    if sys.platform.startswith("linux") and displays.isdisjoint(os.environ):
        os.environ["SDL_VIDEODRIVER"] = "dummy"
