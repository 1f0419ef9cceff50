"""``evaluate``: how a trained team does under attacks."""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial

from robustmarl import evaluation
from robustmarl._checks import check, check_choice
from robustmarl.cli.attacks import CLEAN, fixed, is_learned, named
from robustmarl.cli.films import films, worst_of
from robustmarl.cli.parser import EVERY_AGENT
from robustmarl.cli.paths import output
from robustmarl.cli.teams import Team, ball_of, trained
from robustmarl.evaluation import CrossTable, Recording, Sweep, WorstCase
from robustmarl.learning.settings import OpenSettings
from robustmarl.perturbers import Perturber
from robustmarl.typing import RobustnessWarning
from robustmarl.zoo.cards import turned

__all__ = ["evaluate"]

SIDE_BY_SIDE = 50


def evaluate(args: argparse.Namespace) -> int:
    """Play a team, print how it did, and write a report if asked to."""
    if args.report is not None:
        output("--report", args.report, ".html")
    several = args.epsilon is not None and len(args.epsilon) > 1
    if args.suite is not None:
        alone = args.attack is None and args.traitor is None and not several
        check(alone, "--suite", "given without --attack, --traitor and several sizes", args.suite)
    team = trained(args)
    how: OpenSettings = {
        "episodes": args.episodes,
        "seed": args.seed,
        "metric": team.world.metric,
        "num_envs": SIDE_BY_SIDE,
        "progress": False if args.quiet else team.name,
        **team.world.playing,
    }
    if args.suite is not None:
        _suite(args, team, how)
    elif several:
        _sizes(args, team, how)
    else:
        _attacks(args, team, how)
    return 0


def _suite(args: argparse.Namespace, team: Team, how: OpenSettings) -> None:
    """Find the worst of a suite."""
    ball = ball_of(team.world, args.epsilon and args.epsilon[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # what is found says the same
        found = evaluation.worst_case(
            {team.name: team.learner},
            team.world.make_env,
            ball,
            suite=args.suite,
            choice_episodes=-(-args.episodes // 2),
            title=f"{team.name}: {team.world.metric}, attacks of {ball.epsilon:g}",
            **how,
        )
    sys.stdout.write(f"{found}\n")
    if args.report is not None:
        ((seed, attack),) = found.attacks[team.name].items()
        under = found.chosen[team.name][seed]
        film = films(team, found.table, "worst", attack, seed=args.seed, under=under)
        _write(args, found, film)


def _attacks(args: argparse.Namespace, team: Team, how: OpenSettings) -> None:
    """Play under attacks by name, saved adversaries and traitors."""
    ball = partial(ball_of, team.world, args.epsilon and args.epsilon[0])
    words = args.attack or ([] if args.traitor else ["pgd"])
    sized = [word.lower() for word in words if not is_learned(word)]
    remedy = "Adversaries that learned attack as they learned to."
    alone = args.epsilon is None or len(sized) > 0
    check(alone, "--epsilon", "given with attacks by name", args.epsilon, remedy)
    which = "attacks" if len(sized) == len(words) else ", ".join(sized)
    size = f", {which} of {ball().epsilon:g}" if sized else ""
    attacks = named(words, ball, team.learner, args.program) | _traitors(args, team)
    found = evaluation.crossplay(
        {team.name: team.learner},
        {CLEAN: None, **attacks},
        team.world.make_env,
        blind=bool(words),
        title=f"{team.name}: {team.world.metric}{size}",
        **how,
    )
    sys.stdout.write(f"{found}\n")
    if args.report is not None:
        worst = worst_of(found, team.name, attacks)
        _write(args, found, films(team, found, worst, attacks[worst], seed=args.seed))


def _traitors(args: argparse.Namespace, team: Team) -> dict[str, Perturber]:
    """Return agents that learned to act against the others, by name; none unless asked for."""
    if args.traitor is None:
        return {}
    traitor = team.world.traitor
    remedy = "There is one in the worlds toy and 4m_vs_3m; use --attack here."
    check(traitor is not None, "--traitor", "given in a world with a traitor", args.team, remedy)
    assert traitor is not None
    agents = [*team.learner.spec.agents]
    if args.traitor != EVERY_AGENT:
        check_choice("--traitor", args.traitor, agents)
        agents = [args.traitor]
    return {
        f"traitor {agent}": turned(
            team.learner,
            traitor,
            agent,
            seed=args.seed,
            progress=False if args.quiet else f"traitor {agent}",
        )
        for agent in agents
    }


def _sizes(args: argparse.Namespace, team: Team, how: OpenSettings) -> None:
    """Play under attacks of several sizes."""
    check(args.traitor is None, "--traitor", "given without several sizes", args.epsilon)
    words = args.attack or ["pgd"]
    saved = [word for word in words if is_learned(word)]
    check(not saved, "--attack", "attacks by name, for several sizes", saved)
    sizes = sorted({0.0, *args.epsilon})
    attacks = {word.lower(): partial(_of_size, word, team) for word in words}
    for attack in attacks.values():
        attack(sizes[-1])  # what is refused is refused before any work
    found = {
        name: evaluation.sweep(
            {team.name: team.learner},
            attack,
            sizes,
            team.world.make_env,
            blind=True,
            title=f"{team.name}: {team.world.metric}, {name} by size",
            **how,
        )
        for name, attack in attacks.items()
    }
    sys.stdout.write("\n\n".join(str(one.scores) for one in found.values()) + "\n")
    if args.report is not None:
        column = f"{sizes[-1]:g}"
        worst = min(found, key=lambda name: found[name].scores.mean(team.name, column))
        table = _beside_none(found[worst], team.name, column)
        under = f"{worst} of {column}"
        film = films(team, table, column, attacks[worst](sizes[-1]), seed=args.seed, under=under)
        _write(args, [], film, list(found.values()))


def _of_size(word: str, team: Team, size: float) -> Perturber:
    """Return an attack by name, of a size."""
    return fixed(word, ball_of(team.world, size), team.learner)


def _beside_none(found: Sweep, team: str, column: str) -> CrossTable:
    """Return a team's cells without attack and at one size."""
    row = found.scores.cells[team]
    return CrossTable(
        cells={team: {"none": row["0"], column: row[column]}}, metric=found.scores.metric
    )


def _write(
    args: argparse.Namespace,
    found: CrossTable | WorstCase | list[CrossTable],
    recordings: list[Recording],
    sweeps: list[Sweep] | None = None,
) -> None:
    path = evaluation.report(
        found, args.report, recordings=recordings, sweeps=sweeps or (), command=args.typed
    )
    sys.stdout.write(f"The report is in {path}.\n")
