"""Environments that are a little unusual work, or are told what to change, and where."""

import importlib

import numpy as np
import pytest
import torch
from doubles import Scripted, begin_rows, step_rows
from gymnasium.spaces import Box
from pettingzoo.utils import BaseParallelWrapper

from robustmarl.algorithms import IPPO
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, RandomController, ScriptedController
from robustmarl.envs import describe, foraging
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.joint.boxes import in_box
from robustmarl.perturbers import ObsPerturber
from robustmarl.wrappers import ObsAdversaryWrapper

NOISE = UniformNoise(ball=LinfBall(epsilon=0.1))


class Odd(Scripted):
    """Changes what a scripted environment returns, by functions of that.

    Args:
        reset: of observations and infos.
        step: of the five things that a step returns.
        after: called with the environment after each reset or step.
        settings: of ``Scripted``.
    """

    def __init__(self, *, reset=None, step=None, after=None, **settings):
        super().__init__(**settings)
        self._change_reset, self._change_step, self._after = reset, step, after

    def reset(self, seed=None, options=None):
        told = super().reset(seed)
        if self._after:
            self._after(self)
        return self._change_reset(*told) if self._change_reset else told

    def step(self, actions):
        living = {agent: actions[agent] for agent in self.agents if agent in self.left()}
        self.agents = self.left()
        told = super().step(living)
        if self._after:
            self._after(self)
        return self._change_step(*told) if self._change_step else told

    def left(self):
        return self.agents


class Keeper(Odd):
    """Keeps everybody in ``agents``, also those that have ended."""

    def __init__(self, **settings):
        super().__init__(after=self._keep, **settings)

    def left(self):
        return self.really

    def _keep(self, _):
        self.really, self.agents = self.agents, self.possible_agents[:]

    def reset(self, seed=None, options=None):
        self.really = []
        return super().reset(seed)


def infos(value):
    return {
        "reset": lambda obs, _: (obs, value(obs)),
        "step": lambda *told: (*told[:4], value(told[0])),
    }


def rewards(change):
    return {"step": lambda o, r, *rest: (o, {a: change(x) for a, x in r.items()}, *rest)}


def only(agents):
    """Return the observations of ``agents`` alone."""
    return lambda obs, *rest: ({a: x for a, x in obs.items() if a in agents}, *rest)


def played(make, seed=7):
    """Return what the arrays say after each step of an episode of no-ops."""
    vector, found = JointVectorEnv(make, 1), []
    begin_rows(vector, [0], [seed])
    while True:
        found.append({key: values[0].clone() for key, values in vector.tensors.items()})
        if found[-1]["terminated"] or found[-1]["truncated"]:
            return found
        step_rows(vector, torch.zeros(1, *vector.spec.action_shape(), dtype=torch.int64), [0])


def wrapped(make, seed=7):
    """Return what the observation wrapper tells in an episode of no-ops."""
    env, told = ObsAdversaryWrapper(make(), NOISE), []
    told.append(env.reset(seed=seed))
    for _ in range(9):
        if not env.agents or env._roster.left == frozenset():
            break
        told.append(env.step(dict.fromkeys(env.agents, 0)))
    return told


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a
    )


ODD = {
    "infos None": infos(lambda _: None),
    "infos of None": infos(lambda obs: dict.fromkeys(obs)),
    "no infos": infos(lambda _: {}),
    "rewards of shape (1,)": rewards(lambda x: np.array([x])),
    "rewards of shape (1, 1)": rewards(lambda x: np.array([[x]], np.float32)),
    "rewards of torch": rewards(lambda x: torch.tensor([x])),
    "rewards of numpy": rewards(np.float32),
    "lists": {
        "reset": lambda obs, i: ({a: x.tolist() for a, x in obs.items()}, i),
        "step": lambda obs, *r: ({a: x.tolist() for a, x in obs.items()}, *r),
    },
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD.keys())
def test_unusual_ways_of_saying_the_same(change):
    assert same(played(lambda: Odd(**change)), played(Scripted))
    assert len(wrapped(lambda: Odd(**change))) == 5


