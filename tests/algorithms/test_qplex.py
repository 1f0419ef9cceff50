"""QPLEX: the contract of learners, and two games that greedy agents of VDN lose."""

import functools

import pytest
from learners import Arena, collected, update

from robustmarl.algorithms import QPLEX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import ToyGame, TwoStepGame, climbing
from robustmarl.learning import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.schedules import Constant
from robustmarl.testing import check_algorithm


class Robust(ActionLossRegularizer, QPLEX):
    pass


@pytest.mark.parametrize(
    "settings", [{}, {"recurrent": True, "last_action": True}, {"shared": False, "heads": 2}]
)
def test_contract(settings):
    check_algorithm(functools.partial(QPLEX.for_env, hidden=(8,), **settings), Arena, env_steps=40)


def test_contract_with_states_per_agent_and_with_a_term():
    loss = ActionLoss(attack=PGD.fgsm(LinfBall(epsilon=0.1)), weight=1.0, max_rows=8)
    make = functools.partial(Robust.for_env, hidden=(8,), action_loss=loss)
    check_algorithm(make, lambda: ToyGame(horizon=5), env_steps=20)


def learned_return(cls, make_env, updates, seed):
    """Return what the greedy team earns after learning from 256 random episodes."""
    algorithm = cls.for_env(
        make_env(),
        seed=seed,
        hidden=(32,),
        exploration=1.0,
        target_update=50,
        target_unit="updates",
        optim=adam(5e-3),
    )
    buffer = collected(algorithm, 256, make_env=make_env, num_envs=64, seed=seed)
    for _ in range(updates):
        update(algorithm, buffer, sample_size=64)
    algorithm.policy.exploration = Constant(0.0)
    played = collected(algorithm, 1, make_env=make_env, num_envs=1)
    return float(played.get_episodes(played.sample_indices(0)).rew.sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_8_in_the_two_step_game(seed):
    assert learned_return(QPLEX, TwoStepGame, 500, seed) == 8.0


def test_it_climbs_where_a_sum_of_values_cannot():
    """Penalties of -30 around the optimum 11: no sum of two values has it as its highest."""
    assert learned_return(QPLEX, climbing, 1000, 0) == 11.0
    assert learned_return(VDN, climbing, 1000, 0) < 11.0


def test_settings_reach_the_mixer():
    algorithm = QPLEX.for_env(Arena(), heads=2, hyper_hidden=5, normalize_state=False)
    assert (algorithm.mixer.heads, algorithm.mixer.hyper_hidden) == (2, 5)
    with pytest.raises(TypeError, match=r"QPLEX\.for_env has no setting 'head'.*'heads'"):
        QPLEX.for_env(Arena(), head=2)
