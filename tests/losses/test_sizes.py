"""Loss terms on what agents have: real coordinates, the slots acted on, rows that exist."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from doubles import Scripted
from learners import Shift, collected, sgd, update
from torch.nn.functional import cross_entropy

from robustmarl import schedules
from robustmarl._seeding import Draws
from robustmarl.algorithms import (
    COMA,
    DOP,
    EARMAPPO,
    EIRMAPPO,
    IPPO,
    MADDPG,
    MAPPO,
    QMIX,
    TrueTypeMAPPO,
)
from robustmarl.attacks import PGD
from robustmarl.attacks.losses import SquaredError
from robustmarl.budgets import LinfBall
from robustmarl.losses import (
    ActionLoss,
    ActionLossRegularizer,
    LossMixin,
    PolicyLoss,
    PolicyRegularizer,
    action_loss,
    policy_loss,
)
from robustmarl.perturbers import TypeDistribution
from robustmarl.victims import FunctionVictim, LossRows, Rows

BALL = LinfBall(epsilon=0.3)


def uneven(**settings):
    return Scripted(2, obs_sizes=(2, 8), action_sizes=(2, 5), lengths=(4,), **settings)


# Padding


@pytest.mark.parametrize("cls", [QMIX, IPPO, MAPPO, COMA, DOP, MADDPG])
def test_the_action_loss_is_that_of_real_coordinates_alone(cls):
    """Shifting the padding, too, is the same as not shifting it, in value and in gradient."""
    team = cls.for_env(uneven(), hidden=(8,))
    buffer = collected(team, 3, make_env=uneven)
    rows = []
    take = type(team).step_policy

    class Spy(cls):
        def step_policy(self, loss, make_rows):
            rows.append(make_rows())
            take(self, loss, make_rows)

    team.__class__ = Spy
    update(team, buffer, sample_size=None)
    (one, *_) = rows
    assert one.rows.obs_mask is not None
    padding = ~one.rows.obs_mask
    assert bool((one.obs[padding] == 0).all())
    network = team.policy.network
    moved = torch.where(padding, one.obs, one.obs + BALL.epsilon)
    extra = network.extra(one.rows.agents, one.rows.last_act)

    def logits(obs):
        return network.step(obs, extra, one.rows.hidden)[0].masked_fill(~one.rows.mask, -1e9)

    expected = cross_entropy(logits(moved), logits(one.obs).argmax(-1))
    found = action_loss(team.policy.loss_victim(), one, Shift(BALL))
    torch.testing.assert_close(found, expected)


def test_mse_is_the_mean_over_real_coordinates():
    clean, moved = torch.zeros(2, 6), torch.ones(2, 6)
    mask = torch.arange(6) < torch.tensor([[1], [6]])
    moved[:, 0] = 3.0
    found = policy_loss(clean, moved.masked_fill(~mask, 0.0), "mse", mask=mask)
    assert found.tolist() == pytest.approx([9.0, 14.0 / 6.0])
    loss = SquaredError(clean, mask=mask)
    assert loss(moved).tolist() == found.tolist()
    assert bool((loss.gradient(moved)[~mask] == 0).all())
    assert loss.gradient(moved)[0, 0] == 6.0


def test_one_coordinate_of_a_box_is_a_choice():
    """Of one discrete action there is none; the row of a one-coordinate agent counts."""
    rows = LossRows(
        obs=torch.zeros(1, 3), rows=Rows(mask=torch.tensor([[True, False]]), agents=torch.zeros(1))
    )
    victim = FunctionVictim(lambda obs: obs[:, :2] * 2.0, continuous=True)
    term = PolicyLoss(attack=Shift(BALL), form="mse")
    found = term.loss(victim, rows, Draws(torch.arange(1)))
    assert float(found) == pytest.approx(0.36)


def test_continuous_pgd_ignores_what_a_target_says_of_padding():
    """Restarts are compared by the distance in real coordinates alone."""
    mask = torch.tensor([[True, False]])
    victim = FunctionVictim(lambda obs: obs[:, :2], continuous=True)
    view = victim.at(Rows(mask=mask))
    obs = torch.zeros(1, 3)
    attack = PGD(ball=BALL, loss="mse", target=(1.0, 99.0), steps=3)
    assert torch.allclose(attack(view, obs), torch.tensor([[0.3, 0.0, 0.0]]))


# What the policy acted on


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (EARMAPPO, {}),
        (EARMAPPO, {"victim_interval": 2}),
        (TrueTypeMAPPO, {}),
        (EIRMAPPO, {}),
        (EIRMAPPO, {"hard_belief": True}),
        (EIRMAPPO, {"belief_reads": "clean"}),
        (EIRMAPPO, {"teacher_forcing": 0.5}),
        (EIRMAPPO, {"victim_interval": 2}),
    ],
)
def test_terms_on_teams_with_slots_are_those_of_the_actors_own_rows(cls, settings):
    """Each row is asked with the slots acted on: without budget it gives the stored logp."""
    shown = []

    @dataclass(frozen=True)
    class Spy:
        weight: float = 0.5
        max_rows: int | None = None

        def loss(self, victim, rows, draws):
            shown.append((rows, rows.view(victim).logits(rows.obs).detach()))
            return action_loss(victim, rows, Shift(BALL))

    class Robust(LossMixin, cls):
        def __init__(self, **given):
            super().__init__(**given)
            self.add_term("spy", Spy())

    team = Robust.for_env(
        uneven(), hidden=(8,), types=TypeDistribution(0.7), optim=sgd(), **settings
    )
    with torch.no_grad():
        team.policy.network.slot_table.mul_(10)
        team.policy.network.rest[-1].weight.mul_(50)
    interval = settings.get("victim_interval", 1)
    for _ in range(interval):
        shown.clear()
        buffer = collected(team, 6, make_env=uneven, perturb=team.perturbers())
        batch = buffer.get_episodes(buffer.sample_indices(0))
        stats = update(team, buffer)
    ((rows, logits),) = shown
    types = batch.record("byzantine")["types"]
    where = batch.living & ~types
    logp = torch.log_softmax(logits, -1).gather(-1, batch.act[where].unsqueeze(-1)).squeeze(-1)
    assert len(rows) == int(where.sum())
    torch.testing.assert_close(logp, batch.logp[where], rtol=1e-4, atol=1e-5)
    assert ("slots" in rows.rows.side) == (cls is not EARMAPPO)
    assert np.isfinite(stats.metrics["spy/loss"])


def test_a_round_in_which_the_team_does_not_learn_has_no_term():
    class Robust(ActionLossRegularizer, EARMAPPO): ...

    term = ActionLoss(attack=Shift(BALL), weight=1.0)
    team = Robust.for_env(uneven(), hidden=(8,), action_loss=term, victim_interval=2)
    told = []
    for _ in range(4):
        buffer = collected(team, 4, make_env=uneven, perturb=team.perturbers())
        told.append("action_loss/loss" in update(team, buffer).metrics)
    assert told == [False, True, False, True]


# Rows


def test_nobody_who_learns_is_no_term():
    """Both agents are Byzantine in all episodes: a mean over no rows would be no number."""

    class Robust(ActionLossRegularizer, EARMAPPO): ...

    term = ActionLoss(attack=Shift(BALL), weight=1.0)
    types = TypeDistribution(1.0, choice="fixed", agents=("a0", "a1"))
    team = Robust.for_env(uneven(), hidden=(8,), action_loss=term, types=types)
    buffer = collected(team, 4, make_env=uneven, perturb=team.perturbers())
    metrics = update(team, buffer).metrics
    assert "action_loss/loss" not in metrics
    assert all(bool(p.isfinite().all()) for p in team.parameters())


class Scribbler(Shift):
    def __call__(self, view, obs, draws=None):
        return obs.add_(self.ball.radius(obs))


@pytest.mark.parametrize("term", ["action_loss", "policy_loss"])
def test_an_attack_that_writes_into_its_input_leaves_the_rows(term):
    victim = FunctionVictim(torch.nn.Linear(3, 2))
    rows = LossRows(obs=torch.randn(4, 3))
    kept, draws = rows.obs.clone(), Draws(torch.arange(4))
    found = []
    for kind in (Shift, Scribbler):
        made = (
            ActionLoss(attack=kind(BALL), weight=1.0)
            if term == "action_loss"
            else PolicyLoss(attack=kind(BALL), form="kl")
        )
        found.append(float(made.loss(victim, rows, draws).detach()))
        assert torch.equal(rows.obs, kept)
    assert found[0] == found[1]


@pytest.mark.parametrize("weight", [0.5, schedules.Constant(0.5)])
def test_a_term_of_ones_own_may_have_a_number_as_its_weight(weight):
    @dataclass(frozen=True)
    class Own:
        weight: object
        max_rows: int | None = 3

        def loss(self, victim, rows, draws):
            return rows.view(victim).output(rows.obs).square().mean()

    class Robust(LossMixin, QMIX):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.add_term("own", Own(weight))

    team = Robust.for_env(uneven(), hidden=(8,))
    metrics = update(team, collected(team, 3, make_env=uneven)).metrics
    assert metrics["own/weight"] == 0.5
    assert metrics["own/loss"] > 0


def test_policy_regularisation_of_boxes_of_different_sizes():
    class Robust(PolicyRegularizer, MADDPG): ...

    def make():
        return uneven(continuous=True)

    term = PolicyLoss(attack=Shift(BALL), form="mse", weight=1.0)
    team = Robust.for_env(make(), hidden=(8,), policy_loss=term)
    metrics = update(team, collected(team, 3, make_env=make)).metrics
    assert metrics["policy_loss/loss"] > 0
