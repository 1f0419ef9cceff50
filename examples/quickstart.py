"""Train a team, attack it, defend it, compare: about two minutes on two cores.

    python examples/quickstart.py                 # one training seed
    python examples/quickstart.py --seeds 0 1 2   # what the README reports, five minutes
    python examples/quickstart.py --smoke         # seconds, to see that everything runs

Trains a clean team and a defended team side by side, attacks both with noise, FGSM and PGD of
the same size, and writes the table, its heat map and the learning curves into ``runs/``.
Interrupted trainings continue where they were when the command is given again.
"""

import argparse
import multiprocessing
from functools import partial
from pathlib import Path

import torch

from robustmarl import algorithms, attacks, envs, evaluation, losses, schedules, training
from robustmarl.attacks import ObsPerturber
from robustmarl.perturbation import LinfBall

# Per task: how it is built, the attack's size in observation units, and steps per training.
TASKS = {
    "foraging": (partial(envs.foraging_from_id, "Foraging-5x5-2p-1f-coop-v3"), 1.0, 100_000),
    "foraging-8x8": (partial(envs.foraging_from_id, "Foraging-8x8-2p-1f-coop-v3"), 1.0, 400_000),
    "spread": (envs.spread, 0.5, 200_000),
}


class RobustMAPPO(losses.ActionLossRegularizer, algorithms.MAPPO):
    """The defence: multi-agent PPO with RoMFAC's action loss."""


def build(team, make_env, epsilon, steps, seed):
    """Return (algorithm, what perturbs it while it trains)."""
    if team == "clean":
        return algorithms.MAPPO.for_env(make_env(), seed=seed), []
    ball = LinfBall(epsilon=epsilon)
    rounds = steps // 500
    action_loss = losses.ActionLoss(
        attack=attacks.PGD(ball=ball, steps=3),
        weight=schedules.Linear(0.0, 0.1, over=max(1, rounds // 4), begin=rounds // 4),
    )
    algorithm = RobustMAPPO.for_env(make_env(), seed=seed, action_loss=action_loss)
    # Every other episode is attacked while training: learning from attacked ones alone is slow.
    return algorithm, [ObsPerturber(attacks.PGD(ball=ball, steps=3), episodes=0.5)]


def train(job):
    """Train one team with one seed in a process of its own; return its learning curves."""
    team, task, seed, steps, folder, position = job
    torch.set_num_threads(1)
    make_env, epsilon, _ = TASKS[task]
    algorithm, perturb = build(team, make_env, epsilon, steps, seed)
    history = training.run(
        algorithm,
        make_env,
        env_steps=steps,
        seed=seed,
        perturb=perturb,
        steps_per_round=500,
        batch_size=250,
        logdir=folder / f"{team}-{seed}",
        resume=True,
        progress=f"{team} {seed}",
        bar_position=position,
    )
    return team, seed, history


def main():
    """Run the whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=TASKS, default="foraging", help="task (default: foraging)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    parser.add_argument("--steps", type=int, help="environment steps per training")
    parser.add_argument("--episodes", type=int, default=200, help="test episodes per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)

    make_env, epsilon, steps = TASKS[args.env]
    steps = 2_000 if args.smoke else args.steps or steps
    episodes = 20 if args.smoke else args.episodes
    folder = args.out / (f"{args.env}-{steps}" + ("-smoke" if args.smoke else ""))
    jobs = [
        (team, args.env, seed, steps, folder, i % 2)
        for i, (seed, team) in enumerate((s, t) for s in args.seeds for t in ("clean", "defended"))
    ]
    print(f"Training {len(jobs)} teams on {args.env}, {steps:,} steps each, two at a time.")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(train, jobs, chunksize=1)

    metric = "success" if "success" in results[0][2].train else "return"
    teams, curves = {"clean": {}, "defended": {}}, {"clean": [], "defended": []}
    for team, seed, history in results:
        algorithm, _ = build(team, make_env, epsilon, steps, seed)
        training.load_weights(algorithm, folder / f"{team}-{seed}" / "checkpoint.pt")
        teams[team][seed] = algorithm
        curves[team].append(history.curve(metric))

    ball = LinfBall(epsilon=epsilon)
    table = evaluation.crossplay(
        teams,
        {
            "none": None,
            "noise": attacks.UniformNoise(ball=ball),
            "FGSM": attacks.PGD.fgsm(ball),
            "PGD": attacks.PGD(ball=ball),
        },
        make_env,
        episodes=episodes,
        metric=metric,
        title=f"{args.env}: {metric} under attacks of epsilon {epsilon}",
    )
    print(f"\n{table}\n")
    table.plot(folder / "crossplay.png")
    table.to_json(folder / "crossplay.json")
    (folder / "crossplay.md").write_text(table.to_markdown())
    evaluation.learning_curves(
        curves,
        folder / "learning_curves.png",
        xlabel="environment steps",
        ylabel=f"{metric} while training",
        title=f"{args.env} (the defended team is attacked in half of its episodes)",
    )
    print(f"Table, heat map and learning curves are in {folder}/")


if __name__ == "__main__":
    main()
