"""FOP's mixing: its value, and the two forms of its gradient."""

import pytest
import torch

from robustmarl.networks import FOPMixer


def given(gradient, **settings):
    torch.manual_seed(0)
    mixer = FOPMixer(5, 3, 4, gradient=gradient, **settings)
    q, value = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 3, requires_grad=True)
    return mixer, q, value, torch.randint(4, (2, 6, 3)), torch.randn(2, 6, 5)


@pytest.mark.parametrize("gradient", ["fop", "exact"])
def test_value_and_gradient(gradient):
    mixer, q, value, act, state = given(gradient)
    weights = mixer.weights(act, state)
    bias = mixer.v(mixer.normalize(state)).squeeze(-1)
    joint = mixer(q, value, act, state)
    assert joint.shape == (2, 6)
    assert bool((weights > 0).all())
    torch.testing.assert_close(joint, (weights * (q - value) + value).sum(-1) + bias)

    of_q, of_value = torch.autograd.grad(joint.sum(), (q, value), materialize_grads=True)
    exact = gradient == "exact"
    torch.testing.assert_close(of_q, weights if exact else torch.ones_like(q))
    torch.testing.assert_close(of_value, 1 - weights if exact else torch.zeros_like(q))


@pytest.mark.parametrize("gradient", ["fop", "exact"])
def test_both_forms_teach_the_weights_the_same(gradient):
    mixer, q, value, act, state = given(gradient)
    mixer(q, value, act, state).sum().backward()
    found = mixer.of_act.weight.grad
    other, q, value, act, state = given("exact")
    other(q, value, act, state).sum().backward()
    torch.testing.assert_close(found, other.of_act.weight.grad)


@pytest.mark.parametrize("gradient", ["fop", "exact"])
def test_attention_weighs_what_agents_add(gradient):
    mixer, q, value, act, state = given(gradient, attention=True)
    weights, normal = mixer.weights(act, state), mixer.normalize(state)
    logits = mixer.attend(normal).view(2, 6, 4, 3)
    attention = logits.exp().div(logits.exp().sum(-1, keepdim=True)).sum(-2)
    torch.testing.assert_close(attention.sum(-1), torch.full((2, 6), 4.0))
    joint = mixer(q, value, act, state)
    parts = attention * (weights * (q - value) + value)
    torch.testing.assert_close(joint, parts.sum(-1) + mixer.v(normal).squeeze(-1))
    (of_q,) = torch.autograd.grad(joint.sum(), q)
    torch.testing.assert_close(of_q, attention * weights if gradient == "exact" else attention)
    of_heads = logits.square().mean(-1)
    torch.testing.assert_close(mixer.penalty(state), 1e-3 * of_heads.sum(-1))
    taught = [(weights * (q - value) + value) * attention, q * attention]
    want = taught[0] if gradient == "exact" else taught[1]
    found, wanted = (
        torch.autograd.grad(one.sum(), mixer.attend.weight, retain_graph=True)[0]
        for one in (mixer(q, value, act, state), want)
    )
    torch.testing.assert_close(found, wanted)
    assert not given(gradient)[0].penalty(state).any()


def test_bad_settings():
    with pytest.raises(ValueError, match=r"FOPMixer\.heads must be an int >= 1"):
        FOPMixer(5, 3, 4, heads=0)
    with pytest.raises(ValueError, match=r"FOPMixer\.gradient must be one of \['fop', 'exact'\]"):
        FOPMixer(5, 3, 4, gradient="none")
