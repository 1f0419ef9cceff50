"""Compiled steps against those that are taken one by one: what is equal, and how nearly."""

import copy
import importlib
import sys
from pathlib import Path

import numba
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from robustmarl._seeding import Draws
from robustmarl.attacks import (
    APGD,
    MIFGSM,
    PGD,
    CrossEntropy,
    FunctionLoss,
    LipschitzAttack,
    Margin,
    ScaledMargin,
)
from robustmarl.budgets import LinfBall
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.networks.calculus import Plan, SignSteps
from robustmarl.networks.calculus.reading import compiled
from robustmarl.networks.layers import feed_forward
from robustmarl.testing import check_attack
from robustmarl.victims import FunctionVictim, NetworkVictim, Rows
from robustmarl.victims._view import View

SIZES = (13, 40, 33, 7)  # none of them a whole number of vectors
ROWS = 75  # two blocks and a part, which is no whole number of tiles
EPSILON = 0.2

LOSSES = {
    "cross entropy": {},
    "margin": {"loss": "margin"},
    "dlr": {"loss": "dlr"},
    "kl": {"loss": "kl", "random_start": True},
    "expected": {"loss": "expected"},
    "mse": {"loss": "mse", "target": (1.0, -1.0, 0.5, 0.0, 2.0, -2.0, 1.0)},
    "cross entropy, targeted": {"target": 2},
    "margin, targeted": {"loss": "margin", "target": 2},
    "dlr, targeted": {"loss": "dlr", "target": 2},
    "cross entropy, random start": {"random_start": True},
    "restarts": {"loss": "margin", "restarts": 3},
    "shown clean": {"target": 2, "clean_if_own": True},
}

NETWORKS = {
    "relu": lambda: feed_forward(SIZES),
    "tanh": lambda: feed_forward(SIZES, "tanh"),
    "relu, norm": lambda: feed_forward(SIZES, layer_norm=True),
    "tanh, norm": lambda: feed_forward(SIZES, "tanh", layer_norm=True),
    "linear": lambda: nn.Sequential(nn.Linear(13, 7)),
    "two bends, no biases": lambda: nn.Sequential(
        nn.Linear(13, 20, bias=False),
        nn.LayerNorm(20, elementwise_affine=False),
        nn.Tanh(),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(20, 7, bias=False),
    ),
}


def network(name="relu", scale=2.0):
    made = NETWORKS[name]()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter)).mul_(scale)
    return made


def pgd(**settings):
    return PGD(**({"ball": LinfBall(epsilon=EPSILON), "steps": 10} | settings))


def available(rows=ROWS, actions=7):
    mask = torch.rand(rows, actions) < 0.6
    mask[:, 0] = True
    return mask


def draws(rows=ROWS):
    return Draws(torch.arange(rows) + 100)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def asked(monkeypatch):
    """What compiled code answered: whether it took the steps."""
    answers, take = [], SignSteps.take

    def spy(self, *args, **kwargs):
        answers.append(take(self, *args, **kwargs))
        return answers[-1]

    monkeypatch.setattr(SignSteps, "take", spy)
    return answers


