"""Robust QMIX on skirmish maps: which training withstands which attack on observations.

    python examples/robust_qmix.py --jobs 2                # everything, 3 training seeds
    python examples/robust_qmix.py --maps 2m_vs_1z --seeds 0 --methods QMIX "FGSM training"
    python examples/robust_qmix.py --train-epsilons 0.05 0.1 0.25 0.5  # sizes in training, too
    python examples/robust_qmix.py --smoke                 # seconds, figures mean nothing

Trains QMIX plainly, on FGSM or PGD observations, with policy regularisation, and against learned
adversaries (ATLA, PA-AD), and attacks every team with noise, FGSM and PGD of several sizes, and
with a suite of which the worst is taken, beside what is left to teams without eyes. Each map,
method and seed is a cell with a file of raw scores; finished cells are skipped when the command
is given again, and interrupted trainings continue where they were. Tables, heat maps and curves
are made of all cells that are there. Teams of 3s_vs_3z also play 2m_vs_1z in its arrays, and teams
that were trained on that play 3s_vs_3z.
"""

import argparse
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from tianshou.algorithm.optim import TorchOptimizerFactory

from robustmarl import (
    adversaries,
    algorithms,
    attacks,
    envs,
    evaluation,
    losses,
    schedules,
    training,
)
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.joint import spec_of
from robustmarl.perturbers import ObsPerturber, stor
from robustmarl.typing import RobustnessWarning


@dataclass(frozen=True)
class Task:
    """What differs between maps.

    Attributes:
        epsilon: size of the attacks that teams are trained and tested with.
        steps: environment steps per training.
        explore: steps over which exploration falls from 1 to 0.05.
        batch: episodes per update, of which there is one per episode played.
    """

    epsilon: float
    steps: int
    explore: int
    batch: int


TASKS = {
    "2m_vs_1z": Task(0.1, 240_000, 50_000, 32),
    "3m": Task(0.25, 80_000, 30_000, 16),
    "3s_vs_3z": Task(0.25, 100_000, 30_000, 16),
    "2s3z": Task(0.1, 120_000, 30_000, 16),
    "2m_vs_1z as 3s_vs_3z": Task(0.1, 240_000, 50_000, 32),  # in the larger map's arrays
}
TRANSFER = {  # teams of the one map that the other's can play, too
    "3s_vs_3z": "2m_vs_1z as 3s_vs_3z",
    "2m_vs_1z as 3s_vs_3z": "3s_vs_3z",
}
GRID = (0.05, 0.1, 0.25)
METHODS = (
    "QMIX",
    "FGSM training",
    "PGD training",
    "policy regularisation",  # on FGSM, as in the authors' release
    "policy regularisation on PGD",  # on the margin, as SA-DQN has it
    "ATLA training",
    "PA-AD training",
)
ABLATED = ("FGSM training", "PGD training", "policy regularisation", "PA-AD training")
BASELINES = ("random", "untrained")
FOLDS = ("zeroed", "another's")  # what hides the episode from a team
SUITES = {
    "quick": evaluation.quick(),
    "standard": evaluation.standard(),
    "noise": evaluation.Suite(name="noise", version=1, entries=evaluation.quick().entries[:1]),
}
BUFFER = 1000  # episodes kept for replay
ATTACKED = 0.5  # share of the training episodes that are attacked


class RegularisedQMIX(losses.PolicyRegularizer, algorithms.QMIX):
    """QMIX with the hinge of SA-DQN on how far Q moves."""


def maker(name):
    """Return what builds battles on a map, in the arrays of another where its name says so."""
    small, _, large = name.partition(" as ")
    return envs.PaddedSkirmish(small, like=large) if large else partial(envs.skirmish, small)


def spec_on(name):
    """Return what a team on a map consists of."""
    make = maker(name)
    return make.make_engine(1).spec if hasattr(make, "make_engine") else spec_of(make())


def sized(method, epsilon):
    """Return the name of a method that trains with attacks of another size than it meets."""
    return f"{method} @ {epsilon:g}"


