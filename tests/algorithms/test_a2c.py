"""A2C: the contract, its loss as written, and IPPO where policies have not moved."""

import functools

import pytest
import torch
from learners import Arena, Recorded, collected, sgd, update, weights

from robustmarl.algorithms import A2C, IPPO
from robustmarl.joint import MASKED
from robustmarl.learning.returns import masked_mean, normalize
from robustmarl.testing import check_algorithm

SMALL = {"hidden": (16,)}
PLAIN = {"optim": sgd(0.1), "max_grad_norm": None, "normalize_value": False}


@pytest.mark.parametrize("settings", [{}, {"recurrent": True}, {"reward": "team"}])
def test_it_keeps_the_contract_of_algorithms(settings):
    check_algorithm(functools.partial(A2C.for_env, **SMALL, **settings), Arena, env_steps=40)


def test_it_fits_continuous_actions():
    make = functools.partial(A2C.for_env, **SMALL)
    check_algorithm(make, lambda: Arena(continuous=True), env_steps=40)


def test_the_first_step_on_fresh_episodes_is_ippos():
    same = {"gamma": 0.9, "entropy_coef": 0.02, "value_coef": 0.3, "reward": "agents"}
    pair = [c.for_env(Arena(), gae_lambda=0.8, **SMALL, **PLAIN, **same) for c in (A2C, IPPO)]
    batch = collected(pair[0], 6).sample(0)[0]
    for first in (True, False):
        for algorithm in pair:
            update(algorithm, Recorded(batch))
        one, other = map(weights, pair)
        assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one) == first


def test_a_step_is_the_written_one_whatever_the_policy_was():
    algorithm = A2C.for_env(Arena(), entropy_coef=0.02, value_coef=0.3, **SMALL, **PLAIN)
    batch = collected(algorithm, 6).sample(0)[0]
    batch = batch.replace(logp=batch.logp - 1.0)  # of another policy
    with torch.no_grad():
        advantage, returns = algorithm.advantages(batch)
    living = batch.living
    output, _ = algorithm.policy.network.unroll(batch.obs.seen[:, :-1], None)
    logp = torch.log_softmax(output.masked_fill(~batch.obs.mask[:, :-1], MASKED), -1)
    taken = logp.gather(-1, batch.act.unsqueeze(-1)).squeeze(-1)
    value = algorithm.critic(batch.obs.seen[:, :-1])
    loss = (
        -masked_mean(normalize(advantage, living) * taken, living)
        + 0.3 * masked_mean((value - returns).square(), living)
        - 0.02 * masked_mean(-(logp.exp() * logp).sum(-1), living)
    )
    before = dict(algorithm.named_parameters())
    gradients = torch.autograd.grad(loss, list(before.values()))
    pairs = zip(before.items(), gradients, strict=True)
    want = {name: (value - 0.1 * gradient).detach() for (name, value), gradient in pairs}
    update(algorithm, Recorded(batch))
    for name, value in weights(algorithm).items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-5)


def test_settings_that_are_ppos_alone():
    with pytest.raises(TypeError, match=r"A2C\.for_env has no setting 'clip'"):
        A2C.for_env(Arena(), clip=0.2)
    with pytest.raises(ValueError, match=r"A2C\.gamma must be a number in \[0, 1\]"):
        A2C.for_env(Arena(), gamma=2.0)
