"""Attacks that choose their steps: those that cost most, and not too many."""

import pytest
import torch
from doubles import Scripted

from robustmarl.algorithms import IPPO
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, as_controller
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.perturbers import (
    CriticalSteps,
    ObsPerturber,
    RandomAgents,
    SparingPerturber,
)
from robustmarl.typing import RobustnessWarning

LENGTH = 6


def game():
    return Scripted(2, lengths=(LENGTH,))


def surer_later(obs):
    """Logits 0, t / 10 and t / 5: what the wrong action costs grows with the step's number t."""
    return obs[:, 1:2] * torch.tensor([0.0, 1.0, 2.0])


def shown(perturb, num_envs=3):
    spec, buffer = spec_of(game()), EpisodeBuffer(spec_of(game()), 5)
    team = as_controller("it", surer_later, spec)
    collector = JointCollector(team, JointVectorEnv(game, num_envs), buffer, perturb=[perturb])
    collector.collect(n_episode=5)
    batch = buffer.latest(5)
    return (batch.obs.seen != batch.obs.obs).any(-1)[:, :LENGTH], collector.stack.counters()


class Turn:
    """Show the step's number with its sign turned: the best action is then the worst."""

    ball, needs_victim = LinfBall(epsilon=9.0), False

    def with_epsilon(self, epsilon):
        return self

    def __call__(self, view, obs, draws=None):
        return torch.cat([obs[:, :1], -obs[:, 1:2], obs[:, 2:]], dim=-1)


def sparing(attack=None, **settings):
    return SparingPerturber(ObsPerturber(attack or Turn()), **settings)


def test_the_first_steps_that_matter_enough_are_attacked():
    for num_envs in (1, 3):
        moved, counters = shown(sparing(steps=2, threshold=0.5), num_envs)
        assert moved.all(-1).tolist() == [[False, False, False, True, True, False]] * 5
        assert counters == {"0/steps": 10.0}


def test_a_budget_that_lasts_and_one_of_nothing():
    """In step 0 all actions are as good: nothing is lost there, and nothing done."""
    moved, _ = shown(sparing(steps=LENGTH))
    assert moved.all(-1).tolist() == [[False, True, True, True, True, True]] * 5
    moved, _ = shown(sparing(steps=0))
    assert not bool(moved.any())


def test_what_was_met_is_what_the_actions_brought_about_would_cost():
    perturber = sparing(steps=0)
    shown(perturber)
    met = torch.cat(perturber.met).sort().values
    torch.testing.assert_close(met, torch.arange(LENGTH).repeat_interleave(5) / 5.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"agents": ["a1"]},
        {"agents": RandomAgents(1)},
        {"when": CriticalSteps(measure="gap", threshold=0.1)},
        {"probability": 0.5},
    ],
)
def test_how_much_a_step_matters_does_not_depend_on_agents_that_are_not_attacked(settings):
    """Who is attacked in step t would lose t / 5; where nobody is, nothing is lost."""
    perturber = SparingPerturber(ObsPerturber(Turn(), **settings), steps=0)
    shown(perturber)
    met = torch.cat(perturber.met)
    full = torch.arange(LENGTH) / 5.0
    attacked = met > 0.0
    assert bool(attacked.any())
    nearest = (met[attacked, None] - full).abs().amin(dim=-1)
    torch.testing.assert_close(nearest, torch.zeros_like(nearest), atol=1e-6, rtol=0.0)
    if "probability" not in settings:
        torch.testing.assert_close(met.sort().values, full.repeat_interleave(5))


def test_a_radius_that_falls_to_zero_leaves_no_agents_attacked():
    perturber, spec = ObsPerturber(Turn()), spec_of(game())
    shown(SparingPerturber(perturber, steps=0), num_envs=1)
    assert perturber.rows.attacked.shape == (1, len(spec.agents))
    still = ObsPerturber(UniformNoise(ball=LinfBall(epsilon=0.0)))
    shown(SparingPerturber(still, steps=0), num_envs=3)
    assert still.rows.attacked.tolist() == [[False, False]] * 3


def test_an_attack_that_changes_no_action_is_not_let_act():
    moved, counters = shown(sparing(UniformNoise(ball=LinfBall(epsilon=0.01)), steps=LENGTH))
    assert not bool(moved.any())
    assert counters == {"0/steps": 0.0}


def test_an_attack_that_finds_nothing_is_warned_of():
    """As without a budget of steps."""
    perturber = SparingPerturber(ObsPerturber(PGD(ball=LinfBall(epsilon=0.1))), steps=LENGTH)
    with pytest.warns(RobustnessWarning, match="changed none of 60 observations"):
        rollout(lambda obs: obs[:, :3] * 0.0, game, episodes=5, perturb=perturber)


def test_rejects():
    with pytest.raises(TypeError, match=r"SparingPerturber\.inner must be an ObsPerturber"):
        SparingPerturber(UniformNoise(ball=LinfBall(epsilon=0.1)), steps=1)
    with pytest.raises(ValueError, match=r"SparingPerturber\.steps must be an int >= 0, got -1"):
        sparing(steps=-1)
    with pytest.raises(ValueError, match=r"SparingPerturber\.threshold must be a number >= 0"):
        sparing(steps=1, threshold=-1.0)


@pytest.mark.parametrize("agent", ["a0", "a1"])
@pytest.mark.parametrize("continuous", [False, True])
def test_one_of_agents_of_different_sizes_is_attacked(agent, continuous):
    """The team is asked about all of its agents, as it takes them, however few are attacked."""

    def make():
        return Scripted(
            3, obs_sizes=(2, 5, 7), action_sizes=(2, 4, 3), lengths=(4,), continuous=continuous
        )

    team = IPPO.for_env(make(), hidden=(8,), seed=1)
    inner = ObsPerturber(UniformNoise(ball=LinfBall(epsilon=3.0)), agents=[agent])
    buffer = EpisodeBuffer(team.spec, 5)
    perturber = SparingPerturber(inner, steps=2)
    collector = JointCollector(team, JointVectorEnv(make, 2), buffer, perturb=[perturber])
    collector.collect(n_episode=5)
    batch = buffer.latest(5)
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, :4].sum(dim=(0, 1)).tolist()
    number = team.spec.agents.index(agent)
    assert sum(moved) == moved[number] == collector.stack.counters()["0/steps"] > 0
