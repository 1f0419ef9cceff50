"""Mixers: sums, monotonicity, and what follows for greedy joint actions."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.networks import AgentValues, Mixer, QMIXMixer, VDNMixer


def mixer(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return QMIXMixer(5, 3, **settings).double()


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def values(taken):
    """Return what agents with a single action know."""
    q = taken.unsqueeze(-1)
    return AgentValues(q, torch.ones_like(q, dtype=torch.bool), torch.zeros_like(taken).long())


def test_values_of_agents_are_those_of_their_actions_and_of_the_best_available_ones():
    q = torch.tensor([[[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]], [[-1.0, -2.0, -3.0], [7.0, 8.0, 9.0]]])
    mask = torch.tensor([[[True, False, True], [True, True, False]], [[True] * 3, [False] * 3]])
    agents = AgentValues(q, mask, torch.tensor([[0, 1], [2, 1]]))

    assert agents.taken.tolist() == [[1.0, 4.0], [-3.0, 8.0]]
    assert agents.best.tolist() == [[2.0, 5.0], [-1.0, 8.0]]  # padding has no action: the taken


def test_a_mixer_must_mix():
    with pytest.raises(TypeError, match=r"abstract class Mixer.* '?forward"):
        Mixer()


def test_vdn_is_the_sum():
    q = draw(2, 4, 3)
    assert torch.equal(VDNMixer()(values(q), draw(2, 4, 5)), q.sum(-1))
    q.requires_grad_()
    (slope,) = torch.autograd.grad(VDNMixer()(values(q), draw(2, 4, 5)).sum(), q)
    assert torch.equal(slope, torch.ones_like(q))


@given(seed=st.integers(0, 99), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_qmix_is_monotone_in_every_agent(seed, scale):
    q = (scale * draw(64, 3, seed=seed)).requires_grad_()
    total = mixer(seed)(values(q), scale * draw(64, 5, seed=seed + 1))
    (slope,) = torch.autograd.grad(total.sum(), q)

    assert total.shape == (64,)
    assert bool((slope >= 0).all())
    assert bool((slope > 0).any())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["vdn", "qmix"])
def test_greedy_agents_are_a_greedy_team_and_a_worst_one(kind, seed):
    """Individual-global-max, brute force over the 64 joint actions of 3 agents."""
    network = mixer(seed) if kind == "qmix" else VDNMixer()
    q, state = draw(3, 4, seed=seed), draw(5, seed=seed + 7)
    joint = list(itertools.product(range(4), repeat=3))
    taken = torch.stack([q[torch.arange(3), torch.tensor(a)] for a in joint])
    total = network(values(taken), state.expand(len(joint), -1))
    best, worst = (
        total[joint.index(tuple(q.argmax(-1).tolist()))],
        total[joint.index(tuple(q.argmin(-1).tolist()))],
    )

    torch.testing.assert_close(best, total.max(), rtol=0, atol=1e-12)
    torch.testing.assert_close(worst, total.min(), rtol=0, atol=1e-12)


def test_the_mix_is_the_written_one():
    m = mixer(normalize_state=False, embed=4, hyper_hidden=6)
    q, state = draw(3), draw(5)
    whole = m.first(state)
    w1 = m.w1(whole[:6].relu()).abs().view(3, 4)
    w2 = m.w2(whole[6:12].relu()).abs()
    v = m.v(whole[12:16].relu())
    b1 = whole[16:]
    expected = torch.nn.functional.elu(q @ w1 + b1) @ w2 + v

    torch.testing.assert_close(m(values(q), state), expected.squeeze())


def test_init_gain_scales_the_hypernetworks_only():
    one, small = mixer(3), mixer(3, init_gain=0.1)
    torch.testing.assert_close(small.w1.weight, 0.1 * one.w1.weight)
    torch.testing.assert_close(small.w2.bias, 0.1 * one.w2.bias)
    assert torch.equal(small.first.weight, one.first.weight)


def test_state_normalisation_is_invariant_to_scale():
    q, state = draw(3), draw(5)
    torch.testing.assert_close(
        mixer()(values(q), state), mixer()(values(q), 1e3 * state), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"embed": 0}, r"QMIXMixer\.embed must be an int >= 1, got 0\."),
        ({"hyper_hidden": -1}, r"QMIXMixer\.hyper_hidden must be an int >= 1, got -1\."),
        ({"init_gain": 0.0}, r"QMIXMixer\.init_gain must be a number > 0, got 0\.0\."),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        QMIXMixer(5, 3, **settings)
