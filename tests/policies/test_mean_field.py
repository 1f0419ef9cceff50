"""Mean actions of neighbours, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustmarl.policies import Neighbours

ALL = torch.ones(4, dtype=torch.bool)
ACT = torch.tensor([0, 1, 1, 3])


def test_the_mean_of_a_team():
    whole = Neighbours(include_self=True).mean_action(ACT, ALL, num_actions=5)
    assert torch.equal(whole, torch.tensor([0.25, 0.5, 0.0, 0.25, 0.0]).expand(4, 5))
    others = Neighbours().mean_action(ACT, ALL, num_actions=5)
    torch.testing.assert_close(others[0], torch.tensor([0.0, 2 / 3, 0.0, 1 / 3, 0.0]))
    torch.testing.assert_close(others[1], torch.tensor([1 / 3, 1 / 3, 0.0, 1 / 3, 0.0]))


def test_the_dead_are_nobodys_neighbours():
    alive = torch.tensor([True, False, True, True])
    found = Neighbours().mean_action(ACT, alive, num_actions=4)
    assert torch.equal(found[0], torch.tensor([0.0, 0.5, 0.0, 0.5]))
    alone = Neighbours().mean_action(ACT, torch.tensor([True, False, False, False]), num_actions=4)
    assert torch.equal(alone[0], torch.zeros(4))


def test_nothing_was_done_before_the_first_step():
    none = torch.full((2, 4), -1)
    assert not bool(Neighbours().mean_action(none, ALL.expand(2, 4), num_actions=3).any())


def test_a_radius_leaves_out_who_is_far():
    obs = torch.tensor([[9.0, 0.0], [7.0, 1.0], [5.0, 2.0], [3.0, 9.0]])
    near = Neighbours(radius=1.0, position=(1,))
    found = near.mean_action(ACT, ALL, obs, num_actions=4)
    assert torch.equal(found[0], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(found[1], torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert torch.equal(found[3], torch.zeros(4))
    own = Neighbours(radius=1.0, position=(1,), include_self=True)
    assert torch.equal(
        own.mean_action(ACT, ALL, obs, num_actions=4)[3], torch.tensor([0.0, 0.0, 0.0, 1.0])
    )
    with pytest.raises(ValueError, match=r"Neighbours\.mean\.obs must be given"):
        near.mean_action(ACT, ALL, num_actions=4)


@given(seed=st.integers(0, 99), include_self=st.booleans())
def test_a_radius_that_reaches_all_is_the_whole_team(seed, include_self):
    generator = torch.Generator().manual_seed(seed)
    act = torch.randint(4, (3, 5), generator=generator)
    alive = torch.rand(3, 5, generator=generator) < 0.7
    obs = torch.rand(3, 5, 2, generator=generator)
    wide = Neighbours(radius=9.0, position=(0, 1), include_self=include_self)
    one = wide.mean_action(act, alive, obs, num_actions=4)
    other = Neighbours(include_self=include_self).mean_action(act, alive, num_actions=4)
    torch.testing.assert_close(one[alive], other[alive])
    sums = other.sum(-1)
    assert torch.allclose(sums[alive & (alive.sum(-1, keepdim=True) > 1)], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"radius": 0.0, "position": (0,)}, r"Neighbours\.radius must be a number"),
        ({"radius": 1.0}, r"Neighbours\.position must be given with a radius, and only then"),
        ({"position": (0,)}, r"Neighbours\.position must be given with a radius"),
        ({"radius": 1.0, "position": (-1,)}, r"Neighbours\.position must be an int"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        Neighbours(**settings)
