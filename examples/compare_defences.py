"""Which defence buys what: adversarial training, action loss, policy regularisation.

    python examples/compare_defences.py --seeds 0 1 2      # about ten minutes on two cores
    python examples/compare_defences.py --smoke            # seconds

Trains the same MAPPO team with every defence on a small foraging task and attacks all of them with
noise, FGSM and PGD of the same size, and with PGD of half and twice the size they were trained
for. Interrupted trainings continue where they were when the command is given again.
"""

import argparse
import multiprocessing
from pathlib import Path

import torch

from robustmarl import (
    algorithms,
    attacks,
    envs,
    evaluation,
    losses,
    perturbers,
    schedules,
    training,
)
from robustmarl.budgets import LinfBall

EPSILON = 1.0  # one cell of the field
BALL = LinfBall(epsilon=EPSILON)
ROUND = 500  # steps between updates


class ActionLossMAPPO(losses.ActionLossRegularizer, algorithms.MAPPO):
    """MAPPO with RoMFAC's action loss."""


class PolicyLossMAPPO(losses.PolicyRegularizer, algorithms.MAPPO):
    """MAPPO with SA-MDP's KL regularisation."""


def make_env():
    """Return the task."""
    return envs.foraging_from_id("Foraging-5x5-2p-1f-coop-v3")


def build(method, rounds, seed):
    """Return (algorithm, what perturbs it while it trains)."""
    pgd = attacks.PGD(ball=BALL, steps=3)
    quarter = max(1, rounds // 4)
    ramp = schedules.Linear(0.0, 0.1, over=quarter, begin=quarter)
    plain = algorithms.MAPPO
    if method == "clean":
        return plain.for_env(make_env(), seed=seed), None
    if method == "FGSM training":
        fgsm = attacks.PGD.fgsm(BALL)
        return plain.for_env(make_env(), seed=seed), perturbers.ObsPerturber(fgsm, episodes=0.5)
    if method == "PGD training":
        return plain.for_env(make_env(), seed=seed), perturbers.ObsPerturber(pgd, episodes=0.5)
    if method == "policy loss (KL)":
        start = attacks.PGD(ball=BALL, steps=3, random_start=True)  # KL is flat at the centre
        loss = losses.PolicyLoss(attack=start, weight=ramp, form="kl")
        return PolicyLossMAPPO.for_env(make_env(), seed=seed, policy_loss=loss), None
    weight = ramp
    if method == "action loss, repeated":
        weight = schedules.Repetitive(0.1, warmup=quarter, period=quarter, unit="updates")
    loss = losses.ActionLoss(attack=pgd, weight=weight)
    return ActionLossMAPPO.for_env(make_env(), seed=seed, action_loss=loss), None


METHODS = (
    "clean",
    "FGSM training",
    "PGD training",
    "action loss",
    "action loss, repeated",
    "policy loss (KL)",
)


def train(job):
    """Train one team with one seed in a process of its own."""
    method, seed, steps, folder, position = job
    torch.set_num_threads(1)
    algorithm, perturb = build(method, steps // ROUND, seed)
    training.run(
        algorithm,
        make_env,
        env_steps=steps,
        seed=seed,
        perturb=perturb,
        learn=training.OnPolicy(steps_per_round=ROUND, batch_size=250),
        log=training.Log(
            folder / f"{method}-{seed}",
            resume=True,
            progress=f"{method} {seed}",
            bar_position=position,
        ),
    )


def main():
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--steps", type=int, default=100_000, help="steps per training")
    parser.add_argument("--episodes", type=int, default=200, help="test episodes per cell")
    parser.add_argument("--out", type=Path, default=Path("runs/defences"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, steps, episodes = args.seeds, args.steps, args.episodes
    if args.smoke:
        seeds, steps, episodes = seeds[:1], 1_000, 10
    folder = args.out / str(steps)
    jobs = [
        (method, seed, steps, folder, i % 2)
        for i, (seed, method) in enumerate((s, m) for s in seeds for m in METHODS)
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for _ in pool.imap_unordered(train, jobs):
            pass
        pool.close()
        pool.join()
    teams = {}
    for method in METHODS:
        for seed in seeds:
            algorithm, _ = build(method, steps // ROUND, seed)
            training.load_weights(algorithm, folder / f"{method}-{seed}" / "checkpoint.pt")
            teams.setdefault(method, {})[seed] = algorithm
    pgd = attacks.PGD(ball=BALL)
    table = evaluation.crossplay(
        teams,
        {
            "none": None,
            "noise": attacks.UniformNoise(ball=BALL),
            "FGSM": attacks.PGD.fgsm(BALL),
            "PGD": pgd,
            "PGD / 2": pgd.with_epsilon(EPSILON / 2),
            "PGD x 2": pgd.with_epsilon(2 * EPSILON),
        },
        make_env,
        episodes=episodes,
        title=f"Defences on foraging, attacks of epsilon {EPSILON}",
    )
    print(f"\n{table}\n")
    table.plot(folder / "defences.png")
    table.to_json(folder / "defences.json")
    (folder / "defences.md").write_text(table.to_markdown())


if __name__ == "__main__":
    main()
