"""Attacks that wait for steps that matter, by the victim's own account."""

import functools
import math

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl._seeding import episode_key
from robustmarl.algorithms import IPPO, IQL, MFAC
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, as_controller
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.joint import MASKED, spec_of
from robustmarl.perturbers import CriticalSteps, ObsPerturber, RandomAgents
from robustmarl.testing import check_perturber
from robustmarl.wrappers import ObsAdversaryWrapper

NOISE = UniformNoise(ball=LinfBall(epsilon=0.3))
ALL = torch.ones(1, 3, dtype=torch.bool)
LENGTH = 6


def game():
    return Scripted(2, lengths=(LENGTH,))


def surer_later(obs):
    """Logits 0, t and 2 t in step t, which is shown as t / 10."""
    return 10.0 * obs[:, 1:2] * torch.tensor([0.0, 1.0, 2.0])


def size(measure, outputs, mask=ALL, temperature=1.0):
    rule = CriticalSteps(measure=measure, temperature=temperature)
    return float(rule.size(torch.tensor([outputs]), mask))


def test_the_measures_are_the_written_ones():
    p = torch.tensor([0.7, 0.2, 0.1])
    entropy = -float((p * p.log()).sum())
    assert size("range", p.log().tolist()) == pytest.approx(0.6)
    assert size("certainty", p.log().tolist()) == pytest.approx(1 - entropy / math.log(3))
    assert size("gap", [1.0, -2.0, 0.5]) == pytest.approx(3.0)
    for measure in ("range", "certainty", "gap"):
        assert size(measure, [2.0, 2.0, 2.0]) == pytest.approx(0.0, abs=1e-6)
    assert size("range", [0.0, 1.0, 0.0], temperature=1e-3) == pytest.approx(1.0)


def test_what_is_not_available_does_not_count():
    mask = torch.tensor([[True, True, False]])
    assert size("gap", [1.0, 2.0, MASKED], mask) == pytest.approx(1.0)
    half = 1 / (1 + math.e)
    assert size("range", [1.0, 2.0, MASKED], mask) == pytest.approx(1 - 2 * half)
    for measure in ("range", "certainty", "gap"):
        alone = torch.tensor([[True, False, False]])
        assert size(measure, [5.0, MASKED, MASKED], alone) == pytest.approx(0.0, abs=1e-6)


def shown(perturb, num_envs=2, policy=surer_later):
    spec, buffer = spec_of(game()), EpisodeBuffer(spec_of(game()), 5)
    team = as_controller("it", policy, spec)
    collector = JointCollector(team, JointVectorEnv(game, num_envs), buffer, perturb=[perturb])
    collector.collect(n_episode=5)
    batch = buffer.latest(5)
    return (batch.obs.seen != batch.obs.obs).any(-1)[:, :LENGTH], collector.stack.counters()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("when", "first"),
    [
        (CriticalSteps(measure="gap", threshold=5.0), 3),
        (CriticalSteps(measure="range", threshold=0.8), 2),
        (CriticalSteps(measure="certainty", threshold=0.5), 2),
        (CriticalSteps(measure="gap", threshold=99.0), LENGTH),
    ],
)
def test_steps_from_the_threshold_on_are_attacked(when, first, waits):
    """Gaps are 0, 2, 4, ...; probabilities softmax(0, t, 2 t)."""
    for num_envs in (1, 3):
        perturber = ObsPerturber(NOISE, when=when)
        perturber._waits = waits
        moved, counters = shown(perturber, num_envs)
        assert moved.all(-1).tolist() == [[t >= first for t in range(LENGTH)]] * 5
        assert torch.equal(moved.any(-1), moved.all(-1))
        attacked = 10.0 * (LENGTH - first)
        assert counters == {"0/attacked": attacked, "0/unchanged": 0.0, "0/spared": 60 - attacked}


def test_each_agent_is_asked_for_itself():
    def one_of_them(obs):
        return obs[:, 2:3] * torch.tensor([0.0, 1.0, 2.0])  # of agent 1 alone, its number

    moved, _ = shown(ObsPerturber(NOISE, when=CriticalSteps(measure="gap")), policy=one_of_them)
    assert not bool(moved[..., 0].any())
    assert bool(moved[..., 1].all())
    drawn = ObsPerturber(NOISE, when=CriticalSteps(measure="gap"), agents=RandomAgents(1))
    moved, _ = shown(drawn, policy=one_of_them)
    assert set(moved.all(1)[:, 1].tolist()) == {True, False}


@pytest.mark.parametrize("kind", [IPPO, IQL, MFAC])
def test_a_wrapper_attacks_in_the_collectors_steps(kind):
    team, when = kind.for_env(game(), hidden=(8,)), CriticalSteps(measure="gap", threshold=1.0)
    with torch.no_grad():
        last = team.policy.network.rest[-1].weight  # IPPO begins with an even policy
        last.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(0)))
    attack = PGD(ball=LinfBall(epsilon=0.3), steps=2)
    buffer = EpisodeBuffer(team.spec, 3)
    perturber = ObsPerturber(attack, when=when)
    JointCollector(team, JointVectorEnv(game, 1), buffer, perturb=[perturber]).collect(n_episode=3)
    batch, env = buffer.latest(3), ObsAdversaryWrapper(game(), attack, victim=team, when=when)
    for k in range(3):
        obs, _ = env.reset(seed=episode_key(0, k) & 0x7FFFFFFF)
        for t in range(LENGTH):
            rows = np.stack([obs[agent] for agent in env.possible_agents])
            assert np.array_equal(rows, batch.obs.seen[k, t].numpy())
            obs, *_ = env.step(dict(zip(env.agents, batch.act[k, t].tolist(), strict=True)))
    counters = perturber.counters()
    assert counters["spared"] > 0 < counters["attacked"]


def test_it_keeps_the_contract_of_perturbers():
    check_perturber(lambda team: ObsPerturber(NOISE, when=CriticalSteps(threshold=0.01)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"CriticalSteps\.threshold must be a number in \(0, 1\]"):
        CriticalSteps(measure="range", threshold=2.0)
    assert CriticalSteps(measure="gap", threshold=2.0).threshold == 2.0
    boxes = functools.partial(Scripted, 2, continuous=True)
    team = IPPO.for_env(boxes(), hidden=(8,))
    with pytest.raises(ValueError, match=r"ObsPerturber\.when must be None for continuous"):
        rollout(team, boxes, episodes=1, perturb=ObsPerturber(NOISE, when=CriticalSteps()))
    with pytest.raises(ValueError, match=r"ObsAdversaryWrapper\.victim must be given for when="):
        ObsAdversaryWrapper(game(), NOISE, when=CriticalSteps())
