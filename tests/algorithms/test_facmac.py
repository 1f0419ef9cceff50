"""FACMAC: its mixture and its two losses by hand, what its gradient depends on, games."""

import copy
import functools
from types import SimpleNamespace

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

from robustmarl._seeding import Draws
from robustmarl.algorithms import FACMAC, MADDPG
from robustmarl.algorithms.action_gradients import gumbel_softmax
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import MatrixGame, ToyGame, climbing, predator_prey
from robustmarl.joint import MASKED
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer, PolicyLoss, PolicyRegularizer
from robustmarl.networks import FactoredCritic, QMIXMixer
from robustmarl.testing import check_algorithm

VARIANTS = {
    "mlp": {},
    "gru-last": MEMORY,
    "separate-gru": {"shared": False, "recurrent": True},
    "n-step": {"n_step": 3, "layer_norm": True, "embed": 4, "hyper_hidden": 4},
    "raw states": {"normalize_state": False, "init_gain": 1.0},
}


def build(env=None, **settings):
    settings = {"hidden": (8, 8), "optim": sgd(), "critic_optim": sgd(0.05)} | settings
    return FACMAC.for_env(Arena() if env is None else env, **{"max_grad_norm": None} | settings)


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


# -- contract -----------------------------------------------------------------------------


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_contract(continuous, variant):
    make = functools.partial(FACMAC.for_env, hidden=(8,), **VARIANTS[variant])
    check_algorithm(make, boxes if continuous else Arena, env_steps=40)


def test_states_per_agent():
    make = functools.partial(FACMAC.for_env, hidden=(8,))
    check_algorithm(make, lambda: ToyGame(horizon=5), env_steps=20)


def test_loss_terms_join_the_actors_step():
    attack = PGD(ball=LinfBall(epsilon=0.1), steps=2, random_start=True)
    named = {"attack": attack, "weight": 1.0, "max_rows": 8}
    robust = type("Robust", (ActionLossRegularizer, PolicyRegularizer, FACMAC), {})
    terms = {"action_loss": ActionLoss(**named), "policy_loss": PolicyLoss(**named)}
    check_algorithm(functools.partial(robust.for_env, hidden=(8,), **terms), Arena, env_steps=40)
    robust = type("Robust", (PolicyRegularizer, FACMAC), {})
    term = PolicyLoss(form="mse", **named)
    make = functools.partial(robust.for_env, hidden=(8,), policy_loss=term)
    check_algorithm(make, boxes, env_steps=40)


# -- the critic ---------------------------------------------------------------------------


def critic(seed=0):
    torch.manual_seed(seed)
    made = FactoredCritic(4, 3, 2, QMIXMixer(5, 3, embed=4, hyper_hidden=6), hidden=(8, 7))
    shake(made)
    return made


def test_mixing_by_hand():
    made, generator = critic(), torch.Generator().manual_seed(2)
    obs, act = (torch.randn(6, 3, size, generator=generator) for size in (4, 2))
    state = torch.randn(6, 5, generator=generator)
    found = made(torch.cat([obs.flatten(1), state], 1), act)
    q = torch.empty(6, 3)
    for i in range(3):
        hidden = F.linear(obs[:, i], made.of_obs.weight, made.of_obs.bias)
        hidden = hidden + act[:, i] @ made.of_act.weight.T + made.id_table[i]
        hidden = (hidden.relu() @ made.rest[1].weight.T + made.rest[1].bias).relu()
        q[:, i] = (hidden @ made.rest[3].weight.T + made.rest[3].bias)[:, 0]
    torch.testing.assert_close(made.values(obs, act), q)
    mixer, normal = made.mixer, F.layer_norm(state, (5,))
    normal = normal * made.mixer.normalize.weight + made.mixer.normalize.bias
    one, two, v, b1 = mixer.first(normal).split((6, 6, 4, 4), dim=-1)
    w1 = mixer.w1(one.relu()).abs().view(6, 3, 4)
    mixed = F.elu(torch.einsum("bn,bne->be", q, w1) + b1)
    expected = (mixed * mixer.w2(two.relu()).abs()).sum(-1) + mixer.v(v.relu())[:, 0]
    torch.testing.assert_close(found, expected)


def test_several_joint_actions_of_one_state():
    made, generator = critic(), torch.Generator().manual_seed(3)
    reading = torch.randn(6, 17, generator=generator)
    act = torch.randn(6, 4, 3, 2, generator=generator)
    found = made(reading, act)
    assert found.shape == (6, 4)
    for k in range(4):
        torch.testing.assert_close(found[:, k], made(reading, act[:, k]))


def test_the_mixture_is_monotone():
    """G3."""
    for seed in range(5):
        mixer, generator = critic(seed).mixer, torch.Generator().manual_seed(seed)
        q = (3.0 * torch.randn(200, 3, generator=generator)).requires_grad_()
        state = torch.randn(200, 5, generator=generator)
        (gradient,) = torch.autograd.grad(mixer.mix(q, state).sum(), q)
        assert float(gradient.min()) >= 0.0
        assert float(gradient.max()) > 0.0


# -- targets ------------------------------------------------------------------------------


