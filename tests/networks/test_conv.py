"""Agents that see images: closed forms, attacks through them, and who refuses them."""

import functools

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl.algorithms import DOP, EIRMAPPO, IPPO, IQL, MAPPO, MFAC, RoMFAC
from robustmarl.algorithms.romfac import romfac_loss
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.certify import margin_bounds
from robustmarl.networks import AgentNetwork, Conv, ConvAgentNetwork
from robustmarl.networks.calculus.scores import linearize
from robustmarl.testing import check_algorithm
from robustmarl.victims import LossRows, NetworkVictim, Rows

VIEW = Conv((4, 3, 2), channels=(3, 4), kernel=2)
BALL = LinfBall(epsilon=0.2)


def see(extra=3, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvAgentNetwork(24 + extra, 3, 5, conv=VIEW, hidden=(6, 7), **settings)


def images(extra=3, rows=5):
    return torch.randn(rows, 24 + extra, generator=torch.Generator().manual_seed(1))


def test_an_image_is_read_as_it_was_flattened():
    """Convolutions written out, with height, width and channels where the view has them."""
    network, obs = see(), images()
    image = obs[:, :24].view(5, 4, 3, 2).numpy()
    first, _, second, _ = network.image
    x = image
    for layer in (first, second):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        rows, columns = x.shape[1] - 1, x.shape[2] - 1
        out = np.zeros((5, rows, columns, len(bias)), np.float32)
        for i in range(rows):
            for j in range(columns):
                patch = x[:, i : i + 2, j : j + 2]  # (5, 2, 2, C)
                out[:, i, j] = np.einsum("nijc,ocij->no", patch, weight) + bias
        x = np.maximum(out, 0.0)
    want = torch.cat([torch.from_numpy(x.reshape(5, -1)), obs[:, 24:]], dim=1)
    torch.testing.assert_close(network.features(obs).detach(), want)
    assert want.shape[1] == VIEW.features + 3 == network.first.in_features


def test_a_window_of_one_pixel_that_copies_is_a_network_without_convolutions():
    plain = AgentNetwork(24, 3, 5, hidden=(6,), mean_action=True)
    network = ConvAgentNetwork(
        24, 3, 5, conv=Conv((4, 3, 2), channels=(2,), kernel=1), hidden=(6,), mean_action=True
    )
    network.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        network.image[0].weight.copy_(torch.eye(2)[:, :, None, None])
        network.image[0].bias.zero_()
    obs = images(0).abs()  # ReLU copies it, too
    for net in (plain, network):
        net.out = net.step(obs, net.extra(torch.tensor([0, 1, 2, 0, 1]), None, SIDE), None)[0]
    torch.testing.assert_close(plain.out, network.out)


SIDE = {"mean_act": torch.rand(5, 5, generator=torch.Generator().manual_seed(2))}


@pytest.mark.parametrize("recurrent", [False, True])
def test_unrolled_steps_are_steps(recurrent):
    network = see(recurrent=recurrent, last_action=True, mean_action=True)
    obs = images(rows=2 * 4 * 3).view(2, 4, 3, 27)
    last = torch.randint(-1, 5, (2, 4, 3), generator=torch.Generator().manual_seed(0))
    side = {"mean_act": torch.rand(2, 4, 3, 5)}
    whole, _ = network.unroll(obs, last, side)
    hidden, agents = None, torch.arange(3).expand(2, 3)
    for t in range(4):
        extra = network.extra(agents, last[:, t], {"mean_act": side["mean_act"][:, t]})
        output, hidden = network.step(obs[:, t], extra, hidden)
        torch.testing.assert_close(output, whole[:, t])


def test_pgd_goes_through_image_and_features():
    network, obs = see(mean_action=True), images()
    view = NetworkVictim(network, continuous=False).at(Rows(side=SIDE))
    moved = PGD(ball=BALL, steps=4)(view, obs)
    assert bool((moved != obs)[:, 24:].any())
    assert bool((moved != obs)[:, :24].any())
    label = view.logits(obs).argmax(-1)
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(view.logits(x), label) for x in (obs, moved)]
    assert float(losses[1]) > float(losses[0])
    assert all(weight.grad is None for weight in network.parameters())


def game():
    return Scripted(3, obs_sizes=(27, 27, 27), action_sizes=(4, 4, 4), lengths=(3,))


SMALL = {"conv": VIEW, "hidden": (8,)}
LOSS = romfac_loss(ball=BALL, warmup=0, period=3, steps=2)


@pytest.mark.parametrize("kind", [MFAC, IPPO, MAPPO, IQL])
def test_learners_take_it(kind):
    check_algorithm(functools.partial(kind.for_env, **SMALL), game, env_steps=20)
    assert isinstance(kind.for_env(game(), **SMALL).policy.network, ConvAgentNetwork)


def test_the_action_loss_learns_through_it():
    team = functools.partial(RoMFAC.for_env, action_loss=LOSS, **SMALL)
    check_algorithm(team, game, env_steps=20)
    assert isinstance(team(game()).critic, ConvAgentNetwork)


def test_a_view_alone_stands_for_the_default_layers():
    spec = Scripted(2, obs_sizes=(150, 150))
    network = IQL.for_env(spec, conv=(7, 7, 3), hidden=(8,)).policy.network
    assert network.conv == Conv((7, 7, 3), channels=(32, 32), kernel=3)


def test_what_reads_layers_refuses_it():
    victim = NetworkVictim(see(), continuous=False)
    rows = LossRows(obs=images(), rows=Rows())
    with pytest.raises(ValueError, match=r"must be a network of layers that bounds are known of"):
        margin_bounds(victim, rows, BALL)
    with pytest.raises(ValueError, match=r"linearize\.network must be made of layers"):
        linearize(see(), images()[None, :3], torch.arange(3), None, None, "full")
    assert see().plan() is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Conv((4, 3)), r"Conv\.view must be \(height, width, channels\)"),
        (lambda: Conv((4, 3, 2)), r"Conv\.kernel must be at most 2 for 2 layers on a view of 4 x"),
        (lambda: Conv((4, 3, 0)), r"Conv\.view must be an int >= 1"),
        (
            lambda: ConvAgentNetwork(20, 3, 5, conv=VIEW),
            r"ConvAgentNetwork\.conv must be of at most 20 coordinates",
        ),
        (lambda: see(columns=(0, 1)), r"ConvAgentNetwork\.columns must be None beside an image"),
        (lambda: IPPO.for_env(game(), shared=False, **SMALL), r"IPPO\.shared must be True for"),
        (lambda: EIRMAPPO.for_env(game(), **SMALL), r"EIRMAPPO\.conv must be None: types"),
        (lambda: DOP.for_env(game(), conv=(9, 9, 9)), r"DOP\.conv must be of at most 27"),
    ],
)
def test_rejects(make, text):
    with pytest.raises(ValueError, match=text):
        make()
