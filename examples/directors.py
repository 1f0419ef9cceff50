"""Directors against QMIX teams that stand still: which attack finds what is left to find.

    python examples/directors.py                    # five seeds, two CPU-minutes each
    python examples/directors.py --seeds 1 --smoke  # seconds, figures mean nothing

For each seed it trains QMIX on a skirmish map under FGSM, then PA-AD and ATSA against it as it is,
each with a generator of one step and of ten. The table has the share of battles won under each
attack, beside three teams that learned nothing: a random and an untrained one, and a script that
sees its action mask alone. Raw scores are kept in the output folder, a file per seed, and are not
played again.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from robustmarl import adversaries, algorithms, attacks, data, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.skirmish.layout import ATTACK, EAST, NO_OP
from robustmarl.joint import spec_of
from robustmarl.learning import adam
from robustmarl.perturbers import stor
from robustmarl.schedules import Linear

QUIET = training.Log(progress=False)
SHARED = {"optim": adam(1e-3), "gamma": 0.97, "td_lambda": 0.8}
TARGETS = {"target_update": 50, "target_unit": "updates"}


def blind(context):
    """Return actions (E, N) by the mask alone: shoot the first that one may, else walk east."""
    can = context.mask[..., ATTACK:]
    act = torch.where(can.any(-1), ATTACK + can.int().argmax(-1), EAST)
    return torch.where(context.mask.gather(-1, act.unsqueeze(-1)).squeeze(-1), act, first(context))


def first(context):
    """Return the first action but the no-op that each agent may take, else the no-op, (E, N)."""
    may = context.mask.clone()
    may[..., NO_OP] = False
    return torch.where(may.any(-1), may.int().argmax(-1), NO_OP)


def play_seed(args, seed):
    """Return which battles each team wins under each attack, after training it on ``seed``."""
    make = partial(envs.skirmish, args.map)
    spec, ball = spec_of(make()), LinfBall(epsilon=args.epsilon, low=-1.0, high=1.0)
    learn = training.OffPolicy(batch_size=16, learning_starts=16, buffer_episodes=1_000)
    run = partial(training.run, make_env=make, num_envs=16, seed=seed, learn=learn, log=QUIET)

    fades = Linear(1.0, 0.05, over=max(1, 3 * args.team_steps // 8), unit="env_steps")
    team = algorithms.QMIX.for_env(
        spec, hidden=(64, 64), exploration=fades, seed=seed, **SHARED, **TARGETS
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
    for name, steps in (("1 step", 1), ("10 steps", 10)):
        explores = Linear(1.0, 0.05, over=half, unit="env_steps")
        cools = Linear(0.5, 0.05, over=half, unit="env_steps")
        directors = {
            "PA-AD": partial(adversaries.PAAD.for_env, exploration=explores),
            "ATSA": partial(adversaries.ATSA.for_env, alpha=cools, critic_optim=adam(1e-3)),
        }
        for method, build in directors.items():
            adversary = build(spec, stor(ball, steps=steps), seed=seed, **SHARED, **TARGETS)
            attack = training.AdversarialTraining(team, adversary, team_every=None)
            run(attack, env_steps=args.director_steps)
            columns[f"{method}, {name}"] = adversary.deployed()

    script = data.ScriptedController(spec, blind)  # sees no observation: no attack reaches it
    rows = {
        "QMIX under FGSM": (team, columns),
        "untrained": (team.untrained(seed), {"clean": None, "PGD-10": columns["PGD-10"]}),
        "random": (data.RandomController(spec), {"clean": None}),
        "blind script": (script, {"clean": None}),
    }
    won = {}
    for row, (policy, tried) in rows.items():
        for name, perturb in tried.items():
            played = evaluation.rollout(
                policy, make, episodes=args.episodes, perturb=perturb, num_envs=32, seed=10_000
            )
            scores = played.figure("battle_won").astype(int).tolist()
            won.setdefault(row, {})[name] = scores
    return won


def main() -> None:
    """Train, attack, and print the shares of battles won."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--map", default="3m")
    parser.add_argument("--epsilon", type=float, default=0.25)
    parser.add_argument("--team-steps", type=int, default=50_000)
    parser.add_argument("--director-steps", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=192)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=Path("runs/directors"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smoke:
        args.team_steps = args.director_steps = 500
        args.episodes, args.seeds = 4, args.seeds[:1]
    args.out.mkdir(parents=True, exist_ok=True)

    won = {}
    settings = {key: value for key, value in vars(args).items() if key not in ("seeds", "out")}
    for seed in args.seeds:
        path = args.out / f"{args.map}_{seed}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != settings:
            kept = {"settings": settings, "seed": seed, "won": play_seed(args, seed)}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(kept) + "\n")
            part.replace(path)
        for row, scores in kept["won"].items():
            for name, battles in scores.items():
                won.setdefault((row, name), {})[seed] = battles
    for (row, name), by_seed in won.items():
        each = " ".join(f"{sum(scores) / len(scores):.2f}" for scores in by_seed.values())
        print(f"{row:16} {name:16} {evaluation.interval(by_seed)}   by seed {each}")


if __name__ == "__main__":
    main()