def one_by_one(attack, view, obs, draws=None):
    """Return what the attack finds where compiled code takes no step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(View, "sign_steps", lambda *_: None)
        return attack(view, obs, draws)


def same_rows(one, other):
    return ((one - other).abs() <= 1e-6).all(dim=-1)


# -- what is equal ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_ten_steps_lead_where_they_lead_one_by_one(name, loss, masked, scale, asked):
    """A step may differ where a gradient is zero but for rounding, and that in few rows."""
    obs, mask = torch.randn(ROWS, 13), available() if masked else None
    view = FunctionVictim(network(name, scale)).at(Rows(mask=mask))
    attack = pgd(**LOSSES[loss])
    found, expected = attack(view, obs, draws()), one_by_one(attack, view, obs, draws())

    assert asked
    assert all(answer is not None for answer in asked)
    assert int((~same_rows(found, expected)).sum()) <= 2
    raised = attack.output_loss(view, obs)
    raised(view.output(obs))  # names the label
    values = [raised(view.output(one)).double() for one in (found, expected)]
    assert values[0].mean() >= values[1].mean() - 1e-3 * values[1].abs().mean()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_has_the_sign_of_the_exact_gradient(name, loss):
    """Wherever that is no less than a hundred-thousandth of the row's largest entry."""
    obs, mask, layers = torch.randn(ROWS, 13), available(), network(name)
    view = FunctionVictim(layers).at(Rows(mask=mask))
    settings = {"restarts": 1, "clean_if_own": False, "random_start": False}
    if loss == "kl":
        settings |= {"random_start": True}
    attack = PGD.fgsm(LinfBall(epsilon=EPSILON), **(LOSSES[loss] | settings))
    start = attack.start(view, obs, draws() if attack.random_start else None)
    found = attack(view, obs, draws())
    exact = FunctionVictim(NETWORKS[name]().double())
    exact.function.load_state_dict(layers.state_dict())
    raised = attack.output_loss(exact.at(Rows(mask=mask)), obs.double())
    gradient = exact.at(Rows(mask=mask)).input_gradient(start.double(), raised)

    low, high = attack.ball.box(obs)
    expected = (start + EPSILON * gradient.sign().float()).clamp(low, high)
    size = gradient.abs()
    clear = size > 1e-5 * size.amax(dim=-1, keepdim=True)
    assert clear.float().mean() > 0.2 or "targeted" in loss
    assert torch.equal(found[clear], expected[clear])


