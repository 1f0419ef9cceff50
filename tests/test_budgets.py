"""The ball: closed forms, and projection as the nearest legal point."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmarl._seeding import Draws
from robustmarl.budgets import LinfBall

VALUES = st.lists(st.floats(-10, 10), min_size=4, max_size=4)


def rows(values, dtype=torch.float64):
    return torch.tensor([values], dtype=dtype)


@settings(deadline=None)
@given(clean=VALUES, found=VALUES, epsilon=st.floats(0, 5), low=st.floats(-5, 0))
def test_projection_is_the_nearest_legal_point(clean, found, epsilon, low):
    """Ball first: a clean value outside [low, 5] stays where it is, or goes towards the range."""
    ball = LinfBall(epsilon=epsilon, low=low, high=5.0)
    expected = [
        float(np.clip(f, max(c - epsilon, min(low, c)), min(c + epsilon, max(5.0, c))))
        for c, f in zip(clean, found, strict=True)
    ]
    legal = ball.project(rows(found), rows(clean))

    torch.testing.assert_close(legal, rows(expected))
    assert torch.equal(ball.project(legal, rows(clean)), legal)
    assert ball.contains(legal, rows(clean))


def test_a_clean_value_outside_the_range_stays_legal():
    ball = LinfBall(epsilon=0.5, low=0.0, high=1.0)
    low, high = ball.box(torch.tensor([[2.0, 0.75, -3.0]]))

    assert low.tolist() == [[1.5, 0.25, -3.0]]
    assert high.tolist() == [[2.0, 1.0, -2.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_budget_is_the_identity(dtype):
    clean = torch.tensor([[0.1, -1e30, 1e-40, 7.0]], dtype=dtype)
    for ball in (LinfBall(epsilon=0.0), LinfBall(epsilon=3.0, fixed=(True,) * 4)):
        assert ball.is_zero
        assert torch.equal(ball.project(clean + 1.0, clean), clean)


def test_a_box_without_a_range_is_that_of_a_range_that_is_not_reached():
    clean = torch.randn(8, 3, dtype=torch.float64)
    for epsilon in (0.0, 0.3, (0.0, 0.3, 1.0)):
        ball = LinfBall(epsilon=epsilon, fixed=(False, False, True))
        reached = replace(ball, low=-100.0, high=100.0).box(clean)
        for end, other in zip(ball.box(clean), reached, strict=True):
            assert torch.equal(end, other)


def test_fixed_coordinates_and_radii_per_coordinate():
    ball = LinfBall(epsilon=(1.0, 2.0, 3.0), fixed=(False, True, False))
    clean = torch.zeros(1, 3)

    assert ball.project(clean + 9.0, clean).tolist() == [[1.0, 0.0, 3.0]]
    assert ball.max_epsilon == 3.0
    assert not ball.is_zero
    assert not ball.contains(torch.tensor([[0.0, 0.1, 0.0]]), clean)


def test_samples_are_uniform_and_projected():
    ball, clean = LinfBall(epsilon=(0.5, 1.0), low=-0.25), torch.zeros(20_000, 2)
    found = ball.sample(clean, Draws(torch.arange(20_000)))

    assert found.min() == -0.25
    assert (found[:, 0] == -0.25).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert found[:, 1].max().item() == pytest.approx(1.0, abs=0.01)


def test_is_a_value():
    array = LinfBall(
        epsilon=np.array([0.5, 0.25], dtype=np.float32), low=[0, 0], high=np.float64(1)
    )

    assert array == LinfBall(epsilon=(0.5, 0.25), low=(0, 0), high=1.0)
    assert hash(array) == hash(LinfBall(epsilon=(0.5, 0.25), low=(0, 0), high=1.0))
    assert array.with_epsilon(0.1) == LinfBall(epsilon=0.1, low=(0, 0), high=1.0)


@pytest.mark.parametrize(
    ("settings_", "error", "text"),
    [
        ({"epsilon": -0.1}, ValueError, r"LinfBall\.epsilon must be a number >= 0, observation"),
        ({"epsilon": float("nan")}, ValueError, r"LinfBall\.epsilon must be"),
        ({"epsilon": float("inf")}, ValueError, r"LinfBall\.epsilon must be finite"),
        ({"epsilon": 1e300}, ValueError, r"LinfBall\.epsilon must be finite in float32"),
        ({"epsilon": "0.1"}, TypeError, r"LinfBall\.epsilon must be a number"),
        ({"epsilon": True}, TypeError, r"LinfBall\.epsilon must be a number"),
        ({"epsilon": 1.0, "low": 1.0, "high": 0.0}, ValueError, r"LinfBall\.low must be <= high"),
        ({"epsilon": (1.0, 1.0), "low": (0.0,) * 3}, ValueError, r"tuples of one length"),
        ({"epsilon": (1.0, 1.0), "fixed": (True,) * 3}, ValueError, r"tuples of one length"),
    ],
)
def test_rejects(settings_, error, text):
    with pytest.raises(error, match=text):
        LinfBall(**settings_)


def test_size_of_tuples_is_checked_by_name():
    with pytest.raises(ValueError, match=r"PGD\.ball\.low must be one number or 3 numbers"):
        LinfBall(epsilon=1.0, low=(0.0, 0.0)).check_size("PGD", 3)
    LinfBall(epsilon=1.0, low=(0.0, 0.0)).check_size("PGD", 2)
