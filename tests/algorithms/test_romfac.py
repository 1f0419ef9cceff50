"""RoMFAC and the methods it is compared with, by reductions and closed forms."""

import functools
from dataclasses import replace

import pytest
import torch
from learners import Arena, NoAttack, Recorded, Shift, collected, same_weights, update

from robustmarl.algorithms import MFAC, RoMFAC
from robustmarl.algorithms.romfac import romfac_loss
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED
from robustmarl.losses import (
    ActionLoss,
    LipschitzLoss,
    LipschitzRegularizer,
    PolicyLoss,
    PolicyRegularizer,
)
from robustmarl.perturbers import ObsPerturber
from robustmarl.schedules import Linear, Repetitive
from robustmarl.testing import check_algorithm, check_loss

SMALL = {"hidden": (16,)}
BALL = LinfBall(epsilon=0.3)
VARIANTS = ("RoMFAC", "RoMFAC1", "SA-MFAC", "SA-MFAC3")


def made(cls=RoMFAC, **settings):
    return cls.for_env(Arena(), **(SMALL | settings))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_keeps_the_contract_of_algorithms(variant):
    loss = romfac_loss(variant, ball=BALL, warmup=0, period=3, steps=2)
    check_algorithm(functools.partial(RoMFAC.for_env, action_loss=loss, **SMALL), Arena)


def test_the_schedules_of_the_variants():
    losses = {v: romfac_loss(v, peak=0.2, warmup=100, period=50) for v in VARIANTS}
    assert losses["RoMFAC"].weight == Repetitive(0.2, 100, 50, 3, unit="updates")
    assert losses["RoMFAC1"].weight == Repetitive(0.2, 100, 150, 1, unit="updates")
    assert losses["SA-MFAC"].epsilon == Repetitive(0.075, 100, 150, 1, unit="updates")
    assert losses["SA-MFAC3"].epsilon == Repetitive(0.075, 100, 50, 3, unit="updates")
    for name, loss in losses.items():
        assert loss.attack == PGD(ball=LinfBall(epsilon=0.075))
        assert (loss.epsilon is None) == name.startswith("Ro")
        if not name.startswith("Ro"):
            assert loss.weight(0) == loss.weight(250) == 0.2
    assert romfac_loss("RoMFAC1", period=50, equal_rounds=False).weight.period == 50


def test_its_default_is_the_papers_schedule():
    algorithm = made()
    assert algorithm._terms["action_loss"] == romfac_loss()
    assert made(seed=2).untrained(seed=2)._terms["action_loss"] == romfac_loss()


@pytest.mark.parametrize(
    "loss",
    [
        ActionLoss(attack=NoAttack(BALL), weight=0.0),
        ActionLoss(attack=NoAttack(BALL), weight=1.0, epsilon=0.0),
        ActionLoss(attack=NoAttack(BALL), weight=1.0, epsilon=Linear(0.0, 0.3, over=9, begin=9)),
    ],
    ids=["weight", "radius", "ramp"],
)
def test_without_weight_or_radius_it_is_mfac_bit_for_bit(loss):
    plain, robust = made(MFAC), made(action_loss=loss)
    batch = collected(plain, 6).sample(0)[0]
    for algorithm in (plain, robust):
        for _ in range(5):
            update(algorithm, Recorded(batch), batch_size=8, repeat=2)
    assert same_weights(plain, robust)


def test_before_its_first_loop_it_is_mfac_for_a_hundred_updates(monkeypatch):
    def attacked(*_):
        raise AssertionError("PGD was called")

    monkeypatch.setattr(PGD, "__call__", attacked)
    batch = collected(made(MFAC), 2).sample(0)[0]
    for loss in (romfac_loss(warmup=100), romfac_loss(warmup=0, peak=0.0)):
        plain, robust = made(MFAC), made(action_loss=loss)
        for algorithm in (plain, robust):
            for _ in range(100):
                update(algorithm, Recorded(batch))
        assert same_weights(plain, robust)
    late = made(action_loss=romfac_loss(warmup=1, period=5))
    update(late, Recorded(batch))
    update(late, Recorded(batch))  # the first of a loop still has weight 0
    with pytest.raises(AssertionError, match="PGD was called"):
        update(late, Recorded(batch))


def test_methods_of_one_loop_are_trained_for_as_many_rounds_as_they_are_given():
    for equal, rounds in ((False, 150), (True, 250)):
        loss = romfac_loss("RoMFAC1", warmup=100, period=50, peak=1.0, equal_rounds=equal)
        weights = [loss.weight(number) for number in range(300)]
        assert weights[100] == 0.0 < weights[101]
        assert weights[rounds - 1] == 1.0
        assert weights[rounds] == 0.0


class SAMFAC(PolicyRegularizer, MFAC):
    """SA-MDP's own regulariser, the divergence of policies, on mean-field actor-critic."""


