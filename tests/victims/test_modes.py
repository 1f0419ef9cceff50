"""Victims in training mode, of other precision, and without a gradient."""

import copy

import pytest
import torch
from torch import nn

from robustmarl import algorithms, evaluation
from robustmarl.attacks import PGD, CrossEntropy
from robustmarl.budgets import LinfBall
from robustmarl.envs import spread
from robustmarl.victims import FunctionVictim, as_victim

ATTACK = PGD(ball=LinfBall(epsilon=0.1))
LOSS = CrossEntropy(torch.zeros(4, dtype=torch.int64))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def obs():
    return torch.randn(4, 3)


class Own(nn.Module):
    """Draws in training mode, as noisy networks do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x) + (torch.randn(3) if self.training else 0.0)


def mixed():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), Own())


def test_attacks_see_evaluation_mode_and_leave_modes_and_statistics(obs):
    network = mixed()
    network[2].eval()  # each module has a mode of its own
    before = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    view = FunctionVictim(network).at()
    found, logits = ATTACK(view, obs), view.logits(obs)

    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    calm = FunctionVictim(copy.deepcopy(network).eval()).at()
    assert torch.equal(found, ATTACK(calm, obs))
    assert torch.equal(logits, calm.logits(obs))


def test_modes_come_back_when_the_victim_raises(obs):
    network = mixed()
    with pytest.raises(RuntimeError):
        FunctionVictim(network).at().logits(obs[:, :2])
    assert all(part.training for part in network.modules())


def test_modules_whose_mode_does_not_matter_are_left_alone(obs):
    """An LSTM on a GPU goes back in training mode only."""
    network, seen = nn.LSTM(3, 3), []
    network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    FunctionVictim(lambda x: network(x)[0]).at().logits(obs)
    outer = nn.Sequential(network)
    outer.forward = lambda x: network(x)[0]
    FunctionVictim(outer).at().input_gradient(obs, LOSS)
    assert seen == [True, True]


@pytest.mark.parametrize("hooked", [False, True])
def test_double_modules_take_float_observations(obs, hooked):
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    if hooked:  # by autograd instead of by hand
        network[0].register_forward_hook(lambda *_: None)
    view = FunctionVictim(network).at()

    assert view.logits(obs).dtype == torch.float32
    torch.testing.assert_close(view.logits(obs), network(obs.double()).float())
    gradient = view.input_gradient(obs, LOSS)
    assert gradient.dtype == torch.float32
    wide = FunctionVictim(network).at().input_gradient(obs.double(), LOSS)
    torch.testing.assert_close(gradient, wide.float())
    assert ATTACK(view, obs).dtype == torch.float32


def frozen(x):
    return x.detach() * 2.0


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (frozen, "frozen"),
        (torch.no_grad()(lambda x: x * 2.0), "<lambda>"),
        (torch.inference_mode()(nn.Linear(3, 3).forward), "forward"),
        (lambda x: torch.from_numpy(x.detach().numpy() * 2.0), "<lambda>"),
    ],
)
def test_victims_without_a_gradient_are_named(obs, function, name):
    with pytest.raises(ValueError, match=rf"have a gradient, got {name} without one"):
        ATTACK(FunctionVictim(function).at(), obs)


def test_the_gradient_of_a_constant_victim_is_zero(obs):
    network = nn.Linear(3, 3)
    view = FunctionVictim(lambda x: network.bias.expand(len(x), 3)).at()
    assert (view.input_gradient(obs, LOSS) == 0).all()
    assert torch.equal(ATTACK(view, obs), obs)


@pytest.mark.parametrize("plain", [True, False])
def test_attacks_in_inference_mode(obs, plain):
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    victim = FunctionVictim(network if plain else lambda x: network(x))
    expected = ATTACK(victim.at(), obs)
    with torch.inference_mode():
        inside = ATTACK(victim.at(), obs.clone())
    assert torch.equal(inside, expected)
    assert torch.equal(ATTACK(victim.at(), inside), ATTACK(victim.at(), expected))


def test_victims_made_in_inference_mode_are_refused(obs):
    with torch.inference_mode():
        network = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"made outside torch\.inference_mode, got <lambda>"):
        ATTACK(FunctionVictim(lambda x: network(x)).at(), obs)


def test_a_recurrent_team_is_attacked_in_inference_mode():
    def make():
        return spread(2, max_cycles=4)

    team = algorithms.IPPO.for_env(make(), hidden=(8,), recurrent=True)
    expected = evaluation.rollout(team, make, episodes=2, perturb=ATTACK).returns
    with torch.inference_mode():
        found = evaluation.rollout(team, make, episodes=2, perturb=ATTACK).returns
    assert found.tolist() == expected.tolist()


def test_modules_know_where_they_are():
    assert FunctionVictim(nn.Linear(3, 3)).device == torch.device("cpu")
    assert FunctionVictim(nn.Linear(3, 3, device="meta")).device == torch.device("meta")
    assert as_victim("X.victim", nn.Linear(3, 3), continuous=True).continuous
    with pytest.raises(TypeError, match=r"X\.victim must be made first, got the class Linear"):
        as_victim("X.victim", nn.Linear)
