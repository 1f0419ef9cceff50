"""Attacks on a team of continuous actions that stands still, by critic, director and model.

    python examples/continuous.py                    # three seeds, four CPU-minutes each
    python examples/continuous.py --seeds 0 --smoke  # seconds, figures mean nothing

For each seed it trains MADDPG on two particles that spread over two landmarks, then attacks it:
by noise, by steps away from its own action and down its critic's value, by ATLA, by PA-AD and ATSA
for continuous actions, and by PA-AD on a fifth of the steps, in truth and in a learned model. The
table has mean returns, beside those of random and untrained teams, of the team without eyes, and
of one that was trained without. Returns of all episodes are kept in the output folder, a file per
seed, and are not played again.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch

from robustmarl import adversaries, algorithms, attacks, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.joint import spec_of
from robustmarl.learning import WorldModel, adam
from robustmarl.perturbers import CriticObsPerturber, ZeroedObs, stor
from robustmarl.schedules import Linear

QUIET = training.Log(progress=False)
FAST = {"optim": adam(1e-3), "critic_optim": adam(1e-3)}
ROUND = {"batch_size": 32, "episodes_per_round": 8}


def learned(team, make, ball, args, seed):
    """Return attacks that learned against ``team``, by name."""
    spec, steps = team.spec, args.attack_steps
    learn = training.OffPolicy(learning_starts=16, updates_per_episode=2, **ROUND)
    run = partial(training.run, make_env=make, num_envs=8, seed=seed, log=QUIET)

    def trained(adversary, steps):
        attack = training.AdversarialTraining(team, adversary, team_every=None)
        run(attack, env_steps=steps, learn=learn if attack.off_policy else None)
        return adversary

    def director(generator):
        kind, optim = algorithms.MADDPG, adam(1e-3)
        settings = {"kind": kind, "optim": optim, "exploration": 0.3, "seed": seed}
        return adversaries.TeamPAAD.for_env(spec, generator, **settings)

    found = {}
    found["ATLA"] = trained(adversaries.ObsAdversaryPPO.for_env(spec, ball, seed=seed), steps)
    found["PA-AD"] = trained(director(stor(ball)), steps)
    found["PA-AD, 10 steps"] = trained(director(stor(ball, steps=10)), steps)
    soft = adversaries.ContinuousATSA.for_env(
        spec,
        stor(ball),
        recurrent=False,
        hidden=(64, 64),
        alpha=Linear(0.5, 0.05, over=max(1, steps // 2), unit="env_steps"),
        target_update=50,
        seed=seed,
        **FAST,
    )
    trained(soft, steps)
    found["PA-AD, a fifth"] = trained(director(stor(ball)), max(2 * spec.horizon, steps // 5))
    imagined = director(stor(ball))
    rounds = training.attack_in_model(
        team,
        imagined,
        make,
        WorldModel(spec, members=2, hidden=(64, 64), seed=seed),
        real_steps=max(2 * spec.horizon, steps // 5),
        imagined_steps=steps,
        rounds=2,
        updates=max(1, steps // 16),
        seed=seed,
        learn=learn,
    )
    found["PA-AD, a fifth and a model"] = imagined
    deployed = {name: adversary.deployed() for name, adversary in found.items()}
    deployed |= {"ATSA": soft.deployed(), "ATSA, greedy": soft.deployed(greedy=True)}
    return deployed, rounds[-1]


def play_seed(args, seed):
    """Return the returns of all episodes under each attack, after training the team on ``seed``."""
    make = partial(envs.spread, 2, continuous_actions=True, max_cycles=20)
    spec = spec_of(make())
    team, blind = (algorithms.MADDPG.for_env(spec, seed=seed, **FAST) for _ in range(2))
    learn = training.OffPolicy(learning_starts=32, updates_per_episode=3, **ROUND)
    run = partial(training.run, num_envs=8, seed=seed, learn=learn, log=QUIET)
    run(team, make, env_steps=args.team_steps)
    run(blind, make, env_steps=args.team_steps, perturb=ZeroedObs())

    def play(perturb, policy=team):
        given = {"episodes": args.episodes, "num_envs": 16, "seed": 10_000}
        found = evaluation.rollout(policy, make, perturb=perturb, **given)
        return found.returns.round(3).tolist()

    scores = {
        "random": play(None, RandomController(spec)),
        "untrained": play(None, team.untrained(seed)),
        "trained blind": play(ZeroedObs(), blind),
    }
    hidden = evaluation.blindfolds(team.policy, make, spec, num_envs=16)
    scores |= {name: play(one) for name, one in hidden.items()}
    scores["clean"] = play(None)
    for epsilon in args.epsilon:
        ball = LinfBall(epsilon=epsilon)
        directed, last = learned(team, make, ball, args, seed)
        columns = {
            "noise": attacks.UniformNoise(ball=ball),
            "FGSM, random start": attacks.PGD.fgsm(ball, random_start=True),
            "PGD-10, random start": attacks.PGD(ball=ball, random_start=True),
            "FGSM by the critic": CriticObsPerturber(attacks.PGD.fgsm(ball), team),
            "PGD-10 by the critic": CriticObsPerturber(attacks.PGD(ball=ball), team),
            **directed,
        }
        scores |= {f"{name} @ {epsilon}": play(one) for name, one in columns.items()}
        scores[f"(in the model) @ {epsilon}"] = [last.imagined_return]
    return scores


def main() -> None:
    """Train, attack, and print mean returns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--team-steps", type=int, default=40_000)
    parser.add_argument("--attack-steps", type=int, default=8_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/continuous"), help="output folder")
    parser.add_argument("--smoke", action="store_true", help="seconds, figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smoke:
        args.team_steps, args.attack_steps, args.episodes = 400, 400, 2
        args.epsilon, args.seeds = args.epsilon[:1], args.seeds[:1]
    args.out.mkdir(parents=True, exist_ok=True)

    found = {}
    settings = {key: value for key, value in vars(args).items() if key not in ("seeds", "out")}
    for seed in args.seeds:
        path = args.out / f"{seed}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != settings:
            kept = {"settings": settings, "seed": seed, "scores": play_seed(args, seed)}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(kept) + "\n")
            part.replace(path)
        for name, value in kept["scores"].items():
            found.setdefault(name, []).append(statistics.fmean(value))
    for name, values in found.items():
        print(f"{name:<36}", *(f"{value:7.1f}" for value in values))


if __name__ == "__main__":
    main()
