"""What ``check_attack`` refuses, and what it lets pass."""

import copy
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustmarl.attacks import (
    MIFGSM,
    PGD,
    CrossEntropy,
    FunctionLoss,
    GaussianNoise,
    GradientAttack,
    UniformNoise,
    toward_adversary,
)
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import GaussianObsAdversary
from robustmarl.testing import ContractError, check_attack
from robustmarl.victims import FunctionVictim

# A sound attack written from scratch, and what can go wrong with one


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Ascends the cross entropy by sign steps of accumulated gradients."""

    ball: LinfBall
    steps: int = 5

    def with_epsilon(self, epsilon):
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    def size(self, gradient):
        return gradient.abs().sum(-1, keepdim=True).clamp(min=1e-30)

    def way(self, velocity):
        return velocity.sign()

    def __call__(self, view, obs, draws=None):
        loss, found, velocity = CrossEntropy(), obs.clone(), torch.zeros_like(obs)
        for _ in range(self.steps):
            gradient = view.input_gradient(found, loss)
            velocity = velocity + gradient / self.size(gradient)
            step = 0.3 * self.ball.radius(obs) * self.way(velocity)
            found = self.ball.project(found + step, obs)
        return found


class NormOfTheBatch(Sound):
    def size(self, gradient):
        return gradient.abs().sum()


class BestOfTheBatch(Sound):
    """Keeps one of two starts, for all rows together."""

    def __call__(self, view, obs, draws=None):
        loss = CrossEntropy(view.logits(obs).argmax(-1))
        ends = [super(BestOfTheBatch, self).__call__(view, x) for x in (obs, -obs)]
        ends = [self.ball.project(end, obs) for end in ends]
        return max(ends, key=lambda end: loss(view.logits(end)).sum())


class NoProjection(Sound):
    def __call__(self, view, obs, draws=None):
        loss, found = CrossEntropy(), obs.clone()
        for _ in range(self.steps):
            step = 0.3 * self.ball.radius(obs) * view.input_gradient(found, loss).sign()
            found = found + step
        return found


class InPlace(Sound):
    def __call__(self, view, obs, draws=None):
        loss, clean = CrossEntropy(), obs.clone()
        for _ in range(self.steps):
            obs.add_(0.1 * self.ball.radius(obs) * view.input_gradient(obs, loss).sign())
        return self.ball.project(obs, clean)


class TorchsStream(Sound):
    def __call__(self, view, obs, draws=None):
        return self.ball.project(obs + torch.randn_like(obs), obs)


class NumpysStream(Sound):
    def __call__(self, view, obs, draws=None):
        np.random.rand()  # noqa: NPY002
        return super().__call__(view, obs, draws)


class PythonsStream(Sound):
    def __call__(self, view, obs, draws=None):
        random.random()
        return super().__call__(view, obs, draws)


class Nothing(Sound):
    def __call__(self, view, obs, draws=None):
        return obs.clone()


class Descends(Sound):
    def way(self, velocity):
        return -velocity.sign()


class LeavesGradients(Sound):
    def __call__(self, view, obs, draws=None):
        with torch.enable_grad():
            x = obs.clone().requires_grad_()
            logits = view.logits(x)
            F.cross_entropy(logits, logits.argmax(-1), reduction="sum").backward()
        return self.ball.project(obs + self.ball.radius(obs) * x.grad.sign(), obs)


class IgnoresMasks(Sound):
    def __call__(self, view, obs, draws=None):
        bare = copy.copy(view)
        bare.mask = bare._blocked = None
        return super().__call__(bare, obs, draws)


class AsksAllTheSame(Sound):
    needs_victim = False


class IdleNoise(Sound):
    needs_victim = False

    def __call__(self, view, obs, draws=None):
        return obs.clone()


class TurnedHook(GradientAttack):
    def direction(self, walk):
        return -walk.gradient.sign()


class HookOfTheBatch(GradientAttack):
    def direction(self, walk):
        unit = walk.gradient / walk.gradient.abs().max().clamp_min(1e-30)
        walk.memory["sum"] = walk.memory.get("sum", 0.0) + unit
        return walk.memory["sum"].sign()


class LossOfTheBatch(GradientAttack):
    """The target that would be best for all rows together."""

    def output_loss(self, view, obs):
        total = view.logits(obs).softmax(-1).sum(0)
        return CrossEntropy(total.argmin().expand(len(obs)), targeted=True)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (NormOfTheBatch, "independently"),
        (BestOfTheBatch, "independently"),
        (HookOfTheBatch, "independently"),
        (LossOfTheBatch, "independently"),
        (NoProjection, "stay in its ball"),
        (InPlace, "input unmodified"),
        (TorchsStream, "draws that it is given only"),
        (NumpysStream, "draws that it is given only"),
        (PythonsStream, "draws that it is given only"),
        (Nothing, "change something"),
        (IdleNoise, "change something"),
        (Descends, "raise the victim's loss"),
        (TurnedHook, "raise the victim's loss"),
        (LeavesGradients, "weights and gradients alone"),
        (IgnoresMasks, "unavailable actions"),
        (AsksAllTheSame, "not ask for view.input_gradient"),
    ],
)
def test_refuses(kind, text):
    with pytest.raises(ContractError, match=text):
        check_attack(lambda epsilon: kind(ball=LinfBall(epsilon=epsilon)))


def test_accepts_the_sound_one():
    check_attack(lambda epsilon: Sound(ball=LinfBall(epsilon=epsilon)))


# Noise, sound but for one promise


class Broken:
    """Noise that breaks one promise."""

    def __init__(self, ball, fault):
        self.ball, self.fault = ball, fault
        self.needs_victim = fault == "grad"

    def with_epsilon(self, epsilon):
        return Broken(
            self.ball.with_epsilon(2 * epsilon if self.fault == "at" else epsilon), self.fault
        )

    def __call__(self, view, obs, draws=None):
        found = self.ball.sample(obs, draws)
        if self.fault == "budget":
            return obs + 1.5 * (found - obs)
        if self.fault == "identity":
            return obs * (1 + 1e-6) if self.ball.is_zero else found
        if self.fault == "dtype":
            return found.double()
        if self.fault == "draws":
            return obs + (torch.rand_like(obs) - 0.5) * self.ball.radius(obs)
        if self.fault == "rows":
            return self.ball.project(obs + obs.mean(0), obs)
        if self.fault == "input":
            obs += 1e-3 * self.ball.radius(obs)
        if self.fault == "grad" and not self.ball.is_zero:
            with torch.enable_grad():
                view.logits(obs).sum().backward()
        if self.fault == "coordinates":
            return obs + self.ball.max_epsilon
        if self.fault == "graph":
            return found.requires_grad_()
        return found


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("budget", "stay in its ball"),
        ("identity", "identity"),
        ("dtype", "keep shape, dtype"),
        ("draws", "draws that it is given only"),
        ("rows", "independently"),
        ("input", "input unmodified"),
        ("grad", "weights and gradients alone"),
        ("coordinates", "radius per coordinate"),
        ("graph", "detached"),
        ("at", "with_epsilon"),
    ],
)
def test_refuses_noise(fault, text):
    with pytest.raises(ContractError, match=text):
        check_attack(lambda epsilon: Broken(LinfBall(epsilon=epsilon), fault))


def test_accepts_sound_noise():
    check_attack(lambda epsilon: Broken(LinfBall(epsilon=epsilon), None))


# Ours


def entropy(logits):
    log_policy = logits.log_softmax(-1)
    return -(log_policy.exp() * log_policy).sum(-1)


@pytest.mark.parametrize(
    "make",
    [
        UniformNoise,
        GaussianNoise,
        PGD.fgsm,
        PGD,
        MIFGSM,
        lambda ball: PGD(ball=ball, loss="margin", random_start=True, restarts=2),
        lambda ball: PGD(ball=ball, loss=FunctionLoss(entropy)),
        lambda ball: PGD(ball=ball, target=2, clean_if_own=True),
        lambda ball: PGD(ball=ball, target=lambda view, obs: view.logits(obs).argmin(-1)),
        lambda ball: PGD(ball=ball, loss="mse", target=(3.0, 0.0, 0.0, 0.0)),
        lambda ball: GaussianObsAdversary(ball, 6),
    ],
)
def test_accepts_ours(make):
    check_attack(lambda epsilon: make(ball=LinfBall(epsilon=epsilon)))


class Told:
    """An adversary that wants its last action from everybody."""

    def outputs(self, obs, agents, act):
        return torch.tensor([0.0, 0.0, 0.0, 5.0]).expand(len(obs), -1)


def test_accepts_imitation():
    check_attack(lambda epsilon: toward_adversary(Told(), LinfBall(epsilon=epsilon)))


@pytest.mark.parametrize(
    "settings",
    [
        {"random_start": True},
        {"target": (0.5, -0.5)},
        {"loss": lambda view, obs, act: act.sum(-1)},
        {"loss": FunctionLoss(lambda means: means[:, 0])},
    ],
)
def test_continuous_victims(settings):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())
    victim = FunctionVictim(network, continuous=True)

    def turned(epsilon):
        return TurnedHook(ball=LinfBall(epsilon=epsilon), **settings)

    check_attack(lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon), **settings), victim=victim)
    if "random_start" in settings:
        return  # from the least squared error no way leads down
    with pytest.raises(ContractError, match="raise the victim's loss"):
        check_attack(turned, victim=victim)


def test_nothing_is_asked_for_where_nothing_can_be_gained():
    constant = FunctionVictim(lambda obs: obs[:, :4] * 0.0)
    check_attack(lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon)), victim=constant)
