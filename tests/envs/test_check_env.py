"""The contract must catch environments that are broken on purpose."""

import numpy as np
import pytest

from robustmarl.envs import SignalMatching
from robustmarl.joint import describe
from robustmarl.testing import ContractError, check_env


class IgnoresSeed(SignalMatching):
    def reset(self, seed=None, options=None):
        return super().reset(seed=None)


class AlwaysSeedZero(SignalMatching):
    def reset(self, seed=None, options=None):
        return super().reset(seed=0)


class Remembers(SignalMatching):
    """The first context of an episode depends on the one before."""

    used = 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.context = self.context if not self.used else 1 - self.context
        self.used += 1
        return self._observe(), {a: {} for a in self.agents}


class NeverEnds(SignalMatching):
    def step(self, actions):
        self._horizon = 10**6
        return super().step(actions)


class Terminates(SignalMatching):
    def step(self, actions):
        obs, rewards, _, truncated, infos = super().step(actions)
        return obs, rewards, truncated, dict.fromkeys(truncated, False), infos


class Outside(SignalMatching):
    def _views(self):
        return super()._views() + np.float32(2.0 * (self._steps == 3))


class NanReward(SignalMatching):
    def _play(self, joint):
        return super()._play(joint) + (float("nan") if self._steps == 4 else 0.0)


class WrongState(SignalMatching):
    def state(self):
        return np.zeros(3, np.float32)

    def _views(self):
        return np.tile(super().state(), (2, 1))


class NothingAllowed(SignalMatching):
    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, {a: {"action_mask": np.zeros(2, np.int8)} for a in infos}


class Silent(SignalMatching):
    """Shows the second agent nothing."""

    def step(self, actions):
        obs, *rest = super().step(actions)
        return {"agent_0": obs["agent_0"]}, *rest


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (IgnoresSeed, "gives another episode in a new environment"),
        (AlwaysSeedZero, "is the seed ignored"),
        (Remembers, "gives another episode in a used environment"),
        (NeverEnds, "agents live on after 10 steps, the horizon"),
        (Terminates, "a time limit must truncate"),
        (Outside, "step 3: 'agent_0' observes .*, outside Box"),
        (NanReward, "step 5: reward of 'agent_0' is nan"),
        (WrongState, "step 0: state .* is outside Box"),
        (NothingAllowed, "step 1: the mask of 'agent_0' leaves no action"),
        (Silent, "parallel_api_test"),
    ],
)
def test_catches(broken, text):
    with pytest.raises(ContractError, match=text):
        check_env(lambda: broken(noise=0.1) if broken is IgnoresSeed else broken())


def test_catches_a_missing_metric():
    with pytest.raises(ContractError, match=r"lack the episode metrics \['won'\]"):
        check_env(lambda: describe(SignalMatching(), episode_metrics=("won",)))


def test_catches_an_environment_without_a_spec():
    class Unstated(SignalMatching):
        def __init__(self):
            super().__init__()
            del self.metadata["team_reward"]

    with pytest.raises(ContractError, match=r"spec_of fails: .*team_reward"):
        check_env(Unstated)


def test_accepts_the_sound_one_and_is_an_assertion_error():
    check_env(SignalMatching)
    check_env(lambda: AlwaysSeedZero(), stochastic=False)
    check_env(lambda: Terminates(), time_limit=False)
    assert issubclass(ContractError, AssertionError)


def test_refuses_wrong_arguments():
    with pytest.raises(TypeError, match=r"check_env\.make_env must be callable"):
        check_env(SignalMatching())
    with pytest.raises(ValueError, match=r"check_env\.episodes must be an int >= 1, got 0"):
        check_env(SignalMatching, episodes=0)
