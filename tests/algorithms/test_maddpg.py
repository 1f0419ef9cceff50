"""MADDPG and M3DDPG: exact losses, targets and shifts, then a game that they learn."""

import copy
import functools

import pytest
import torch
from learners import (
    MEMORY,
    Arena,
    Recorded,
    collected,
    copy_batch,
    same_weights,
    sgd,
    stepped,
    update,
)
from torch.nn import functional as F

from robustmarl import training
from robustmarl._seeding import Draws
from robustmarl.adversaries import ByzantineAttacker
from robustmarl.algorithms import M3DDPG, MADDPG
from robustmarl.algorithms.action_gradients import gumbel_softmax
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import MatrixGame, ToyGame, climbing
from robustmarl.joint import MASKED
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.policies import DeterministicPolicy
from robustmarl.schedules import Linear
from robustmarl.testing import check_algorithm
from robustmarl.victims import Rows

BOTH = (MADDPG, M3DDPG)
VARIANTS = {
    "mlp": {},
    "gru-last": {"recurrent": True, "last_action": True},
    "separate": {"shared": False},
    "separate-gru": {"shared": False, "recurrent": True, "last_action": True},
    "n-step-seen": {"n_step": 3, "critic_input": "seen", "layer_norm": True},
}


def build(cls=MADDPG, env=None, **settings):
    settings = {"hidden": (8, 8), "optim": sgd(), "critic_optim": sgd(0.05)} | settings
    settings = {"max_grad_norm": None} | settings
    return cls.for_env(Arena() if env is None else env, **settings)


def boxes(**settings):
    return Arena(continuous=True, **settings)


def everything(algorithm, make_env=Arena):
    buffer = collected(algorithm, 12, make_env=make_env)
    return buffer.get_episodes(buffer.sample_indices(0))


