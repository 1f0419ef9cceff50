"""What VDN, QMIX and QPLEX earn in the two-step and the climbing game.

    python benchmarks/matrix_games.py [--json docs/data/matrix_games.json]  # six CPU-minutes

Each learns from 256 random episodes, 500 updates on batches of 64, then plays one greedy episode:
both games are deterministic. Beside them: a random team, and untrained ones. Nothing can be seen in
either game that the step does not tell, so that a blind team is no baseline here.
"""

import argparse
import json
from pathlib import Path

import torch
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, data, envs, evaluation
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.learning import adam

GAMES = {"two-step": envs.TwoStepGame, "climbing": envs.climbing}
LEARNERS = {"VDN": algorithms.VDN, "QMIX": algorithms.QMIX, "QPLEX": algorithms.QPLEX}


def make_team(kind, game, seed):
    """Return a team that plays at random while it is told to explore."""
    return kind.for_env(
        game(),
        seed=seed,
        hidden=(32,),
        exploration=1.0,
        target_update=50,
        target_unit="updates",
        optim=adam(5e-3),
    )


def learned(kind, game, seed, updates):
    """Return a team after learning from random episodes."""
    team = make_team(kind, game, seed)
    buffer = data.EpisodeBuffer(team.spec, 256, seed=seed)
    collector = data.JointCollector(team, JointVectorEnv(game, 64), buffer, seed=seed)
    with policy_within_training_step(team.policy):
        collector.collect(n_episode=256)
        for _ in range(updates):
            team.update(buffer=buffer, sample_size=64)
    return team


def earned(team, game, episodes=1):
    """Return the returns of greedy episodes, (episodes,)."""
    return evaluation.rollout(team, game, episodes=episodes, num_envs=min(episodes, 50)).returns


def main():
    """Train, play, and print a line per game and learner."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10, 20)))
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, game in GAMES.items():
        chance = earned(data.RandomController(spec_of(game())), game, episodes=1000)
        found[name] = {"random": {"0": chance.tolist()}}
        print(f"{name:10} random           {evaluation.interval([chance])}", flush=True)
        for learner, kind in LEARNERS.items():
            for row, updates in ((f"untrained {learner}", 0), (learner, args.updates)):
                by_seed = {
                    seed: earned(learned(kind, game, seed, updates), game).tolist()
                    for seed in args.seeds
                }
                found[name][row] = by_seed
                each = " ".join(f"{returns[0]:g}" for returns in by_seed.values())
                print(f"{name:10} {row:16} {evaluation.interval(by_seed)}  {each}", flush=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"updates": args.updates, "returns": found}) + "\n")


if __name__ == "__main__":
    main()
