"""Battles played again, attacked or not, as an animation of what is there and what is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from robustmarl._checks import (
    check,
    check_choice,
    check_function,
    check_int,
    check_number,
    check_path,
    check_text,
    speaking_for,
)
from robustmarl.data import AnyPolicy, Controller, as_controller
from robustmarl.envs.skirmish import SkirmishEngine, SkirmishParallelEnv, save_replay
from robustmarl.envs.skirmish.replay import Scene, draw_scenes, snapshot
from robustmarl.evaluation.rollouts import Playing, rollout
from robustmarl.joint import MASKED, StepContext
from robustmarl.perturbers import Perturber
from robustmarl.training import Attacks
from robustmarl.training.settings import listed

__all__ = ["replay"]

_STILL = 8  # frames for which an ending stands


@dataclass(frozen=True)
class _OneEngine:
    """An environment whose one engine is this."""

    engine: SkirmishEngine

    def make_engine(self, num_envs: int) -> SkirmishEngine:
        """Return it, however many are asked for: there is one."""
        return self.engine


def replay(
    team: Playing,
    make_env: Callable[[], SkirmishParallelEnv],
    path: str | Path,
    *,
    perturb: Attacks = None,
    episodes: int = 3,
    believer: str | None = None,
    seed: int = 0,
    fps: float = 4.0,
    title: str = "",
) -> list[NDArray[np.uint8]]:
    """Play battles and write them as an animated GIF; return its frames, uint8 (H, W, 3).

    Solid units are what is there, hollow ones what one agent sees, at the places where it sees
    them: under attack they come apart. Lines are shots, a yellow ring is around agents whose
    action is another than on the true observation; steps and the outcome are written.

    Args:
        team: plays, as of :func:`~robustmarl.evaluation.rollout`.
        make_env: builds one battle.
        path: ends in ``.gif``.
        perturb: attacks or perturbers; None is clean.
        episodes: battles, >= 1: the first ones of an evaluation with the same seed.
        believer: the agent whose beliefs are drawn; None is the first.
        seed: of the episodes, >= 0.
        fps: frames per second, > 0.
        title: written above each battle.

    Raises:
        TypeError: if ``make_env`` builds no battle.
        ValueError: for an unknown agent, another file type or bad numbers.
    """
    check_function("replay.make_env", make_env, "a function that builds an environment")
    env = make_env()
    if not isinstance(env, SkirmishParallelEnv):
        kind = type(env).__name__
        raise TypeError(f"replay.make_env must build a battle, envs.skirmish(...), got {kind}.")
    check_int("replay.episodes", episodes, 1)
    path = check_path("replay.path", path)
    check(path.suffix == ".gif", "replay.path", "a file name that ends in .gif", str(path))
    if believer is not None:
        check_choice("replay.believer", believer, env.possible_agents)
    number = 0 if believer is None else env.possible_agents.index(believer)
    seed = check_int("replay.seed", seed, 0)
    fps = check_number("replay.fps", fps, 0.0, open_low=True)
    title = check_text("replay.title", title)
    perturbers = listed("replay.perturb", perturb)
    engine = env.make_engine(1)
    policy = as_controller("replay.team", cast(AnyPolicy, team), engine.spec)
    camera = _Camera(engine, policy)
    stage = cast(Callable[[], SkirmishParallelEnv], lambda: _OneEngine(engine))
    rollout(policy, stage, episodes=episodes, perturb=[*perturbers, camera], num_envs=1, seed=seed)
    battles = [
        draw_scenes(engine.layout, scenes, believer=number, title=title)
        for scenes in camera.battles
    ]
    frames = _of_one_size([[*frames, *[frames[-1]] * _STILL] for frames in battles])
    with speaking_for("replay", save_replay):
        save_replay(path, frames, fps=fps)
    return frames


class _Camera(Perturber):
    """Keeps the scenes of every battle; changes nothing."""

    kind = "camera"

    def __init__(self, engine: SkirmishEngine, policy: Controller) -> None:
        self._engine, self._policy = engine, policy
        self.battles: list[list[Scene]] = []

    @torch.no_grad()
    def shown(self, context: StepContext) -> None:
        if not bool(context.live.any()) and not bool(context.terminal.any()):
            return
        scene = snapshot(self._engine)
        if bool(context.terminal[0]):
            won = bool(self._engine.tensors["metrics"][0, 0])
            self.battles[-1].append(replace(scene, outcome="won" if won else "lost"))
            return
        if int(context.step[0]) == 0:
            self.battles.append([])
        clean, seen = (self._greedy(context, obs) for obs in (context.obs, context.seen))
        changed = (clean != seen) & context.alive[0]
        scene = replace(
            scene,
            step=int(context.step[0]),
            seen=context.seen[0].cpu().numpy().copy(),
            changed=changed.cpu().numpy(),
        )
        self.battles[-1].append(scene)

    def _greedy(self, context: StepContext, obs: torch.Tensor) -> torch.Tensor:
        """Return what the team likes best if it sees ``obs``, (N,)."""
        output, _ = self._policy.infer(replace(context, seen=obs))
        return output.masked_fill(~context.mask, MASKED).argmax(dim=-1)[0]


def _of_one_size(battles: list[list[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Return all frames on black ground as large as the largest, at its top left."""
    frames = [frame for battle in battles for frame in battle]
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    ground = [np.zeros((height, width, 3), np.uint8) for _ in frames]
    for image, frame in zip(ground, frames, strict=True):
        image[: frame.shape[0], : frame.shape[1]] = frame
    return ground
