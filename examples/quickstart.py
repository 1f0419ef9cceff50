"""Train a team, attack it, defend it, compare: about four minutes on two cores.

    python examples/quickstart.py                     # one training seed, foraging
    python examples/quickstart.py --seeds 10 11 12 13 14 --worst standard  # what the README reports
    python examples/quickstart.py --worst quick       # also the worst of a suite of attacks
    python examples/quickstart.py --env 3m --replay   # StarCraft-like battles, with animations
    python examples/quickstart.py --smoke             # seconds, to see that everything runs

Trains a clean team and a defended team side by side, attacks both with noise, FGSM and PGD of
the same size, sets them beside teams that are random, untrained or see nothing true, and writes
the table, its heat map, the learning curves and a report, in which episodes can be watched, into
``runs/``. Interrupted trainings continue where they were when the command is given again.
"""

import argparse
import multiprocessing
import shlex
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tianshou.algorithm.optim import TorchOptimizerFactory

from robustmarl import algorithms, attacks, envs, evaluation, losses, schedules, training
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import ObsPerturber

SMALL_ROUNDS = training.OnPolicy(steps_per_round=500, batch_size=250)


@dataclass(frozen=True)
class Task:
    """What differs between tasks.

    Attributes:
        make: builds the environment.
        epsilon: size of the attacks, in observation units.
        steps: environment steps per training.
        target: the action that FGSM and PGD push agents towards in tests; None is away from theirs.
        num_envs: environments side by side while training.
        learn: how teams learn from what they play.
        learner: settings of the algorithm.
    """

    make: object
    epsilon: float
    steps: int
    target: int | None = None
    num_envs: int = 10
    learn: training.OnPolicy = SMALL_ROUNDS
    learner: dict = field(default_factory=dict)


# Without its mask, which tells even the blind where food and walls are, and too short to come upon
# food by chance. A cell is 1: who rounds what it sees cannot be fooled by less than a half, so that
# there is something to be learnt.
FORAGING = partial(envs.foraging_from_id, "Foraging-5x5-2p-1f-coop-v3", mask=False, horizon=20)
TASKS = {
    "foraging": Task(FORAGING, 0.25, 200_000),
    "3m": Task(
        partial(envs.skirmish, "3m"),
        0.25,
        150_000,
        target=4,  # walk east, into the enemy: away from their own is often to another enemy
        num_envs=32,
        learn=training.OnPolicy(steps_per_round=2000, batch_size=500, epochs=5),
        learner={
            "optim": TorchOptimizerFactory(torch.optim.Adam, lr=1e-3, eps=1e-5, fused=True),
            "entropy_coef": 0.003,
        },
    ),
    "spread": Task(envs.spread, 0.5, 200_000),
}


FILMED = 4  # episodes: one alone may be luck


class RobustMAPPO(losses.PolicyRegularizer, algorithms.MAPPO):
    """The defence: multi-agent PPO that is to act alike on what an attack makes of observations."""


