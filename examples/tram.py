"""What poisoning one agent's actions in training does to COMA and DOP (TRAM).

    python examples/tram.py --jobs 2             # everything, about three CPU-hours
    python examples/tram.py --tasks foraging     # one task; see --help for the other choices
    python examples/tram.py --report             # tables and figures of the runs there are
    python examples/tram.py --smoke              # seconds, figures mean nothing

Each cell trains a team while one agent is poisoned, and tests it without attack while it learns
and at the end: not attacked, with a random direction, with J, with the variance attack. The sweeps
vary how often it is attacked and the KL budget. Runs that are finished are not run again when the
command is given again: their raw results are in the output folder, and all tables and figures are
made of them alone.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustmarl import algorithms, attacks, data, envs, evaluation, perturbers, training
from robustmarl.evaluation import Cell, CrossTable
from robustmarl.learning.optim import adam
from robustmarl.schedules import Linear


@dataclass(frozen=True, kw_only=True)
class Task:
    """A game, how long teams train on it, and the learners' settings that differ."""

    make: Callable[[], Any]
    env_steps: dict[str, int]  # of each learner
    settings: dict[str, Any] = field(default_factory=dict)
    explored: float = 0.5  # the share of the training in which exploration falls


EQUAL = {"DOP": 120_000, "COMA": 120_000}
# Rewards of every step, in the hundreds in all: what is near counts, and is scaled to about 1.
DENSE = {"gamma": 0.95, "reward_scale": 0.05}
# The first agent is attacked: all agents of a task are of one kind.
TASKS = {
    "foraging": Task(
        make=partial(envs.foraging_from_id, "Foraging-5x5-2p-1f-coop-v3"),
        env_steps={"DOP": 60_000, "COMA": 120_000},
    ),
    "gather": Task(make=envs.gather, env_steps=EQUAL, settings=DENSE),
    "gather-grid": Task(make=partial(envs.gather, grid=True), env_steps=EQUAL, settings=DENSE),
    "spread": Task(make=envs.tram_spread, env_steps=EQUAL, settings=DENSE),
    "formation": Task(make=envs.formation, env_steps=EQUAL, settings=DENSE),
    "3m": Task(make=partial(envs.skirmish, "3m"), env_steps={"DOP": 80_000, "COMA": 120_000}),
    "2s_vs_1sc": Task(make=partial(envs.skirmish, "2s_vs_1sc"), env_steps=EQUAL),
}
# Not run unless asked for: what could make poisoning matter more, or less.
VARIATIONS = {
    "gather-separate": replace(TASKS["gather"], settings=DENSE | {"shared": False}),
    "gather-brief": replace(TASKS["gather"], explored=0.05),
    "gather2-grid": replace(TASKS["gather-grid"], make=partial(envs.gather, agents=2, grid=True)),
    "3m-separate": replace(TASKS["3m"], settings={"shared": False}),
    "3m-brief": replace(TASKS["3m"], explored=0.05),
}
ATTACKS = {
    "none": None,
    "random": attacks.RandomAttack(),
    "J": attacks.JAttack(),
    "variance": attacks.VarianceAttack(),
}
POISONS = tuple(name for name, attack in ATTACKS.items() if attack is not None)
LEARNERS, BASELINES = ("DOP", "COMA"), ("random", "untrained")
FREQUENCIES, BUDGETS = (0.4, 0.6, 0.8, 1.0), (2.0, 4.0, 6.0)
SWEEP_TASK, SWEEP_LEARNER = "foraging", "DOP"
SWEEPS = (
    ("attack_frequency", FREQUENCIES, {"kl_budget": 6.0}, "by $f_A$ ($KL^U$ = 6)"),
    ("kl_budget", BUDGETS, {"attack_frequency": 1.0}, "by $KL^U$ ($f_A$ = 1)"),
)
ORDER = (
    ("random", "none"),
    ("J", "none"),
    ("variance", "none"),
    ("J", "random"),
    ("variance", "random"),
    ("variance", "J"),
)


