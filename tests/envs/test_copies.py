"""A copy of an environment, pickled or deep, plays on as the original does, and apart from it."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from robustmarl import algorithms, envs
from robustmarl.attacks import PGD, GaussianNoise, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.envs.merge import MergeEngine, Traffic
from robustmarl.envs.skirmish import PaddedSkirmish, SkirmishEngine
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper, ObsAdversaryWrapper

NOISE = UniformNoise(ball=LinfBall(epsilon=0.1))

COPIES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}

ENVS = {
    "skirmish": lambda: envs.skirmish("3m"),
    "skirmish refuses": lambda: envs.skirmish("2s3z", illegal="refuse", reward="signed"),
    "gather": envs.gather,
    "tram_spread": envs.tram_spread,
    "formation in cells": lambda: envs.formation(grid=True),
    "spread": envs.spread,
    "spread by mpe2": lambda: envs.spread(num_agent_neighbors=1),
    "tag": lambda: envs.tag(2, 2, 1),
    "predator_prey": envs.predator_prey,
    "predator_prey, semi-implicit": lambda: envs.predator_prey(integrator="semi-implicit"),
    "spread continuous": lambda: envs.spread(continuous_actions=True),
    "foraging": lambda: envs.foraging(5, players=2, foods=2),
    "merge": lambda: envs.merge(horizon=20),
    "battle": lambda: envs.battle(12, horizon=20, extra_features=True),
    "pursuit": lambda: envs.pursuit(10, horizon=20, image=True),
    "toy": envs.ToyGame,
    "signals": lambda: envs.SignalMatching(horizon=6),
    "flattened": lambda: envs.flatten_obs(envs.describe(envs.foraging(), horizon=50)),
    "noise": lambda: ObsAdversaryWrapper(envs.gather(), NOISE),
    "noise twice": lambda: ObsAdversaryWrapper(
        ObsAdversaryWrapper(envs.skirmish("3m"), NOISE, probability=0.5),
        GaussianNoise(ball=LinfBall(epsilon=0.2)),
    ),
    "random Byzantine": lambda: BayesianTypeWrapper(envs.gather(), "random", slots="truth"),
    "noise on Byzantine": lambda: ObsAdversaryWrapper(
        BayesianTypeWrapper(envs.skirmish("3m"), "random"), NOISE, episodes=0.5
    ),
}


def acted(env, seen, rng):
    actions = {}
    for agent in env.agents:
        space = env.action_space(agent)
        if isinstance(space, Box):
            actions[agent] = rng.uniform(space.low, space.high).astype(np.float32)
        else:
            mask = seen[agent]["action_mask"] if isinstance(seen[agent], dict) else np.ones(space.n)
            actions[agent] = int(rng.choice(np.flatnonzero(mask)))
    return actions


def told(env, seen, rng, steps):
    """Return everything that so many steps tell; a new episode begins where one ends."""
    found = []
    for _ in range(steps):
        if not env.agents:
            found.append(env.reset())
            seen = found[-1][0]
            continue
        found.append(env.step(acted(env, seen, rng)))
        seen = found[-1][0]
        found.append(np.array(env.state()) if hasattr(env, "state_space") else None)
    return copy.deepcopy(found), seen


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS.keys())
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_plays_on_as_the_original_does(make, copied):
    """Through the end of the episode and the next one, which nobody seeds."""
    env = make()
    _, seen = told(env, env.reset(seed=3)[0], np.random.default_rng(0), 3)
    twin = copied(env)
    apart, _ = told(copied(env), seen, np.random.default_rng(9), 3)  # moves nobody else
    one, _ = told(env, seen, np.random.default_rng(1), 70)
    other, _ = told(twin, seen, np.random.default_rng(1), 70)
    assert same(one, other)
    assert not same(apart, one[:3])


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS.keys())
def test_a_copy_made_before_the_first_reset(make):
    env = make()
    twin = copy.deepcopy(env)
    first, second = env.reset(seed=5), twin.reset(seed=5)
    assert same(first, second)


@pytest.mark.parametrize("make", [envs.gather, lambda: envs.skirmish("3m")])
def test_copies_of_an_attack_that_was_never_reset_draw_apart(make):
    """A vector of copies, none of them seeded, would else be attacked alike."""
    one = ObsAdversaryWrapper(make(), NOISE)
    infos = [copied.reset()[1] for copied in (copy.deepcopy(one), copy.deepcopy(one))]
    sizes = [info[one.possible_agents[0]]["perturbation"] for info in infos]
    assert sizes[0] != sizes[1]


def test_a_copied_particle_environment_can_be_drawn():
    env = envs.gather(render_mode="rgb_array")
    env.reset(seed=0)
    assert np.array_equal(copy.deepcopy(env).render(), env.render())


ENGINES = {
    "gather": lambda: envs.gather().make_engine(3),
    "toy": lambda: envs.ToyGame(horizon=5).make_engine(3),
    "spread": lambda: envs.spread().make_engine(3),
    "foraging": lambda: envs.foraging(5).make_engine(3),
    "battle": lambda: envs.battle(12).make_engine(3),
    "pursuit": lambda: envs.pursuit(10).make_engine(3),
    "merge": lambda: MergeEngine(Traffic(), 3),
    "skirmish": lambda: SkirmishEngine("3m", 3),
    "skirmish torch": lambda: SkirmishEngine("3m", 3, backend="torch"),
    "padded": lambda: PaddedSkirmish("2m_vs_1z", like="3s_vs_3z").make_engine(3),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES.keys())
def test_a_copied_engine_keeps_its_arrays_together(copied, make):
    engine = make()
    everywhere, some = torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])
    engine.begin(everywhere, torch.tensor([3, 4, 5]))
    engine.advance(engine.tensors["mask"].int().argmax(-1), everywhere)
    twin = copied(engine)
    for active in (some, everywhere, some):
        for one in (engine, twin):
            mask = one.tensors["mask"]
            one.advance(mask.shape[-1] - 1 - mask.flip(-1).int().argmax(-1), active)
        for key, values in engine.tensors.items():
            assert torch.equal(values, twin.tensors[key]), key
    twin.begin(everywhere, torch.tensor([6, 7, 8]))
    assert not torch.equal(engine.tensors["obs"], twin.tensors["obs"])


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda team: ObsAdversaryWrapper(
                envs.gather(), PGD(ball=LinfBall(epsilon=0.1)), victim=team
            ),
            "ObsAdversaryWrapper cannot be pickled or copied with a victim: .* a live victim",
        ),
        (
            lambda team: BayesianTypeWrapper(envs.gather(), team),
            "BayesianTypeWrapper cannot be pickled or copied with networks: .* a live adversary",
        ),
        (
            lambda team: ActionPoisonWrapper(
                envs.gather(),
                lambda view: torch.ones_like(view.policy),
                learner=team,
                agent="agent_0",
            ),
            "ActionPoisonWrapper cannot be pickled or copied: .* refuses a live learner",
        ),
        (lambda team: JointVectorEnv(envs.gather, 2), r"JointVectorEnv cannot .* Make another"),
    ],
)
def test_what_would_go_stale_is_refused(copied, make, text):
    team = algorithms.IPPO.for_env(envs.gather())
    with pytest.raises(TypeError, match=text):
        copied(make(team))
