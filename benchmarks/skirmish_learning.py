"""What teams that learn win on skirmish maps, some seeds: MAPPO as in the quickstart, or QMIX.

    python benchmarks/skirmish_learning.py --maps 3m 8m --seeds 0 1 2 [--steps 150000]
    python benchmarks/skirmish_learning.py --algorithm QMIX --maps 2s_vs_1sc --steps 500000

Prints wins per training seed, CPU seconds included, and the mean with its interval.
"""

import argparse
import time
from functools import partial

import torch
from tianshou.algorithm.optim import TorchOptimizerFactory

from robustmarl import algorithms, envs, evaluation, schedules, training


def mappo(env, seed):
    """Return a team, and how it learns."""
    team = algorithms.MAPPO.for_env(
        env,
        seed=seed,
        optim=TorchOptimizerFactory(torch.optim.Adam, lr=1e-3, eps=1e-5, fused=True),
        entropy_coef=0.003,
    )
    return team, training.OnPolicy(steps_per_round=2000, batch_size=500, epochs=5)


def qmix(env, seed):
    """Return a team that plans far and explores long, and how it learns."""
    team = algorithms.QMIX.for_env(
        env,
        seed=seed,
        optim=TorchOptimizerFactory(torch.optim.Adam, lr=1e-3, fused=True),
        gamma=0.99,
        td_lambda=0.8,
        target_update=50,
        target_unit="updates",
        exploration=schedules.Linear(1.0, 0.05, over=100_000, unit="env_steps"),
    )
    return team, training.OffPolicy(batch_size=16, buffer_episodes=3000)


ALGORITHMS = {"MAPPO": mappo, "QMIX": qmix}


def won(name, algorithm, seed, steps, episodes):
    """Return the battles won or not after training on one map with one seed."""
    make_env = partial(envs.skirmish, name)
    team, learn = ALGORITHMS[algorithm](make_env(), seed)
    quiet = training.Log(progress=False)
    training.run(team, make_env, env_steps=steps, num_envs=32, seed=seed, learn=learn, log=quiet)
    found = evaluation.rollout(team, make_env, episodes=episodes, num_envs=64)
    return found.figure("battle_won")


def main():
    """Train on every map with every seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--maps", nargs="+", default=["3m"])
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="MAPPO")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--episodes", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.maps:
        wins = {}
        for seed in args.seeds:
            begun = time.process_time()
            wins[seed] = won(name, args.algorithm, seed, args.steps, args.episodes)
            cpu = time.process_time() - begun
            print(f"{name}, seed {seed}: {wins[seed].mean():.2f}, {cpu:.0f} CPU-s", flush=True)
        print(f"{name}: {evaluation.interval(wins)}", flush=True)


if __name__ == "__main__":
    main()
