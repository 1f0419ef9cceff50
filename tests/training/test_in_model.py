"""Attacks trained in a learned model: what they find there must be true."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from learners import collected, same_weights, weights
from pettingzoo import ParallelEnv

from robustmarl.adversaries import PAAD, ContinuousATSA, TeamPAAD
from robustmarl.algorithms import FACMAC, IPPO, MADDPG, MAPPO
from robustmarl.attacks import FrankWolfe
from robustmarl.budgets import LinfBall
from robustmarl.envs import SignalMatching, TwoStepGame, predator_prey
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.learning import WorldModel, adam
from robustmarl.perturbers import stor
from robustmarl.training import Log, OffPolicy, OnPolicy, attack_in_model, run

QUIET = Log(progress=False)


def matching():
    return SignalMatching(2, horizon=5)


class Steering(ParallelEnv):
    """A cart at x that a controller keeps at 0: x' = x + .5 a, reward -x^2; it begins near 0."""

    render_mode = None
    metadata = {"name": "steering", "team_reward": "sum", "horizon": 10}  # noqa: RUF012

    def __init__(self):
        self.possible_agents = ["cart"]
        self.agents = []
        self.ends = []

    def observation_space(self, agent):
        return Box(-9.0, 9.0, (1,), np.float32)

    def action_space(self, agent):
        return Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.steps = ["cart"], 0
        self.x = float(np.random.default_rng(seed).uniform(-0.1, 0.1))
        return {"cart": np.array([self.x], np.float32)}, {"cart": {}}

    def step(self, actions):
        self.x, self.steps = self.x + 0.5 * float(actions["cart"][0]), self.steps + 1
        late = self.steps == 10
        if late:
            self.agents = []
        obs = {"cart": np.array([self.x], np.float32)}
        return obs, {"cart": -(self.x**2)}, {"cart": False}, {"cart": late}, {"cart": {}}


def controller():
    """Return a team whose action is tanh(-2 x), by its weights."""
    team = MADDPG.for_env(Steering(), hidden=(2,))
    network = team.policy.network
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network.first.bias.zero_()
        network.id_table.zero_()
        network.rest[1].weight.copy_(torch.tensor([[-2.0, 2.0]]))
        network.rest[1].bias.zero_()
    return team


@pytest.fixture(scope="module")
def matched():
    """A MAPPO team that matches signals."""
    team = MAPPO.for_env(matching(), hidden=(16,), optim=adam(3e-3))
    learn = OnPolicy(episodes_per_round=16)
    run(team, matching, env_steps=2_500, num_envs=8, learn=learn, log=QUIET)
    return team


def paad(env, epsilon=1.5):
    generator = stor(LinfBall(epsilon=epsilon))
    return PAAD.for_env(
        env, generator, hidden=(16,), optim=adam(3e-3), exploration=0.5, target_update=20
    )


def test_what_it_finds_with_two_hundred_real_steps_is_true(matched):
    """Both agents are made to miss; the team is left as it was, and the budget is kept."""
    made, kept = paad(matching()), weights(matched)
    model = WorldModel(matched.spec, hidden=(32,), members=2)
    rounds = attack_in_model(
        matched,
        made,
        matching,
        model,
        real_steps=200,
        imagined_steps=1_500,
        rounds=2,
        updates=300,
    )
    assert all(torch.equal(kept[key], p) for key, p in weights(matched).items())
    assert [one.real_steps for one in rounds] == [100, 200]
    assert rounds[1].fitted.reward > 0.9
    assert rounds[1].real_return < rounds[0].real_return
    clean, attacked = (
        rollout(matched, matching, episodes=40, perturb=perturb).returns.mean()
        for perturb in (None, made.deployed())
    )
    assert attacked < 0.3 * clean


