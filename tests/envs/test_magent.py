"""Battle and Pursuit against magent2's own environments, and against the library's contracts."""

import numpy as np
import pytest

from robustmarl import envs
from robustmarl.envs.magent.rules import engine_seed
from robustmarl.testing import check_engine, check_env

pytest.importorskip("magent2")
from magent2.environments.adversarial_pursuit import adversarial_pursuit
from magent2.environments.battle import battle

SEEN = [
    {},
    {"minimap": True},
    {"extra_features": True},
    {"minimap": True, "extra_features": True},
]


def upstream(env, minimap=False, extra_features=False):
    """Return magent2's own environment of the same game, whose agents stand where ours do."""
    rules = env.rules
    maker = battle if rules.name == "battle" else adversarial_pursuit
    return maker.parallel_env(
        map_size=rules.map_size,
        max_cycles=rules.horizon,
        minimap_mode=minimap,
        extra_features=extra_features,
    )


def begun(env, other, seed):
    """Begin the same episode in both, and return what both show."""
    other.generate_map = lambda: env.rules.place(other.env, seed)
    theirs, _ = other.reset(seed=engine_seed(seed))
    # magent2 counts the teams before it puts anybody on the map, so that in an episode's first step
    # the second team would play the first one's actions
    other.team_sizes = list(env.rules.sizes)
    # and its state keeps the walls of the map before the first reset
    other.base_state[:, :, 0] = 0.0
    other.base_state[(*other.env._get_walls_info().T, 0)] = 1.0
    ours, _ = env.reset(seed=seed)
    return ours, theirs


def demand_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for agent, seen in ours.items():
        np.testing.assert_array_equal(seen, theirs[agent])


def fighting(env, rng):
    """Return random actions, most of which attack or go towards the others."""
    acted = {}
    for agent in env.agents:
        ahead = 7 if agent.startswith("red") else 5
        size = env.action_space(agent).n
        chosen = rng.integers(size) if size < 21 or rng.random() < 0.4 else ahead
        acted[agent] = int(rng.integers(13, 21)) if rng.random() < 0.4 and size == 21 else chosen
    return acted


@pytest.mark.parametrize("seen", SEEN, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda seen: envs.battle(12, image=True, horizon=70, **seen),
        lambda seen: envs.battle(17, image=True, horizon=40, jitter=False, **seen),
        lambda seen: envs.pursuit(14, image=True, horizon=30, **seen),
    ],
    ids=["battle", "battle in formation", "pursuit"],
)
def test_equals_magent2_bit_for_bit(make, seen):
    """Observations, rewards, ends and states of whole episodes, deaths and all."""
    env = make(seen)
    other = upstream(env, **seen_names(seen))
    assert env.possible_agents == other.possible_agents
    rng, rewards = np.random.default_rng(0), set()
    for seed in range(4):
        demand_same(*begun(env, other, seed))
        while env.agents:
            assert env.agents == other.agents
            actions = fighting(env, rng)
            ours, theirs = env.step(actions), other.step(actions)
            demand_same(ours[0], theirs[0])
            assert ours[1] == theirs[1]
            assert ours[2] == theirs[2]
            assert all(theirs[3][agent] for agent, cut in ours[3].items() if cut)
            rewards |= set(ours[1].values())
            if env.agents:
                told = other.state()[:, :, :5]
                np.testing.assert_array_equal(env.state().reshape(told.shape), told)
    assert len(rewards) > 2


def seen_names(seen):
    return {"minimap": seen.get("minimap", False), "extra_features": "extra_features" in seen}


MAKERS = {
    "battle": lambda: envs.battle(12, horizon=30),
    "battle with everything": lambda: envs.battle(13, horizon=9, minimap=True, extra_features=True),
    "pursuit": lambda: envs.pursuit(12, predators=3, prey=5, horizon=9),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_contracts(make):
    check_env(make)
    check_engine(lambda num_envs: make().make_engine(num_envs))
