"""MFAC on Battle, 64 against 64: training beside a plain loop, and PGD beside a clean rollout.

    python benchmarks/mean_field.py [--json runs/bench/mean_field.json]

One thread, process CPU time, alternating pieces in one process. Blue is random where red trains,
and a copy of it in rollouts. The plain loops play magent2's own parallel environment and learn by
the same equations, with the same network, minibatches and number of optimizer steps, as one would
write them down: one asks the actor agent by agent, the other the whole team at once.
"""

import argparse
import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from _timing import report, times_longer
from magent2.environments.battle.battle import parallel_env
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from robustmarl import envs
from robustmarl.algorithms import MFAC
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController, SlowCopy

MAP, STEPS, GAMES, HIDDEN = 40, 60, 4, (256, 256)
MINIBATCH = 16  # steps of the team, about 1,024 of its agents
ACTIONS, VIEW = 21, 845


class Network(nn.Module):
    """From views and mean actions to logits or values."""

    def __init__(self):
        super().__init__()
        sizes = (VIEW + ACTIONS, *HIDDEN, ACTIONS)
        layers = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, obs, mean):
        """Return (..., 21)."""
        return self.body(torch.cat([obs, mean], dim=-1))


class PlainLoop:
    """Mean-field actor-critic as in its pseudo-code, over PettingZoo's dictionaries.

    Args:
        together: ask the actor about the whole team at once.
    """

    def __init__(self, together):
        self.env, self.together = parallel_env(map_size=MAP, max_cycles=STEPS), together
        self.actor, self.critic = Network(), Network()
        self.targets = copy.deepcopy(nn.ModuleList([self.actor, self.critic]))
        self.optims = [
            torch.optim.Adam(one.parameters(), 1e-4) for one in (self.actor, self.critic)
        ]
        self.rng, self.seed = np.random.default_rng(0), 0

    def act(self, obs, mean):
        """Return red's actions by name."""
        with torch.no_grad():
            if self.together:
                rows = torch.from_numpy(np.stack([view.ravel() for view in obs.values()]))
                logits = self.actor(rows, mean.expand(len(rows), -1))
                chosen = torch.distributions.Categorical(logits=logits).sample().tolist()
                return dict(zip(obs, chosen, strict=True))
            acts = {}
            for agent, view in obs.items():
                logits = self.actor(torch.from_numpy(view.ravel()), mean)
                acts[agent] = int(torch.distributions.Categorical(logits=logits).sample())
            return acts

    def collect(self):
        """Return the transitions of an episode, a list of tensors for each of their parts."""
        self.seed += 1
        obs, _ = self.env.reset(seed=self.seed)
        mean, rows = torch.zeros(ACTIONS), []
        while self.env.agents:
            red = {a: obs[a] for a in self.env.agents if a.startswith("red")}
            if not red:
                break
            acts = self.act(red, mean)
            blue = [a for a in self.env.agents if a not in red]
            joint = acts | {a: int(self.rng.integers(ACTIONS)) for a in blue}
            after, rewards, dead, *_ = self.env.step(joint)
            taken = torch.tensor(list(acts.values()))
            then = nn.functional.one_hot(taken, ACTIONS).float().mean(0)
            for agent, act in acts.items():
                views = obs[agent].ravel(), after[agent].ravel()
                rows.append((*views, act, rewards[agent], float(dead[agent]), mean, then))
            obs, mean = after, then
        obs, after, act, reward, dead, mean, then = zip(*rows, strict=True)
        return (
            torch.from_numpy(np.stack(obs)),
            torch.from_numpy(np.stack(after)),
            torch.tensor(act),
            torch.tensor(reward),
            torch.tensor(dead),
            torch.stack(mean),
            torch.stack(then),
        )

    def learn(self, parts):
        """Take one pass over an iteration's transitions."""
        parts = [torch.cat(part) for part in zip(*parts, strict=True)]
        for index in torch.randperm(len(parts[0])).split(MINIBATCH * 64):
            obs, after, act, reward, dead, mean, then = (part[index] for part in parts)
            with torch.no_grad():
                policy = self.targets[0](after, then).softmax(-1)
                value = (policy * self.targets[1](after, then)).sum(-1)
                target = reward + 0.95 * (1.0 - dead) * value
            q = self.critic(obs, mean)
            taken = q.gather(-1, act[:, None])[:, 0]
            self.step(1, self.critic, (target - taken).square().mean())
            logp = self.actor(obs, mean).log_softmax(-1)
            gain = taken.detach() - (logp.exp() * q).sum(-1).detach()
            entropy = -(logp.exp() * logp).sum(-1).mean()
            chosen = logp.gather(-1, act[:, None])[:, 0]
            self.step(0, self.actor, -(gain * chosen).mean() - 0.08 * entropy)
            pairs = zip(
                self.targets.parameters(),
                nn.ModuleList([self.actor, self.critic]).parameters(),
                strict=True,
            )
            with torch.no_grad():
                for slow, live in pairs:
                    slow.lerp_(live, 0.01)

    def step(self, number, network, loss):
        """Take an optimizer step."""
        self.optims[number].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        self.optims[number].step()

    def play(self):
        """Play and learn a round; return how many steps red's agents took."""
        parts = [self.collect() for _ in range(GAMES)]
        self.learn(parts)
        return sum(len(part[0]) for part in parts)


