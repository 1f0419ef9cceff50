"""What is not finite is named where it enters: environment, agent and step."""

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl.algorithms import IPPO
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.perturbers import Perturber
from robustmarl.training import Log, run
from robustmarl.wrappers import ObsAdversaryWrapper

NAN = float("nan")
BALL = LinfBall(epsilon=0.1)


def ippo(make=Scripted, **more):
    return IPPO.for_env(make(), hidden=(8,), **more)


class BadLogits(Perturber):
    """NaN for agent 1 of environment 1 from its third step on; in place, as some write."""

    def on_logits(self, context, logits):
        logits[1, 1] = torch.where(context.step[1] >= 2, NAN, logits[1, 1])
        return logits


@pytest.mark.parametrize("deferred", [False, True])
def test_a_perturbers_logits(deferred):
    engine = JointVectorEnv(Scripted, 3)
    collector = JointCollector(ippo(), engine, perturb=[BadLogits()], _deferred=deferred)
    rule = r"logits that perturbers return must be finite, got \[nan.* environment 1, agent 'a1', s"
    with pytest.raises(ValueError, match=rule + r"tep 2\. Check their on_logits"):
        collector.collect(n_episode=6)


@pytest.mark.parametrize("deferred", [False, True])
def test_opponents(deferred):
    one, two = (ippo(armies, team=name) for name in ("red", "blue"))
    with torch.no_grad():
        next(two.policy.parameters()).fill_(NAN)
    collector = JointCollector(
        one, JointVectorEnv(armies, 2), team="red", opponents={"blue": two}, _deferred=deferred
    )
    first = spec_of(armies()).of_team("blue").agents[0]
    rule = rf"logits must be finite, got \[nan.* environment 0, agent '{first}', step 0"
    with pytest.raises(ValueError, match=rule):
        collector.collect(n_episode=2)


class Broken(UniformNoise):
    def __call__(self, view, obs, draws=None):
        found = obs.clone()
        found[-1, 0] = NAN
        return found


def test_attacks():
    rule = r"Broken must return finite observations, got \[nan, .* agent 'a1', step 0"
    with pytest.raises(ValueError, match=rule):
        rollout(ippo(), Scripted, episodes=2, perturb=Broken(ball=BALL))
    with pytest.raises(ValueError, match=rule):
        ObsAdversaryWrapper(Scripted(), Broken(ball=BALL)).reset(seed=0)


class BadMask(Scripted):
    def _infos(self, agents):
        infos = super()._infos(agents)
        for info in infos.values():
            info["action_mask"] = np.array([1.0, NAN, 0.0])
        return infos


def test_masks():
    make = lambda: BadMask(masks="info")  # noqa: E731
    rule = r"action_mask of 'a0' must be flags, got NaN"
    with pytest.raises(ValueError, match=rule + r" in environment 0 \(scripted\), step 0"):
        rollout(ippo(), make, episodes=1)
    with pytest.raises(ValueError, match=rule + " in scripted, step 0"):
        ObsAdversaryWrapper(make(), UniformNoise(ball=BALL)).reset(seed=0)


class Rich(Scripted):
    """Rewards that are finite, whose sum over the team is not."""

    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        return obs, dict.fromkeys(rewards, 3e38), *rest


def test_sums_over_the_team():
    rule = r"reward of the team must be finite, got inf in environment 0, step 1: its agents"
    with pytest.raises(ValueError, match=rule):
        rollout(ippo(), Rich, episodes=1)
    with pytest.raises(ValueError, match=rule):
        run(ippo(), Rich, env_steps=10, num_envs=1, log=Log(progress=False))
