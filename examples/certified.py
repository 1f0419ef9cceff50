"""What can be proven of QMIX on skirmish maps: certified training beside training on PGD.

    python examples/certified.py --jobs 2                 # two maps, three methods, three seeds
    python examples/certified.py --maps 3m --seeds 10     # one map, a seed that is not reported
    python examples/certified.py --report                 # tables and figures of finished cells
    python examples/certified.py --smoke                  # seconds, figures mean nothing

Trains QMIX plainly, on PGD observations, and with a loss on its certified margins. Then no attack
in a ball can change the decisions that are proven; PGD and a suite of attacks show from the other
side what is left. An episode counts as a certified win if it is won and every decision in it is
proven. What is finished is not run again when the command is given again.
"""

import argparse
import json
import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from robustmarl import algorithms, attacks, data, envs, evaluation, losses, training
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Cell, CrossTable, Curve
from robustmarl.evaluation.curves import size_curves
from robustmarl.joint import spec_of
from robustmarl.learning import adam
from robustmarl.perturbers import ObsPerturber, ZeroedObs
from robustmarl.schedules import Linear
from robustmarl.typing import RobustnessWarning

METHODS = ("plain", "PGD training", "certified training")
BLIND = "trained blind"
BASELINES = ("random", "untrained", BLIND)
SIZES = (0.0125, 0.025, 0.05, 0.1, 0.25)
ATTACKED = 0.5  # share of the episodes that PGD attacks in training
MARGIN = 0.1  # the lead in Q that certified training asks for
FIGURES = {
    "certified win": "episodes won with every decision proven",
    "proven": "decisions proven",
    "kept": "decisions that PGD-10 leaves",
    "PGD-10": "episodes won under PGD-10",
}


@dataclass(frozen=True)
class Task:
    """What differs between maps.

    Attributes:
        epsilon: size of the ball that teams are trained for.
        steps: environment steps per training.
        begin: share of them after which the certified loss's ball begins to grow.
        over: share of them over which it grows.
        weight: of the certified loss.
    """

    epsilon: float
    steps: int
    begin: float
    over: float
    weight: float


# Chosen on seed 10: see docs/methods/certified.md.
TASKS = {
    "3m": Task(0.1, 80_000, begin=0.25, over=0.5, weight=1.0),
    "3s_vs_3z": Task(0.05, 160_000, begin=0.5, over=0.375, weight=0.1),
}


class CertifiedQMIX(losses.CertifiedRegularizer, algorithms.QMIX):
    """QMIX that learns what can be proven."""


