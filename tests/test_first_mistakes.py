"""What people get wrong at first is answered by what to write instead."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from robustmarl import algorithms, attacks, envs, evaluation, losses, training, wrappers
from robustmarl.budgets import LinfBall

BALL = LinfBall(epsilon=0.1)


class Careless(ParallelEnv):
    """Checks nothing of what it is given."""

    def __init__(self):
        self.metadata = {"name": "careless", "team_reward": "sum", "horizon": 3}
        self.possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents, self.time = self.possible_agents[:], 0
        return {agent: np.zeros(2, np.float32) for agent in self.agents}, {}

    def step(self, actions):
        self.time += 1
        over = self.time == 3
        obs = {agent: np.zeros(2, np.float32) for agent in self.agents}
        ends = dict.fromkeys(self.agents, over)
        found = obs, dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, False), ends, {}
        self.agents = [] if over else self.agents
        return found


def crossplay(victim, attack=None):
    return evaluation.crossplay({"it": victim}, {"p": attack}, envs.ToyGame, episodes=1)


def team():
    return algorithms.VDN.for_env(envs.ToyGame(), seed=0)


def wrapped():
    return wrappers.ObsAdversaryWrapper(Careless(), attacks.UniformNoise(ball=BALL))


def stepped(actions, resets=1, steps=1):
    env = wrapped()
    for seed in range(resets):
        env.reset(seed=seed)
    for _ in range(steps):
        env.step(actions)


class Robust(losses.PolicyRegularizer, algorithms.QMIX):
    pass


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        (lambda: crossplay(torch.nn.Linear(3, 2)), r"victims\['it'\] must be a policy for .*5\)"),
        (lambda: crossplay("team.pt"), r"Load it first: training\.load\(path\)\.learner"),
        (
            lambda: crossplay(training.saved.Saved(learner=team(), make_env=None, about={})),
            r"Give its learner\.",
        ),
        (lambda: crossplay(team(), "pgd"), r"Give what it is called, as attacks\.PGD\(ball="),
        (lambda: crossplay(team(), attacks.PGD), r"Make it first, as PGD\(ball=LinfBall"),
        (
            lambda: evaluation.worst_case({"it": team()}, envs.ToyGame, 0.1),
            r"worst_case\.ball must be a LinfBall, got 0\.1\. Write LinfBall",
        ),
        (lambda: Robust.for_env(envs.ToyGame()), r"Robust\.for_env must be given policy_loss="),
        (
            lambda: attacks.PGD(ball=BALL)(torch.nn.Linear(3, 2), torch.zeros(1, 3)),
            r"PGD\.view must be a view of a victim.*FunctionVictim\(module\)\.at\(\)",
        ),
        (
            lambda: evaluation.certified(
                {"it": torch.nn.Linear(5, 2)}, envs.ToyGame, BALL, [0.1], episodes=1
            ),
            r"whose layers are known, got Linear\. Put its weights into networks\.AgentNetwork",
        ),
        (
            lambda: evaluation.worst_case({"it": team()}, Careless, BALL, episodes=1),
            "Was the team made for another environment",
        ),
        (lambda: stepped({"a": 0, "b": 0}, resets=0), r"step\.actions must be empty.*call reset"),
        (lambda: stepped({"a": 0, "b": 0}, steps=4), r"step\.actions must be empty.*call reset"),
        (lambda: stepped({"a": 0}), r"step\.actions must be one per living agent, \['a', 'b'\]"),
        (lambda: stepped({"a": 0, "b": 7}), r"step\.actions\['b'\] must be an index below 3"),
    ],
)
def test_mistakes_are_answered(mistake, answer):
    with pytest.raises((TypeError, ValueError), match=answer):
        mistake()


def test_balls_and_attacks_are_made_of_what_comes_first():
    assert LinfBall(0.1) == BALL
    assert attacks.PGD(BALL) == attacks.PGD(ball=BALL)
    assert attacks.UniformNoise(BALL) == attacks.UniformNoise(ball=BALL)
    with pytest.raises(TypeError):
        LinfBall(0.1, 0.0)
