"""The wrapper changes observations within the budget, and nothing else."""

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test

from robustmarl._seeding import episode_key
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.joint import StepContext, describe, spec_of
from robustmarl.networks.agents import AgentNetwork
from robustmarl.networks.layers import feed_forward
from robustmarl.perturbers import ObsPerturber, Place
from robustmarl.testing import ContractError, check_wrapper
from robustmarl.typing import RobustnessWarning
from robustmarl.victims import FunctionVictim, NetworkVictim, Rows
from robustmarl.wrappers import ObsAdversaryWrapper

BALL = LinfBall(epsilon=0.25)


class Toy(ParallelEnv):
    """Agents drift at random; agent ``c`` dies after 3 steps, the others after 6."""

    def __init__(self, *, mask=None, sizes=(4, 4, 3), dtype=np.float32, continuous=False):
        self.possible_agents, self.render_mode = ["a", "b", "c"], None
        self.metadata = {"name": "toy"}
        self.mask, self.dtype, self.continuous = mask, dtype, continuous
        self.sizes = dict(zip(self.possible_agents, sizes, strict=True))
        self.state_space = spaces.Box(-np.inf, np.inf, (sum(sizes),), dtype)
        self.agents, self.fault = [], None
        bound = 100 if np.issubdtype(dtype, np.integer) else np.inf
        self._obs = {a: spaces.Box(-bound, bound, (n,), dtype) for a, n in self.sizes.items()}
        if mask == "dict":
            for a in self.possible_agents:
                flags = spaces.Box(0, 1, (3,), np.int8)
                self._obs[a] = spaces.Dict({"observation": self._obs[a], "action_mask": flags})
        act = spaces.Box(0.0, 4.0, (2,)) if continuous else spaces.Discrete(3)
        self._act = dict.fromkeys(self.possible_agents, act)

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.agents, self.time = self.possible_agents[:], 0
        self.place = {
            a: self.random.normal(size=n).astype(self.dtype) for a, n in self.sizes.items()
        }
        return self._look()

    def _flags(self, agent):
        return np.array([1, self.time % 2 == 0, agent != "b"], dtype=np.int8)

    def _look(self):
        obs, infos = {}, {}
        for a in self.agents:
            obs[a], infos[a] = self.place[a].copy(), {"own": 1}
            if self.fault == (a, self.time):
                obs[a][0] = np.nan
            if self.mask == "dict":
                obs[a] = {"observation": obs[a], "action_mask": self._flags(a)}
            elif self.mask == "info":
                infos[a]["action_mask"] = self._flags(a)
        return obs, infos

    def step(self, actions):
        self.time += 1
        for a in self.agents:
            noise = self.random.normal(size=self.sizes[a])
            self.place[a] = (self.place[a] + noise * (1 + np.sum(actions[a]))).astype(self.dtype)
        gone = {a: self.time >= (3 if a == "c" else 6) for a in self.agents}
        obs, infos = self._look()
        rewards = {a: float(self.place[a].sum()) for a in self.agents}
        self.agents = [a for a in self.agents if not gone[a]]
        return obs, rewards, gone, dict.fromkeys(gone, False), infos

    def state(self):
        return np.concatenate(list(self.place.values()))