@pytest.mark.parametrize("end", ["terminated", "truncated", "mixed"])
@pytest.mark.parametrize("deaths", [{}, {1: 2}])
def test_agents_that_stay_in_agents_are_gone_by_their_flags(end, deaths):
    def make(kind):
        return lambda: kind(n=3, end=end, deaths=deaths)

    assert same(played(make(Keeper)), played(make(Scripted)))
    plain, kept = wrapped(make(Scripted)), wrapped(make(Keeper))
    assert len(plain) == len(kept) == 5
    for one, other in zip(plain, kept, strict=True):
        for agent, row in one[0].items():
            assert np.array_equal(row, other[0][agent])
    assert rollout(IPPO.for_env(make(Keeper)()), make(Keeper), episodes=2).lengths.tolist() == [
        4,
        4,
    ]


def test_a_step_after_the_end_is_refused_where_agents_stay():
    env = ObsAdversaryWrapper(Keeper(), NOISE)
    env.reset(seed=0)
    actions = dict.fromkeys(env.agents, 0)
    for _ in range(4):
        env.step(actions)
    with pytest.raises(ValueError, match=r"step\.actions must be empty.*call reset"):
        env.step(actions)
    gone = ObsAdversaryWrapper(foraging(horizon=1), NOISE)
    gone.reset(seed=0)
    gone.step(dict.fromkeys(gone.agents, 0))
    assert gone.step({}) == ({}, {}, {}, {}, {})


def test_an_agent_that_left_may_come_again():
    def again(env):
        if env.t == 3:
            env.agents = ["a0", "a1"]

    found = played(lambda: Odd(after=again, deaths={1: 2}, lengths=(6,)))
    alive = "".join("01"[step["alive"].tolist()[1]] for step in found)
    assert alive == "1100111"  # it observes from its first step on


@pytest.mark.parametrize(
    ("end", "terminated", "alive"),
    [
        ("terminated", True, [False, False]),
        ("truncated", False, [True, True]),
        ("mixed", False, [True, False]),
    ],
)
def test_a_time_limit_without_last_observations_is_no_termination(end, terminated, alive):
    """Values bootstrap from the observations before: zeros say nothing."""

    def nothing_at_the_end(obs, rew, term, trunc, i):
        over = any(trunc.values()) or any(term.values())
        return {} if over else obs, rew, term, trunc, {} if over else i

    found = played(lambda: Odd(step=nothing_at_the_end, end=end))
    assert bool(found[-1]["terminated"]) is terminated
    assert bool(found[-1]["truncated"]) is not terminated
    assert found[-1]["alive"].tolist() == alive
    before = found[-2]["obs"] * torch.tensor(alive).unsqueeze(-1)
    assert torch.equal(found[-1]["obs"], before)
    assert found[-2]["obs"].abs().sum() > 0
    assert (
        found[-1]["rew_agents"].tolist()
        == played(lambda: Scripted(end=end))[-1]["rew_agents"].tolist()
    )


def test_one_last_observation_that_is_missing_is_the_one_before():
    def late(obs, rew, term, trunc, i):
        return (
            only(["a0"])(obs, rew, term, trunc, i)
            if any(trunc.values())
            else (obs, rew, term, trunc, i)
        )

    found, plain = played(lambda: Odd(step=late)), played(Scripted)
    assert torch.equal(found[-1]["obs"][0], plain[-1]["obs"][0])
    assert torch.equal(found[-1]["obs"][1], plain[-2]["obs"][1])


def bare(**settings):
    env = Scripted(**settings)
    del env.metadata
    return env


def test_an_environment_without_metadata():
    def make():
        return describe(bare(), team_reward="sum", horizon=4)

    assert same(played(make), played(Scripted))
    assert len(wrapped(make)) == len(wrapped(bare)) == 5
    with pytest.raises(ValueError, match=r"describe\(env, team_reward='sum', horizon=100\)"):
        spec_of(bare())


