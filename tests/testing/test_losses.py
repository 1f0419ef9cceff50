"""Our loss terms keep the contract, and broken doubles do not."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import cross_entropy

from robustmarl.losses import ActionLoss, PolicyLoss
from robustmarl.testing import ContractError, check_loss


@pytest.mark.parametrize("form", ["hinge", "kl", "tv", "ce"])
def test_policy_losses(form):
    zero = form in ("kl", "tv")
    check_loss(
        lambda attack: PolicyLoss(attack=attack, form=form, margin=50.0), zero_without_budget=zero
    )


def test_the_squared_distance_of_boxes():
    check_loss(
        lambda attack: PolicyLoss(attack=attack, form="mse"),
        continuous=True,
        zero_without_budget=True,
    )


def test_the_action_loss():
    check_loss(lambda attack: ActionLoss(attack=attack, weight=1.0))


@dataclass
class Sound:
    """Cross entropy under attack, written out; doubles break one line each."""

    attack: object
    weight: float = 1.0
    max_rows: int | None = None

    def loss(self, victim, rows, draws):
        view = rows.view(victim)
        with torch.no_grad():
            moved = self.attack(view, rows.obs.clone(), draws)
        return self.of(view, rows, moved)

    def of(self, view, rows, moved):
        return cross_entropy(view.logits(moved), view.logits(rows.obs).argmax(-1))


class PerRow(Sound):
    def of(self, view, rows, moved):
        return view.logits(moved).logsumexp(-1)


class Infinite(Sound):
    def of(self, view, rows, moved):
        return super().of(view, rows, moved) / 0.0


class Detached(Sound):
    def of(self, view, rows, moved):
        return super().of(view, rows, moved).detach()


class Blind(Sound):
    def loss(self, victim, rows, draws):
        return self.of(rows.view(victim), rows, rows.obs)


class WithGradients(Sound):
    def loss(self, victim, rows, draws):
        view = rows.view(victim)
        return self.of(view, rows, self.attack(view, rows.obs.clone(), draws).detach())


class GivesItsRows(Sound):
    def loss(self, victim, rows, draws):
        view = rows.view(victim)
        with torch.no_grad():
            moved = self.attack(view, rows.obs, draws)
        return self.of(view, rows, moved)


class DrawsGlobally(Sound):
    def of(self, view, rows, moved):
        return super().of(view, rows, moved + 0.1 * torch.rand(moved.shape))


class FillsGrad(Sound):
    def of(self, view, rows, moved):
        super().of(view, rows, moved).backward()
        return super().of(view, rows, moved)


class Constant(Sound):
    def of(self, view, rows, moved):
        return 0.0 * super().of(view, rows, moved)


class Forgetful(Sound):
    calls = 0

    def of(self, view, rows, moved):
        self.calls += 1
        return super().of(view, rows, moved) * self.calls


class Sums(Sound):
    def of(self, view, rows, moved):
        return super().of(view, rows, moved) * len(rows)


class CountsPadding(Sound):
    """A mean square over all coordinates, padding among them."""

    def of(self, view, rows, moved):
        return (view.output(moved) - view.output(rows.obs)).square().mean()


class Unmasked(Sound):
    def loss(self, victim, rows, draws):
        view = victim.at()
        with torch.no_grad():
            moved = self.attack(view, rows.obs.clone(), draws)
        return self.of(view, rows, moved)


BROKEN = [
    (PerRow, "return a scalar tensor"),
    (Infinite, "be finite, got inf"),
    (Detached, "carry a gradient"),
    (Blind, "ask the attack"),
    (WithGradients, "call the attack under no_grad"),
    (GivesItsRows, "give the attack a copy"),
    (DrawsGlobally, "leave torch's global generator alone"),
    (FillsGrad, "leave the policy's .grad alone"),
    (Constant, "have a gradient for the policy's parameters that is not zero"),
    (Forgetful, "be the same for the same random numbers"),
    (Sums, "be the mean of what it is on each row alone"),
    (CountsPadding, "not count coordinates and actions that do not exist"),
    (Unmasked, "not count coordinates and actions that do not exist"),
]


def test_the_sound_double():
    check_loss(Sound)


@pytest.mark.parametrize(("double", "text"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_broken_terms_are_caught(double, text):
    with pytest.raises(ContractError, match=f"A loss term must {text}"):
        check_loss(double)


def test_a_term_that_is_not_zero_without_budget_is_caught():
    with pytest.raises(ContractError, match="be 0 where the attack changes nothing, got"):
        check_loss(Sound, zero_without_budget=True)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"make_term": 3}, TypeError, "make_term must be callable, got 3"),
        ({"rows": 1}, ValueError, "rows must be an int >= 2"),
        ({"obs_size": 1}, ValueError, "obs_size must be an int >= 2"),
        ({"num_actions": 1}, ValueError, "num_actions must be an int >= 2"),
    ],
)
def test_bad_arguments(settings, kind, text):
    with pytest.raises(kind, match=rf"check_loss\.{text}"):
        check_loss(**({"make_term": Sound} | settings))
