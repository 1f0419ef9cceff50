"""Observations of any kind become flat rows, and nothing is lost on the way."""

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test

from robustmarl.algorithms import IPPO
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.envs import foraging
from robustmarl.evaluation import rollout
from robustmarl.joint import describe, flatten_obs, spec_of
from robustmarl.wrappers import ObsAdversaryWrapper

MASK = spaces.MultiBinary(2)


class Shown(ParallelEnv):
    """Three steps in which two agents see samples of a space, or what is given."""

    def __init__(self, space, seen=None):
        self.possible_agents, self.agents, self.render_mode = ["x", "y"], [], None
        self.metadata = {"name": "shown", "team_reward": "sum", "horizon": 3}
        self.space, self.seen, self.steps = space, seen, 0
        self.choices = {agent: spaces.Discrete(2) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.choices[agent]

    def reset(self, seed=None, options=None):
        self.space.seed(seed)
        self.agents, self.steps = self.possible_agents[:], 0
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.steps += 1
        over = self.steps == 3
        obs, agents = self._look(), self.agents
        self.agents = [] if over else agents
        no = dict.fromkeys(agents, False)
        return (
            obs,
            dict.fromkeys(agents, 1.0),
            no,
            dict.fromkeys(agents, over),
            {a: {} for a in agents},
        )

    def _look(self):
        seen = self.space.sample() if self.seen is None else self.seen
        if isinstance(seen, dict) and "action_mask" in seen:
            seen["action_mask"] = np.ones(2, np.int8)
        return dict.fromkeys(self.agents, seen)


FLAT = {
    "Discrete": (spaces.Discrete(4), 2, [0, 0, 1, 0]),
    "Discrete from 3": (spaces.Discrete(2, start=3), np.int64(4), [0, 1]),
    "MultiBinary": (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
    "integers": (spaces.Box(0, 9, (2,), np.int64), np.array([7, 3]), [7, 3]),
    "picture": (
        spaces.Box(0, 255, (2, 2), np.uint8),
        np.array([[1, 2], [3, 4]], np.uint8),
        [1, 2, 3, 4],
    ),
    "Tuple": (
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32))),
        (1, np.array([0.5, -0.5], np.float32)),
        [0, 1, 0.5, -0.5],
    ),
    "Dict": (
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (1,), np.float32)}),
        {"a": np.array([0.25], np.float32), "b": 0},
        [0.25, 1, 0],
    ),
    "masked Discrete": (
        spaces.Dict({"observation": spaces.Discrete(3), "action_mask": MASK}),
        {"observation": 1, "action_mask": np.ones(2, np.int8)},
        [0, 1, 0],
    ),
    "more than the observation": (
        spaces.Dict(
            {
                "observation": spaces.Box(-1, 1, (2,), np.float32),
                "goal": spaces.Discrete(2),
                "action_mask": MASK,
            }
        ),
        {"observation": np.zeros(2, np.float32), "goal": 1, "action_mask": np.ones(2, np.int8)},
        [0, 1, 0, 0],
    ),
}


def row(seen):
    return seen["observation"] if isinstance(seen, dict) else seen


@pytest.mark.parametrize(("space", "seen", "expected"), FLAT.values(), ids=FLAT.keys())
def test_what_is_refused_works_by_the_remedy(space, seen, expected):
    with pytest.raises(ValueError, match=r"observation_space\('x'\).*envs\.flatten_obs\(env\)"):
        ObsAdversaryWrapper(Shown(space), UniformNoise(ball=LinfBall(epsilon=0.1)))
    env = flatten_obs(Shown(space, seen))
    obs, _ = env.reset(seed=0)
    assert row(obs["x"]).tolist() == expected
    assert row(obs["x"]).dtype == np.float32
    assert ("action_mask" in obs["x"]) == ("action_mask" in getattr(space, "spaces", {}))
    for agent in env.agents:
        assert env.observation_space(agent).contains(obs[agent])

    def make():
        return flatten_obs(Shown(space))

    parallel_api_test(make(), num_cycles=20)
    assert rollout(IPPO.for_env(make()), make, episodes=2).returns.tolist() == [6.0, 6.0]
    attacked = ObsAdversaryWrapper(make(), UniformNoise(ball=LinfBall(epsilon=0.1)))
    attacked.reset(seed=0)
    _, _, _, _, infos = attacked.step({"x": 0, "y": 0})
    assert 0.0 < infos["x"]["perturbation"] <= 0.1 + 1e-4


