"""Compiled bounds against those of torch: what is equal, and what is left to torch."""

import importlib
import sys
from typing import get_args

import numba
import pytest
import torch
from torch import nn

from robustmarl.budgets import LinfBall
from robustmarl.certify import BoundMethod, certified, margin_bounds, possible_actions
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.networks.calculus import Plan, leads
from robustmarl.networks.calculus.bounds import Interval
from robustmarl.networks.calculus.leads import lead_bounds
from robustmarl.networks.calculus.reading import compiled
from robustmarl.networks.layers import feed_forward
from robustmarl.victims import LossRows, NetworkVictim, Rows

SIZES = (13, 40, 33, 10)  # no whole numbers of vectors; more units and pairs than go back at once
METHODS = get_args(BoundMethod)

NETWORKS = {
    "relu": lambda: feed_forward(SIZES),
    "tanh": lambda: feed_forward(SIZES, "tanh"),
    "three hidden": lambda: feed_forward((13, 40, 20, 36, 10)),
    "three hidden, tanh": lambda: feed_forward((13, 40, 20, 36, 10), "tanh"),
    "both bends": lambda: nn.Sequential(
        nn.Linear(13, 24), nn.Tanh(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 16), nn.Tanh(),
        nn.Linear(16, 10),
    ),
    "no biases": lambda: nn.Sequential(
        nn.Linear(13, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False)
    ),
    "linear": lambda: nn.Linear(13, 10),
    "one output": lambda: feed_forward((13, 40, 1)),
}  # fmt: skip
OF_INTERVALS = {
    "norm": lambda: feed_forward(SIZES, layer_norm=True),
    "norm without weights": lambda: nn.Sequential(
        nn.Linear(13, 20),
        nn.LayerNorm(20, elementwise_affine=False),
        nn.Tanh(),
        nn.Linear(20, 10),
    ),
    "norm last": lambda: nn.Sequential(nn.Linear(13, 10), nn.LayerNorm(10)),
}
ODD = {
    "two bends": lambda: nn.Sequential(nn.Linear(13, 20), nn.Tanh(), nn.ReLU(), nn.Linear(20, 10)),
    "two affine": lambda: nn.Sequential(nn.Linear(13, 20), nn.Linear(20, 10), nn.ReLU()),
}


def network(name="relu", scale=1.5):
    made = (NETWORKS | OF_INTERVALS | ODD)[name]()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter)).mul_(scale)
    return made


def box_of(rows, radius):
    """Boxes whose middles nobody asks for, some of whose coordinates are fixed."""
    centre = torch.randn(rows, 13)
    below, above = (radius * torch.rand(rows, 13).sub(0.2).clamp(min=0.0) for _ in range(2))
    return Interval(centre - below, centre + above)


def by_torch(*args, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leads, "compiled", lambda _: None)
        return lead_bounds(*args, **kwargs)


def close(found, expected):
    size = expected[expected.isfinite()].abs().amax() if len(expected) else 1.0
    torch.testing.assert_close(
        found, expected, rtol=0.0, atol=float(1e-5 * size + 1e-6), equal_nan=True
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def asked(monkeypatch):
    """Whether compiled code answered."""
    answers, ask = [], leads._by_compiled_code

    def spy(*args):
        found = ask(*args)
        answers.append(found is not None)
        return found

    monkeypatch.setattr(leads, "_by_compiled_code", spy)
    return answers


# -- what is equal ------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", NETWORKS | OF_INTERVALS)
def test_bounds_are_those_of_torch(name, radius, asked):
    layers, box = network(name), box_of(75, radius)
    plan, outputs = Plan.of(layers), layers(box.low).shape[1]
    for leaders in (torch.randint(0, outputs, (75, 1)), None):
        for method in METHODS:
            found = lead_bounds(plan, box, leaders, method=method)
            close(found, by_torch(plan, box, leaders, method=method))
    assert all(asked[::2])
    assert len(asked) == 12


@pytest.mark.parametrize("name", ODD)
def test_layers_that_do_not_take_turns_are_bounded_by_intervals_alone(name, asked):
    plan, box, leaders = Plan.of(network(name)), box_of(40, 0.2), torch.randint(0, 10, (40, 1))
    for method in METHODS:
        found = lead_bounds(plan, box, leaders, method=method)
        close(found, by_torch(plan, box, leaders, method=method))
    assert asked[::2] == [True, False, False]


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 1024])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_however_many_rows_there_are(name, rows, asked):
    plan, box = Plan.of(network(name)), box_of(rows, 0.1)
    leaders = torch.randint(0, 10, (rows, 1))
    for method in METHODS:
        found = lead_bounds(plan, box, leaders, method=method)
        assert found.shape == (rows, 1, 10)
        if rows:
            close(found, by_torch(plan, box, leaders, method=method))
    assert all(asked[::2])


