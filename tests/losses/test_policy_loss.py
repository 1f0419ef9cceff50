"""Policy regularisation: closed forms of every loss, and where gradients flow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import NoAttack, Shift
from torch import nn

from robustmarl._seeding import Draws
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED
from robustmarl.losses import PolicyLoss, policy_loss
from robustmarl.victims import FunctionVictim, LossRows, Rows

D = torch.float64
CLEAN, MOVED = torch.tensor([[2.0, 1.0, -1.0]], dtype=D), torch.tensor([[0.0, 3.0, -1.0]], dtype=D)
BALL = LinfBall(epsilon=0.5)


@pytest.mark.parametrize(
    ("clean", "perturbed", "settings", "expected"),
    [
        (CLEAN, CLEAN, {"margin": 10.0}, -1.0),
        (CLEAN, CLEAN, {"margin": 0.5}, -0.5),
        (CLEAN, MOVED, {"margin": 10.0}, 3.0),
        (CLEAN, CLEAN, {"form": "kl"}, 0.0),
        (CLEAN, MOVED, {"form": "kl"}, 1.608648),
        (CLEAN, CLEAN, {"form": "tv"}, 0.0),
        (CLEAN, MOVED, {"form": "tv"}, 0.676743),
        (CLEAN, CLEAN, {"form": "ce"}, 0.349012),
        (CLEAN, MOVED, {"form": "mse"}, (4.0 + 4.0 + 0.0) / 3),
    ],
)
def test_worked_examples(clean, perturbed, settings, expected):
    (found,) = policy_loss(clean, perturbed, **settings).tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_hinge_clamps_each_element_and_not_the_mean():
    clean = torch.tensor([[12.0, 0.0], [12.0, 0.0], [1.0, 0.0]], dtype=D)
    perturbed = torch.tensor([[12.0, 0.0], [12.0, 0.0], [0.0, 4.0]], dtype=D)
    assert float(policy_loss(clean, perturbed, margin=10.0).mean()) == pytest.approx(-16 / 3)


def test_unavailable_actions_do_not_take_part():
    clean = torch.tensor([[1.0, MASKED, 0.0]], dtype=D)
    assert policy_loss(clean, clean, margin=10.0).tolist() == [-1.0]
    for form in ("kl", "tv"):
        assert policy_loss(clean, clean, form).tolist() == [0.0]
    moved = torch.tensor([[0.0, MASKED, 0.0]], dtype=D)
    p = 1 / (1 + math.exp(-1))
    assert policy_loss(clean, moved, "tv").item() == pytest.approx(p - 0.5)
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert policy_loss(clean, moved, "kl").item() == pytest.approx(kl)


@given(seed=st.integers(0, 99))
def test_divergences_are_never_negative_and_tv_is_at_most_one(seed):
    one, other = 3 * torch.randn(2, 16, 5, dtype=D, generator=torch.Generator().manual_seed(seed))
    assert bool((policy_loss(one, other, "kl") >= -1e-12).all())
    tv = policy_loss(one, other, "tv")
    assert bool(((tv >= 0) & (tv <= 1)).all())
    torch.testing.assert_close(tv, policy_loss(other, one, "tv"))


class Constant(nn.Module):
    """Ignores its observation."""

    def __init__(self, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, len(bias), dtype=D))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=D))

    def forward(self, obs):
        return obs @ (self.weight.detach() * 0.0) + self.bias


def rows(count=6, size=3, mask=None):
    generator = torch.Generator().manual_seed(0)
    return LossRows(
        obs=torch.randn(count, size, dtype=D, generator=generator), rows=Rows(mask=mask)
    )


@pytest.mark.parametrize(
    ("form", "gap", "value", "moves"),
    [
        ("kl", 3.0, 0.0, False),
        ("tv", 3.0, 0.0, False),
        ("hinge", 3.0, -1.0, False),  # -min(gap, margin), flat beyond the margin
        ("hinge", 0.25, -0.25, True),
        ("ce", 3.0, math.log(1 + math.exp(-3)), True),
    ],
)
def test_of_a_policy_that_ignores_its_observation(form, gap, value, moves):
    network = Constant([gap, 0.0])
    term = PolicyLoss(attack=Shift(BALL), form=form, margin=1.0)
    loss = term.loss(FunctionVictim(network), rows(), Draws(torch.arange(6)))
    loss.backward()

    assert loss.item() == pytest.approx(value, abs=1e-9)
    assert bool((network.bias.grad.abs() > 1e-12).any()) == moves


def linear(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 4).to(D)


@pytest.mark.parametrize("form", ["hinge", "kl", "tv", "ce"])
def test_gradients_flow_through_outputs_only(form):
    """Not through the label, nor through the perturbed observation."""
    network, twin = linear(), linear()
    term = PolicyLoss(attack=PGD(ball=BALL), form=form, margin=100.0)
    given_rows = rows()
    loss = term.loss(FunctionVictim(network), given_rows, Draws(torch.arange(6)))
    loss.backward()
    with torch.no_grad():
        moved = PGD(ball=BALL)(FunctionVictim(twin).at(), given_rows.obs)
    clean = twin(given_rows.obs)
    clean = clean.detach() if form in ("hinge", "ce") else clean
    expected = policy_loss(clean, twin(moved), form, 100.0).mean()
    expected.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(network.weight.grad, twin.weight.grad)
    assert bool(network.weight.grad.abs().sum() > 0)


def test_divergences_learn_through_both_sides():
    """The gradient of KL holds the clean policy's own part."""
    network, twin = linear(), linear()
    obs, moved = rows().obs, rows().obs + 0.5
    policy_loss(network(obs), network(moved), "kl").mean().backward()
    policy_loss(twin(obs).detach(), twin(moved), "kl").mean().backward()
    assert not torch.allclose(network.weight.grad, twin.weight.grad)


