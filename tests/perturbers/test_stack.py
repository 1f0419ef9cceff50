"""What a stack has the environment do, and what it says of that to who learns."""

from types import SimpleNamespace

import pytest
import torch

from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import Perturber, PerturberStack

STEP = SimpleNamespace()


class Sets(Perturber):
    """Executes ``value`` for one agent in place of whatever it chose."""

    def __init__(self, told, agent, value):
        self.act_told, self.agent, self.value = told, agent, value

    def on_act(self, context, act):
        done = act.clone()
        done[:, self.agent] = self.value
        return done


def played(*perturbers, act):
    """Return (executed, told) of a stack, the innermost first."""
    stack = PerturberStack(perturbers)
    return stack.on_act(STEP, act), stack.told


def test_only_what_members_that_tell_it_change_is_told():
    act = torch.zeros(1, 4, dtype=torch.int64)
    secret, open_ = Sets("intended", 1, 5), Sets("executed", 2, 6)
    for stack in ((secret, open_), (open_, secret)):
        executed, told = played(*stack, act=act)
        assert executed.tolist() == [[0, 5, 6, 0]]
        assert told.tolist() == [[0, 0, 6, 0]]


def test_the_innermost_has_the_last_word_in_what_is_told():
    act = torch.zeros(1, 1, dtype=torch.int64)
    executed, told = played(Sets("intended", 0, 5), Sets("executed", 0, 6), act=act)
    assert (executed.item(), told.item()) == (5, 6)
    executed, told = played(Sets("executed", 0, 6), Sets("intended", 0, 5), act=act)
    assert (executed.item(), told.item()) == (6, 6)


def test_action_vectors_are_told_as_a_whole():
    act = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    secret = Sets("intended", 0, torch.tensor([0.5, 0.6]))
    half = Sets("executed", 0, torch.tensor([0.5, 0.9]))  # of the first coordinate it is the same
    executed, told = played(half, secret, act=act)
    assert torch.equal(executed[0, 0], torch.tensor([0.5, 0.9]))
    assert torch.equal(told, executed)


@pytest.mark.parametrize("members", [(), (Perturber(),), (Sets("intended", 0, 1),)])
def test_where_nobody_tells_it_is_the_very_choice_that_is_told(members):
    act = torch.zeros(1, 2, dtype=torch.int64)
    assert played(*members, act=act)[1] is act


def test_one_perturber_twice_is_refused():
    """Bound to its second place it would forget the first."""
    one = Perturber()
    with pytest.raises(ValueError, match=r"PerturberStack\.perturbations must be different obj"):
        PerturberStack([one, Perturber(), one])
    noise = UniformNoise(ball=LinfBall(epsilon=0.1))  # a value, which keeps nothing
    assert len(PerturberStack([noise, noise])) == 2
