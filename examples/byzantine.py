"""Teams that may have a traitor: EIR-MAPPO, its relatives and baselines under eleven attacks.

    python examples/byzantine.py --jobs 2            # everything; see --help for parts of it
    python examples/byzantine.py --tasks toy         # one task
    python examples/byzantine.py --report            # tables and figures of the runs there are
    python examples/byzantine.py --smoke             # seconds, figures mean nothing

Each cell trains one team with one seed, then a fresh adversary against it for every agent that may
be the traitor, and plays it under every attack that needs no other team. When all teams of a task
and seed are there, their adversaries are transferred to each other. What is finished is not run
again when the command is given again: trainings continue from their checkpoints, and raw results
are in the output folder; all tables and figures are made of them alone.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from robustmarl import algorithms, data, envs, evaluation, perturbers, training
from robustmarl.adversaries import ByzantineAttacker
from robustmarl.evaluation import Cell, CrossTable
from robustmarl.learning.optim import adam
from robustmarl.schedules import Linear
from robustmarl.typing import RobustnessWarning

METHODS = ("MADDPG", "M3DDPG", "MAPPO", "RMAAC", "EAR-MAPPO", "True Type", "EIR-MAPPO")
BASELINES = ("random", "untrained")
TYPED = {
    "EAR-MAPPO": algorithms.EARMAPPO,
    "True Type": algorithms.TrueTypeMAPPO,
    "EIR-MAPPO": algorithms.EIRMAPPO,
    "untrained": algorithms.EARMAPPO,
}
OWN = ("non-oblivious", "random ally", "observation 0.2", "observation 0.5", "observation 1")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A game, how long teams and adversaries train on it, and with what settings.

    Attributes:
        make: builds the game.
        env_steps: of the teams' training.
        attack_steps: of each adversary's training.
        num_envs: environments side by side while training.
        learn: how PPO's teams learn; adversaries do so in ten epochs.
        ppo: settings of PPO's teams.
        typed: further settings of the teams that expect traitors.
        forced: share of the training in which EIR-MAPPO's teacher forcing falls to zero.
        belief_reads: what EIR-MAPPO's beliefs read under an attack on observations.
        adversary: settings of the adversaries that attack trained teams.
        off_policy: how MADDPG and M3DDPG learn.
        off_policy_steps: of their training.
        columns: what actors read of observations; None is all.
        make_attacked: the game in which adversaries train, if another.
        methods: which are compared.
    """

    make: Callable[[], Any]
    env_steps: int
    attack_steps: int
    num_envs: int
    learn: training.OnPolicy
    ppo: dict[str, Any]
    typed: dict[str, Any]
    forced: float
    adversary: dict[str, Any]
    off_policy: training.OffPolicy
    off_policy_steps: int = 24_000
    belief_reads: str = "seen"
    columns: tuple[int, ...] | None = None
    make_attacked: Callable[[], Any] | None = None
    methods: tuple[str, ...] = METHODS


# Chosen on seeds from 100 on. An adversary that may move further in a round than the team, and
# stays unsure enough to turn round, keeps an attacked team near the mixture that yields nothing.
FAST = {
    "p": 0.5,
    "adversary_clip": 0.5,
    "adversary_entropy_coef": 0.3,
    "adversary_epochs": 4,
    "adversary_optim": adam(5e-3, 1e-5),
}
TOY = Task(
    make=envs.ToyGame,
    env_steps=300_000,
    attack_steps=40_000,
    num_envs=20,
    learn=training.OnPolicy(episodes_per_round=20, epochs=5),
    ppo={"hidden": (64, 64), "clip": 0.1, "entropy_coef": 0.05, "optim": adam(2e-3, 1e-5)},
    typed=FAST,
    forced=0.7,
    adversary={"hidden": (64, 64), "clip": 0.2, "optim": adam(2e-3, 1e-5)},
    off_policy=training.OffPolicy(batch_size=8, updates_per_episode=4, learning_starts=20),
    columns=(0, 1),
)
SKIRMISH = Task(
    make=lambda: envs.skirmish("4m_vs_3m"),
    make_attacked=lambda: envs.skirmish("4m_vs_3m", reward="signed"),
    env_steps=80_000,
    attack_steps=60_000,
    num_envs=32,
    learn=training.OnPolicy(steps_per_round=2_000, epochs=5),
    ppo={"hidden": (64, 64), "optim": adam(1e-3, 1e-5)},
    typed=FAST | {"adversary_entropy_coef": 0.03, "adversary_optim": adam(2e-3, 1e-5)},
    forced=0.5,
    adversary={"hidden": (64, 64), "clip": 0.2, "optim": adam(2e-3, 1e-5)},
    off_policy=training.OffPolicy(updates_per_episode=0.5, learning_starts=64),
)
FORAGING = replace(
    SKIRMISH,
    make=lambda: envs.foraging(12, 4, 3, coop=True, max_player_level=3, share_cells=True),
    make_attacked=None,
    env_steps=500_000,
    attack_steps=30_000,
    learn=training.OnPolicy(steps_per_round=2_000, epochs=10),
    methods=("MAPPO", "EAR-MAPPO", "EIR-MAPPO"),
)
TASKS = {
    "toy": TOY,
    "toy, last actions": replace(TOY, columns=None),
    "alternating toy": replace(TOY, make=lambda: envs.ToyGame(dynamics="alternating")),
    "4m_vs_3m": SKIRMISH,
    "foraging 12x12-4p-3f-c": FORAGING,
}

