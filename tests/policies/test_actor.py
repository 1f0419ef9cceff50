"""Policies count, draw and tell only the action coordinates that an agent has."""

import math

import pytest
import torch
from doubles import Scripted

from robustmarl._seeding import Draws
from robustmarl.algorithms import EIRMAPPO, IPPO, M3DDPG, MADDPG
from robustmarl.joint import spec_of

SIZES = (1, 3, 6)
ONE = 0.5 * math.log(2.0 * math.pi * math.e)  # the entropy of N(0, 1)


def box_team(kind=IPPO, **settings):
    spec = spec_of(Scripted(3, action_sizes=SIZES, continuous=True))
    return kind.for_env(spec, hidden=(8,), **settings)


@pytest.fixture(params=[True, False], ids=["shared", "separate"])
def policy(request):
    return box_team(shared=request.param).policy


def test_entropy_and_log_probability_are_sums_over_real_coordinates(policy):
    output, act = torch.zeros(2, 3, 6), torch.randn(2, 3, 6)
    expected = [[size * ONE for size in SIZES]] * 2
    torch.testing.assert_close(policy.entropy(output), torch.tensor(expected))
    normal = torch.distributions.Normal(0.0, 1.0)
    for i, size in enumerate(SIZES):
        logp = normal.log_prob(act[:, i, :size]).sum(-1)
        torch.testing.assert_close(policy.log_prob(output, act)[:, i], logp)


def test_rows_of_named_agents_are_those_of_the_team(policy):
    output, act = torch.randn(4, 3, 6), torch.randn(4, 3, 6)
    if policy.network.log_std.requires_grad:
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    agents = torch.tensor([2, 0, 1, 1])
    rows = torch.arange(4)
    for figure in (policy.log_prob, lambda o, _, a=None: policy.entropy(o, a)):
        whole = figure(output, act)[rows, agents]
        torch.testing.assert_close(figure(output[rows, agents], act[rows, agents], agents), whole)


@pytest.mark.parametrize("kind", [IPPO, MADDPG, M3DDPG])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_drawn_has_zeros_for_padding(kind, training):
    policy = box_team(kind).policy
    output = torch.randn(5, 3, 6)
    draws = Draws(torch.arange(5))
    act, logp = policy.select(output, torch.ones(5, 3, 6, dtype=torch.bool), draws, training)
    real = torch.arange(6) < torch.tensor(SIZES)[:, None]
    assert bool((act[:, ~real] == 0).all())
    assert bool((act[:, real] != 0).all())
    if logp is not None:
        torch.testing.assert_close(logp, policy.log_prob(output, act))


def test_equal_sizes_keep_their_bits():
    spec = spec_of(Scripted(2, action_sizes=(4, 4), continuous=True))
    values = torch.randn(3, 2, 4)
    assert IPPO.for_env(spec, hidden=(8,)).policy.without_padding(values) is values


def test_a_byzantine_policy_counts_by_the_agents_it_is_told():
    adversary = box_team(EIRMAPPO).adversary
    output, agents = torch.zeros(3, 6), torch.arange(3)
    expected = torch.tensor([size * ONE for size in SIZES])
    torch.testing.assert_close(adversary.entropy(output, agents), expected)


def test_critics_are_told_zeros_where_there_is_padding():
    team = box_team(M3DDPG, epsilon=1.0)
    alive = torch.ones(2, 3, dtype=torch.bool)
    vectors = team._vectors(torch.ones(2, 3, 6), alive)
    assert vectors.sum(-1).tolist() == [list(SIZES)] * 2
    state = torch.randn(2, team.spec.state_size)
    faced = team.facing(team.critic, state, vectors.unsqueeze(-3), alive)
    real = torch.arange(6) < torch.tensor(SIZES)[:, None]
    assert bool((faced[..., ~real] == 0).all())
    moved = (faced - vectors.unsqueeze(-3))[:, 0, 1]  # agent 1 as agent 0 faces it
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2))
