"""PA-AD by directions: where a policy is moved, who learns which way, and a team that it spoils."""

import pytest
import torch
from learners import Arena, collected, same_weights, weights
from torch.nn.functional import normalize

from robustmarl.adversaries import (
    ATSA,
    PAAD,
    ROMANCE,
    DirectionPAAD,
    ObsAdversaryPPO,
    SharedObsAdversary,
)
from robustmarl.adversaries.ppo import attacked_rows, played_on_obs
from robustmarl.algorithms import MAPPO, QMIX
from robustmarl.attacks import PGD, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import rollout
from robustmarl.joint import MASKED, spec_of
from robustmarl.learning.optim import adam
from robustmarl.perturbers import DirectionActor, GaussianObsAdversary, stor
from robustmarl.perturbers.directions import PolicyDirection, completed
from robustmarl.testing import check_adversary
from robustmarl.training import AdversarialTraining, Log, OnPolicy, run
from robustmarl.victims import FunctionVictim

BALL = LinfBall(epsilon=0.3)
QUIET = Log(progress=False)


def directed(env, epsilon=0.3, **settings):
    settings = {"hidden": (8,), "epochs": 2} | settings
    return DirectionPAAD.for_env(env, stor(LinfBall(epsilon=epsilon)), **settings)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_directions_sum_to_zero():
    numbers = random(50, 4).clamp(-1.0, 1.0)
    direction = completed(numbers)
    assert torch.equal(direction[:, :4], numbers)
    torch.testing.assert_close(direction.sum(-1), torch.zeros(50), rtol=0, atol=1e-5)


def test_a_linear_softmax_victim_is_moved_along_the_jacobian():
    """The first step is the sign of J_pi^T d, whatever the length of d."""
    weight, obs, d = random(5, 6), random(8, 6, seed=1), completed(random(8, 4, seed=2))
    view = FunctionVictim(lambda x: x @ weight.T).at()
    policy = (obs @ weight.T).softmax(-1)
    jacobian = torch.diag_embed(policy) - policy.unsqueeze(-1) * policy.unsqueeze(-2)
    along = ((jacobian @ weight).transpose(1, 2) @ d.unsqueeze(-1)).squeeze(-1)
    expected = obs + 0.01 * along.sign()
    for scale in (1.0, 0.2, 7.0):
        loss = PolicyDirection(view.logits(obs), scale * d)
        found = PGD.fgsm(LinfBall(epsilon=0.01), loss=loss)(view, obs)
        torch.testing.assert_close(found, expected)


def test_its_gradient_is_that_of_the_loss_where_the_policy_has_moved():
    clean, output = random(20, 4), random(20, 4, seed=1).requires_grad_()
    clean[0, 1] = output.data[0, 1] = MASKED
    loss = PolicyDirection(clean, random(20, 4, seed=2))
    (expected,) = torch.autograd.grad(loss(output).sum(), output)
    torch.testing.assert_close(loss.gradient(output.detach()), expected, rtol=1e-4, atol=1e-6)
    assert loss.gradient(output.detach())[0, 1] == 0.0
    change = (output.softmax(-1) - clean.softmax(-1)).detach()
    d = random(20, 4, seed=2)
    d = normalize(d - d.mean(-1, keepdim=True), dim=-1)
    by_hand = (change * d).sum(-1) / change.norm(dim=-1) + change.norm(dim=-1)
    torch.testing.assert_close(loss(output).detach()[1:], by_hand[1:])


def test_more_steps_go_farther_along_it():
    weight, obs = random(5, 6), random(30, 6, seed=1)
    view = FunctionVictim(lambda x: (x @ weight.T).tanh() * 2).at()
    loss = PolicyDirection(view.logits(obs), completed(random(30, 4, seed=2)))
    one, ten = (
        loss(view.logits(PGD(ball=BALL, steps=steps, loss=loss)(view, obs))).mean()
        for steps in (1, 10)
    )
    assert ten > one


@pytest.mark.parametrize("cls", [MAPPO, QMIX])
@pytest.mark.parametrize("recurrent", [False, True])
def test_it_keeps_the_contract(cls, recurrent):
    check_adversary(directed, lambda env: cls.for_env(env, hidden=(8,), recurrent=recurrent), Arena)


def test_what_it_plays_is_its_direction_through_the_generator():
    made, victim = directed(Arena(), agents=["unit_0", "unit_1"]), MAPPO.for_env(Arena())
    batch = collected(victim, 6, perturb=[made.perturber()]).latest(6)
    record, obs = batch.record("adversary"), batch.obs
    assert record["act"].shape == (*batch.valid.shape, 3, 3)
    assert not bool(record["logp"][:, :, 2].any())
    rows = batch.living & (torch.arange(3) < 2)
    logits = victim.policy.network.unroll(obs.obs[:, :-1], None)[0].detach()
    logits = logits.masked_fill(~obs.mask[:, :-1], MASKED)[rows]
    density = made.actor.log_prob(obs.obs[:, :-1][rows], record["act"][rows])
    torch.testing.assert_close(density.detach(), record["logp"][rows])
    loss = PolicyDirection(logits, completed(record["act"][rows].clamp(-1, 1)))
    shown = victim.policy.network.unroll(obs.seen[:, :-1], None)[0].detach()
    shown = shown.masked_fill(~obs.mask[:, :-1], MASKED)[rows]
    choice = obs.mask[:, :-1][rows].sum(-1) > 1
    assert float((loss(shown) > 0.0)[choice].float().mean()) > 0.95
    assert float((obs.seen - obs.obs).abs().max()) <= 0.3 * (1 + 1e-6)


