"""The plan of a network, and what is derived from it, against autograd in float64."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustmarl.attacks import CrossEntropy
from robustmarl.networks import AgentNetwork, SeparateAgents, TypedAgentNetwork
from robustmarl.networks.calculus import InputGradient, Plan
from robustmarl.networks.calculus.plan import Affine, Gru, Norm, OneHot, Relu, Tanh, Vector
from robustmarl.networks.calculus.scores import linearize, score_gram, score_products
from robustmarl.networks.layers import feed_forward
from robustmarl.victims import NetworkVictim, Rows

F64 = torch.float64
WIDTH = 4

LAYERS = {
    "affine": (lambda: [nn.Linear(WIDTH, WIDTH)], [Affine]),
    "affine without bias": (lambda: [nn.Linear(WIDTH, WIDTH, bias=False)], [Affine]),
    "relu": (lambda: [nn.ReLU()], [Relu]),
    "tanh": (lambda: [nn.Tanh()], [Tanh]),
    "norm": (lambda: [nn.LayerNorm(WIDTH)], [Norm]),
    "bare norm": (lambda: [nn.LayerNorm(WIDTH, elementwise_affine=False)], [Norm]),
    "norm, bend": (lambda: [nn.LayerNorm(WIDTH), nn.ReLU()], [Norm, Relu]),
    "bend, norm": (lambda: [nn.Tanh(), nn.LayerNorm(WIDTH)], [Tanh, Norm]),
    "norm, norm": (lambda: [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)], [Norm, Norm]),
    "identity": (lambda: [nn.Identity()], []),
    "nested": (lambda: [nn.Sequential(nn.Sequential(), nn.Tanh())], [Tanh]),
}


def stirred(module):
    """Return ``module`` in float64, biases and norms away from their defaults."""
    module = module.double()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def kinds(plan):
    return [type(layer) for layer in (plan.first, *plan.rest)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# -- reading ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_is_read_in_order(name):
    make, expected = LAYERS[name]
    plan = Plan.of(nn.Sequential(nn.Linear(3, WIDTH), *make(), nn.Linear(WIDTH, 2)))
    assert kinds(plan) == [Affine, *expected, Affine]


class DoubledLinear(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Doubled(nn.Module):
    def forward(self, x):
        return 2.0 * x


def doubled_weight(layer):
    return nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())


class NamedLinear(nn.Linear):
    """Does what a linear layer does."""


def forwarded():
    layer = nn.Linear(3, 2)
    layer.forward = lambda x: nn.Linear.forward(layer, -x)
    return layer


def hooked():
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(lambda module, given, output: 2.0 * output)
    return layer


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(),
        nn.Identity(),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.Softplus()),
        nn.Sequential(nn.Linear(3, 4), nn.Unflatten(-1, (2, 2)), nn.LayerNorm((2, 2))),
        nn.Sequential(nn.Linear(3, 2), nn.GRU(2, 2, num_layers=2)),
        DoubledLinear(3, 2),
        hooked(),
        nn.Sequential(nn.Linear(3, 3), hooked()),
        forwarded(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 2), doubled_weight(nn.LayerNorm(2))),
        nn.Bilinear(3, 3, 2),
    ],
)
def test_what_cannot_be_read_has_no_plan(module):
    assert Plan.of(module) is None


def test_a_subclass_is_read_if_it_computes_what_its_base_does():
    assert kinds(Plan.of(NamedLinear(3, 2))) == [Affine]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hidden": (5, 6)}, [Affine, Relu, Affine, Relu, Affine]),
        ({"layer_norm": True, "activation": "tanh", "hidden": (5,)}, [Affine, Norm, Tanh, Affine]),
        ({"recurrent": True, "hidden": (5,)}, [Affine, Relu, Gru, Affine]),
        (
            {"recurrent": True, "hidden": (5,), "continuous": True, "squash": True},
            [Affine, Relu, Gru, Affine, Tanh],
        ),
    ],
)
def test_the_plan_of_agents(settings, expected):
    assert kinds(AgentNetwork(3, 2, 4, **settings).plan()) == expected


def test_inputs_and_columns_are_in_the_plan():
    plan = TypedAgentNetwork(3, 2, 4, last_action=True, columns=(2, 0)).plan()
    assert [(type(block), block.name) for block in plan.inputs] == [
        (OneHot, "agents"),
        (OneHot, "last_act"),
        (Vector, "slots"),
    ]
    assert plan.columns == [2, 0]
    continuous = AgentNetwork(3, 2, 4, last_action=True, continuous=True, agent_id=False).plan()
    assert [type(block) for block in continuous.inputs] == [Vector]
    assert SeparateAgents(3, 2, 4).plan() is None


def test_weights_are_referenced_and_copies_are_whole():
    network = AgentNetwork(3, 2, 4)
    plan = network.plan()
    assert plan.first.module is network.first
    assert plan.inputs[0].table is network.id_table
    both = copy.deepcopy((network, plan))
    assert both[1].first.module is both[0].first
    assert both[1].inputs[0].table is both[0].id_table
    again = pickle.loads(pickle.dumps(plan))
    assert torch.equal(again.first.module.weight, network.first.weight)


@pytest.mark.parametrize(
    "block", [OneHot("x", torch.randn(5, 3)), OneHot("x", torch.randn(5, 3), optional=True)]
)
def test_one_hot_blocks_add_the_linear_map_of_their_vectors(block):
    index = torch.tensor([[0, 4, 2], [1, 1, 3]])
    assert torch.equal(block.vectors(index), F.one_hot(index, 5).float())
    torch.testing.assert_close(block.added(index), block.vectors(index) @ block.table)
    if block.optional:
        none = torch.tensor([-1, 2])
        assert not block.vectors(none)[0].any()
        assert not block.added(none)[0].any()


# -- input gradients ----------------------------------------------------------------------


def by_autograd(module, x, cotangent, extra=None):
    x = x.clone().requires_grad_()
    first, *rest = module
    y = first(x) if extra is None else first(x) + extra
    for layer in rest:
        y = layer(y)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    return gradient


@pytest.mark.parametrize("with_extra", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_vjp_is_autograds_also_after_an_update(name, with_extra):
    make, _ = LAYERS[name]
    module = stirred(nn.Sequential(nn.Linear(3, WIDTH), *make(), nn.Linear(WIDTH, 2)))
    gradient = InputGradient.of(Plan.of(module))
    x, cotangent = torch.randn(7, 3, dtype=F64), torch.randn(7, 2, dtype=F64)
    extra = torch.randn(7, WIDTH, dtype=F64) if with_extra else None
    for _ in range(2):
        kept, kept_extra = x.clone(), None if extra is None else extra.clone()
        found = gradient.vjp(x, lambda _: cotangent, extra)
        torch.testing.assert_close(found, by_autograd(module, x, cotangent, extra))
        assert torch.equal(x, kept)  # what is overwritten is its own
        assert extra is None or torch.equal(extra, kept_extra)
        for parameter in module.parameters():
            parameter.data.add_(0.1)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_vjp_of_deep_networks(activation, layer_norm):
    module = stirred(feed_forward((3, 8, 8, 2), activation, layer_norm))
    x, cotangent = torch.randn(5, 3, dtype=F64), torch.randn(5, 2, dtype=F64)
    seen = []

    def at(output):
        seen.append(output)
        return cotangent

    found = InputGradient.of(Plan.of(module)).vjp(x, at)
    torch.testing.assert_close(found, by_autograd(module, x, cotangent))
    torch.testing.assert_close(seen[0], module(x))


def test_what_is_left_to_autograd():
    assert InputGradient.of(None) is None
    two_bends = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Identity(), nn.Tanh())
    assert InputGradient.of(Plan.of(two_bends)) is None
    for settings in ({"recurrent": True}, {"columns": (0, 2)}):
        assert InputGradient.of(AgentNetwork(3, 2, 4, **settings).plan()) is None
    assert InputGradient.of(AgentNetwork(3, 2, 4).plan()) is not None


def test_slots_are_constant_in_an_input_gradient():
    network = stirred(TypedAgentNetwork(3, 2, 4, hidden=(5,)))
    obs, slots = torch.randn(6, 3, dtype=F64), torch.rand(6, 2, dtype=F64)
    agents = torch.arange(6) % 2
    extra = network.extra(agents, None, {"slots": slots})
    loss = CrossEntropy(torch.arange(6) % 4)
    plan = InputGradient.of(network.plan())
    found = plan.vjp(obs, loss.gradient, extra.added.detach())

    x = obs.clone().requires_grad_()
    logits = network.step(x, network.extra(agents, None, {"slots": slots}), None)[0]
    (expected,) = torch.autograd.grad(logits, x, loss.gradient(logits.detach()))
    torch.testing.assert_close(found, expected)
    view = NetworkVictim(network, continuous=False).at(Rows(agents=agents))
    assert view.input_gradient(obs, loss).shape == obs.shape


# -- scores -------------------------------------------------------------------------------


def agents_of(name):
    """Return an agent network whose second and later layers are those called ``name``."""
    make, _ = LAYERS[name]
    network = AgentNetwork(3, 2, WIDTH, hidden=(WIDTH,), last_action=True)
    network.rest = nn.Sequential(*make(), nn.Linear(WIDTH, WIDTH))
    return stirred(network)


def check_scores(network, obs, agents, last, hidden, side=None):
    """Compare a network's score products with those of explicit gradients."""
    extra = network.extra(agents, last, side)
    logp = network.step(obs, extra, hidden)[0].log_softmax(-1)
    parameters = list(network.parameters())

    def flat(value):
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])

    rows = torch.stack([flat(value) for value in logp.flatten()]).view(*logp.shape, -1)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    ascent = -torch.cat([parameter.grad.flatten() for parameter in parameters])
    jacobian = linearize(network, obs, agents, last, hidden, side=side)
    policy = logp.detach().exp()
    torch.testing.assert_close(jacobian.logits.log_softmax(-1), logp.detach())
    torch.testing.assert_close(
        score_gram(jacobian, policy), torch.einsum("rnap,rmbp->rnamb", rows, rows)
    )
    torch.testing.assert_close(score_products(jacobian, policy), rows @ ascent)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "bare norm"])
