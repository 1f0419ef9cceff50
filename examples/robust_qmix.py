"""Robust QMIX on skirmish maps: which training withstands which attack on observations.

    python examples/robust_qmix.py --jobs 2                # everything, 3 training seeds
    python examples/robust_qmix.py --maps 2m_vs_1z --seeds 0 --methods QMIX "FGSM training"
    python examples/robust_qmix.py --train-epsilons 0.05 0.1 0.25 0.5  # sizes in training, too
    python examples/robust_qmix.py --report                # tables and figures of finished cells
    python examples/robust_qmix.py --smoke                 # seconds, figures mean nothing

Trains QMIX plainly, on FGSM or PGD observations, with policy regularisation, and against learned
adversaries (ATLA, PA-AD), and attacks every team with noise, FGSM and PGD of several sizes, with
the adversaries that were trained beside ATLA's and PA-AD's team of the same map and seed, through
its own gradients, and with a suite of which the worst is taken, beside what is left to teams
without eyes. Every training is a cell, and every test is one, which comes after the trainings that
it needs; finished cells are skipped when the command is given again, and interrupted trainings
continue where they were. Tables, heat maps and curves are made of the cells alone. Teams of
3s_vs_3z also play 2m_vs_1z in its arrays, and teams that were trained on that play 3s_vs_3z.
"""

import argparse
import itertools
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
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
TEACHERS = {"ATLA": "ATLA training", "PA-AD": "PA-AD training"}  # columns: whose adversary it is
ABLATED = ("FGSM training", "PGD training", "policy regularisation", "PA-AD training")
BASELINES = ("random", "untrained")
FOLDS = ("zeroed", "another's")  # what hides the episode from a team
SUITES = {
    "quick": evaluation.quick(),
    "standard": evaluation.standard(),
    "noise": evaluation.Suite(name="noise", version=1, entries=evaluation.quick().entries[:1]),
}
BUFFER = 1000  # episodes kept for replay
FIGURES = ("battle_won", "return")
ATTACKED_BY = ("FGSM", "ATLA", "PA-AD")  # the attacks of the paper
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


def ball_of(epsilon):
    """Return what attacks of a size may change: observations are legal before and after."""
    return LinfBall(epsilon=epsilon, low=-1.0, high=1.0)


def sized(method, epsilon):
    """Return the name of a method that trains with attacks of another size than it meets."""
    return f"{method} @ {epsilon:g}"


def build(method, name, seed):
    """Return (what to train, the team in it, what perturbs it while it trains)."""
    task, env = TASKS[name], spec_on(name)
    method, _, size = method.partition(" @ ")
    ball = ball_of(float(size) if size else task.epsilon)
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
        adversary = adversaries.ObsAdversaryPPO.for_env(env, ball, episodes=ATTACKED, seed=seed)
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
        ball = ball_of(epsilon)
        found[f"noise {epsilon:g}"] = attacks.UniformNoise(ball=ball)
        found[f"FGSM {epsilon:g}"] = attacks.PGD.fgsm(ball)
        found[f"PGD {epsilon:g}"] = attacks.PGD(ball=ball)
    return found


def folder_of(name, steps, method, seed):
    """Return where a training is, in the output folder; tests load it from there."""
    return f"{name.replace(' ', '_')}-{steps}/train/{method.replace(' ', '_')}-{seed}"


