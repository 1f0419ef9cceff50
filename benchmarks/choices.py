"""What a user chooses: environments side by side, steps per minibatch, threads.

    python benchmarks/choices.py [--json runs/bench/choices.json]

CPU seconds of one process, pieces in turn, medians; with threads by the clock, too, since they
share the work. Read down a column: rates of one run carry over as ratios only.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from _timing import alternate
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, data, envs
from robustmarl.envs.vector import vector_env

GAMES = {
    "3m": partial(envs.skirmish, "3m"),
    "foraging": envs.foraging,
    "spread": envs.spread,
}
SIZES = (1, 4, 16, 64, 256)
MINIBATCHES = (None, 2_000, 500, 125)
THREADS = (1, 2)


def collecting(make_env, size):
    """Return a function that collects about 2,000 steps with QMIX's agents."""
    team = algorithms.QMIX.for_env(make_env())
    collector = data.JointCollector(
        team, vector_env(make_env, size), data.EpisodeBuffer(team.spec, 512)
    )

    def play():
        with policy_within_training_step(team.policy):
            return int(collector.collect(n_step=2_000).n_collected_steps)

    return play


def learner(make_env, kind):
    """Return a learner, and a buffer with 64 episodes of its own."""
    cls = {"QMIX": algorithms.QMIX, "MAPPO": algorithms.MAPPO}[kind]
    team = cls.for_env(make_env())
    buffer = data.EpisodeBuffer(team.spec, 64)
    collector = data.JointCollector(team, vector_env(make_env, 32), buffer)
    with policy_within_training_step(team.policy):
        collector.collect(n_episode=64)
    return team, buffer


def epochs(make_env, minibatch):
    """Return a function that takes one pass over 64 episodes, and counts their steps."""
    team, buffer = learner(make_env, "MAPPO")
    steps = int(buffer.lengths.sum())

    def play():
        with policy_within_training_step(team.policy):
            team.update(buffer=buffer, batch_size=minibatch, repeat=1)
        return steps

    return play


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"collecting": {}, "minibatches": {}, "threads": {}}
    for name, make_env in GAMES.items():
        work = {str(size): collecting(make_env, size) for size in SIZES}
        found["collecting"][name] = rates = alternate(work, args.repeats)
        text = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
        print(f"{name}, steps per CPU-second by environments: {text}", flush=True)
        work = {str(size): epochs(make_env, size) for size in MINIBATCHES}
        found["minibatches"][name] = rates = alternate(work, args.repeats)
        text = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
        print(f"{name}, steps learned per CPU-second by minibatch (MAPPO): {text}", flush=True)
    for hidden in (64, 256):
        team = algorithms.QMIX.for_env(GAMES["3m"](), hidden=(hidden, hidden))
        buffer = data.EpisodeBuffer(team.spec, 64)
        collector = data.JointCollector(team, vector_env(GAMES["3m"], 32), buffer)
        with policy_within_training_step(team.policy):
            collector.collect(n_episode=64)
            for threads in THREADS:
                torch.set_num_threads(threads)
                team.update(buffer=buffer, sample_size=32)
                clock, cpu = time.perf_counter(), time.process_time()
                for _ in range(20):
                    team.update(buffer=buffer, sample_size=32)
                clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
                key = f"{hidden}-{hidden}, {threads} threads"
                found["threads"][key] = {"ms": 50 * clock, "cpu_ms": 50 * cpu}
                print(f"QMIX update, {key}: {50 * clock:.1f} ms, {50 * cpu:.1f} CPU-ms", flush=True)
        torch.set_num_threads(1)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