def team():
    """Return an engine of games, its red learner, and who plays blue."""
    engine = envs.battle(MAP, horizon=STEPS).make_engine(GAMES)
    learner = MFAC.for_env(engine.spec, team="red", hidden=HIDDEN)
    return engine, learner, {"blue": RandomController(engine.spec.of_team("blue"))}


def ours():
    """Return a function that plays a round of MFAC, and learns from it."""
    engine, learner, blue = team()
    buffer = EpisodeBuffer(learner.spec, GAMES)
    collector = JointCollector(learner, engine, buffer, team="red", opponents=blue)

    def play():
        with policy_within_training_step(learner.policy):
            collector.collect(n_episode=GAMES)
            living = int(buffer.latest(GAMES).living.sum())
            learner.update(buffer=buffer, batch_size=MINIBATCH, repeat=1)
        buffer.reset()
        return living

    return play


def rollout(attacked):
    """Return a function that plays a team, clean or with all of its agents under PGD."""
    engine, learner, _ = team()
    blue = {"blue": SlowCopy(learner)}
    perturb = [PGD(ball=LinfBall(epsilon=0.075, low=0.0, high=2.0), steps=10)] if attacked else []
    collector = JointCollector(learner, engine, team="red", opponents=blue, perturb=perturb)

    def play():
        return int(collector.collect(n_episode=GAMES).n_collected_steps) * 64

    return play


def products():
    """Return a function that does the matrix products of PGD's ten gradients and no more."""
    weights = [layer.weight for layer in Network().body if isinstance(layer, nn.Linear)]
    weights[0] = weights[0][:, :VIEW].contiguous()
    rows = torch.rand(GAMES * 64, VIEW)

    @torch.no_grad()
    def play():
        for _ in range(STEPS * 10):
            found = rows
            for weight in weights:
                found = nn.functional.linear(found, weight)
            for weight in reversed(weights):
                found = found @ weight
        return STEPS * len(rows)

    return play


def main():
    """Measure, and print beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, together, target in (("agent by agent", False, ">= 3"), ("by teams", True, "")):
        longer, plain, rate = times_longer(PlainLoop(together).play, ours(), args.repeats)
        rows.append((f"plain loop, actor asked {name}: agent-steps/s", plain, ""))
        rows.append(("MFAC: agent-steps/s", rate, ""))
        rows.append((f"  times a plain loop, {name}", longer, target))
    longer, under, clean = times_longer(rollout(True), rollout(False), args.repeats)
    rows.append(("rollout, clean: agent-steps/s", clean, ""))
    rows.append(("rollout, PGD-10 on all: agent-steps/s", under, ""))
    rows.append(("  PGD-10 takes times a clean rollout", longer, "<= 6"))
    longer, _, _ = times_longer(rollout(True), products(), args.repeats)
    rows.append(("  and times the matrix products of its gradients alone", longer, ""))
    report(f"MFAC on battle, map {MAP}, {STEPS} steps, {HIDDEN}", rows, args.json)


if __name__ == "__main__":
    main()
