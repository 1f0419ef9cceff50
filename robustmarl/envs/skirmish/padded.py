"""Battles on one map in the arrays of a larger one, so that one team can play both."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustmarl._checks import check, speaking_for
from robustmarl.envs.skirmish.engine import SkirmishEngine
from robustmarl.envs.skirmish.layout import NO_OP, Layout
from robustmarl.envs.skirmish.maps import SkirmishMap, map_of
from robustmarl.joint import VectorEngine, check_act

__all__ = ["PaddedSkirmish"]

_ALIKE = ("terminated", "truncated", "metrics")  # arrays that are the same on both maps


class PaddedSkirmish:
    """What builds battles on a map that look as if they were on another, larger one.

    Every feature is where the larger map has the one of its name, and zero where the smaller has
    none; agents, enemies and actions that are too many are dead, absent and unavailable. A team
    trained on one of the two maps can so play the other: give it as ``make_env``.

    Args:
        game: the map that is played, or its name.
        like: the larger map, or its name.

    Raises:
        ValueError: if ``like`` lacks something that ``game`` has, or counts other types of unit, or
            the same in another order.

    Example:
        >>> small = PaddedSkirmish("2m_vs_1z", like="3s_vs_3z").make_engine(4)
        >>> small.spec.num_agents, small.spec.obs_size
        (3, 36)
    """

    def __init__(self, game: str | SkirmishMap, *, like: str | SkirmishMap) -> None:
        self.game = map_of(game, "PaddedSkirmish.game")
        self.like = map_of(like, "PaddedSkirmish.like")
        small, large = Layout(self.game), Layout(self.like)
        missing = sorted({*small.feature_names()} - {*large.feature_names()})
        rule = f"a map with the features of {self.game.name!r}"
        check(not missing, "PaddedSkirmish.like", rule, f"{self.like.name!r} without {missing}")
        enough = large.n >= small.n and large.num_actions >= small.num_actions
        rule = f"a map with the agents and actions of {self.game.name!r}"
        check(enough, "PaddedSkirmish.like", rule, self.like.name)
        alike = _types(self.game) == _types(self.like)
        rule = f"a map with the types of unit of {self.game.name!r} in the same order"
        check(alike, "PaddedSkirmish.like", rule, self.like.name)
        check(not small.healers, "PaddedSkirmish.game", "a map without healers", self.game.name)

    def make_engine(self, num_envs: int, device: torch.device | str = "cpu") -> VectorEngine:
        """Return ``num_envs`` battles, stepped together."""
        return _PaddedEngine(self.game, self.like, num_envs, device)


class _PaddedEngine:
    """E battles on one map in the arrays of another, a ``VectorEngine``."""

    def __init__(
        self, game: SkirmishMap, like: SkirmishMap, num_envs: int, device: torch.device | str
    ) -> None:
        with speaking_for("PaddedSkirmish.make_engine", SkirmishEngine):
            self.engine = SkirmishEngine(game, num_envs, device=device)
        self.spec = replace(SkirmishEngine(like).spec, horizon=self.engine.spec.horizon)
        small, large = self.engine.layout, Layout(like)
        self._obs = _places(small.feature_names(), large.feature_names(), device)
        self._state = _places(_state_names(small), _state_names(large), device)
        self._agents, self._actions = small.n, small.num_actions
        own = self.engine.tensors
        shapes = {
            key: x for key, x in self.spec.empty(num_envs, device=device).items() if key != "act"
        }
        alike = {key: torch.zeros_like(own[key]) for key in _ALIKE}  # no views: copies lose them
        self.tensors: dict[str, Tensor] = {**shapes, **alike}
        self.tensors["mask"][:, self._agents :, NO_OP] = True  # as the dead have it
        self._show()

    def __len__(self) -> int:
        return len(self.engine)

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Start new episodes where ``mask``, bool (E,), each from its seed, int64 (E,)."""
        self.engine.begin(mask, seeds)
        self._show()

    def advance(self, act: Tensor, active: Tensor) -> None:
        """Step the environments that are ``active``, bool (E,), with ``act``, int64 (E, N)."""
        check_act("PaddedSkirmish.advance.act", act, self.spec, len(self))
        self.engine.advance(act[:, : self._agents].contiguous(), active)
        self._show()

    def close(self) -> None:
        """Do nothing: there is only memory to release."""

    def _show(self) -> None:
        """Write what the smaller map's arrays hold where the larger map has it."""
        own, n = self.engine.tensors, self._agents
        self.tensors["obs"][:, :n, self._obs] = own["obs"]
        self.tensors["mask"][:, :n, : self._actions] = own["mask"]
        self.tensors["state"][:, self._state] = own["state"]
        self.tensors["alive"][:, :n] = own["alive"]
        # the mean over agents is the team's reward, whoever is dead
        self.tensors["rew_agents"][:] = own["rew_agents"][:, :1]
        for key in _ALIKE:
            self.tensors[key][:] = own[key]


def _types(game: SkirmishMap) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that the allies' one-hot types stand for, and the enemies'."""
    return game.ally_types, game.enemy_types or game.ally_types


def _places(names: list[str], among: list[str], device: torch.device | str) -> Tensor:
    """Return where names are among others, int64."""
    place = {name: number for number, name in enumerate(among)}
    return torch.tensor([place[name] for name in names], device=device)


def _state_names(layout: Layout) -> list[str]:
    """Return what each coordinate of a state is, (S,)."""
    kinds = [f"type {kind}" for kind in range(layout.types)]
    ally = ["health", "cooldown", "x", "y", *["shield"] * layout.ally_shield, *kinds]
    enemy = ["health", "x", "y", *["shield"] * layout.enemy_shield, *kinds]
    return [
        *(f"ally {i} {name}" for i in range(layout.n) for name in ally),
        *(f"enemy {j} {name}" for j in range(layout.m) for name in enemy),
        *(f"ally {i} last act {act}" for i in range(layout.n) for act in range(layout.num_actions)),
    ]
