"""What a user chooses: environments side by side, rounds, steps per minibatch, threads.

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
SEGMENTS = (None, 16, 64)


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


def rounds(make_env, length, learns):
    """Return a function that plays a round with MAPPO in 32 environments, and may learn from it.

    Args:
        make_env: the environment.
        length: of its segments; None plays one whole episode in each environment.
        learns: whether it takes an epoch in minibatches of about 500 steps, too.
    """
    team = algorithms.MAPPO.for_env(make_env())
    buffer = data.EpisodeBuffer(team.spec, 32 if length is None else 32 * (2 + length // 5))
    collector = data.JointCollector(
        team, vector_env(make_env, 32), buffer, segments=length is not None
    )
    wanted = {"n_episode": 32} if length is None else {"n_step": 32 * length}

    def play():
        steps = 0
        with policy_within_training_step(team.policy):
            while steps < 2_000:
                steps += int(collector.collect(**wanted).n_collected_steps)
                if learns:
                    team.update(buffer=buffer, batch_size=500, repeat=1)
                buffer.reset()
        return steps

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
    found = {"collecting": {}, "rounds": {}, "minibatches": {}, "threads": {}}
    for name, make_env in GAMES.items():
        work = {str(size): collecting(make_env, size) for size in SIZES}
        found["collecting"][name] = rates = alternate(work, args.repeats)
        text = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
        print(f"{name}, steps per CPU-second by environments: {text}", flush=True)
        for learns in (False, True):
            work = {str(length): rounds(make_env, length, learns) for length in SEGMENTS}
            did = "played and learned" if learns else "played"
            found["rounds"][f"{name}, {did}"] = rates = alternate(work, args.repeats)
            text = ", ".join(f"{length}: {rate:,.0f}" for length, rate in rates.items())
            print(f"{name}, steps {did} per CPU-second by segment (MAPPO): {text}", flush=True)
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
