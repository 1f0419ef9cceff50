"""Who plays what: teams by name or file, and their worlds, an own environment's too."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from gymnasium.spaces import Box, Dict

from robustmarl import training, zoo
from robustmarl._checks import check, check_choice, check_function
from robustmarl.budgets import LARGEST, LinfBall
from robustmarl.joint import TeamSpec, spec_of
from robustmarl.learning import TeamAlgorithm
from robustmarl.training.resume import CHECKPOINT
from robustmarl.typing import Env
from robustmarl.zoo import World

__all__ = ["Team", "ball_of", "check_file", "own_world", "told_world", "trained", "world_spec"]


@dataclass(frozen=True, kw_only=True)
class Team:
    """A trained team that the command line names.

    Attributes:
        name: in tables.
        learner: the team.
        world: what it plays, its figure and the ball of attacks as told.
        file: where it was read, None of the zoo's.
    """

    name: str
    learner: TeamAlgorithm
    world: World
    file: Path | None


def trained(args: argparse.Namespace) -> Team:
    """Return the team that ``args.team`` names.

    Raises:
        ValueError: for what is no team, does not say what it plays, or does not fit it.
    """
    world = told_world(args, args.world)
    if args.team.startswith("zoo:"):
        name, file = args.team.removeprefix("zoo:"), None
        learner = zoo.load(name).learner
        world = world or _as_told(zoo.world(zoo.ENTRIES[name].world), args, {})
    else:
        check_file("the team", args.team, args.program)
        name, file = Path(args.team).stem, Path(args.team)
        saved = training.load(args.team)
        learner = saved.learner
        if world is None:
            world = _said(args, saved)
        elif args.env is not None:
            world = _as_told(world, args, saved.about)
    _check_fit(args.team, learner.spec, world_spec(world))
    return Team(name=name, learner=learner, world=world, file=file)


def told_world(args: argparse.Namespace, name: str | None) -> World | None:
    """Return the world that is told, by name or as an environment; None if none is.

    Raises:
        ValueError: for an unknown one, or two.
    """
    if args.env is not None:
        check(name is None, "--env", "given without the name of a world", name)
        return _as_told(own_world(args.env), args, {})
    if name is None:
        return None
    check(":" not in name, "the world", "a name", name, f"Did you mean --env {name}?")
    return _as_told(zoo.world(name), args, {})


def own_world(text: str) -> World:
    """Return the world of an environment that ``module:function`` builds.

    Modules of the current folder are found, too.

    Raises:
        TypeError: for what builds no parallel environment.
        ValueError: for a module or a function that is not there.
    """
    module_name, _, name = text.partition(":")
    rule = "MODULE:FUNCTION, such as my_envs:make of my_envs.py in this folder"
    check(bool(module_name and name), "--env", rule, text)
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something
        check(False, "--env", f"of a module that is installed or in {here}", text)
    make = getattr(module, name, None)
    check(make is not None, "--env", f"of something that {module_name} has", text)
    check_function("--env", make, "of a function or class without arguments")
    make_env = cast("Callable[[], Env]", make)
    spec = spec_of(make_env())
    return World(make_env=make_env, metric=(*spec.metrics, "return")[0])


def world_spec(world: World) -> TeamSpec:
    """Return the spec of the team that plays a world."""
    return spec_of(world.make_env()).of_team(world.team)


def ball_of(world: World, epsilon: float | None) -> LinfBall:
    """Return what attacks may change, of another size if one is given.

    Raises:
        ValueError: if neither the command line nor the world says how much.
    """
    if epsilon is not None:
        return (world.ball or LinfBall(epsilon=epsilon)).with_epsilon(epsilon)
    if world.ball is not None:
        return world.ball
    if world.traitor is not None:
        raise ValueError(
            f"In this world {world.threat}: evaluate --traitor lets each agent in turn. "
            "For attacks on observations pass --epsilon."
        )
    raise ValueError("--epsilon must be given, the size of attacks on observations.")


def check_file(what: str, text: str, program: str) -> None:
    """Raise ``ValueError`` that says what may have been meant where there is no file."""
    if Path(text).is_dir():
        inside = f" Pass {Path(text) / CHECKPOINT}." if (Path(text) / CHECKPOINT).exists() else ""
        raise ValueError(f"{text!r} is a folder, no file of {what}.{inside}")
    if Path(text).exists():
        return
    near = difflib.get_close_matches(text, zoo.ENTRIES, n=1, cutoff=0.8)
    hint = f"Did you mean zoo:{near[0]}?" if near else f"{program} zoo lists teams to try."
    raise ValueError(f"There is no file {text!r} of {what}. {hint}")


def _said(args: argparse.Namespace, saved: training.Saved[TeamAlgorithm]) -> World:
    """Return what a file says that its team plays."""
    about: Mapping[str, object] = saved.about
    if (world := about.get("world")) is not None:
        return _as_told(zoo.world(str(world)), args, about)
    if (env := about.get("env")) is not None:
        raise ValueError(
            f"{args.team} plays an environment of your own, which files do not bring along. "
            f"Pass --env {env}."
        )
    if saved.make_env is None:
        raise ValueError(
            f"{args.team} does not say what its team plays. Pass --env MODULE:FUNCTION, or --world."
        )
    metric = (*saved.learner.spec.metrics, "return")[0]
    return _as_told(World(make_env=saved.make_env, metric=metric), args, about)


def _as_told(world: World, args: argparse.Namespace, about: Mapping[str, object]) -> World:
    """Return a world with the figure and the range of observations that are told, or were."""

    def told(name: str) -> object:
        given = getattr(args, name)
        return about.get(name) if given is None else given

    if (metric := told("metric")) is not None:
        check_choice("--metric", metric, ["return", *world_spec(world).metrics])
        world = replace(world, metric=str(metric))
    given = args.epsilon[0] if isinstance(args.epsilon, list) else args.epsilon
    epsilon = about.get("epsilon", given)
    if world.ball is None and not isinstance(epsilon, float):
        return world
    ball = world.ball or _ball_within(world.make_env(), cast(float, epsilon))
    low, high = told("low"), told("high")
    return replace(
        world,
        ball=replace(
            ball,
            low=low if isinstance(low, float) else ball.low,
            high=high if isinstance(high, float) else ball.high,
        ),
    )


def _ball_within(env: Env, epsilon: float) -> LinfBall:
    """Return a ball that keeps to the range of an environment's observation spaces."""
    spaces = [env.observation_space(agent) for agent in env.possible_agents]
    boxes = [one["observation"] if isinstance(one, Dict) else one for one in spaces]
    ranges = [(box.low, box.high) for box in boxes if isinstance(box, Box)]
    low = np.full((len(ranges), max(len(end) for end, _ in ranges)), np.inf)
    high = -low
    for number, (lowest, highest) in enumerate(ranges):
        low[number, : len(lowest)], high[number, : len(highest)] = lowest, highest
    ends = []
    for end in (low.min(axis=0), high.max(axis=0)):
        end[np.abs(end) >= LARGEST] *= np.inf
        ends.append(float(end[0]) if (end == end[0]).all() else tuple(end.tolist()))
    return LinfBall(epsilon, low=ends[0], high=ends[1])


def _check_fit(team: str, own: TeamSpec, asked: TeamSpec) -> None:
    """Raise ``ValueError`` that names in short what differs."""
    words = {
        "agents": "agents",
        "obs_sizes": "obs",
        "action_sizes": "actions",
        "continuous": "continuous actions",
        "state_size": "state",
        "horizon": "horizon",
    }
    differing = []
    for field, word in words.items():
        ours, theirs = _short(getattr(own, field)), _short(getattr(asked, field))
        if field == "agents" and own.num_agents != asked.num_agents:
            ours, theirs = str(own.num_agents), str(asked.num_agents)
        if ours != theirs:
            differing.append(f"{word} {ours} against {theirs}")
    if differing:
        text = ", ".join(differing)
        raise ValueError(f"{team} does not fit this environment: {text}.")


def _short(value: object) -> str:
    """Return a size, or one for all agents where they are equal."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return str(value[0])
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