class Stated(Scripted):
    """Has a state of any shape."""

    def __init__(self, shape, state, **settings):
        super().__init__(**settings)
        self.state_space, self._state = Box(-99.0, 99.0, shape, np.float32), state

    def state(self):
        return np.asarray(self._state)


def test_a_state_of_two_axes_is_one_row_unless_it_has_a_row_per_agent():
    rows = np.arange(12.0).reshape(4, 3)
    found = played(lambda: Stated((4, 3), rows))
    assert found[0]["state"].tolist() == rows.ravel().tolist()
    assert played(lambda: Stated((4, 3), rows, n=4))[0]["state"].tolist() == rows.tolist()
    for env in (Stated((4, 3), rows), Stated((4, 3), rows, n=4)):
        attacked = ObsAdversaryWrapper(env, NOISE)
        attacked.reset(seed=0)
        assert attacked._context.state[0].numpy().size == 12


BROADCAST = {
    "a scalar": lambda row: np.float32(7.0),
    "one number": lambda row: row[:1],
    "one row": lambda row: row[None],
    "a column": lambda row: row[:, None],
    "a short row": lambda row: row[:-1],
    "None": lambda row: None,
    "words": lambda row: ["?"] * len(row),
    "ragged": lambda row: [[1.0], 2.0, 3.0, 4.0, 5.0],
}


@pytest.mark.parametrize("play", [played, wrapped])
@pytest.mark.parametrize("change", BROADCAST.values(), ids=BROADCAST.keys())
def test_observations_are_not_broadcast(play, change):
    def third(obs, *rest):
        wrong = {"a1": change(obs["a1"])} if obs["a1"][1] > 0.15 else {}
        return {**obs, **wrong}, *rest

    text = (
        r"observation of 'a1' must keep the shape \(5,\) of its space, got .*scripted.*step 2\. Let"
    )
    with pytest.raises(ValueError, match=text):
        play(lambda: Odd(step=third))


@pytest.mark.parametrize("play", [played, wrapped])
@pytest.mark.parametrize(
    ("shape", "state"),
    [((4,), 1.0), ((4,), [1.0]), ((4,), [[1.0, 2.0]]), ((2, 4), [1.0] * 4), ((4, 3), [[1.0] * 3])],
)
def test_states_are_not_broadcast(play, shape, state):
    text = (
        r"state must keep the shape .* of state_space, got .*\(?scripted\)?, step 0\. Let state\(\)"
    )
    with pytest.raises(ValueError, match=text):
        play(lambda: Stated(shape, state))


def nobody(env):
    env.agents = []


def vanish(env):
    env.agents = [] if env.t == 3 else env.agents


def unflagged(obs, rew, term, trunc, i):
    return obs, rew, dict.fromkeys(term, False), dict.fromkeys(trunc, False), i


@pytest.mark.parametrize("play", [played, wrapped])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Odd(after=nobody),
            r"agents must not be empty after reset, .*step 0.*self\.agents =",
        ),
        (
            lambda: Odd(step=unflagged, after=vanish),
            r"must say how the last agents, \['a0', 'a1'\], ended, got neither in .*step 3",
        ),
    ],
)
def test_who_is_there_must_be_said(play, make, text):
    with pytest.raises(ValueError, match=text):
        play(make)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (rewards(lambda x: None), r"reward of 'a0' must be one number, got None in .*step 1"),
        (rewards(lambda x: np.ones(2)), r"reward of 'a0' must be one number.*in .*step 1"),
        (rewards(lambda x: "much"), r"reward of 'a0' must be one number, got 'much' in .*step 1"),
        (
            {"step": lambda o, r, *rest: (o, {**r, "x": 1.0}, *rest)},
            r"rewards must be of agents among \['a0', 'a1'\], got 'x' in .*step 1",
        ),
        (
            {"reset": lambda o, i: ({**o, "x": o["a0"]}, i)},
            r"observations must be of agents among \['a0', 'a1'\], got 'x' in .*step 0",
        ),
    ],
)
def test_what_is_no_reward_or_no_agent_is_named(change, text):
    with pytest.raises(ValueError, match=text):
        played(lambda: Odd(**change))


