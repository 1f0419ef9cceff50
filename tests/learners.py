"""What tests of learners share: a small game with everything in it, and episodes by hand."""

import copy

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.algorithms import IPPO, IQL, MAPPO, QMIX, VDN
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import SignalMatching
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import JointBatch, JointObs, spec_of

TEAMS = (VDN, QMIX, IQL, IPPO, MAPPO)
VALUE_BASED = (VDN, QMIX, IQL)
PPO = (IPPO, MAPPO)


class Arena(ParallelEnv):
    """Three agents with masks, own rewards and deaths; some episodes end early.

    Agent i earns its action's number if that is its step's number modulo 4; agent 2 dies after
    step 3; an action that is not in the mask raises.
    """

    render_mode = None

    def __init__(self, *, continuous=False, deaths=True, horizon=6):
        self.metadata = {"name": "arena", "team_reward": "sum", "horizon": horizon}
        self.possible_agents = [f"unit_{i}" for i in range(3)]
        self.agents = []
        self.continuous, self.deaths, self.horizon = continuous, deaths, horizon
        self.state_space = Box(-9.0, 9.0, (5,), np.float32)

    def observation_space(self, agent):
        box = Box(-9.0, 9.0, (3,), np.float32)
        if self.continuous:
            return box
        return Dict({"observation": box, "action_mask": Box(0, 1, (4,), np.int8)})

    def action_space(self, agent):
        return Box(-2.0, 2.0, (2,), np.float32) if self.continuous else Discrete(4)

    def state(self):
        return self._state

    def reset(self, seed=None, options=None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.steps = 0
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        rewards = {}
        for agent in self.agents:
            if self.continuous:
                rewards[agent] = float(-np.square(actions[agent]).sum())
            else:
                if not self.masks[agent][actions[agent]]:
                    raise ValueError(f"{agent} played {actions[agent]} of {self.masks[agent]}")
                rewards[agent] = float(actions[agent] == self.steps % 4) * (1 + self.steps % 4)
        self.steps += 1
        acted = self.agents
        over = bool(self._rng.random() < 0.12)
        late = self.steps >= self.horizon
        dead = {a: over or (self.deaths and a == "unit_2" and self.steps > 3) for a in acted}
        self.agents = [] if over or late else [a for a in acted if not dead[a]]
        obs = {a: o for a, o in self._look().items() if a in acted}
        return obs, rewards, dead, dict.fromkeys(acted, late), {a: {} for a in acted}

    def _look(self):
        self._state = self._rng.normal(size=5).astype(np.float32).clip(-9, 9)
        drawn = self._rng.normal(size=(3, 3)).astype(np.float32).clip(-9, 9)
        drawn[:, 0] = self.steps % 4
        if self.continuous:
            return dict(zip(self.possible_agents, drawn, strict=True))
        masks = self._rng.random((3, 4)) < 0.7
        masks[:, 1] = True
        self.masks = dict(zip(self.possible_agents, masks.astype(np.int8), strict=True))
        return {
            agent: {"observation": drawn[i], "action_mask": self.masks[agent]}
            for i, agent in enumerate(self.possible_agents)
        }


def arena_spec(**settings):
    return spec_of(Arena(**settings))


def sgd(lr=0.1):
    return TorchOptimizerFactory(torch.optim.SGD, lr=lr)


def collected(algorithm, episodes=6, *, make_env=Arena, num_envs=3, seed=0, perturb=()):
    """Return a buffer with episodes that ``algorithm`` played."""
    buffer = EpisodeBuffer(algorithm.spec, episodes, seed=seed)
    collector = JointCollector(
        algorithm, JointVectorEnv(make_env, num_envs), buffer, seed=seed, perturb=perturb
    )
    with policy_within_training_step(algorithm.policy):
        collector.collect(n_episode=episodes)
    collector.close()
    return buffer


def update(algorithm, buffer, *, sample_size=None, batch_size=None, repeat=1):
    """Return the statistics of one update."""
    with policy_within_training_step(algorithm.policy):
        if isinstance(algorithm, OffPolicyAlgorithm):
            return algorithm.update(buffer=buffer, sample_size=sample_size)
        return algorithm.update(buffer=buffer, batch_size=batch_size, repeat=repeat)


def train(algorithm, updates, *, make_env=Arena, episodes=4):
    """Return ``algorithm`` after some rounds of collecting and updating."""
    buffer = EpisodeBuffer(algorithm.spec, 2 * episodes)
    collector = JointCollector(algorithm, JointVectorEnv(make_env, 2), buffer)
    for _ in range(updates):
        with policy_within_training_step(algorithm.policy):
            collector.collect(n_episode=episodes)
        update(algorithm, buffer, sample_size=episodes)
        if not isinstance(algorithm, OffPolicyAlgorithm):
            buffer.reset()
    collector.close()
    return algorithm


def weights(algorithm):
    """Return copies of all parameters of the network, mixer and critic by name."""
    return {name: p.detach().clone() for name, p in algorithm.named_parameters()}


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def stepped(network, batch):
    """Return what agents answer to every observation, (B, T+1, N, A): one step after another."""
    answers, acted, hidden = [], None, None
    for t in range(batch.obs.seen.shape[1]):
        if network.last_table is not None:
            act = batch.act[:, max(t - 1, 0)]
            nothing = torch.zeros_like(act) if act.is_floating_point() else -torch.ones_like(act)
            acted = act if t else nothing
        extra = network.extra(network.team, acted)
        answer, hidden = network.step(batch.obs.seen[:, t], extra, hidden)
        answers.append(answer)
    return torch.stack(answers, 1)


MEMORY = {"recurrent": True, "last_action": True}


def copy_batch(batch):
    """Return a deep copy of a batch of episodes."""
    twin = copy.deepcopy(batch)  # which keeps that `seen` may be `obs`
    return twin.replace(obs=twin.obs.replace(seen=twin.obs.seen.clone()))


def joint_batch(obs, state, alive, **rest):
    """Return a batch of these arrays, (B, T+1, ...) and (B, T, ...); what is left out is plain."""
    valid = rest["valid"]
    rest.setdefault("rew_agents", torch.zeros(alive[:, :-1].shape))
    rest.setdefault("truncated", torch.zeros_like(valid))
    mask = torch.ones(*alive.shape, 1, dtype=torch.bool)
    inner = JointObs(obs=obs, seen=obs, mask=mask, state=state, alive=alive)
    return JointBatch(obs=inner, **rest)


class Recorded:
    """A buffer that always gives one batch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch.valid)

    def sample(self, batch_size):
        return self.batch, np.arange(len(self.batch.valid))

    def latest(self, episodes):
        return self.batch


class NoAttack:
    """An observation attack that must never be called."""

    def __init__(self, ball):
        self.ball = ball

    def with_epsilon(self, epsilon):
        return type(self)(self.ball.with_epsilon(epsilon))

    def __call__(self, view, obs, draws=None):
        raise AssertionError("the attack was called")


class Shift:
    """An observation attack that adds a constant, and keeps what it was shown."""

    def __init__(self, ball):
        self.ball, self.calls = ball, []

    def with_epsilon(self, epsilon):
        return type(self)(self.ball.with_epsilon(epsilon))

    def __call__(self, view, obs, draws=None):
        self.calls.append((view, obs.clone()))
        return self.ball.project(obs + self.ball.radius(obs), obs)


def reader(seed=0):
    """Return a team whose Q-values are what it sees, a one-hot signal: it flips from 1/2 on."""
    team = VDN.for_env(SignalMatching(), hidden=(2,), seed=seed)
    network = team.policy.network
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
        network.first.weight.copy_(torch.eye(2))
        network.first.bias.fill_(2.0)  # away from where ReLU is flat
        network.rest[1].weight.copy_(torch.eye(2))
        network.rest[1].bias.fill_(-2.0)
    return team