def test_zero_budget_is_zero_divergence():
    term = PolicyLoss(attack=PGD(ball=BALL.with_epsilon(0.0)), form="kl")
    network = linear()
    loss = term.loss(FunctionVictim(network), rows(), Draws(torch.arange(6)))
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(network.weight.grad, torch.zeros(4, 3, dtype=D))


def test_rows_without_a_choice_are_left_out():
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[::2, 1:] = False
    shift = Shift(BALL)
    victim = FunctionVictim(linear())
    found = PolicyLoss(attack=shift, form="kl").loss(
        victim, rows(mask=mask), Draws(torch.arange(6))
    )
    alone = rows(mask=mask).select(torch.tensor([1, 3, 5]))
    expected = PolicyLoss(attack=shift, form="kl").loss(victim, alone, Draws(torch.arange(3)))

    assert [len(obs) for _, obs in shift.calls] == [3, 3]
    torch.testing.assert_close(found, expected)


def test_nobody_with_a_choice_is_zero():
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[:, 0] = True
    term = PolicyLoss(attack=NoAttack(BALL))
    assert term.loss(FunctionVictim(linear()), rows(mask=mask), Draws(torch.arange(6))) == 0.0


def test_rows_keep_their_own_random_numbers():
    noise, victim = UniformNoise(ball=BALL), FunctionVictim(linear())
    mask = torch.ones(6, 4, dtype=torch.bool)
    term = PolicyLoss(attack=noise, form="kl")
    one = term.loss(victim, rows(mask=mask), Draws(torch.arange(6)))
    two = term.loss(victim, rows(mask=mask), Draws(torch.arange(6)))
    other = term.loss(victim, rows(mask=mask), Draws(torch.arange(6) + 9))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"attack": "pgd"}, TypeError, r"PolicyLoss\.attack must be an ObsAttack with "),
        ({"weight": "x"}, TypeError, r"PolicyLoss\.weight must be a number or a robustmarl\.sched"),
        ({"form": "js"}, ValueError, r"PolicyLoss\.form must be one of .*, got 'js'\."),
        ({"margin": 0.0}, ValueError, r"PolicyLoss\.margin must be a number > 0, Q units, got 0"),
        ({"max_rows": 0}, ValueError, r"PolicyLoss\.max_rows must be an int >= 1, got 0\."),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        PolicyLoss(**{"attack": PGD(ball=BALL), **settings})
