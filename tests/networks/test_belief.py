"""Beliefs: what they read, what they remember, and that learning gives the posterior."""

import pytest
import torch
from doubles import Scripted
from torch.nn import functional as F

from robustmarl.joint import spec_of
from robustmarl.networks import AgentNetwork, BeliefNetwork, Critic, TypedAgentNetwork, TypedCritic


def belief(n=3, size=5, **keywords):
    team = spec_of(Scripted(n, obs_sizes=(size,) * n))
    return BeliefNetwork(team, **{"hidden": (16, 16), "memory": 8, **keywords})


def test_beliefs_are_probabilities_of_every_agent_by_every_agent():
    made = belief()
    with torch.no_grad():
        found, memory = made.step(torch.randn(7, 3, 5), None)
    assert found.shape == (7, 3, 3)
    assert memory.shape == (7, 3, 8)
    assert 0.0 < float(found.min()) < float(found.max()) < 1.0
    assert torch.allclose(found, torch.full_like(found, 0.5), atol=0.05)  # it begins undecided


def test_the_unroll_is_the_steps_and_can_begin_anywhere():
    made = belief()
    torch.nn.init.normal_(made.head.weight)
    obs = torch.randn(4, 6, 3, 5)
    logits, states = made.unroll(obs)
    memory = None
    for t in range(6):
        found, memory = made.step(obs[:, t], memory)
        assert torch.allclose(torch.sigmoid(logits[:, t]), found, atol=1e-5)
        assert torch.allclose(states[:, t], memory, atol=1e-5)
    later, _ = made.unroll(obs[:, 2:], states[:, 1])
    assert torch.allclose(later, logits[:, 2:], atol=1e-5)


def test_rows_of_single_agents_are_those_of_the_team():
    made = belief()
    torch.nn.init.normal_(made.head.weight)
    obs, memory = torch.randn(4, 3, 5), torch.randn(4, 3, 8)
    found, after = made.step(obs, memory)
    for i in range(3):
        one, own = made.step_rows(obs[:, i], torch.full((4,), i), memory[:, i])
        assert torch.allclose(one, found[:, i], atol=1e-6)
        assert torch.allclose(own, after[:, i], atol=1e-6)


def test_it_remembers():
    made = belief()
    torch.nn.init.normal_(made.head.weight)
    obs = torch.randn(2, 4, 3, 5)
    other = obs.clone()
    other[:, 0, :, 0] += 1.0
    assert not torch.allclose(made.unroll(obs)[0][:, -1], made.unroll(other)[0][:, -1])


def test_the_seed_gives_the_weights_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = belief(seed=1), belief(seed=1), belief(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.first.weight, same.first.weight)
    assert not torch.equal(one.first.weight, other.first.weight)
    for weight in (one.first.weight, one.gru.weight_ih_l0):
        gram = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
        assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-5)


def posterior(actions, prior=0.5, good=0.9, bad=0.1):
    """Return P(bad) after each binary action; who is good acts 1 with probability ``good``."""
    odds = torch.full((len(actions), 1), prior / (1.0 - prior))
    one, zero = bad / good, (1.0 - bad) / (1.0 - good)
    ratio = torch.where(actions > 0, one, zero)
    odds = odds * ratio.cumprod(dim=1)
    return odds / (1.0 + odds)


def test_the_closed_form_is_that_of_the_sheet():
    found = posterior(torch.ones(1, 3))[0].tolist()
    assert found == pytest.approx([0.1, 0.0122, 0.00137], rel=0.01)


def test_cross_entropy_recovers_the_posterior_of_one_action():
    generator = torch.Generator().manual_seed(0)
    types = torch.rand(20_000, generator=generator) < 0.5
    chance = torch.where(types, 0.1, 0.9)
    act = (torch.rand(20_000, generator=generator) < chance).float()
    weight = torch.zeros(2, requires_grad=True)
    optim = torch.optim.LBFGS([weight], max_iter=50)

    def closure():
        optim.zero_grad()
        logits = weight[0] + weight[1] * act
        loss = F.binary_cross_entropy_with_logits(logits, types.float())
        loss.backward()
        return loss

    optim.step(closure)
    found = torch.sigmoid(torch.stack([weight[0], weight.sum()])).tolist()
    assert found == pytest.approx([0.9, 0.1], abs=0.02)


