"""Training mode is set where it is not, and only there."""

import pytest
from torch import nn

from robustmarl import algorithms
from robustmarl.envs import SignalMatching
from robustmarl.learning.modes import is_training


@pytest.fixture
def team():
    return algorithms.QMIX.for_env(SignalMatching(2), hidden=(8,))


def test_a_fresh_team_is_training_and_its_target_never_is(team):
    assert is_training(team)
    assert not any(part.training for part in team._target.module.modules())


def test_a_part_in_evaluation_mode_is_seen_and_put_back(team):
    network = team.policy.network.rest
    network.eval()
    assert not is_training(team)

    team.train()
    assert network.training
    assert is_training(team)
    assert not any(part.training for part in team._target.module.modules())


def test_a_target_in_training_mode_is_put_back(team):
    team._target.module.train()
    assert not is_training(team)

    team.train()
    assert not any(part.training for part in team._target.module.modules())


def test_a_team_in_training_mode_is_left_alone(team, monkeypatch):
    def asked(*_):
        raise AssertionError("torch was asked to set the mode of every module")

    monkeypatch.setattr(nn.Module, "train", asked)
    assert team.train() is team