def build(method, name, task, seed):
    """Return (the team, what perturbs it while it trains)."""
    ball = LinfBall(epsilon=task.epsilon)
    settings = {
        "seed": seed,
        "optim": adam(1e-3),
        "gamma": 0.97,
        "td_lambda": 0.8,
        "target_update": 50,
        "target_unit": "updates",
        "exploration": Linear(1.0, 0.05, over=3 * task.steps // 8, unit="env_steps"),
    }
    spec = spec_of(envs.skirmish(name))
    if method == "certified training":
        begin, over = round(task.begin * task.steps), round(task.over * task.steps)
        ramp = Linear(0.0, ball.epsilon, begin=begin, over=over, unit="env_steps")
        loss = losses.CertifiedLoss(ball=ball, epsilon=ramp, margin=MARGIN, weight=task.weight)
        return CertifiedQMIX.for_env(spec, certified_loss=loss, **settings), None
    perturb = {
        "PGD training": ObsPerturber(attacks.PGD(ball=ball, steps=5), episodes=ATTACKED),
        BLIND: ZeroedObs(),
    }
    return algorithms.QMIX.for_env(spec, **settings), perturb.get(method)


def trained(place, name, task, method, seed):
    """Return the team of a method, trained here or before."""
    team, perturb = build(method, name, task, seed)
    weights = place.folder_for(asdict(task)) / "weights.pt"
    if weights.exists():
        training.load_weights(team, weights)
        return team
    training.run(
        team,
        partial(envs.skirmish, name),
        env_steps=task.steps,
        num_envs=16,
        seed=seed,
        perturb=perturb,
        learn=training.OffPolicy(batch_size=16, learning_starts=16, buffer_episodes=1_000),
        log=place.log(f"{name} {method} {seed}"),
    )
    training.save_weights(team, weights)
    return team


def run_cell(place, name, task, method, seed, episodes):
    """Train and test one team; return its raw scores."""
    make, ball = partial(envs.skirmish, name), LinfBall(epsilon=task.epsilon)
    team = trained(place, name, task, method, seed)

    def won(perturb=None):
        played = evaluation.rollout(team, make, episodes=episodes, num_envs=32, perturb=perturb)
        return played.figure("battle_won").tolist()

    folds = evaluation.blindfolds(data.as_controller("certified", team, team.spec), make, team.spec)
    scores = {"clean": won()} | {fold: won(perturb) for fold, perturb in folds.items()}
    for size in SIZES:
        scores[f"PGD-10 {size:g}"] = won(attacks.PGD(ball=ball.with_epsilon(size)))
    pgd = attacks.PGD(ball=ball)
    found = evaluation.certified({"it": team}, make, ball, SIZES, attack=pgd, episodes=episodes)
    tables = {"proven": found.proven, "kept": found.kept, "certified win": found.won}
    for figure, table in tables.items():
        for size in SIZES:
            scores[f"{figure} {size:g}"] = only(table.cell("it", f"{size:g}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)
        worst = evaluation.worst_case({"it": team}, make, ball, suite="quick", episodes=episodes)
    return {"scores": scores | {"worst": only(worst.table.cell("it", "worst"))}}


def only(cell):
    """Return the scores of the one seed in a cell."""
    (scores,) = cell.scores.values()
    return scores.tolist()


def play_baseline(place, name, task, method, seed, episodes):
    """Return the scores of a team that draws its actions, has learned nothing, or never saw."""
    make = partial(envs.skirmish, name)
    if method == "random":
        team = data.RandomController(spec_of(make()))
    elif method == "untrained":
        team = build("plain", name, task, seed)[0].untrained(seed=seed)
    else:
        team = trained(place, name, task, method, seed)
    perturb = ZeroedObs() if method == BLIND else None
    played = evaluation.rollout(
        team, make, episodes=episodes, num_envs=32, seed=seed, perturb=perturb
    )
    return {"scores": {"clean": played.figure("battle_won").tolist()}}


def jobs_of(tasks, methods, seeds, episodes):
    """Return the cells of the study."""
    return [
        evaluation.Job(
            key=(name, method, seed),
            name=f"{name}/{method}-{seed}",
            work=partial(
                play_baseline if method in BASELINES else run_cell,
                name=name,
                task=task,
                method=method,
                seed=seed,
                episodes=episodes,
            ),
            settings={"task": asdict(task), "episodes": episodes},
        )
        for seed in seeds
        for name, task in tasks.items()
        for method in (*BASELINES, *methods)
    ]


def report(name, task, cells, methods, out):
    """Write a map's figure; return its table as Markdown."""
    found = {
        method: {key[2]: cell["scores"] for key, cell in cells.items() if key[:2] == (name, method)}
        for method in (*BASELINES, *methods)
    }

    def cell(method, key):
        return Cell({seed: scores[key] for seed, scores in found[method].items()})

    blind = {
        f"{method}, {fold}": {"clean": cell(method, fold)}
        for method in methods
        if found[method]
        for fold in ("zeroed", "another's")
    }
    columns = {"clean": "clean", "worst": f"worst, {task.epsilon:g}"}
    columns |= {f"certified win {size:g}": f"certified, {size:g}" for size in SIZES}
    known = [baseline for baseline in BASELINES if found[baseline]]
    rows = {baseline: {"clean": cell(baseline, "clean")} for baseline in known} | blind
    tested = [method for method in methods if found[method]]
    for method in tested:
        rows[method] = {shown: cell(method, key) for key, shown in columns.items()}
    table = CrossTable(
        cells=rows, metric="battles won", baselines=[*known, *blind], title=f"{name}"
    )
    panels = {
        label: {
            method: Curve(
                x=SIZES, estimates=[cell(method, f"{key} {size:g}").estimate for size in SIZES]
            )
            for method in tested
        }
        for key, label in FIGURES.items()
    }
    size_curves(panels, out / f"certified_{name}.png", title=name)
    return table.to_markdown()


def main():
    """Run all cells that are missing, and report on all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--maps", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=192, help="per figure and team")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/certified"), help="output folder")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    tasks, seeds, out = {name: TASKS[name] for name in args.maps}, args.seeds, args.out
    if args.smoke:
        tasks = {name: replace(task, steps=600) for name, task in list(tasks.items())[:1]}
        seeds, out, args.episodes = seeds[:1], out / "smoke", 4
    jobs = jobs_of(tasks, args.methods, seeds, args.episodes)
    run = evaluation.read_cells if args.report else partial(evaluation.run_cells, jobs=args.jobs)
    cells = run(jobs, out)
    texts = [report(name, task, cells, args.methods, out) for name, task in tasks.items()]
    (out / "certified.md").write_text("\n".join(texts))
    print("\n".join(texts))
    raw = {"/".join(map(str, key)): cell["scores"] for key, cell in cells.items()}
    (out / "certified.json").write_text(json.dumps(raw))
    print(f"Tables, figures and raw scores are in {out}/")


if __name__ == "__main__":
    main()