@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_the_trained_network_is_close_to_the_bayes_posterior(prior):
    torch.manual_seed(0)
    made = belief(2, 3, hidden=(16,), memory=16)
    optim = torch.optim.Adam(made.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)

    def episodes(count):
        types = torch.rand(count, 1, generator=generator) < prior
        chance = torch.where(types, 0.1, 0.9).expand(-1, 4)
        act = (torch.rand(count, 4, generator=generator) < chance).float()
        obs = torch.stack([act, 1.0 - act, torch.full_like(act, 0.3)], dim=-1)
        labels = torch.cat([torch.zeros_like(types), types], dim=1).float()
        return act, obs.unsqueeze(2).expand(-1, -1, 2, -1), labels

    for _ in range(300):
        _, obs, labels = episodes(256)
        logits, _ = made.unroll(obs)
        want = labels[:, None, None].expand_as(logits)
        optim.zero_grad()
        F.binary_cross_entropy_with_logits(logits, want).backward()
        optim.step()
    act, obs, _ = episodes(500)
    with torch.no_grad():
        found = torch.sigmoid(made.unroll(obs)[0])
    assert float(found[..., 0].max()) < 0.02  # agent 0 never was
    truth = posterior(act, prior)
    for i in range(2):
        assert float((found[:, :, i, 1] - truth).abs().mean()) < 0.03


# Networks with slots


def pair(**settings):
    torch.manual_seed(3)
    plain = AgentNetwork(5, 3, 4, hidden=(8, 8), **settings)
    torch.manual_seed(3)
    typed = TypedAgentNetwork(5, 3, 4, hidden=(8, 8), **settings)
    typed.draw_slots(torch.Generator().manual_seed(0))
    return plain, typed


@pytest.mark.parametrize("layer_norm", [False, True])
def test_without_slots_it_is_the_plain_actor_bit_for_bit(layer_norm):
    plain, typed = pair(layer_norm=layer_norm)
    obs = torch.randn(6, 2, 3, 5)
    assert torch.equal(plain.unroll(obs, None)[0], typed.unroll(obs, None)[0])
    zeros = typed.unroll(obs, None, {"slots": torch.zeros(6, 2, 3, 3)})[0]
    assert torch.allclose(plain.unroll(obs, None)[0], zeros, atol=1e-6)


@pytest.mark.parametrize("last_action", [False, True])
def test_slots_of_a_step_are_those_of_an_unroll(last_action):
    _, typed = pair(last_action=last_action)
    obs, slots = torch.randn(6, 2, 3, 5), torch.rand(6, 2, 3, 3)
    last = torch.randint(-1, 4, (6, 2, 3)) if last_action else None
    whole = typed.unroll(obs, last, {"slots": slots})[0]
    agents, before = torch.arange(3), None if last is None else last[:, 0]
    alone = typed.step(obs[:, 0], typed.extra(agents, before, {"slots": slots[:, 0]}), None)[0]
    torch.testing.assert_close(whole[:, 0], alone)
    assert not torch.allclose(whole, typed.unroll(obs, last)[0])


def test_slots_are_a_block_of_the_first_layers_input():
    _, typed = pair()
    obs, slots = torch.randn(6, 5), torch.rand(6, 3)
    weight = torch.cat([typed.first.weight, typed.slot_table.T], dim=1)
    x = torch.cat([obs, slots], -1) @ weight.T + typed.first.bias + typed.id_table[1]
    extra = typed.extra(torch.ones(6, dtype=torch.int64), None, {"slots": slots})
    found = typed.step(obs, extra, None)[0]
    assert torch.allclose(found, typed.rest(x), atol=1e-5)


def test_an_actor_reads_only_its_columns():
    typed = TypedAgentNetwork(5, 3, 4, hidden=(8,), columns=(0, 3))
    obs = torch.randn(6, 5)
    other = obs.clone()
    other[:, [1, 2, 4]] += 1.0
    assert torch.equal(typed.step(obs, None, None)[0], typed.step(other, None, None)[0])
    other[:, 3] += 1.0
    assert not torch.equal(typed.step(obs, None, None)[0], typed.step(other, None, None)[0])


@pytest.mark.parametrize("agents", [0, 3])
def test_the_critic_takes_slots_the_same_way(agents):
    torch.manual_seed(3)
    plain = Critic(5, agents, hidden=(8,), layer_norm=True)
    torch.manual_seed(3)
    typed = TypedCritic(5, 3, num_agents=agents, hidden=(8,), layer_norm=True)
    typed.draw_slots(torch.Generator().manual_seed(0))
    state, slots = torch.randn(4, 3, 5), torch.rand(4, 3, 3)
    assert torch.equal(plain(state), typed(state))
    assert torch.allclose(plain(state), typed(state, slots * 0), atol=1e-6)
    assert not torch.allclose(plain(state), typed(state, slots))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="columns must be at least one index below 5"):
        TypedAgentNetwork(5, 3, 4, columns=(5,))
    with pytest.raises(ValueError, match="recurrent must be without memory"):
        TypedAgentNetwork(5, 3, 4, recurrent=True)
    with pytest.raises(ValueError, match=r"BeliefNetwork.memory must be an int >= 1, got 0"):
        belief(memory=0)
    with pytest.raises(TypeError, match=r"BeliefNetwork.hidden must be a tuple"):
        belief(hidden=16)