@pytest.mark.parametrize("shape", [(40,), (50, 40)])
def test_whatever_is_added_to_the_first_layer(shape, asked):
    plan, box, added = Plan.of(network()), box_of(50, 0.1), 3.0 * torch.randn(shape)
    for leaders in (torch.randint(0, 10, (50, 1)), None):
        for method in METHODS:
            found = lead_bounds(plan, box, leaders, method=method, added=added)
            close(found, by_torch(plan, box, leaders, method=method, added=added))
    assert all(asked[::2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS | OF_INTERVALS)
def test_no_bit_of_a_row_depends_on_the_others(name, method):
    plan, box = Plan.of(network(name)), box_of(75, 0.3)
    whole = lead_bounds(plan, box, None, method=method)
    for index in (torch.randperm(75), *(torch.arange(n) for n in (1, 2, 31, 33))):
        part = Interval(box.low[index], box.high[index])
        assert torch.equal(lead_bounds(plan, part, None, method=method), whole[index])


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("name", NETWORKS | OF_INTERVALS)
def test_no_point_of_a_box_lies_below(name, radius):
    layers, box = network(name), box_of(40, radius)
    bounds = [lead_bounds(Plan.of(layers), box, None, method=method) for method in METHODS]
    for _ in range(200):
        share = torch.rand(box.low.shape)
        share = torch.where(torch.rand(box.low.shape) < 0.5, share.round(), share)
        output = layers(box.low + share * (box.high - box.low))
        led = output.unsqueeze(2) - output.unsqueeze(1)
        for bound in bounds:
            assert bool((led >= bound - 1e-5).all())


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, 1e30, 3e38])
@pytest.mark.parametrize("name", ["relu", "tanh", "norm"])
def test_numbers_that_are_none_spoil_their_row_as_in_torch(name, odd):
    plan, box = Plan.of(network(name)), box_of(40, 0.1)
    others = ~torch.eye(10, dtype=torch.bool)
    strange = Interval(box.low.clone(), box.high.clone())
    strange.low[7, 3] = -odd
    strange.high[7, 3] = odd
    for method in METHODS:
        whole = lead_bounds(plan, box, None, method=method)
        found = lead_bounds(plan, strange, None, method=method)
        expected = by_torch(plan, strange, None, method=method)
        assert torch.equal(found[7][others].isfinite(), expected[7][others].isfinite())
        if odd == torch.nan:
            assert bool(found[7].isnan().all())
        found[7] = whole[7]
        assert torch.equal(found, whole)


def test_weights_are_read_anew_in_each_call():
    layers, box = network(), box_of(40, 0.1)
    plan = Plan.of(layers)
    before = lead_bounds(plan, box, None, method="tightest")
    layers[2].weight.mul_(-1.0)
    found = lead_bounds(plan, box, None, method="tightest")
    assert not torch.equal(found, before)
    close(found, by_torch(plan, box, None, method="tightest"))


@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x.T.contiguous().T, lambda x: x[::2]])
def test_layouts_in_memory_do_not_matter(layout):
    low = layout(torch.randn(40, 13))
    plan, leaders = Plan.of(network()), layout(torch.randint(0, 10, (40, 1)))
    found = lead_bounds(plan, Interval(low, low + 0.1), leaders, method="tightest")
    same = low.clone(memory_format=torch.contiguous_format)
    assert torch.equal(
        found, lead_bounds(plan, Interval(same, same + 0.1), leaders.clone(), method="tightest")
    )