@pytest.mark.parametrize("play", [played, wrapped])
@pytest.mark.parametrize("mask", [1, [1], [[1, 1, 1]], [1, 1, 1, 1]])
def test_masks_are_not_broadcast(play, mask):
    def shown(obs, _):
        return obs, {agent: {"action_mask": mask} for agent in obs}

    with pytest.raises(
        ValueError, match=r"action_mask of 'a0' in .*step 0, must be of shape \(3,\)"
    ):
        play(lambda: Odd(reset=shown))


# The shown observation is in the ball, whatever its dtype


class Cast(Odd):
    """Shows given numbers in one dtype while the space declares another."""

    def __init__(self, rows, returned, declared):
        def cast(obs, *rest):
            return {agent: np.asarray(rows, returned) for agent in obs}, *rest

        super().__init__(reset=cast, step=cast, obs_sizes=(len(rows),) * 2, lengths=(30,))
        self.space = Box(-np.inf, np.inf, (len(rows),), declared)

    def observation_space(self, agent):
        return self.space


@pytest.mark.parametrize(
    ("rows", "returned", "declared", "shown_as", "moves"),
    [
        ([1, -2, 3], np.int64, np.float32, np.float32, True),
        ([1, 200, 3], np.uint8, np.float32, np.float32, True),
        ([1, -2, 2**24 + 1], np.int64, np.float32, np.float64, True),
        ([True, False], np.bool_, np.float32, np.float32, True),
        ([1, 0], np.bool_, np.float64, np.float64, True),
        ([1000, -1000, 1], np.float16, np.float16, np.float16, True),
        ([1000, -1000], np.float16, np.float16, np.float16, False),
        ([1.1, -2.7], np.float32, np.float32, np.float32, True),
        ([1e-3, 1e3], np.float64, np.float32, np.float64, True),
    ],
)
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.2, 0.3])
def test_what_is_shown_stays_in_the_ball(rows, returned, declared, shown_as, moves, epsilon):
    """Not cut to integers, not rounded to what is further away than the radius."""
    ball = LinfBall(epsilon=epsilon, low=-2000.0, high=2.0**25)
    env = ObsAdversaryWrapper(Cast(rows, returned, declared), UniformNoise(ball=ball))
    moved, (obs, infos) = 0.0, env.reset(seed=0)
    truth = np.asarray(rows, returned).astype(float)
    while env.agents:
        for agent, row in obs.items():
            assert row.dtype == shown_as
            assert infos[agent]["clean_obs"].dtype == returned
            change = np.abs(row.astype(float) - truth)
            assert infos[agent]["perturbation"] == pytest.approx(change.max(), rel=1e-6, abs=1e-6)
            # at float32 the ball itself is rounded, in the collector, too
            slack = 1e-6 * np.abs(rows).max() if returned == np.float32 else 0.0
            assert (row <= (truth + epsilon) + slack).all()
            assert (row >= (truth - epsilon) - slack).all()
            moved = max(moved, change.max())
        obs, _, _, _, infos = env.step(dict.fromkeys(env.agents, 0))
    assert (moved > 0.0) == moves


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_without_budget_integers_and_flags_stay_themselves(dtype):
    none = UniformNoise(ball=LinfBall(epsilon=0.0))
    env = ObsAdversaryWrapper(Cast([1, 0], dtype, np.float32), none)
    obs, infos = env.reset(seed=0)
    assert obs["a0"].dtype == dtype
    assert infos["a0"]["perturbation"] == 0.0


# Actions lie in their boxes


