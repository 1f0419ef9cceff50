"""What is counted as another action: of greedy teams, and of those that draw theirs."""

import pytest
import torch

from robustmarl import algorithms, envs
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import as_controller
from robustmarl.evaluation import rollout
from robustmarl.evaluation.meter import Meter
from robustmarl.evaluation.teams import draws_actions
from robustmarl.perturbers import Perturber


class Diary(Perturber):
    """Keeps the true and the shown observations of every step that is played."""

    kind = "diary"

    def bind(self, spec, policy, place):
        super().bind(spec, policy, place)
        self.true, self.shown_ = [], []

    def shown(self, context):
        playing = context.acting.all(dim=1)
        self.true.append(context.obs[playing].clone())
        self.shown_.append(context.seen[playing].clone())


def game():
    return envs.SignalMatching(agents=2, horizon=6, noise=0.2)


@pytest.mark.parametrize("greedy", [False, True])
def test_flips(greedy):
    """Total variation between the two distributions, or another greedy action."""
    team = algorithms.MAPPO.for_env(game(), hidden=(8,), deterministic_eval=greedy, seed=3)
    assert draws_actions(as_controller("policy", team, team.spec)) is not greedy
    meter, diary = Meter(drawn=not greedy), Diary()
    attack = PGD(ball=LinfBall(epsilon=0.8))
    rollout(team, game, episodes=20, perturb=[attack, meter, diary], num_envs=5)
    network = team.policy.network
    extra = network.extra(torch.arange(2), None)
    with torch.no_grad():
        one, other = (
            network.step(torch.cat(seen), extra, None)[0].softmax(dim=-1)
            for seen in (diary.true, diary.shown_)
        )
    moved = 0.5 * (one - other).abs().sum(dim=-1)
    flipped = (one.argmax(dim=-1) != other.argmax(dim=-1)).float()
    expected = (flipped if greedy else moved).mean().item()
    assert expected > 0.0
    assert not torch.allclose(moved.mean(), flipped.mean(), atol=1e-3)
    assert meter.reading().flipped == pytest.approx(expected, abs=1e-6)
    assert meter.flips().mean() == pytest.approx(expected, abs=1e-6)
