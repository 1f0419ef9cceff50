"""IPPO and MAPPO: one epoch against a loss written out, and what was stored when acting."""

import copy
import math

import pytest
import torch
from learners import PPO, Arena, Recorded, collected, copy_batch, same_weights, sgd, update, weights

from robustmarl._seeding import Draws
from robustmarl.algorithms import IPPO, MAPPO
from robustmarl.attacks import UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.envs import MatrixGame, ToyGame, climbing
from robustmarl.joint import MASKED
from robustmarl.networks.normalizer import ValueNormalizer

RECURRENT = {"recurrent": True, "last_action": True, "hidden": (8,), "critic_hidden": (8,)}
NETWORKS = {"mlp": {}, "mlp-last": {"last_action": True}, "gru": RECURRENT}


def build(cls, *, continuous=False, env=None, **settings):
    settings = {"hidden": (8, 8), "optim": sgd(), "max_grad_norm": None} | settings
    # a gain of 1, because policies near uniform hide mistakes
    settings = {"output_gain": 1.0} | settings
    return cls.for_env(Arena(continuous=continuous) if env is None else env, **settings)


def played(algorithm, episodes=6, perturb=()):
    continuous = algorithm.spec.continuous
    buffer = collected(
        algorithm, episodes, make_env=lambda: Arena(continuous=continuous), perturb=perturb
    )
    return buffer.get_episodes(buffer.sample_indices(0))


def episode_outputs(network, seen, mask, act):
    """Return logits or means (T, N, A) of one episode, stepping through it."""
    agents, hidden, outputs = torch.arange(seen.shape[1]), None, []
    last = torch.zeros_like(act[0]) if network.continuous else torch.full_like(act[0], -1)
    for t in range(len(act)):
        out, hidden = network.step(seen[t], network.extra(agents, last), hidden)
        outputs.append(out if network.continuous else out.masked_fill(~mask[t], MASKED))
        last = act[t]
    return torch.stack(outputs)


def log_prob_and_entropy(network, output, act):
    if network.continuous:
        normal = torch.distributions.Normal(output, network.log_std.exp())
        return normal.log_prob(act).sum(-1), normal.entropy().sum(-1)
    categorical = torch.distributions.Categorical(logits=output)
    return categorical.log_prob(act), categorical.entropy()


def episode_values(algorithm, critic, obs, b, length):
    if algorithm.valuation.critic_input == "seen":
        return critic(obs.seen[b, : length + 1])
    state = obs.state[b, : length + 1, None]
    return critic(state.expand(-1, 3 if critic.id_table is not None else 1, -1))


def hand_loss(algorithm, network, critic, batch):
    """Return the loss of the class docstring, one step at a time; values are not normalised."""
    gamma, lam, own = algorithm.gamma, algorithm.gae_lambda, algorithm.valuation.reward == "agents"
    advantages, ratios, entropies, errors = [], [], [], []
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        alive, ended = batch.obs.alive[b], bool(batch.terminated[b, length - 1])
        values = episode_values(algorithm, critic, batch.obs, b, length)
        act = batch.act[b, :length]
        output = episode_outputs(network, batch.obs.seen[b], batch.obs.mask[b], act)
        logp, entropy = log_prob_and_entropy(network, output, act)
        following = 0.0
        for t in reversed(range(length)):
            reward = batch.rew_agents[b, t] if own else batch.rew[b, t]
            on = alive[t + 1].float() if own else torch.tensor(1.0)
            over = t == length - 1
            bootstrap = on * (0.0 if over and ended else 1.0)
            v, v_next = values[t].detach(), values[t + 1].detach()
            delta = reward + gamma * bootstrap * v_next - v
            following = delta + gamma * lam * (0.0 if over else on) * following
            target = following + v
            error = (values[t] - target).square()
            errors.append(error[alive[t]] if own else error)
            advantages.append(following.expand(3)[alive[t]])
            ratios.append((logp[t] - batch.logp[b, t]).exp()[alive[t]])
            entropies.append(entropy[t][alive[t]])
    advantage, ratio = torch.cat(advantages), torch.cat(ratios)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    c = algorithm.clip
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - c, 1 + c) * advantage)
    loss = -surrogate.mean() + algorithm.value_coef * torch.cat(errors).mean()
    return loss - algorithm.entropy_coef * torch.cat(entropies).mean()


