"""Schedules against the papers' worked figures."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.schedules import Constant, Linear, Repetitive, as_schedule

FIGURES = {0: 0, 99: 0, 100: 0, 101: 0.025, 120: 0.5, 140: 1, 149: 1, 150: 0, 170: 0.5, 249: 1}


@pytest.mark.parametrize("peak", [1.0, 3.0, 0.1])
def test_repetitive_equals_romfacs_example(peak):
    schedule = Repetitive(peak=peak, warmup=100, period=50, loops=3)

    for count, value in {**FIGURES, 199: 1, 200: 0, 250: 0, 251: 0}.items():
        assert schedule(count) == pytest.approx(peak * value)


def test_repetitive_rises_exactly_as_often_as_it_loops():
    schedule = Repetitive(peak=1.0, warmup=10, period=20, loops=3)
    values = [schedule(count) for count in range(200)]

    assert sum(a == 0 < b for a, b in pairwise(values)) == 3
    assert values[70:] == [0.0] * 130


@given(
    peak=st.floats(0, 10),
    period=st.integers(1, 50),
    ramp=st.floats(0.01, 1),
    count=st.integers(0, 500),
)
def test_repetitive_stays_between_zero_and_its_peak(peak, period, ramp, count):
    schedule = Repetitive(peak=peak, warmup=7, period=period, ramp=ramp)

    assert 0.0 <= schedule(count) <= peak


@given(start=st.floats(-5, 5), stop=st.floats(-5, 5), over=st.integers(1, 100))
def test_linear_is_constant_outside_and_straight_inside(start, stop, over):
    schedule = Linear(start, stop, over=over, begin=10)

    assert schedule(0) == schedule(10) == start
    assert schedule(10 + over) == schedule(10_000) == stop
    assert schedule(10 + over // 2) == pytest.approx(start + (stop - start) * (over // 2) / over)


def test_numbers_become_constant():
    assert as_schedule("X.weight", 2) == Constant(2.0)
    ramp = Linear(0.0, 1.0, over=2, unit="episodes")
    assert as_schedule("X.weight", ramp) is ramp
    assert Constant(0.5)(10**9) == 0.5


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: as_schedule("X.weight", "big"), TypeError, r"X\.weight must be a number or"),
        (lambda: as_schedule("X.weight", len), TypeError, r"X\.weight must be a number or"),
        (
            lambda: as_schedule("X.weight", Linear(1.0, 0.0, over=5), 0.0, open_low=True),
            ValueError,
            r"X\.weight must be a number > 0, got 0\.0",
        ),
        (
            lambda: as_schedule("X.weight", 0.0, 0.0, open_low=True),
            ValueError,
            r"X\.weight must be a number > 0, got 0\.0",
        ),
        (lambda: Linear(0.0, 1.0, over=0), ValueError, r"Linear\.over must be an int >= 1, got 0"),
        (lambda: Constant(1.0, unit="days"), ValueError, r"Constant\.unit must be one of"),
        (
            lambda: Repetitive(peak=1.0, warmup=0, period=5, ramp=0.0),
            ValueError,
            r"Repetitive\.ramp must be a number in \(0, 1\], got 0\.0",
        ),
        (lambda: Repetitive(peak=-1.0, warmup=0, period=5), ValueError, r"peak must be"),
    ],
)
def test_rejects(make, error, text):
    with pytest.raises(error, match=text):
        make()
