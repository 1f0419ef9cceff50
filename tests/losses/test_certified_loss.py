"""The certified loss: closed forms, gradients, and what training on it proves."""

import gymnasium
import pytest
import torch
from learners import Arena, same_weights, sgd, train
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.utils.net.common import Net
from torch import nn

from robustmarl import evaluation, testing, training
from robustmarl._seeding import Draws
from robustmarl.algorithms import COMA, IPPO, IQL, MAPPO, QMIX, QPLEX, VDN
from robustmarl.budgets import LinfBall
from robustmarl.certify import margin_bounds
from robustmarl.envs import foraging
from robustmarl.losses import CertifiedLoss, CertifiedRegularizer, certified_loss
from robustmarl.networks import AgentNetwork, SeparateAgents
from robustmarl.networks.calculus.bounds import Interval, interval_bounds
from robustmarl.schedules import Linear
from robustmarl.victims import FunctionVictim, LossRows, NetworkVictim, Rows

D = torch.float64
BALL = LinfBall(epsilon=0.3)
KINDS = {
    "relu": {"hidden": (6, 5)},
    "tanh": {"hidden": (6, 5), "activation": "tanh"},
    "norm": {"hidden": (6, 5), "layer_norm": True},
    "gru": {"hidden": (6,), "recurrent": True, "last_action": True},
}


def affine(weight):
    """Return a victim with z = weight @ o wherever |o| < 100: its ReLUs are all active."""
    actions, size = weight.shape
    network = AgentNetwork(size, 1, actions, hidden=(size,), agent_id=False).to(D)
    with torch.no_grad():
        network.first.weight.copy_(torch.eye(size))
        network.first.bias.fill_(100.0)
        network.rest[-1].weight.copy_(weight)
        network.rest[-1].bias.copy_(-100.0 * weight.sum(1))
    return NetworkVictim(network, continuous=False)