IN_FOLDER = ("env_steps", "forced", "belief_reads")
"""Options with folders of their own, as trainings go on where they were in theirs."""

# No return is lower than 0 or higher than this.
HIGHEST = {
    "toy": 100.0,
    "toy, last actions": 100.0,
    "alternating toy": 100.0,
    "4m_vs_3m": 20.0,
    "foraging 12x12-4p-3f-c": 1.0,
}


def build(method: str, task: Task, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return (team, its ``env_steps`` and ``learn`` of ``training.run``)."""
    common = {"seed": seed, "columns": task.columns}
    game = task.make()
    if method in ("MADDPG", "M3DDPG"):
        how = {"env_steps": task.off_policy_steps, "learn": task.off_policy}
        return getattr(algorithms, method).for_env(game, **common), how
    how = {"env_steps": task.env_steps, "learn": task.learn}
    if method in ("MAPPO", "RMAAC"):
        return getattr(algorithms, method).for_env(game, **task.ppo, **common), how
    settings = {"preset": None, **task.ppo, **task.typed, **common}
    if method == "EIR-MAPPO":
        whole = (task.learn.episodes_per_round or 0) * game.metadata["horizon"]
        rounds = task.env_steps / (task.learn.steps_per_round or whole)
        share = 1.0 if task.forced else 0.0
        forcing = Linear(share, 0.0, over=max(1, round(task.forced * rounds)))
        settings |= {"teacher_forcing": forcing, "belief_optim": adam(2e-3, 1e-5)}
        settings["belief_reads"] = task.belief_reads
    return TYPED[method].for_env(game, **settings), how


@dataclass(frozen=True, kw_only=True)
class Run:
    """One team with one seed, and what was trained against it."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Its files'."""
        return f"{self.task}-{self.method}-s{self.seed}".replace(" ", "_").replace(",", "")


def attacker(run: Run, team: Any, agent: str, task: Task) -> ByzantineAttacker:
    """Return the untrained attacker of ``team`` while ``agent`` is the traitor."""
    seed = run.seed + team.spec.agents.index(agent)
    return ByzantineAttacker.against(team, [agent], seed=seed, **task.adversary)


def adversaries(run: Run, team: Any, args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Return per agent the adversary trained against ``team``, from its file if there is one."""
    found = {}
    for agent in team.spec.agents:
        attack = attacker(run, team, agent, task)
        path = args.out / "teams" / run.name / f"{agent}.pt"
        if not path.exists():
            training.run(
                training.AdversarialTraining(team, attack, team_every=None),
                task.make_attacked or task.make,
                env_steps=task.attack_steps,
                num_envs=task.num_envs,
                seed=run.seed,
                learn=replace(task.learn, epochs=10),
                log=training.Log(progress=False),
            )
            training.save_weights(attack.policy, path)
        training.load_weights(attack.policy, path)
        found[agent] = attack.policy
    return found


def played(team: Any, task: Task, args: argparse.Namespace, perturb: Any = None) -> list[float]:
    """Return the team's return in every test episode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # an attack may find nothing to change
        found = evaluation.rollout(
            team, task.make, episodes=args.episodes, num_envs=50, perturb=perturb, seed=1
        )
    return [round(float(value), 3) for value in found.returns]


def beliefs(team: Any, task: Task, adversary: Any, agent: str) -> dict[str, list[float]]:
    """Return the others' mean belief that ``agent`` is the traitor, per step, if it is or not."""
    curves = {}
    for name, p in (("attack", 1.0), ("no attack", 0.0)):
        types = perturbers.TypeDistribution(p, choice="fixed", agents=[agent])
        buffer = data.EpisodeBuffer(team.spec, 50)
        collector = data.JointCollector(
            team,
            envs.vector.vector_env(task.make, 50),
            buffer,
            perturb=[perturbers.ByzantinePerturber(adversary, types=types)],
        )
        collector.collect(n_episode=50)
        batch, _ = buffer.sample(0)
        with torch.no_grad():
            belief = torch.sigmoid(team.belief.unroll(batch.obs.seen[:, :-1])[0])
        j = team.spec.agents.index(agent)
        others = [i for i in range(team.spec.num_agents) if i != j]
        of_agent = belief[:, :, others, j].mean(-1)
        steps = [of_agent[batch.valid[:, t], t] for t in range(batch.valid.shape[1])]
        curves[name] = [round(float(step.mean()), 4) for step in steps]
    return curves


def work(run: Run, args: argparse.Namespace, place: evaluation.Workplace) -> dict[str, Any]:
    """Train a team and its adversaries, and play its own attacks."""
    begun = time.process_time()
    task = shortened(TASKS[run.task], args)
    team, how = build(run.method if run.method != "random" else "untrained", task, run.seed)
    if run.method == "random":
        team = data.RandomController(team.spec)
        scores = {"none": {"": played(team, task, args)}}
        return {"scores": scores, "cpu_seconds": round(time.process_time() - begun, 1)}
    result: dict[str, Any] = {}
    if run.method != "untrained":
        training.run(
            team,
            task.make,
            num_envs=task.num_envs,
            seed=run.seed,
            log=training.Log(args.out / "teams" / run.name, resume=True, progress=False),
            **how,
        )
    result["training_seconds"] = round(time.process_time() - begun, 1)
    trained = adversaries(run, team, args, task)
    scores = {"none": {"": played(team, task, args)}}
    for agent in team.spec.agents:
        own = evaluation.byzantine_attacks("own", {"own": trained}, agent)
        for name, attack in own.items():
            scores.setdefault(name, {})[agent] = played(team, task, args, attack)
    result["scores"] = scores
    if getattr(team, "belief", None) is not None:
        agent = team.spec.agents[0]
        result["beliefs"] = beliefs(team, task, trained[agent], agent)
    result["cpu_seconds"] = round(time.process_time() - begun, 1)
    return result


def transfer(
    run: Run, group: list[Run], args: argparse.Namespace, place: evaluation.Workplace
) -> dict[str, Any]:
    """Play a team under the adversaries trained against the others of its task and seed."""
    task = shortened(TASKS[run.task], args)
    teams, trained = {}, {}
    for one in group:
        team, _ = build(one.method, task, one.seed)
        training.load_weights(team, args.out / "teams" / one.name / "checkpoint.pt")
        teams[one.method] = team
        trained[one.method] = adversaries(one, team, args, task)
    known = moved(args.out, run, asked(args))  # from fewer others
    for agent in teams[run.method].spec.agents:
        for name, attack in evaluation.byzantine_attacks(run.method, trained, agent).items():
            if name not in OWN and agent not in known.get(name, {}):
                scores = played(teams[run.method], task, args, attack)
                known.setdefault(name, {})[agent] = scores
    return {"scores": known}


def moved(out: Path, run: Run, as_asked: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a team's scores under the others' adversaries, as far as there are any.

    Those that are not ``as_asked`` for are left out, unless that is None.
    """
    path = out / "transfers" / f"{run.name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if as_asked is not None and found.get("asked") != as_asked:
        return {}
    return dict(found.get("scores", {}))


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """Return what results depend on beside task, method and seed."""
    return {name: getattr(args, name) for name in ("episodes", "smoke", *IN_FOLDER)}


def planned(args: argparse.Namespace) -> list[evaluation.Job[Any]]:
    """Return the cells: teams with what is trained against them, then transfers."""
    groups = [
        [Run(task=task, method=m, seed=seed) for m in args.methods if m in TASKS[task].methods]
        for seed in args.seeds
        for task in args.tasks
    ]
    plain = [
        Run(task=task, method=name, seed=seed)
        for seed in args.seeds
        for task in args.tasks
        for name in BASELINES
    ]
    cells: list[evaluation.Job[Any]] = [
        evaluation.Job(
            key=run,
            name=f"raw/{run.name}",
            work=partial(work, run, args),
            settings=asdict(run) | {"asked": asked(args)},
        )
        for run in [run for group in groups for run in group] + plain
    ]
    cells += [
        evaluation.Job(
            key=("transfer", run),
            name=f"transfers/{run.name}",
            work=partial(transfer, run, group, args),
            settings={"group": [one.method for one in group], "asked": asked(args)},
            after=group,
        )
        for group in groups
        for run in group
    ]
    return cells


def shortened(task: Task, args: argparse.Namespace) -> Task:
    """Return the task at the lengths asked for."""
    task = replace(
        task,
        env_steps=task.env_steps if args.env_steps is None else args.env_steps,
        forced=task.forced if args.forced is None else args.forced,
        belief_reads=args.belief_reads or task.belief_reads,
    )
    if not args.smoke:
        return task
    return replace(
        task,
        env_steps=2_000,
        attack_steps=1_000,
        off_policy_steps=2_000,
        off_policy=replace(task.off_policy, updates_per_episode=0.2),
    )


Results = list[dict[str, Any]]


def gathered(out: Path) -> Results:
    """Return the raw results in ``out``, and merge them into one file."""
    results = []
    for file in sorted((out / "raw").glob("*.json")):
        result = json.loads(file.read_text())
        run = Run(task=result["task"], method=result["method"], seed=result["seed"])
        result["scores"] |= moved(out, run)
        results.append(result)
    if results:
        text = ",\n".join(json.dumps(one) for one in results)
        (out / "byzantine.json").write_text(f"[\n{text}\n]\n")
    return results


def episodes(result: dict[str, Any], names: list[str]) -> list[float]:
    """Return the scores of all episodes under attacks, whoever is the traitor."""
    return [v for name in names for scores in result["scores"][name].values() for v in scores]


def table_of(results: Results, task: str) -> CrossTable:
    """Return methods against attacks."""
    cells: dict[str, dict[str, Cell]] = {}
    for method in (*METHODS, *BASELINES):
        found = [one for one in results if (one["task"], one["method"]) == (task, method)]
        if not found:
            continue
        common = [n for n in found[0]["scores"] if all(n in one["scores"] for one in found)]
        others = [name for name in common if name.startswith("from ")]
        columns = {name: [name] for name in common if name not in others}
        if others:
            columns[f"transferred ({len(others)})"] = others
        if len(common) > 1:
            columns["mean of attacks"] = [name for name in common if name != "none"]
        for column, names in columns.items():
            scores = {one["seed"]: episodes(one, names) for one in found}
            cell = Cell(scores, limits=(0.0, HIGHEST[task]))
            cells.setdefault(method, {})[column] = cell
    return CrossTable(
        cells=cells,
        metric="return",
        baselines=[name for name in BASELINES if name in cells],
        title=f"{task}: return without attack and under attacks on each agent in turn",
    )


BOUNDS = {"convention": (100, 0), "uniform": (50, 50), "belief-triggered": (100, 49.5)}
ANCHORS = {
    "toy": BOUNDS | {"uniform in state 0": (99.5, 33.2)},
    "toy, last actions": BOUNDS | {"best without belief, about": (100, 37)},
    "alternating toy": BOUNDS,
}


def draw(results: Results, out: Path) -> None:
    """Draw return without attack and under the non-oblivious adversary, a panel per task.

    Small points are seeds, bars 95 % intervals over them; grey rows are plays whose returns are
    known.
    """
    tasks = [name for name in TASKS if any(one["task"] == name for one in results)]
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    size = max(5.0, 4.75 * columns), 2.9 * rows + 0.5
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    kinds = (("without attack", "none", "#0072B2", -0.13), ("attacked", OWN[0], "#D55E00", 0.13))
    labels: dict[str, Any] = {}
    for index, task in enumerate(tasks):
        axes = figure.add_subplot(rows, columns, index + 1)
        known = {name: ("#777777", list(pair)) for name, pair in ANCHORS.get(task, {}).items()}
        names = list(known)
        of_task = [one for one in results if one["task"] == task]
        names += [m for m in METHODS if any(one["method"] == m for one in of_task)]
        every: list[float] = []
        for place, name in enumerate(names):
            found = [one for one in of_task if one["method"] == name]
            for (label, attack, colour, shift), number in zip(kinds, (0, 1), strict=True):
                y = place + shift
                if name in known:
                    axes.plot(known[name][1][number], y, "D", color=colour, alpha=0.45, ms=5)
                    every.append(known[name][1][number])
                    continue
                scores = {one["seed"]: episodes(one, [attack]) for one in found}
                means = [sum(v) / len(v) for v in scores.values()]
                every += means
                mean = evaluation.interval(scores, limits=(0.0, HIGHEST[task]))
                axes.plot([mean.low, mean.high], [y, y], color=colour, linewidth=1.6)
                axes.plot(means, [y] * len(means), "o", color=colour, ms=3, alpha=0.5)
                (labels[label],) = axes.plot(mean.mean, y, "o", color=colour, ms=6)
        room = 0.04 * (max(every) - min(every))
        axes.set(xlim=(min(every) - room, max(every) + room), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names)
        for tick, name in zip(axes.get_yticklabels(), names, strict=True):
            tick.set_color("#777777" if name in known else "#222222")
        axes.grid(axis="x", color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("return")
        axes.set_title(task, loc="left")
    handles = [labels[label] for label, *_ in kinds]
    words = ["without attack", "under the non-oblivious adversary"]
    figure.legend(handles, words, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(out / "byzantine.png")


def draw_beliefs(results: Results, out: Path) -> None:
    """Draw the belief that the first agent is the traitor over an episode."""
    panels: dict[str, Any] = {}
    for task in TASKS:
        for one in results:
            if one["task"] == task and "beliefs" in one:
                for name, curve in one["beliefs"].items():
                    seeds = panels.setdefault(task, {}).setdefault(name, [])
                    seeds.append((list(range(len(curve))), curve))
    for curves in panels.values():  # a seed's episodes may be shorter than another's
        for name, seeds in curves.items():
            shortest = min(len(x) for x, _ in seeds)
            curves[name] = [(x[:shortest], y[:shortest]) for x, y in seeds]
    if panels:
        evaluation.curve_panels(
            panels,
            out / "byzantine_beliefs.png",
            xlabel="step of the episode",
            ylabel="belief",
            title="EIR-MAPPO's belief that the first agent is the traitor, and it is or is not",
            limits=(0.0, 1.0),
        )


def report(results: Results, out: Path) -> str:
    """Write tables and figures into ``out``; return the tables."""
    tables = [table_of(results, name) for name in TASKS if any(r["task"] == name for r in results)]
    text = "\n".join(f"{table.title}\n\n{table.to_markdown()}" for table in tables)
    (out / "tables.md").write_text(text)
    draw(results, out)
    draw_beliefs(results, out)
    return text


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="which (default: all)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="which (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--episodes", type=int, default=100, help="test episodes per attack")
    parser.add_argument("--env-steps", type=int, help="of PPO's teams, if not the task's")
    parser.add_argument("--forced", type=float, help="share of teacher forcing, if not the task's")
    parser.add_argument("--belief-reads", choices=("seen", "clean"), help="EIR-MAPPO's")
    parser.add_argument("--out", type=Path, default=Path("runs/byzantine"), help="output folder")
    parser.add_argument(
        "--report", type=Path, nargs="?", const=True, help="train nothing; of this file, if given"
    )
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    if not 0.0 <= (args.forced or 0.0) <= 1.0:
        parser.error(f"--forced must be in [0, 1], got {args.forced}")
    for name in IN_FOLDER:
        if (value := getattr(args, name)) is not None:
            args.out = args.out / f"{name}-{value}"
    if args.smoke:
        args.out = args.out / "byzantine-smoke"
        args.tasks, args.methods = args.tasks or ["toy"], args.methods or ["MAPPO", "EIR-MAPPO"]
        args.seeds, args.episodes = args.seeds[:1], 4
    args.tasks, args.methods = args.tasks or list(TASKS), args.methods or list(METHODS)
    return args


def main() -> None:
    """Run what is missing, then report."""
    args = parsed()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.report is None:
        evaluation.run_cells(planned(args), args.out, jobs=args.jobs)
    single = isinstance(args.report, Path)
    results = json.loads(args.report.read_text()) if single else gathered(args.out)
    print(report(results, args.out))
    print(f"Raw results, tables and figures are in {args.out}/")


if __name__ == "__main__":
    main()