def test_its_radius_can_be_another_one():
    actor = DirectionActor(stor(BALL), 3, 4, hidden=(4,))
    twin = actor.with_epsilon(0.1)
    assert twin.ball.epsilon == twin.generator.ball.epsilon == 0.1
    assert twin.mean is actor.mean
    assert twin.log_std is actor.log_std
    assert actor.ball.epsilon == 0.3


# MAPPO's teams: attacked while they stand still, and trained beside each adversary.

AGAINST = {
    "atla": lambda env, eps, **how: ObsAdversaryPPO.for_env(
        env, LinfBall(epsilon=eps), hidden=(16,), **how
    ),
    "paad": lambda env, eps, **how: PAAD.for_env(
        env, stor(LinfBall(epsilon=eps)), hidden=(16,), exploration=0.5, target_update=20, **how
    ),
    "atsa": lambda env, eps, **how: ATSA.for_env(
        env, stor(LinfBall(epsilon=eps)), hidden=(16,), target_update=20, **how
    ),
    "directions": lambda env, eps, **how: directed(env, eps, hidden=(16,), epochs=10, **how),
    "romance-p": lambda env, eps, **how: ROMANCE.for_env(
        env, hidden=(16,), budget=5 if eps else 0, soft=0.3, attack_cost=0.1, **how
    ),
    "romance-s": lambda env, eps, **how: ROMANCE.for_env(
        env,
        stor(LinfBall(epsilon=eps)),
        hidden=(16,),
        budget=5,
        soft=0.3,
        attack_cost=0.1,
        **how,
    ),
}


def matching():
    return SignalMatching(2, horizon=5)


@pytest.fixture(scope="module")
def matched():
    """A MAPPO team that matches signals."""
    team = MAPPO.for_env(matching(), hidden=(16,), optim=adam(3e-3))
    learn = OnPolicy(episodes_per_round=16)
    run(team, matching, env_steps=4_000, num_envs=8, learn=learn, log=QUIET)
    return team


@pytest.mark.parametrize("name", AGAINST)
def test_a_mappo_team_that_stands_still_is_attacked(name, matched):
    made, kept = AGAINST[name](matching(), 1.5, optim=adam(3e-3)), weights(matched)
    attack = AdversarialTraining(matched, made, team_every=None)
    run(attack, matching, env_steps=2_500, num_envs=8, log=QUIET)
    assert all(torch.equal(kept[key], p) for key, p in weights(matched).items())
    clean, attacked = (
        rollout(matched, matching, episodes=60, perturb=perturb).returns.mean()
        for perturb in (None, made.deployed())
    )
    assert attacked < 0.8 * clean


@pytest.mark.parametrize("name", AGAINST)
def test_a_mappo_team_learns_beside_it_and_without_budget_as_if_alone(name):
    def trained(adversary):
        team = MAPPO.for_env(Arena(), hidden=(8,), seed=1)
        learner = team if adversary is None else AdversarialTraining(team, adversary)
        run(learner, Arena, env_steps=120, num_envs=2, log=QUIET)
        return team

    made = AGAINST[name](Arena(), 0.3)
    before = weights(made)
    attacked = trained(made)
    assert any(not torch.equal(before[key], p) for key, p in weights(made).items())
    plain, unharmed = trained(None), trained(AGAINST[name](Arena(), 0.0))
    assert same_weights(plain, unharmed)
    assert not same_weights(plain, attacked)


def shared(env, epsilon):
    actor = GaussianObsAdversary(LinfBall(epsilon=epsilon), spec_of(env).obs_size, hidden=(8,))
    return SharedObsAdversary(actor)


GAUSSIAN = (AGAINST["atla"], AGAINST["directions"], shared)


@pytest.mark.parametrize("make", GAUSSIAN)
def test_behind_others_it_plays_by_the_observations_that_it_learns_from(make):
    """Before its first step every ratio of PPO is 1, whatever noise came before it."""
    noise, made = UniformNoise(ball=LinfBall(epsilon=0.5)), make(Arena(), 0.3)
    team = MAPPO.for_env(Arena(), hidden=(8,))
    batch = collected(team, 6, perturb=[noise, made.perturber()]).latest(6)
    record = made.recorded(batch)
    rows = attacked_rows(batch, record)
    logp = played_on_obs(made.perturber(), batch, record, rows).again()[0].detach()

    assert int(rows.sum()) > 20
    torch.testing.assert_close((logp - record["logp"][rows]).exp(), torch.ones(len(logp)))
    moved = (batch.obs.seen - batch.obs.obs).abs()
    assert 0.3 < float(moved.max()) <= 0.8 + 1e-6  # by both


@pytest.mark.parametrize("make", GAUSSIAN)
def test_deployed_behind_others_it_plays_the_mean_of_clean_observations(make):
    noise, made = UniformNoise(ball=LinfBall(epsilon=0.5)), make(Arena(), 0.3)
    team = MAPPO.for_env(Arena(), hidden=(8,))
    batch = collected(team, 2, perturb=[noise, made.deployed()]).latest(2)
    record = batch.record("adversary")
    mean = made.actor.mean(batch.obs.obs[:, :-1]).detach()

    assert bool(batch.living.any())
    torch.testing.assert_close(record["act"][batch.living], mean[batch.living])


def test_bad_input():
    with pytest.raises(ValueError, match=r"DirectionPAAD\.for_env\.env must be discrete"):
        directed(Arena(continuous=True))
    with pytest.raises(TypeError, match=r"DirectionPAAD\.generator must be a GradientAttack"):
        DirectionPAAD.for_env(Arena(), BALL)
    view = FunctionVictim(lambda x: x, continuous=True).at()
    actor = DirectionActor(stor(BALL), 3, 4, hidden=(4,))
    with pytest.raises(ValueError, match=r"DirectionActor\.victim must be of discrete actions"):
        actor(view, torch.zeros(2, 3))