def test_flat_observations_stay_as_they_are():
    plain, flat = foraging(), flatten_obs(foraging())
    assert spec_of(flat) == spec_of(plain)
    for one, other in zip(
        plain.reset(seed=3)[0].values(), flat.reset(seed=3)[0].values(), strict=True
    ):
        assert np.array_equal(one["observation"], other["observation"])
        assert np.array_equal(one["action_mask"], other["action_mask"])


def test_keys_may_be_left_out_by_name():
    space, seen, _ = FLAT["more than the observation"]
    env = flatten_obs(Shown(space, seen), keys=("goal",))
    assert env.reset()[0]["x"]["observation"].tolist() == [0, 1]
    both = flatten_obs(Shown(space, seen), keys=("observation", "goal"))
    assert both.reset()[0]["x"]["observation"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: flatten_obs(object()),
            TypeError,
            r"flatten_obs\.env must be a PettingZoo ParallelEnv",
        ),
        (
            lambda: flatten_obs(Shown(FLAT["Dict"][0]), keys=("c",)),
            ValueError,
            r"flatten_obs\.keys must be among \['a', 'b'\], got \['c'\]",
        ),
        (
            lambda: flatten_obs(Shown(FLAT["Dict"][0]), keys=()),
            ValueError,
            r"flatten_obs\.keys must be at least one key",
        ),
        (
            lambda: flatten_obs(Shown(FLAT["Dict"][0]), keys="a"),
            TypeError,
            r"flatten_obs\.keys must be a collection of names",
        ),
        (
            lambda: flatten_obs(Shown(FLAT["Discrete"][0]), keys=("a",)),
            ValueError,
            r"flatten_obs\.keys must be among \[\]",
        ),
        *(
            (
                lambda space=space: flatten_obs(Shown(space)),
                ValueError,
                r"observation_space\('x'\) must be of a fixed size, not Graph, Sequence or Text",
            )
            for space in (
                spaces.Text(3),
                spaces.Sequence(spaces.Discrete(2)),
                spaces.Graph(spaces.Box(-1, 1, (2,)), None),
                spaces.Dict({"a": spaces.Text(3)}),
                spaces.Tuple((spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)))),
            )
        ),
    ],
)
def test_refuses(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("space", "seen"),
    [
        (spaces.Discrete(4), 4),
        (spaces.Discrete(4), -1),
        (spaces.Discrete(4), 1.5),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3])),
        (spaces.MultiDiscrete([2, 3]), np.array([-1, 0])),
        (spaces.MultiBinary(3), np.ones(2, np.int8)),
        (spaces.Box(0, 1, (2, 2)), 1.0),
        (spaces.Box(0, 1, (2, 2)), np.ones(3)),
        (FLAT["Tuple"][0], (1,)),
        (FLAT["Tuple"][0], (-1, np.zeros(2))),
        (FLAT["Dict"][0], {"a": np.zeros(1)}),
        (FLAT["Dict"][0], {"a": np.zeros(1), "b": -1}),
        (FLAT["Dict"][0], 3),
    ],
)
def test_an_observation_outside_its_space_is_named(space, seen):
    env = flatten_obs(describe(Shown(space, seen), horizon=3))
    with pytest.raises(
        ValueError, match=r"observation of 'x' must be of its space, .*got .*Correct"
    ):
        env.reset()