def build(method, name, seed):
    """Return (what to train, the team in it, what perturbs it while it trains)."""
    task, env = TASKS[name], spec_on(name)
    method, _, size = method.partition(" @ ")
    ball = LinfBall(epsilon=float(size) if size else task.epsilon)
    settings = {
        "seed": seed,
        "optim": TorchOptimizerFactory(torch.optim.Adam, lr=1e-3, fused=True),
        "gamma": 0.97,
        "td_lambda": 0.8,  # one-step targets take several times as long to learn to retreat
        "target_update": 50,
        "target_unit": "updates",
        "exploration": schedules.Linear(1.0, 0.05, over=task.explore, unit="env_steps"),
    }
    if method.startswith("policy regularisation"):
        pgd = attacks.PGD(ball=ball, steps=5, loss="margin")
        loss = losses.PolicyLoss(
            attack=pgd if method.endswith("PGD") else attacks.PGD.fgsm(ball),
            # late and slowly: from the start it keeps teams from learning at all
            weight=schedules.Linear(
                0.0, 0.1, over=task.steps // 4, begin=task.steps // 4, unit="env_steps"
            ),
        )
        team = RegularisedQMIX.for_env(env, policy_loss=loss, **settings)
        return team, team, None
    team = algorithms.QMIX.for_env(env, **settings)
    if method == "ATLA training":
        adversary = adversaries.ObsAdversaryPPO.for_env(env, ball, seed=seed)
        return training.AdversarialTraining(team, adversary), team, None
    if method == "PA-AD training":
        adversary = adversaries.PAAD.for_env(env, stor(ball), episodes=ATTACKED, **settings)
        return training.AdversarialTraining(team, adversary), team, None
    perturb = {
        "FGSM training": ObsPerturber(attacks.PGD.fgsm(ball), episodes=ATTACKED),
        "PGD training": ObsPerturber(attacks.PGD(ball=ball, steps=5), episodes=ATTACKED),
    }
    return team, team, perturb.get(method)


def tests(name):
    """Return the attacks of the tables: name to attack, the sizes of the grid included."""
    found = {"none": None}
    for epsilon in sorted({*GRID, TASKS[name].epsilon}):
        ball = LinfBall(epsilon=epsilon)
        found[f"noise {epsilon:g}"] = attacks.UniformNoise(ball=ball)
        found[f"FGSM {epsilon:g}"] = attacks.PGD.fgsm(ball)
        found[f"PGD {epsilon:g}"] = attacks.PGD(ball=ball)
    return found


def run_cell(name, method, seed, plan, place):
    """Train and test one team; return its raw scores."""
    begun, make_env = time.process_time(), maker(name)
    resumed = False
    if method == "random":
        team = RandomController(spec_on(name))
    elif method == "untrained":
        team = build("QMIX", name, seed)[1].untrained(seed=seed)
    else:
        learner, team, perturb = build(method, name, seed)
        training_plan = {key: plan[key] for key in plan if key not in ("episodes", "suite")}
        folder = place.folder_for(training_plan)
        weights = folder / "weights.pt"
        if weights.exists():
            training.load_weights(learner, weights)
            resumed = True
        else:
            history = training.run(
                learner,
                make_env,
                env_steps=plan["steps"],
                num_envs=32,
                seed=seed,
                perturb=perturb,
                interval=-(-plan["steps"] // 10),
                learn=training.OffPolicy(batch_size=TASKS[name].batch, buffer_episodes=BUFFER),
                log=place.log(f"{name} {method} {seed}"),
            )
            resumed = history.resumed
            training.save_weights(learner, weights)
            (folder / "checkpoint.pt").unlink()  # the replay buffer is in it
    trained = time.process_time() - begun
    scores, spoken = play(name, method, team, make_env, plan["episodes"])
    worst, moved = {}, {}
    if name in TRANSFER:
        other = TRANSFER[name]
        moved, _ = play(other, method, team, maker(other), plan["episodes"])
    if method not in BASELINES:
        worst, more = suite(name, method, team, make_env, plan["episodes"], plan["suite"])
        spoken += more
    return {
        "map": name,
        "method": method,
        "seed": seed,
        "cpu_seconds": None if resumed else round(trained, 1),
        "warnings": spoken,
        "scores": scores,
        "worst": worst,
        "elsewhere": moved,
    }


def play(name, method, team, make_env, episodes):
    """Return win or not per attack and episode, and what the evaluation warned of."""
    scores, spoken = {}, []
    for attack_name, attack in tests(name).items():
        if method == "random" and scores:  # it does not look at observations
            scores[attack_name] = scores["none"]
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RobustnessWarning)
            found = evaluation.rollout(
                team, make_env, episodes=episodes, perturb=attack, num_envs=64
            )
        kinds = [w for w in caught if issubclass(w.category, RobustnessWarning)]
        spoken += [f"{attack_name}: {w.message}" for w in kinds]
        scores[attack_name] = found.figure("battle_won").astype(int).tolist()
    return scores, spoken


