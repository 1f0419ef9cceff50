"""Rollouts and training on an accelerator, from the engine to the update: at most five minutes.

    python benchmarks/gpu.py [--json docs/data/gpu.json]      # all of it, on cuda
    python benchmarks/gpu.py --device cpu --sizes 64 --maps 3m --seconds 1   # to see that it runs

First checks that the device plays the CPU's episodes, then prints environment steps per second by
the clock, after a warm-up, of 3m, 2s3z and 8m: clean, under PGD-10, and under PGD-10 with a GRU;
and of training with MAPPO and QMIX. A step is everything: observations, masks, policy, attack,
rewards, new episodes, checks and books. The card is written beside the figures.
"""

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path

import torch

from robustmarl import algorithms, attacks, data, envs, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.skirmish import SkirmishEngine

GOALS = {"clean": 3e6, "PGD-10": 1e6, "MAPPO": 5e5}
"""Steps per second on one H100 or H200: 3m, 4,096 environments."""

BALL = LinfBall(epsilon=0.1, low=-1.0, high=1.0)


def team_of(engine, kind):
    """Return a team on the engine's device."""
    settings = {"device": engine.device, "seed": 0}
    if kind == "gru":
        return algorithms.MAPPO.for_env(engine.spec, recurrent=True, hidden=(64,), **settings)
    return algorithms.MAPPO.for_env(engine.spec, hidden=(64, 64), **settings)


def clocked(play, seconds, device):
    """Return steps per second of ``play``, which returns steps, over so many seconds at least."""
    play()
    wait(device)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        steps += play()
        wait(device)
    return steps / (time.perf_counter() - begun)


def wait(device):
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rollouts(name, size, device, kind, attack):
    """Return a function that collects an episode per environment, keeping none."""
    engine = SkirmishEngine(name, size, device=device, backend="torch")
    perturb = () if attack is None else (attack,)
    collector = data.JointCollector(team_of(engine, kind), engine, perturb=perturb)
    return lambda: int(collector.collect(n_episode=size).n_collected_steps)


def trained(kind, name, size, device):
    """Return a function that trains for about two episodes per environment."""
    make_env = partial(envs.skirmish, name)
    engine = SkirmishEngine(name, 1)
    if kind == "MAPPO":
        team = team_of(SkirmishEngine(name, 1, device=device, backend="torch"), "mlp")
        learn = training.OnPolicy(episodes_per_round=size, epochs=4)
    else:
        team = algorithms.QMIX.for_env(engine.spec, device=device, seed=0)
        learn = training.OffPolicy(
            batch_size=min(size, 256),
            episodes_per_round=size,
            updates_per_episode=8 / size,
            buffer_episodes=2 * size,
            learning_starts=size,
        )
    seed = iter(range(10**6))
    length = evaluation.rollout(team, make_env, episodes=size, num_envs=size).lengths.mean()

    def play():
        history = training.run(
            team,
            make_env,
            env_steps=int(2 * size * length),
            num_envs=size,
            seed=next(seed),
            learn=learn,
            tests=training.Tests({}),
            log=training.Log(progress=False),
        )
        return history.env_steps[-1]

    return play


def agreement(name, device):
    """Return the share of episodes that come out the same on the device and on the CPU."""
    ends = {}
    for place in (torch.device("cpu"), device):
        engine = SkirmishEngine(name, 64, device=place, backend="torch")
        team = team_of(SkirmishEngine(name, 1), "mlp").to(place)
        for attack in (None, attacks.PGD(ball=BALL)):
            perturb = () if attack is None else (attack,)
            collector = data.JointCollector(team, engine, perturb=perturb, seed=1)
            stats = collector.collect(n_episode=256)
            ends.setdefault(attack is None, []).append(
                torch.as_tensor(stats.returns.copy()).round(decimals=3)
            )
    return {
        "clean" if clean else "PGD-10": float((one == other).float().mean())
        for clean, (one, other) in ends.items()
    }


def main():
    """Check, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z", "8m"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1_024, 4_096, 16_384])
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure (default: 2)")
    parser.add_argument("--json", type=Path, help="where to write the figures and the card")
    args = parser.parse_args()
    device = torch.device(args.device)
    on_cuda = device.type == "cuda"
    if on_cuda and not torch.cuda.is_available():
        print("There is no CUDA device here. With --device cpu it shows that it runs.")
        return
    card = torch.cuda.get_device_name(device) if on_cuda else platform.processor() or "CPU"
    found = {"card": card, "torch": torch.__version__, "agreement": {}, "steps_per_second": {}}
    print(f"{card}, torch {torch.__version__}")
    for name in args.maps:
        found["agreement"][name] = agreement(name, device)
        print(f"{name}: the same returns as on the CPU: {found['agreement'][name]}", flush=True)
    pgd = attacks.PGD(ball=BALL)
    kinds = {"clean": ("mlp", None), "PGD-10": ("mlp", pgd), "PGD-10, GRU": ("gru", pgd)}
    for name in args.maps:
        for size in args.sizes:
            rates = {
                what: clocked(rollouts(name, size, device, *how), args.seconds, device)
                for what, how in kinds.items()
            }
            if name == args.maps[0]:
                for kind in ("MAPPO", "QMIX"):
                    play = trained(kind, name, size, device)
                    rates[kind] = clocked(play, args.seconds, device)
            found["steps_per_second"][f"{name} x {size}"] = rates
            text = ", ".join(f"{what} {rate:,.0f}" for what, rate in rates.items())
            print(f"{name} x {size}: {text}", flush=True)
    reached = found["steps_per_second"].get("3m x 4096", {})
    for what, goal in GOALS.items():
        if what in reached:
            print(f"goal {what}: {reached[what]:,.0f} of {goal:,.0f}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
