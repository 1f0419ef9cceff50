"""What can be typed."""

import argparse
from pathlib import Path

__all__ = ["ADVERSARIES", "ATTACKS", "EVERY_AGENT", "SUITES", "parser_of"]

ATTACKS = ("noise", "fgsm", "pgd", "apgd", "square", "critic")
"""Attacks that have a name here, weak ones first; the last is of continuous actions alone."""

ADVERSARIES = ("paad", "atsa", "atla")
"""Attacks that learn."""

SUITES = ("quick", "standard")

EVERY_AGENT = "every agent"
"""What ``--traitor`` means where no agent is named."""

EXAMPLES = """examples:
  {0} evaluate zoo:3s_vs_3z/qmix-plain/0 --attack noise pgd --report out.html
  {0} attack zoo:3s_vs_3z/qmix-fgsm/0 --adversary paad --out paad.pt
  {0} train QMIX 3s_vs_3z --under fgsm --out mine.pt
  {0} train MAPPO --env my_envs:make --out mine.pt
  {0} evaluate mine.pt --suite quick
  {0} zoo leaderboard 3s_vs_3z
  {0} grid study.yaml --jobs 2
"""


def parser_of(program: str) -> argparse.ArgumentParser:
    """Return the parser; ``program`` is what is typed before the command."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train teams, attack them, measure them, and run whole studies.",
        epilog=EXAMPLES.format(program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _train(commands.add_parser("train", help="train a team, under attack or not"))
    _evaluate(commands.add_parser("evaluate", help="play a trained team under attacks"))
    _attack(commands.add_parser("attack", help="let an adversary learn against a team"))
    _zoo(commands.add_parser("zoo", help="trained teams to try things on"))
    _grid(commands.add_parser("grid", help="run the missing cells of a study, then report"))
    _report(commands.add_parser("report", help="tables of a study's folder, finished or not"))
    for command in commands.choices.values():
        command.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("algorithm", help="a name of robustmarl.algorithms: QMIX, MAPPO, ...")
    parser.add_argument(
        "world",
        nargs="?",
        help="a world of the zoo, a skirmish map, or a task: foraging, 3m, predator_prey, ...",
    )
    parser.add_argument(
        "--under",
        type=str.lower,
        choices=(*ATTACKS, *ADVERSARIES),
        help="attack half of the episodes so, by something fixed or by what learns beside it",
    )
    parser.add_argument("--out", type=Path, required=True, help="file of the team, TEAM.pt")
    parser.add_argument("--env-steps", type=int, help="default: the zoo's recipe, or 100,000")
    parser.add_argument("--num-envs", type=int, help="side by side (default: the recipe's, or 16)")
    parser.add_argument("--seed", type=int, default=0)
    _add_place(parser)
    parser.add_argument("--epsilon", type=float, help="size of the attack (default: the world's)")
    parser.add_argument(
        "--no-recipe",
        action="store_true",
        help="take the algorithm's defaults where the zoo has a recipe",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew, whatever was trained for this file"
    )
    parser.set_defaults(run="train:train", plays=True, goes_on=lambda args: True)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_team(parser)
    parser.add_argument(
        "--attack",
        nargs="+",
        metavar="ATTACK",
        help=f"{', '.join(ATTACKS)}, a file that attack wrote, or zoo:NAME, the adversary that "
        "a team of the zoo was trained beside (default: pgd)",
    )
    parser.add_argument("--suite", choices=SUITES, help="instead the worst of a whole suite")
    parser.add_argument(
        "--traitor",
        nargs="?",
        const=EVERY_AGENT,
        metavar="AGENT",
        help="let an agent learn to act against the others; without a name each in turn",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        nargs="+",
        help="size of attacks (default: the world's); of several a curve is made",
    )
    parser.add_argument("--report", type=Path, help="write an HTML file to look at, OUT.html")
    parser.set_defaults(run="evaluate:evaluate", plays=True, goes_on=lambda args: False)


def _attack(parser: argparse.ArgumentParser) -> None:
    _add_team(parser)
    parser.add_argument(
        "--adversary", type=str.lower, choices=ADVERSARIES, default="paad", help="default: paad"
    )
    parser.add_argument("--env-steps", type=int, default=25_000, help="default: 25,000")
    parser.add_argument("--epsilon", type=float, help="size of attacks (default: the world's)")
    parser.add_argument("--out", type=Path, help="file of the adversary, ADVERSARY.pt")
    parser.add_argument("--report", type=Path, help="write an HTML file to look at, OUT.html")
    parser.set_defaults(run="attack:attack", plays=True, goes_on=lambda args: False)


def _zoo(parser: argparse.ArgumentParser) -> None:
    kinds = ("names", "card", "train", "measure", "leaderboard")
    parser.add_argument("what", nargs="?", default="names", choices=kinds, help="default: names")
    parser.add_argument("name", nargs="?", help="a team's, or the leaderboard's world")
    parser.add_argument(
        "--all", action="store_true", help="name those, too, that do not come along"
    )
    parser.add_argument("--markdown", action="store_true", help="of leaderboard, with intervals")
    parser.add_argument("--folder", type=Path, help="of teams trained here (default: runs/zoo)")
    parser.add_argument("--suite", choices=SUITES, default="standard", help="of measure")
    parser.set_defaults(run="zoo:zoo", plays=False, goes_on=lambda args: args.what == "train")


def _grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="YAML that declares it: see Grid.from_yaml")
    parser.add_argument("--out", type=Path, help="folder (default: runs/NAME of NAME.yaml)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--executor", choices=("processes", "ray", "serial"), default="processes")
    parser.add_argument("--metric", help="return, or one of the environments' own")
    parser.set_defaults(run="studies:grid", plays=False, goes_on=lambda args: True)


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", help="return, or one of the environments' own")
    parser.set_defaults(run="studies:report", plays=False, goes_on=lambda args: False)


def _add_team(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("team", help="zoo:NAME, or a file that train or save_weights wrote")
    parser.add_argument("--world", help="what it plays, where the file does not say")
    parser.add_argument("--episodes", type=int, default=100, help="default: 100")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    _add_place(parser)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env",
        metavar="MODULE:FUNCTION",
        help="an environment of your own: what returns a PettingZoo ParallelEnv, without arguments",
    )
    parser.add_argument("--metric", help="return, or one of the environment's (default: its first)")
    parser.add_argument(
        "--low",
        type=float,
        help="the lowest value that observations may have (default: by the environment's spaces)",
    )
    parser.add_argument("--high", type=float, help="the highest")