def test_scores_of_every_kind_of_layer(name):
    obs, last = torch.randn(2, 2, 3, dtype=F64), torch.tensor([[-1, 3], [0, 2]])
    check_scores(agents_of(name), obs, torch.arange(2), last, None)


def test_scores_with_memory():
    network = stirred(AgentNetwork(3, 2, 4, hidden=(5,), recurrent=True))
    obs, hidden = torch.randn(2, 2, 3, dtype=F64), torch.randn(2, 2, 5, dtype=F64)
    check_scores(network, obs, torch.arange(2), None, hidden)


@pytest.mark.parametrize("columns", [None, (2, 0)])
def test_scores_with_side_inputs(columns):
    network = stirred(TypedAgentNetwork(3, 2, 4, hidden=(5,), columns=columns))
    obs, slots = torch.randn(2, 2, 3, dtype=F64), torch.rand(2, 2, 2, dtype=F64)
    check_scores(network, obs, torch.arange(2), None, None, {"slots": slots})


def test_scores_want_layers_that_they_know():
    network = AgentNetwork(3, 2, 4, hidden=(5,))
    network.rest[0] = nn.Softplus()
    with pytest.raises(ValueError, match=r"linearize\.network must be made of layers that"):
        linearize(network, torch.zeros(1, 2, 3), torch.arange(2), None, None)
