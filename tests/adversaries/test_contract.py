"""Every adversary keeps the contract, and the contract catches those that do not."""

import copy

import pytest
import torch
from learners import Arena

from robustmarl.adversaries import (
    Adversary,
    ByzantineAttacker,
    ObsAdversaryPPO,
    Population,
    SharedByzantine,
    SharedObsAdversary,
)
from robustmarl.algorithms import MAPPO, QMIX
from robustmarl.budgets import LinfBall
from robustmarl.joint import spec_of
from robustmarl.perturbers import GaussianObsAdversary, TypeDistribution
from robustmarl.policies import ByzantinePolicy
from robustmarl.testing import ContractError, check_adversary

BALL = LinfBall(epsilon=0.3)


def boxes():
    return Arena(continuous=True)


def team(env, cls=MAPPO):
    return cls.for_env(env, hidden=(8,))


def atla(env, cls=ObsAdversaryPPO, **settings):
    return cls.for_env(env, BALL, hidden=(8,), epochs=2, **settings)


def traitor(env, **settings):
    return ByzantineAttacker.against(team(env), hidden=(8,), **settings)


def noise(env):
    return SharedObsAdversary(GaussianObsAdversary(BALL, spec_of(env).obs_size, hidden=(8,)))


def ally(env):
    policy = ByzantinePolicy(spec_of(env), hidden=(8,))
    return SharedByzantine(policy, TypeDistribution(0.9, choice="adaptive"))


def population(env):
    return Population([atla(env), traitor(env), noise(env)])


EVERY = (atla, traitor, noise, ally, population)


@pytest.mark.parametrize("env", [Arena, boxes])
@pytest.mark.parametrize("make", EVERY)
def test_ours_keep_it(make, env):
    check_adversary(make, team, env)


def test_off_policy_teams_are_attacked_too():
    check_adversary(lambda env: atla(env, agents=["unit_0"]), lambda env: team(env, QMIX), Arena)
    check_adversary(lambda env: traitor(env, sees_actions=True), lambda env: team(env, QMIX), Arena)


class NewPerturber(ObsAdversaryPPO):
    def perturber(self):
        return copy.copy(super().perturber())


class Lazy(ObsAdversaryPPO):
    def learn(self, sample):
        return {}


class Diverging(ObsAdversaryPPO):
    def learn(self, sample):
        figures = super().learn(sample)
        with torch.no_grad():
            self.actor.log_std.fill_(torch.nan)
        return figures


class Drawing(ObsAdversaryPPO):
    def learn(self, sample):
        torch.rand(1)
        return super().learn(sample)


class Rewriting(ObsAdversaryPPO):
    def learn(self, sample):
        figures = super().learn(sample)
        sample.fresh.rew.zero_()
        return figures


class Live(ObsAdversaryPPO):
    def deployed(self, greedy=None):
        return type(super().deployed(greedy))(self.actor)


class Forgetful(ObsAdversaryPPO):
    def get_extra_state(self):
        return {}

    def set_extra_state(self, state):
        pass


class Mistaken(ObsAdversaryPPO):
    def recorded(self, batch):
        return batch.record("adversary")


class Meddling(ObsAdversaryPPO):
    """Changes the team that it is made beside."""

    team = None

    def learn(self, sample):
        with torch.no_grad():
            next(type(self).team.parameters()).add_(1.0)
        return super().learn(sample)


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (NewPerturber, "return the same perturber each time"),
        (Lazy, "change its weights by learning"),
        (Diverging, "keep its weights finite"),
        (Drawing, "leave torch's global generator alone when it learns"),
        (Rewriting, "leave the episodes that it learns from unmodified"),
        (Live, "deploy a copy, which later learning does not change"),
        (Forgetful, "its optimizers are part of its state"),
        (Mistaken, "read its own record and no other's"),
        (Meddling, "leave the team's weights alone"),
    ],
)
def test_broken_ones_are_caught(cls, promise):
    def made(env):
        Meddling.team = team(env)
        return Meddling.team

    with pytest.raises(ContractError, match=promise):
        check_adversary(lambda env: atla(env, cls), made, Arena)


def test_other_kinds_are_refused():
    with pytest.raises(ContractError, match="be an Adversary, got MAPPO"):
        check_adversary(team, team, Arena)
    with pytest.raises(TypeError, match=r"check_adversary\.make_team must be callable, got None"):
        check_adversary(atla, None, Arena)
    with pytest.raises(ValueError, match=r"check_adversary\.episodes must be an int >= 1"):
        check_adversary(atla, team, Arena, episodes=0)


@pytest.mark.parametrize("missing", ["perturber", "deployed", "learn"])
def test_an_adversary_without_a_part_is_refused_when_it_is_made(missing):
    parts = {name: getattr(ObsAdversaryPPO, name) for name in ("perturber", "deployed", "learn")}
    assert isinstance(type("Whole", (Adversary,), parts)(), Adversary)
    del parts[missing]
    with pytest.raises(TypeError, match=rf"abstract class Part.*\b{missing}\b"):
        type("Part", (Adversary,), parts)()


@pytest.mark.parametrize("make", [atla, noise])
def test_a_deployed_actor_draws_only_if_asked(make):
    adversary = make(Arena())
    for greedy, expected in ((None, True), (True, True), (False, False)):
        assert adversary.deployed(greedy).greedy == expected


@pytest.mark.parametrize("make", [ally, traitor])
def test_a_deployed_traitor_is_greedy_only_if_asked(make):
    adversary = make(Arena())
    for greedy, expected in ((None, False), (True, True), (False, False)):
        assert adversary.deployed(greedy).adversary.policy.deterministic_eval == expected
