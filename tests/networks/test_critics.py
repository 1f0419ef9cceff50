"""State-value networks."""

import pytest
import torch

from robustmarl.networks import Critic


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def make(*args, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Critic(*args, **settings)


def test_one_value_per_state_and_one_per_agent():
    assert Critic(5)(draw(2, 7, 5)).shape == (2, 7)
    assert Critic(5, 3)(draw(2, 7, 3, 5)).shape == (2, 7, 3)


def test_ids_tell_agents_apart_once_they_are_learned():
    critic = make(5, 3, hidden=(8,))
    same = draw(1, 5).expand(3, 5)
    before = critic(same)
    torch.testing.assert_close(before, before[:1].expand(3))  # tables begin at zero
    with torch.no_grad():
        critic.id_table[1] += 1.0
    after = critic(same)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    assert abs((after[1] - before[1]).item()) > 1e-3


def test_layer_norm_makes_it_invariant_to_scale():
    critic = make(5, layer_norm=True)
    torch.testing.assert_close(critic(draw(4, 5)), critic(1e4 * draw(4, 5)), rtol=1e-3, atol=1e-3)


def test_bad_settings():
    with pytest.raises(ValueError, match=r"Critic\.hidden must be at least one width, got \(\)\."):
        Critic(5, hidden=())
    with pytest.raises(ValueError, match=r"Critic\.activation must be one of .*, got 'gelu'\."):
        Critic(5, activation="gelu")