@pytest.mark.parametrize("loss", ["cross entropy", "dlr", "kl", "mse"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_bit_of_a_row_depends_on_the_others(name, loss):
    obs, mask = torch.randn(ROWS, 13) * torch.logspace(-2, 2, ROWS)[:, None], available()
    victim, attack, keys = FunctionVictim(network(name)), pgd(**LOSSES[loss]), draws().keys
    whole = attack(victim.at(Rows(mask=mask)), obs, Draws(keys))
    for index in (torch.randperm(ROWS), *(torch.arange(n) for n in (1, 2, 3, 4, 5, 31, 33, 64))):
        rows = victim.at(Rows(mask=mask[index]))
        assert torch.equal(attack(rows, obs[index], Draws(keys[index])), whole[index])
    for row in range(0, ROWS, 9):
        alone = victim.at(Rows(mask=mask[row : row + 1]))
        found = attack(alone, obs[row : row + 1], Draws(keys[row : row + 1]))
        assert torch.equal(found[0], whole[row])
    assert torch.equal(attack(victim.at(Rows(mask=mask)), obs, Draws(keys)), whole)


BALLS = {
    "per coordinate": LinfBall(epsilon=tuple(0.1 * (i % 3) for i in range(13))),
    "range": LinfBall(epsilon=0.5, low=-0.2, high=(0.4,) * 13),
    "fixed": LinfBall(epsilon=0.5, fixed=tuple(i % 2 == 0 for i in range(13))),
}


@pytest.mark.parametrize("size", [None, 0.05, tuple(0.01 * i + 0.01 for i in range(13))])
@pytest.mark.parametrize("ball", BALLS)
def test_balls_ranges_and_lengths_of_all_kinds(ball, size, asked):
    obs, attack = torch.randn(ROWS, 13), pgd(ball=BALLS[ball], step_size=size, steps=4)
    view = FunctionVictim(network("tanh")).at()
    found = attack(view, obs)
    assert asked[0] is not None
    assert torch.equal(found, one_by_one(attack, view, obs))
    assert attack.ball.contains(found, obs)


def test_agents_of_different_sizes():
    """Coordinates and actions that an agent does not have are neither seen nor moved."""
    sizes, actions = torch.tensor([5, 13, 9])[torch.arange(ROWS) % 3], available()
    real = torch.arange(13) < sizes[:, None]
    obs = torch.randn(ROWS, 13)
    view = FunctionVictim(network()).at(Rows(mask=actions, obs_mask=real))
    for settings in ({}, {"random_start": True}):
        attack = pgd(**settings)
        found, expected = attack(view, obs, draws()), one_by_one(attack, view, obs, draws())
        assert torch.equal(found[~real], expected[~real])
        assert same_rows(found, expected).all()


@pytest.mark.parametrize("settings", [{}, {"target": (0.5, -0.5, 0.0)}])
@pytest.mark.parametrize("squash", [False, True])
def test_continuous_agents(squash, settings, asked):
    agents = AgentNetwork(13, 3, 3, continuous=True, squash=squash, last_action=True)
    exists = torch.ones(ROWS, 3, dtype=torch.bool)
    exists[::2, 2] = False
    rows = Rows(mask=exists, agents=torch.arange(ROWS) % 3, last_act=torch.rand(ROWS, 3))
    view, obs = NetworkVictim(agents, continuous=True).at(rows), torch.randn(ROWS, 13)
    attack = pgd(**({"random_start": True} | settings))
    found, expected = attack(view, obs, draws()), one_by_one(attack, view, obs, draws())
    assert asked[0] is not None
    assert same_rows(found, expected).sum() >= ROWS - 1


SETTINGS = [
    {"agent_id": True, "last_action": True},
    {"activation": "tanh", "layer_norm": True},
    {"mean_action": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", [AgentNetwork, SeparateAgents])
def test_agents_that_share_a_network_and_such_that_do_not(kind, settings, asked):
    agents = kind(13, 3, 7, hidden=(40, 33), **settings)
    for parameter in agents.parameters():
        parameter.data.mul_(2.0)
    side = {"mean_act": torch.rand(ROWS, 7)} if "mean_action" in settings else {}
    last = torch.randint(-1, 7, (ROWS,)) if "last_action" in settings else None
    obs, whose = torch.randn(ROWS, 13), torch.randint(0, 3, (ROWS,))
    victim = NetworkVictim(agents, continuous=False)
    for rows in (Rows(mask=available(), agents=whose, last_act=last, side=side), Rows(side=side)):
        attack, view = pgd(), victim.at(rows)
        found = attack(view, obs)
        assert asked[-1] is not None
        assert same_rows(found, one_by_one(attack, view, obs)).sum() >= ROWS - 1


def test_separate_agents_are_each_attacked_through_their_own_network():
    agents, obs = SeparateAgents(13, 3, 7), torch.randn(ROWS, 13)
    whose = torch.arange(ROWS) % 3
    found = pgd()(NetworkVictim(agents, continuous=False).at(Rows(agents=whose)), obs)
    for agent in range(3):
        alone = NetworkVictim(agents.of(agent), continuous=False).at()
        assert torch.equal(found[whose == agent], pgd()(alone, obs[whose == agent]))


def test_agents_of_unequal_networks_are_left_to_torch(asked):
    """Their first layers would read beyond what is added to them."""
    agents = SeparateAgents(13, 2, 7, hidden=(8,), last_action=True)
    agents.nets[1] = AgentNetwork(13, 2, 7, hidden=(9,), last_action=True)
    rows = Rows(agents=torch.arange(ROWS) % 2)
    pgd()(NetworkVictim(agents, continuous=False).at(rows), torch.randn(ROWS, 13))
    assert asked == [None]


def test_hooks_that_only_say_where_to_start_are_taken_along(asked):
    """LipschitzAttack starts beside the clean observation; momentum and APGD step by themselves."""
    view, obs = FunctionVictim(network()).at(), torch.randn(ROWS, 13)
    for kind, taken in ((LipschitzAttack, True), (MIFGSM, False), (APGD, False)):
        asked.clear()
        attack = kind(ball=LinfBall(epsilon=EPSILON))
        found = attack(view, obs, draws())
        assert bool(asked) == taken
        assert torch.equal(found, one_by_one(attack, view, obs, draws()))


def test_weights_are_read_anew_in_each_call():
    layers, obs = network(), torch.randn(ROWS, 13)
    view = FunctionVictim(layers).at()

    def change():
        yield
        with torch.no_grad():
            layers[0].weight.mul_(-1.0)
        yield
        layers[2].weight.data = layers[2].weight.data.flip(0)
        yield
        layers[2].bias = nn.Parameter(torch.randn(33))
        yield

    before = None
    for _ in change():
        found = pgd()(view, obs)
        assert before is None or not torch.equal(found, before)
        assert torch.equal(found, one_by_one(pgd(), view, obs))
        before = found


def computed(layers, how):
    """Have all weights worked out at each access; sizes alike take each other's freed memory."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            how(layer)
    return layers


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "orthogonal"])
def test_weights_that_are_computed_are_left_to_autograd(how, mode, asked):
    layers = computed(feed_forward((13, 13, 13, 7)), getattr(parametrizations, how)).train(mode)
    before, obs = copy.deepcopy(layers.state_dict()), torch.randn(ROWS, 13)
    calm = copy.deepcopy(layers).eval()
    with torch.no_grad():
        label = calm(obs).argmax(dim=-1)
    found = PGD.fgsm(LinfBall(epsilon=EPSILON))(FunctionVictim(layers).at(), obs)

    shown = obs.clone().requires_grad_()
    nn.functional.cross_entropy(calm(shown), label, reduction="sum").backward()
    torch.testing.assert_close(found, obs + EPSILON * shown.grad.sign())
    assert not any(asked)
    assert all(torch.equal(layers.state_dict()[key], before[key]) for key in before)


def test_weights_that_are_computed_from_now_on_live_while_they_are_read(asked):
    layers, obs = feed_forward((13, 13, 13, 7)), torch.randn(ROWS, 13)
    view = FunctionVictim(layers).at()
    computed(layers, parametrizations.weight_norm)
    found, expected = pgd()(view, obs), one_by_one(pgd(), view, obs)
    assert asked[0] is not None
    assert same_rows(found, expected).all()


def test_the_first_output_names_the_label():
    layers, obs, mask = network(), torch.randn(ROWS, 13), available()
    view = FunctionVictim(layers).at(Rows(mask=mask))
    for loss in (CrossEntropy(), Margin(), ScaledMargin()):
        pgd().climb(view, obs, loss, None)
        assert torch.equal(loss.label, view.logits(obs).argmax(dim=-1))
    given = (view.logits(obs).argmax(dim=-1) + 1) % 7
    loss = Margin(given.clone())
    pgd().climb(view, obs, loss, None)
    assert torch.equal(loss.label, given)


def test_nothing_that_is_given_is_written_to():
    view, obs = FunctionVictim(network()).at(Rows(mask=available())), torch.randn(ROWS, 13)
    label = torch.zeros(ROWS, dtype=torch.int64)
    kept = obs.clone(), label.clone()
    pgd(loss=Margin(label))(view, obs)
    assert torch.equal(obs, kept[0])
    assert torch.equal(label, kept[1])


@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x.T.contiguous().T, lambda x: x[::2]])
def test_layouts_in_memory_do_not_matter(layout):
    view, obs = FunctionVictim(network()).at(), layout(torch.randn(ROWS, 13))
    assert torch.equal(
        pgd()(view, obs), pgd()(view, obs.clone(memory_format=torch.contiguous_format))
    )


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("name", ["relu", "tanh, norm"])
def test_contract(name, settings):
    layers = network(name)
    check_attack(
        lambda epsilon: pgd(ball=LinfBall(epsilon=epsilon), **settings),
        victim=FunctionVictim(layers),
        obs_size=13,
        num_actions=7,
    )


# -- what is left to torch ----------------------------------------------------------------


class Steeper(Margin):
    """Something else than its base: compiled code must not take it for a margin."""

    def gradient(self, output):
        return -super().gradient(output)


def with_hook():
    layers = network()
    layers[2].register_forward_hook(lambda module, given, output: output.flip(-1))
    return layers


LEFT = {
    "double precision": (lambda: network().double(), torch.float64, {}),
    "double observations": (network, torch.float64, {}),
    "a hook": (with_hook, torch.float32, {}),
    "a function": (lambda: network().forward, torch.float32, {}),
    "convolution": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 13)), nn.Conv1d(1, 2, 3), nn.Flatten()),
        torch.float32,
        {},
    ),
    "a loss of one's own": (
        network,
        torch.float32,
        {"loss": FunctionLoss(lambda out: out.square().sum(-1))},
    ),
    "a loss made of ours": (network, torch.float32, {"loss": Steeper()}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_compiled_code_does_not_know_is_left_to_torch(case):
    make, dtype, settings = LEFT[case]
    view, obs = FunctionVictim(make()).at(), torch.randn(ROWS, 13, dtype=dtype)
    assert torch.equal(pgd(**settings)(view, obs), one_by_one(pgd(**settings), view, obs))
    assert not torch.equal(pgd(**settings)(view, obs), obs)


def test_memory_and_chosen_coordinates_are_left_to_torch():
    for settings in ({"recurrent": True}, {"columns": (0, 2)}):
        assert SignSteps.of(AgentNetwork(13, 2, 4, **settings).plan()) is None
    assert SignSteps.of(None) is None
    assert SignSteps.of(Plan.of(network()), None) is None


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_that_is_no_action_is_left_to_torch_which_refuses_it(label, asked):
    view, obs = FunctionVictim(network()).at(), torch.randn(ROWS, 13)
    attack = pgd(loss=Margin(torch.full((ROWS,), label)))
    with pytest.raises(ValueError, match=r"Margin\.label must be indices of 7 actions, got"):
        attack(view, obs)
    assert asked == [None]


@pytest.mark.parametrize("what", ["weight", "observation"])
def test_a_gradient_that_is_not_finite_is_refused(what):
    layers, obs = network("tanh"), torch.randn(ROWS, 13)
    if what == "weight":
        layers[2].weight.data[3, 3] = torch.inf
    else:
        obs[60, 3] = torch.nan
    with pytest.raises(ValueError, match=r"PGD: the victim's gradient must be finite"):
        pgd()(FunctionVictim(layers).at(), obs)


@pytest.mark.parametrize("missing", ["numba", "compiler"])
def test_without_numba_torch_takes_the_steps(missing, monkeypatch):
    view, obs = FunctionVictim(network()).at(), torch.randn(ROWS, 13)
    found = pgd()(view, obs)
    compiled.cache_clear()
    with monkeypatch.context() as patch:
        if missing == "numba":
            patch.setitem(sys.modules, "numba", None)
        else:
            patch.setattr(numba.config, "DISABLE_JIT", 1)
        assert compiled("kernel") is None
        assert same_rows(pgd()(view, obs), found).all()
    compiled.cache_clear()
    assert compiled("kernel") is not None


@pytest.mark.parametrize("name", ["kernel.sign_steps", "bounding.bound_leads"])
def test_what_is_kept_compiled_is_that_of_the_sources(name, tmp_path):
    """Numba looks at one file only; a change to any other has to count, too."""
    module, function = name.split(".")
    kernel = importlib.import_module(f"robustmarl.networks.calculus._compiled.{module}")
    keeping = importlib.import_module("robustmarl.networks.calculus._compiled.keeping")
    folder = Path(kernel.__file__).parent
    (kept,) = (cell.cell_contents for cell in getattr(kernel, function).py_func.__closure__)
    assert kept == keeping.digest(folder)
    for source in folder.glob("*.py"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    for source in tmp_path.glob("*.py"):
        source.write_text(source.read_text() + "# another")
        assert keeping.digest(tmp_path) != kept
        kept = keeping.digest(tmp_path)
