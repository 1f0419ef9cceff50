"""``train``: a team, by the zoo's recipe where it has one, under attack or not."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from robustmarl import __version__, algorithms, evaluation, training
from robustmarl._checks import check, check_known
from robustmarl.adversaries import Adversary
from robustmarl.budgets import LinfBall
from robustmarl.cli.attacks import adversary_of, fixed
from robustmarl.cli.parser import ADVERSARIES, ATTACKS
from robustmarl.cli.paths import output
from robustmarl.cli.teams import ball_of, told_world, world_spec
from robustmarl.evaluation import Defence, Recipe
from robustmarl.joint import TeamSpec
from robustmarl.learning import TeamAlgorithm
from robustmarl.training.files import locked
from robustmarl.training.resume import CHECKPOINT, HISTORY
from robustmarl.zoo import World
from robustmarl.zoo.entries import ATTACKED, entry_for
from robustmarl.zoo.shelf import learners

__all__ = ["train"]

SETTINGS = "settings.json"
"""What was asked for, beside a checkpoint: what must be the same to go on from it."""

ENV_STEPS, NUM_ENVS = 100_000, 16

Settings: TypeAlias = dict[str, object]


def train(args: argparse.Namespace) -> int:
    """Train a team, keep it, and say how good it is."""
    kind = _algorithm(args.algorithm)
    out = output("--out", args.out, ".pt")
    world = told_world(args, args.world)
    if world is None:
        raise ValueError("train must be told a world, such as 3m, or --env MODULE:FUNCTION.")
    spec = world_spec(world)
    recipe, defence, told = _recipe(args, kind, world)
    team, adversary = learners(recipe, defence, spec, args.seed)
    if args.under in ATTACKS and defence.is_none:
        ball = ball_of(world, args.epsilon)
        defence = Defence(
            perturb=fixed(args.under, ball, team, episodes=ATTACKED, option="--under")
        )
    folder = out.parent / "runs" / out.stem
    begun = _begun(folder, _settings(args, kind, spec), out, fresh=args.fresh)
    sys.stdout.write(f"{told}; {recipe.env_steps:,} steps in {recipe.num_envs} environments.\n")
    if begun is not None:
        sys.stdout.write(f"Resumed from {folder / CHECKPOINT} at step {begun:,}.\n")
    sys.stdout.flush()  # before the bar, which is written elsewhere
    _run(team, adversary, recipe, defence, world, folder, args)
    training.save_weights(
        team, out, make_env=world.make_env if args.env is None else None, about=_about(args, world)
    )
    sys.stdout.write(
        f"The team is in {out}. Checkpoint and curves are in {folder}/.\n"
        f"{_figure(team, world)}\nNext: {_next(args, world)}\n"
    )
    return 0


def _algorithm(name: str) -> type[TeamAlgorithm]:
    """Return the class of a name, in capitals or not."""
    known = {one.lower(): one for one in algorithms.__all__ if one != "OwnActionValues"}  # a mixin
    if name.lower() not in known:
        check_known("train.algorithm", name, list(known.values()))
    found: type[TeamAlgorithm] = getattr(algorithms, known[name.lower()])
    return found


def _recipe(
    args: argparse.Namespace, kind: type[TeamAlgorithm], world: World
) -> tuple[Recipe, Defence, str]:
    """Return how the team is trained, and the same in words."""
    ball = None if args.under is None and world.ball is None else ball_of(world, args.epsilon)
    entry = None
    if args.env is None and not args.no_recipe:
        entry = entry_for(args.world, kind.__name__, args.under, ball)
    if entry is not None:
        told = {name: getattr(args, name) for name in ("env_steps", "num_envs")}
        asked = {name: value for name, value in told.items() if value is not None}
        recipe = replace(entry.recipe, **asked)
        method = f"{entry.world}/{entry.method}"
        return recipe, deepcopy(entry.defence), f"{entry.about}: the zoo's recipe of {method}"
    steps = ENV_STEPS if args.env_steps is None else args.env_steps
    num_envs = NUM_ENVS if args.num_envs is None else args.num_envs
    recipe = Recipe(algorithm=kind, env_steps=steps, num_envs=num_envs)
    how = f"{kind.__name__} with its defaults, under {args.under or 'no attack'}"
    return recipe, _beside(args.under, ball, steps), how


def _beside(under: str | None, ball: LinfBall | None, steps: int) -> Defence:
    """Return what learns beside a team where there is no recipe; nothing if nothing does."""
    if ball is None or under not in ADVERSARIES:
        return Defence()
    return Defence(
        adversary=partial(adversary_of, under, ball=ball, steps=steps, episodes=ATTACKED)
    )


def _settings(args: argparse.Namespace, kind: type[TeamAlgorithm], spec: TeamSpec) -> Settings:
    """Return what must be the same to go on with a training."""
    told = {name: getattr(args, name) for name in ("world", "env", "under", "epsilon", "seed")}
    return {
        "algorithm": kind.__name__,
        **told,
        **{name: getattr(args, name) for name in ("low", "high", "num_envs", "no_recipe")},
        "agents": list(spec.agents),
        "obs": list(spec.obs_sizes),
        "actions": list(spec.action_sizes),
        "version": __version__,
    }


def _begun(folder: Path, settings: Settings, out: Path, *, fresh: bool) -> int | None:
    """Prepare a training's folder; return the step from which it goes on, None if it begins.

    Raises:
        ValueError: if another team was trained there, or is in ``out``.
    """
    if fresh:
        _forget(folder)
    remedy = "Pass --fresh to begin anew, or another --out."
    if not (folder / CHECKPOINT).exists():
        replaced = out.exists() and not fresh
        check(not replaced, "--out", "a file that is not there yet", str(out), remedy)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        return None
    before = json.loads((folder / SETTINGS).read_text("utf-8")) if _known(folder) else {}
    differing = [
        f"{name} {before.get(name)}, not {value}"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if not _known(folder):
        differing = ["which was not trained by this command"]
    if differing:
        raise ValueError(f"{folder}/ holds another training: {', '.join(differing)}. {remedy}")
    return int(training.load_checkpoint(folder / CHECKPOINT)["trainer"]["env_step"])


def _known(folder: Path) -> bool:
    return (folder / SETTINGS).exists()


def _forget(folder: Path) -> None:
    """Remove what an earlier training left in its folder, and nothing else."""
    if not folder.exists():
        return
    with locked("--fresh", folder):
        for name in (CHECKPOINT, HISTORY, SETTINGS, "events.out.tfevents.*"):
            for path in folder.glob(name):
                path.unlink()


def _run(
    team: TeamAlgorithm,
    adversary: Adversary | None,
    recipe: Recipe,
    defence: Defence,
    world: World,
    folder: Path,
    args: argparse.Namespace,
) -> None:
    try:
        training.run(
            team if adversary is None else training.AdversarialTraining(team, adversary),
            world.make_env,
            env_steps=recipe.env_steps,
            num_envs=recipe.num_envs,
            seed=args.seed,
            perturb=defence.perturb,
            learn=recipe.learn,
            log=training.Log(folder, resume=True, progress=not args.quiet),
            **world.playing,
        )
    except ValueError as error:
        if "to resume" not in str(error):
            raise
        raise ValueError(
            f"{folder}/ holds a training with settings that follow from others, such as another "
            "--env-steps. Pass --fresh to begin anew, or another --out."
        ) from error


def _about(args: argparse.Namespace, world: World) -> dict[str, object]:
    """Return what goes along with a team."""
    about: dict[str, object] = {"command": args.typed}
    if args.env is None:
        return about | {"world": args.world}
    about |= {"env": args.env, "metric": world.metric}
    told = {name: getattr(args, name) for name in ("epsilon", "low", "high")}
    return about | {name: value for name, value in told.items() if value is not None}


def _figure(team: TeamAlgorithm, world: World) -> str:
    """Return how good a team is without attack, in words."""
    episodes = min(100, world.episodes)
    played = evaluation.rollout(
        team, world.make_env, episodes=episodes, num_envs=50, seed=1_000, **world.playing
    )
    found = evaluation.interval({team.seed: played.figure(world.metric)})
    return f"Without attack: {world.metric} {found} over {episodes} episodes."


def _next(args: argparse.Namespace, world: World) -> str:
    """Return what to type next."""
    words = ["evaluate", str(args.out)]
    if args.env is not None:
        words += ["--env", args.env]
    if world.traitor is not None:
        words += ["--traitor"]
    else:
        words += ["--attack", "noise", "pgd"]
        if world.ball is None:
            words += ["--epsilon", "0.05", "0.1", "0.2"]  # nobody knows how much is much
    words += ["--report", str(args.out.with_suffix(".html"))]
    return f"{args.program} {shlex.join(words)}"
