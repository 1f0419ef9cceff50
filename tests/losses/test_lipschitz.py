"""ERNIE: closed forms of a linear policy, and what flows where."""

import math

import pytest
import torch
from learners import Arena, Recorded, collected, copy_batch, same_weights, update

from robustmarl import algorithms, envs, testing
from robustmarl._seeding import Draws
from robustmarl.attacks import LipschitzAttack
from robustmarl.budgets import LinfBall
from robustmarl.losses import LipschitzLoss, LipschitzRegularizer, lipschitz_loss
from robustmarl.victims import FunctionVictim, LossRows, Rows

WEIGHT = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
OBS = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]], dtype=torch.float64)
DRAWS = Draws(torch.arange(3))


def attack(epsilon=0.5, **settings):
    return LipschitzAttack(ball=LinfBall(epsilon=epsilon), **settings)


def linear(weight):
    return FunctionVictim(lambda obs: obs @ weight.T)


def test_a_linear_policys_worst_move_is_found():
    """rho max_s ||W s||_2 over signs s: here s = (1, 1) gives (3, 2), s = (1, -1) gives (-1, 4)."""
    found = lipschitz_loss(linear(WEIGHT), LossRows(obs=OBS), attack(restarts=16), DRAWS)
    assert found.item() == pytest.approx(0.5 * math.sqrt(17.0), abs=1e-6)


def test_constant_policies_and_no_budget_cost_nothing():
    assert lipschitz_loss(linear(0.0 * WEIGHT), LossRows(obs=OBS), attack(), DRAWS).item() == 0.0
    assert lipschitz_loss(linear(WEIGHT), LossRows(obs=OBS), attack(0.0), DRAWS).item() == 0.0


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_it_scales_with_the_outputs(scale):
    one, other = (
        lipschitz_loss(linear(weight), LossRows(obs=OBS), attack(), DRAWS)
        for weight in (WEIGHT, scale * WEIGHT)
    )
    assert other.item() == pytest.approx(scale * one.item(), rel=1e-6)


def test_gradients_flow_through_both_outputs_and_not_through_the_point():
    """With d the found move, the term is ||W d||, whose gradient is W d d^T / ||W d||."""
    weight = WEIGHT.clone().requires_grad_()
    moved = attack()(linear(WEIGHT).at(), OBS.clone(), Draws(torch.arange(3)))
    lipschitz_loss(linear(weight), LossRows(obs=OBS), attack(), Draws(torch.arange(3))).backward()
    change = moved - OBS
    image = change @ WEIGHT.T
    expected = (image / image.norm(dim=1, keepdim=True)).T @ change / 3
    torch.testing.assert_close(weight.grad, expected)


class Step:
    """Moves observations by a constant."""

    def __init__(self, change):
        self.ball, self.change = LinfBall(epsilon=9.0), change

    def with_epsilon(self, epsilon):
        return self

    def __call__(self, view, obs, draws=None):
        return obs + self.change


def test_it_is_a_distance():
    """Never negative, and as far there as back."""
    weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double()
    victim = FunctionVictim(lambda obs: (obs @ weight.T).sin())
    change = torch.tensor([0.4, -0.7], dtype=torch.float64)
    there = lipschitz_loss(victim, LossRows(obs=OBS), Step(change), DRAWS)
    back = lipschitz_loss(victim, LossRows(obs=OBS + change), Step(-change), DRAWS)
    assert there > 0.0
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize("steps", [1, 3])
def test_no_move_of_a_linear_policy_is_longer_than_its_worst(steps):
    for seed in range(5):
        found = lipschitz_loss(
            linear(WEIGHT),
            LossRows(obs=OBS),
            attack(steps=steps),
            Draws(torch.arange(3) + 10 * seed),
        )
        assert 0.0 < found.item() <= 0.5 * math.sqrt(17.0) + 1e-9


def test_unavailable_actions_do_not_count():
    mask = torch.tensor([[True, False]] * 3)
    rows = LossRows(obs=OBS, rows=Rows(mask=mask))
    found = lipschitz_loss(linear(WEIGHT), rows, attack(restarts=16), DRAWS)
    assert found.item() == pytest.approx(0.5 * 3.0, abs=1e-6)


def test_coordinates_that_an_agent_does_not_have_do_not_count():
    """Two boxes, one of one coordinate: its other mean is padding, however it moves."""
    victim = FunctionVictim(lambda obs: obs @ WEIGHT.T, continuous=True)
    mask = torch.tensor([[True, False]] * 3)
    rows = LossRows(obs=OBS, rows=Rows(mask=mask))
    found = lipschitz_loss(victim, rows, attack(), Draws(torch.arange(3)))
    every = lipschitz_loss(victim, LossRows(obs=OBS), attack(), Draws(torch.arange(3)))
    point = attack()(rows.view(victim), OBS.clone(), Draws(torch.arange(3)))
    assert found.item() == pytest.approx(((point - OBS) @ WEIGHT[0]).abs().mean().item())
    assert every > found


def test_without_a_start_beside_the_clean_observation_there_is_no_gradient():
    with pytest.raises(ValueError, match=r"LipschitzAttack\.random_start must be True"):
        attack(random_start=False)
    with pytest.raises(ValueError, match=r"LipschitzAttack\.target must be left out"):
        attack(target=1)
    with pytest.raises(ValueError, match=r"LipschitzAttack\.start_radius must be a number > 0"):
        attack(start_radius=0.0)


@pytest.mark.parametrize("continuous", [False, True])
def test_it_keeps_the_contracts(continuous):
    testing.check_loss(
        lambda given: LipschitzLoss(attack=given, weight=1.0),
        continuous=continuous,
        zero_without_budget=True,
    )


def test_the_attack_keeps_its_contract():
    testing.check_attack(attack)


class ERNIE(LipschitzRegularizer, algorithms.QMIX):
    """QMIX with ERNIE's term."""


def test_without_weight_it_is_plain_learning_and_padding_is_no_row():
    plain = algorithms.QMIX.for_env(Arena(), hidden=(8,))
    weightless, one, other = (
        ERNIE.for_env(
            Arena(),
            hidden=(8,),
            lipschitz_loss=LipschitzLoss(attack=attack(0.1), weight=weight, max_rows=None),
        )
        for weight in (0.0, 1.0, 1.0)
    )
    batch = collected(plain, 8).latest(8)
    for algorithm in (plain, weightless, one):
        update(algorithm, Recorded(batch))
    assert same_weights(plain, weightless)
    assert not same_weights(plain, one)
    dirty = copy_batch(batch)
    beyond = torch.arange(dirty.obs.obs.shape[1]) > batch.valid.sum(1)[:, None]
    assert bool(beyond.any())
    dirty.obs.obs[beyond] = 1e3
    dirty.obs.seen[beyond] = 1e3
    update(other, Recorded(dirty))
    assert same_weights(one, other)


def test_a_team_learns_with_it():
    testing.check_algorithm(
        lambda env: ERNIE.for_env(env, lipschitz_loss=LipschitzLoss(attack=attack(0.1)), seed=0),
        envs.ToyGame,
        env_steps=60,
    )
