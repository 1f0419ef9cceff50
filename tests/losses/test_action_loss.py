"""RoMFAC's action loss: closed forms and gradients."""

import pytest
import torch
from learners import Shift
from torch import nn
from torch.nn.functional import cross_entropy

from robustmarl._seeding import Draws
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.losses import ActionLoss, action_loss
from robustmarl.victims import FunctionVictim, LossRows, Rows

D = torch.float64
BALL = LinfBall(epsilon=0.3)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).to(D)


def rows(mask=None):
    generator = torch.Generator().manual_seed(0)
    return LossRows(obs=torch.randn(7, 3, dtype=D, generator=generator), rows=Rows(mask=mask))


def test_without_budget_it_is_minus_log_of_the_greatest_probability():
    net = network()
    loss = action_loss(FunctionVictim(net), rows(), PGD(ball=BALL.with_epsilon(0.0)))
    loss.backward()

    expected = -net(rows().obs).log_softmax(-1).amax(-1).mean()
    torch.testing.assert_close(loss, expected)
    assert bool(net[0].weight.grad.abs().sum() > 0)  # it sharpens the policy


def test_the_label_is_the_clean_greedy_action_and_gradients_flow_through_the_policy_only():
    net, twin = network(), network()
    attack = PGD(ball=BALL)
    loss = action_loss(FunctionVictim(net), rows(), attack)
    loss.backward()
    obs = rows().obs
    with torch.no_grad():
        moved = attack(FunctionVictim(twin).at(), obs)
    expected = cross_entropy(twin(moved), twin(obs).argmax(-1))
    expected.backward()

    torch.testing.assert_close(loss, expected)
    for found, written in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found.grad, written.grad)
    assert not torch.equal(moved, obs)


def test_an_attack_makes_it_larger():
    victim = FunctionVictim(network())
    losses = [
        action_loss(victim, rows(), PGD(ball=BALL.with_epsilon(epsilon))).item()
        for epsilon in (0.0, 0.1, 0.3, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.1


def test_the_label_is_available():
    mask = torch.zeros(7, 4, dtype=torch.bool)
    mask[:, 2] = True
    assert action_loss(FunctionVictim(network()), rows(mask), Shift(BALL)).item() == 0.0


def test_gradient_at_the_clean_observation_is_that_of_cross_entropy_not_of_kl():
    """So PGD may start from the clean observation; with KL it would never leave."""
    net = network()
    obs = rows().obs.requires_grad_()
    logits = net(obs)
    (ce,) = torch.autograd.grad(cross_entropy(logits, logits.argmax(-1)), obs, retain_graph=True)
    clean = logits.detach().log_softmax(-1)
    kl = (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1).mean()
    (zero,) = torch.autograd.grad(kl, obs)

    assert bool((ce.abs().amax(-1) > 1e-6).all())
    assert float(zero.abs().max()) < 1e-12


def test_settings_give_the_loss():
    term = ActionLoss(attack=PGD(ball=BALL), weight=1.0)
    victim = FunctionVictim(network())
    found = term.loss(victim, rows(), Draws(torch.arange(7)))
    torch.testing.assert_close(found, action_loss(victim, rows(), PGD(ball=BALL)))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"attack": BALL}, TypeError, r"ActionLoss\.attack must be an ObsAttack with "),
        (
            {"weight": None},
            TypeError,
            r"ActionLoss\.weight must be a number or a robustmarl\.sched",
        ),
        ({"max_rows": -1}, ValueError, r"ActionLoss\.max_rows must be an int >= 1, got -1\."),
        ({"max_rows": 2.0}, TypeError, r"ActionLoss\.max_rows must be an int >= 1, got 2\.0\."),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        ActionLoss(**{"attack": PGD(ball=BALL), "weight": 1.0, **settings})