def hand_target(algorithm, batch, answers, b, t):
    """Return the one-step target of step ``t`` of episode ``b``."""
    target = algorithm._target.module[1]
    if bool(batch.terminated[b, t]):
        return batch.rew[b, t]  # G5
    output = answers[b, t + 1]
    if algorithm.spec.continuous:
        act = output * batch.obs.alive[b, t + 1].unsqueeze(-1)
    else:
        best = output.masked_fill(~batch.obs.mask[b, t + 1], MASKED).argmax(-1)
        act = F.one_hot(best, output.shape[-1]).float()
    reading = torch.cat([batch.obs.seen[b, t + 1].flatten(), batch.obs.state[b, t + 1]])
    return batch.rew[b, t] + algorithm.gamma * target(reading, act)


@pytest.mark.parametrize("make_env", [Arena, boxes])
@pytest.mark.parametrize("memory", [{}, MEMORY])
def test_targets_by_hand(make_env, memory):
    algorithm = build(make_env(), gamma=0.8, **memory)
    shake(algorithm._target.module)
    batch = everything(algorithm, make_env)
    assert bool(batch.terminated.any())
    found = algorithm.targets(batch)
    with torch.no_grad():
        answers = stepped(algorithm._target.module[0], batch)
        for b, t in batch.valid.nonzero().tolist():
            expected = torch.as_tensor(hand_target(algorithm, batch, answers, b, t))
            torch.testing.assert_close(found[b, t, 0], expected, rtol=1e-4, atol=1e-5)


def test_targets_follow_slowly():
    """G4: actors, the agents' critics and the mixer."""
    algorithm = build(tau=0.001)
    shake(algorithm._target.module)
    before = [p.clone() for p in algorithm._target.module.parameters()]
    update(algorithm, collected(algorithm))
    online = [*algorithm.policy.network.parameters(), *algorithm.critic.parameters()]
    now = list(algorithm._target.module.parameters())
    assert any(
        p is q for p in algorithm.critic.parameters() for q in algorithm.critic.mixer.parameters()
    )
    for old, new, source in zip(before, now, online, strict=True):
        torch.testing.assert_close(new, 0.999 * old + 0.001 * source)


