"""Agent networks: ids and last actions, memory, and the gradient that attacks take."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from robustmarl.attacks import CrossEntropy, Margin, SquaredError
from robustmarl.joint import MASKED
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.victims import NetworkVictim, Rows

N, D, A = 3, 4, 5


def network(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AgentNetwork(D, N, A, **{"hidden": (8, 6), **settings}).double()


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def whole(*shape, low=0, high=A, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("agent_id", [False, True])
def test_tables_are_the_one_hot_input_of_one_linear_layer(agent_id, last_action):
    net = network(agent_id=agent_id, last_action=last_action)
    obs, agents, last = draw(7, D), whole(7, high=N), whole(7, low=-1)
    blocks, columns = [obs], [net.first.weight]
    if agent_id:
        blocks.append(F.one_hot(agents, N).double())
        columns.append(net.id_table.T)
    if last_action:
        one_hot = F.one_hot(last.clamp(min=0), A).double()
        one_hot[last < 0] = 0.0
        blocks.append(one_hot)
        columns.append(net.last_table.T)
    first = F.linear(torch.cat(blocks, -1), torch.cat(columns, -1), net.first.bias)

    found, hidden = net.step(obs, net.extra(agents, last), None)
    torch.testing.assert_close(found, net.rest(first))
    assert hidden is None


def test_continuous_last_actions_enter_as_vectors():
    net = network(continuous=True, last_action=True)
    last = draw(7, A)
    expected = net.id_table[2] + last @ net.last_table

    torch.testing.assert_close(net.extra(torch.full((7,), 2), last).added, expected)
    zero = net.extra(torch.full((7,), 2), torch.zeros(7, A, dtype=torch.float64))
    assert torch.equal(zero.added, net.id_table[2].expand(7, -1))


def test_weights_are_drawn_as_for_the_concatenated_input():
    net = network(hidden=(4000,), last_action=True)
    bound = (D + N + A) ** -0.5
    for weight in (net.first.weight, net.first.bias, net.id_table, net.last_table):
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound


def step_by_step(net, obs, last):
    """Return outputs and the states before each step, one agent at a time."""
    batch, steps = obs.shape[:2]
    outputs = torch.empty(batch, steps, N, A, dtype=obs.dtype)
    before = torch.zeros(batch, steps, N, net.hidden_size, dtype=obs.dtype)
    for i in range(N):
        hidden = None
        for t in range(steps):
            if hidden is not None:
                before[:, t, i] = hidden
            chosen = None if last is None else last[:, t, i]
            extra = net.extra(torch.full((batch,), i), chosen)
            outputs[:, t, i], hidden = net.step(obs[:, t, i], extra, hidden)
    return outputs, before


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_unroll_is_step_by_step(recurrent, last_action, continuous):
    net = network(recurrent=recurrent, last_action=last_action, continuous=continuous)
    obs = draw(2, 6, N, D)
    last = None
    if last_action:
        last = draw(2, 6, N, A, seed=1) if continuous else whole(2, 6, N, low=-1)
    found, states = net.unroll(obs, last)
    expected, before = step_by_step(net, obs, last)

    torch.testing.assert_close(found, expected)
    if recurrent:
        torch.testing.assert_close(states, before)
        assert not states.requires_grad
        assert not states[:, 0].any()  # memory is empty when an episode begins
    else:
        assert states is None


def test_memory_remembers():
    net = network(recurrent=True)
    obs = draw(1, 4, N, D)
    other = obs.clone()
    other[:, 0] += 1.0
    one, two = net.unroll(obs, None)[0], net.unroll(other, None)[0]

    assert not torch.allclose(one[:, 3], two[:, 3])


@pytest.mark.parametrize("recurrent", [False, True])
def test_agents_share_parameters_and_differ_by_their_id_only(recurrent):
    obs = draw(1, 3, 1, D).expand(1, 3, N, D)
    out, _ = network(recurrent=recurrent).unroll(obs, None)
    assert not torch.allclose(out[:, :, 0], out[:, :, 1])
    out, _ = network(recurrent=recurrent, agent_id=False).unroll(obs, None)
    torch.testing.assert_close(out[:, :, 0], out[:, :, 1])


def positive_multiples(found, expected):
    """Return whether every row of ``found`` is a positive multiple of that of ``expected``."""
    unit, other = F.normalize(found, dim=-1), F.normalize(expected, dim=-1)
    return torch.allclose(unit, other, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "tanh"},
        {"last_action": True},
        {"layer_norm": True},
        {"layer_norm": True, "activation": "tanh", "last_action": True},
        {"recurrent": True},
        {"recurrent": True, "last_action": True},
    ],
)
@given(seed=st.integers(0, 99), kind=st.sampled_from([CrossEntropy, Margin]))
def test_input_gradient_is_that_of_autograd(settings, seed, kind):
    net = network(**settings)
    mask = whole(9, A, high=3, seed=seed) > 0
    mask[:, :2] = True
    view = NetworkVictim(net, continuous=False).at(
        Rows(
            mask=mask,
            hidden=draw(9, net.hidden_size, seed=seed) if net.recurrent else None,
            last_act=whole(9, low=-1, seed=seed),
            agents=whole(9, high=N, seed=seed),
        )
    )
    obs = draw(9, D, seed=seed).requires_grad_()
    logits = view.logits(obs)
    assert bool((logits[~mask] == MASKED).all())
    target = logits.detach().argmax(-1)
    (expected,) = torch.autograd.grad(kind(target)(logits).sum(), obs)
    before = [p.grad for p in net.parameters()]
    found = view.input_gradient(obs.detach(), kind(target))

    assert positive_multiples(found, expected)
    assert [p.grad for p in net.parameters()] == before == [None] * len(before)


@pytest.mark.parametrize("recurrent", [False, True])
def test_input_gradient_of_a_continuous_victim(recurrent):
    net = network(continuous=True, recurrent=recurrent)
    agents = whole(9, high=N)
    view = NetworkVictim(net, continuous=True).at(Rows(agents=agents))
    obs = draw(9, D).requires_grad_()
    loss = SquaredError(draw(9, A, seed=1))
    (expected,) = torch.autograd.grad(loss(view.mean(obs)).sum(), obs)

    assert positive_multiples(view.input_gradient(obs.detach(), loss), expected)


def test_a_victim_follows_its_network_and_advances_its_memory():
    net = network(recurrent=True)
    victim = NetworkVictim(net, continuous=False)
    obs, hidden, agents = draw(9, D), draw(9, 8), whole(9, high=N)
    view = victim.at(Rows(hidden=hidden, agents=agents))
    out, after = net.step(obs, net.extra(agents, None), hidden)

    assert victim.hidden_size == 8
    assert torch.equal(view.output(obs), out)
    assert torch.equal(view.advance(obs), after)
    with torch.no_grad():
        net.head.bias += 1.0
    torch.testing.assert_close(view.output(obs), out + 1.0)


def test_output_gain_draws_the_last_layer_orthogonal():
    last = network(hidden=(8, 8), output_gain=0.01).rest[-1]
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(A).double())
    assert not last.bias.any()
    assert isinstance(network(recurrent=True, output_gain=0.01).head, nn.Linear)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"hidden": ()}, ValueError, r"AgentNetwork\.hidden must be at least one width, got \(\)"),
        ({"hidden": 64}, TypeError, r"AgentNetwork\.hidden must be a tuple of ints, got 64\."),
        ({"hidden": (8, 0)}, ValueError, r"AgentNetwork\.hidden must be an int >= 1, got 0\."),
        ({"hidden": (8.0,)}, TypeError, r"AgentNetwork\.hidden must be an int >= 1, got 8\.0\."),
        ({"activation": "gelu"}, ValueError, r"AgentNetwork\.activation must be one of"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        AgentNetwork(D, N, A, **settings)


def separate(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SeparateAgents(D, N, A, **{"hidden": (8, 6), **settings}).double()


@pytest.mark.parametrize("settings", [{}, {"recurrent": True}, {"continuous": True}])
@pytest.mark.parametrize("last_action", [False, True])
def test_separate_agents_are_n_networks(settings, last_action):
    net = separate(last_action=last_action, **settings)
    agents, obs = torch.tensor([2, 0, 0, 1, 2, 2, 1]), draw(7, D)
    last = draw(7, A) if net.continuous else whole(7, low=-1)
    hidden = draw(7, 8, seed=1) if net.recurrent else None
    found, after = net.step(obs, net.extra(agents, last), hidden)
    for row, i in enumerate(agents.tolist()):
        one = net.nets[i]
        before = None if hidden is None else hidden[row]
        expected, state = one.step(obs[row], one.extra(None, last[row]), before)
        torch.testing.assert_close(found[row], expected)
        if net.recurrent:
            torch.testing.assert_close(after[row], state)


@pytest.mark.parametrize("recurrent", [False, True])
def test_separate_agents_in_the_teams_order_and_unrolled(recurrent):
    net = separate(recurrent=recurrent, last_action=True)
    obs, last = draw(2, 4, N, D), whole(2, 4, N, low=-1)
    output, before = net.unroll(obs, last)
    hidden = None
    for t in range(4):
        if recurrent and t > 0:
            torch.testing.assert_close(before[:, t], hidden)
        found, hidden = net.step(obs[:, t], net.extra(torch.arange(N), last[:, t]), hidden)
        torch.testing.assert_close(found, output[:, t])
    assert (before is None) == (not recurrent)
    without, _ = net.step(obs[:, 0], None, None)  # last actions
    torch.testing.assert_close(without, net.unroll(obs, None)[0][:, 0])


def test_rows_that_are_as_many_as_agents_need_not_be_in_their_order():
    net, obs = separate(), draw(N, D)
    turned = torch.tensor([1, 2, 0])
    in_order, _ = net.step(obs[turned.argsort()], None, None)
    found, _ = net.step(obs, net.extra(turned, None), None)
    torch.testing.assert_close(found, in_order[turned])


def test_gradients_pass_through_separate_agents():
    net = separate()
    obs = draw(7, D).requires_grad_()
    agents = torch.tensor([0, 1, 1, 0, 0, 1, 1])
    net.step(obs, net.extra(agents, None), None)[0].sum().backward()
    assert bool((obs.grad != 0).any(1).all())
    for i, one in enumerate(net.nets):
        assert (one.first.weight.grad is not None and bool(one.first.weight.grad.any())) == (i < 2)


def test_the_victim_of_separate_agents_gives_their_gradients():
    net = separate()
    agents, obs = torch.tensor([2, 0, 0, 1, 2, 2, 1]), draw(7, D)
    view = NetworkVictim(net, continuous=False).at(Rows(agents=agents))
    loss = CrossEntropy(view.logits(obs).argmax(-1))
    found = view.input_gradient(obs, loss)
    for row, i in enumerate(agents.tolist()):
        x = obs[row : row + 1].clone().requires_grad_()
        logits = net.nets[i].step(x, None, None)[0]
        F.cross_entropy(logits, logits.argmax(-1)).backward()
        torch.testing.assert_close(F.normalize(found[row], dim=0), F.normalize(x.grad[0], dim=0))


def test_only_inputs_that_a_network_has_may_be_given():
    for net in (network(), separate()):
        with pytest.raises(
            ValueError,
            match=r"extra\.side must be among the inputs of this AgentNetwork, got \['slots'\]",
        ):
            net.extra(torch.arange(N), None, {"slots": draw(N, N)})


def test_rows_bring_whose_they_are():
    for net in (network(), separate(), separate(last_action=True)):
        assert net.extra(torch.tensor([2, 0]), torch.tensor([1, -1])).agents.tolist() == [2, 0]
    assert separate().extra(torch.arange(N), None).added is None


def test_layers_put_in_later_and_hooks_count():
    net, obs = network(hidden=(8,)), draw(5, D)
    net.rest[0] = nn.Tanh()
    expected = net.rest[1](torch.tanh(net.first(obs)))
    torch.testing.assert_close(net.step(obs, None, None)[0], expected)
    net.rest[1].register_forward_hook(lambda module, given, output: 2.0 * output)
    torch.testing.assert_close(net.step(obs, None, None)[0], 2.0 * expected)


def test_squash_is_for_continuous_actions():
    with pytest.raises(
        ValueError, match=r"AgentNetwork\.squash must be False for logits, got True"
    ):
        network(squash=True)
