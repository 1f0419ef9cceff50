"""What a worst case of continuous actions is taken over: also what learned against the team."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from learners import collected
from pettingzoo import ParallelEnv

from robustmarl.algorithms import FACMAC, IPPO, MADDPG, MAPPO
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import Case, Suite, rollout, standard, worst_case
from robustmarl.joint import spec_of
from robustmarl.perturbers import DirectedObsPerturber
from robustmarl.typing import RobustnessWarning


class Coin(ParallelEnv):
    """The reward is the action times a coin; agents see both the coin and what leads them.

    Args:
        agents: how many, each with a coin of its own.
    """

    render_mode = None

    def __init__(self, agents):
        self.metadata = {"name": "coin", "team_reward": "mean", "horizon": 4}
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.agents = []

    def observation_space(self, agent):
        return Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent):
        return Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.agents, self.steps = list(self.possible_agents), 0
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        rewards = {a: float(self.coin[a] * actions[a][0]) for a in self.agents}
        self.steps += 1
        late = self.steps == 4
        ends = dict.fromkeys(rewards, late)
        if late:
            self.agents = []
        return self.look(), rewards, dict.fromkeys(rewards, False), ends, {a: {} for a in rewards}

    def look(self):
        self.coin = {a: self.rng.choice([-1.0, 1.0]) for a in self.possible_agents}
        leads = self.rng.uniform(-0.5, 0.5, len(self.possible_agents))
        pairs = zip(self.coin.items(), leads, strict=True)
        return {a: np.array([lead, coin], np.float32) for (a, coin), lead in pairs}


def led():
    """Return a team that does tanh(4 x) with x the first number it sees, by its weights."""
    team = MADDPG.for_env(Coin(2), hidden=(2,))
    network = team.policy.network
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        network.first.bias.zero_()
        network.id_table.zero_()
        network.rest[1].weight.copy_(torch.tensor([[4.0, -4.0]]))
        network.rest[1].bias.zero_()
    return team


def learned(steps):
    """Return the learned part of the suite to report."""
    entries = tuple(
        one for one in standard(learning_steps=steps).entries if one.family == "learned"
    )
    return Suite(name="learned", version=1, entries=entries)


def case(team, **settings):
    return Case(
        policy=team.policy,
        spec=spec_of(Coin(2)),
        make_env=partial(Coin, 2),
        ball=LinfBall(epsilon=0.5),
        **settings,
    )


def test_the_director_learns_what_no_gradient_of_the_team_tells():
    """What harms follows from coins that the team does not look at: others leave about 0 of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)  # APGD finds nothing that harms
        found = worst_case(
            {"led": led()},
            partial(Coin, 2),
            LinfBall(epsilon=0.5),
            suite=standard(learning_steps=2_400),
            episodes=60,
            choice_episodes=30,
            num_envs=30,
        )
    left = {name: found.table.mean("led", name) for name in ("none", *found.families)}
    assert left["director"] < -2.0
    assert found.chosen["led"][0] in ("director", "ATLA")
    for name in ("none", "noise", "APGD mse", "target low", "target high", "random search"):
        assert abs(left[name]) < 0.8
    assert {"director", "ATLA"} <= set(found.families)
    assert found.families["director"] == found.families["ATLA"] == "learned"


@pytest.mark.parametrize("cls", [MADDPG, FACMAC, IPPO, MAPPO])
def test_every_team_of_continuous_actions_is_learned_against(cls):
    team = cls.for_env(Coin(2), hidden=(4,))
    before = {key: value.clone() for key, value in team.policy.state_dict().items()}
    for entry in learned(80).entries:
        for attack in entry.build(case(team)).values():
            played = rollout(team, partial(Coin, 2), episodes=2, perturb=attack)
            assert played.counters["0/attacked"] > 0
    assert all(torch.equal(before[k], value) for k, value in team.policy.state_dict().items())


def test_the_director_attacks_whom_it_may_and_without_a_gradient_there_is_none():
    team, (director, _) = led(), learned(80).entries
    (attack,) = director.build(case(team, agents=("agent_1",))).values()
    assert isinstance(attack, DirectedObsPerturber)
    batch = collected(team, 6, make_env=partial(Coin, 2), perturb=[attack]).latest(6)
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, :-1][batch.valid]
    assert moved.any(0).tolist() == [False, True]
    assert director.build(case(team, gradients=False)) == {}
