"""Frank-Wolfe steps towards a target, whose end is known for linear victims."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from robustmarl.attacks import PGD, FrankWolfe
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import stor
from robustmarl.testing import check_attack
from robustmarl.victims import FunctionVictim, Rows

BALL = LinfBall(epsilon=0.25)
DOUBLE = {"dtype": torch.float64}


def linear(rows, seed=0):
    """Return a linear victim of so many action coordinates, its weight, and observations."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 5, generator=generator, **DOUBLE)
    obs = torch.randn(12, 5, generator=generator, **DOUBLE)
    return FunctionVictim(lambda x: x @ weight.T, continuous=True).at(), weight, obs


@pytest.mark.parametrize("distance", [-9.0, -0.1, 0.0, 0.02, 0.3, 9.0])
def test_one_step_is_exact_for_one_action(distance):
    """It ends at the target where that is within eps |w|_1, else as near as the ball allows."""
    view, weight, obs = linear(1)
    target = obs @ weight.T + distance
    reach = float(0.25 * weight.abs().sum())
    found = FrankWolfe(ball=BALL, steps=1, target=lambda view, obs: target)(view, obs)
    moved = (found - obs) @ weight.T
    wanted = torch.full_like(moved, max(-reach, min(reach, distance)))
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-9)
    assert float((found - obs).abs().max()) <= 0.25 * (1 + 1e-9)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_many_steps_end_at_the_nearest_action_of_the_ball(scale):
    """That of a bounded least squares problem, within the rate that Frank-Wolfe is proved to have.

    Its gap after k steps is at most 2 C / (k + 2), with C at most the squared diameter.
    """
    view, weight, obs = linear(3)
    target = obs @ weight.T + scale * torch.randn(12, 3, **DOUBLE)
    corners = float((weight.abs().sum(-1) * 0.5).square().sum())
    for steps in (10, 300):
        found = FrankWolfe(ball=BALL, steps=steps, target=lambda view, obs: target)(view, obs)
        for row in range(len(obs)):
            low, high = (obs[row] - 0.25).numpy(), (obs[row] + 0.25).numpy()
            best = lsq_linear(weight.numpy(), target[row].numpy(), (low, high), tol=1e-12)
            left = np.square(weight.numpy() @ found[row].numpy() - target[row].numpy()).sum()
            assert left - 2 * best.cost <= 2 * 2 * corners / (steps + 2)
            assert left >= 2 * best.cost - 1e-9
            if steps == 300:
                assert left - 2 * best.cost < 1e-2


def test_the_range_of_observations_holds_where_it_contains_the_truth():
    view, _, obs = linear(2)
    ball = LinfBall(epsilon=0.25, low=-0.5, high=0.5)
    far = 10 * torch.ones(12, 2, **DOUBLE)
    found = FrankWolfe(ball=ball, steps=8, target=lambda view, obs: far)(view, obs)
    low, high = ball.box(obs)
    assert bool((found >= low).all())
    assert bool((found <= high).all())
    assert bool((found != obs).any())


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_never_ends_farther_than_it_began(steps):
    """Of a victim that is far from linear, too; the plain sign step does, past near targets."""

    def bent(x):
        return torch.stack([(5 * x).sin().sum(-1), (x[..., 0] * x[..., 1]).cos()], dim=-1)

    view = FunctionVictim(bent, continuous=True).at()
    obs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1), **DOUBLE)
    target = bent(obs) + 0.05
    aim = {"ball": BALL, "steps": steps, "target": lambda view, obs: target}

    def distance(x):
        return (bent(x) - target).square().sum(-1)

    found = FrankWolfe(**aim)(view, obs)
    assert bool((distance(found) <= distance(obs)).all())
    assert float(distance(found).mean()) < float(distance(obs).mean())
    if steps == 1:
        assert bool((distance(PGD(loss="mse", **aim)(view, obs)) > distance(obs)).any())


def test_padding_of_actions_does_not_count():
    _, weight, obs = linear(2)
    mask = torch.tensor([[True, False]]).expand(12, -1)
    masked = FunctionVictim(lambda x: x @ weight.T, continuous=True).at(Rows(mask=mask))
    alone = FunctionVictim(lambda x: x @ weight[:1].T, continuous=True).at()
    found = FrankWolfe(ball=BALL, steps=3, target=(0.2, 0.7))(masked, obs)
    expected = FrankWolfe(ball=BALL, steps=3, target=(0.2,))(alone, obs)
    torch.testing.assert_close(found, expected)


def test_logits_can_be_a_target_too():
    view = FunctionVictim(lambda x: x).at()
    found = FrankWolfe(ball=BALL, steps=20, loss="mse", target=(0.1, 3.0))(view, torch.zeros(1, 2))
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.25]]), atol=0.03, rtol=0)


def test_it_keeps_the_contract():
    check_attack(
        lambda epsilon: FrankWolfe(ball=LinfBall(epsilon=epsilon), loss="mse", target=(0.5,) * 4)
    )


def test_stor_goes_along_the_jacobian_by_the_whole_radius():
    """The gradient is J^T (a - mu) 2 / m: the step is its sign, zero where a is mu."""
    view, weight, obs = linear(3)
    target = torch.randn(12, 3, **DOUBLE)
    target[0] = (obs @ weight.T)[0]
    attack = stor(BALL, continuous=True, target=lambda view, obs: target)
    slope = (target - obs @ weight.T) @ weight
    slope[0] = 0.0
    torch.testing.assert_close(attack(view, obs), obs + 0.25 * slope.sign())
    one = stor(LinfBall(epsilon=0.01), continuous=True, target=lambda view, obs: target)
    torch.testing.assert_close(one(view, obs), obs + 0.01 * slope.sign())


def test_stor_is_the_best_there_is_for_one_action_out_of_reach():
    """mu = w o + b: no point of the ball is nearer than o + eps sign(w (a - mu))."""
    view, weight, obs = linear(1)
    found = stor(BALL, continuous=True, target=(50.0,))(view, obs)
    moved = ((found - obs) @ weight.T).squeeze(-1)
    expected = (0.25 * weight.abs().sum()).expand(12)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_bad_input():
    for loss in ("margin", "kl"):
        with pytest.raises(ValueError, match=rf"FrankWolfe\.loss must be None or 'mse'.*'{loss}'"):
            FrankWolfe(ball=BALL, loss=loss, random_start=True)
    with pytest.raises(ValueError, match=r"FrankWolfe\.step_size must be None: a line search"):
        FrankWolfe(ball=BALL, step_size=0.1)
    view, _, obs = linear(2)
    with pytest.raises(ValueError, match=r"FrankWolfe\.loss must be able to move"):
        FrankWolfe(ball=BALL)(view, obs)
    with pytest.raises(ValueError, match=r"FrankWolfe\.loss must be None or 'mse', with a target"):
        FrankWolfe(ball=BALL, random_start=True)(view, obs)
    with pytest.raises(ValueError, match=r"FrankWolfe\.loss must be None or 'mse', with a target"):
        FrankWolfe(ball=BALL, target=0)(FunctionVictim(lambda x: x).at(), obs)
    with pytest.raises(ValueError, match=r"stor\.target must be set by a director, or given"):
        stor(BALL, continuous=True)(view, obs)
    with pytest.raises(TypeError, match=r"stor\.continuous must be a bool"):
        stor(BALL, continuous=1)
