"""The skirmish engine's stepping rate, compiled and in numpy, against simple_spread's.

    python benchmarks/skirmish.py [--json runs/bench/skirmish.json] [--device cuda]

One thread, process CPU time, alternating pieces in one process. A step is everything: random
legal actions, observations, masks, state, reward, and new episodes where one has ended.
simple_spread is mpe2's own environment, one at a time, with random actions. Collecting is with
QMIX's MLP agents, once clean and once with PGD in ten steps on everybody. With ``--device``
the rate of 4,096 environments on that device is measured by the clock, policy included.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _timing import alternate, report, times_longer

from robustmarl import algorithms, attacks, envs
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.skirmish import SkirmishEngine
from robustmarl.joint import MASKED


def raw_spread():
    """Return a function that plays mpe2's own environment for 20 episodes."""
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env()
    rng = np.random.default_rng(0)

    def play():
        steps = 0
        for episode in range(20):
            env.reset(seed=episode)
            while env.agents:
                acts = rng.integers(5, size=len(env.agents)).tolist()
                env.step(dict(zip(env.agents, acts, strict=True)))
                steps += 1
        return steps

    return play


def battles(name, size, steps, **options):
    """Return a function that steps ``size`` battles ``steps`` times."""
    engine = SkirmishEngine(name, size, **options)
    rng, everywhere = np.random.default_rng(0), torch.ones(size, dtype=torch.bool)
    number = torch.arange(size)
    engine.begin(everywhere, number)
    draws = rng.random((16, *engine.tensors["mask"].shape), dtype=np.float32)
    tensors = engine.tensors

    def play():
        for step in range(steps):
            act = (draws[step % 16] * tensors["mask"].numpy()).argmax(-1)
            engine.advance(torch.from_numpy(act), everywhere)
            engine.begin(tensors["terminated"] | tensors["truncated"], number + step)
        return size * steps

    return play


def in_pettingzoo(name, steps):
    """Return a function that plays one battle in PettingZoo's parallel interface."""
    env, rng = envs.skirmish(name), np.random.default_rng(0)
    env.reset(seed=0)

    def play():
        for _ in range(steps):
            if not env.agents:
                env.reset()
            acts = rng.integers(env.engine.layout.num_actions, size=len(env.agents)).tolist()
            env.step(dict(zip(env.agents, acts, strict=True)))
        return steps

    return play


def collected(name, size, episodes, algorithm=None, perturb=(), backend="numba"):
    """Return a function that collects episodes: random ones, or a learner's into its buffer."""
    engine = SkirmishEngine(name, size, backend=backend)
    if algorithm is None:
        collector = JointCollector(RandomController(engine.spec), engine)
    else:
        buffer = EpisodeBuffer(engine.spec, episodes)
        collector = JointCollector(algorithm, engine, buffer, perturb=perturb)

    def play():
        return int(collector.collect(n_episode=episodes).n_collected_steps)

    return play


def played(name, size, episodes, algorithm):
    """Return a function that plays as many: engine and greedy forward pass, keeping nothing."""
    engine = SkirmishEngine(name, size, backend="numba")
    tensors, network = engine.tensors, algorithm.policy.network
    agents = torch.arange(engine.spec.num_agents)

    @torch.no_grad()
    def play():
        steps, begun = 0, size
        active, seeds = torch.ones(size, dtype=torch.bool), torch.arange(size)
        engine.begin(active, seeds)
        while active.any():
            output, _ = network.step(tensors["obs"], network.extra(agents, None), None)
            act = output.masked_fill(~tensors["mask"], MASKED).argmax(-1)
            engine.advance(act, active)
            steps += int(active.sum())
            over = active & (tensors["terminated"] | tensors["truncated"])
            if over.any():
                new = over & (over.cumsum(0) <= episodes - begun)
                engine.begin(new, begun + over.cumsum(0))
                begun += int(new.sum())
                active = active & ~over | new
        return steps

    return play


def on_device(name, size, device, episodes):
    """Return environment steps per second of policy, PGD-10 and engine, all on ``device``."""
    engine = SkirmishEngine(name, size, device=device)
    team = algorithms.IPPO.for_env(engine.spec, device=device)
    rates, pgd = {}, attacks.PGD(ball=LinfBall(epsilon=0.1))
    for label, perturb in (("policy", []), ("policy, PGD-10", [pgd])):
        collector = JointCollector(team, engine, perturb=perturb)
        collector.collect(n_episode=size)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        steps = int(collector.collect(n_episode=episodes).n_collected_steps)
        torch.cuda.synchronize()
        rates[label] = steps / (time.perf_counter() - begun)
    return rates


def main():
    """Measure, and print beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device")
    args = parser.parse_args()
    torch.set_num_threads(1)
    qmix = algorithms.QMIX.for_env(SkirmishEngine("3m").spec)
    pgd = [attacks.PGD(ball=LinfBall(epsilon=0.1))]
    work = {"spread": raw_spread(), "PettingZoo": in_pettingzoo("3m", 10_000)}
    for backend in ("numba", "numpy"):
        for name, size, steps in (
            *(("3m", 1, 500), ("3m", 64, 200), ("3m", 1024, 30), ("27m_vs_30m", 64, 20)),
        ):
            work[f"{name} x {size}, {backend}"] = battles(name, size, steps, backend=backend)
        for label, perturb in (("clean", ()), ("PGD-10", pgd)):
            piece = collected("3m", 32, 128, qmix, perturb, backend)
            work[f"collected {label}, {backend}"] = piece
    work["3m x 64, torch"] = battles("3m", 64, 50, backend="torch")
    work["random team"] = collected("3m", 32, 256)
    rates = alternate(work)
    longer, collects, plays = times_longer(
        collected("3m", 32, 256, qmix), played("3m", 32, 256, qmix), repeats=40
    )
    rows = [("simple_spread, mpe2, one environment: steps/s", rates["spread"], "")]
    for what, goal in (
        *(("3m x 1", 30_000), ("3m x 64", 300_000), ("3m x 1024", 700_000)),
        ("27m_vs_30m x 64", 20_000),
    ):
        compiled, interpreted = rates[f"{what}, numba"], rates[f"{what}, numpy"]
        rows.append((f"{what}: steps/s", compiled, f">= {goal}"))
        rows.append(("  times the same in numpy", compiled / interpreted, ""))
    rows += [
        ("3m x 64 over simple_spread", rates["3m x 64, numba"] / rates["spread"], ">= 10"),
        ("3m x 64, torch on the CPU: steps/s", rates["3m x 64, torch"], ""),
        ("3m in PettingZoo's parallel interface: steps/s", rates["PettingZoo"], ""),
        ("3m x 32, collector, random team: steps/s", rates["random team"], ""),
    ]
    for label in ("clean", "PGD-10"):
        compiled, interpreted = (rates[f"collected {label}, {b}"] for b in ("numba", "numpy"))
        rows.append((f"3m x 32, QMIX collecting, {label}: steps/s", compiled, ""))
        rows.append(("  times the same in numpy", compiled / interpreted, ""))
    rows += [
        ("3m x 32, engine and QMIX's forward pass: steps/s", plays, ""),
        ("3m x 32, QMIX collecting: steps/s", collects, ""),
        ("  collecting over engine and forward pass", longer - 1.0, "<= 0.25"),
    ]
    if args.device:
        for label, rate in on_device("3m", 4096, args.device, 16384).items():
            rows.append((f"3m, 4096 environments, {label} on {args.device}: steps/s", rate, ""))
    report("skirmish", rows, args.json)


if __name__ == "__main__":
    main()
