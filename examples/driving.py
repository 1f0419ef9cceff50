"""ATSA's table on merging cars: twelve ways to train a team, under the adversaries of six.

    python examples/driving.py --jobs 2                    # VDN and QMIX, three seeds
    python examples/driving.py --backbones QMIX --seeds 0 --methods NoAdv FGSM ATSA
    python examples/driving.py --recurrent                 # with memory, as the paper has it
    python examples/driving.py --steps 400000 --falls 1 --scale 1 --atla 1    # as atsa.py has it
    python examples/driving.py --report                    # tables of finished cells
    python examples/driving.py --replay                    # a film; trains one team if it must
    python examples/driving.py --smoke                     # seconds, figures mean nothing

What trains and attacks is what ``atsa.py`` has on skirmish maps, but that learning rates fall,
that ATLA's adversary attacks half of the episodes, as the others do, and that PR, PR-REP and ERNIE
have weights for larger Q-values; the radius is the task's, .05. Scores are the return and whether
any agent crashed. Every training is a cell, and every test is one, which comes after the trainings
that it needs: its own, and those whose adversaries it meets. What is finished is not run again, and
interrupted trainings continue where they were. Tables are made of the cells alone, beside the
paper's figures.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import atsa
import numpy as np
from atsa import BLIND, COLUMNS, PAPER, TEACHERS, Group, Made, Task

from robustmarl import attacks, envs, evaluation
from robustmarl.envs.skirmish import save_replay
from robustmarl.evaluation import Cell, CrossTable, Job, Workplace
from robustmarl.evaluation.drawings import draw
from robustmarl.perturbers import DirectedObsPerturber, ZeroedObs, stor
from robustmarl.typing import RobustnessWarning

PRINTED = Path(__file__).parents[1] / "docs" / "data" / "atsa_cav_paper.json"
BACKBONES = ("VDN", "QMIX")
HARD = ("FGSM", "PAAD", "ATSA")  # columns
RETURNS = (-math.inf, math.inf)  # of which 0 and 1 are no shares
REWARD_SCALE = 20.0  # a crash costs 200: what the rewards of ATSA's critics are divided by
FILMED = 30  # episodes of which the one that is filmed is chosen

TASK = Task(
    epsilon=0.05,
    steps=800_000,
    falls=0.5,
    attacked=0.5,
    attacked_by_atla=0.5,
    explore=50_000,
    gamma=0.97,
    alpha_steps=300_000,
    director_steps=100_000,
)
COOLING = TASK.alpha_steps / TASK.steps  # share over which ATSA's temperature falls
TASKS = {"VDN": replace(TASK, lr=3e-3, scale=5.0), "QMIX": replace(TASK, scale=100.0)}
"""By backbone: VDN learns slowly at QMIX's step size; the best scales of those tried on seed 10."""


def jobs_of(
    tasks: Mapping[str, Task], backbones: list[str], methods: list[str], seeds: list[int]
) -> list[Job[tuple[str, str, str, int]]]:
    """Return trainings and tests, those first that others need."""
    trained = list(dict.fromkeys([*TEACHERS, BLIND, *methods]))
    found = []
    for seed in seeds:
        for backbone in backbones:
            task = tasks[backbone]
            for work, names, function in (
                ("train", trained, train),
                ("test", [BLIND, *methods], test),
            ):
                for method in names:
                    needed = dict.fromkeys([method, *TEACHERS]) if work == "test" else {}
                    found.append(
                        Job(
                            key=(work, backbone, method, seed),
                            name=f"{backbone}/{work}/{_plain(method)}-{seed}",
                            work=partial(
                                function, method=method, backbone=backbone, seed=seed, task=task
                            ),
                            settings={"task": task.plan},
                            after=[("train", backbone, name, seed) for name in needed],
                        )
                    )
    return found


def _plain(method: str) -> str:
    return method.replace(", ", "_").replace(" ", "_")


def _group(study: Path, backbone: str, seed: int, task: Task) -> Group:
    """Return a group whose trainings are in the folder of all cells."""
    return Group("merge", backbone, seed, task, study / f"teams/{backbone}-{task.label}")


def build(method: str, group: Group) -> Made:
    """Return what a method trains, as ``atsa.build`` does, with rewards of the critics' size."""
    made = atsa.build(method, group)
    if method == "ATSA":
        made.adversary.reward_scale = REWARD_SCALE
    return made