def suite(name, method, team, make_env, episodes, chosen):
    """Return win or not per attack of a suite, of its worst and without eyes, and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        found = evaluation.worst_case(
            {method: team},
            make_env,
            LinfBall(epsilon=TASKS[name].epsilon, low=-1.0, high=1.0),
            suite=SUITES[chosen],
            episodes=episodes,
            choice_episodes=-(-episodes // 2),
            num_envs=64,
        )
    rows = found.table.cells
    scores = {**rows[method], **{fold: rows[f"{method}, {fold}"]["none"] for fold in FOLDS}}
    told = [str(w.message) for w in caught if issubclass(w.category, RobustnessWarning)]
    return {key: cell.scores[0].astype(int).tolist() for key, cell in scores.items()}, told


def table_of(cells, columns, title, part="scores"):
    """Return victims x attacks of the cells of one map; ``columns`` maps headings to attacks."""
    rows = {}
    for method in methods_of(cells):
        seeds = {c["seed"]: c[part] for c in cells if c["method"] == method}
        if seeds:
            rows[method] = {
                heading: evaluation.Cell({s: scores[attack] for s, scores in seeds.items()})
                for heading, attack in columns.items()
            }
    baselines = [method for method in BASELINES if method in rows]
    return evaluation.CrossTable(cells=rows, metric="win rate", baselines=baselines, title=title)


def methods_of(cells):
    """Return the methods of these cells, those of other training sizes behind their own."""
    given = {cell["method"] for cell in cells}
    order = [*BASELINES, *METHODS]
    return sorted(given, key=lambda m: (order.index(m.partition(" @ ")[0]), m))


def worst_table(name, cells):
    """Return victims x the worst of the suite, and blind: what is left of the clean score."""
    rows = {}
    for method in methods_of(cells):
        seeds = {c["seed"]: c["worst"] for c in cells if c["method"] == method and c["worst"]}
        if seeds:
            rows[method] = {
                column: evaluation.Cell({s: scores[column] for s, scores in seeds.items()})
                for column in ("none", "worst", *FOLDS)
            }
    title = f"{name}: win rate under the worst of the suite, and without eyes"
    return evaluation.CrossTable(cells=rows, metric="win rate", title=title) if rows else None


def draw_ablation(cells, name, path):
    """Draw clean and attacked wins over the size of the attacks in training."""
    epsilon = TASKS[name].epsilon
    columns = {"win rate without attack": "none", f"under PGD of {epsilon:g}": f"PGD {epsilon:g}"}
    table = table_of(cells, columns, "")
    panels = {column: {} for column in columns}
    for method in ABLATED:
        sizes = {
            float(m.partition(" @ ")[2] or epsilon): m
            for m in table.victims
            if m.partition(" @ ")[0] == method
        }
        if len(sizes) < 2:
            continue
        for column, curves in panels.items():
            found = [table.cell(sizes[size], column).estimate for size in sorted(sizes)]
            curves[method] = evaluation.Curve(x=sorted(sizes), estimates=found)
    if all(panels.values()):
        xlabel = "epsilon in training"
        evaluation.size_curves(panels, path, xlabel=xlabel, bars=True, title=name)


def costs_of(cells):
    """Return a line on what trainings cost, and how many times a plain one."""
    known = {
        method: statistics.median(seconds)
        for method in methods_of(cells)
        if method not in BASELINES
        and (
            seconds := [
                c["cpu_seconds"] for c in cells if c["method"] == method and c["cpu_seconds"]
            ]
        )
    }
    if not known:
        return ""
    plain = known.get("QMIX")
    times = {m: "" if plain is None else f" ({s / plain:.1f} times QMIX)" for m, s in known.items()}
    told = ", ".join(f"{method} {seconds:.0f}{times[method]}" for method, seconds in known.items())
    return f"CPU seconds per training, median: {told}.\n"


def draw_sizes(grid, name, path):
    """Draw what the table of all sizes has of PGD."""
    epsilon = TASKS[name].epsilon
    sizes = (0.0, *sorted({*GRID, epsilon}))
    columns = ["none", *(f"PGD {size:g}" for size in sizes[1:])]
    curves = {
        victim: evaluation.Curve(
            x=sizes,
            estimates=[grid.cell(victim, column).estimate for column in columns],
            baseline=grid.is_baseline(victim),
        )
        for victim in grid.victims
    }
    title = f"{name} (trained at epsilon {epsilon:g})"
    xlabel = "epsilon of PGD with ten steps"
    evaluation.size_curves({"win rate": curves}, path, xlabel=xlabel, bars=True, title=title)


def report(name, cells, folder):
    """Write and return the tables of one map, with their pictures."""
    epsilon = TASKS[name].epsilon
    heads = ("noise", "FGSM", "PGD")
    main_columns = {"none": "none"} | {head: f"{head} {epsilon:g}" for head in heads}
    table = table_of(cells, main_columns, f"{name}: win rate under attacks of epsilon {epsilon:g}")
    stem = name.replace(" ", "_")
    table.plot(folder / f"{stem}.png")
    grid = table_of(cells, {a: a for a in tests(name)}, f"{name}: all sizes")
    grid.to_json(folder / f"{stem}.json")
    draw_sizes(grid, name, folder / f"{stem}-pgd.png")
    moved = ""
    if name in TRANSFER:
        other = TRANSFER[name]
        columns = {"none": "none"} | {head: f"{head} {TASKS[other].epsilon:g}" for head in heads}
        title = f"teams of {name} on {other}: win rate"
        moved = f"### {title}\n\n{table_of(cells, columns, title, 'elsewhere').to_markdown()}\n"
    draw_ablation(cells, name, folder / f"{stem}-training.png")
    worst = worst_table(name, cells)
    blind = "" if worst is None else f"### Worst case\n\n{worst.to_markdown()}\n"
    spoken = [f"- {c['method']}, seed {c['seed']}: {w}\n" for c in cells for w in c["warnings"]]
    text = [f"## {name}\n\n{table.to_markdown()}\n### All sizes\n\n{grid.to_markdown()}\n"]
    text += [blind, moved, costs_of(cells)]
    return table, "".join([*text, *(["\nWarnings:\n\n", *spoken] if spoken else [])])


def cell(name, method, seed, steps, episodes, chosen):
    """Return what trains and tests a team."""
    plan = {**asdict(TASKS[name]), "steps": steps, "episodes": episodes, "suite": chosen}
    return evaluation.Job(
        key=(name, method, seed),
        name=f"{name.replace(' ', '_')}-{steps}/{method.replace(' ', '_')}-{seed}",
        work=partial(run_cell, name, method, seed, plan),
        settings=plan,
    )


def main():
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--maps", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    sizes = "train at these sizes, too"
    parser.add_argument("--train-epsilons", type=float, nargs="+", default=[], help=sizes)
    parser.add_argument("--suite", choices=SUITES, default="quick", help="of the worst case")
    parser.add_argument("--steps", type=int, help="environment steps per training")
    parser.add_argument("--episodes", type=int, default=192, help="test episodes per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/robust_qmix"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, seeds, out = args.maps, args.seeds, args.out
    if args.smoke:
        names, seeds, out = ["3s_vs_3z"], seeds[:1], out / "smoke"
        args.steps, args.episodes, args.suite = 600, 2, "noise"
        args.train_epsilons = [0.1]

    sizes = [sized(m, e) for m in args.methods if m in ABLATED for e in args.train_epsilons]
    sizes = sizes[-1:] if args.smoke else sizes
    rows = (*BASELINES, *args.methods, *sizes)
    cells = [
        cell(name, method, seed, args.steps or TASKS[name].steps, args.episodes, args.suite)
        for seed in seeds
        for name in names
        for method in rows
    ]
    done = evaluation.run_cells(cells, out, jobs=args.jobs)
    texts = []
    for name in names:
        table, text = report(name, [done[key] for key in done if key[0] == name], out)
        print(f"\n{table}\n")
        texts.append(text)
    (out / "robust_qmix.md").write_text("\n".join(texts))
    print(f"Tables, heat maps, curves and raw scores are in {out}/")


if __name__ == "__main__":
    main()
