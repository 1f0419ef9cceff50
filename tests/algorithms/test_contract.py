"""The contract of learners: ours keep it, broken ones are found out."""

import functools

import pytest
import torch
from learners import PPO, TEAMS, Arena, sgd

from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import ToyGame
from robustmarl.losses import ActionLoss, ActionLossRegularizer, PolicyLoss, PolicyRegularizer
from robustmarl.testing import ContractError, check_algorithm
from robustmarl.victims import NetworkVictim

SMALL = {"hidden": (8,)}
VARIANTS = {
    "mlp": {},
    "gru": {"recurrent": True},
    "gru-last": {"recurrent": True, "last_action": True},
    "separate": {"shared": False},
    "norm": {"layer_norm": True, "activation": "tanh", "last_action": True},
}
PGD3 = PGD(ball=LinfBall(epsilon=0.1), steps=3)


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_ours(cls, variant):
    make = functools.partial(cls.for_env, **SMALL, **VARIANTS[variant])
    check_algorithm(make, Arena, env_steps=40)


@pytest.mark.parametrize("cls", PPO)
@pytest.mark.parametrize("settings", [{}, {"recurrent": True}, {"shared": False}])
def test_continuous_actions(cls, settings):
    make = functools.partial(cls.for_env, last_action=True, **settings, **SMALL)
    check_algorithm(make, lambda: Arena(continuous=True), env_steps=40)


@pytest.mark.parametrize("cls", TEAMS)
def test_states_per_agent(cls):
    make = functools.partial(cls.for_env, **SMALL)
    check_algorithm(make, lambda: ToyGame(horizon=5), env_steps=20)


@pytest.mark.parametrize("cls", TEAMS)
def test_ours_with_terms(cls):
    both = type("Both", (ActionLossRegularizer, PolicyRegularizer, cls), {})
    make = functools.partial(
        both.for_env,
        action_loss=ActionLoss(attack=PGD3, weight=1.0, max_rows=8),
        policy_loss=PolicyLoss(attack=PGD3, weight=1.0, max_rows=8),
        **SMALL,
    )
    check_algorithm(make, Arena, env_steps=40)


class Noisy(QMIX):
    """Draws from torch's global generator while it learns."""

    def learn(self, batch):
        torch.rand(3)
        return super().learn(batch)


class Greedy(QMIX):
    """Writes into the batch."""

    def learn(self, batch):
        batch.rew.add_(1.0)
        return super().learn(batch)


class Forgetful(QMIX):
    """Loads nothing."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return None


class Thief(QMIX):
    """Takes the optimizers out of the caller's dictionary, as Tianshou does."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        super().load_state_dict(state_dict)
        del state_dict["_optimizers"]


class Unlike(QMIX):
    """Shows attacks another network than the one that acts."""

    def victim(self):
        return NetworkVictim(
            QMIX.for_env(Arena(), seed=9, **SMALL).policy.network, continuous=False
        )


class Uncounted(QMIX):
    def learn(self, batch):
        stats = super().learn(batch)
        self.policy.counts.zero_()
        return stats


class Amnesiac(IPPO):
    """Forgets what came before a piece of an episode."""

    def learn(self, batch, minibatch, epochs):
        return super().learn(batch.replace(hidden_before=None), minibatch, epochs)


class GlobalSeed(QMIX):
    @classmethod
    def for_env(cls, env, **settings):
        torch.rand(1)
        return super().for_env(env, **settings)


@pytest.mark.parametrize(
    ("cls", "settings", "text"),
    [
        (Noisy, {}, "leave torch's global generator alone when it learns"),
        (Greedy, {}, "leave the batch that it learns from unmodified"),
        (Forgetful, {}, "load all its weights"),
        (Thief, {}, "leave the dictionary that it loads as it was"),
        (Unlike, {}, "have a victim that gives what the policy acts on"),
        (Uncounted, {}, r"count its updates by policy\.count"),
        (GlobalSeed, {}, "leave torch's global generator alone when it is made"),
        (Amnesiac, {"recurrent": True}, "go on from hidden_before, or have takes_segments = False"),
        (VDN, {"optim": sgd(0.0)}, "change its weights by learning"),
        (VDN, {"optim": sgd(float("nan"))}, "keep its weights finite"),
    ],
)
def test_broken_learners_are_found_out(cls, settings, text):
    with pytest.raises(ContractError, match=rf"A learner must {text}"):
        check_algorithm(functools.partial(cls.for_env, **SMALL, **settings), Arena, env_steps=1)


def test_weights_that_differ_each_time_are_found_out():
    seeds = iter(range(99))
    with pytest.raises(ContractError, match="begin with the same weights each time it is made"):
        check_algorithm(lambda env: QMIX.for_env(env, seed=next(seeds), **SMALL), Arena)


def test_something_else_is_found_out():
    with pytest.raises(ContractError, match="be a TeamAlgorithm, got QPolicy"):
        check_algorithm(lambda env: QMIX.for_env(env, **SMALL).policy, Arena)


@pytest.mark.parametrize(
    ("args", "settings", "kind", "text"),
    [
        ((1, Arena), {}, TypeError, r"check_algorithm\.make_algorithm must be callable, got 1"),
        ((IPPO.for_env, None), {}, TypeError, r"check_algorithm\.make_env must be callable"),
        ((IPPO.for_env, Arena), {"env_steps": 0}, ValueError, r"env_steps must be an int >= 1"),
        ((IPPO.for_env, Arena), {"num_envs": 0}, ValueError, r"num_envs must be an int >= 1"),
        ((IPPO.for_env, Arena), {"seed": -1}, ValueError, r"seed must be an int >= 0, got -1"),
    ],
)
def test_bad_arguments(args, settings, kind, text):
    with pytest.raises(kind, match=text):
        check_algorithm(*args, **settings)