def train(
    place: Workplace, *, method: str, backbone: str, seed: int, task: Task
) -> dict[str, float | None]:
    """Train a protagonist beside what it meets, and keep it."""
    group = _group(place.study, backbone, seed, task)
    atsa.train(method, group, place.position, build)
    cost: dict[str, float | None] = json.loads(
        (group.path(method, "") / "cost.json").read_text("utf-8")
    )
    return cost


def test(
    place: Workplace, *, method: str, backbone: str, seed: int, task: Task
) -> dict[str, object]:
    """Return the raw scores of a protagonist: return and crash of each episode, by column."""
    begun, group = time.process_time(), _group(place.study, backbone, seed, task)
    team = atsa.trained(method, group).team
    teachers = {name: atsa.trained(name, group) for name in TEACHERS}

    def play(perturb: Any) -> dict[str, list[float]]:
        found = evaluation.rollout(
            team, envs.merge, perturb=perturb, episodes=task.episodes, num_envs=64, seed=10_000
        )
        crashed = found.figure("crashed").astype(int).tolist()
        return {"return": found.returns.round(3).tolist(), "crashed": crashed}

    if method == BLIND:
        return {"columns": dict.fromkeys(COLUMNS, play(ZeroedObs()))}
    columns = {name: play(attack) for name, attack in atsa.columns(task, teachers).items()}
    greedy = teachers["ATSA"].adversary.deployed(greedy=True).director
    columns["ATSA, greedy"] = play(DirectedObsPerturber(greedy, stor(task.ball)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)  # the cell keeps them
        worst = evaluation.worst_case(
            {method: team},
            envs.merge,
            task.ball,
            suite=atsa.suite(group, teachers),
            metric="return",
            episodes=max(1, task.episodes // 2),
            choice_episodes=max(1, task.episodes // 5),
            num_envs=64,
        )
    return {
        "columns": columns,
        "worst": {
            row: {
                name: {"return": next(iter(cell.scores.values())).round(3).tolist()}
                for name, cell in by.items()
            }
            for row, by in worst.table.cells.items()
        },
        "chosen": worst.chosen[method][0],
        "findings": [str(warning.message) for warning in caught],
        "test_cpu_seconds": round(time.process_time() - begun, 1),
    }


def said(figures: Mapping[str, Mapping[str, list[float]]]) -> dict[str, tuple[str, Any]]:
    """Return what the paper's claims are about: the figures in question, and what they say.

    What they say is one answer, or a set of those of whom it is so: other figures are alike if
    theirs is the same answer, or a set that holds all of these.

    Args:
        figures: protagonist to its returns and crash rates, by column.
    """
    rows = {m: dict(zip(COLUMNS, of["return"], strict=True)) for m, of in figures.items()}
    found: dict[str, tuple[str, Any]] = {}
    average = {m: float(np.mean(of["return"])) for m, of in figures.items()}
    ranked = sorted(average, key=average.__getitem__, reverse=True)
    best = ", ".join(f"{m} {average[m]:.1f}" for m in ranked[:3])
    found["the best average"] = best, ranked[0]
    clean = {m: row["NoAdv"] for m, row in rows.items()}
    least = {m: min(row[column] for column in HARD) for m, row in rows.items()}
    falling = [m for m in rows if least[m] < clean[m] - abs(clean[m]) / 2]
    lost = ", ".join(f"{m} {clean[m]:.1f} to {least[m]:.1f}" for m in falling)
    found["who loses most of the return under FGSM, PAAD or ATSA"] = lost or "nobody", set(falling)
    holding = [m for m in rows if m not in falling]
    held = ", ".join(f"{m} {clean[m]:.1f} to {least[m]:.1f}" for m in holding)
    found["who keeps more than half under all three"] = held or "nobody", set(holding)
    left = {c: float(np.mean([row[c] for row in rows.values()])) for c in COLUMNS}
    order = sorted(left, key=left.__getitem__)
    strength = ", ".join(f"{c} {left[c]:.1f}" for c in order)
    found["the strongest attack, by what is left on average"] = strength, order[0]
    own = {m: rows[m][m] for m in HARD if m in rows}
    kept = ", ".join(f"{m} {of:.1f} of {clean[m]:.1f}" for m, of in own.items())
    if own:
        found["who keeps most under the attack it trained beside"] = (
            kept,
            {m for m, of in own.items() if of > clean[m] / 2},
        )
    if {"PAAD", "ATSA"} <= rows.keys():
        both = f"{clean['PAAD']:.1f}, {clean['ATSA']:.1f}"
        better = max("PAAD", "ATSA", key=clean.__getitem__)
        found["the better without attack: trained beside PAAD or ATSA"] = both, better
    if "NoAdv" in rows:
        soft = {c: rows["NoAdv"][c] for c in ("RN", "ATLA")}
        told = ", ".join(f"{c} {of:.1f}" for c, of in soft.items())
        found["what hardly harms the undefended team"] = (
            f"{told} of {clean['NoAdv']:.1f}",
            {c for c, of in soft.items() if of > clean["NoAdv"] - abs(clean["NoAdv"]) / 10},
        )
    crashes = {(of["crashed"][i], m, c) for m, of in figures.items() for i, c in enumerate(COLUMNS)}
    rate, who, column = max(one for one in crashes if one[1] != "NoAdv" or len(figures) == 1)
    often = f"{rate:.2f}, {who} under {column}"
    found["the most that a defended team crashes, a fifth or less"] = often, rate <= 0.2
    return found


class Results:
    """Finished tests of one backbone: tables and text are made of them alone.

    Args:
        backbone: VDN or QMIX.
        tests: method to training seed to what :func:`test` returned.
    """

    def __init__(self, backbone: str, tests: Mapping[str, Mapping[int, Any]]) -> None:
        self.backbone, self.tests = backbone, tests
        self.known = [method for method in PAPER if method in tests]
        self.paper = json.loads(PRINTED.read_text("utf-8"))[backbone]

    def cell(self, method: str, column: str, figure: str) -> Cell:
        """Return a cell over training seeds."""
        by_seed = self.tests[method]
        scores = {s: found["columns"][column][figure] for s, found in by_seed.items()}
        return Cell(scores, limits=RETURNS if figure == "return" else None)

    def table(self, figure: str) -> CrossTable:
        """Return protagonists x the paper's columns."""
        rows: dict[str, dict[str, Cell]] = {}
        if figure == "return" and self.known:
            found = self.tests[self.known[0]]
            for name in ("random", "untrained"):
                by_seed = {s: one["worst"][name]["none"]["return"] for s, one in found.items()}
                rows[name] = {"NoAdv": Cell(by_seed, limits=RETURNS)}
        baselines = [*rows, *([BLIND] if BLIND in self.tests else [])]
        for method in (BLIND, *self.known):
            if method in self.tests:
                rows[method] = {name: self.cell(method, name, figure) for name in COLUMNS}
        title = f"merge {self.backbone}: {figure}"
        table = CrossTable(cells=rows, metric=figure, baselines=baselines, title=title)
        starred = figure == "return" and "ATSA" in self.known
        return table.with_average(COLUMNS, reference="ATSA" if starred else None)

    def ours(self) -> CrossTable | None:
        """Return protagonists x what the paper has not: the worst case, and teams without eyes."""
        rows: dict[str, dict[str, Cell]] = {}
        for method in self.known:
            by_seed = self.tests[method]

            def worst(row: str, name: str, by_seed: Mapping[int, Any] = by_seed) -> Cell:
                scores = {s: found["worst"][row][name]["return"] for s, found in by_seed.items()}
                return Cell(scores, limits=RETURNS)

            kept = ("PGD-10", "PAAD, 10 steps", "ATSA, 10 steps", "br-10", "worst")
            rows[method] = {
                "ATSA, greedy": self.cell(method, "ATSA, greedy", "return"),
                **{name: worst(method, name) for name in kept},
                **{fold: worst(f"{method}, {fold}", "none") for fold in ("zeroed", "another's")},
            }
        title = f"merge {self.backbone}: what the paper does not have, return"
        return CrossTable(cells=rows, metric="return", title=title) if rows else None

    def crashes(self) -> str:
        """Return crash rates and the paper's.

        Their intervals are those of all tables here: of one seed exact over its episodes, else over
        seeds. Wilson's over the episodes of all seeds would take these for independent; those of
        single teams are in :meth:`of_single_teams`.
        """
        lines = [["protagonist", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
        for method in self.known:
            printed = self.paper[method]["crashed"]
            found = [self.cell(method, column, "crashed").estimate for column in COLUMNS]
            cells = (f"{one} / {other:.2f}" for one, other in zip(found, printed, strict=True))
            lines.append([method, *cells])
        return _markdown(lines)

    def of_single_teams(self) -> str:
        """Return crash rates of each seed's team, with Wilson's intervals."""
        lines = [["protagonist", "seed", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
        for method in self.known:
            for seed, found in sorted(self.tests[method].items()):
                crashed = [found["columns"][column]["crashed"] for column in COLUMNS]
                rates = (str(evaluation.wilson(sum(one), len(one))) for one in crashed)
                lines.append([method, str(seed), *rates])
        return _markdown(lines)

    def beside(self) -> str:
        """Return our returns beside the paper's, and how both rank."""
        printed = {method: self.paper[method]["return"] for method in self.known}
        return atsa.beside({m: self.means(m) for m in self.known}, printed, digits=1)

    def means(self, method: str, figure: str = "return") -> list[float]:
        """Return the means of a figure under the paper's columns."""
        return [self.cell(method, name, figure).estimate.mean for name in COLUMNS]

    def claims(self) -> str:
        """Return what the paper's figures say and what ours do, of the teams that are there."""
        if len(self.known) < 2:
            return ""
        own = {m: {f: self.means(m, f) for f in ("return", "crashed")} for m in self.known}
        paper = said({method: self.paper[method] for method in self.known})
        lines = [["what the paper tells", "its figures", "here", "alike"], ["---"] * 4]
        for claim, (ours, got) in said(own).items():
            theirs, wanted = paper[claim]
            alike = wanted <= got if isinstance(wanted, set) and wanted else wanted == got
            lines.append([claim, theirs, ours, "yes" if alike else "no"])
        return _markdown(lines)

    def write(self, out: Path) -> str:
        """Write tables, and return the text."""
        text = []
        for figure in ("return", "crashed"):
            table = self.table(figure)
            table.to_json(out / f"{self.backbone}-{figure}.json")
            table.plot(out / f"{self.backbone}-{figure}.png")
            text.append(f"## {table.title}\n\n{table.to_markdown()}")
        text.append(f"### Returns, ours / the paper's\n\n{self.beside()}")
        text.append(f"### Crash rates / the paper's\n\n{self.crashes()}")
        text.append(f"### Crash rates of single teams, Wilson\n\n{self.of_single_teams()}")
        text.append(self.claims())
        if (ours := self.ours()) is not None:
            ours.to_json(out / f"{self.backbone}-ours.json")
            ours.plot(out / f"{self.backbone}-ours.png")
            text.append(f"### Attacks that the paper has not\n\n{ours.to_markdown()}")
            worst = ", ".join(
                f"{method} {', '.join(sorted({f['chosen'] for f in self.tests[method].values()}))}"
                for method in self.known
            )
            text.append(f"The worst of each team's suite: {worst}.\n")
        return "\n".join(text)


def draw_learning(groups: list[Group], path: Path) -> dict[str, list[float]]:
    """Draw what teams earn while they train; return CPU seconds by method."""
    runs = {method: [group.path(method, "") for group in groups] for method in (BLIND, *PAPER)}
    curves = atsa.learned(runs, "return")
    if curves:
        title = f"merge {groups[0].backbone}: return in training"
        evaluation.learning_curves(curves, path, title=title)
    costs: dict[str, list[float]] = {}
    for method, folders in runs.items():
        for told in (folder / "cost.json" for folder in folders):
            if told.exists():
                seconds = json.loads(told.read_text("utf-8"))["cpu_seconds"]
                costs.setdefault(method, []).extend([] if seconds is None else [seconds])
    return costs


def film(group: Group, path: Path) -> None:
    """Film an episode of the team without defence, and the same under FGSM.

    It is, of those that end well without attack, the one that ends soonest in a crash under it.
    """
    team, fgsm = atsa.trained("NoAdv", group).team, attacks.PGD.fgsm(group.task.ball)

    def told(perturb: Any, seed: int) -> tuple[bool, int]:
        found = evaluation.rollout(
            team, envs.merge, perturb=perturb, episodes=1, num_envs=1, seed=seed
        )
        return bool(found.figure("success")[0]), int(found.lengths[0])

    seeds = range(min(FILMED, group.task.episodes))
    well = [seed for seed in seeds if told(None, seed)[0]] or [0]
    chosen = min(well, key=lambda seed: told(fgsm, seed))
    films = []
    for words, perturb in (("no attack", None), (f"FGSM of {group.task.epsilon:g}", fgsm)):
        title = f"{group.backbone}, {words}"
        recording = evaluation.record(
            team, envs.merge, perturb=perturb, episodes=1, seed=chosen, title=title
        )
        last = recording.episodes[0].steps[-1].scene
        wrecks = [one.name for one in last.entities if one.label == "X" and one.team == "agent"]
        steps = len(recording.episodes[0].steps)
        frames = draw(recording, (wrecks or recording.agents)[-1])
        films.append([*frames[: steps - 1 : 2], *frames[steps - 1 :]])  # in half the steps
    longest = max(map(len, films))
    above, below = (frames + frames[-1:] * (longest - len(frames)) for frames in films)
    both = [np.concatenate(pair) for pair in zip(above, below, strict=True)]
    save_replay(path, both, fps=8)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--methods", nargs="+", choices=PAPER, default=list(PAPER))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--steps", type=int, default=TASK.steps, help="per training")
    falls = "share of it after which learning rates fall to 0; 1 is never (default: %(default)s)"
    parser.add_argument("--falls", type=float, default=TASK.falls, help=falls)
    parser.add_argument("--episodes", type=int, default=TASK.episodes, help="per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/driving"), help="output folder")
    parser.add_argument("--recurrent", action="store_true", help="networks with memory")
    scaled = "weights and margins of PR, PR-REP and ERNIE, as multiples of skirmish's (default: "
    scaled += ", ".join(f"{task.scale:g} with {backbone}" for backbone, task in TASKS.items())
    parser.add_argument("--scale", type=float, help=f"{scaled})")
    share = "share of the episodes in which ATLA's adversary attacks (default: %(default)s)"
    parser.add_argument("--atla", type=float, default=TASK.attacked_by_atla, help=share)
    parser.add_argument("--report", action="store_true", help="run nothing")
    watched = "film the last backbone's undefended team, without attack and crashing; no tables"
    parser.add_argument("--replay", action="store_true", help=watched)
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    for name in ("falls", "atla"):
        if not 0.0 <= getattr(args, name) <= 1.0:
            parser.error(f"--{name} must be in [0, 1], got {getattr(args, name)}.")
    own = {"steps": args.steps, "episodes": args.episodes, "recurrent": args.recurrent}
    own |= {"alpha_steps": round(COOLING * args.steps)}
    own |= {"falls": args.falls, "attacked_by_atla": args.atla}
    own |= {} if args.scale is None else {"scale": args.scale}
    tasks = {backbone: replace(task, **own) for backbone, task in TASKS.items()}
    out: Path = args.out / "recurrent" if args.recurrent else args.out
    if args.scale is not None:
        out = out / f"scale-{args.scale:g}"
    if args.smoke:
        tasks = {backbone: atsa.smoke(task) for backbone, task in tasks.items()}
        out = out / "smoke"
        args.backbones, args.seeds, args.methods = ["QMIX"], [0], ["NoAdv", "ATSA"]
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    watched = _group(out, args.backbones[-1], args.seeds[0], tasks[args.backbones[-1]])
    if args.replay:
        key = ("train", watched.backbone, "NoAdv", watched.seed)
        jobs = jobs_of(tasks, [watched.backbone], ["NoAdv"], [watched.seed])
        run([job for job in jobs if job.key == key], out)
        film(watched, out / "merge.gif")
        print(f"A film is in {out / 'merge.gif'}.")
        return
    jobs = jobs_of(tasks, args.backbones, args.methods, args.seeds)
    cells = run(jobs, out)
    text = []
    for backbone in args.backbones:
        tests: dict[str, dict[int, Any]] = {}
        for (work, of, method, seed), cell in cells.items():
            if work == "test" and of == backbone:
                tests.setdefault(method, {})[seed] = cell
        if tests:
            text.append(Results(backbone, tests).write(out))
            groups = [_group(out, backbone, seed, tasks[backbone]) for seed in args.seeds]
            costs = draw_learning(groups, out / f"{backbone}-learning.png")
            spent = ", ".join(f"{m} {np.median(v):.0f}" for m, v in costs.items() if v)
            played = [
                one["test_cpu_seconds"] for m in tests if m != BLIND for one in tests[m].values()
            ]
            text.append(
                f"CPU seconds per training (median over seeds): {spent}; per test "
                f"{np.median(played):.0f}.\n"
            )
    if (watched.path("NoAdv", "") / "weights.pt").exists():
        film(watched, out / "merge.gif")
    (out / "driving.md").write_text("\n".join(text), "utf-8")
    print("\n".join(text))
    print(f"Tables, figures, a film and raw scores are in {out}/")


if __name__ == "__main__":
    main()