@pytest.mark.parametrize("cls", PPO)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("reward", ["team", "agents"])
def test_an_epoch_is_one_sgd_step_on_the_written_loss(cls, network, continuous, reward):
    algorithm = build(
        cls,
        continuous=continuous,
        reward=reward,
        normalize_value=False,
        gamma=0.9,
        gae_lambda=0.8,
        entropy_coef=0.05,
        **NETWORKS[network],
    )
    batch = played(algorithm)
    assert bool((batch.valid.sum(1) < batch.valid.shape[1]).any())
    noise = torch.randn(batch.logp.shape, generator=torch.Generator().manual_seed(0))
    batch.logp.add_(0.3 * noise)
    actor, critic = copy.deepcopy(algorithm.policy.network), copy.deepcopy(algorithm.critic)
    learned = torch.nn.ModuleList([actor, critic])
    loss = hand_loss(algorithm, actor, critic, batch)
    loss.backward()
    stats = update(algorithm, Recorded(batch))

    assert stats.metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    found = [*algorithm.policy.network.parameters(), *algorithm.critic.parameters()]
    for before, after in zip(learned.parameters(), found, strict=True):
        grad = torch.zeros_like(before) if before.grad is None else before.grad
        torch.testing.assert_close(after, before - 0.1 * grad, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_ratio_is_one_on_the_first_epoch(network, continuous, noise):
    """What was stored when acting, on perturbed observations, is what learning computes."""
    algorithm = build(IPPO, continuous=continuous, **NETWORKS[network])
    batch = played(algorithm, perturb=[UniformNoise(ball=LinfBall(epsilon=noise))])
    assert (noise == 0.0) == torch.equal(batch.obs.obs, batch.obs.seen)
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        act = batch.act[b, :length]
        output = episode_outputs(
            algorithm.policy.network, batch.obs.seen[b], batch.obs.mask[b], act
        )
        logp, _ = log_prob_and_entropy(algorithm.policy.network, output, act)
        torch.testing.assert_close(logp, batch.logp[b, :length], rtol=1e-4, atol=1e-5)
    advantage, _ = algorithm.advantages(batch)
    assert torch.isfinite(advantage).all()
    stats = update(algorithm, Recorded(batch))

    assert stats.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert stats.metrics["policy_loss"] == pytest.approx(0.0, abs=1e-5)  # mean advantage


def test_a_dead_agents_values_do_not_reach_the_living():
    """With own rewards, an agent's advantages end with its life."""
    algorithm = build(IPPO, reward="agents", gae_lambda=0.9)
    batch = played(algorithm)
    alive = batch.obs.alive
    dirty = copy_batch(batch)
    dirty.obs.seen[~alive] += 50.0
    one, other = algorithm.advantages(batch)[0], algorithm.advantages(dirty)[0]
    rows = batch.valid.unsqueeze(-1) & alive[:, :-1]
    dies = (
        rows
        & ~alive[:, 1:]
        & torch.cat([batch.valid[:, 1:], batch.valid[:, :1] & False], 1)[..., None]
    )

    assert bool(dies.any())
    torch.testing.assert_close(one[rows], other[rows])
    value = algorithm.values(batch.obs)[:, :-1]
    torch.testing.assert_close(one[dies], (batch.rew_agents - value)[dies])


@pytest.mark.parametrize("cls", PPO)
@pytest.mark.parametrize("network", ["mlp", "gru"])
@pytest.mark.parametrize("continuous", [False, True])
def test_padding_does_not_matter(cls, network, continuous):
    one, other = (build(cls, continuous=continuous, **NETWORKS[network]) for _ in range(2))
    batch = played(one)
    dirty = copy_batch(batch)
    generator = torch.Generator().manual_seed(0)
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        for key in ("obs", "seen", "state"):
            rows = dirty.flat()[f"obs.{key}"][b, length + 1 :]
            rows.copy_(100 * torch.randn(rows.shape, generator=generator))
        dirty.obs.mask[b, length + 1 :] = True
        dirty.obs.alive[b, length + 1 :] = True
        for key in ("rew", "rew_agents"):
            dirty.flat()[key][b, length:] = 1e4
        dirty.act[b, length:] = 1
        dirty.logp[b, length:] = -3.0
        dirty.terminated[b, length:] = True
    first = update(one, Recorded(batch), repeat=2)
    second = update(other, Recorded(dirty), repeat=2)

    assert first.metrics == second.metrics
    assert same_weights(one, other)


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    algorithm = build(IPPO, env=ToyGame(horizon=1), gamma=0.5, normalize_value=False)
    buffer = collected(algorithm, 1, make_env=lambda: ToyGame(horizon=1), num_envs=1)
    batch = copy_batch(buffer.get_episodes(buffer.sample_indices(0)))
    assert bool(batch.truncated.all())
    assert not bool(batch.terminated.any())
    v = algorithm.values(batch.obs)
    torch.testing.assert_close(algorithm.advantages(batch)[1][:, 0], 0.5 * v[:, 1] + batch.rew)
    batch.terminated[:] = True
    torch.testing.assert_close(algorithm.advantages(batch)[1][:, 0], batch.rew.expand(1, 2))


def test_value_normalizer_keeps_debiased_running_moments():
    normalizer, mask = ValueNormalizer(decay=0.99), torch.ones(2, dtype=torch.bool)
    values = torch.tensor([-1.0, 0.0, 5.0])
    assert torch.equal(normalizer.normalize(values), values)  # nothing seen yet
    normalizer.update(torch.tensor([1.0, 3.0]), mask)
    torch.testing.assert_close(normalizer.normalize(values), (values - 2.0) / 1.0)
    normalizer.update(torch.tensor([5.0, 1e9]), torch.tensor([True, False]))
    mean = (0.99 * 2.0 + 5.0) / 1.99
    std = math.sqrt((0.99 * 5.0 + 25.0) / 1.99 - mean**2)
    torch.testing.assert_close(normalizer.normalize(values), (values - mean) / std)
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(values)), values)


