"""Hand-written loss gradients against autograd, closed forms and saturated logits."""

import math

import pytest
import torch
from torch.nn import functional as F

from robustmarl.attacks.losses import (
    CrossEntropy,
    Margin,
    NegativeValue,
    ScaledMargin,
    SquaredError,
)
from robustmarl.attacks.policy_losses import Divergence, ExpectedChange, TowardPolicy
from robustmarl.joint import MASKED


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, dtype=torch.float64, generator=generator)


@pytest.fixture
def target(logits):
    return torch.arange(len(logits)) % logits.shape[-1]


def autograd(loss, output):
    x = output.clone().requires_grad_()
    return torch.autograd.grad(loss(x).sum(), x)[0]


def same_direction(ours, reference):
    lengths = (x.norm(dim=-1, keepdim=True) for x in (ours, reference))
    of_ours, of_reference = lengths
    torch.testing.assert_close(ours * of_reference, reference * of_ours)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind", [CrossEntropy, Margin, ScaledMargin])
def test_gradient_is_autograds_up_to_a_positive_factor_per_row(kind, targeted, logits, target):
    loss = kind(target, targeted=targeted)
    ours, reference = loss.gradient(logits), autograd(loss, logits)

    same_direction(ours, reference)


@pytest.mark.parametrize("kind", [CrossEntropy, Margin, ScaledMargin])
@pytest.mark.parametrize(
    ("label", "rule"),
    [
        (torch.tensor([0]), r"of shape \(12,\), got \(1,\)"),
        (torch.tensor(0), r"of shape \(12,\), got \(\)"),
        (torch.zeros(12, 1, dtype=torch.int64), r"of shape \(12,\), got \(12, 1\)"),
        (torch.full((12,), 5), "indices of 5 actions"),
        (torch.full((12,), -1), "indices of 5 actions"),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind, label, rule, logits):
    """One for all rows was broadcast in the loss, not in its gradient."""
    for targeted in (False, True):
        for ask in (kind(label, targeted=targeted), kind(label, targeted=targeted).gradient):
            with pytest.raises(ValueError, match=rf"{kind.__name__}\.label must be {rule}"):
                ask(logits)


def test_cross_entropy_is_torchs(logits, target):
    ours = CrossEntropy(target)(logits)

    torch.testing.assert_close(ours, F.cross_entropy(logits, target, reduction="none"))
    torch.testing.assert_close(CrossEntropy(target, targeted=True)(logits), -ours)


def test_cross_entropy_gradient_is_softmax_minus_one_hot(logits, target):
    """The factor is 1 - pi(y), nothing else."""
    own = F.one_hot(target, 5)
    left_out = 1.0 - (logits.softmax(-1) * own).sum(-1, keepdim=True)

    ours = CrossEntropy(target).gradient(logits) * left_out
    torch.testing.assert_close(ours, logits.softmax(-1) - own)


def test_saturated_softmax_keeps_loss_and_direction():
    """A gap of 60 logits: float32 softmax is exactly one-hot, its gradient exactly zero."""
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    loss = CrossEntropy(torch.tensor([0]))

    assert (
        autograd(lambda z: F.cross_entropy(z, torch.tensor([0]))[None], logits).abs().max() < 1e-20
    )
    torch.testing.assert_close(loss.gradient(logits), torch.tensor([[-1.0, 0.5, 0.5]]))
    torch.testing.assert_close(loss(logits).double(), torch.tensor([-60.0]).exp().double() * 2)


def test_margin_of_the_worked_example():
    """Q = (2, 1, -1), then (0, 3, -1), y = 0: margins -1 and +3."""
    loss = Margin(torch.tensor([0, 0]))
    output = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, -1.0]])

    assert loss(output).tolist() == [-1.0, 3.0]
    assert loss.gradient(output).tolist() == [[-1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]


def test_margin_passes_over_unavailable_actions():
    """Q = (1, 5, 0), available (1, 0, 1): the margin is -1, not +4."""
    output = torch.tensor([[1.0, MASKED, 0.0]])

    assert Margin(torch.tensor([0]))(output).item() == -1.0
    assert Margin(torch.tensor([0])).gradient(output).tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind", [CrossEntropy, Margin, ScaledMargin])
@pytest.mark.parametrize("output", [[[7.0]], [[7.0, MASKED, MASKED]]])
def test_no_other_available_action_means_zero_gradient(kind, targeted, output):
    gradient = kind(torch.tensor([0]), targeted=targeted).gradient(torch.tensor(output))

    assert gradient.abs().max() == 0.0


@pytest.mark.parametrize("kind", [CrossEntropy, Margin, ScaledMargin])
def test_an_unavailable_target_means_zero_gradient(kind):
    gradient = kind(torch.tensor([1]), targeted=True).gradient(torch.tensor([[7.0, MASKED, 1.0]]))

    assert gradient.abs().max() == 0.0


@pytest.mark.parametrize("kind", [CrossEntropy, Margin, ScaledMargin])
def test_without_target_the_first_outputs_greedy_action_stays_the_target(kind, logits):
    loss, other = kind(), logits.flip(-1)
    loss.gradient(logits)

    assert torch.equal(loss(other), kind(logits.argmax(-1))(other))


def test_squared_error_gradient(logits):
    """d/dmu of the mean square towards a is 2 (a - mu) / A when pulled there."""
    goal = torch.zeros_like(logits)

    torch.testing.assert_close(
        SquaredError(goal).gradient(logits), autograd(SquaredError(goal), logits)
    )
    pulled = SquaredError(goal, targeted=True)
    torch.testing.assert_close(pulled.gradient(logits), -2.0 * logits / 5)
    torch.testing.assert_close(pulled(logits), -logits.square().mean(-1))


def test_negative_value_asks_the_critic_on_clean_observations(logits):
    obs = torch.ones(12, 2, dtype=torch.float64)
    seen = []

    def critic(view, clean, action):
        seen.append(clean)
        return (action**3).sum(-1, keepdim=True)

    loss = NegativeValue(critic, None, obs)
    torch.testing.assert_close(loss.gradient(logits), -3.0 * logits**2)
    assert seen[0] is obs
    assert not logits.requires_grad


def test_scaled_margin_of_the_worked_example():
    """z = (4, 3, 1, 0): of action 0 (3 - 4) / (4 - 1), of target 1 -(4 - 3) / (4 - .5)."""
    output = torch.tensor([[4.0, 3.0, 1.0, 0.0]])
    assert ScaledMargin(torch.tensor([0]))(output).item() == pytest.approx(-1 / 3)
    assert ScaledMargin(torch.tensor([1]), targeted=True)(output).item() == pytest.approx(-1 / 3.5)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("available", [3, 4, 5])
def test_scaled_margin_is_free_of_scale_and_offset(targeted, available, logits, target):
    output = logits.clone()
    output[:, available:] = MASKED
    label = target % available
    loss = ScaledMargin(label, targeted=targeted)
    moved = torch.where(output > MASKED / 2, 1000.0 * output + 7.0, output)
    torch.testing.assert_close(loss(moved), loss(output))
    ours, reference = loss.gradient(output), autograd(loss, output)
    same_direction(ours, reference)
    assert ours[:, available:].abs().max() == 0 if available < 5 else True


def test_of_two_available_actions_the_scaled_margin_is_the_margin():
    output = torch.tensor([[1.0, MASKED, 5.0, MASKED]])
    for targeted in (False, True):
        ours, plain = (
            kind(torch.tensor([0]), targeted=targeted) for kind in (ScaledMargin, Margin)
        )
        assert torch.equal(ours(output), plain(output))
        assert torch.equal(ours.gradient(output), plain.gradient(output))


@pytest.mark.parametrize("kind", [Divergence, ExpectedChange, TowardPolicy])
def test_losses_of_policies(kind, logits):
    """Against torch's KL and the sum written out; gradients are autograd's up to a factor."""
    clean = logits.flip(-1).clone()
    clean[:, 4], logits[:, 4] = MASKED, MASKED
    loss, p, q = kind(clean), clean.softmax(-1), logits.softmax(-1)
    want = {
        Divergence: F.kl_div(q[:, :4].log(), p[:, :4], reduction="none").sum(-1),
        ExpectedChange: 1.0 - (p * q).sum(-1),
        TowardPolicy: -F.kl_div(p[:, :4].log(), q[:, :4], reduction="none").sum(-1),
    }[kind]
    torch.testing.assert_close(loss(logits), want)
    ours, reference = loss.gradient(logits), autograd(loss, logits)
    same_direction(ours, reference)
    assert kind(clean)(clean).abs().max() < 1e-12 or kind is ExpectedChange


def test_what_is_never_wanted_is_far_and_not_infinitely(logits):
    wanted = torch.tensor([[0.0, -1e4, MASKED, MASKED, MASKED]]).to(logits).expand_as(logits)
    loss, sure = TowardPolicy(wanted), torch.full_like(logits, MASKED)
    sure[:, 1] = 0.0
    torch.testing.assert_close(loss(sure), torch.full_like(logits[:, 0], math.log(1e-6)))
    assert loss.gradient(logits).isfinite().all()
    with pytest.raises(ValueError, match=r"TowardPolicy\.output must be of shape"):
        loss(logits[:, :2])


def test_the_way_to_a_policy_is_known_where_softmax_saturates():
    """In float32 all is lost beyond a lead of 104, whose exponential is the least number."""
    wanted, logits = torch.tensor([[0.0, 2.0, MASKED]]), torch.tensor([[0.0, -1.0, MASKED]])
    for lead in (10.0, 104.0, 1000.0):
        ahead = logits + lead * torch.tensor([[1.0, 0.0, 0.0]])
        found = TowardPolicy(wanted).gradient(ahead)
        torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize(
    "wanted", [torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)], ids=["row", "indices"]
)
def test_what_is_no_policy_is_refused(wanted):
    with pytest.raises(ValueError, match=r"TowardPolicy\.wanted must be logits, floats of shape"):
        TowardPolicy(wanted)
    with pytest.raises(ValueError, match=r"TowardPolicy\.output must be of shape \(1, 3\)"):
        TowardPolicy(torch.zeros(1, 3)).gradient(torch.zeros(4, 3))


@pytest.mark.parametrize("kind", [Divergence, ExpectedChange])
def test_losses_of_policies_keep_their_direction_where_softmax_saturates(kind):
    """In float32 1 - 1 is 0; of two actions what one loses the other gains."""
    gradient = kind(torch.tensor([[60.0, 0.0]])).gradient(torch.tensor([[40.0, 0.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]]))
