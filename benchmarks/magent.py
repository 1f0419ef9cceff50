"""Battle through the collector against magent2's own environment, 64 against 64.

    python benchmarks/magent.py [--json runs/bench/magent.json]

One thread, process CPU time, alternating pieces in one process. A step of an agent is everything:
a random action, its observation and reward, and in the collector the state. Raw is magent2's own
parallel environment, once as it is and once through the calls to its engine that it makes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _timing import report, times_longer
from magent2.environments.battle.battle import parallel_env

from robustmarl import envs
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.magent import Charge

MAP, STEPS, GAMES = 40, 100, 8  # 64 against 64


def raw():
    """Return a function that plays an episode of magent2's environment at random."""
    env, rng = parallel_env(map_size=MAP, max_cycles=STEPS), np.random.default_rng(0)

    def play():
        env.reset(seed=1)
        units = 0
        while env.agents:
            acts = rng.integers(21, size=len(env.agents)).tolist()
            units += len(acts)
            env.step(dict(zip(env.agents, acts, strict=True)))
        return units

    return play


def bare():
    """Return a function that does so through magent2's engine: what only C++ and ctypes cost."""
    env, rng = parallel_env(map_size=MAP, max_cycles=STEPS), np.random.default_rng(0)
    grid, teams = env.env, env.handles

    def play():
        env.reset(seed=1)
        units, over = 0, False
        for _ in range(STEPS):
            if over:
                break
            for team in teams:
                count = grid.get_num(team)
                units += count
                grid.set_action(team, rng.integers(21, size=count, dtype=np.int32))
            over = grid.step()
            for team in teams:
                grid.get_observation(team), grid.get_reward(team), grid.get_alive(team)
            grid.clear_dead()
        return units

    return play


def stepped(num_envs):
    """Return a function that steps our engine at random: nothing is kept."""
    engine = envs.battle(MAP, horizon=STEPS).make_engine(num_envs)
    everywhere, rng = torch.ones(num_envs, dtype=torch.bool), np.random.default_rng(0)

    def play():
        units = 0
        engine.begin(everywhere, torch.arange(num_envs))
        for _ in range(STEPS):
            units += int(engine.tensors["alive"].sum())
            acts = rng.integers(21, size=(num_envs, engine.spec.num_agents))
            engine.advance(torch.from_numpy(acts), everywhere)
        return units

    return play


def collected(num_envs, *, keep, script=False):
    """Return a function that collects an episode per environment of both teams.

    Args:
        num_envs: side by side.
        keep: whether red's steps go into a buffer, as for training.
        script: whether the teams charge; else all is random.
    """
    engine = envs.battle(MAP, horizon=STEPS).make_engine(num_envs)
    spec = engine.spec
    red, blue = spec.of_team("red"), spec.of_team("blue")
    players = (
        (Charge(team="red"), Charge(team="blue"))
        if script
        else (RandomController(red), RandomController(blue))
    )
    buffer = EpisodeBuffer(red, num_envs) if keep else None
    collector = JointCollector(
        players[0], engine, buffer, team="red", opponents={"blue": players[1]}
    )
    living = Living(engine)
    collector.engine = living

    def play():
        before = living.units
        collector.collect(n_episode=num_envs)
        return living.units - before

    return play


class Living:
    """An engine that counts the steps of its living agents."""

    def __init__(self, engine):
        self._engine, self.units = engine, 0
        self.spec, self.tensors = engine.spec, engine.tensors

    def __len__(self):
        return len(self._engine)

    def begin(self, mask, seeds):
        """Begin as the engine does."""
        self._engine.begin(mask, seeds)

    def advance(self, act, active):
        """Step, and count who does."""
        self.units += int(self.tensors["alive"][active].sum())
        self._engine.advance(act, active)

    def close(self):
        """Close the engine."""
        self._engine.close()


def environment_rows(repeats):
    """Return the rates of playing, learning left aside, beside magent2's own."""
    play, rows = raw(), []
    pieces = {
        "magent2's engine alone": (bare(), ""),
        f"our engine, {GAMES} games": (stepped(GAMES), ""),
        f"collecting, {GAMES} games, nothing kept": (collected(GAMES, keep=False), ">= 0.7"),
        f"collecting, {GAMES} games, red kept": (collected(GAMES, keep=True), ">= 0.7"),
        f"collecting scripts, {GAMES} games": (collected(GAMES, keep=True, script=True), ""),
    }
    for name, (piece, target) in pieces.items():
        longer, units, base = times_longer(piece, play, repeats)
        if not rows:
            rows.append(("magent2's environment: agent-steps/s", base, ""))
        rows.append((f"{name}: agent-steps/s", units, ""))
        rows.append(("  times magent2's environment", 1.0 / longer, target))
    return rows


def main():
    """Measure, and print beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = environment_rows(args.repeats)
    report(f"battle, map {MAP}, {STEPS} steps", rows, args.json)


if __name__ == "__main__":
    main()