def weights(actions=4, size=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(actions, size, dtype=D, generator=generator)


def observations(count=7, size=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, dtype=D, generator=generator)


def least_leads(weight, obs, epsilon):
    """Return the least leads of each row's greedy action y, and y: lead - eps ||w_y - w_a||_1."""
    logits = obs @ weight.T
    greedy = logits.argmax(-1)
    change = (weight[greedy].unsqueeze(1) - weight).abs().sum(-1)
    return logits.gather(-1, greedy[:, None]) - logits - epsilon * change, greedy


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("method", ["interval", "linear", "tightest"])
def test_of_an_affine_network_it_is_the_hinge_on_the_least_lead(epsilon, method):
    """Without a budget that is the plain hinge on the clean lead."""
    weight, obs, ball = weights(), observations(), LinfBall(epsilon=epsilon)
    leads, greedy = least_leads(weight, obs, epsilon)
    missing = (1.5 - leads).clamp(min=0.0).scatter(-1, greedy[:, None], 0.0)
    settings = {"margin": 1.5, "method": method}
    found = certified_loss(affine(weight), LossRows(obs=obs), ball, **settings)
    torch.testing.assert_close(found, missing.sum(-1).mean() / 3)
    found = certified_loss(affine(weight), LossRows(obs=obs), ball, worst=True, **settings)
    torch.testing.assert_close(found, missing.amax(-1).mean())


def test_only_available_others_count_and_rows_without_a_choice_do_not():
    weight, obs = weights(), observations()
    mask = torch.rand(7, 4, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[:, 1] = True
    mask[3] = torch.tensor([False, True, False, False])
    each = []
    for row in range(7):
        some = mask[row].nonzero()[:, 0]
        if len(some) > 1:
            leads, greedy = least_leads(weight[some], obs[row, None], BALL.epsilon)
            hinge = (1.0 - leads).clamp(min=0.0).scatter(-1, greedy[:, None], 0.0)
            each.append(hinge.sum() / (len(some) - 1))
    found = certified_loss(affine(weight), LossRows(obs=obs, rows=Rows(mask=mask)), BALL)
    torch.testing.assert_close(found, torch.stack(each).mean())
    assert len(each) < 7
    forced = LossRows(obs=obs[3:4], rows=Rows(mask=mask[3:4]))
    assert certified_loss(affine(weight), forced, BALL).item() == 0.0


def test_padding_and_fixed_coordinates_do_not_move():
    weight, obs = weights(), observations()
    obs[:, 2] = 0.0
    real = torch.tensor([True, True, False]).expand(7, 3)
    padded = certified_loss(affine(weight), LossRows(obs=obs, rows=Rows(obs_mask=real)), BALL)
    shorter = certified_loss(affine(weight[:, :2]), LossRows(obs=obs[:, :2]), BALL)
    torch.testing.assert_close(padded, shorter)
    fixed = LinfBall(epsilon=0.3, fixed=(False, False, True))
    found = certified_loss(affine(weight), LossRows(obs=obs), fixed)
    torch.testing.assert_close(found, shorter)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["interval", "linear", "tightest"])
def test_gradients_are_those_of_finite_differences(kind, method):
    torch.manual_seed(0)
    network = AgentNetwork(3, 2, 4, **KINDS[kind]).to(D)
    victim, width = NetworkVictim(network, continuous=False), network.hidden_size
    rows = Rows(
        agents=torch.arange(7) % 2,
        hidden=torch.randn(7, width, dtype=D) if width else None,
        last_act=torch.arange(7) % 4 if width else None,
    )
    given = LossRows(obs=observations(), rows=rows)

    def value():
        return certified_loss(victim, given, BALL, method=method, memory_given=True)

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                ends.append(value().item())
                parameter.sub_(step * direction)
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("slope", [0.0, 1e-25])
def test_gradients_are_finite_where_a_unit_hardly_moves(slope, epsilon):
    torch.manual_seed(0)
    network = AgentNetwork(3, 1, 4, hidden=(6, 5), agent_id=False)
    with torch.no_grad():
        network.first.weight[0] = slope
        network.first.bias[0] = 0.0
    rows, ball = LossRows(obs=observations().float()), LinfBall(epsilon=epsilon)
    victim = NetworkVictim(network, continuous=False)
    loss = certified_loss(victim, rows, ball, method="tightest", margin=9.0)
    for gradient in torch.autograd.grad(loss, list(network.parameters())):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_leads_through_the_last_layer_are_no_looser_than_two_intervals(kind):
    torch.manual_seed(0)
    network = AgentNetwork(3, 1, 4, agent_id=False, **{**KINDS[kind], "last_action": False}).to(D)
    victim, obs = NetworkVictim(network, continuous=False), observations()
    rows = LossRows(obs=obs)
    found = margin_bounds(victim, rows, BALL, method="interval")
    reached = interval_bounds(network.plan(), Interval(*BALL.box(obs)))[-1]
    greedy = rows.view(victim).logits(obs).argmax(-1, keepdim=True)
    apart = reached.low.gather(-1, greedy) - reached.high
    assert bool((found >= apart - 1e-12).all())
    assert bool((found > apart + 1e-3)[found.isfinite()].any())


def test_agents_with_networks_of_their_own_are_bounded_each_by_its_own():
    torch.manual_seed(0)
    team = SeparateAgents(3, 2, 4, hidden=(6, 5)).to(D)
    obs, agents = observations(), torch.arange(7) % 2
    rows = LossRows(obs=obs, rows=Rows(agents=agents))
    found = margin_bounds(NetworkVictim(team, continuous=False), rows, BALL)
    for agent in (0, 1):
        one = NetworkVictim(team.of(agent), continuous=False)
        expected = margin_bounds(one, LossRows(obs=obs[agents == agent]), BALL)
        torch.testing.assert_close(found[agents == agent], expected)


def test_settings_give_the_loss():
    term = CertifiedLoss(ball=BALL, margin=2.0, worst=True)
    rows = LossRows(obs=observations())
    found = term.loss(affine(weights()), rows, Draws(torch.arange(7)))
    expected = certified_loss(affine(weights()), rows, BALL, margin=2.0, worst=True)
    torch.testing.assert_close(found, expected)
    assert term.with_epsilon(0.1).ball == LinfBall(epsilon=0.1)


@pytest.mark.parametrize("settings", [{}, {"worst": True, "method": "tightest"}])
def test_it_keeps_the_contract(settings):
    testing.check_loss(
        lambda attack: CertifiedLoss(ball=attack.ball, **settings), asks_attack=False
    )


def certified_team(cls):
    return type(f"Certified{cls.__name__}", (CertifiedRegularizer, cls), {})


@pytest.mark.parametrize("cls", [VDN, QMIX, QPLEX, IQL, IPPO, MAPPO, COMA])
def test_it_joins_every_algorithm_of_discrete_actions(cls):
    loss = CertifiedLoss(ball=BALL.with_epsilon(0.05))
    team = certified_team(cls).for_env(Arena(), certified_loss=loss, hidden=(8,), recurrent=False)
    before = [parameter.detach().clone() for parameter in team.policy.parameters()]
    train(team, 2)
    after = list(team.policy.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("cls", [QMIX, IPPO])
@pytest.mark.parametrize(
    "settings",
    [
        {"weight": 0.0},
        {"epsilon": 0.0},
        {"epsilon": Linear(0.0, 0.3, over=9, begin=99)},
    ],
)
def test_without_weight_or_radius_it_is_the_plain_algorithm_bit_for_bit(cls, settings):
    loss = CertifiedLoss(ball=BALL, **settings)
    robust = certified_team(cls).for_env(Arena(), certified_loss=loss, hidden=(8,))
    plain = cls.for_env(Arena(), hidden=(8,))
    assert same_weights(train(robust, 3), train(plain, 3))


def test_more_is_proven_of_a_team_that_trained_on_it():
    def make():
        return foraging(5, players=2, foods=1, coop=True, horizon=25)

    ball = LinfBall(epsilon=0.1)
    ramp = Linear(0.0, 0.1, over=1_000, begin=500, unit="env_steps")
    loss = CertifiedLoss(ball=ball, epsilon=ramp)
    teams = {}
    for name, cls, settings in (
        ("plain", VDN, {}),
        ("certified", certified_team(VDN), {"certified_loss": loss}),
    ):
        teams[name] = cls.for_env(make(), hidden=(16, 16), seed=0, **settings)
        log = training.Log(progress=False)
        training.run(teams[name], make, env_steps=2_000, num_envs=8, log=log)
    found = evaluation.certified(teams, make, ball, (0.1,), episodes=10)
    assert found.proven.mean("certified", "0.1") > found.proven.mean("plain", "0.1")


def test_memory_is_refused_with_the_reason_unless_it_is_taken_as_given():
    robust = certified_team(VDN)
    settings = {"hidden": (4,), "recurrent": True}
    text = r"CertifiedVDN\.policy must be without memory: one step is bounded .*memory_given=True"
    with pytest.raises(ValueError, match=text):
        robust.for_env(Arena(), certified_loss=CertifiedLoss(ball=BALL), **settings)
    given = CertifiedLoss(ball=BALL, memory_given=True)
    train(robust.for_env(Arena(), certified_loss=given, **settings), 1)
    victim = VDN.for_env(Arena(), **settings).victim()
    with pytest.raises(ValueError, match=r"certified_loss\.victim must be without memory"):
        certified_loss(victim, LossRows(obs=torch.zeros(2, 3)), BALL)


def test_what_cannot_be_bounded_is_refused():
    loss, rows = CertifiedLoss(ball=BALL), LossRows(obs=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"CertifiedIPPO\.policy must be of discrete actions"):
        certified_team(IPPO).for_env(Arena(continuous=True), certified_loss=loss)
    with pytest.raises(TypeError, match=r"certified_loss\.victim must be a NetworkVictim"):
        certified_loss(FunctionVictim(nn.Linear(3, 2)), rows, BALL)
    two = CertifiedLoss(ball=LinfBall(epsilon=(0.1, 0.2)))
    with pytest.raises(ValueError, match=r"certified_loss\.ball\.epsilon must be one number or 3"):
        certified_team(VDN).for_env(Arena(), certified_loss=two)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=(3,), action_shape=4, hidden_sizes=(8,)),
        action_space=gymnasium.spaces.Discrete(4),
    )
    with pytest.raises(TypeError, match="must be mixed into an algorithm of robustmarl"):
        certified_team(DQN)(policy=policy, optim=sgd(), certified_loss=loss)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"ball": 0.1}, TypeError, r"ball must be a LinfBall, got 0\.1"),
        ({"margin": 0.0}, ValueError, r"margin must be a number > 0"),
        ({"method": "exact"}, ValueError, r"method must be one of"),
        ({"weight": -1.0}, ValueError, r"weight must be a number >= 0"),
        ({"epsilon": "ramp"}, TypeError, r"epsilon must be a number or a robustmarl\.schedules"),
        ({"max_rows": 0}, ValueError, r"max_rows must be an int >= 1"),
        ({"worst": 2}, TypeError, r"worst must be a bool"),
        ({"memory_given": 2}, TypeError, r"memory_given must be a bool"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=rf"CertifiedLoss\.{text}"):
        CertifiedLoss(**{"ball": BALL, **settings})
