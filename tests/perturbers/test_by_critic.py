"""Attacks by a team's critic: against values known in closed form, and teams' own."""

import itertools

import pytest
import torch
from learners import MEMORY, Arena, arena_spec, collected, same_weights

from robustmarl.algorithms import FACMAC, IPPO, MADDPG, MAPPO
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import spread
from robustmarl.evaluation import rollout
from robustmarl.perturbers import CriticObsPerturber, ObsPerturber, stor
from robustmarl.testing import check_perturber
from robustmarl.training import Log, OffPolicy, run

BALL = LinfBall(epsilon=0.25)


def boxes():
    return Arena(continuous=True)


def learner(cls=MADDPG, env=None, **settings):
    return cls.for_env(boxes() if env is None else env, hidden=(8,), exploration=0.0, **settings)


class Linear:
    """A team's value that is linear in what its agents do."""

    def __init__(self, slope):
        self.slope = slope

    def action_values(self, context, joint):
        return (joint * self.slope).sum((-1, -2))


def linearised(team):
    """Give the actors weights with which they are linear: no ReLU is off, and tanh is small."""
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    network = team.policy.network
    with torch.no_grad():
        network.first.weight.copy_(torch.eye(8, 3))
        network.first.bias.fill_(20.0)
        network.id_table.zero_()
        network.rest[1].weight.copy_(1e-2 * torch.cat([weight, torch.zeros(2, 5)], dim=1))
        network.rest[1].bias.copy_(-20e-2 * weight.sum(dim=1))
    return weight


def test_it_is_the_worst_of_the_ball_where_all_is_linear():
    """The step is -eps sign(W^T g), and no corner of the ball has a lower value."""
    team = learner()
    weight = linearised(team)
    slope = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    attack = CriticObsPerturber(PGD.fgsm(BALL), Linear(slope))
    batch = collected(team, 8, make_env=boxes, perturb=[attack]).latest(8)
    obs, seen = batch.obs.obs[:, :-1], batch.obs.seen[:, :-1]
    expected = obs - 0.25 * (slope @ weight).sign()
    torch.testing.assert_close(seen[batch.living], expected[batch.living])
    corners = torch.tensor(list(itertools.product((-0.25, 0.25), repeat=3)))
    lowest = (corners @ (slope @ weight).T).amin(0)  # of each agent
    lost = ((seen - obs) * (slope @ weight)).sum(-1)
    torch.testing.assert_close(lost[batch.living], lowest.expand_as(lost)[batch.living])


READINGS = {
    "state": lambda obs, state: state.flatten(2),
    "seen": lambda obs, state: obs.flatten(2),
    "both": lambda obs, state: torch.cat([obs.flatten(2), state.flatten(2)], dim=-1),
}


@pytest.mark.parametrize(
    ("cls", "settings", "reads"),
    [
        (MADDPG, {"critic_input": "state"}, "state"),
        (MADDPG, {"critic_input": "seen"}, "seen"),
        (FACMAC, {"init_gain": 1.0}, "both"),
    ],
)
@pytest.mark.parametrize("recurrent", [False, True])
def test_its_gradient_is_that_of_the_critic_at_what_all_do(cls, settings, reads, recurrent):
    """By hand: autograd through the team's critic with one agent's own observation free."""
    team = learner(cls, recurrent=recurrent, last_action=recurrent, **settings)
    ball = LinfBall(epsilon=1e-3)
    batch = collected(
        team, 8, make_env=boxes, perturb=[CriticObsPerturber(PGD.fgsm(ball), team)]
    ).latest(8)
    network, first = team.policy.network, batch.valid[:, :1]
    obs = batch.obs.obs[:, :1].clone().requires_grad_()
    last = torch.zeros_like(batch.act[:, :1]) if recurrent else None
    means = network.unroll(obs, last)[0]
    read = READINGS[reads](batch.obs.obs[:, :1], batch.obs.state[:, :1])
    q = team.critic(read, means)
    (gradient,) = torch.autograd.grad(q.sum(), obs)
    assert bool(first.all())
    step = batch.obs.seen[:, :1] - batch.obs.obs[:, :1]
    sure = gradient.abs() > 1e-6
    assert float(sure.float().mean()) > 0.9
    assert torch.equal(step.sign()[sure], -gradient.sign()[sure])


