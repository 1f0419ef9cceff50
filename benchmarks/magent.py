"""Battle through the collector against magent2's own environment, 64 against 64.

    python benchmarks/magent.py [--json runs/bench/magent.json]

One thread, process CPU time, alternating pieces in one process. A step of an agent is everything:
a random action, its observation and reward, and in the collector the state. Raw is magent2's own
parallel environment, once as it is and once through the calls to its engine that it makes. Learning
is mean-field actor-critic of one team, with the same networks in a plain loop and here.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import report, times_longer
from magent2.environments.battle.battle import parallel_env
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from robustmarl import algorithms, envs
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController
from robustmarl.envs.magent import Charge
from robustmarl.evaluation import rollout

MAP, STEPS, GAMES = 40, 100, 8  # 64 against 64
WIDTH, ROWS = 256, 1_024  # of networks; agents times steps per gradient step


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


class Net(nn.Module):
    """Logits or values of every action from an observation and a mean action."""

    def __init__(self):
        super().__init__()
        self.own, self.others = nn.Linear(845, WIDTH), nn.Linear(21, WIDTH)
        self.rest = nn.Sequential(
            nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 21)
        )

    def forward(self, obs, mean):
        """Return them, (M, 21)."""
        return self.rest(self.own(obs) + self.others(mean))


def plain_loop():
    """Return a function that plays and learns a round as a plain loop over the wrapper does.

    Mean-field actor-critic with one-step targets on red's agents; blue is random. Observations are
    stacked agent by agent, as they come.
    """
    env, rng = parallel_env(map_size=MAP, max_cycles=STEPS), np.random.default_rng(0)
    torch.manual_seed(0)
    actor, critic, target_actor, target_critic = (Net() for _ in range(4))
    optims = [torch.optim.Adam(net.parameters(), 1e-4) for net in (actor, critic)]

    def play():
        obs, _ = env.reset(seed=1)
        mean, rows, units = torch.zeros(21), [], 0
        while env.agents:
            red = [agent for agent in env.agents if agent.startswith("red")]
            acts = {agent: int(rng.integers(21)) for agent in env.agents}
            seen = torch.from_numpy(np.stack([obs[agent].reshape(-1) for agent in red]))
            with torch.no_grad():
                logits = actor(seen, mean.expand(len(red), -1))
                drawn = torch.multinomial(logits.softmax(-1), 1)[:, 0]
            acts |= dict(zip(red, drawn.tolist(), strict=True))
            before, units = mean, units + len(env.agents)
            mean = nn.functional.one_hot(drawn, 21).float().mean(0)
            obs, rewards, dead, _, _ = env.step(acts)
            then = torch.from_numpy(np.stack([obs[agent].reshape(-1) for agent in red]))
            rows.append(
                (
                    seen,
                    before.expand(len(red), -1),
                    drawn,
                    torch.tensor([rewards[agent] for agent in red], dtype=torch.float32),
                    then,
                    mean.expand(len(red), -1),
                    torch.tensor([not dead[agent] for agent in red]),
                )
            )
        seen, before, acted, earned, then, after, lives = map(torch.cat, zip(*rows, strict=True))
        for part in torch.randperm(len(seen)).split(ROWS):
            with torch.no_grad():
                later = target_actor(then[part], after[part]).softmax(-1)
                value = (later * target_critic(then[part], after[part])).sum(-1)
                goal = earned[part] + 0.95 * lives[part] * value
            values = critic(seen[part], before[part])
            taken = values.gather(1, acted[part, None])[:, 0]
            logp = actor(seen[part], before[part]).log_softmax(-1)
            chance, known = logp.exp(), values.detach()
            gain = taken.detach() - (chance.detach() * known).sum(-1)
            score = gain * logp.gather(1, acted[part, None])[:, 0]
            losses = (
                -(score + 0.08 * -(chance * logp).sum(-1)).mean(),
                (goal - taken).square().mean(),
            )
            for optim, net, loss in zip(optims, (actor, critic), losses, strict=True):
                optim.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 5.0)
                optim.step()
            with torch.no_grad():
                for kept, net in ((target_actor, actor), (target_critic, critic)):
                    for old, new in zip(kept.parameters(), net.parameters(), strict=True):
                        old.lerp_(new, 0.01)
        return units

    return play


def trained():
    """Return a function that does the same with ``MFAC``: a round of one game."""
    engine = envs.battle(MAP, horizon=STEPS).make_engine(1)
    red, blue = engine.spec.of_team("red"), engine.spec.of_team("blue")
    team = algorithms.MFAC.for_env(red, hidden=(WIDTH, WIDTH), seed=0)
    buffer = EpisodeBuffer(red, 1)
    opponents = {"blue": RandomController(blue)}
    collector = JointCollector(team, engine, buffer, team="red", opponents=opponents)
    living = collector.engine = Living(engine)

    def play():
        before = living.units
        with policy_within_training_step(team.policy):
            collector.collect(n_episode=1)
            team.update(buffer=buffer, batch_size=ROWS // red.num_agents, repeat=1)
        collector.reset_buffer()
        return living.units - before

    return play


def attacked(perturb):
    """Return a function that plays a trained-size team with and without attack."""
    make = partial(envs.battle, MAP, horizon=STEPS)
    spec = make().make_engine(1).spec
    team = algorithms.MFAC.for_env(spec.of_team("red"), hidden=(WIDTH, WIDTH), seed=0)
    opponents = {"blue": RandomController(spec.of_team("blue"))}

    def play():
        found = rollout(
            team,
            make,
            episodes=2,
            num_envs=2,
            perturb=perturb,
            team="red",
            opponents=opponents,
        )
        return int(found.lengths.sum())

    return play


def learning_rows(repeats):
    """Return the rates of learning beside a plain loop, and what an attack costs."""
    longer, ours, plain = times_longer(trained(), plain_loop(), repeats)
    pgd = PGD(ball=LinfBall(epsilon=0.075, low=0.0, high=2.0))
    slower, _, _ = times_longer(attacked(pgd), attacked(None), repeats)
    return [
        ("learning in a plain loop over magent2: agent-steps/s", plain, ""),
        ("learning with MFAC: agent-steps/s", ours, ""),
        ("  times the plain loop", 1.0 / longer, ">= 3"),
        ("PGD-10 on all 64: times a clean rollout", slower, "<= 6"),
    ]


def main():
    """Measure, and print beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = environment_rows(args.repeats) + learning_rows(args.repeats)
    report(f"battle, map {MAP}, {STEPS} steps", rows, args.json)


if __name__ == "__main__":
    main()