def shake(module, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


class LinearCritic(torch.nn.Module):
    """Q = sum_j w_j . a_j, whatever the state."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.as_tensor(weight))

    def forward(self, state, act):
        return (self.weight * act).sum((-1, -2))


# -- contract -----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_contract(cls, continuous, variant):
    make = functools.partial(cls.for_env, hidden=(8,), **VARIANTS[variant])
    check_algorithm(make, boxes if continuous else Arena, env_steps=40)


@pytest.mark.parametrize("cls", BOTH)
def test_states_per_agent(cls):
    make = functools.partial(cls.for_env, hidden=(8,))
    check_algorithm(make, lambda: ToyGame(horizon=5), env_steps=20)


def test_a_loss_term_joins_the_actors_step():
    robust = type("Robust", (ActionLossRegularizer, M3DDPG), {})
    term = ActionLoss(attack=PGD(ball=LinfBall(epsilon=0.1), steps=2), weight=1.0, max_rows=8)
    make = functools.partial(robust.for_env, action_loss=term, hidden=(8,))
    check_algorithm(make, Arena, env_steps=40)


# -- Gumbel-softmax -----------------------------------------------------------------------


def test_gumbel_samples_follow_the_softmax_and_masks():
    logits = torch.tensor([0.0, 1.0, MASKED, -1.0])
    sample = gumbel_softmax(logits.expand(40_000, 4), 0.7, torch.Generator().manual_seed(0))
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(sample.sum(-1), torch.ones(40_000))
    assert float(sample[:, 2].sum()) == 0.0
    torch.testing.assert_close(sample.mean(0), torch.softmax(logits, -1), rtol=0, atol=0.01)


def test_gumbel_gradient_is_that_of_the_soft_sample():
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    weight = torch.arange(20.0, dtype=torch.float64).view(5, 4)
    hard = gumbel_softmax(logits, 0.5, torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((hard * weight).sum(), logits)
    uniform = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    soft = torch.softmax((logits - (-uniform.log()).log()) / 0.5, dim=-1)
    (expected,) = torch.autograd.grad((soft * weight).sum(), logits)

    torch.testing.assert_close(found, expected)
    assert torch.equal(hard.argmax(-1), soft.argmax(-1))


# -- targets ------------------------------------------------------------------------------


def hand_target(algorithm, batch, answers, b, t):
    """Return MADDPG's target of step ``t`` of episode ``b``, reward by reward."""
    critic = algorithm._target.module[1]
    length = int(batch.valid[b].sum())
    last = min(t + algorithm.n_step, length)
    total = sum(algorithm.gamma ** (k - t) * batch.rew[b, k] for k in range(t, last))
    if last == length and bool(batch.terminated[b, length - 1]):
        return total
    output = answers[b, last]
    if algorithm.spec.continuous:
        act = output * batch.obs.alive[b, last].unsqueeze(-1)
    else:
        best = output.masked_fill(~batch.obs.mask[b, last], MASKED).argmax(-1)
        act = F.one_hot(best, output.shape[-1]).float()
    value = critic(batch.obs.state[b, last], act)
    return total + algorithm.gamma ** (last - t) * value


@pytest.mark.parametrize("n_step", [1, 2, 9])
@pytest.mark.parametrize("make_env", [Arena, boxes])
@pytest.mark.parametrize("memory", [{}, MEMORY])
def test_n_step_targets_by_hand(n_step, make_env, memory):
    algorithm = build(env=make_env(), n_step=n_step, gamma=0.8, **memory)
    shake(algorithm._target.module)
    batch = everything(algorithm, make_env)
    ends = batch.terminated.any(1)
    assert bool(ends.any())
    assert not bool(ends.all())
    found = algorithm.targets(batch)
    assert found.shape == (*batch.valid.shape, 1)
    with torch.no_grad():
        answers = stepped(algorithm._target.module[0], batch)
        for b, t in batch.valid.nonzero().tolist():
            expected = hand_target(algorithm, batch, answers, b, t)
            torch.testing.assert_close(
                found[b, t, 0], torch.as_tensor(expected), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("cls", BOTH)
def test_polyak(cls):
    algorithm = build(cls, tau=0.25)
    shake(algorithm._target.module)
    before = [p.clone() for p in algorithm._target.module.parameters()]
    update(algorithm, collected(algorithm))
    online = [*algorithm.policy.network.parameters(), *algorithm.critic.parameters()]
    now = list(algorithm._target.module.parameters())
    for old, new, source in zip(before, now, online, strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * source)
        assert not new.requires_grad or new.grad is None


# -- one update ---------------------------------------------------------------------------


def hand_losses(algorithm, batch, network, critic, noise):
    """Return the losses of critic and actor, agent by agent; ``critic`` has made its step."""
    valid, n = batch.valid, algorithm.spec.num_agents
    output = stepped(network, batch)[:, :-1][valid]
    mask, alive = batch.obs.mask[:, :-1][valid], batch.obs.alive[:, :-1][valid]
    state, act = batch.obs.state[:, :-1][valid], batch.act[valid]
    if algorithm.spec.continuous:
        own, taken = output, act * alive.unsqueeze(-1)
    else:
        own = gumbel_softmax(output.masked_fill(~mask, MASKED), algorithm.temperature, noise)
        taken = F.one_hot(act, output.shape[-1]).float()
    total, epsilon = 0.0, getattr(algorithm, "epsilon", 0.0)
    for i in range(n):
        parts = [own[:, j] if j == i else taken[:, j] for j in range(n)]
        if epsilon > 0.0:
            point = torch.stack(parts, 1).detach().requires_grad_()
            (g,) = torch.autograd.grad(critic(state, point).sum(), point)
            for j in range(n):
                if j != i:
                    unit = g[:, j] / g[:, j].norm(dim=-1, keepdim=True).clamp(min=1e-12)
                    parts[j] = parts[j] - epsilon * unit * alive[:, j : j + 1]
        total = total - critic(state, torch.stack(parts, 1))[alive[:, i]].sum()
    counted = alive.unsqueeze(-1).expand_as(output)
    if not algorithm.spec.continuous:
        counted = counted & mask
    return total / alive.sum() + algorithm.output_coef * output[counted].square().mean()


@pytest.mark.parametrize("make_env", [Arena, boxes])
@pytest.mark.parametrize(
    ("cls", "more"), [(MADDPG, {}), (MADDPG, MEMORY), (M3DDPG, {"epsilon": 0.5})]
)
def test_one_update_is_one_sgd_step_on_each_written_loss(cls, more, make_env):
    algorithm = build(cls, make_env(), output_coef=0.1, temperature=0.6, **more)
    shake(algorithm._target.module)
    shake(algorithm.policy.network, 2)
    batch = everything(algorithm, make_env)
    assert not bool(batch.obs.alive[:, :-1][batch.valid].all())
    network, critic = copy.deepcopy(algorithm.policy.network), copy.deepcopy(algorithm.critic)
    valid = batch.valid
    act = batch.act[valid]
    alive = batch.obs.alive[:, :-1][valid]
    taken = act * alive.unsqueeze(-1) if algorithm.spec.continuous else F.one_hot(act, 4).float()
    value = critic(batch.obs.state[:, :-1][valid], taken)
    loss = (value.unsqueeze(-1) - algorithm.targets(batch)[valid]).square().mean()
    loss.backward()
    with torch.no_grad():
        for p in critic.parameters():
            p -= 0.05 * p.grad
    noise = algorithm._noise()
    stats = update(algorithm, Recorded(batch))
    policy_loss = hand_losses(algorithm, batch, network, critic, noise)
    policy_loss.backward()

    assert stats.metrics["critic_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert stats.metrics["policy_loss"] == pytest.approx(policy_loss.item(), rel=1e-4)
    for expected, found in zip(critic.parameters(), algorithm.critic.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for p, found in zip(network.parameters(), algorithm.policy.network.parameters(), strict=True):
        torch.testing.assert_close(found, p - 0.1 * p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("variant", [{}, MEMORY])
def test_padding_does_not_matter(cls, variant):
    one, other = (build(cls, n_step=2, **variant) for _ in range(2))
    batch = everything(one)
    dirty = copy_batch(batch)
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        for key in ("obs", "seen", "state"):
            dirty.flat()[f"obs.{key}"][b, length + 1 :] = 77.0
        dirty.obs.mask[b, length + 1 :] = True
        dirty.obs.alive[b, length + 1 :] = True
        dirty.rew[b, length:] = 1e4
        dirty.act[b, length:] = 3
        dirty.terminated[b, length:] = True
    update(one, Recorded(batch))
    update(other, Recorded(dirty))
    assert same_weights(one, other)


# -- M3DDPG -------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [Arena, boxes])
def test_epsilon_zero_is_maddpg_bit_for_bit(make_env):
    one, other = build(MADDPG, make_env()), build(M3DDPG, make_env(), epsilon=0.0)
    batch = everything(one, make_env)
    for _ in range(3):
        first, second = update(one, Recorded(batch)), update(other, Recorded(batch))
        assert first.metrics == second.metrics
    assert same_weights(one, other)
    update(moved := build(M3DDPG, make_env(), epsilon=0.5), Recorded(batch))
    update(still := build(MADDPG, make_env()), Recorded(batch))
    assert not same_weights(moved, still)


def test_the_shift_against_a_linear_critic_in_closed_form():
    weight = torch.tensor([[3.0, 4.0], [0.0, -2.0], [5.0, 12.0]])
    unit = torch.tensor([[0.6, 0.8], [0.0, -1.0], [5 / 13, 12 / 13]])
    algorithm = build(M3DDPG, epsilon=0.5)
    joint = torch.zeros(1, 1, 3, 2)
    alive = torch.tensor([[True, True, False]])
    state = torch.zeros(1, 5)
    found = algorithm.facing(LinearCritic(weight), state, joint, alive)[0]
    for i in range(3):
        for j in range(3):
            moves = j != i and bool(alive[0, j])
            expected = -0.5 * unit[j] if moves else torch.zeros(2)
            torch.testing.assert_close(found[i, j], expected)
    lost = LinearCritic(weight)(state, joint[:, 0]) - LinearCritic(weight)(state, found)
    torch.testing.assert_close(lost, torch.tensor([0.5 * 2.0, 0.5 * 5.0, 0.5 * (5.0 + 2.0)]))


def test_no_gradient_no_shift():
    algorithm = build(M3DDPG, epsilon=0.5)
    joint = torch.rand(4, 3, 3, 2)
    alive = torch.ones(4, 3, dtype=torch.bool)
    found = algorithm.facing(LinearCritic(torch.zeros(3, 2)), torch.zeros(4, 5), joint, alive)
    assert torch.equal(found, joint)


def test_targets_of_m3ddpg_are_those_of_n_pessimists():
    algorithm, plain = build(M3DDPG, epsilon=0.3), build(MADDPG)
    for one in (algorithm, plain):
        with torch.no_grad():
            module = one._target.module
            module[1] = LinearCritic(torch.tensor([[3.0, 4.0, 0.0, 0.0]] * 3))
    batch = everything(algorithm)
    found, clean = algorithm.targets(batch), plain.targets(batch)
    goes_on = algorithm.gamma * (1.0 - batch.terminated.float())
    alive = batch.obs.alive[:, 1:].float()
    others = alive.sum(-1, keepdim=True) - alive
    expected = clean - 0.3 * 5.0 * goes_on.unsqueeze(-1) * others
    torch.testing.assert_close(found[batch.valid], expected[batch.valid])


# -- acting -------------------------------------------------------------------------------


def test_a_discrete_team_acts_by_its_softmax_or_greedily():
    logits = torch.tensor([0.0, 1.0, MASKED, 2.0]).expand(20_000, 3, 4)
    mask, draws = logits > MASKED, Draws(torch.arange(20_000))
    softmax = torch.softmax(logits[0, 0], -1)
    mixed = 0.9 * softmax + 0.1 * mask[0, 0] / 3
    for training_step, expected in ((False, softmax), (True, mixed)):
        act, _ = build().policy.select(logits, mask, draws, training_step)
        shares = torch.bincount(act.flatten(), minlength=4) / act.numel()
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.006)
    greedy = build(deterministic_eval=True).policy
    assert bool((greedy.select(logits, mask, draws, False)[0] == 3).all())
    assert not bool((greedy.select(logits, mask, draws, True)[0] == 3).all())


def test_a_continuous_team_explores_inside_the_box_in_training_only():
    policy = build(env=boxes(), exploration=Linear(0.5, 0.0, over=10, unit="env_steps")).policy
    assert isinstance(policy, DeterministicPolicy)
    mean = torch.full((20_000, 3, 2), 0.2)
    mask, draws = torch.ones_like(mean, dtype=torch.bool), Draws(torch.arange(20_000))
    act, logp = policy.select(mean, mask, draws, training=True)
    assert logp is None
    assert float(act.max()) == 1.0
    assert float(act.min()) == -1.0
    inside = act.abs() < 1.0
    normal = torch.distributions.Normal(0.2, 0.5)
    share = normal.cdf(torch.tensor(1.0)) - normal.cdf(torch.tensor(-1.0))
    assert float(inside.float().mean()) == pytest.approx(float(share), abs=0.01)
    assert torch.equal(policy.select(mean, mask, draws, training=False)[0], mean)
    policy.count("env_steps", 10)
    assert torch.equal(policy.select(mean, mask, draws, training=True)[0], mean)


def test_outputs_of_continuous_actors_are_bounded():
    team = build(env=boxes())
    assert team.policy.network.log_std is None
    shake(team.policy.network)
    network, obs = team.policy.network, 3.0 * torch.arange(15.0).view(5, 3).sin()
    found = team.victim().at(Rows(agents=torch.ones(5, dtype=torch.int64))).mean(obs)
    before = network.rest[:-1](network.first(obs) + network.id_table[1])
    torch.testing.assert_close(found, before.tanh())
    assert float(before.detach().abs().max()) > 1.0


# -- learning -----------------------------------------------------------------------------


FAST = {"hidden": (16,), "optim": adam(1e-2), "critic_optim": adam(1e-2), "tau": 0.1}


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("shared", [True, False])
def test_it_learns_a_matrix_game(cls, shared):
    def make():
        return MatrixGame([[1.0, 0.0], [0.0, 3.0]])

    team = cls.for_env(make(), shared=shared, exploration=0.2, **FAST)
    buffer = collected(team, 128, make_env=make, num_envs=32)
    for _ in range(100):
        update(team, buffer)
    policy = torch.softmax(team.policy.network.unroll(torch.eye(2).view(1, 1, 2, 2), None)[0], -1)
    assert policy[0, 0, :, 1].min() > 0.9


def test_it_learns_continuous_actions():
    """The best joint action is zero, and each agent starts away from it."""
    steps = {"optim": adam(1e-3), "critic_optim": adam(1e-2)}
    team = build(env=boxes(), gamma=0.0, exploration=1.0, tau=0.1, hidden=(32, 32), **steps)
    with torch.no_grad():
        team.policy.network.rest[-2].bias.fill_(0.5)
    buffer = collected(team, 128, make_env=boxes, num_envs=32)
    for _ in range(300):
        update(team, buffer, sample_size=64)
    seen = buffer.get_episodes(buffer.sample_indices(0)).obs.seen
    mean = team.policy.network.unroll(seen, None)[0].detach()
    assert float(mean.square().mean()) < 0.5 * 0.46**2


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("continuous", [False, True])
def test_a_fresh_adversary_attacks_it(cls, continuous):
    make = boxes if continuous else Arena
    team = build(cls, make(), exploration=0.9)
    before = copy.deepcopy(team.state_dict()["policy.network.first.weight"])
    attacker = ByzantineAttacker.against(team, ["unit_0"], hidden=(16,))
    attack = training.AdversarialTraining(team, attacker, team_every=None)
    frozen = [p.clone() for p in attack.policy.parameters()]
    adversary = [p.clone() for p in attacker.policy.parameters()]
    training.run(attack, make, env_steps=60, num_envs=3, log=training.Log(progress=False))
    assert all(torch.equal(a, b) for a, b in zip(frozen, attack.policy.parameters(), strict=True))
    moved = zip(adversary, attacker.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    assert torch.equal(before, team.policy.network.first.weight)
    assert team.policy.exploration(0) == 0.9


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"gamma": 1.5}, ValueError, r"M3DDPG\.gamma must be a number in \[0, 1\], got 1\.5\."),
        ({"n_step": 0}, ValueError, r"M3DDPG\.n_step must be an int >= 1, got 0\."),
        ({"tau": 0.0}, ValueError, r"M3DDPG\.tau must be a number in \(0, 1\], got 0\.0\."),
        ({"temperature": 0.0}, ValueError, r"M3DDPG\.temperature must be a number > 0, got 0\.0"),
        ({"output_coef": -1.0}, ValueError, r"M3DDPG\.output_coef must be a number >= 0"),
        ({"max_grad_norm": 0.0}, ValueError, r"M3DDPG\.max_grad_norm must be a number > 0"),
        ({"critic_input": "obs"}, ValueError, r"M3DDPG\.critic_input must be one of"),
        ({"epsilon": -0.1}, ValueError, r"M3DDPG\.epsilon must be a number >= 0, got -0\.1\."),
        ({"epsilon": "small"}, TypeError, r"M3DDPG\.epsilon must be a number >= 0"),
        ({"critic_hidden": ()}, ValueError, r"\.critic_hidden must be at least one width"),
        ({"learning_rate": 1.0}, TypeError, r"learning_rate"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        build(M3DDPG, climbing(), **settings)
