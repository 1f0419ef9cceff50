"""Stepping compiled batches of mpe2's worlds and of foraging against one after another.

    python benchmarks/batches.py [--json runs/bench/batches.json]

One thread, process CPU time, alternating pieces in one process. A step is one of an environment,
with random actions drawn before, resets included; nothing is kept.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _timing import alternate, report
from mpe2 import simple_spread_v3, simple_tag_v3

from robustmarl import envs
from robustmarl.envs.vector import JointVectorEnv

TASKS = {
    "spread": envs.spread,
    "tag": envs.tag,
    "predator_prey": envs.predator_prey,
    "foraging": envs.foraging,
}
THEIRS = {"spread": simple_spread_v3, "tag": simple_tag_v3}
SIZES = (1, 10, 64, 1_024)
DRAWN = 16  # joint actions that are played in turn


def stepped(engine, steps):
    """Return a function that takes so many steps of each environment of an engine."""
    everywhere = torch.ones(len(engine), dtype=torch.bool)
    generator, shape = torch.Generator().manual_seed(0), (DRAWN, len(engine))
    shape += engine.spec.action_shape()
    drawn = torch.rand(shape, generator=generator) * 2.0 - 1.0
    if not engine.spec.continuous:
        drawn = torch.randint(engine.spec.num_actions, shape, generator=generator)
    over, seeds = everywhere.clone(), torch.arange(len(engine))

    def play():
        for step in range(steps):
            if bool(over.any()):
                seeds.add_(len(engine))
                engine.begin(over, seeds)
            engine.advance(drawn[step % DRAWN], everywhere)
            torch.logical_or(engine.tensors["terminated"], engine.tensors["truncated"], out=over)
        return steps * len(engine)

    return play


def raw(module, steps):
    """Return a function that takes so many steps of mpe2's own parallel environment."""
    env, rng = module.parallel_env(), np.random.default_rng(0)
    env.reset(seed=0)

    def play():
        for _ in range(steps):
            if not env.agents:
                env.reset(seed=0)
            env.step({agent: int(rng.integers(5)) for agent in env.agents})
        return steps

    return play


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    path = parser.parse_args().json
    torch.set_num_threads(1)
    work = {f"{task}: mpe2, one": raw(module, 250) for task, module in THEIRS.items()}
    for task, make in TASKS.items():
        work[f"{task} x 10: one by one"] = stepped(JointVectorEnv(make, 10), 50)
        for size in SIZES:
            engine = make().make_engine(size)
            work[f"{task} x {size:,}: compiled"] = stepped(engine, 1_000 if size < 64 else 100)
    rates = alternate(work)
    rows = [(f"{name}, steps per CPU-second", rate, "") for name, rate in rates.items()]
    for task in TASKS:
        gain = rates[f"{task} x 10: compiled"] / rates[f"{task} x 10: one by one"]
        rows.append((f"{task} x 10: compiled over one by one", gain, ""))
    report("Compiled batches", rows, path)


if __name__ == "__main__":
    main()