def build(
    learner: str, task: Task, seed: int
) -> tuple[Any, training.OffPolicy | training.OnPolicy]:
    """Return (algorithm, how it learns).

    The paper trains for ten million steps; exploration, step sizes and batches are scaled to runs
    of a minute. They were chosen on clean runs of seed 100.
    """
    over = max(1, int(task.explored * task.env_steps[learner]))
    settings = {"critic_hidden": (64, 64), "seed": seed, **task.settings}
    if learner == "DOP":
        team = algorithms.DOP.for_env(
            task.make(),
            exploration=Linear(0.5, 0.05, over=over, unit="env_steps"),
            optim=adam(7e-4),
            critic_optim=adam(2e-3),
            critic_steps=2,
            recent_episodes=32,
            **settings,
        )
        return team, training.OffPolicy(batch_size=16, updates_per_episode=0.125)
    team = algorithms.COMA.for_env(
        task.make(),
        exploration=Linear(0.5, 0.05, over=over, unit="env_steps"),
        optim=adam(1.5e-3),
        critic_optim=adam(3e-3),
        td_lambda=0.8,
        **settings,
    )
    return team, training.OnPolicy(steps_per_round=400)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, or one baseline, with one seed."""

    task: str
    learner: str
    attack: str = "none"
    seed: int
    attack_frequency: float = 1.0
    kl_budget: float = 6.0
    deployed: bool = False  # trained clean, attacked only then

    @property
    def name(self) -> str:
        """Its file's."""
        budget = f"f{self.attack_frequency:g}-k{self.kl_budget:g}"
        attack = f"deployed-{self.attack}" if self.deployed else self.attack
        return f"{self.task}-{self.learner}-{attack}-{budget}-s{self.seed}"

    def lengths(self, args: argparse.Namespace) -> dict[str, int]:
        """Return how long it trains, and how often and long it is tested."""
        if self.learner in BASELINES:
            return {"episodes": args.episodes}
        steps = self.game(args).env_steps[self.learner]
        names = ("episodes", "tests", "test_episodes")
        return {"env_steps": steps, **{name: getattr(args, name) for name in names}}

    def game(self, args: argparse.Namespace) -> Task:
        """Return its task, of the length asked for."""
        task = (TASKS | VARIATIONS)[self.task]
        if args.env_steps is None:
            return task
        return replace(task, env_steps=dict.fromkeys(LEARNERS, args.env_steps))


def planned(args: argparse.Namespace) -> list[Run]:
    """Return the runs asked for, a seed of everything before the next."""
    runs: dict[Run, None] = {}
    for number in range(max(args.seeds, args.foraging_seeds)):
        for task in args.tasks:
            if number >= (args.foraging_seeds if task == "foraging" else args.seeds):
                continue
            of = {"task": task, "seed": args.first_seed + number}
            runs |= dict.fromkeys(Run(learner=name, **of) for name in BASELINES)
            for learner in args.learners:
                runs |= dict.fromkeys(Run(learner=learner, attack=a, **of) for a in args.attacks)
    poisons = [a for a in args.attacks if a in POISONS] if args.sweep else []
    for number in range(args.seeds):
        for attack in poisons:
            base = Run(
                task=SWEEP_TASK, learner=SWEEP_LEARNER, attack=attack, seed=args.first_seed + number
            )
            runs |= dict.fromkeys(replace(base, attack_frequency=f) for f in FREQUENCIES)
            runs |= dict.fromkeys(replace(base, kl_budget=k) for k in BUDGETS)
    for number in range(args.seeds if args.adapt else 0):
        of = {"task": SWEEP_TASK, "learner": SWEEP_LEARNER, "seed": args.first_seed + number}
        runs[Run(attack="variance", deployed=True, **of)] = None
    return list(runs)


def cells(args: argparse.Namespace) -> list[evaluation.Job[Run]]:
    """Return the same as cells of a study."""
    return [
        evaluation.Job(
            key=run,
            name=run.name,
            work=partial(work, run, args),
            settings=asdict(run) | {"lengths": run.lengths(args)},
        )
        for run in planned(args)
    ]


def scores(team: Any, task: Task, episodes: int) -> dict[str, list[float]]:
    """Return each figure's values, one per test episode."""
    found = evaluation.rollout(team, task.make, episodes=episodes, num_envs=32, seed=1)
    names = ("return", *found.metrics)
    return {name: [round(float(v), 3) for v in found.figure(name)] for name in names}


def poisoning(run: Run, team: Any, **settings: Any) -> list[perturbers.ActionPoisonPerturber]:
    """Return what attacks the team's first agent, if anything does."""
    attack = ATTACKS[run.attack]
    if attack is None:
        return []
    budget = {"attack_frequency": run.attack_frequency, "kl_budget": run.kl_budget}
    agent = team.spec.agents[0]
    return [
        perturbers.ActionPoisonPerturber(attack, learner=team, agent=agent, **budget, **settings)
    ]


