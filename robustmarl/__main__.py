"""Train teams, attack them, measure them, and run whole studies.

python -m robustmarl zoo
python -m robustmarl evaluate zoo:3s_vs_3z/qmix-plain/0 --attack pgd --report out.html
python -m robustmarl attack zoo:3s_vs_3z/qmix-plain/0 --adversary paad
python -m robustmarl train QMIX 3m --under fgsm --out team.pt
python -m robustmarl grid study.yaml --jobs 2
python -m robustmarl report runs/study
"""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustmarl.adversaries import Adversary
    from robustmarl.attacks import ObsAttack
    from robustmarl.budgets import LinfBall
    from robustmarl.learning import TeamAlgorithm
    from robustmarl.training import Attacks
    from robustmarl.zoo import World

__all__ = ["main"]

ATTACKS = ("noise", "fgsm", "pgd", "apgd", "square")
ADVERSARIES = ("paad", "atsa", "atla")
SUITES = ("quick", "standard")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        with _doubts_said():
            return command(args)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command goes on.\n")
        return 130


@contextmanager
def _doubts_said() -> Iterator[None]:
    """Say in a line each what is to be doubted of figures."""
    from robustmarl.typing import RobustnessWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        try:
            yield
        finally:
            for one in caught:
                if issubclass(one.category, RobustnessWarning):
                    sys.stderr.write(f"! {one.message}\n")
                else:
                    told = one.message, one.category, one.filename, one.lineno
                    sys.stderr.write(warnings.formatwarning(*told))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m robustmarl", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _train_parser(commands.add_parser("train", help="train a team, under attack or not"))
    _evaluate_parser(commands.add_parser("evaluate", help="play a trained team under attacks"))
    _attack_parser(commands.add_parser("attack", help="let an adversary learn against a team"))
    _zoo_parser(commands.add_parser("zoo", help="trained teams to try things on"))
    grid = commands.add_parser("grid", help="run the missing cells of a study, then report")
    grid.add_argument("study", type=Path, help="YAML that declares it: see Grid.from_yaml")
    grid.add_argument("--out", type=Path, help="folder (default: runs/NAME of NAME.yaml)")
    grid.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    grid.add_argument("--executor", choices=("processes", "ray", "serial"), default="processes")
    grid.set_defaults(run=_grid)
    report = commands.add_parser("report", help="tables of a study's folder, finished or not")
    report.add_argument("folder", type=Path)
    report.set_defaults(run=lambda args: _report(args.folder, args.metric))
    for command in (grid, report):
        command.add_argument("--metric", help="return, or one of the environments' own")
    for command in commands.choices.values():
        command.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _train_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("algorithm", help="a name of robustmarl.algorithms: QMIX, MAPPO, ...")
    _add_world(parser)
    parser.add_argument("--env-steps", type=int, default=100_000, help="default: 100,000")
    parser.add_argument("--num-envs", type=int, default=16, help="side by side (default: 16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--under",
        choices=(*ATTACKS, *ADVERSARIES),
        help="attack half of the episodes so, by something fixed or by what learns beside it",
    )
    parser.add_argument("--epsilon", type=float, help="size of the attack (default: the world's)")
    parser.add_argument("--out", type=Path, required=True, help="file of the team, TEAM.pt")
    parser.set_defaults(run=_train)


def _evaluate_parser(parser: argparse.ArgumentParser) -> None:
    _add_team(parser)
    parser.add_argument(
        "--attack", nargs="+", choices=ATTACKS, default=["pgd"], help="default: pgd"
    )
    parser.add_argument("--suite", choices=SUITES, help="instead the worst of a whole suite")
    parser.add_argument("--report", type=Path, help="write an HTML file to look at, OUT.html")
    parser.set_defaults(run=_evaluate)


def _attack_parser(parser: argparse.ArgumentParser) -> None:
    _add_team(parser)
    parser.add_argument("--adversary", choices=ADVERSARIES, default="paad", help="default: paad")
    parser.add_argument("--env-steps", type=int, default=25_000, help="default: 25,000")
    parser.add_argument("--out", type=Path, help="file of the adversary, ADVERSARY.pt")
    parser.set_defaults(run=_attack)


def _zoo_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="names", choices=_ZOO, help="default: names")
    parser.add_argument("name", nargs="?", help="a team's, or the leaderboard's world")
    parser.add_argument("--folder", type=Path, help="of teams trained here (default: runs/zoo)")
    parser.add_argument("--suite", choices=SUITES, default="standard", help="of measure")
    parser.set_defaults(run=_zoo)


def _add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", help="a world of the zoo, or a skirmish map: 3m, foraging, ...")


