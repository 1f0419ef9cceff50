"""Asking about some agent-steps is asking about all, where it is asked."""

import functools

import pytest
import torch
from learners import Arena, Recorded, collected, update, weights

from robustmarl.algorithms import MFAC
from robustmarl.networks import AgentNetwork, Conv, ConvAgentNetwork, SeparateAgents
from robustmarl.networks.rows import unroll_rows

SHARED = functools.partial(AgentNetwork, 6, 4, 3, hidden=(5,), mean_action=True)
VIEW = Conv((2, 2, 1), channels=(2,), kernel=1)
KINDS = {
    "plain": functools.partial(SHARED, agent_id=False),
    "last": functools.partial(SHARED, agent_id=False, last_action=True),
    "image": lambda: ConvAgentNetwork(
        6, 4, 3, conv=VIEW, hidden=(5,), agent_id=False, mean_action=True
    ),
    "ids": SHARED,
    "gru": functools.partial(SHARED, agent_id=False, recurrent=True),
    "separate": lambda: SeparateAgents(6, 4, 3, hidden=(5,), mean_action=True),
}
ONLY_ASKED = ("plain", "last", "image")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", KINDS)
def test_outputs_and_gradients_are_those_of_unrolling(name, share):
    generator = torch.Generator().manual_seed(0)
    network = KINDS[name]()
    obs = torch.randn(2, 3, 4, 6, generator=generator)
    last = torch.randint(-1, 3, (2, 3, 4), generator=generator) if name == "last" else None
    side = {"mean_act": torch.rand(2, 3, 4, 3, generator=generator)}
    asked = torch.rand(2, 3, 4, generator=generator) < share
    found, states = unroll_rows(network, obs, last, side, asked)
    whole, before = network.unroll(obs, last, side)
    torch.testing.assert_close(found[asked], whole[asked])
    assert (states is None) == (before is None)
    if name in ONLY_ASKED and share < 1.0:
        assert not bool(found[~asked].any())
    if share > 0.0:
        gradients = [
            torch.autograd.grad(outputs[asked].square().sum(), list(network.parameters()))
            for outputs in (found, whole)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", [{}, {"reward": "team"}, {"critic_mean": "current"}])
def test_mfac_learns_the_same_whoever_is_asked(settings, monkeypatch):
    """Agent 2 dies, and episodes end early: a good part of the rows is nobody's."""
    pair = [MFAC.for_env(Arena(), hidden=(8,), td_lambda=0.5, **settings) for _ in range(2)]
    batch = collected(pair[0], 6).sample(0)[0]
    assert float(batch.living.double().mean()) < 0.9
    for algorithm in pair:
        for _ in range(3):
            update(algorithm, Recorded(batch), batch_size=6, repeat=2)
        monkeypatch.setattr("robustmarl.networks.rows._WORTH", -1.0)  # the other one asks for all
    one, other = map(weights, pair)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)
