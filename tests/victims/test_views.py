"""Views: masks, memory, gradients, and what counts as a victim."""

import pytest
import torch
from torch import nn

from robustmarl.attacks import Margin
from robustmarl.joint import MASKED
from robustmarl.networks.agents import AgentNetwork
from robustmarl.victims import (
    FunctionVictim,
    LossRows,
    NetworkVictim,
    PolicyVictim,
    Rows,
    as_victim,
)


def test_masks():
    view = FunctionVictim(lambda obs: obs).at(Rows(mask=torch.tensor([[True, False, True]])))
    obs = torch.tensor([[1.0, 5.0, 0.0]])

    assert view.logits(obs).tolist() == [[1.0, MASKED, 0.0]]
    assert view.output(obs).softmax(-1)[0, 1] == 0.0
    gradient = view.input_gradient(obs, Margin(torch.tensor([0])))
    assert gradient.tolist() == [[-1.0, 0.0, 1.0]]
    assert not gradient.requires_grad


def test_the_wrong_kind_of_output_is_refused():
    with pytest.raises(ValueError, match="victim must be discrete to have logits"):
        FunctionVictim(lambda obs: obs, continuous=True).at().logits(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="victim must be continuous to have a mean"):
        FunctionVictim(lambda obs: obs).at().mean(torch.zeros(1, 2))


def test_network_victims_bind_ids_last_actions_and_memory():
    network = AgentNetwork(4, 3, 5, hidden=(8,), recurrent=True, last_action=True)
    victim = NetworkVictim(network, continuous=False)
    obs, agents, last = torch.randn(6, 4), torch.arange(6) % 3, torch.arange(6) - 1
    hidden = torch.randn(6, 8)
    view = victim.at(Rows(hidden=hidden, last_act=last, agents=agents))
    expected, after = network.step(obs, network.extra(agents, last), hidden)

    assert victim.hidden_size == 8
    assert torch.equal(view.logits(obs), expected)
    assert torch.equal(view.advance(obs), after)
    assert not torch.equal(victim.at(Rows(agents=agents)).logits(obs), expected)


def test_a_network_without_memory_is_not_asked_to_advance(monkeypatch):
    network = AgentNetwork(4, 3, 5)
    monkeypatch.setattr(network, "step", lambda *_: pytest.fail("a forward pass for nothing"))

    assert NetworkVictim(network, continuous=False).at().advance(torch.randn(6, 4)) is None


def test_rows_select_and_bind():
    rows = LossRows(obs=torch.arange(6.0).view(3, 2), rows=Rows(agents=torch.tensor([0, 1, 2])))
    some = rows.select(torch.tensor([2, 0]))

    assert len(some) == 2
    assert some.obs.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert some.rows.agents.tolist() == [2, 0]
    assert some.rows.mask is None
    view = some.view(FunctionVictim(lambda obs: obs))
    assert torch.equal(view.logits(some.obs), some.obs)


class Policy:
    """Looks like a Tianshou policy: an actor that returns ((mean, sigma), state)."""

    action_type = "continuous"

    def __init__(self):
        self.actor = Actor()


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, obs):
        return (self.layer(obs), torch.ones(len(obs), 2)), None


def test_policies_and_algorithms_are_adapted():
    class Algorithm:
        policy = Policy()

    victim, obs = as_victim("X.victim", Algorithm()), torch.randn(4, 3)
    assert isinstance(victim, PolicyVictim)
    assert torch.equal(victim.at().mean(obs), Algorithm.policy.actor.layer(obs))

    class Ours:
        def victim(self):
            return victim

    assert as_victim("X.victim", Ours()) is victim
    assert as_victim("X.victim", victim) is victim


@pytest.mark.parametrize("value", [3, None, "qmix"])
def test_what_is_no_victim(value):
    answer = r"training\.load\(path\)\.learner" if value == "qmix" else r"algorithm\.victim\(\)"
    with pytest.raises(TypeError, match=rf"X\.victim must be a Victim.*{answer}"):
        as_victim("X.victim", value)