SETTINGS = [
    {"last_action": True},
    {"activation": "tanh"},
    {"layer_norm": True},
    {"columns": (0, 2, 3, 11)},
    {"mean_action": True, "agent_id": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", [AgentNetwork, SeparateAgents])
def test_teams_of_all_kinds(kind, settings, asked, monkeypatch):
    if kind is SeparateAgents and "agent_id" in settings:
        settings = {"mean_action": True}
    agents = kind(13, 3, 7, hidden=(40, 33), **settings)
    for parameter in agents.parameters():
        parameter.data.mul_(1.5)
    victim, ball = NetworkVictim(agents, continuous=False), LinfBall(epsilon=0.1, high=0.5)
    mask, real = torch.rand(50, 7) < 0.6, torch.rand(50, 13) < 0.8
    mask[:, 0] = True
    side = {"mean_act": torch.rand(50, 7)} if "mean_action" in settings else {}
    last = torch.randint(-1, 7, (50,)) if "last_action" in settings else None
    whose = torch.randint(0, 3, (50,))
    rows = LossRows(
        obs=torch.randn(50, 13) * real,
        rows=Rows(mask=mask, obs_mask=real, agents=whose, last_act=last, side=side),
    )

    def all_bounds():
        bounds = [margin_bounds(victim, rows, ball, method=method) for method in METHODS]
        return *bounds, certified(victim, rows, ball), possible_actions(victim, rows, ball)

    found = all_bounds()
    assert asked
    assert all(asked)
    monkeypatch.setattr(leads, "compiled", lambda _: None)
    for one, other in zip(found, all_bounds(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# -- what is left to torch ----------------------------------------------------------------


def test_gradients_are_left_to_torch(asked):
    layers, box = network(), box_of(20, 0.1)
    plan, leaders = Plan.of(layers), torch.randint(0, 10, (20, 1))
    with torch.enable_grad():
        assert lead_bounds(plan, box, leaders, method="linear").requires_grad
        layers.requires_grad_(requires_grad=False)
        assert asked == []
        assert not lead_bounds(plan, box, leaders, method="linear").requires_grad
        assert asked == [True]
        low = box.low.clone().requires_grad_()
        assert lead_bounds(plan, Interval(low, box.high), leaders, method="linear").requires_grad
        added = torch.randn(40, requires_grad=True)
        assert lead_bounds(plan, box, leaders, method="linear", added=added).requires_grad
    assert asked == [True]


def with_memory():
    return AgentNetwork(13, 1, 10, hidden=(16,), recurrent=True).plan()


LEFT = {
    "double precision": lambda: (Plan.of(network().double()), box_of(9, 0.1)),
    "memory": lambda: (with_memory(), box_of(9, 0.1)),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_compiled_code_does_not_know_is_left_to_torch(case, asked):
    plan, box = LEFT[case]()
    if case == "double precision":
        box = Interval(box.low.double(), box.high.double())
    for method in METHODS:
        found = lead_bounds(plan, box, None, method=method)
        assert torch.equal(found, by_torch(plan, box, None, method=method))
    assert not any(asked)


def test_some_leaders_are_left_to_torch(asked):
    plan, box = Plan.of(network()), box_of(9, 0.1)
    leaders = torch.randint(0, 10, (9, 2))
    found = lead_bounds(plan, box, leaders, method="linear")
    every = lead_bounds(plan, box, None, method="linear")
    assert asked == [False, True]
    close(found, every.gather(1, leaders.unsqueeze(-1).expand(-1, -1, 10)))


@pytest.mark.parametrize("leader", [-1, 10])
def test_a_leader_that_is_no_output_is_refused(leader, asked):
    plan, box = Plan.of(network()), box_of(9, 0.1)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        lead_bounds(plan, box, torch.full((9, 1), leader), method="interval")
    assert asked == [False]


@pytest.mark.parametrize("missing", ["numba", "compiler"])
def test_without_numba_torch_bounds_them(missing, monkeypatch, asked):
    plan, box = Plan.of(network()), box_of(40, 0.1)
    found = lead_bounds(plan, box, None, method="tightest")
    compiled.cache_clear()
    with monkeypatch.context() as patch:
        if missing == "numba":
            patch.setitem(sys.modules, "numba", None)
        else:
            patch.setattr(numba.config, "DISABLE_JIT", 1)
        close(lead_bounds(plan, box, None, method="tightest"), found)
    compiled.cache_clear()
    assert compiled("bounding") is importlib.import_module(
        "robustmarl.networks.calculus._compiled.bounding"
    )
    assert asked == [True, False]
