"""The team's spec: sizes, teams, rewards, and errors with a way out."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from robustmarl.joint import TeamSpec, describe, spec_of, split_obs


class Fake(ParallelEnv):
    def __init__(self, obs=(3, 5), actions=(2, 4), **attributes):
        self.possible_agents, self.metadata = ["x", "y"], {}
        self._obs = dict(zip("xy", map(self._box, obs), strict=True))
        self._act = {
            a: spaces.Discrete(n) if isinstance(n, int) else n
            for a, n in zip("xy", actions, strict=True)
        }
        vars(self).update(attributes)

    @staticmethod
    def _box(size):
        return spaces.Box(-1, 1, (size,)) if isinstance(size, int) else size

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]


def stated(env, **more):
    return describe(env, **{"team_reward": "sum", "horizon": 7, **more})


def test_discrete_agents_of_different_sizes():
    spec = spec_of(stated(Fake(), episode_metrics=("won",)))

    assert (spec.agents, spec.teams) == (("x", "y"), {"team": (0, 1)})
    assert (spec.obs_sizes, spec.obs_size) == ((3, 5), 5)
    assert (spec.action_sizes, spec.num_actions) == ((2, 4), 4)
    assert (spec.state_layout, spec.state_shape) == ("concatenated", (8,))
    assert (spec.team_reward, spec.horizon, spec.metrics) == ("sum", 7, ("won",))
    assert spec.action_shape() == (2,)
    arrays = spec.empty(6)
    assert arrays["obs"].shape == (6, 2, 5)
    assert arrays["mask"].dtype == torch.bool
    assert arrays["act"].dtype == torch.int64
    assert arrays["state"].shape == (6, 8)


def test_continuous_agents():
    box = spaces.Box(np.array([0.0, -1.0], np.float32), np.array([2.0, 1.0], np.float32))
    spec = spec_of(stated(Fake(actions=(box, box))))

    assert spec.continuous
    assert spec.action_low == ((0.0, -1.0),) * 2
    assert spec.action_high == ((2.0, 1.0),) * 2
    assert spec.empty()["act"].shape == (2, 2)
    assert spec.empty()["act"].dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((9,), "joint", (9,)),
        ((2, 4), "per_agent", (2, 4)),
        ((3, 4), "joint", (12,)),
        ((3, 4, 2), "concatenated", (8,)),
    ],
)
def test_states(shape, layout, expected):
    spec = spec_of(stated(Fake(state_space=spaces.Box(-1, 1, shape))))

    assert (spec.state_layout, spec.state_shape) == (layout, expected)
    assert spec.empty(3)["state"].shape == (3, *expected)


def test_teams_slice_agents_and_keep_the_state():
    spec = spec_of(stated(Fake(), teams={"red": ("y",), "blue": ("x",)}))
    red = spec.of_team("red")

    assert spec.team_indices("red") == (1,)
    assert (red.agents, red.obs_sizes, red.action_sizes) == (("y",), (5,), (4,))
    assert (red.teams, red.state_size) == ({"red": (0,)}, 8)
    assert red.of_team() is red
    with pytest.raises(ValueError, match="where there are several teams"):
        spec.team_indices()
    with pytest.raises(ValueError, match="must be one of"):
        spec.team_indices("green")


def test_differences_are_named():
    one, other = spec_of(stated(Fake())), spec_of(stated(Fake(), horizon=8))

    assert one.describe_difference(other) == "horizon: 7 != 8"
    assert one.describe_difference(one) == ""
    assert isinstance(one, TeamSpec)


@pytest.mark.parametrize("name", ["max_cycles", "max_steps", "episode_limit"])
def test_horizons_are_found(name):
    env = Fake(**{name: 11})

    assert spec_of(describe(env, team_reward="mean")).horizon == 11
    assert spec_of(stated(env)).horizon == 7  # what is stated wins


def test_split_obs():
    assert split_obs({"observation": 1, "action_mask": 2}) == (1, 2)
    assert split_obs({"observation": 1}) == (1, None)
    assert split_obs(5) == (5, None)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: stated(Fake(obs=(3, spaces.Box(0, 1, (2, 2))))),
            ValueError,
            r"Flatten it: envs\.flatten_obs\(env\)",
        ),
        (
            lambda: stated(Fake(obs=(3, spaces.Discrete(3)))),
            ValueError,
            r"observation_space\('y'\)",
        ),
        (
            lambda: stated(Fake(obs=(3, spaces.Dict({"position": spaces.Discrete(2)})))),
            ValueError,
            r"Flatten it: envs\.flatten_obs\(env\)",
        ),
        (
            lambda: stated(Fake(actions=(2, spaces.Box(0, 1, (2,))))),
            ValueError,
            r"must be all Discrete or all Box, got \['Box', 'Discrete'\]",
        ),
        (
            lambda: stated(Fake(actions=(spaces.Box(0, np.inf, (2,)),) * 2)),
            ValueError,
            r"a bounded Box of one axis",
        ),
        (lambda: stated(Fake(actions=(2, spaces.Discrete(3, start=1)))), ValueError, r"start"),
        (lambda: describe(Fake(), horizon=3), ValueError, r"describe\(env, team_reward='sum'\)"),
        (lambda: describe(Fake(), team_reward="sum"), ValueError, r"describe\(env, horizon=100\)"),
        (lambda: object(), TypeError, r"must be a PettingZoo ParallelEnv, got object"),
    ],
)
def test_rejects(make, error, text):
    with pytest.raises(error, match=text):
        spec_of(make())


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"team_reward": "max"}, ValueError, r"describe\.team_reward must be one of"),
        ({"horizon": 0}, ValueError, r"describe\.horizon must be an int >= 1"),
    ],
)
def test_describe_rejects(settings, error, text):
    with pytest.raises(error, match=text):
        describe(Fake(), **settings)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"teams": {"red": ("x",)}}, ValueError, r"a partition of the agents \['x', 'y'\]"),
        ({"teams": {"red": ("x", "y"), "blue": ("y",)}}, ValueError, r"a partition of the agents"),
        ({"teams": {"red": ("x", "z")}}, ValueError, r"\['red'\] must be among"),
        (
            {"teams": {"red": ("x", "y"), "blue": ()}},
            ValueError,
            r"\['blue'\] must be of one agent",
        ),
        ({"teams": {"red": "xy"}}, TypeError, r"a collection of names"),
        ({"teams": ("x", "y")}, TypeError, r"a mapping from teams to agents"),
        ({"episode_metrics": "won"}, TypeError, r"a collection of names.*\['won'\]"),
        ({"episode_metrics": ("won", "won")}, ValueError, r"without repetition"),
    ],
)
def test_what_environments_state_themselves_is_checked_like_what_is_described(
    settings, error, text
):
    with pytest.raises(error, match=rf"^describe\..*{text}"):
        describe(Fake(), **settings)
    env = stated(Fake())
    env.metadata |= settings
    with pytest.raises(error, match=rf"^env\.metadata\['.*{text}"):
        spec_of(env)
