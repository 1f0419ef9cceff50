"""State-value networks."""

import pytest
import torch

from robustmarl.networks import Critic, JointCritic


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


def test_a_joint_critic_is_one_mlp_on_normalised_state_and_actions():
    critic = JointCritic(5, 3, 2, hidden=(8, 6))
    state, act = draw(7, 5), draw(7, 3, 2)
    weight = torch.cat([critic.of_state.weight, critic.of_act.weight], dim=1)
    whole = torch.cat([torch.nn.functional.layer_norm(state, (5,)), act.flatten(1)], dim=1)
    expected = critic.rest(whole @ weight.T + critic.of_state.bias).squeeze(-1)

    torch.testing.assert_close(critic(state, act), expected)
    several = torch.stack([act, 2 * act], dim=1)  # joint actions of one state
    torch.testing.assert_close(critic(state, several)[:, 0], expected)
    torch.testing.assert_close(critic(state, several)[:, 1], critic(state, 2 * act))


@pytest.mark.parametrize("name", ["state_size", "num_agents", "num_actions"])
def test_a_joint_critic_of_nothing_is_refused(name):
    sizes = {"state_size": 5, "num_agents": 3, "num_actions": 2} | {name: 0}
    with pytest.raises(ValueError, match=rf"JointCritic\.{name} must be an int >= 1, got 0\."):
        JointCritic(**sizes)
