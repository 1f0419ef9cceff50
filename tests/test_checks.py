"""Numbers as arguments, whoever made them, and what is finite."""

import numpy as np
import pytest
import torch

from robustmarl._checks import all_finite, check_int, check_known, check_number


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


def test_the_nearest_names_come_first_and_of_many_only_a_few():
    few = ["RoMFAC", "VDN", "MAPPO"]
    check_known("Here.name", "VDN", few)
    with pytest.raises(ValueError, match=r"one of \['MAPPO', 'RoMFAC', 'VDN'\], got 'mapo'\.$"):
        check_known("Here.name", "mapo", few)
    many = [*few, *(f"{number:02}" for number in range(90))]
    told = r"one of \['MAPPO', ('[^']+'(, )?){4}\] or 88 others, got 'mapo'\. Look there\.$"
    with pytest.raises(ValueError, match=told):
        check_known("Here.name", "mapo", many, "Look there.")


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_what_is_finite_is_so_although_its_sum_overflows(kind):
    largest = np.finfo(np.float32).max
    assert all_finite(kind(np.array([largest, largest], np.float32)))
    assert all_finite(kind(np.array([1, 2])))
    assert all_finite(kind(np.zeros((0, 3))))
    for bad in (np.nan, np.inf, -np.inf):
        assert not all_finite(kind(np.array([[largest, bad]], np.float32)))
    assert not all_finite(kind(np.array([np.inf, -np.inf])))
