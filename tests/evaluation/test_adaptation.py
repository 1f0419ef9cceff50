"""A team that is attacked at deployment and learns on."""

import copy

import numpy as np
import pytest
import torch
from doubles import Scripted, armies

from robustmarl.algorithms import DOP, IPPO
from robustmarl.attacks import RandomAttack, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.evaluation import adaptation
from robustmarl.joint import spec_of
from robustmarl.learning.optim import adam
from robustmarl.perturbers import ActionPoisonPerturber
from robustmarl.training import Log, OffPolicy, Tests, run

NOISE = UniformNoise(ball=LinfBall(epsilon=2.0))
SETTINGS = {"env_steps": 60, "interval": 20, "num_envs": 2, "log": Log(progress=False)}
TESTED = {**SETTINGS, "test_episodes": 4}


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
    found = adaptation(team, game, noise, **TESTED)
    tests = Tests({"attack": NOISE, "none": None}, episodes=4)
    history = run(plain, game, **SETTINGS, perturb=NOISE, tests=tests)
    assert same(weights(team), weights(plain))
    for curve, name in ((found.adapting, "attack/return"), (found.without, "none/return")):
        assert np.array_equal(curve, history.curve(name))
    assert found.stopped == history.env_steps[-1]


def test_frozen_is_what_a_team_that_does_not_learn_gets():
    still = ippo(optim=adam(1e-30))
    found = adaptation(still, game, noise, **TESTED)
    assert np.array_equal(found.frozen, found.adapting)
    assert len(set(found.frozen[1])) == 1


def test_after_the_attack_learning_goes_on_without():
    one, two = ippo(), ippo()
    short = adaptation(one, game, noise, **TESTED)
    whole = adaptation(two, game, noise, **TESTED, recovery_steps=40)
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

    learn = OffPolicy(learning_starts=4, batch_size=4)
    found = adaptation(team, game, attack, metric="u", learn=learn, **TESTED)
    assert [p.counters()["attacked"] > 0 for p in made] == [True, True]
    assert np.isfinite(found.adapting[1]).all()


def test_an_attack_of_no_budget_changes_nothing():
    team, plain = ippo(), ippo()
    none = UniformNoise(ball=LinfBall(epsilon=0.0))
    found = adaptation(team, game, lambda team: none, **TESTED)
    run(plain, game, **SETTINGS)
    assert same(weights(team), weights(plain))
    assert np.array_equal(found.adapting, found.without)


def test_one_team_of_two_is_attacked():
    """``team`` names it, as everywhere; the other one is played by who is given."""
    spec = spec_of(armies(2))
    blue = IPPO.for_env(spec, team="blue", hidden=(8,))
    opponents = {"red": RandomController(spec.of_team("red"))}
    before = weights(blue)
    found = adaptation(
        blue,
        lambda: armies(2),
        noise,
        team="blue",
        opponents=opponents,
        recovery_steps=20,
        **TESTED,
    )
    assert not same(before, weights(blue))
    assert np.isfinite(found.adapting[1]).all()
    assert found.without[0][-1] >= found.stopped + 20
    with pytest.raises(ValueError, match=r"adaptation\.opponents must be a controller for each"):
        adaptation(blue, lambda: armies(2), noise, team="blue", **TESTED)


def test_what_is_no_algorithm_is_refused():
    with pytest.raises(TypeError, match=r"adaptation\.algorithm must be a robustmarl algorithm"):
        adaptation("blue", game, noise, **TESTED)


def test_two_runs_are_kept_and_resumed(tmp_path):
    settings = {**TESTED, "recovery_steps": 40}
    log = Log(tmp_path, progress=False)
    first = adaptation(ippo(), game, noise, **settings | {"log": log})
    assert {path.name for path in tmp_path.iterdir()} == {"attack", "recovery"}
    log = Log(tmp_path, resume=True, progress=False)
    again = adaptation(ippo(seed=5), game, noise, **settings | {"log": log})
    assert np.array_equal(first.without, again.without)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"attack": NOISE}, TypeError, r"adaptation\.attack must be a function of the algorithm"),
        ({"env_steps": 0}, ValueError, r"adaptation\.env_steps must be an int >= 1, got 0"),
        ({"recovery_steps": -1}, ValueError, r"adaptation\.recovery_steps must be an int >= 0"),
        ({"tests": {}}, TypeError, "unexpected keyword argument 'tests'"),
        ({"test_episodes": 0}, ValueError, r"adaptation\.test_episodes must be an int >= 1, got 0"),
        (
            {"learn": OffPolicy()},
            TypeError,
            r"adaptation\.learn must be OnPolicy\(\.\.\.\) for IPPO",
        ),
        ({"metric": "wins"}, ValueError, r"adaptation\.metric must be one of \['return', 'u'\]"),
    ],
)
def test_refuses(kwargs, error, text):
    team = ippo()
    before = copy.deepcopy(weights(team))
    with pytest.raises(error, match=text):
        adaptation(team, game, **{"attack": noise, **TESTED, **kwargs})
    assert same(before, weights(team))
