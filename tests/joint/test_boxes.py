"""Actions of a box, in [-1, 1]."""

import torch

from robustmarl.joint.boxes import to_unit

LOW, HIGH = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([1.0, 4.0, 2.0])


def test_the_ends_of_a_box_are_the_ends_of_the_unit_box():
    assert to_unit(LOW, LOW, HIGH).tolist() == [-1.0, -1.0, 0.0]
    assert to_unit(HIGH, LOW, HIGH).tolist() == [1.0, 1.0, 0.0]
    beyond = torch.tensor([[0.5, 3.0, 9.0], [-2.0, 6.0, -9.0]])
    assert to_unit(beyond, LOW, HIGH).tolist() == [[0.5, 0.5, 0.0], [-2.0, 2.0, 0.0]]


def test_a_coordinate_with_one_value_has_no_gradient():
    act = torch.zeros(3, requires_grad=True)
    to_unit(act, LOW, HIGH).sum().backward()
    assert act.grad.tolist() == [1.0, 0.5, 0.0]