# -- one update ---------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [Arena, boxes])
@pytest.mark.parametrize("memory", [{}, MEMORY])
def test_one_update_is_one_sgd_step_on_each_written_loss(make_env, memory):
    algorithm = build(make_env(), output_coef=0.1, temperature=0.6, **memory)
    shake(algorithm._target.module)
    shake(algorithm.policy.network, 2)
    shake(algorithm.critic, 3)
    batch = everything(algorithm, make_env)
    network, judge = copy.deepcopy(algorithm.policy.network), copy.deepcopy(algorithm.critic)
    valid, continuous = batch.valid, algorithm.spec.continuous
    act, alive = batch.act[valid], batch.obs.alive[:, :-1][valid]
    assert not bool(alive.all())
    seen, state = (getattr(batch.obs, key)[:, :-1][valid] for key in ("seen", "state"))
    reading = torch.cat([seen.flatten(1), state], 1)
    taken = act * alive.unsqueeze(-1) if continuous else F.one_hot(act, 4).float()
    loss = (judge(reading, taken) - algorithm.targets(batch)[valid][:, 0]).square().mean()
    loss.backward()
    with torch.no_grad():
        for p in judge.parameters():
            p -= 0.05 * p.grad
    noise = algorithm._noise()
    stats = update(algorithm, Recorded(batch))

    output = stepped(network, batch)[:, :-1][valid]
    mask = batch.obs.mask[:, :-1][valid]
    if continuous:
        chosen, counted = output * alive.unsqueeze(-1), alive.unsqueeze(-1).expand_as(output)
    else:
        chosen = gumbel_softmax(output.masked_fill(~mask, MASKED), 0.6, noise)
        counted = mask & alive.unsqueeze(-1)
    policy_loss = -judge(reading, chosen).mean() + 0.1 * output[counted].square().mean()
    policy_loss.backward()
    assert stats.metrics["critic_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert stats.metrics["policy_loss"] == pytest.approx(policy_loss.item(), rel=1e-4)
    for expected, found in zip(judge.parameters(), algorithm.critic.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for p, found in zip(network.parameters(), algorithm.policy.network.parameters(), strict=True):
        torch.testing.assert_close(found, p - 0.1 * p.grad, rtol=1e-4, atol=1e-6)


def gradient_of_first(algorithm, chosen, taken):
    """Return the gradient of the actors' objective in what the first agent chooses."""
    chosen = chosen.clone().requires_grad_()
    alive = torch.ones(chosen.shape[:2], dtype=torch.bool)
    joint, judged = algorithm._judged(chosen, taken, alive)
    reading = algorithm._reading(torch.ones(len(chosen), 3, 3), torch.ones(len(chosen), 5))
    value = algorithm.critic(reading, joint)
    (gradient,) = torch.autograd.grad(value[judged.expand_as(value)].sum(), chosen)
    return gradient[:, 0]


@pytest.mark.parametrize(("cls", "depends"), [(FACMAC, True), (MADDPG, False)])
def test_whether_an_agents_gradient_depends_on_what_others_choose(cls, depends):
    """G2: FACMAC's does; in MADDPG the others do what they did in the buffer."""
    algorithm = cls.for_env(boxes(), hidden=(8, 8))
    shake(algorithm.critic)
    generator = torch.Generator().manual_seed(4)
    chosen, taken = torch.randn(2, 5, 3, 2, generator=generator)
    moved = chosen.clone()
    moved[:, 1:] += 1.0
    one, other = (gradient_of_first(algorithm, acts, taken) for acts in (chosen, moved))
    assert torch.equal(one, other) != depends
    moved = taken.clone()
    moved[:, 1:] += 1.0
    other = gradient_of_first(algorithm, chosen, moved)
    assert torch.equal(one, other) == depends


@pytest.mark.parametrize("cls", [FACMAC, MADDPG])
def test_values_of_several_joint_actions_where_the_dead_do_nothing(cls):
    algorithm, generator = cls.for_env(boxes(), hidden=(8, 8)), torch.Generator().manual_seed(6)
    shake(algorithm.critic)
    seen, state = torch.randn(2, 3, 3, generator=generator), torch.randn(2, 5, generator=generator)
    alive = torch.tensor([[True, True, True], [True, False, True]])
    joint = torch.randn(2, 4, 3, 2, generator=generator)
    found = algorithm.action_values(SimpleNamespace(seen=seen, state=state, alive=alive), joint)
    joint[1, :, 1] = 0.0
    reading = torch.cat([seen.flatten(1), state], 1) if cls is FACMAC else state
    for k in range(4):
        torch.testing.assert_close(found[:, k], algorithm.critic(reading, joint[:, k]))


@pytest.mark.parametrize("variant", [{}, MEMORY])
def test_padding_does_not_matter(variant):
    one, other = (build(n_step=2, **variant) for _ in range(2))
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


# -- acting -------------------------------------------------------------------------------


def test_actions_are_in_the_box_and_noise_is_of_training_only():
    """G1 and G9."""
    policy = build(predator_prey(), exploration=0.1).policy
    shake(policy.network, 5)
    seen = 4.0 * torch.randn(50, 3, 16, generator=torch.Generator().manual_seed(0))
    output = policy.network.unroll(seen.unsqueeze(1), None)[0][:, 0].detach()
    assert float(output.abs().max()) <= 1.0
    mask, draws = torch.ones_like(output, dtype=torch.bool), Draws(torch.arange(50))
    assert torch.equal(policy.select(output, mask, draws, training=False)[0], output)
    noisy = policy.select(output, mask, draws, training=True)[0]
    assert float(noisy.abs().max()) <= 1.0
    inside = noisy.abs() < 1.0
    assert float((noisy - output)[inside].std()) == pytest.approx(0.1, rel=0.15)


# -- learning -----------------------------------------------------------------------------


FAST = {"hidden": (16,), "optim": adam(1e-2), "critic_optim": adam(1e-2), "tau": 0.1}


@pytest.mark.parametrize("shared", [True, False])
def test_it_learns_a_matrix_game(shared):
    def make():
        return MatrixGame([[1.0, 0.0], [0.0, 3.0]])

    team = FACMAC.for_env(make(), shared=shared, exploration=0.2, **FAST)
    buffer = collected(team, 128, make_env=make, num_envs=32)
    for _ in range(150):
        update(team, buffer)
    policy = torch.softmax(team.policy.network.unroll(torch.eye(2).view(1, 1, 2, 2), None)[0], -1)
    assert policy[0, 0, :, 1].min() > 0.9


def test_it_learns_continuous_actions():
    """The best joint action is zero, and each agent starts away from it."""
    steps = {"optim": adam(1e-3), "critic_optim": adam(1e-2)}
    team = build(boxes(), gamma=0.0, exploration=1.0, tau=0.1, hidden=(32, 32), **steps)
    with torch.no_grad():
        team.policy.network.rest[-2].bias.fill_(0.5)
    buffer = collected(team, 128, make_env=boxes, num_envs=32)
    for _ in range(300):
        update(team, buffer, sample_size=64)
    seen = buffer.get_episodes(buffer.sample_indices(0)).obs.seen
    mean = team.policy.network.unroll(seen, None)[0].detach()
    assert float(mean.square().mean()) < 0.5 * 0.46**2


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"gamma": 1.5}, ValueError, r"FACMAC\.gamma must be a number in \[0, 1\], got 1\.5\."),
        ({"embed": 0}, ValueError, r"FACMAC\.embed must be an int >= 1, got 0\."),
        ({"critic_hidden": ()}, ValueError, r"\.critic_hidden must be at least one width"),
        ({"critic_input": "seen"}, TypeError, r"critic_input"),
        ({"deterministic_eval": 1}, TypeError, r"deterministic_eval must be a bool"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        build(climbing(), **settings)


def test_a_mixer_of_another_team():
    with pytest.raises(ValueError, match=r"FactoredCritic\.mixer must be of 2 agents, got 3"):
        FactoredCritic(4, 2, 2, QMIXMixer(5, 3))
