"""Numbers as arguments, whoever made them."""

import numpy as np
import pytest

from robustmarl._checks import check_int, check_number


def test_numbers_of_numpy_are_returned_plain():
    for value in (3, np.int8(3), np.uint64(3), np.int64(3)):
        assert type(check_int("Here.count", value)) is int
        assert type(check_number("Here.size", value)) is float
    for value in (0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5)):
        assert check_number("Here.size", value, 0.0, 1.0) == 0.5
        assert type(check_number("Here.size", value)) is float


@pytest.mark.parametrize("value", [True, np.bool_(True), "3", None, np.array([3]), 3.0])
def test_what_is_no_int_is_refused(value):
    with pytest.raises(TypeError, match=r"Here\.count must be an int >= 1, got "):
        check_int("Here.count", value)


@pytest.mark.parametrize("value", [np.float32("nan"), np.int64(-1), np.float64(-0.5)])
def test_numbers_of_numpy_keep_to_the_bounds(value):
    with pytest.raises(ValueError, match=r"Here\.size must be a number >= 0, got "):
        check_number("Here.size", value, 0.0)
