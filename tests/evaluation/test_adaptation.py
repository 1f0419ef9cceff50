"""A team that is attacked at deployment and learns on."""

import copy

import numpy as np
import pytest
import torch
from doubles import Scripted

from robustmarl.algorithms import DOP, IPPO
from robustmarl.attacks import RandomAttack, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import adaptation
from robustmarl.learning.optim import adam
from robustmarl.perturbers import ActionPoisonPerturber
from robustmarl.training import run

NOISE = UniformNoise(ball=LinfBall(epsilon=2.0))
SETTINGS = {
    "env_steps": 60,
    "interval": 20,
    "num_envs": 2,
    "test_episodes": 4,
    "progress": False,
}


def game():
    return Scripted(lengths=(3, 6), metrics=("u",), team_reward="mean")


def ippo(**settings):
    return IPPO.for_env(game(), hidden=(8,), **settings)


def weights(team):
    return [p.detach().clone() for p in team.policy.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def noise(team):
    return NOISE


def test_learning_under_attack_is_a_run_with_it():
    team, plain = ippo(), ippo()
    found = adaptation(team, game, noise, **SETTINGS)
    tests = {"attack": [NOISE], "none": ()}
    history = run(plain, game, **SETTINGS, perturb=[NOISE], tests=tests)
    assert same(weights(team), weights(plain))
    for curve, name in ((found.adapting, "attack/return"), (found.without, "none/return")):
        assert np.array_equal(curve, history.curve(name))
    assert found.stopped == history.env_steps[-1]


def test_frozen_is_what_a_team_that_does_not_learn_gets():
    still = ippo(optim=adam(1e-30))
    found = adaptation(still, game, noise, **SETTINGS)
    assert np.array_equal(found.frozen, found.adapting)
    assert len(set(found.frozen[1])) == 1


def test_after_the_attack_learning_goes_on_without():
    one, two = ippo(), ippo()
    short = adaptation(one, game, noise, **SETTINGS)
    whole = adaptation(two, game, noise, **SETTINGS, recovery_steps=40)
    assert not same(weights(one), weights(two))
    steps, values = whole.without
    size = len(short.without[0])
    assert np.array_equal(values[:size], short.without[1])
    assert np.array_equal(whole.adapting, short.adapting)
    assert (np.diff(steps) > 0).all()
    assert steps[size - 1] == whole.stopped
    assert steps[-1] >= whole.stopped + 40


def test_any_perturber_and_metric():
    team = DOP.for_env(game(), hidden=(8,), critic_hidden=(8,))
    made = []

    def attack(learner):
        made.append(
            ActionPoisonPerturber(
                RandomAttack(), learner=learner, agent=learner.spec.agents[0], when="always"
            )
        )
        return made[-1]

    found = adaptation(team, game, attack, metric="u", learning_starts=4, batch_size=4, **SETTINGS)
    assert [p.counters()["attacked"] > 0 for p in made] == [True, True]
    assert np.isfinite(found.adapting[1]).all()


def test_an_attack_of_no_budget_changes_nothing():
    team, plain = ippo(), ippo()
    none = UniformNoise(ball=LinfBall(epsilon=0.0))
    found = adaptation(team, game, lambda team: none, **SETTINGS)
    run(plain, game, **SETTINGS)
    assert same(weights(team), weights(plain))
    assert np.array_equal(found.adapting, found.without)


def test_two_runs_are_kept_and_resumed(tmp_path):
    settings = {**SETTINGS, "recovery_steps": 40, "logdir": tmp_path}
    first = adaptation(ippo(), game, noise, **settings)
    assert {path.name for path in tmp_path.iterdir()} == {"attack", "recovery"}
    again = adaptation(ippo(seed=5), game, noise, **settings, resume=True)
    assert np.array_equal(first.without, again.without)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"attack": NOISE}, TypeError, r"adaptation\.attack must be a function of the team"),
        ({"env_steps": 0}, ValueError, r"adaptation\.env_steps must be an int >= 1, got 0"),
        ({"recovery_steps": -1}, ValueError, r"adaptation\.recovery_steps must be an int >= 0"),
        ({"tests": {}, "perturb": ()}, TypeError, r"without .* got \['perturb', 'tests'\]"),
        ({"metric": "wins"}, ValueError, r"adaptation\.metric must be one of \['return', 'u'\]"),
    ],
)
def test_refuses(kwargs, error, text):
    team = ippo()
    before = copy.deepcopy(weights(team))
    with pytest.raises(error, match=text):
        adaptation(team, game, **{"attack": noise, **SETTINGS, **kwargs})
    assert same(before, weights(team))
