"""Good arguments that several tables share."""

import functools

import torch
from doubles import Scripted
from gymnasium.spaces import Box, Discrete
from learners import arena_spec
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy

from robustmarl.algorithms import COMA, MADDPG, MAPPO, MFAC, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import SignalMatching
from robustmarl.joint import StepContext
from robustmarl.networks import AgentNetwork
from robustmarl.perturbers import GaussianObsAdversary
from robustmarl.policies import ByzantinePolicy, QPolicy
from robustmarl.victims import FunctionVictim, LossRows

SPEC = arena_spec()
BOXES = arena_spec(continuous=True)
BALL = LinfBall(epsilon=0.1)
ATTACK = PGD(ball=BALL, steps=2)
ROWS = LossRows(obs=torch.zeros(4, 3))
NAMES = ("unit_0", "unit_2")


@functools.cache
def vdn():
    return VDN.for_env(SPEC)


@functools.cache
def qmix():
    return QMIX.for_env(SPEC)


@functools.cache
def mappo():
    return MAPPO.for_env(SPEC)


@functools.cache
def maddpg():
    return MADDPG.for_env(BOXES, hidden=(4,))


@functools.cache
def coma():
    return COMA.for_env(SPEC)


@functools.cache
def mfac():
    return MFAC.for_env(SPEC)


@functools.cache
def traitor():
    return ByzantinePolicy(SPEC, hidden=(4,))


@functools.cache
def noise():
    return GaussianObsAdversary(BALL, 3, hidden=(4,))


def network(**settings):
    return AgentNetwork(3, 3, 4, hidden=(4,), **settings)


def q_policy():
    return QPolicy(SPEC, network(), 0.1)


def victim():
    return FunctionVictim(torch.nn.Linear(3, 4))


@functools.cache
def tianshou_policy():
    return DiscreteQLearningPolicy(
        model=torch.nn.Linear(3, 4),
        action_space=Discrete(4),
        observation_space=Box(-9.0, 9.0, (3,)),
    )


def game():
    return SignalMatching(horizon=2)


def two_teams():
    return Scripted(2, teams={"red": ("a0",), "blue": ("a1",)})


def context(envs=2):
    """Return the first tick of some environments of the arena."""
    empty = SPEC.empty(envs)
    flags = torch.ones(envs, dtype=torch.bool)
    return StepContext(
        obs=empty["obs"],
        seen=empty["obs"],
        mask=~empty["mask"],
        state=empty["state"],
        alive=~empty["alive"],
        observed=~empty["alive"],
        last_act=empty["act"] - 1,
        hidden=None,
        step=torch.zeros(envs, dtype=torch.int64),
        keys=torch.arange(envs),
        live=flags,
        terminal=~flags,
    )