@pytest.mark.parametrize("cls", [MADDPG, FACMAC])
def test_it_lowers_the_value_and_moves_from_the_clean_point(cls):
    """G11: the untargeted squared error is void there and refused; the critic is not."""

    def task():
        return spread(2, continuous_actions=True, max_cycles=8)

    team = cls.for_env(task(), hidden=(16,), exploration=0.0, output_gain=1.0)
    values = {}

    class Watched(CriticObsPerturber):
        def shown(self, context):
            super().shown(context)
            rows = context.live
            own = team.policy.network.step(
                context.seen, team.policy.network.extra(torch.arange(2), None), None
            )[0]
            q = team.action_values(context, own.unsqueeze(1))[rows]
            values.setdefault(self.attack.ball.epsilon, []).append(q.mean())

    for epsilon in (1e-9, 0.05, 0.2):
        perturb = Watched(PGD(ball=LinfBall(epsilon=epsilon), steps=4), team)
        rollout(team, task, episodes=4, perturb=perturb)
    first = {epsilon: float(found[0]) for epsilon, found in values.items()}
    assert first[0.2] < first[0.05] < first[1e-9]
    with pytest.raises(ValueError, match=r"PGD\.loss must be able to move the observation"):
        rollout(team, task, episodes=1, perturb=PGD.fgsm(BALL))
    with pytest.raises(ValueError, match=r"PGD\.loss must be able to move the observation"):
        PGD.fgsm(BALL, loss="mse")


def test_only_the_named_agents_are_attacked():
    team = learner()
    attack = CriticObsPerturber(PGD.fgsm(BALL), team, agents=["unit_1"])
    batch = collected(team, make_env=boxes, perturb=[attack]).latest(6)
    moved = (batch.obs.seen != batch.obs.obs).any(-1)[:, :-1] & batch.living
    assert bool(moved[..., 1].any())
    assert not bool(moved[..., [0, 2]].any())


@pytest.mark.parametrize("cls", [MADDPG, FACMAC])
def test_no_budget_is_no_attack_bit_for_bit(cls):
    def played(perturb):
        return collected(learner(cls), make_env=boxes, perturb=perturb).latest(6)

    none = CriticObsPerturber(PGD.fgsm(LinfBall(epsilon=0.0)), learner(cls))
    one, other = played([none]), played([])
    assert torch.equal(one.obs.seen, other.obs.obs)
    assert torch.equal(one.act, other.act)


def trained(cls, size, memory, env_steps=120, folder=None, resume=False):
    """Return a team that learned under FGSM by its own critic in half of its episodes, or alone."""
    team = cls.for_env(boxes(), hidden=(8,), seed=1, **memory)
    attack = None
    if size is not None:
        fgsm = PGD.fgsm(LinfBall(epsilon=size))
        attack = CriticObsPerturber(fgsm, team, episodes=0.5)
    run(
        team,
        boxes,
        env_steps=env_steps,
        num_envs=2,
        interval=60,
        learn=OffPolicy(batch_size=4, learning_starts=4),
        perturb=attack,
        log=Log(logdir=folder, resume=resume, progress=False),
    )
    return team


@pytest.mark.parametrize("memory", [{}, MEMORY])
@pytest.mark.parametrize("cls", [MADDPG, FACMAC])
def test_teams_learn_under_it_and_a_killed_run_goes_on_bit_for_bit(cls, memory, tmp_path):
    trained(cls, 0.25, memory, 60, tmp_path / "one")
    again = trained(cls, 0.25, memory, 120, tmp_path / "one", resume=True)
    assert same_weights(again, trained(cls, 0.25, memory, folder=tmp_path / "two"))
    alone = trained(cls, None, memory)
    assert same_weights(alone, trained(cls, 0.0, memory))
    assert not same_weights(alone, again)


def test_it_keeps_the_contract_of_perturbers():
    check_perturber(lambda team: CriticObsPerturber(PGD.fgsm(BALL), team), make_env=boxes)


@pytest.mark.parametrize("cls", [IPPO, MAPPO])
def test_a_team_without_a_critic_of_actions_is_told_what_there_is(cls):
    team = cls.for_env(boxes(), hidden=(8,))
    advice = r"Of values of states alone there is PGD\.fgsm\(ball, random_start=True\)\."
    with pytest.raises(TypeError, match=rf"CriticObsPerturber\.critic must be a team .*{advice}"):
        CriticObsPerturber(PGD.fgsm(BALL), team)
    advised = ObsPerturber(PGD.fgsm(BALL, random_start=True))
    batch = collected(team, make_env=boxes, perturb=[advised]).latest(6)
    assert not torch.equal(batch.obs.seen, batch.obs.obs)


def test_bad_input():
    team = learner()
    with pytest.raises(TypeError, match=r"CriticObsPerturber\.attack must be a GradientAttack"):
        CriticObsPerturber(BALL, team)
    with pytest.raises(ValueError, match=r"CriticObsPerturber\.attack\.target must be None"):
        CriticObsPerturber(stor(BALL), team)
    discrete = MADDPG.for_env(arena_spec(), hidden=(8,))
    with pytest.raises(ValueError, match=r"CriticObsPerturber\.critic must be of continuous"):
        collected(discrete, perturb=[CriticObsPerturber(PGD.fgsm(BALL), discrete)])