def train(name, method, seed, plan, place):
    """Train a team beside what it meets, and keep both; return what it cost."""
    begun = time.process_time()
    learner, _, perturb = build(method, name, seed)
    folder = place.folder_for(plan)
    if (folder / "weights.pt").exists():  # killed when all was done
        return {"cpu_seconds": None}
    history = training.run(
        learner,
        maker(name),
        env_steps=plan["steps"],
        num_envs=32,
        seed=seed,
        perturb=perturb,
        interval=-(-plan["steps"] // 10),
        learn=training.OffPolicy(batch_size=TASKS[name].batch, buffer_episodes=BUFFER),
        log=place.log(f"{name} {method} {seed}"),
    )
    training.save_weights(learner, folder / "weights.pt")
    (folder / "checkpoint.pt").unlink()  # the replay buffer is in it
    cost = None if history.resumed else round(time.process_time() - begun, 1)
    return {"cpu_seconds": cost}


def trained(name, method, seed, steps, study):
    """Return (what was trained, the team in it) of a cell."""
    learner, team, _ = build(method, name, seed)
    training.load_weights(learner, study / folder_of(name, steps, method, seed) / "weights.pt")
    return learner, team


def test(name, method, seed, plan, place):
    """Return the raw scores of a team."""
    begun, make_env = time.process_time(), maker(name)
    if method == "random":
        team = RandomController(spec_on(name))
    elif method == "untrained":
        team = build("QMIX", name, seed)[1].untrained(seed=seed)
    else:
        _, team = trained(name, method, seed, plan["steps"], place.study)
    learned = {
        column: trained(name, teacher, seed, plan["steps"], place.study)[0].adversaries[0]
        for column, teacher in TEACHERS.items()
    }
    tried = tests(name) | {column: one.deployed() for column, one in learned.items()}
    scores, spoken = play(tried, team, make_env, plan["episodes"])
    worst, moved = {}, {}
    if name in TRANSFER:
        other = TRANSFER[name]
        moved, _ = play(tests(other), team, maker(other), plan["episodes"])
    if method not in BASELINES:
        worst, more = suite(name, method, team, make_env, plan["episodes"], plan["suite"])
        spoken += more
    return {
        "map": name,
        "method": method,
        "seed": seed,
        "test_cpu_seconds": round(time.process_time() - begun, 1),
        "warnings": spoken,
        "scores": scores,
        "worst": worst,
        "elsewhere": moved,
    }


def play(tried, team, make_env, episodes):
    """Return figures per attack and episode, and what the evaluation warned of."""
    scores, spoken = {}, []
    for attack_name, attack in tried.items():
        if isinstance(team, RandomController) and scores:  # it does not look at observations
            scores[attack_name] = scores["none"]
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RobustnessWarning)
            found = evaluation.rollout(
                team, make_env, episodes=episodes, perturb=attack, num_envs=64
            )
        kinds = [w for w in caught if issubclass(w.category, RobustnessWarning)]
        spoken += [f"{attack_name}: {w.message}" for w in kinds]
        scores[attack_name] = {f: found.figure(f).round(3).tolist() for f in FIGURES}
    return scores, spoken