def train(run: Run, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Return the raw results of one training."""
    team, learn = build(run.learner, task, run.seed)
    steps = task.env_steps[run.learner]
    quiet = training.Log(progress=False)
    how = {"num_envs": 32, "interval": -(-steps // args.tests), "learn": learn, "log": quiet}
    poison = [] if run.deployed else poisoning(run, team)
    history = training.run(
        team,
        task.make,
        env_steps=steps,
        seed=run.seed,
        perturb=poison,
        tests=training.Tests({"clean": None}, episodes=args.test_episodes),
        **how,
    )
    if run.deployed:
        metric = (*team.spec.metrics, "return")[0]
        half = max(1, steps // 2)
        found = evaluation.adaptation(
            team,
            task.make,
            lambda victim: poisoning(run, victim, when="always"),
            env_steps=half,
            recovery_steps=half,
            metric=metric,
            test_episodes=args.test_episodes,
            seed=1000 + run.seed,  # episodes that training has not seen
            **how,
        )
        lines = {n: getattr(found, n) for n in ("frozen", "adapting", "without")}
        adapted = {n: [x.tolist(), y.round(3).tolist()] for n, (x, y) in lines.items()}
        final = scores(team, task, args.episodes)
        return {"final": final, "adaptation": adapted, "stopped": found.stopped}
    names = ("return", *team.spec.metrics)
    final = scores(team, task, args.episodes)
    team.policy.deterministic_eval = True
    greedy = scores(team, task, args.episodes)
    return {
        "final": final,
        "greedy": {name: sum(values) / len(values) for name, values in greedy.items()},
        "env_steps": history.env_steps,
        "curve": {n: [round(v, 3) for v in history.tests[f"clean/{n}"]] for n in names},
        "poison": {k: round(v, 4) for p in poison for k, v in p.counters().items()},
    }


def work(run: Run, args: argparse.Namespace, place: evaluation.Workplace) -> dict[str, Any]:
    """Return one run's raw results."""
    begun = time.process_time()
    task = run.game(args)
    if run.learner in BASELINES:
        team, _ = build("DOP", task, run.seed)  # COMA's actors are the same
        team = data.RandomController(team.spec) if run.learner == "random" else team
        result = {"final": scores(team, task, args.episodes)}
    else:
        result = train(run, task, args)
    return {**result, "cpu_seconds": round(time.process_time() - begun, 1)}


Results = list[dict[str, Any]]


def metric_of(results: Results) -> str:
    """Return what a task is measured by: its own figure, unless nobody gets any of it."""
    own = [name for name in results[0]["final"] if name != "return"]
    some = [name for name in own if any(any(one["final"][name]) for one in results)]
    return (*some, "return")[0]


def where(results: Results, **of: Any) -> Results:
    """Return those that have these values, in the order of seeds."""
    found = [one for one in results if all(one[key] == value for key, value in of.items())]
    return sorted(found, key=lambda one: int(one["seed"]))


def headline(results: Results, **of: Any) -> Results:
    """Return those trained under the paper's budget."""
    return where(results, attack_frequency=1.0, kl_budget=6.0, deployed=False, **of)


def final_table(results: Results, task: str) -> CrossTable:
    """Return learners against attacks, tested without attack after training."""
    here = where(results, task=task)
    metric = metric_of(here)
    cells: dict[str, dict[str, Cell]] = {}
    for learner in (*BASELINES, *LEARNERS):
        for attack in ATTACKS:
            found = headline(here, learner=learner, attack=attack)
            if found:
                cell = Cell({one["seed"]: one["final"][metric] for one in found})
                cells.setdefault(learner, {})[attack] = cell
    return CrossTable(
        cells=cells,
        metric=metric,
        baselines=[name for name in BASELINES if name in cells],
        title=f"{task}: {metric} after training under each attack, tested without",
    )


def mean_likelihood(results: Results) -> float | None:
    """Return the mean of Eq. 3 over seeds, if there are any."""
    values = [one["poison"]["log_likelihood"] for one in results]
    return sum(values) / len(values) if values else None


def likelihood(results: Results) -> str:
    """Return the same as text, or a dash."""
    value = mean_likelihood(results)
    return "-" if value is None else f"{value:.2f}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def likelihood_tables(results: Results) -> str:
    """Return the layout of the paper's Tables 1 to 3, with our tasks."""
    order = [name for name in ("variance", "J", "random") if where(results, attack=name)]
    tasks = [name for name in TASKS if where(results, task=name)]
    text = []
    for learner in LEARNERS:
        rows = [
            [a, *(likelihood(headline(results, learner=learner, attack=a, task=t)) for t in tasks)]
            for a in order
        ]
        text += [f"{learner}, by task ($f_A$ = 1, $KL^U$ = 6)\n", markdown(["", *tasks], rows)]
    swept = where(results, task=SWEEP_TASK, learner=SWEEP_LEARNER, deployed=False)
    for key, values, fixed, title in SWEEPS:
        shown = [v for v in values if where(swept, **{key: v}, **fixed)]
        if len(shown) < 2:
            continue
        rows = [
            [a, *(likelihood(where(swept, attack=a, **{key: v}, **fixed)) for v in shown)]
            for a in order
        ]
        text += [f"{SWEEP_LEARNER} on {SWEEP_TASK}, {title}\n"]
        text += [markdown(["", *(f"{v:g}" for v in shown)], rows)]
    return "\n".join(text)


def below(table: CrossTable, learner: str, one: str, other: str) -> str:
    """Return whether ``one`` leaves less than ``other``, on the same seeds and episodes.

    It is open where the interval of the differences holds 0, or where they share one seed only.
    """
    if not {one, other} <= set(table.cells[learner]):
        return "-"
    less, more = (table.cell(learner, attack).scores for attack in (one, other))
    seeds = sorted(less.keys() & more.keys())
    if len(seeds) < 2:
        return "open"
    limits = (-math.inf, math.inf)  # differences of shares are none
    apart = evaluation.interval([less[seed] - more[seed] for seed in seeds], limits=limits)
    return "yes" if apart.high < 0.0 else "no" if apart.low > 0.0 else "open"


def claims(results: Results, tables: dict[str, CrossTable]) -> str:
    """Return the paper's orderings, task by task."""
    rows = []
    for task, table in tables.items():
        for learner in (name for name in LEARNERS if name in table.victims):
            found = [below(table, learner, one, other) for one, other in ORDER]
            levels = [
                mean_likelihood(headline(results, task=task, learner=learner, attack=attack))
                for attack in ("variance", "J", "random")
            ]
            known = [value for value in levels if value is not None]
            ordered = "yes" if known == sorted(known) else "no"
            rows.append([task, learner, *found, ordered if len(known) == 3 else "-"])
    head = ["task", "learner", *(f"{one} < {other}" for one, other in ORDER)]
    return markdown([*head, "L: variance < J < random"], rows)


def curves(results: Results, out: Path) -> None:
    """Draw the tests without attack during training, a panel per task."""
    for learner in LEARNERS:
        panels: dict[str, Any] = {}
        names = {}
        for task in TASKS:
            for attack in ATTACKS:
                found = headline(results, task=task, learner=learner, attack=attack)
                if found:
                    names[task] = metric_of(where(results, task=task))
                    seeds = [(one["env_steps"], one["curve"][names[task]]) for one in found]
                    panels.setdefault(task, {})[attack] = seeds
        if panels:
            evaluation.curve_panels(
                panels,
                out / f"tram_curves_{learner.lower()}.png",
                ylabel=names,
                title=f"{learner}: tests without attack while one agent is poisoned in training",
                limits={task: (0.0, 1.0) for task, name in names.items() if name != "return"},
            )


def sweeps(results: Results, out: Path) -> None:
    """Draw how the budgets matter, over all seeds that there are at each."""
    swept = where(results, task=SWEEP_TASK, learner=SWEEP_LEARNER, deployed=False)
    metric = metric_of(swept) if swept else ""
    panels: dict[str, dict[str, evaluation.Curve]] = {}
    for key, values, fixed, title in SWEEPS:
        for attack in ATTACKS:
            known, estimates = [], []
            for value in values:
                # Without attack there is no budget: a level line.
                budget = {} if attack == "none" else {key: value, **fixed}
                found = where(swept, attack=attack, **budget)
                if found:
                    known.append(value)
                    estimates.append(
                        evaluation.interval({one["seed"]: one["final"][metric] for one in found})
                    )
            if known:
                curve = evaluation.Curve(x=known, estimates=estimates)
                panels.setdefault(title, {})[attack] = curve
    if panels:
        evaluation.size_curves(
            panels,
            out / "tram_sweeps.png",
            xlabel="budget",
            ylabel=metric,
            bars=True,
            title=f"{SWEEP_LEARNER} on {SWEEP_TASK}: tests without attack after poisoned training",
        )


def adaptations(results: Results, out: Path) -> None:
    """Draw what becomes of trained teams that are attacked, frozen or learning on."""
    found = where(results, deployed=True)
    if not found:
        return
    labels = {
        "frozen": "attacked, frozen",
        "adapting": "attacked, learning on",
        "without": "learning on, tested without attack",
    }
    curves = {label: [tuple(one["adaptation"][n]) for one in found] for n, label in labels.items()}
    evaluation.learning_curves(
        curves,
        out / "tram_adaptation.png",
        xlabel=f"environment steps since the attack began (it stops at {found[0]['stopped']:,})",
        ylabel=metric_of(found),
        title=f"{SWEEP_LEARNER} on {SWEEP_TASK}: variance attack on a trained team",
        limits=None if metric_of(found) == "return" else (0.0, 1.0),
    )


def report(results: Results, out: Path) -> str:
    """Write tables and figures into ``out``; return the tables."""
    known = [task for task in TASKS | VARIATIONS if where(results, task=task)]
    tables = {task: final_table(results, task) for task in known}
    text = [f"{table.title}\n\n{table.to_markdown()}" for table in tables.values()]
    text.append(
        "Which orderings held: open where intervals of differences hold 0; those of L by means\n\n"
        + claims(results, tables)
    )
    if where(results, attack="random") or where(results, attack="variance"):
        text.append(
            "Log-likelihood of what was played under the clean policy (Eq. 3), mean over training "
            "steps and seeds; closer to 0 is harder to notice\n\n" + likelihood_tables(results)
        )
    curves(results, out)
    sweeps(results, out)
    adaptations(results, out)
    whole = "\n".join(text)
    (out / "tables.md").write_text(whole)
    return whole


def gathered(out: Path) -> Results:
    """Return the raw results in ``out``, and merge them into one file."""
    files = sorted((out / "raw").glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    if results:
        text = ",\n".join(json.dumps(one) for one in results)
        (out / "tram.json").write_text(f"[\n{text}\n]\n")
    return results


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = TASKS | VARIATIONS
    parser.add_argument("--tasks", nargs="+", choices=every, default=list(TASKS), help="which")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds per cell")
    parser.add_argument("--foraging-seeds", type=int, help="the same on foraging (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--sweep",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"vary frequency and KL budget, {SWEEP_LEARNER} on {SWEEP_TASK}",
    )
    parser.add_argument(
        "--adapt",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"attack trained teams, too, {SWEEP_LEARNER} on {SWEEP_TASK}",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--env-steps", type=int, help="training steps, in place of the task's")
    parser.add_argument("--episodes", type=int, default=100, help="test episodes after training")
    parser.add_argument("--tests", type=int, default=12, help="tests while training")
    parser.add_argument("--test-episodes", type=int, default=32, help="episodes of each of them")
    parser.add_argument("--out", type=Path, default=Path("runs/tram"), help="output folder")
    parser.add_argument(
        "--report", type=Path, nargs="?", const=True, help="train nothing; of this file, if given"
    )
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    if args.env_steps is not None:  # results of hours are not to be written over by a trial
        args.out = args.out / f"env_steps-{args.env_steps}"
    if args.smoke:
        args.out = args.out / "tram-smoke"
        args.tasks, args.attacks = ["foraging"], ["none", "variance"]
        args.seeds = args.foraging_seeds = 1
        args.env_steps, args.episodes, args.tests, args.test_episodes = 900, 8, 2, 4
    if args.foraging_seeds is None:
        args.foraging_seeds = max(5, args.seeds) if args.seeds >= 3 else args.seeds
    return args


def main() -> None:
    """Run what is missing, then report."""
    args = parsed()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.report is None:
        evaluation.run_cells(cells(args), args.out / "raw", jobs=args.jobs, progress="runs")
    single = isinstance(args.report, Path)
    results = json.loads(args.report.read_text()) if single else gathered(args.out)
    print(report(results, args.out))
    print(f"Raw results, tables and figures are in {args.out}/")


if __name__ == "__main__":
    main()
