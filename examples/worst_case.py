"""What a trained team withstands: the worst case over a suite of attacks, ten minutes or so.

    python examples/worst_case.py                     # a clean and a defended team on 3m
    python examples/worst_case.py --map 3s_vs_3z      # a map that cannot be won blind
    python examples/worst_case.py --epsilon 0.1       # weaker attacks
    python examples/worst_case.py --agents 1          # on the worst agent only
    python examples/worst_case.py --smoke             # seconds, figures mean nothing

Trains QMIX without attack and under PGD, attacks both with the suite ``standard``, and prints every
attack's figure, the worst, and what is to be doubted. Teams are kept in the output folder and are
not trained again.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from robustmarl import algorithms, attacks, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.learning import adam
from robustmarl.perturbers import ObsPerturber
from robustmarl.schedules import Linear


def trained(args, name, ball):
    """Return a QMIX team for each seed, trained without attack or, ``defended``, under PGD."""
    make, teams = partial(envs.skirmish, args.map), {}
    for seed in args.seeds:
        fades = Linear(1.0, 0.05, over=max(1, 3 * args.steps // 8), unit="env_steps")
        teams[seed] = algorithms.QMIX.for_env(
            make(),
            hidden=(64, 64),
            exploration=fades,
            optim=adam(1e-3),
            gamma=0.97,
            td_lambda=0.8,
            target_update=50,
            target_unit="updates",
            seed=seed,
        )
        pgd = ObsPerturber(attacks.PGD(ball=ball, steps=5), episodes=0.5)
        folder = args.out / f"{args.map}-{args.steps}" / f"{name}-{seed}"
        if name == "defended":
            folder = folder.with_name(f"{folder.name}-{args.epsilon:g}")
        training.run(
            teams[seed],
            make,
            env_steps=args.steps,
            num_envs=16,
            seed=seed,
            perturb=pgd if name == "defended" else None,
            learn=training.OffPolicy(batch_size=16, learning_starts=16, buffer_episodes=1_000),
            log=training.Log(folder, resume=True, progress=f"{name} {seed}"),
        )
    return teams


def main() -> None:
    """Train, attack, and print what is left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--map", default="3m")
    parser.add_argument("--epsilon", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps per team")
    parser.add_argument("--agents", type=int, help="attack so many only, the worst ones")
    parser.add_argument("--attacked-steps", type=int, help="attack so many steps of an episode")
    parser.add_argument("--episodes", type=int, default=200, help="per attack")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/worst_case"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    suite, episodes = evaluation.standard(), args.episodes
    if args.smoke:
        args.steps, args.seeds, episodes = 500, args.seeds[:1], 4
        suite = evaluation.quick()
    ball = LinfBall(epsilon=args.epsilon, low=-1.0, high=1.0)
    teams = {name: trained(args, name, ball) for name in ("clean", "defended")}
    found = evaluation.worst_case(
        teams,
        partial(envs.skirmish, args.map),
        ball,
        suite=suite,
        agents=args.agents,
        steps=args.attacked_steps,
        episodes=episodes,
        choice_episodes=max(1, episodes // 2),
        title=f"{args.map}, epsilon {args.epsilon:g}",
        progress=True,
    )
    print(f"\n{found}")
    name = f"{args.map}-{args.epsilon:g}"
    found.to_json(args.out / f"{name}.json")
    (args.out / f"{name}.md").write_text(found.to_markdown())
    print(f"Raw scores and the table are in {args.out}/")


if __name__ == "__main__":
    main()
