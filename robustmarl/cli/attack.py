"""``attack``: let an adversary learn against a team that stands still."""

from __future__ import annotations

import argparse
import shlex
import sys

from robustmarl import evaluation, training
from robustmarl.cli.attacks import adversary_of
from robustmarl.cli.films import films
from robustmarl.cli.paths import output
from robustmarl.cli.teams import Team, ball_of, trained
from robustmarl.evaluation import Case

__all__ = ["attack"]


def attack(args: argparse.Namespace) -> int:
    """Train an adversary, print what it does to the team, and keep it if asked to."""
    team = trained(args)
    if args.out is not None:
        output("--out", args.out, ".pt", team.file)
    if args.report is not None:
        output("--report", args.report, ".html")
    learner, world, ball = team.learner, team.world, ball_of(team.world, args.epsilon)
    adversary = adversary_of(
        args.adversary, learner.spec, ball, steps=args.env_steps, seed=args.seed
    )
    case = Case(
        policy=learner.policy,
        spec=learner.spec,
        make_env=world.make_env,
        ball=ball,
        seed=args.seed,
        **world.playing,
    )
    progress = False if args.quiet else args.adversary
    perturb = case.trained(adversary, args.env_steps, progress=progress)
    found = evaluation.crossplay(
        {team.name: learner},
        {"none": None, args.adversary: perturb},
        world.make_env,
        episodes=args.episodes,
        blind=True,
        num_envs=50,
        seed=args.seed,
        metric=world.metric,
        title=f"{team.name}: {world.metric}, attacks of {ball.epsilon:g}, "
        f"{args.adversary} after {args.env_steps:,} steps",
        **world.playing,
    )
    sys.stdout.write(f"{found}\n")
    if args.out is not None:
        about = {"victim": team.name, "command": args.typed}
        training.save_weights(adversary, args.out, about=about)
        sys.stdout.write(f"The adversary is in {args.out}.\n")
    else:
        sys.stdout.write("The adversary is not kept: --out ADVERSARY.pt keeps it.\n")
    if args.report is not None:
        film = films(team, found, args.adversary, perturb, seed=args.seed)
        path = evaluation.report(found, args.report, recordings=film, command=args.typed)
        sys.stdout.write(f"The report is in {path}.\n")
    sys.stdout.write(f"Next: {_next(args, team)}\n")
    return 0


def _next(args: argparse.Namespace, team: Team) -> str:
    """Return what to type next: look at it, play it again, or train against its kind."""
    again = ["evaluate", args.team]
    for name in ("world", "env", "metric", "low", "high", "epsilon"):
        if (value := getattr(args, name)) is not None:
            again += [f"--{name}", str(value)]
    saved = [str(args.out)] if args.out is not None else []
    again += ["--attack", "noise", "pgd", *saved, "--report", f"{team.file or team.name}"]
    again[-1] = f"{again[-1].replace('/', '-').removesuffix('.pt')}.html"
    return f"{args.program} {shlex.join(again)}"