@pytest.mark.parametrize("before", [False, True])
def test_value_normalizer_learns_nothing_from_nothing(before):
    normalizer, values = ValueNormalizer(), torch.tensor([8.0, 12.0])
    if before:
        normalizer.update(values, torch.ones(2, dtype=torch.bool))
    kept = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.update(values, torch.zeros(2, dtype=torch.bool))
    assert all(torch.equal(value, kept[name]) for name, value in normalizer.state_dict().items())
    assert torch.equal(
        normalizer.normalize(values), torch.tensor([-1.0, 1.0]) if before else values
    )


def test_value_normalizer_does_not_keep_everything():
    with pytest.raises(
        ValueError, match=r"ValueNormalizer\.decay must be a number in \[0, 1\), got"
    ):
        ValueNormalizer(decay=1.0)


def test_normalised_values_are_learned_in_units_of_returns():
    algorithm = build(MAPPO, normalize_value=True)
    batch = played(algorithm)
    update(algorithm, Recorded(batch))
    with torch.no_grad():
        raw = algorithm.critic(batch.obs.state.unsqueeze(2))
    _, std = algorithm.normalizer._moments()
    torch.testing.assert_close(
        algorithm.values(batch.obs), raw * std + algorithm.normalizer._moments()[0]
    )
    assert std != 1.0


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_minibatches_come_from_the_algorithms_own_seed(network):
    made = [build(IPPO, **NETWORKS[network]) for _ in range(2)]
    other = IPPO(
        policy=copy.deepcopy(made[0].policy),
        critic=copy.deepcopy(made[0].critic),
        critic_input="seen",
        optim=sgd(),
        max_grad_norm=None,
        seed=7,
    )
    batch = played(made[0])
    for algorithm in made:
        torch.manual_seed(id(algorithm) % 1000)
        update(algorithm, Recorded(batch), batch_size=8, repeat=2)
    update(other, Recorded(batch), batch_size=8, repeat=2)

    assert same_weights(*made)
    assert not same_weights(made[0], other)