def network(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AgentNetwork(4, 3, 3, hidden=(8, 8), last_action=True, **settings)


def victim(**settings):
    return NetworkVictim(network(**settings), continuous=settings.get("continuous", False))


def actions(env, step=0):
    if isinstance(env.action_space("a"), spaces.Box):
        return {a: np.full(2, 1.0 + step, np.float32) for a in env.agents}
    return {a: (step + i) % 2 for i, a in enumerate(env.agents)}


def play(env, seed=3, episodes=1):
    """Return everything shown, per reset and step: (obs, rewards, dones, infos, state)."""
    told = []
    for episode in range(episodes):
        obs, infos = env.reset(seed=seed if episode == 0 else None)
        told.append((copy.deepcopy(obs), {}, {}, infos, env.state()))
        step = 0
        while env.agents:
            obs, rewards, gone, _, infos = env.step(actions(env, step))
            told.append((copy.deepcopy(obs), rewards, gone, infos, env.state()))
            step += 1
    return told


def vector(obs):
    return obs["observation"] if isinstance(obs, dict) else obs


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return np.array_equal(one, other) and np.asarray(one).dtype == np.asarray(other).dtype


NOTHING = UniformNoise(ball=LinfBall(epsilon=0.0))
ATTACKS = [UniformNoise(ball=BALL), PGD(ball=BALL), PGD(ball=BALL, random_start=True)]


@pytest.mark.parametrize("mask", [None, "dict", "info"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_only_observations_change_and_only_within_the_budget(attack, mask):
    bare = play(Toy(mask=mask), episodes=2)
    seen = play(ObsAdversaryWrapper(Toy(mask=mask), attack, victim=victim()), episodes=2)
    moved = 0

    for (obs, *rest, infos, state), (obs_adv, *rest_adv, infos_adv, state_adv) in zip(
        bare, seen, strict=True
    ):
        assert same(rest[0], rest_adv[0])
        assert rest[1] == rest_adv[1]
        assert same(state, state_adv)
        assert obs.keys() == obs_adv.keys()
        for agent in obs:
            clean, found = vector(obs[agent]), vector(obs_adv[agent])
            assert found.shape == clean.shape
            assert found.dtype == clean.dtype
            assert np.abs(found - clean).max() <= 0.25 * (1 + 1e-5)
            info = infos_adv[agent]
            assert same(info["clean_obs"], clean)
            assert info["perturbation"] == np.abs(found - clean).max()
            assert info["own"] == infos[agent]["own"]
            moved += info["perturbation"] > 0
            if mask == "dict":
                assert same(obs[agent]["action_mask"], obs_adv[agent]["action_mask"])
    assert moved > 20


def test_the_last_observation_is_perturbed_too():
    last = play(ObsAdversaryWrapper(Toy(), ATTACKS[0]))[-1]

    assert set(last[0]) == {"a", "b"}
    assert all(info["perturbation"] > 0 for info in last[3].values())


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (PGD(ball=LinfBall(epsilon=0.0)), {}),
        (UniformNoise(ball=LinfBall(epsilon=0.0)), {}),
        (PGD(ball=BALL), {"probability": 0.0}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_budget_everything_keeps_its_bits(attack, settings, dtype):
    bare = play(Toy(dtype=dtype))
    seen = play(ObsAdversaryWrapper(Toy(dtype=dtype), attack, victim=victim(), **settings))

    for (obs, *rest), (obs_adv, *rest_adv) in zip(bare, seen, strict=True):
        assert same(obs, obs_adv)
        assert same(rest[0], rest_adv[0])
        assert same(rest[3], rest_adv[3])


@pytest.mark.parametrize("attack", [ATTACKS[0], ATTACKS[1]])
def test_double_precision_observations_stay_in_the_ball(attack):
    bare = play(Toy(dtype=np.float64))
    seen = play(ObsAdversaryWrapper(Toy(dtype=np.float64), attack, victim=victim()))

    for (obs, *_), (obs_adv, *_) in zip(bare, seen, strict=True):
        for agent in obs:
            assert obs_adv[agent].dtype == np.float64
            assert np.abs(obs_adv[agent] - obs[agent]).max() <= 0.25 + 1e-12


def test_only_the_named_agents():
    bare = play(Toy())
    seen = play(ObsAdversaryWrapper(Toy(), ATTACKS[0], agents=["b"]))

    for (obs, *_, infos, _), (obs_adv, *_, infos_adv, _) in zip(bare, seen, strict=True):
        for agent in {"a", "c"} & obs.keys():
            assert same(obs[agent], obs_adv[agent])
            assert infos[agent] == infos_adv[agent]
        assert not same(obs["b"], obs_adv["b"])


def test_every_third_step():
    told = play(ObsAdversaryWrapper(Toy(), ATTACKS[0], every=3))

    assert [row[3]["a"]["perturbation"] > 0 for row in told] == [step % 3 == 0 for step in range(7)]


def test_probability_is_a_share_of_the_steps():
    told = play(ObsAdversaryWrapper(Toy(), ATTACKS[0], probability=0.3), episodes=80)
    share = np.mean([row[3]["a"]["perturbation"] > 0 for row in told])

    assert share == pytest.approx(0.3, abs=0.07)


def test_equals_the_attack_called_by_hand():
    """Padded rows, masks, agent ids, last actions and the episode's key, over two episodes."""
    attack = PGD(ball=BALL, random_start=True, loss="margin")
    target = victim()
    env = ObsAdversaryWrapper(Toy(mask="dict"), attack, victim=target)
    told = play(env, seed=11, episodes=2)
    clean = play(Toy(mask="dict"), seed=11, episodes=2)
    perturber = ObsPerturber(attack, victim=target)
    spec = spec_of(describe(Toy(mask="dict"), team_reward="sum", horizon=6))
    perturber.bind(spec, None, Place(0, "it"))
    names, episode, step, last = Toy().possible_agents, -1, 0, [-1] * 3
    for (obs, *_), (obs_adv, *_) in zip(clean, told, strict=True):
        if len(obs) == 3 and (episode < 0 or step == 6):
            episode, step, last = episode + 1, 0, [-1] * 3
        else:
            alive = [a for a in names if step < 3 or a != "c"]
            for i, agent in enumerate(alive):
                last[names.index(agent)] = (step + i) % 2
            step += 1
        rows, mask = torch.zeros(1, 3, 4), torch.zeros(1, 3, 3, dtype=torch.bool)
        for i, agent in enumerate(names):
            if agent in obs:
                values = torch.from_numpy(obs[agent]["observation"])
                rows[0, i, : len(values)] = values
                mask[0, i] = torch.from_numpy(obs[agent]["action_mask"]).bool()
        context = StepContext(
            obs=rows,
            seen=rows,
            mask=mask,
            state=torch.zeros(1, 11),
            alive=torch.tensor([[a in obs for a in names]]),
            observed=torch.tensor([[a in obs for a in names]]),
            last_act=torch.tensor([last]),
            hidden=None,
            step=torch.tensor([step]),
            keys=torch.tensor([episode_key(11, episode)]),
            live=torch.tensor([True]),
            terminal=torch.tensor([step == 6]),
        )
        expected = perturber.on_obs(context)
        for i, agent in enumerate(names):
            if agent in obs:
                found = obs_adv[agent]["observation"]
                np.testing.assert_array_equal(found, expected[0, i, : len(found)].numpy())


def test_random_numbers_follow_the_seed_and_the_episode():
    def make():
        return ObsAdversaryWrapper(Toy(), ATTACKS[0])

    def deltas(told):
        return np.stack([row[0]["a"] - row[3]["a"]["clean_obs"] for row in told])

    one, env = deltas(play(make(), episodes=2)), make()
    assert np.array_equal(one, deltas(play(env, episodes=2)))
    assert np.array_equal(one, deltas(play(env, episodes=2)))  # the seed starts afresh
    assert not np.isclose(one[:7], one[7:]).any()
    assert not np.isclose(one, deltas(play(make(), seed=4, episodes=2))).any()
    unseeded = [deltas(play(make(), seed=None)) for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_leaves_torchs_and_the_environments_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    play(ObsAdversaryWrapper(Toy(), PGD(ball=BALL, random_start=True), victim=victim()))

    assert torch.equal(torch.rand(3), expected)


def test_stacked_noise_draws_apart_and_keeps_the_truth():
    noise = ATTACKS[0]
    inner = ObsAdversaryWrapper(Toy(), noise)
    env = ObsAdversaryWrapper(inner, noise)
    truth = play(Toy())
    once = play(ObsAdversaryWrapper(Toy(), noise))

    assert (inner.place.depth, env.place.depth) == (0, 1)
    between = pytest.importorskip("supersuit").dtype_v0(env, np.float32)
    assert ObsAdversaryWrapper(between, noise).place.depth == 2
    for (obs, *_), (obs_one, *_), (obs_two, *_, infos, _) in zip(
        truth, once, play(env), strict=True
    ):
        first, both = obs_one["a"] - obs["a"], obs_two["a"] - obs["a"]
        assert not np.isclose(both - first, first).any()
        assert np.array_equal(infos["a"]["clean_obs"], obs["a"])
        assert infos["a"]["perturbation"] == np.abs(both).max()


def test_stacks_with_noise_below_and_pgd_above():
    env = ObsAdversaryWrapper(
        ObsAdversaryWrapper(Toy(mask="dict"), ATTACKS[0]), PGD(ball=BALL), victim=victim()
    )
    sizes = [info["perturbation"] for row in play(env) for info in row[3].values()]

    assert max(sizes) <= 0.5 + 1e-6
    assert max(sizes) > 0.4


@pytest.mark.parametrize(
    "wrap",
    [
        lambda supersuit, env: supersuit.dtype_v0(env, np.float32),
        lambda supersuit, env: supersuit.pad_observations_v0(env),
        lambda supersuit, env: supersuit.frame_stack_v1(supersuit.pad_observations_v0(env), 2),
        lambda supersuit, env: supersuit.flatten_v0(env),
        lambda supersuit, env: supersuit.clip_reward_v0(env),
    ],
)
def test_stacks_with_supersuit_in_any_order(wrap):
    other = partial(wrap, pytest.importorskip("supersuit"))
    bare = play(other(Toy()))
    below = ObsAdversaryWrapper(other(Toy()), ATTACKS[0])
    above = other(ObsAdversaryWrapper(Toy(), ATTACKS[0]))

    for env in (below, above):
        told = play(env)
        assert len(told) == len(bare)
        for (obs, rewards, *_), (obs_adv, rewards_adv, *_) in zip(bare, told, strict=True):
            assert rewards == rewards_adv
            assert np.abs(obs["a"] - obs_adv["a"]).max() <= 0.25 + 1e-6
            assert not same(obs["a"], obs_adv["a"])
    parallel_api_test(below, num_cycles=20)


def test_remains_a_parallel_environment():
    for mask in (None, "info"):
        check_wrapper(
            lambda env: ObsAdversaryWrapper(env, PGD(ball=BALL, steps=2), victim=victim()),
            lambda mask=mask: Toy(mask=mask),
        )
    check_wrapper(
        lambda env: ObsAdversaryWrapper(env, PGD(ball=BALL).with_epsilon(0.0), victim=victim()),
        Toy,
        identity=True,
    )


# Victims with memory, continuous victims


def unrolled(target, told, *, stop):
    """Return the victim's memory after ``stop`` steps of an episode, from what was shown."""
    hidden, last = None, torch.full((3,), -1)
    for step, (obs, *_) in enumerate(told[:stop]):
        rows = torch.zeros(3, 4)
        for i, agent in enumerate("abc"):
            if agent in obs:
                rows[i, : len(obs[agent])] = torch.from_numpy(obs[agent])
        with torch.no_grad():
            view = target.at(Rows(hidden=hidden, last_act=last, agents=torch.arange(3)))
            hidden = view.advance(rows)
        last = torch.tensor([(step + i) % 2 for i in range(3)])
    return hidden, last


@pytest.mark.parametrize("stacked", [False, True])
def test_memory_advances_on_what_was_shown(stacked):
    """The third observation of each episode is attacked with the memory of the first two."""
    target, attack = victim(recurrent=True), PGD(ball=BALL, steps=3)
    env = ObsAdversaryWrapper(Toy(), attack, victim=target)
    if stacked:
        env = ObsAdversaryWrapper(env, ATTACKS[0], victim=target)
    told = play(env, episodes=2)
    inner = env.env if stacked else env
    for begin in (0, 7):
        hidden, last = unrolled(target, told[begin:], stop=2)
        view = target.at(
            Rows(
                mask=torch.ones(3, 3, dtype=torch.bool),
                hidden=hidden,
                last_act=last,
                agents=torch.arange(3),
            )
        )
        row = told[begin + 2]
        clean = torch.zeros(3, 4)
        for i, agent in enumerate("abc"):
            truth = row[3][agent]["clean_obs"]
            clean[i, : len(truth)] = torch.from_numpy(truth)
        expected = attack(view, clean)
        if stacked:  # the noise on top of it
            assert (torch.from_numpy(row[0]["a"]) - expected[0]).abs().max() <= 0.25 + 1e-6
        else:
            np.testing.assert_allclose(row[0]["a"], expected[0].numpy(), atol=1e-6)
    assert inner.attacked == ("a", "b", "c")


@pytest.mark.parametrize(
    "idle",
    [(NOTHING, {}), (UniformNoise(ball=BALL), {"probability": 0})],
    ids=["no budget", "never"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_memory_advances_beneath_an_attack_that_does_nothing(idle, times):
    attack, settings = idle
    alone = ObsAdversaryWrapper(Toy(), PGD(ball=BALL, steps=3), victim=victim(recurrent=True))
    env = ObsAdversaryWrapper(Toy(), PGD(ball=BALL, steps=3), victim=victim(recurrent=True))
    for _ in range(times):
        env = ObsAdversaryWrapper(env, attack, **settings)
    for told, expected in zip(play(env, episodes=2), play(alone, episodes=2), strict=True):
        assert same(told[0], expected[0])
        assert told[3]["a"]["unchanged_steps"] == 0


def test_continuous_victims_see_actions_in_their_own_range():
    """The box is [0, 4]; the victim acts in [-1, 1]: 1, 2, ... are -.5, 0, ..."""
    asked = []

    class Spy:
        continuous, hidden_size, device = True, 0, torch.device("cpu")
        agents = obs_size = num_actions = None
        acting_only = False

        def side(self, context):
            return {}

        def at(self, rows):
            asked.append((rows.last_act.clone(), rows.state.clone()))
            return FunctionVictim(lambda obs: obs[:, :2], continuous=True).at()

    attack = PGD(ball=BALL, random_start=True)
    env = Toy(continuous=True)
    told = play(ObsAdversaryWrapper(env, attack, victim=Spy()))
    assert asked[0][0].tolist() == [[0.0, 0.0]] * 3
    assert asked[1][0].tolist() == [[-0.5, -0.5]] * 3
    assert asked[2][0].tolist() == [[0.0, 0.0]] * 3
    np.testing.assert_array_equal(asked[1][1][0].numpy(), told[1][4])


def test_tianshou_like_and_function_victims():
    module = feed_forward((4, 8, 3))
    env = Toy(sizes=(4, 4, 4))
    told = play(ObsAdversaryWrapper(env, PGD(ball=BALL), victim=FunctionVictim(module)))

    assert told[0][3]["a"]["perturbation"] == pytest.approx(0.25, abs=1e-6)


# Saying so


def test_an_attack_in_vain_warns_once_and_counts():
    env = ObsAdversaryWrapper(
        Toy(), PGD(ball=BALL), victim=FunctionVictim(lambda obs: obs[:, :3] * 0.0)
    )
    with pytest.warns(RobustnessWarning, match="changed none of 15 observations in this episode"):
        told = play(env)
    assert [row[3]["a"]["unchanged_steps"] for row in told] == [1, 2, 3, 4, 5, 6, 7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(env)
        env.close()
    assert env.counters() == {"attacked": 30.0, "unchanged": 30.0}  # of the living


def test_an_unfinished_episode_in_vain_warns_at_close():
    env = ObsAdversaryWrapper(
        Toy(), PGD(ball=BALL), victim=FunctionVictim(lambda obs: obs[:, :3] * 0.0)
    )
    env.reset(seed=0)
    with pytest.warns(RobustnessWarning, match="changed none of 3 observations in its life"):
        env.close()


def test_observations_must_be_finite():
    env = Toy()
    env.fault = ("b", 2)
    wrapped = ObsAdversaryWrapper(env, ATTACKS[0])
    wrapped.reset(seed=0)
    wrapped.step(actions(wrapped))
    with pytest.raises(ValueError, match=r"must be finite, .* for agent 'b' at step 2"):
        wrapped.step(actions(wrapped))


def test_a_worker_process_refuses_a_live_victim():
    with pytest.raises(TypeError, match="a worker process refuses a live victim"):
        pickle.dumps(ObsAdversaryWrapper(Toy(), ATTACKS[1], victim=victim()))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"agents": ["a", "z"]}, ValueError, r"ObsAdversaryWrapper\.agents must be among .*'z'"),
        ({"agents": "a"}, TypeError, r"agents must be a collection of names"),
        ({"every": 0}, ValueError, r"every must be an int >= 1, got 0"),
        ({"probability": 1.5}, ValueError, r"probability must be a number in \[0, 1\]"),
        ({"victim": 3}, TypeError, r"ObsAdversaryWrapper\.victim must be a Victim"),
        ({"victim": None}, ValueError, r"ObsAdversaryWrapper\.victim must be given for PGD"),
        ({"attack": "PGD"}, TypeError, r"attack must be an ObsAttack"),
        (
            {"attack": PGD(ball=LinfBall(epsilon=(0.1, 0.2)))},
            ValueError,
            r"PGD\.ball\.epsilon must be one number or 4 numbers",
        ),
        (
            {"env": Toy(dtype=np.int64)},
            ValueError,
            r"must be floating, got 'int64'.*envs\.flatten_obs",
        ),
    ],
)
def test_rejects(settings, error, text):
    given = {"env": Toy(), "attack": PGD(ball=BALL), "victim": victim(), **settings}
    with pytest.raises(error, match=text):
        ObsAdversaryWrapper(given.pop("env"), given.pop("attack"), **given)


def test_images_are_refused_with_the_remedy():
    env = Toy()
    env._obs["b"] = spaces.Box(0.0, 1.0, (4, 4), np.float32)
    with pytest.raises(ValueError, match=r"envs\.flatten_obs\(env\)"):
        ObsAdversaryWrapper(env, ATTACKS[0])


# Contracts catch what they are for


class Meddler(ObsAdversaryWrapper):
    """A wrapper that changes what it claims to leave alone."""

    def __init__(self, env, fault):
        super().__init__(env, UniformNoise(ball=LinfBall(epsilon=0.0)))
        self.fault = fault
        self.wide = spaces.Box(-1e9, 1e9, (4,), np.float32)

    def observation_space(self, agent):
        if self.fault == "observation_space":
            return self.wide
        return super().observation_space(agent)

    def step(self, given):
        obs, rewards, *rest = super().step(given)
        if self.fault == "rewards":
            rewards = {agent: reward + 1.0 for agent, reward in rewards.items()}
        if self.fault == "obs":
            obs = {agent: row + 1.0 for agent, row in obs.items()}
        return obs, rewards, *rest

    def state(self):
        return super().state() + (self.fault == "state")


def uniform():
    return Toy(sizes=(4, 4, 4))


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("observation_space", "keep the observation_space"),
        ("rewards", "leave rewards alone"),
        ("state", "leave state alone"),
        ("obs", "leave obs alone"),
    ],
)
def test_check_wrapper_catches(fault, text):
    with pytest.raises(ContractError, match=text):
        check_wrapper(lambda env: Meddler(env, fault), uniform, identity=True)


class Narrow(Toy):
    """The same with observations in [0, 1], of half their coordinates at an end."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for agent, space in self._obs.items():
            inner = space["observation"] if self.mask == "dict" else space
            unit = spaces.Box(0.0, 1.0, inner.shape, self.dtype)
            whole = {"observation": unit, "action_mask": spaces.Box(0, 1, (3,), np.int8)}
            self._obs[agent] = spaces.Dict(whole) if self.mask == "dict" else unit

    def reset(self, seed=None, options=None):
        obs, infos = super().reset(seed, options)
        return {agent: _in_unit(row) for agent, row in obs.items()}, infos

    def step(self, actions):
        obs, *rest = super().step(actions)
        return {agent: _in_unit(row) for agent, row in obs.items()}, *rest


def _in_unit(row):
    if isinstance(row, dict):
        return {**row, "observation": _in_unit(row["observation"])}
    return row.clip(0, 1)


@pytest.mark.parametrize("mask", [None, "dict"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("high", [0.9, 1.1, np.inf])
def test_what_is_shown_is_in_the_space_however_far_the_ball_reaches(mask, dtype, high):
    """Spaces are wider by the attack where its range is, and those of the environment elsewhere."""
    env = Narrow(mask=mask, dtype=dtype)
    ball = LinfBall(epsilon=0.3, low=0.0, high=high)
    wrapped = ObsAdversaryWrapper(env, UniformNoise(ball=ball), agents=["a", "b"])
    for seed in range(5):
        obs, _ = wrapped.reset(seed=seed)
        while wrapped.agents:
            assert all(wrapped.observation_space(agent).contains(obs[agent]) for agent in obs)
            actions = dict.fromkeys(wrapped.agents, 0)
            obs, *_ = wrapped.step(actions)
    space = wrapped.observation_space("a")
    assert space is wrapped.observation_space("a")
    inner = space["observation"] if mask else space
    assert (inner.low == 0).all()
    assert inner.high.max() == pytest.approx(1.0 if high == 0.9 else min(high, 1.3), rel=2e-3)
    assert wrapped.observation_space("c") is env.observation_space("c")
    assert (space is env.observation_space("a")) == (high == 0.9)
