"""Directors against a QMIX team that stands still: which attack finds what is left to find.

    python examples/directors.py            # minutes
    python examples/directors.py --smoke    # seconds, figures mean nothing

Trains QMIX on a skirmish map under FGSM, then PA-AD and ATSA against it as it is, each with a
generator of one step and of ten, and prints how many battles it wins under each attack. Which
battles were won is kept in ``won.json`` of the output folder, for each attack.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from robustmarl import adversaries, algorithms, attacks, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.learning import adam
from robustmarl.perturbers import stor
from robustmarl.schedules import Linear

QUIET = training.Log(progress=False)
SHARED = {"optim": adam(1e-3), "gamma": 0.97, "td_lambda": 0.8}
TARGETS = {"target_update": 50, "target_unit": "updates"}


def main() -> None:
    """Train, attack, and print the shares of battles won."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--epsilon", type=float, default=0.25)
    parser.add_argument("--team-steps", type=int, default=80_000)
    parser.add_argument("--director-steps", type=int, default=25_000)
    parser.add_argument("--episodes", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/directors"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    if args.smoke:
        args.team_steps = args.director_steps = 500
        args.episodes = 4
    make = partial(envs.skirmish, args.map)
    ball = LinfBall(epsilon=args.epsilon, low=-1.0, high=1.0)
    learn = training.OffPolicy(batch_size=16, learning_starts=16, buffer_episodes=1_000)
    run = partial(training.run, make_env=make, num_envs=16, seed=args.seed, learn=learn, log=QUIET)

    fades = Linear(1.0, 0.05, over=max(1, 3 * args.team_steps // 8), unit="env_steps")
    team = algorithms.QMIX.for_env(
        make(), hidden=(64, 64), exploration=fades, seed=args.seed, **SHARED, **TARGETS
    )
    fgsm = attacks.PGD.fgsm(ball)
    run(team, env_steps=args.team_steps, perturb=fgsm)

    columns = {
        "clean": None,
        "noise": attacks.UniformNoise(ball=ball),
        "FGSM": fgsm,
        "PGD-10": attacks.PGD(ball=ball, random_start=True),
    }
    half = max(1, args.director_steps // 2)
    for name, steps in (("1", 1), ("10", 10)):
        fades = Linear(1.0, 0.05, over=half, unit="env_steps")
        cools = Linear(0.5, 0.05, over=half, unit="env_steps")
        directors = {
            "PA-AD": partial(adversaries.PAAD.for_env, exploration=fades),
            "ATSA": partial(adversaries.ATSA.for_env, alpha=cools, critic_optim=adam(1e-3)),
        }
        for method, build in directors.items():
            adversary = build(make(), stor(ball, steps=steps), seed=args.seed, **SHARED, **TARGETS)
            attack = training.AdversarialTraining(team, adversary, team_every=None)
            run(attack, env_steps=args.director_steps)
            columns[f"{method}, {name} step{'s' if steps > 1 else ''}"] = adversary.deployed()

    won: dict[str, list[bool]] = {}
    for name, perturb in columns.items():
        played = evaluation.rollout(
            team, make, episodes=args.episodes, perturb=perturb, num_envs=32, seed=10_000
        )
        won[name] = (played.metrics["battle_won"] > 0).tolist()
        print(f"{name:18} {sum(won[name]) / len(won[name]):.2f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {"won": won} | {name: str(value) for name, value in vars(args).items()}
    (args.out / "won.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
