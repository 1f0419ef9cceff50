"""PGD against closed forms on linear victims, other libraries, and its budget."""

import dataclasses
import itertools

import eagerpy
import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional as F

from robustmarl._seeding import Draws
from robustmarl.attacks import (
    APGD,
    PGD,
    CrossEntropy,
    FunctionLoss,
    GaussianNoise,
    GradientAttack,
    Margin,
    RandomSearch,
    SquareSearch,
    UniformNoise,
)
from robustmarl.budgets import LinfBall
from robustmarl.networks.agents import AgentNetwork
from robustmarl.networks.layers import feed_forward
from robustmarl.testing.attacks import check_attack
from robustmarl.victims import FunctionVictim, NetworkVictim, Rows

CONTINUOUS = {"random_start": True}


def linear(weight):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    return FunctionVictim(lambda obs: obs @ weight.T)


def mlp(sizes=(6, 16, 16, 4), activation="relu", seed=0, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = feed_forward(sizes, activation).to(dtype)
    for parameter in network.parameters():
        parameter.data.mul_(2.0)  # torch's draw is almost constant
    return network


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draws(rows):
    return Draws(torch.arange(rows) + 100)


# Closed forms


def test_linear_softmax_step_is_the_sign_of_weights_times_pi_minus_one_hot():
    weight = normal(4, 3, dtype=torch.float64)
    weight[:, 1] = 0.0  # a coordinate that does not matter stays
    victim, obs = linear(weight), normal(32, 3, seed=1, dtype=torch.float64)
    logits = victim.at().logits(obs)
    direction = (logits.softmax(-1) - F.one_hot(logits.argmax(-1), 4)) @ weight

    found = PGD(ball=LinfBall(epsilon=0.5), steps=1, step_size=0.2)(victim.at(), obs)
    torch.testing.assert_close(found, obs + 0.2 * direction.sign())
    assert torch.equal(found[:, 1], obs[:, 1])


def test_fgsm_finds_the_optimum_of_two_actions():
    """With two actions the worst case is o - eps sign(w_y - w_other), exactly."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]], dtype=torch.float64)
    obs = torch.tensor([[0.3, -0.7, 0.1], [-0.4, 0.9, 0.2]], dtype=torch.float64)
    y = (obs @ weight.T).argmax(-1)
    expected = obs - 0.5 * (weight[y] - weight[1 - y]).sign()

    for loss in ("cross_entropy", "margin"):
        found = PGD.fgsm(LinfBall(epsilon=0.5), loss=loss)(linear(weight).at(), obs)
        torch.testing.assert_close(found, expected)


def test_worst_margin_over_the_ball():
    """W = (1,0), (0,1), (-1,0), o = (.3, .1), eps = .2: +.2, by action 1."""
    victim = linear([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    obs = torch.tensor([[0.3, 0.1]], dtype=torch.float64)

    found = PGD(ball=LinfBall(epsilon=0.2), loss="margin")(victim.at(), obs)
    margin = Margin(torch.tensor([0]))(victim.at().logits(found))
    assert margin.item() == pytest.approx(0.2)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), epsilon=st.floats(0.01, 2.0))
def test_no_margin_exceeds_the_closed_form_and_two_actions_reach_it(seed, epsilon):
    for actions in (2, 4):
        weight = normal(actions, 3, seed=seed, dtype=torch.float64)
        obs = normal(5, 3, seed=seed + 1, dtype=torch.float64)
        view, logits = linear(weight).at(), obs @ weight.T
        y = logits.argmax(-1)
        gap = weight[None] - weight[y][:, None]
        bound = logits - logits.gather(1, y[:, None]) + epsilon * gap.abs().sum(-1)
        bound = bound.scatter(1, y[:, None], -torch.inf).amax(-1)
        for loss in ("margin", "cross_entropy"):
            attack = PGD(ball=LinfBall(epsilon=epsilon), loss=loss, restarts=2)
            found = attack(view, obs, draws(5))
            margin = Margin(y)(view.logits(found))
            assert (margin <= bound + 1e-9).all()
            if actions == 2:
                torch.testing.assert_close(margin, bound)


def test_more_budget_never_helps_a_linear_victim():
    victim = linear(normal(2, 3, dtype=torch.float64))
    obs = normal(16, 3, seed=1, dtype=torch.float64)
    y = victim.at().logits(obs).argmax(-1)
    losses = [
        CrossEntropy(y)(victim.at().logits(PGD(ball=LinfBall(epsilon=e))(victim.at(), obs)))
        for e in (0.0, 0.1, 0.3, 1.0)
    ]
    assert all((a <= b).all() for a, b in itertools.pairwise(losses))
    assert (losses[0] < losses[1]).all()


def test_every_small_step_raises_the_loss_of_a_linear_victim():
    view = linear(normal(3, 4, dtype=torch.float64)).at()
    obs, losses = normal(64, 4, seed=1, dtype=torch.float64), []
    loss = CrossEntropy(view.logits(obs).argmax(-1))
    for steps in range(13):
        pgd = PGD(ball=LinfBall(epsilon=0.2), steps=max(1, steps), step_size=0.2 / 8)
        losses.append(loss(view.logits(pgd(view, obs) if steps else obs)))
    assert all((a <= b + 1e-12).all() for a, b in itertools.pairwise(losses))
    assert (losses[0] < losses[8]).all()


def test_loss_rises_on_average_on_an_mlp():
    view, obs = FunctionVictim(mlp()).at(), normal(64, 6)
    loss = CrossEntropy(view.logits(obs).argmax(-1))

    found = PGD(ball=LinfBall(epsilon=0.3))(view, obs)
    assert loss(view.logits(found)).mean() > loss(view.logits(obs)).mean() + 0.05


def test_one_full_step_is_fgsm():
    view, obs, ball = FunctionVictim(mlp()).at(), normal(16, 6), LinfBall(epsilon=0.1)

    assert torch.equal(PGD(ball=ball, steps=1, step_size=0.1)(view, obs), PGD.fgsm(ball)(view, obs))


def test_default_step_size():
    """2.5 eps / steps per coordinate: 4 steps of .25 are enough to arrive at .4."""
    victim = linear([[0.0, 0.0], [1.0, -1.0]])
    obs = torch.tensor([[-9.0, -9.0]], dtype=torch.float64)  # a tie: greedy action 0
    ball = LinfBall(epsilon=(0.4, 0.8))

    found = PGD(ball=ball, steps=2, step_size=None)(victim.at(), obs)
    torch.testing.assert_close(found, obs + torch.tensor([[0.4, -0.8]], dtype=torch.float64))
    once = PGD(ball=ball, steps=4)
    near = dataclasses.replace(once, steps=1, step_size=tuple(2.5 * e / 4 for e in (0.4, 0.8)))
    torch.testing.assert_close(
        near(victim.at(), obs), obs + torch.tensor([[0.25, -0.5]], dtype=torch.float64)
    )


def test_saturated_victim_is_still_attacked():
    """Gap of 60 logits: softmax is one-hot in float32, and its gradient zero."""
    weight = torch.tensor([[60.0, 1.0], [0.0, 0.0]])
    view = FunctionVictim(lambda obs: obs @ weight.T).at()
    obs = torch.tensor([[1.0, 0.0]])

    found = PGD.fgsm(LinfBall(epsilon=0.5))(view, obs)
    assert found.tolist() == [[0.5, -0.5]]


def test_unavailable_actions_are_neither_label_nor_aim():
    """The best action is unavailable: the label is the best available one."""
    victim = linear([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    obs = torch.tensor([[0.3, 0.1], [0.3, 0.1]], dtype=torch.float64)

    found = PGD.fgsm(LinfBall(epsilon=0.5))(victim.at(Rows(mask=mask)), obs)
    torch.testing.assert_close(found[0], obs[0] + torch.tensor([-0.5, 0.5], dtype=torch.float64))
    assert torch.equal(found[1], obs[1])


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("rule", [False, True])
def test_targeted_attack_pulls_towards_the_target(loss, rule):
    view, obs = FunctionVictim(mlp()).at(), normal(64, 6)
    target = (lambda view, obs: torch.full((len(obs),), 2)) if rule else 2

    found = PGD(ball=LinfBall(epsilon=1.0), target=target, loss=loss)(view, obs)
    before = (view.logits(obs).argmax(-1) == 2).sum()
    assert (view.logits(found).argmax(-1) == 2).sum() > before + 20


def test_unavailable_targets_leave_rows_alone():
    mask = torch.tensor([[True, True, False, True]] * 3)
    obs = normal(3, 6)

    found = PGD(ball=LinfBall(epsilon=1.0), target=2)(
        FunctionVictim(mlp()).at(Rows(mask=mask)), obs
    )
    assert torch.equal(found, obs)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "attack",
    [
        PGD(ball=LinfBall(epsilon=1.0), target=2, random_start=True),
        PGD(ball=LinfBall(epsilon=1.0), target=2, restarts=3),
        APGD(ball=LinfBall(epsilon=1.0), target=2, restarts=3),
        RandomSearch(ball=LinfBall(epsilon=1.0), target=2),
        SquareSearch(ball=LinfBall(epsilon=1.0), target=2),
    ],
)
def test_nor_do_chance_and_search_move_them(attack, dtype, loss):
    """The loss has no gradient there, but still a value that depends on the observation."""
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, True], [True] * 4] * 4)
    obs, net = normal(8, 6).to(dtype), mlp().to(dtype)
    found = dataclasses.replace(attack, loss=loss)(FunctionVictim(net).at(Rows(mask=mask)), obs)
    assert (found != obs).any(-1).tolist() == [False, True] * 4


def test_a_target_that_is_no_action_is_refused():
    view = FunctionVictim(mlp()).at(Rows(mask=torch.ones(3, 4, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"PGD\.target must be an action, an int below 4, got 4\."):
        PGD(ball=LinfBall(epsilon=1.0), target=4)(view, normal(3, 6))


@pytest.mark.parametrize("kind", [PGD, APGD, RandomSearch, SquareSearch])
@pytest.mark.parametrize("target", [4, lambda view, obs: torch.full((3,), 4)])
def test_so_it_is_where_nobody_says_how_many_there_are(kind, target):
    view = FunctionVictim(mlp()).at()
    with pytest.raises(ValueError, match=r"\.label must be indices of 4 actions, got"):
        kind(ball=LinfBall(epsilon=1.0), target=target)(view, normal(3, 6))


@pytest.mark.parametrize("ball", [{"epsilon": (0.1,)}, {"epsilon": 0.1, "low": (-1.0, -1.0)}])
@pytest.mark.parametrize("kind", [PGD, SquareSearch, UniformNoise, GaussianNoise])
def test_sizes_per_coordinate_that_do_not_fit_are_refused(kind, ball):
    rule = rf"{kind.__name__}\.ball\.(epsilon|low) must be one number or 6 numbers"
    with pytest.raises(ValueError, match=rule):
        kind(ball=LinfBall(**ball))(FunctionVictim(mlp()).at(), normal(3, 6))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(ball=LinfBall(epsilon=1.0), random_start=True),
        PGD(ball=LinfBall(epsilon=1.0), restarts=2),
        SquareSearch(ball=LinfBall(epsilon=1.0)),
        UniformNoise(ball=LinfBall(epsilon=1.0)),
        GaussianNoise(ball=LinfBall(epsilon=1.0)),
    ],
)
def test_draws_of_other_rows_are_refused(attack):
    """One key for all rows would move them all alike."""
    view, obs = FunctionVictim(mlp()).at(), normal(3, 6)
    with pytest.raises(ValueError, match=r"\.draws must be of 3 keys, one per observation, got 1"):
        attack(view, obs, Draws(torch.tensor([5])))


def test_restarts_keep_the_worst_of_each_row():
    view, obs = FunctionVictim(mlp(activation="tanh")).at(), normal(64, 6)
    loss = CrossEntropy(view.logits(obs).argmax(-1))
    short = {"ball": LinfBall(epsilon=2.0), "steps": 2}
    values = [
        loss(view.logits(PGD(**short, restarts=restarts)(view, obs, draws(64))))
        for restarts in (1, 2, 5)
    ]
    assert (values[1] >= values[0]).all()
    assert (values[2] >= values[1]).all()
    assert (values[2] > values[0]).any()


# Continuous victims


def bend(obs):
    return torch.tanh(obs @ torch.tensor([[1.0, -0.5], [0.5, 2.0]]))


def test_mse_needs_a_start_off_the_clean_point():
    ball = LinfBall(epsilon=0.1)
    with pytest.raises(ValueError, match=r"PGD\.loss must be able to move .* random_start=True"):
        PGD(ball=ball, loss="mse")
    with pytest.raises(ValueError, match=r"PGD\.loss must be able to move"):
        PGD.fgsm(ball)(FunctionVictim(bend, continuous=True).at(), torch.zeros(1, 2))


def test_mse_with_random_start_moves_the_mean():
    view, obs = FunctionVictim(bend, continuous=True).at(), normal(32, 2)
    ball = LinfBall(epsilon=0.3)

    found = PGD(ball=ball, random_start=True)(view, obs, draws(32))
    noise = ball.sample(obs, draws(32))
    assert (view.mean(found) - view.mean(obs)).square().mean() > 1.5 * (
        view.mean(noise) - view.mean(obs)
    ).square().mean()


def test_targeted_mean_gradient_on_a_linear_victim():
    """sign(J^T (a - mu)), from the clean point, without random start."""
    weight = normal(2, 3, dtype=torch.float64)
    view = FunctionVictim(lambda obs: obs @ weight.T, continuous=True).at()
    obs, goal = normal(8, 3, seed=1, dtype=torch.float64), torch.tensor([0.5, -0.25]).double()

    found = PGD.fgsm(LinfBall(epsilon=0.1), target=(0.5, -0.25))(view, obs)
    torch.testing.assert_close(found, obs + 0.1 * ((goal - obs @ weight.T) @ weight).sign())


def test_critic_moves_from_the_clean_point_and_lowers_the_value():
    view, obs = FunctionVictim(bend, continuous=True).at(), normal(32, 2)

    def critic(view, clean, action):
        return -(action - 0.1).square().sum(-1)

    found = PGD.fgsm(LinfBall(epsilon=0.05), loss=critic)(view, obs)
    assert (critic(view, obs, view.mean(found)) < critic(view, obs, view.mean(obs))).all()


# Targets that are the victim's own action


def test_own_targets_are_reinforced_unless_told_to_be_left_clean():
    """Target y itself: plain PGD makes it surer, ``clean_if_own`` shows the truth."""
    victim = linear([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    obs = torch.tensor([[0.3, 0.1], [0.1, 0.3]], dtype=torch.float64)  # y = 0, 1
    plain = PGD.fgsm(LinfBall(epsilon=0.2), loss="margin", target=0)
    stor = dataclasses.replace(plain, clean_if_own=True)

    surer = obs + torch.tensor([[0.2, -0.2], [0.2, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(plain(victim.at(), obs), surer)
    found = stor(victim.at(), obs)
    assert torch.equal(found[0], obs[0])
    torch.testing.assert_close(found[1], surer[1])


@pytest.mark.parametrize("settings_", [{"random_start": True, "restarts": 2}, {"loss": "margin"}])
def test_own_targets_stay_clean_from_any_start_and_rules_are_asked_once(settings_):
    view, obs, asked = FunctionVictim(mlp()).at(), normal(16, 6), []

    def every_other(view, obs):
        asked.append(len(obs))
        own = view.logits(obs).argmax(-1)
        return torch.where(torch.arange(len(obs)) % 2 == 0, own, (own + 1) % 4)

    attack = PGD(ball=LinfBall(epsilon=0.3), target=every_other, clean_if_own=True, **settings_)
    found = attack(view, obs, draws(16))
    assert torch.equal(found[::2], obs[::2])
    assert (found[1::2] != obs[1::2]).any(-1).all()
    assert asked == [16]


def test_clean_if_own_needs_target_actions():
    ball = LinfBall(epsilon=0.1)
    text = r"PGD\.clean_if_own must be False where there is no target action, got True\."
    with pytest.raises(ValueError, match=text):
        PGD(ball=ball, clean_if_own=True)
    with pytest.raises(ValueError, match=text):
        PGD(ball=ball, clean_if_own=True, loss="mse", target=(1.0, 0.0))
    for loss in (FunctionLoss(lambda z: z[:, 0]), CrossEntropy()):
        with pytest.raises(ValueError, match=text):
            PGD(ball=ball, clean_if_own=True, loss=loss)(FunctionVictim(bend).at(), normal(2, 2))


# Losses of one's own


def entropy(logits):
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def test_own_losses_in_all_three_forms():
    view, obs, ball = FunctionVictim(mlp()).at(), normal(32, 6), LinfBall(epsilon=0.3)
    instance = PGD(ball=ball, loss=FunctionLoss(entropy))(view, obs)
    factory = PGD(ball=ball, loss=lambda view, obs: FunctionLoss(entropy))(view, obs)

    class Entropy(FunctionLoss):
        def __init__(self, view, obs):
            super().__init__(entropy)

    assert torch.equal(factory, instance)
    assert torch.equal(PGD(ball=ball, loss=Entropy)(view, obs), instance)
    assert (entropy(view.logits(instance)) > entropy(view.logits(obs))).float().mean() > 0.9


def test_own_losses_on_continuous_victims():
    view, obs = FunctionVictim(bend, continuous=True).at(), normal(16, 2)
    loss = FunctionLoss(lambda mean: mean[:, 0])

    found = PGD(ball=LinfBall(epsilon=0.1), loss=loss)(view, obs)
    torch.testing.assert_close(found, obs + torch.tensor([0.1, 0.1]) * torch.tensor([1.0, 1.0]))


def test_an_own_loss_that_remembers_begins_anew_in_each_call():
    view, ball = FunctionVictim(mlp()).at(), LinfBall(epsilon=0.3)
    attack = PGD(ball=ball, loss=CrossEntropy())

    for seed, rows in ((0, 8), (1, 8), (2, 5)):
        obs = normal(rows, 6, seed=seed)
        assert torch.equal(attack(view, obs), PGD(ball=ball)(view, obs))


def test_own_losses_keep_restarts_apart_by_row():
    view, obs = FunctionVictim(mlp()).at(), normal(8, 6)
    loss = FunctionLoss(lambda z: z.sum(-1, keepdim=True))

    text = r"FunctionLoss\.function must be one loss per row, of shape \(8,\), got \(8, 1\)\."
    with pytest.raises(ValueError, match=text):
        PGD(ball=LinfBall(epsilon=0.1), loss=loss)(view, obs)


# Hooks


def test_hooks_are_asked_in_order_and_told_where_the_walk_is():
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halving(GradientAttack):
        def start(self, view, obs, draws):
            return obs + 0.25

        def direction(self, walk):
            seen.append((walk.iteration, walk.found[0, 0].item()))
            assert torch.equal(walk.clean, obs)
            return torch.ones_like(walk.found)

        def step_length(self, walk):
            length = walk.memory.get("length", 2.0 * torch.tensor(walk.length)) / 2
            walk.memory["length"] = length
            return length

    obs = torch.zeros(2, 3)
    attack = Halving(ball=LinfBall(epsilon=1.0), steps=3, step_size=0.25)
    found = attack(FunctionVictim(lambda x: x).at(), obs)
    assert found.unique().item() == 0.25 + 0.25 + 0.125 + 0.0625
    assert seen == [(0, 0.25), (1, 0.5), (2, 0.625)]
    assert attack.with_epsilon(0.5)(FunctionVictim(lambda x: x).at(), obs).unique().item() == 0.5


def test_a_start_at_the_clean_observation_is_not_written_to():
    class Still(GradientAttack):
        def start(self, view, obs, draws):
            return obs

    obs = normal(4, 6)
    given_ = obs.clone()
    Still(ball=LinfBall(epsilon=0.1))(FunctionVictim(mlp()).at(), given_)
    assert torch.equal(given_, obs)


# Hand-derived gradients


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [CrossEntropy, Margin])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_plain_mlp_gradient_is_autograds(activation, kind, masked):
    network = mlp(activation=activation, dtype=torch.float64)
    obs = normal(32, 6, dtype=torch.float64)
    mask = normal(32, 4, seed=5) > -0.5
    mask[:, 0] = True
    mask = mask if masked else None
    plain = FunctionVictim(network).at(Rows(mask=mask))
    auto = FunctionVictim(lambda x: network(x)).at(Rows(mask=mask))
    loss = kind(plain.logits(obs).argmax(-1))

    ours = plain.input_gradient(obs, loss)
    torch.testing.assert_close(ours, auto.input_gradient(obs, loss))
    x = obs.clone().requires_grad_()
    (reference,) = torch.autograd.grad(loss(auto.logits(x)).sum(), x)
    size = reference.norm(dim=-1, keepdim=True)
    alone = size[:, 0] == 0
    torch.testing.assert_close(
        (ours / ours.norm(dim=-1, keepdim=True))[~alone], (reference / size)[~alone]
    )
    assert (ours[alone] == 0).all()


@pytest.mark.parametrize("recurrent", [False, True])
def test_ids_and_last_actions_enter_the_gradient(recurrent):
    torch.manual_seed(0)
    network = AgentNetwork(5, 3, 4, hidden=(8, 8), last_action=True, recurrent=recurrent).double()
    victim = NetworkVictim(network, continuous=False)
    obs, agents = normal(9, 5, dtype=torch.float64), torch.arange(9) % 3
    last, hidden = torch.arange(9) % 5 - 1, normal(9, 8, seed=2, dtype=torch.float64)
    view = victim.at(Rows(hidden=hidden if recurrent else None, last_act=last, agents=agents))
    loss = Margin(view.logits(obs).argmax(-1))
    x = obs.clone().requires_grad_()
    (reference,) = torch.autograd.grad(loss(view.logits(x)).sum(), x)

    torch.testing.assert_close(view.input_gradient(obs, loss), reference)
    if recurrent:
        assert victim.at(Rows(agents=agents)).advance(obs).shape == (9, 8)


# Other libraries


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("steps", [1, 10])
def test_equals_foolbox(steps, activation):
    network, obs, epsilon = mlp(activation=activation).eval(), normal(64, 6), 0.2
    size = epsilon if steps == 1 else 0.03
    theirs = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=size, steps=steps, random_start=False
    )
    model = foolbox.PyTorchModel(network, bounds=(-20, 20), device="cpu")
    labels = network(obs).argmax(-1)
    reference = theirs.run(model, eagerpy.astensor(obs), eagerpy.astensor(labels), epsilon=epsilon)

    ball = LinfBall(epsilon=epsilon)
    attack = PGD.fgsm(ball) if steps == 1 else PGD(ball=ball, steps=steps, step_size=size)
    torch.testing.assert_close(
        attack(FunctionVictim(network).at(), obs), reference.raw, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("steps", [1, 10])
def test_equals_torchattacks(steps):
    network = mlp().eval()
    obs = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    labels = network(obs).argmax(-1)
    if steps == 1:
        theirs = torchattacks.FGSM(network, eps=0.2)
    else:
        theirs = torchattacks.PGD(network, eps=0.2, alpha=0.03, steps=steps, random_start=False)
    ball = LinfBall(epsilon=0.2, low=0.0, high=1.0)
    attack = PGD.fgsm(ball) if steps == 1 else PGD(ball=ball, steps=steps, step_size=0.03)

    found = attack(FunctionVictim(network).at(), obs)
    torch.testing.assert_close(found, theirs(obs, labels), rtol=0, atol=1e-6)


# Budgets and manners


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(["float32", "float64"]))
    values = st.floats(-8, 8, width=32)
    obs = draw(arrays(dtype, (3, 6), elements=values))
    radius = st.floats(0, 3)
    epsilon = draw(radius | st.tuples(*[radius] * 6))
    fixed = draw(st.none() | st.tuples(*[st.booleans()] * 6))
    bounded = draw(st.booleans())  # clean values outside [-2, 2] stay legal
    ball = LinfBall(
        epsilon=epsilon,
        low=-2.0 if bounded else -np.inf,
        high=2.0 if bounded else np.inf,
        fixed=fixed,
    )
    settings_ = {
        "steps": draw(st.integers(1, 4)),
        "random_start": draw(st.booleans()),
        "restarts": draw(st.integers(1, 2)),
        "step_size": draw(st.none() | st.floats(0.01, 10)),
        "loss": draw(st.sampled_from(["cross_entropy", "margin"])),
    }
    return torch.from_numpy(obs), PGD(ball=ball, **settings_)


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_stays_in_the_ball_and_in_range(case):
    obs, attack = case
    network = mlp(dtype=obs.dtype)
    found = attack(FunctionVictim(network).at(), obs, draws(3))
    ball = attack.ball
    epsilon = torch.tensor(ball.epsilon, dtype=torch.float64).expand(6).clone()
    if ball.fixed is not None:
        epsilon[torch.tensor(ball.fixed)] = 0.0
    rounding = torch.finfo(obs.dtype).eps * 16

    change = (found.double() - obs.double()).abs()
    assert (change <= epsilon * (1 + rounding) + rounding).all()
    assert torch.equal(found[:, epsilon == 0], obs[:, epsilon == 0])
    assert (found >= torch.minimum(obs, torch.tensor(ball.low))).all()
    assert (found <= torch.maximum(obs, torch.tensor(ball.high))).all()
    assert found.dtype == obs.dtype


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"loss": "margin"},
        {"random_start": True, "restarts": 2},
        {"target": 1},
        {"steps": 1},
    ],
)
def test_contract(settings_):
    check_attack(lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon), **settings_))


def test_contract_on_other_victims():
    def attack(epsilon):
        return PGD(ball=LinfBall(epsilon=epsilon), steps=3)

    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))
    check_attack(attack, victim=FunctionVictim(normed))
    check_attack(
        lambda epsilon: PGD(ball=LinfBall(epsilon=epsilon), **CONTINUOUS),
        victim=FunctionVictim(mlp(), continuous=True),
    )
    network = AgentNetwork(6, 3, 4, recurrent=True)
    check_attack(attack, victim=NetworkVictim(network, continuous=False))


def test_zero_budget_asks_nobody():
    obs = normal(3, 2)

    def victim(obs):
        raise AssertionError("asked")

    for ball in (LinfBall(epsilon=0.0), LinfBall(epsilon=1.0, fixed=(True, True))):
        assert torch.equal(PGD(ball=ball)(FunctionVictim(victim).at(), obs), obs)


def test_no_rows_are_no_error():
    assert (
        PGD(ball=LinfBall(epsilon=1.0))(FunctionVictim(mlp()).at(), torch.zeros(0, 6)).numel() == 0
    )


def test_existing_gradients_survive():
    network = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    network(normal(2, 6)).sum().backward()
    before = [p.grad.clone() for p in network.parameters()]
    with torch.no_grad():
        PGD(ball=LinfBall(epsilon=0.1))(FunctionVictim(network).at(), normal(4, 6))

    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), before, strict=True))


def test_at_rescales_and_keeps_the_rest():
    attack = PGD.fgsm(LinfBall(epsilon=0.1, low=-1.0), loss="margin").with_epsilon(0.3)

    assert attack == PGD.fgsm(LinfBall(epsilon=0.3, low=-1.0), loss="margin")
    assert hash(attack) == hash(PGD.fgsm(LinfBall(epsilon=0.3, low=-1.0), loss="margin"))
    assert PGD(ball=LinfBall(epsilon=0.1), step_size=0.01).with_epsilon(0.5).step_size == 0.01


def test_a_gradient_that_is_not_finite_is_an_error():
    view = FunctionVictim(lambda obs: (obs - obs).sqrt() * obs).at()
    with pytest.raises(ValueError, match="gradient must be finite"):
        PGD(ball=LinfBall(epsilon=0.1))(view, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("settings_", "error", "text"),
    [
        ({"steps": 0}, ValueError, r"PGD\.steps must be an int >= 1, got 0\."),
        ({"steps": 1.5}, TypeError, r"PGD\.steps must be an int >= 1, got 1\.5\."),
        ({"restarts": 0}, ValueError, r"PGD\.restarts must be an int >= 1"),
        ({"step_size": 0.0}, ValueError, r"PGD\.step_size must be a number > 0"),
        ({"step_size": float("inf")}, ValueError, r"PGD\.step_size must be finite in float32"),
        ({"step_size": (0.1, 1e300)}, ValueError, r"PGD\.step_size must be finite in float32"),
        ({"step_size": "big"}, TypeError, r"PGD\.step_size must be a number > 0"),
        ({"loss": "hinge"}, ValueError, r"PGD\.loss must be None, one of"),
        ({"target": -1}, ValueError, r"PGD\.target must be an int >= 0, got -1\."),
        ({"target": 1.5}, TypeError, r"PGD\.target must be an action's index, a tuple of floats"),
        ({"target": "1"}, TypeError, r"PGD\.target must be an action's index, a tuple of"),
        ({"loss": abs, "target": 1}, ValueError, r"PGD\.target must be None where"),
        ({"loss": abs}, ValueError, r"PGD\.loss must be an OutputLoss, or a function of \(view"),
        ({"loss": CrossEntropy}, ValueError, r"PGD\.loss must be an OutputLoss, or a function"),
        ({"ball": 0.1}, TypeError, r"PGD\.ball must be a LinfBall, got 0\.1"),
    ],
)
def test_rejects(settings_, error, text):
    with pytest.raises(error, match=text):
        PGD(**{"ball": LinfBall(epsilon=0.1), **settings_})


def test_rejects_losses_of_the_other_kind_of_victim():
    ball, obs = LinfBall(epsilon=0.1), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="for a discrete victim"):
        PGD(ball=ball, loss="mse", random_start=True)(FunctionVictim(bend).at(), obs)
    with pytest.raises(ValueError, match="for a continuous victim"):
        PGD(ball=ball, loss="margin")(FunctionVictim(bend, continuous=True).at(), obs)
    with pytest.raises(ValueError, match="no critic for a discrete victim"):
        PGD(ball=ball, loss=lambda view, obs, act: act)(FunctionVictim(bend).at(), obs)


@pytest.mark.parametrize(
    ("continuous", "target", "text"),
    [
        (True, 1, r"PGD\.target must be a vector, or a rule that returns rows"),
        (True, (0.5,), r"SquaredError\.target must be of the output's shape, \(4, 4\)"),
        (True, lambda view, obs: obs[:, 0], r"SquaredError\.target must be of the output's shape"),
        (False, (0.0, 1.0, 0.0, 0.0), r"PGD\.target must be an action's index for each row"),
        (False, lambda view, obs: 1, r"PGD\.target must be an action's index for each row"),
        (False, lambda view, obs: view.logits(obs).argmin(-1, keepdim=True), r"index for each row"),
    ],
)
def test_rejects_targets_that_broadcasting_would_take(continuous, target, text):
    """As many rows as actions: (4,) and (4, 4) would be subtracted from one another."""
    view = FunctionVictim(mlp(), continuous=continuous).at()
    with pytest.raises(ValueError, match=text):
        PGD(ball=LinfBall(epsilon=0.1), target=target)(view, normal(4, 6))


def test_rejects_functions_that_make_no_loss():
    view, attack = linear([[1.0]]).at(), PGD(ball=LinfBall(epsilon=0.1), loss=lambda view, obs: obs)
    with pytest.raises(TypeError, match=r"PGD\.loss must make an OutputLoss, got Tensor"):
        attack(view, normal(2, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromCorner(PGD):
    """Begins far from the clean observation, without chance."""

    def start(self, view, obs, draws):
        return obs + 0.9


@pytest.mark.parametrize("loss", [None, "margin", CrossEntropy(), Margin()])
@pytest.mark.parametrize("kind", [PGD, FromCorner])
def test_the_label_is_the_clean_greedy_action_from_any_start(kind, loss):
    view, obs, shown = FunctionVictim(mlp()).at(), normal(256, 6), []
    attack = kind(ball=LinfBall(epsilon=1.0), loss=loss, random_start=kind is PGD)
    made = attack.output_loss

    def kept(view, obs):
        shown.append(made(view, obs))
        return shown[-1]

    object.__setattr__(attack, "output_loss", kept)
    attack(view, obs, draws(256))
    assert torch.equal(shown[0].label, view.logits(obs).argmax(-1))
    assert loss is None or isinstance(loss, str) or loss.label is None  # its own is left alone