def _add_team(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("team", help="zoo:NAME, or a file that save_weights or a run wrote")
    parser.add_argument("--world", help="what it plays, where the file does not say")
    parser.add_argument("--epsilon", type=float, help="size of attacks (default: the world's)")
    parser.add_argument("--episodes", type=int, default=100, help="default: 100")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")


def _train(args: argparse.Namespace) -> int:
    from robustmarl import algorithms, training
    from robustmarl._checks import check_known
    from robustmarl.joint import spec_of
    from robustmarl.perturbers import ObsPerturber
    from robustmarl.zoo import world

    kinds = [name for name in algorithms.__all__ if name != "OwnActionValues"]  # a mixin
    check_known("train.algorithm", args.algorithm, kinds)
    place = world(args.world)
    spec = spec_of(place.make_env()).of_team(place.team)
    team = getattr(algorithms, args.algorithm).for_env(spec, seed=args.seed)
    learner, perturb = team, None
    if args.under in ADVERSARIES:
        ball = _ball(place, args.epsilon)
        learner = training.AdversarialTraining(team, _adversary(args.under, team, ball, args.seed))
    elif args.under is not None:
        fixed = _attacks([args.under], _ball(place, args.epsilon))[args.under]
        perturb = ObsPerturber(fixed, episodes=0.5)
    training.run(
        learner,
        place.make_env,
        env_steps=args.env_steps,
        num_envs=args.num_envs,
        seed=args.seed,
        perturb=perturb,
        log=training.Log(args.out.with_suffix(""), resume=True, progress=not args.quiet),
        **place.playing,
    )
    about = {"world": args.world, "command": _typed("train", args)}
    training.save_weights(team, args.out, make_env=place.make_env, about=about)
    sys.stdout.write(f"The team is in {args.out}.\n")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from robustmarl import evaluation

    name, team, place = _team(args)
    ball = _ball(place, args.epsilon)
    shared = {"episodes": args.episodes, "seed": args.seed, "metric": place.metric, **place.playing}
    found: evaluation.CrossTable | evaluation.WorstCase
    attacks: Mapping[str, Attacks] = _attacks(args.attack, ball)
    if args.suite is not None:
        found = evaluation.worst_case(
            {name: team},
            place.make_env,
            ball,
            suite=args.suite,
            progress=not args.quiet,
            **shared,
        )
    else:
        title = f"{name}: {place.metric}, attacks of {ball.epsilon:g}"
        found = evaluation.crossplay(
            {name: team},
            {"none": None, **attacks},
            place.make_env,
            blind=True,
            num_envs=50,
            title=title,
            **shared,
        )
    sys.stdout.write(f"{found}\n")
    if args.report is not None:
        filmed = {"no attack": None, **dict(list(attacks.items())[-1:])}
        films = [
            evaluation.record(
                team,
                place.make_env,
                perturb=attack,
                seed=args.seed,
                title=f"{name}, {under}",
                **place.playing,
            )
            for under, attack in filmed.items()
        ]
        path = evaluation.report(
            found, args.report, recordings=films, command=_typed("evaluate", args)
        )
        sys.stdout.write(f"The report is in {path}.\n")
    return 0


def _attack(args: argparse.Namespace) -> int:
    from robustmarl import evaluation, training

    name, team, place = _team(args)
    adversary = _adversary(args.adversary, team, _ball(place, args.epsilon), args.seed)
    training.run(
        training.AdversarialTraining(team, adversary, team_every=None),
        place.make_env,
        env_steps=args.env_steps,
        num_envs=16,
        seed=args.seed,
        log=training.Log(progress=not args.quiet),
        **place.playing,
    )
    found = evaluation.crossplay(
        {name: team},
        {"none": None, args.adversary: adversary.deployed()},
        place.make_env,
        episodes=args.episodes,
        num_envs=50,
        seed=args.seed,
        metric=place.metric,
        title=f"{name}: {place.metric}, {args.adversary} after {args.env_steps:,} steps",
        **place.playing,
    )
    sys.stdout.write(f"{found}\n")
    if args.out is not None:
        about = {"victim": name, "command": _typed("attack", args)}
        training.save_weights(adversary, args.out, about=about)
        sys.stdout.write(f"The adversary is in {args.out}.\n")
    return 0


def _zoo(args: argparse.Namespace) -> int:
    from robustmarl import zoo

    folder = {} if args.folder is None else {"folder": args.folder}
    if args.what == "names":
        here = set(zoo.names(shipped=True))
        for name, entry in zoo.ENTRIES.items():
            sys.stdout.write(f"{'*' if name in here else ' '} {name:<28}{entry.about}\n")
        sys.stdout.write("\n* comes with the package; the others: zoo train NAME\n")
        return 0
    if args.name is None:
        raise ValueError(f"zoo {args.what} must be told a name. zoo names lists them.")
    if args.what == "card":
        sys.stdout.write(f"{zoo.card(args.name, **folder)}")
    elif args.what == "leaderboard":
        sys.stdout.write(zoo.leaderboard(zoo.cards(folder=args.folder), args.name))
    elif args.what == "train":
        zoo.train(args.name, progress=not args.quiet, **folder)
    else:
        found = zoo.write_card(args.name, suite=args.suite, progress=not args.quiet, **folder)
        sys.stdout.write(f"{found}")
    return 0


_ZOO = ("names", "card", "train", "measure", "leaderboard")


def _team(args: argparse.Namespace) -> tuple[str, "TeamAlgorithm", "World"]:
    """Return a team that the command line names, its name, and what it plays."""
    from robustmarl import training, zoo

    if args.team.startswith("zoo:"):
        name = args.team.removeprefix("zoo:")
        return name, zoo.load(name).learner, zoo.world(args.world or zoo.ENTRIES[name].world)
    saved = training.load(args.team)
    told = args.world or saved.about.get("world")
    if told is not None:
        return Path(args.team).stem, saved.learner, zoo.world(told)
    if saved.make_env is None:
        raise ValueError(f"{args.team} does not say what its team plays. Pass --world.")
    bare = zoo.World(make_env=saved.make_env, metric="return")
    return Path(args.team).stem, saved.learner, bare


def _ball(place: "World", epsilon: float | None) -> "LinfBall":
    from robustmarl.budgets import LinfBall

    if epsilon is None and place.ball is None:
        raise ValueError("--epsilon must be given, the size of attacks on observations.")
    if epsilon is None or place.ball is None:
        return place.ball or LinfBall(epsilon=epsilon)  # type: ignore[arg-type]
    return replace(place.ball, epsilon=epsilon)


def _attacks(names: Sequence[str], ball: "LinfBall") -> "dict[str, ObsAttack]":
    from robustmarl import attacks

    made: dict[str, Callable[[], ObsAttack]] = {
        "noise": lambda: attacks.UniformNoise(ball=ball),
        "fgsm": lambda: attacks.PGD.fgsm(ball),
        "pgd": lambda: attacks.PGD(ball=ball),
        "apgd": lambda: attacks.APGD(ball=ball, loss="dlr"),
        "square": lambda: attacks.SquareSearch(ball=ball, loss="margin"),
    }
    return {name: made[name]() for name in names}


def _adversary(kind: str, team: "TeamAlgorithm", ball: "LinfBall", seed: int) -> "Adversary":
    """Return an adversary whose generator, where it has one, takes ten steps."""
    from robustmarl import adversaries
    from robustmarl.perturbers import stor

    if kind == "atla":
        return adversaries.ObsAdversaryPPO.for_env(team.spec, ball, seed=seed)
    make = adversaries.PAAD.for_env if kind == "paad" else adversaries.ATSA.for_env
    return make(team.spec, stor(ball, steps=10), seed=seed)


def _typed(command: str, args: argparse.Namespace) -> str:
    """Return what was typed, defaults included."""
    words = ["python", "-m", "robustmarl", command]
    named = dict(vars(args))
    for name in ("run", "quiet"):
        named.pop(name, None)
    words += [str(named.pop(name)) for name in ("algorithm", "team") if name in named]
    if command == "train":
        words.append(str(named.pop("world")))
    for name, value in named.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def _grid(args: argparse.Namespace) -> int:
    from robustmarl.evaluation import CellsError, Grid

    study = Grid.from_yaml(args.study)
    folder = args.out or Path("runs") / args.study.stem
    code = 0
    try:
        study.run(folder, jobs=args.jobs, executor=args.executor, progress=not args.quiet)
    except CellsError as error:
        sys.stderr.write(f"{error}\n")
        code = 1
    if code == 0 or any((folder / "scores").rglob("*.json")):
        _report(folder, args.metric)
    return code


def _report(folder: Path, metric: str | None) -> int:
    from robustmarl.evaluation import read_tables, read_warnings, report, report_tables

    tables = read_tables(folder, metric)
    report_tables(tables, folder / "report", read_warnings(folder))
    page = report(list(tables.values()), folder / "report" / "report.html", title=folder.name)
    text = "\n\n".join(map(str, tables.values()))
    sys.stdout.write(
        f"{text}\n\nTables, heat maps and raw scores are in {folder / 'report'}/,\n"
        f"to look at: {page}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