@pytest.mark.parametrize("kind", ["PA-AD", "ATSA"])
def test_a_cart_is_led_as_far_astray_as_its_controller_lets(kind):
    """Shown x + d with |d| <= .5 it comes to rest at |x| = .5: farther it cannot be held."""
    team, ball = controller(), LinfBall(epsilon=0.5)
    settings = {"hidden": (32,), "optim": adam(3e-3), "critic_optim": adam(3e-3)}
    if kind == "PA-AD":
        learner = MADDPG.for_env(Steering(), exploration=0.4, last_action=True, **settings)
        made = TeamPAAD(learner, FrankWolfe(ball=ball, steps=1))
    else:
        made = ContinuousATSA.for_env(
            Steering(), stor(ball), recurrent=False, alpha=0.02, target_update=30, **settings
        )
    attack_in_model(
        team,
        made,
        Steering,
        WorldModel(team.spec, hidden=(32,), members=2),
        real_steps=200,
        imagined_steps=4_000,
        rounds=2,
        updates=300,
        learn=OffPolicy(batch_size=16, learning_starts=16),
    )
    clean, attacked = (
        rollout(team, Steering, episodes=20, perturb=perturb).returns.mean()
        for perturb in (None, made.deployed(greedy=True))
    )
    worst = 10 * -(0.5**2)  # at rest there in all of ten steps, which it has to reach first
    assert clean > -0.1
    assert worst < attacked < 0.6 * worst


@pytest.mark.parametrize("kind", [MADDPG, FACMAC, IPPO, MAPPO])
def test_continuous_teams_of_every_kind_are_attacked_in_a_model(kind):
    """On predator and prey: the team stays as it is, the attack learns and keeps to its ball."""
    make = partial(predator_prey, horizon=5)
    team, ball = kind.for_env(make(), hidden=(8,), seed=0), LinfBall(epsilon=0.1)
    made = ContinuousATSA.for_env(make(), stor(ball, continuous=True), hidden=(8,), seed=1)
    kept, before = weights(team), copy.deepcopy(made)
    rounds = attack_in_model(
        team,
        made,
        make,
        WorldModel(team.spec, members=2, hidden=(8,)),
        real_steps=40,
        imagined_steps=80,
        rounds=2,
        updates=5,
        num_envs=2,
        learn=OffPolicy(batch_size=4, learning_starts=4),
    )
    assert [one.real_steps for one in rounds] == [20, 40]
    assert all(torch.equal(kept[key], p) for key, p in weights(team).items())
    assert not same_weights(made, before)
    told = rollout(team, make, episodes=2, perturb=made.deployed()).counters
    assert told["0/attacked"] == 2 * 5 * 3
    assert told["0/unchanged"] == 0
    shown = collected(team, 2, make_env=make, perturb=[made.deployed()]).latest(2).obs
    assert 0 < float((shown.seen - shown.obs).abs().max()) <= 0.1 * (1 + 1e-5)


def test_the_same_seed_is_the_same_attack():
    def trained(seed):
        team, made = MAPPO.for_env(matching(), hidden=(8,)), paad(matching())
        attack_in_model(
            team,
            made,
            matching,
            WorldModel(team.spec, hidden=(8,), members=2),
            real_steps=40,
            imagined_steps=300,
            rounds=2,
            updates=10,
            seed=seed,
            learn=OffPolicy(batch_size=8, learning_starts=8),
        )
        return made

    one, two, three = trained(0), trained(0), trained(1)
    assert same_weights(one, two)
    assert not same_weights(one, three)


def test_bad_input(matched):
    made = paad(matching())
    model = WorldModel(matched.spec, hidden=(8,))
    given = {"real_steps": 10, "imagined_steps": 10}
    with pytest.raises(TypeError, match=r"attack_in_model\.model must be a WorldModel"):
        attack_in_model(matched, made, matching, None, **given)
    other = WorldModel(spec_of(TwoStepGame()), hidden=(8,))
    with pytest.raises(ValueError, match=r"attack_in_model\.model must be of the team's env"):
        attack_in_model(matched, made, matching, other, **given)
    rule = r"attack_in_model\.real_steps must be >= 15, an episode per round, got 10"
    with pytest.raises(ValueError, match=rule):
        attack_in_model(matched, made, matching, model, **given)
    with pytest.raises(ValueError, match=r"attack_in_model\.rounds must be an int >= 1"):
        attack_in_model(matched, made, matching, model, rounds=0, **given)
