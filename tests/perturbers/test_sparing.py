"""Attacks that choose their steps: the urgent ones, and not too many."""

import pytest
import torch
from doubles import Scripted

from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, as_controller
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import spec_of
from robustmarl.perturbers import ObsPerturber, SparingPerturber, UrgencyMeter

LENGTH = 6


def game():
    return Scripted(2, lengths=(LENGTH,))


def surer_later(obs):
    """Logits 0, t / 10 and t / 5: how much a step matters grows with its number t."""
    return obs[:, 1:2] * torch.tensor([0.0, 1.0, 2.0])


def shown(perturb, num_envs=3):
    spec, buffer = spec_of(game()), EpisodeBuffer(spec_of(game()), 5)
    team = as_controller("it", surer_later, spec)
    collector = JointCollector(team, JointVectorEnv(game, num_envs), buffer, perturb=[perturb])
    collector.collect(n_episode=5)
    batch = buffer.latest(5)
    return (batch.obs.seen != batch.obs.obs).any(-1)[:, :LENGTH], collector.stack.counters()


def sparing(**settings):
    return SparingPerturber(ObsPerturber(UniformNoise(ball=LinfBall(epsilon=0.01))), **settings)


def test_the_first_steps_that_are_urgent_enough_are_attacked():
    for num_envs in (1, 3):
        moved, counters = shown(sparing(steps=2, threshold=0.5), num_envs)
        assert moved.all(-1).tolist() == [[False, False, False, True, True, False]] * 5
        assert counters == {"0/steps": 10.0}


def test_a_budget_that_lasts_and_one_of_nothing():
    moved, _ = shown(sparing(steps=LENGTH))
    assert bool(moved.all())
    moved, _ = shown(sparing(steps=0))
    assert not bool(moved.any())


def test_urgency_is_the_range_of_the_logits():
    meter = UrgencyMeter()
    moved, _ = shown(meter)
    assert not bool(moved.any())
    met = torch.cat(meter.met).sort().values
    want = torch.arange(LENGTH).repeat_interleave(5) / 5.0
    torch.testing.assert_close(met, want)


def test_rejects():
    with pytest.raises(TypeError, match=r"SparingPerturber\.attack must be an ObsPerturber"):
        SparingPerturber(UniformNoise(ball=LinfBall(epsilon=0.1)), steps=1)
    with pytest.raises(ValueError, match=r"SparingPerturber\.steps must be an int >= 0, got -1"):
        sparing(steps=-1)
    with pytest.raises(ValueError, match=r"SparingPerturber\.threshold must be a number >= 0"):
        sparing(steps=1, threshold=-1.0)
