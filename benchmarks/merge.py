"""The merging task: how fast it plays, and what simple drivers make of it.

    python benchmarks/merge.py [--episodes 1000] [--json runs/bench/merge.json]

One thread, process CPU time, alternating pieces in one process. A step is that of all agents, with
random actions, resets included: in highway-env with the observations that it has itself, in
``envs.merge``, and in 64 episodes of its engine. The drivers play the engine; every agent drives by
the same rule.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _timing import alternate, report
from highway_env.envs.common.observation import observation_factory

from robustmarl import envs
from robustmarl.envs.merge import MergeEngine, Traffic

LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
SIDE_BY_SIDE = 64
KINEMATICS = {
    "type": "MultiAgentObservation",
    "observation_config": {"type": "Kinematics", "clip": False, "see_behind": True},
}
ROOM = {"behind": 12.0, "ahead": 15.0}  # that the careful driver leaves to cars, m
HEADWAY, AT_LEAST = 1.2, 12.0  # s, m


def one_env(*, pandas: bool) -> Callable[[], int]:
    """Return a function that plays an episode at random, with or without highway-env's tables."""
    env, rng = envs.merge(), np.random.default_rng(0)
    seeds = iter(range(10**9))

    def play() -> int:
        env.reset(seed=next(seeds))
        if pandas:
            env.world.observation_type = observation_factory(env.world, KINEMATICS)
        steps = 0
        while True:
            _, _, over, cut, _ = env.world.step(tuple(rng.integers(5, size=3).tolist()))
            steps += 1
            if over or cut:
                return steps

    return play


def batch() -> Callable[[], int]:
    """Return a function that plays 200 steps of an engine at random."""
    engine = MergeEngine(Traffic(), SIDE_BY_SIDE)
    act = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (200, SIDE_BY_SIDE, 3)))
    everywhere, first = torch.ones(SIDE_BY_SIDE, dtype=torch.bool), iter(range(0, 10**12, 64))

    def play() -> int:
        for joint in act:
            engine.advance(joint, everywhere)
            over = engine.tensors["terminated"] | engine.tensors["truncated"]
            if bool(over.any()):
                engine.begin(over, next(first) + torch.arange(SIDE_BY_SIDE))
        return len(act) * SIDE_BY_SIDE

    return play


def careful(obs: np.ndarray) -> np.ndarray:
    """Merge where there is room, keep 1.2 seconds to the car ahead, else drive at 25 m/s."""
    cars = obs.reshape(*obs.shape[:-1], 5, 5) * (1.0, 150.0, 12.0, 45.0, 45.0)
    own, others = cars[..., 0, :], cars[..., 1:, :]
    there, dx, dy, dv = (others[..., k] for k in range(4))
    beside = np.abs(own[..., 2:3] + dy) < 2.0  # on the main lane
    close = (there > 0) & beside & (dx > -ROOM["behind"]) & (dx < ROOM["ahead"])
    waits = (own[..., 1] > 315.0) & (own[..., 2] > 2.0)  # on the merge lane
    # who is ahead in this lane or, near its end, in the one that it becomes
    same = (np.abs(dy) < 2.5) | ((own[..., 1:2] > 250.0) & (own[..., 1:2] < 430.0))
    ahead = np.where((there > 0) & same & (dx > 0), dx + 0.8 * np.minimum(dv, 0.0), np.inf)
    near = ahead.min(-1) < np.maximum(HEADWAY * own[..., 3], AT_LEAST)
    act = np.where(own[..., 3] < 23.5, FASTER, IDLE)
    act = np.where(near, SLOWER, act)
    return np.where(waits & ~close.any(-1), LEFT, act)


def drivers() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what maps observations (E, N, 25) to actions (E, N)."""
    rng = np.random.default_rng(1)

    def always(action: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda obs: np.full(obs.shape[:-1], action)

    return {
        "random": lambda obs: rng.integers(0, 5, obs.shape[:-1]),
        "idle": always(IDLE),
        "left": always(LEFT),
        "faster": always(FASTER),
        "slower": always(SLOWER),
        "careful": careful,
    }


def drive(driver: Callable[[np.ndarray], np.ndarray], episodes: int) -> tuple[float, ...]:
    """Return the mean return, crash rate, success rate and length over episodes."""
    engine = MergeEngine(Traffic(), episodes)
    everywhere = torch.ones(episodes, dtype=torch.bool)
    engine.begin(everywhere, torch.arange(episodes))
    playing, returns, lengths = everywhere.clone(), torch.zeros(episodes), torch.zeros(episodes)
    while bool(playing.any()):
        act = torch.from_numpy(driver(engine.tensors["obs"].numpy()))
        engine.advance(act, playing)
        returns[playing] += engine.tensors["rew_agents"].mean(1)[playing]
        lengths[playing] += 1
        playing &= ~(engine.tensors["terminated"] | engine.tensors["truncated"])
    success, crashed = engine.tensors["metrics"].mean(0).tolist()
    return float(returns.mean()), float(returns.std()), crashed, success, float(lengths.mean())


def main() -> None:
    """Print rates and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1_000, help="per driver")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    pieces = {
        "highway-env, its own observations": one_env(pandas=True),
        "envs.merge": one_env(pandas=False),
        f"the engine, {SIDE_BY_SIDE} side by side": batch(),
    }
    rates = alternate(pieces, args.repeats)
    rows = [(f"{name}, steps/s", rate, "") for name, rate in rates.items()]
    rows[-1] = (*rows[-1][:2], "goal: 5,000")
    report("merging, 3 agents", rows, args.json)
    print(f"\n{'driver':<10}{'return':>16}{'crashed':>10}{'success':>10}{'steps':>8}")
    for name, driver in drivers().items():
        mean, spread, crashed, success, steps = drive(driver, args.episodes)
        told = f"{mean:.1f} +- {spread:.1f}"
        print(f"{name:<10}{told:>16}{crashed:>10.3f}{success:>10.3f}{steps:>8.1f}")


if __name__ == "__main__":
    main()