def suite(name, method, team, make_env, episodes, chosen):
    """Return win or not per attack of a suite, of its worst and without eyes, and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        found = evaluation.worst_case(
            {method: team},
            make_env,
            ball_of(TASKS[name].epsilon),
            suite=SUITES[chosen],
            episodes=episodes,
            choice_episodes=-(-episodes // 2),
            num_envs=64,
        )
    rows = found.table.cells
    scores = {**rows[method], **{fold: rows[f"{method}, {fold}"]["none"] for fold in FOLDS}}
    told = [str(w.message) for w in caught if issubclass(w.category, RobustnessWarning)]
    return {key: cell.scores[0].astype(int).tolist() for key, cell in scores.items()}, told


def table_of(cells, columns, title, part="scores", figure="battle_won"):
    """Return victims x attacks of the cells of one map; ``columns`` maps headings to attacks."""
    rows = {}
    for method in methods_of(cells):
        seeds = {c["seed"]: c[part] for c in cells if c["method"] == method}
        rows[method] = {
            heading: evaluation.Cell({s: scores[attack][figure] for s, scores in seeds.items()})
            for heading, attack in columns.items()
        }
    baselines = [method for method in BASELINES if method in rows]
    metric = "win rate" if figure == "battle_won" else figure
    return evaluation.CrossTable(cells=rows, metric=metric, baselines=baselines, title=title)


def returns_of(cells, columns):
    """Return the mean and the deviation over episodes of returns, as the paper's group has them."""
    table = table_of(cells, columns, "", figure="return")
    lines = [["victim", *columns], ["---"] * (1 + len(columns))]
    for method in table.victims:
        each = [
            np.concatenate([*map(np.asarray, table.cell(method, c).scores.values())])
            for c in columns
        ]
        lines.append([method, *(f"{one.mean():.1f} ± {one.std():.1f}" for one in each)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def claims(table):
    """Return what is known of the paper's results, and whether ours are so.

    The paper prints no table; what is known is of later papers of its authors [Zhou2025]_. A claim
    is judged where its teams are there and win without attack: who never does loses nothing.
    """
    won = {m: {c: table.mean(m, c) for c in table.attacks} for m in table.victims}
    average = {m: np.mean([won[m][c] for c in ATTACKED_BY]) for m in METHODS if m in won}
    lines = [["claim", "here", "held"], ["---"] * 3]

    def judge(claim, method, columns, held):
        if method in won and won[method]["none"] > 0.5:
            told = ", ".join(f"{c} {won[method][c]:.2f}" for c in columns)
            lines.append([claim, told, "yes" if held(won[method]) else "no"])

    hard = ("FGSM", "ATLA", "PA-AD")
    judge("plain QMIX falls to about 0", "QMIX", hard, lambda of: max(of[c] for c in hard) < 0.1)
    kept = ("none", "FGSM")
    if "QMIX" in won:
        judge(
            "FGSM training costs no clean wins",
            "FGSM training",
            kept,
            lambda of: of["none"] > won["QMIX"]["none"] - 0.05,
        )
    others = ("FGSM", "PA-AD")
    judge(
        "ATLA's team withstands no other attack",
        "ATLA training",
        others,
        lambda of: max(of[c] for c in others) < 0.1,
    )
    own = "PA-AD training"
    judge("PA-AD's team withstands PA-AD", own, ("none", "PA-AD"), lambda of: of["PA-AD"] > 0.9)
    ordered = ("PA-AD training", "FGSM training", "policy regularisation", "ATLA training", "QMIX")
    known = [m for m in ordered if m in average and won[m]["none"] > 0.5]
    if len(known) > 1:
        told = ", ".join(f"{m} {average[m]:.2f}" for m in known)
        fall = all(average[a] > average[b] for a, b in itertools.pairwise(known))
        claim = f"the order by {', '.join(ATTACKED_BY)}: as listed"
        lines.append([claim, told, "yes" if fall else "no"])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


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


def costs_of(costs):
    """Return a line on what trainings cost, and how many times a plain one."""
    known = {method: statistics.median(costs[method]) for method in costs if costs[method]}
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


def report(name, cells, costs, folder):
    """Write and return the tables of one map, with their pictures.

    Args:
        name: the map's.
        cells: what :func:`test` returned.
        costs: method to CPU seconds of its trainings.
        folder: for tables and pictures.
    """
    epsilon = TASKS[name].epsilon
    heads = ("noise", "FGSM", "PGD")
    main_columns = {"none": "none"} | {head: f"{head} {epsilon:g}" for head in heads}
    main_columns |= {column: column for column in TEACHERS}
    table = table_of(cells, main_columns, f"{name}: win rate under attacks of epsilon {epsilon:g}")
    stem = name.replace(" ", "_")
    table.plot(folder / f"{stem}.png")
    grid = table_of(cells, {a: a for a in [*tests(name), *TEACHERS]}, f"{name}: all sizes")
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
    text = [f"## {name}\n\n{table.to_markdown()}\n{claims(table)}\n"]
    text += [f"### Returns, mean ± deviation of episodes\n\n{returns_of(cells, main_columns)}\n"]
    text += [f"### All sizes\n\n{grid.to_markdown()}\n", blind, moved, costs_of(costs)]
    return table, "".join([*text, *(["\nWarnings:\n\n", *spoken] if spoken else [])])


def jobs_of(names, methods, seeds, steps, episodes, chosen):
    """Return trainings and tests, those first that others need."""
    jobs = {}

    def training_of(name, method, seed):
        plan = {**asdict(TASKS[name]), "steps": steps or TASKS[name].steps}
        key = ("train", name, method, seed)
        work = partial(train, name, method, seed, plan)
        jobs[key] = evaluation.Job(
            key=key, name=folder_of(name, plan["steps"], method, seed), work=work, settings=plan
        )
        return key

    for seed in seeds:
        for name in names:
            for method in (*BASELINES, *methods):
                needed = [training_of(name, one, seed) for one in TEACHERS.values()]
                if method not in BASELINES:
                    needed.append(training_of(name, method, seed))
                plan = jobs[needed[0]].settings | {"episodes": episodes, "suite": chosen}
                key = ("test", name, method, seed)
                stem = folder_of(name, plan["steps"], method, seed).replace("/train/", "/test/")
                work = partial(test, name, method, seed, plan)
                after = list(dict.fromkeys(needed))
                jobs[key] = evaluation.Job(
                    key=key, name=stem, work=work, settings=plan, after=after
                )
    return list(jobs.values())


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
    parser.add_argument("--report", action="store_true", help="run nothing")
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
    methods = [*args.methods, *sizes]
    jobs = jobs_of(names, methods, seeds, args.steps, args.episodes, args.suite)
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    done = run(jobs, out)
    texts = []
    for name in names:
        costs = {}
        for (work, where, method, _), cell in done.items():
            if (work, where) == ("train", name) and cell["cpu_seconds"] is not None:
                costs.setdefault(method, []).append(cell["cpu_seconds"])
        tested = [cell for key, cell in done.items() if key[:2] == ("test", name)]
        if not tested:
            continue
        table, text = report(name, tested, costs, out)
        print(f"\n{table}\n")
        texts.append(text)
    if not texts:
        print(f"Nothing is finished in {out}/.")
        return
    (out / "robust_qmix.md").write_text("\n".join(texts))
    print(f"Tables, heat maps, curves and raw scores are in {out}/")


if __name__ == "__main__":
    main()
