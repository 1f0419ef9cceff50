"""Returns, advantages and surrogates against sums written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.learning.returns import (
    gae,
    masked_mean,
    n_step_returns,
    normalize,
    ppo_surrogate,
    standardize,
    td_lambda_returns,
)

D = torch.float64


def episodes(seed, batch=3, steps=5):
    """Return reward, value, bootstrap and going_on of padded episodes; ends of both kinds."""
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(batch, steps, dtype=D, generator=generator)
    value = torch.randn(batch, steps + 1, dtype=D, generator=generator)
    lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
    terminates = torch.rand(batch, generator=generator) < 0.5
    bootstrap, going_on = torch.ones(batch, steps, dtype=D), torch.zeros(batch, steps, dtype=D)
    for b, length in enumerate(lengths.tolist()):
        going_on[b, : length - 1] = 1.0
        bootstrap[b, length - 1] = 0.0 if terminates[b] else 1.0
    return reward, value, bootstrap, going_on, lengths.tolist()


def test_gae_of_the_worked_example():
    reward = torch.tensor([[1.0, 0.0, 2.0]], dtype=D)
    value = torch.tensor([[0.5, 0.4, 0.3, 0.0]], dtype=D)
    going_on = torch.tensor([[1.0, 1.0, 0.0]], dtype=D)
    found = gae(reward, value, torch.ones_like(reward), going_on, 0.98, 0.9)

    torch.testing.assert_close(
        found, torch.tensor([[2.120979, 1.3934, 1.7]], dtype=D), rtol=0, atol=1e-6
    )


@given(seed=st.integers(0, 999), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_the_sum_of_discounted_residuals_to_the_end(seed, gamma, lam):
    reward, value, bootstrap, going_on, lengths = episodes(seed)
    found = gae(reward, value, bootstrap, going_on, gamma, lam)

    for b, length in enumerate(lengths):
        for t in range(length):
            expected = sum(
                (gamma * lam) ** (k - t)
                * (reward[b, k] + gamma * bootstrap[b, k] * value[b, k + 1] - value[b, k])
                for k in range(t, length)
            )
            torch.testing.assert_close(found[b, t], expected)


@given(seed=st.integers(0, 999), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_td_lambda_mixes_n_step_returns(seed, gamma, lam):
    reward, value, bootstrap, going_on, lengths = episodes(seed)
    found = td_lambda_returns(reward, value[:, 1:], bootstrap, going_on, gamma, lam)

    for b, length in enumerate(lengths):
        for t in range(length):

            def n_step(n, b=b, t=t):
                rewards = sum(gamma**k * reward[b, t + k] for k in range(n))
                return rewards + gamma**n * bootstrap[b, t + n - 1] * value[b, t + n]

            last = length - t
            expected = lam ** (last - 1) * n_step(last) + sum(
                (1 - lam) * lam ** (n - 1) * n_step(n) for n in range(1, last)
            )
            torch.testing.assert_close(found[b, t], expected)


def test_a_termination_stops_bootstrapping_and_a_time_limit_does_not():
    reward = torch.tensor([[2.0], [2.0]])
    value = torch.tensor([[1.0, 10.0], [1.0, 10.0]])
    bootstrap, last = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)

    for lam in (0.0, 0.7):
        target = td_lambda_returns(reward, value[:, 1:], bootstrap, last, 0.5, lam)
        assert target.tolist() == [[2.0], [7.0]]
        assert gae(reward, value, bootstrap, last, 0.5, lam).tolist() == [[1.0], [6.0]]


def test_td_lambda_one_is_the_advantage_plus_the_value():
    reward, value, bootstrap, going_on, lengths = episodes(3)
    for lam in (0.0, 0.4, 1.0):
        target = td_lambda_returns(reward, value[:, 1:], bootstrap, going_on, 0.9, lam)
        other = gae(reward, value, bootstrap, going_on, 0.9, lam) + value[:, :-1]
        for b, length in enumerate(lengths):
            torch.testing.assert_close(target[b, :length], other[b, :length])


def test_masked_mean_ignores_nan_and_is_zero_of_nothing():
    x = torch.tensor([1.0, float("nan"), 3.0, float("inf")])

    assert masked_mean(x, torch.tensor([True, False, True, False])) == 2.0
    assert masked_mean(x, torch.zeros(4, dtype=torch.bool)) == 0.0


def test_normalize_over_a_mask():
    x = torch.tensor([1.0, 2.0, 3.0, float("nan")], dtype=D)
    found = normalize(x, torch.tensor([True, True, True, False]))

    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=D))
    assert normalize(x, torch.tensor([True, False, False, False])).tolist() == [0.0] * 4


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_have_no_scale(number):
    """Dividing by their deviation of 0 made others' values 1e8 times as large."""
    x = torch.tensor([1.0, 2.0, 4.0])
    assert standardize(x, torch.arange(3) < number).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, 2.0),
        (1.5, 2.0, 2.4),  # no more gain above 1 + clip
        (0.5, 2.0, 1.0),
        (1.5, -2.0, -3.0),
        (0.5, -2.0, -1.6),  # no less loss below 1 - clip
    ],
)
def test_ppo_surrogate(ratio, advantage, expected):
    old = torch.tensor(-1.3, dtype=D)
    logp = old + torch.tensor(ratio, dtype=D).log()
    found = ppo_surrogate(logp, old, torch.tensor(advantage, dtype=D), 0.2)

    torch.testing.assert_close(found, torch.tensor(expected, dtype=D))


def test_the_clipped_side_has_no_gradient():
    logp = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    ppo_surrogate(logp, torch.zeros(4), advantage, 0.2).sum().backward()

    assert (logp.grad != 0).tolist() == [False, True, True, False]


@given(seed=st.integers(0, 999), gamma=st.floats(0, 1), steps=st.integers(1, 7))
def test_n_step_returns_are_rewards_and_then_a_value(seed, gamma, steps):
    reward, value, bootstrap, going_on, lengths = episodes(seed)
    found = n_step_returns(reward, value[:, 1:], bootstrap, going_on, gamma, steps)

    for b, length in enumerate(lengths):
        for t in range(length):
            last = min(t + steps, length)
            expected = sum(gamma ** (k - t) * reward[b, k] for k in range(t, last))
            expected += gamma ** (last - t) * bootstrap[b, last - 1] * value[b, last]
            torch.testing.assert_close(found[b, t], expected)