class Boxed(Scripted):
    """Takes actions of any box, and refuses others."""

    def __init__(self, box):
        super().__init__(continuous=True, lengths=(40,))
        self.box = box

    def action_space(self, agent):
        return self.box

    def step(self, actions):
        for action in actions.values():
            assert action.dtype == self.box.dtype
            assert self.box.contains(action), action
        return super().step(actions)


BOXES = {
    "uneven": Box(np.array([-0.1, 0.3], np.float32), np.array([0.7, 0.9], np.float32)),
    "double": Box(np.array([-0.1, 1e-3]), np.array([0.1, 0.7]), dtype=np.float64),
    "half": Box(
        np.array([-0.1, 0.3], np.float16), np.array([0.7, 2.1], np.float16), dtype=np.float16
    ),
    "integers": Box(-3, 2, (2,), np.int32),
    "bytes": Box(0, 255, (2,), np.uint8),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_actions_lie_in_their_boxes(box):
    """Also at the ends, where rounding led out, and of the type that the box has."""
    rng = np.random.default_rng(0)
    for unit in rng.uniform(-1.3, 1.3, (9000, 2)).astype(np.float32):
        found = in_box(unit, box)
        assert found.dtype == box.dtype
        assert box.contains(found), (unit, found)
    ends = [in_box(np.full(2, end, np.float32), box) for end in (-1.0, 1.0)]
    assert np.array_equal(ends, [box.low, box.high])
    middle = in_box(np.zeros(2, np.float32), box).astype(float)
    half = (box.low.astype(float) + box.high) / 2
    integer = np.issubdtype(box.dtype, np.integer)
    np.testing.assert_allclose(middle, half, atol=0.5 if integer else 1e-3)
    engine = JointVectorEnv(lambda: Boxed(box))
    JointCollector(RandomController(engine.spec), engine).collect(n_episode=1)


# Environments of mpe2 as they are

MPE2 = (
    "simple_v3",
    "simple_adversary_v3",
    "simple_crypto_v3",
    "simple_push_v3",
    "simple_reference_v3",
    "simple_speaker_listener_v4",
    "simple_spread_v3",
    "simple_tag_v3",
    "simple_world_comm_v3",
    "collect_treasure_v1",
    "simple_formation_v1",
    "simple_line_v1",
)


@pytest.mark.parametrize("name", MPE2)
def test_every_environment_of_mpe2_is_played_and_attacked_alike(name):
    """The wrapper shows what the collector shows; all of PettingZoo's: benchmarks/other_envs.py."""
    module = importlib.import_module(f"mpe2.{name}")

    seeds = []

    class Told(BaseParallelWrapper):
        def reset(self, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed, options=options)

    def make():
        return describe(Told(module.parallel_env(max_cycles=4)), team_reward="mean", horizon=4)

    spec = spec_of(make())
    perturber, buffer = ObsPerturber(NOISE), EpisodeBuffer(spec, 1)
    script = ScriptedController(spec, lambda context: torch.zeros_like(context.last_act))
    engine = JointVectorEnv(make)
    collector = JointCollector(script, engine, buffer, perturb=[perturber])
    collector.collect(n_episode=1)
    batch = buffer.latest(1)
    assert batch.truncated[0, 3]
    assert int(batch.valid.sum()) == 4
    env = ObsAdversaryWrapper(make(), NOISE)
    obs, _ = env.reset(seed=seeds[0])
    for step in range(5):
        for i, agent in enumerate(spec.agents):
            seen = batch.obs.seen[0, step, i, : spec.obs_sizes[i]].numpy()
            assert np.array_equal(obs[agent], seen)
        if env.agents:
            obs, *_ = env.step(dict.fromkeys(env.agents, 0))


# Food


def test_every_episode_of_foraging_has_food():
    """In a field of three by three its one place was a player's in a fifth of the episodes."""
    env = foraging(3, players=2, foods=1)
    for seed in range(200):
        env.reset(seed=seed)
        assert env.engine.field.sum() > 0