def build(team, task, steps, seed):
    """Return (algorithm, what perturbs it while it trains)."""
    env = task.make()
    if team == "clean":
        return algorithms.MAPPO.for_env(env, seed=seed, **task.learner), None
    attack = attacks.PGD(ball=LinfBall(epsilon=task.epsilon), steps=3)
    rounds = steps // task.learn.steps_per_round
    policy_loss = losses.PolicyLoss(
        attack=attack,
        form="kl",
        weight=schedules.Linear(0.0, 0.5, over=max(1, 3 * rounds // 8), begin=rounds // 4),
    )
    algorithm = RobustMAPPO.for_env(env, seed=seed, policy_loss=policy_loss, **task.learner)
    # Attacks grow once the team can do something, in every other episode: a team that is attacked
    # from the start, or always, learns slowly if at all.
    growing = schedules.Linear(
        0.0, task.epsilon, over=3 * steps // 8, begin=steps // 4, unit="env_steps"
    )
    return algorithm, ObsPerturber(attack, episodes=0.5, epsilon=growing)


def train(job):
    """Train one team with one seed in a process of its own; return its learning curves."""
    team, name, seed, steps, folder, position = job
    torch.set_num_threads(1)
    task = TASKS[name]
    algorithm, perturb = build(team, task, steps, seed)
    history = training.run(
        algorithm,
        task.make,
        env_steps=steps,
        num_envs=task.num_envs,
        seed=seed,
        perturb=perturb,
        learn=task.learn,
        log=training.Log(
            folder / f"{team}-{seed}",
            resume=True,
            progress=f"{team} {seed}",
            bar_position=position,
        ),
    )
    return team, seed, history


def recorded(teams, task, attack, seed):
    """Play the table's first episodes again, attacked or not, and keep them step by step."""
    return [
        evaluation.record(
            teams[team][seed], task.make, perturb=perturb, episodes=FILMED, title=title
        )
        for title, team, perturb in (
            ("clean team, no attack", "clean", None),
            ("clean team, under attack", "clean", attack),
            ("defended team, under attack", "defended", attack),
        )
    ]


def main():
    """Run the whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    first = next(iter(TASKS))
    parser.add_argument("--env", choices=TASKS, default=first, help=f"task (default: {first})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    parser.add_argument("--steps", type=int, help="environment steps per training")
    parser.add_argument("--episodes", type=int, default=200, help="test episodes per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="output folder")
    parser.add_argument("--worst", choices=("quick", "standard"), help="evaluate the worst case")
    parser.add_argument("--replay", action="store_true", help="write GIFs of a few episodes, too")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)

    task = TASKS[args.env]
    steps = 2_000 if args.smoke else args.steps or task.steps
    episodes = 20 if args.smoke else args.episodes
    folder = args.out / (f"{args.env}-{steps}" + ("-smoke" if args.smoke else ""))
    jobs = [
        (team, args.env, seed, steps, folder, i % 2)
        for i, (seed, team) in enumerate((s, t) for s in args.seeds for t in ("clean", "defended"))
    ]
    print(f"Training {len(jobs)} teams on {args.env}, {steps:,} steps each, two at a time.")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(train, jobs, chunksize=1)
        pool.close()  # workers end by themselves, with what they hold put away
        pool.join()

    metric = next((name for name in results[0][2].train if name != "return"), "return")
    teams, histories = {"clean": {}, "defended": {}}, {"clean": [], "defended": []}
    for team, seed, history in results:
        algorithm, _ = build(team, task, steps, seed)
        training.load_weights(algorithm, folder / f"{team}-{seed}" / "checkpoint.pt")
        teams[team][seed] = algorithm
        histories[team].append(history)

    ball = LinfBall(epsilon=task.epsilon)
    pgd = attacks.PGD(ball=ball, target=task.target)
    table = evaluation.crossplay(
        teams,
        {
            "none": None,
            "noise": attacks.UniformNoise(ball=ball),
            "FGSM": attacks.PGD.fgsm(ball, target=task.target),
            "PGD": pgd,
        },
        task.make,
        episodes=episodes,
        metric=metric,
        num_envs=50,
        blind=True,
        title=f"{args.env}: {metric} under attacks of epsilon {task.epsilon}",
    )
    print(f"\n{table}\n")
    table.plot(folder / "crossplay.png")
    table.to_json(folder / "crossplay.json")
    (folder / "crossplay.md").write_text(table.to_markdown())
    evaluation.learning_curves(
        {team: [history.curve(metric) for history in of] for team, of in histories.items()},
        folder / "learning_curves.png",
        xlabel="environment steps",
        ylabel=f"{metric} while training",
        title=f"{args.env} (the defended team is attacked in half of its episodes)",
        limits=None if metric == "return" else (0.0, 1.0),
    )
    found = [table]
    if args.worst:
        worst = evaluation.worst_case(
            teams,
            task.make,
            ball,
            suite=args.worst,
            episodes=episodes,
            metric=metric,
            title=f"{args.env}: {metric}, worst of {args.worst} at epsilon {task.epsilon}",
            progress=True,
        )
        print(f"{worst}\n")
        found.append(worst)
        worst.to_json(folder / f"worst_{args.worst}.json")
        (folder / f"worst_{args.worst}.md").write_text(worst.to_markdown())
    recordings = recorded(teams, task, pgd, args.seeds[0])
    if args.replay:
        for name, recording in zip(("clean", "attacked", "defended"), recordings, strict=True):
            recording.save(folder / f"{name}.gif", fps=6.0)
    path = evaluation.report(
        found,
        folder / "report.html",
        curves=histories,
        recordings=recordings,
        title=f"{args.env}: a clean and a defended team, attacked",
        command=shlex.join(["python", *sys.argv]),
    )
    print(f"Table, heat map and learning curves are in {folder}/")
    print(f"To see all of it, and to watch episodes, open {path.resolve().as_uri()}")


if __name__ == "__main__":
    main()