def test_mappo_does_not_let_agents_see_the_state():
    algorithm = build(MAPPO)
    batch = played(algorithm)
    changed = copy_batch(batch)
    changed.obs.state.add_(1.0)
    assert not torch.allclose(algorithm.values(batch.obs), algorithm.values(changed.obs))
    changed = copy_batch(batch)
    changed.obs.seen.add_(1.0)
    assert torch.equal(algorithm.values(batch.obs), algorithm.values(changed.obs))


@pytest.mark.parametrize(("reward", "agents"), [("team", 0), ("agents", 3)])
def test_mappos_critic_has_one_value_per_reward(reward, agents):
    critic = build(MAPPO, reward=reward).critic
    assert (0 if critic.id_table is None else len(critic.id_table)) == agents


@pytest.mark.parametrize("cls", PPO)
def test_states_per_agent(cls):
    algorithm = build(cls, env=ToyGame(horizon=3))
    buffer = collected(algorithm, 4, make_env=lambda: ToyGame(horizon=3))
    assert algorithm.values(buffer.get_episodes(buffer.sample_indices(0)).obs).shape == (4, 4, 2)
    update(algorithm, buffer)


def test_discrete_actions_follow_the_softmax():
    policy = build(IPPO).policy
    logits = torch.tensor([0.0, 1.0, MASKED, -1.0]).expand(40_000, 3, 4)
    act, logp = policy.select(logits, logits > MASKED, Draws(torch.arange(40_000)), True)
    shares = torch.bincount(act.flatten(), minlength=4) / act.numel()

    torch.testing.assert_close(shares, logits[0, 0].softmax(-1), rtol=0, atol=0.01)
    assert shares[2] == 0
    torch.testing.assert_close(logp, logits.log_softmax(-1).gather(-1, act[..., None]).squeeze(-1))


def test_continuous_actions_follow_the_gaussian():
    policy = build(IPPO, continuous=True).policy
    with torch.no_grad():
        policy.network.log_std.copy_(torch.tensor([0.0, math.log(0.5)]))
    mean = torch.tensor([0.3, -0.2]).expand(20_000, 3, 2)
    act, logp = policy.select(mean, mean > 0, Draws(torch.arange(20_000)), True)
    flat = act.reshape(-1, 2)

    torch.testing.assert_close(flat.mean(0), torch.tensor([0.3, -0.2]), rtol=0, atol=0.02)
    torch.testing.assert_close(flat.std(0), torch.tensor([1.0, 0.5]), rtol=0, atol=0.02)
    expected = torch.distributions.Normal(mean, torch.tensor([1.0, 0.5])).log_prob(act).sum(-1)
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("continuous", [False, True])
def test_deterministic_evaluation_only_where_asked(continuous):
    output = torch.randn(5, 3, 2 if continuous else 4, generator=torch.Generator().manual_seed(0))
    greedy = output if continuous else output.argmax(-1)
    mask = torch.ones_like(output, dtype=torch.bool)
    draws = torch.arange(5)
    sure = build(IPPO, continuous=continuous, deterministic_eval=True).policy
    assert torch.equal(sure.select(output, mask, Draws(draws), False)[0], greedy)
    assert not torch.equal(sure.select(output, mask, Draws(draws), True)[0], greedy)
    drawn = build(IPPO, continuous=continuous).policy
    assert not torch.equal(drawn.select(output, mask, Draws(draws), False)[0], greedy)


def learn(algorithm, make, rounds, episodes=64):
    for number in range(rounds):
        buffer = collected(algorithm, episodes, make_env=make, num_envs=episodes, seed=number)
        update(algorithm, buffer, repeat=4)
    played = collected(algorithm, 64, make_env=make, num_envs=64, seed=999)
    return float(played.get_episodes(played.sample_indices(0)).rew.sum(1).mean())


