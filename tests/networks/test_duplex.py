"""QPLEX's mixer: greedy agents are a greedy team, any other order of joint actions is free."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.networks import AgentValues
from robustmarl.networks.duplex import QPLEXMixer


def mixer(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return QPLEXMixer(5, 3, 4, **settings).double()


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def every_joint_action(q, mask):
    """Return what agents know of each of the 64 joint actions."""
    joint = torch.tensor(list(itertools.product(range(4), repeat=3)))
    return AgentValues(q.expand(64, 3, 4), mask.expand(64, 3, 4), joint)


def make_trivial(m):
    """Let w = lambda = 1 and b = 0: sigmoids are a half each."""
    with torch.no_grad():
        for layer in (m.scale, m.shift, m.head_weight, m.agent_weight, m.action_weight):
            layer.weight.zero_()
            layer.bias.zero_()
        m.scale.bias.fill_(1.0)
        m.head_weight.bias.fill_(4.0 / m.heads)


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_greedy_agents_are_a_greedy_team(seed, scale):
    """Individual-global-max, by enumeration: among available actions, at any weights."""
    q, state = scale * draw(3, 4, seed=seed), scale * draw(5, seed=seed + 1)
    mask = draw(3, 4, seed=seed + 2) > -0.5
    mask[:, seed % 4] = True
    values = every_joint_action(q, mask)
    allowed = mask.expand(64, 3, 4).gather(-1, values.act.unsqueeze(-1)).all(dim=1).squeeze(-1)
    total = mixer(seed)(values, state.expand(64, -1)).masked_fill(~allowed, -float("inf"))
    greedy = q.masked_fill(~mask, -float("inf")).argmax(dim=-1)

    assert torch.equal(values.act[total.argmax()], greedy)


def test_other_joint_actions_may_come_in_any_order():
    """What no monotone mixer can: to turn one agent to a better own value makes the team worse."""
    q, mask = draw(3, 4, seed=1), torch.ones(3, 4, dtype=torch.bool)
    m = mixer(1)
    with torch.no_grad():  # let the weights tell joint actions apart
        m.act_table.mul_(20.0)
        m.action_weight.weight.mul_(20.0)
    total = m(every_joint_action(q, mask), draw(5).expand(64, -1)).view(4, 4, 4)
    order = q.argsort(dim=-1)
    rises = total[order[0]].diff(dim=0)
    assert bool((rises > 0).any())
    assert bool((rises < 0).any())


def test_with_trivial_weights_it_is_vdn():
    m = mixer(heads=3)
    make_trivial(m)
    values = AgentValues(
        draw(7, 3, 4), torch.ones(7, 3, 4, dtype=torch.bool), torch.ones(7, 3).long()
    )
    torch.testing.assert_close(m(values, draw(7, 5)), values.taken.sum(-1), rtol=0, atol=1e-8)


def test_the_mix_is_the_written_one():
    m = mixer(normalize_state=False, heads=2, hyper_hidden=6)
    q, state, act = draw(3, 4), draw(5), torch.tensor([2, 0, 3])
    mask = torch.ones(3, 4, dtype=torch.bool)
    hidden = m.first(state).split(6)
    w, b = m.scale(hidden[0].relu()).abs(), m.shift(hidden[1].relu())
    one_hot = torch.nn.functional.one_hot(act, 4).double().flatten()
    upsilon = m.head_weight(hidden[2].relu()).abs()
    phi = torch.sigmoid(m.agent_weight(hidden[3].relu())).view(2, 3)
    each = torch.sigmoid(m.action_weight((hidden[4] + one_hot @ m.act_table).relu())).view(2, 3)
    importance = sum(upsilon[k] * phi[k] * each[k] for k in range(2))
    best = q.amax(-1)
    advantage = w * (q[torch.arange(3), act] - best)
    expected = (w * best + b).sum() + (importance * advantage).sum()

    torch.testing.assert_close(m(AgentValues(q, mask, act), state), expected)


def test_only_taken_values_and_weights_learn():
    m, q = mixer(), draw(6, 3, 4).requires_grad_()
    act = torch.zeros(6, 3, dtype=torch.int64)
    m(AgentValues(q, torch.ones(6, 3, 4, dtype=torch.bool), act), draw(6, 5)).sum().backward()

    assert bool((q.grad[..., 0] > 0).all())
    assert not bool(q.grad[..., 1:].any())  # no gradient through the best value
    assert all(bool(p.grad.abs().sum() > 0) for p in m.parameters())


def test_padding_without_actions_has_finite_gradients():
    m, q = mixer(), draw(2, 3, 4).requires_grad_()
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    m(AgentValues(q, mask, torch.zeros(2, 3).long()), draw(2, 5)).sum().backward()
    assert bool(torch.isfinite(q.grad).all())


@pytest.mark.parametrize("name", ["heads", "hyper_hidden"])
def test_bad_settings(name):
    with pytest.raises(ValueError, match=rf"QPLEXMixer\.{name} must be an int >= 1, got 0\."):
        QPLEXMixer(5, 3, 4, **{name: 0})
