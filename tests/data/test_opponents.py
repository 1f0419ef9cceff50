"""What is cut out of joint arrays for a team."""

import pytest
import torch

from robustmarl.data.opponents import Pick
from robustmarl.joint import TeamSpec


def spec(teams):
    """Return a spec of four agents, of which the first two see and may do more."""
    return TeamSpec(
        agents=("a", "b", "c", "d"),
        teams=teams,
        obs_sizes=(3, 3, 2, 2),
        action_sizes=(4, 4, 2, 2),
        continuous=False,
        state_size=1,
        state_layout="joint",
        team_reward="sum",
        horizon=5,
    )


@pytest.mark.parametrize("teams", [{"x": (0, 1), "y": (2, 3)}, {"x": (0, 2), "y": (1, 3)}])
def test_a_team_gets_its_rows_without_padding(teams):
    obs, alive = torch.arange(24.0).view(2, 4, 3), torch.tensor([[True, False, True, False]] * 2)
    mask = torch.rand(2, 4, 4) < 0.5
    for team, rows in teams.items():
        pick = Pick(spec(teams), team, obs.device)
        widest = spec(teams).of_team(team)
        assert torch.equal(pick(obs), obs[:, rows, : widest.obs_size])
        assert torch.equal(pick(mask), mask[:, rows, : widest.num_actions])
        assert torch.equal(pick(alive), alive[:, rows])
        states = torch.rand(2, 4, 5)
        assert torch.equal(pick.state(states), states[:, rows])


def test_rows_side_by_side_are_not_copied():
    obs = torch.zeros(2, 4, 3)
    pick = Pick(spec({"x": (0, 1), "y": (2, 3)}), "y", obs.device)
    obs[:, 2:] = 1.0
    assert pick(obs).data_ptr() == obs[:, 2].data_ptr()