@pytest.mark.parametrize("cls", PPO)
@pytest.mark.parametrize("recurrent", [False, True])
def test_learns_a_matrix_game(cls, recurrent):
    def make():
        return MatrixGame([[8.0, 1.0, 1.0], [1.0, 0.0, 0.0]])

    algorithm = cls.for_env(make(), hidden=(16,), recurrent=recurrent, entropy_coef=0.0)
    algorithm.optim._optim.param_groups[0]["lr"] = 2e-2
    assert learn(algorithm, make, 12) > 7.0  # uniform play earns 11 / 6


def test_ippo_finds_the_safe_equilibrium_of_the_climbing_game():
    """Independent learners shun 11, which is next to -30, and settle on 5, 6 or 7."""
    algorithm = IPPO.for_env(climbing(), hidden=(16,), entropy_coef=0.0)
    algorithm.optim._optim.param_groups[0]["lr"] = 2e-2
    assert learn(algorithm, climbing, 20) > 3.0  # uniform play earns -31 / 9


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"gamma": -0.5}, ValueError, r"gamma must be a number in \[0, 1\], got -0\.5\."),
        ({"gae_lambda": 2}, ValueError, r"gae_lambda must be a number in \[0, 1\], got 2\."),
        ({"clip": 0.0}, ValueError, r"clip must be a number > 0, got 0\.0\."),
        ({"entropy_coef": -1.0}, ValueError, r"entropy_coef must be a number >= 0, got -1\.0\."),
        ({"value_coef": None}, TypeError, r"value_coef must be a number >= 0, got None\."),
        ({"reward": "both"}, ValueError, r"reward must be one of .*, got 'both'\."),
        ({"max_grad_norm": -1.0}, ValueError, r"max_grad_norm must be a number > 0, got -1\.0\."),
        ({"hidden": (0,)}, ValueError, r"\.hidden must be an int >= 1, got 0\."),
        ({"critic_hidden": ()}, ValueError, r"\.critic_hidden must be at least one width"),
        ({"activation": "gelu"}, ValueError, r"\.activation must be one of"),
        ({"exploration": 0.1}, TypeError, r"exploration"),
    ],
)
@pytest.mark.parametrize("cls", PPO)
def test_bad_settings(cls, settings, kind, text):
    with pytest.raises(kind, match=text):
        build(cls, **settings)


def test_an_unknown_critic_input_is_refused():
    made = build(IPPO)
    with pytest.raises(ValueError, match=r"IPPO\.critic_input must be one of .*, got 'obs'\."):
        IPPO(policy=made.policy, critic=made.critic, critic_input="obs")


def test_an_update_changes_actor_and_critic():
    algorithm = build(MAPPO)
    batch, before = played(algorithm), weights(algorithm)
    update(algorithm, Recorded(batch))
    changed = {n for n, p in weights(algorithm).items() if not torch.equal(p, before[n])}
    assert {"critic.first.weight", "policy.network.first.weight"} <= changed


def test_hubers_loss_is_that_of_the_sheet_on_both_sides():
    """Half the square up to delta, then a line: 150 for errors of 20 and -20 at delta 10."""
    algorithm = build(MAPPO, huber_delta=10.0)
    value, zero = torch.tensor([20.0, -20.0, 10.0, -10.0, 3.0, -3.0, 0.0]), torch.zeros(7)
    expected = torch.tensor([150.0, 150.0, 50.0, 50.0, 4.5, 4.5, 0.0])
    assert torch.equal(algorithm.valuation.error(value, zero), expected)
    assert torch.equal(build(MAPPO).valuation.error(value, zero), value.square())
    with pytest.raises(ValueError, match=r"MAPPO\.huber_delta must be a number > 0, got 0"):
        build(MAPPO, huber_delta=0)


def test_hubers_loss_bounds_the_gradient_of_one_value():
    value = torch.tensor([100.0], requires_grad=True)
    build(MAPPO, huber_delta=2.0).valuation.error(value, torch.zeros(1)).sum().backward()
    assert value.grad.item() == 2.0