class SmoothMFAC(LipschitzRegularizer, MFAC):
    pass


@pytest.mark.parametrize(
    ("cls", "name", "term"),
    [
        (RoMFAC, "action_loss", ActionLoss),
        (SAMFAC, "policy_loss", functools.partial(PolicyLoss, form="kl")),
        (SmoothMFAC, "lipschitz_loss", LipschitzLoss),
    ],
    ids=["cross-entropy", "kl", "lipschitz"],
)
def test_the_radius_ramps(cls, name, term):
    attack, radii = Shift(BALL), []

    class Noted(Shift):
        def with_epsilon(self, epsilon):
            radii.append(epsilon)
            return Shift(self.ball.with_epsilon(epsilon))

    ramp = Linear(0.0, 0.3, over=3)
    loss = term(attack=Noted(attack.ball), weight=1.0, epsilon=ramp, max_rows=None)
    algorithm = made(cls, **{name: loss})
    batch = collected(algorithm, 4).sample(0)[0]
    figures = [update(algorithm, Recorded(batch)).metrics for _ in range(5)]
    assert radii == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert f"{name}/loss" not in figures[0]
    assert figures[1][f"{name}/weight"] == 1.0
    assert figures[1][f"{name}/loss"] > 0.0
    beginning = made(cls, **{name: replace(loss, epsilon=Linear(0.0, 0.3, over=9, begin=9))})
    plain = made(MFAC)
    for learner in (plain, beginning):
        for _ in range(3):
            update(learner, Recorded(batch))
    assert same_weights(plain, beginning)


def test_the_term_is_taken_with_the_mean_actions_that_were_acted_on():
    attack = Shift(BALL)
    algorithm = made(action_loss=ActionLoss(attack=attack, weight=1.0, max_rows=None))
    for weight in algorithm.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    batch = collected(algorithm, 6).sample(0)[0]
    mean, rows = algorithm.mean_actions(batch)[:, :-1], batch.living
    network = algorithm.policy.network

    def logits(obs):
        extra = network.extra(None, None, {"mean_act": mean[rows]})
        found = network.step(obs, extra, None)[0]
        return found.masked_fill(~batch.obs.mask[:, :-1][rows], MASKED)

    clean = batch.obs.obs[:, :-1][rows]
    labels = logits(clean).argmax(-1)
    want = torch.nn.functional.cross_entropy(logits(clean + 0.3), labels)
    stats = update(algorithm, Recorded(batch))
    assert stats.metrics["action_loss/loss"] == pytest.approx(float(want.detach()), rel=1e-4)
    assert torch.equal(attack.calls[0][1], clean)


def test_attacks_leave_mean_actions_as_they_are():
    algorithm = made()
    perturber = ObsPerturber(PGD(ball=BALL, steps=3), victim=algorithm)
    batch = collected(algorithm, 6, perturb=[perturber]).sample(0)[0]
    assert not torch.equal(batch.obs.obs, batch.obs.seen)
    side = {"mean_act": algorithm.mean_actions(batch)[:, :-1]}
    output, _ = algorithm.policy.network.unroll(batch.obs.seen[:, :-1], None, side)
    logp = algorithm.policy.log_prob(output.masked_fill(~batch.obs.mask[:, :-1], MASKED), batch.act)
    torch.testing.assert_close(logp[batch.living], batch.logp[batch.living])
    collector = JointCollector(algorithm, JointVectorEnv(Arena, 2), perturb=[perturber])
    collector.collect(n_episode=2)
    collector.close()


@pytest.mark.parametrize("term", [ActionLoss, PolicyLoss, LipschitzLoss])
def test_a_term_with_a_radius_keeps_the_contract_of_terms(term):
    check_loss(lambda attack: term(attack=attack, weight=1.0, epsilon=0.3))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"variant": "SA"}, ValueError, r"romfac_loss\.variant must be one of"),
        ({"period": 0}, ValueError, r"romfac_loss\.period must be an int"),
        ({"warmup": -1}, ValueError, r"romfac_loss\.warmup must be an int"),
        ({"peak": -1.0}, ValueError, r"romfac_loss\.peak must be a number"),
        (
            {"variant": "SA-MFAC", "ball": LinfBall(epsilon=(0.1, 0.2))},
            TypeError,
            r"romfac_loss\.ball\.epsilon must be a number",
        ),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        romfac_loss(**settings)


@pytest.mark.parametrize("term", [ActionLoss, PolicyLoss, LipschitzLoss])
def test_bad_radii(term):
    with pytest.raises(TypeError, match=rf"{term.__name__}\.epsilon must be a number or a"):
        term(attack=PGD(ball=BALL), weight=1.0, epsilon="ramp")
    with pytest.raises(ValueError, match=rf"{term.__name__}\.epsilon must be"):
        term(attack=PGD(ball=BALL), weight=1.0, epsilon=-0.1)
