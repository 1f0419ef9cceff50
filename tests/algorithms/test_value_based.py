"""VDN, QMIX and IQL: one update against a loss written out, then targets and exploration."""

import copy

import pytest
import torch
from learners import (
    VALUE_BASED,
    Arena,
    Recorded,
    collected,
    copy_batch,
    same_weights,
    sgd,
    update,
    weights,
)

from robustmarl._seeding import Draws
from robustmarl.algorithms import IQL, QMIX, VDN
from robustmarl.envs import MatrixGame, TwoStepGame
from robustmarl.networks import AgentValues, VDNMixer
from robustmarl.schedules import Linear

RECURRENT = {"recurrent": True, "last_action": True, "hidden": (8,)}


def build(cls, env=None, **settings):
    settings = {"hidden": (8, 8), "optim": sgd(), "max_grad_norm": None} | settings
    if cls is QMIX:
        settings = {"embed": 4, "hyper_hidden": 4} | settings
    return cls.for_env(Arena() if env is None else env, **settings)


def shake(module, seed=1):
    """Move the target network away from the online one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


def episode_q(network, seen, act):
    """Return Q (T+1, N, A) of one episode, stepping through it."""
    agents = torch.arange(seen.shape[1])
    last, hidden, q = torch.full_like(act[0], -1), None, []
    for t in range(len(seen)):
        out, hidden = network.step(seen[t], network.extra(agents, last), hidden)
        q.append(out)
        last = act[t] if t < len(act) else last
    return torch.stack(q)


def hand_loss(algorithm, agents, mixer, batch, *, lam=0.0):
    """Return the loss of the class docstring, one step at a time."""
    target, gamma = algorithm._target.module, algorithm.gamma
    total, count = 0.0, 0
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        seen, act = batch.obs.seen[b, : length + 1], batch.act[b, :length]
        alive, ended = batch.obs.alive[b], bool(batch.terminated[b, length - 1])
        q = episode_q(agents, seen, act)
        with torch.no_grad():
            q_bar = episode_q(target.agents, seen, act)
        following = 0.0
        for t in reversed(range(length)):
            masked = q[t + 1].detach().masked_fill(~batch.obs.mask[b, t + 1], -float("inf"))
            greedy = masked.argmax(-1, keepdim=True)
            value = q_bar[t + 1].gather(-1, greedy)[:, 0]
            taken = q[t].gather(-1, act[t][:, None])[:, 0]
            over = t == length - 1
            if mixer is not None:
                following_values = AgentValues(q_bar[t + 1], batch.obs.mask[b, t + 1], greedy[:, 0])
                value = target.mixer(following_values, batch.obs.state[b, t + 1])
                values = AgentValues(q[t], batch.obs.mask[b, t], act[t])
                taken = mixer(values, batch.obs.state[b, t])
                reward = batch.rew[b, t]
                goes_on = torch.tensor(float(not (over and ended)))
                learned = torch.tensor(True)
            elif algorithm.reward == "agents":
                reward = batch.rew_agents[b, t]
                goes_on = alive[t + 1].float() * float(not (over and ended))
                learned = alive[t]
            else:
                reward = batch.rew[b, t].expand_as(value)
                goes_on = torch.full_like(value, float(not (over and ended)))
                learned = torch.ones_like(alive[t])
            mixed = value if over else (1 - lam) * value + lam * following
            following = (reward + gamma * goes_on * mixed).detach()
            total = total + ((taken - following).square() * learned).sum()
            count += int(learned.sum())
    return total / count


@pytest.mark.parametrize("cls", VALUE_BASED)
@pytest.mark.parametrize("network", [{}, RECURRENT], ids=["mlp", "gru"])
@pytest.mark.parametrize("settings", [{}, {"td_lambda": 0.6}], ids=["td0", "td.6"])
def test_one_update_is_one_sgd_step_on_the_written_loss(cls, network, settings):
    algorithm = build(cls, **network, **settings)
    check_update(algorithm, settings.get("td_lambda", 0.0))


def test_iql_on_own_rewards():
    check_update(build(IQL, reward="agents", td_lambda=0.5), 0.5)


def check_update(algorithm, lam):
    shake(algorithm._target.module)
    buffer = collected(algorithm)
    batch = buffer.get_episodes(buffer.sample_indices(0))
    assert bool((batch.valid.sum(1) < batch.valid.shape[1]).any())  # something is padded
    assert not bool(batch.obs.alive[:, :-1][batch.valid].all())  # somebody is dead
    agents, mixer = copy.deepcopy(algorithm.policy.network), copy.deepcopy(algorithm.mixer)
    learned = torch.nn.ModuleList([agents] if mixer is None else [agents, mixer])
    loss = hand_loss(algorithm, agents, mixer, batch, lam=lam)
    torch.optim.SGD(learned.parameters(), lr=0.1).zero_grad()
    loss.backward()
    stats = update(algorithm, buffer)

    assert stats.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    now = [algorithm.policy.network] + ([] if mixer is None else [algorithm.mixer])
    found = [p for module in now for p in module.parameters()]
    for before, after in zip(learned.parameters(), found, strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-4, atol=1e-6)


def constant(algorithm, online, target):
    """Make Q-values the same everywhere."""
    for network, values in (
        (algorithm.policy.network, online),
        (algorithm._target.module.agents, target),
    ):
        with torch.no_grad():
            for p in network.parameters():
                p.zero_()
            network.rest[-1].bias.copy_(torch.tensor(values))


def one_agent_loss(edit=None, **settings):
    """Return the loss on one episode of two steps, actions (0, 2), online (1, 3, 2)."""
    algorithm = build(VDN, MatrixGame([10.0, 20.0, 30.0], steps=2), gamma=0.5, **settings)
    constant(algorithm, (1.0, 3.0, 2.0), (5.0, 1.0, 4.0))
    batch = collected(algorithm, 1, make_env=lambda: MatrixGame([0.0] * 3, steps=2), num_envs=1)
    batch = copy_batch(batch.get_episodes(batch.sample_indices(0)))
    batch.act[:] = torch.tensor([[[0], [2]]])
    batch.rew[:] = torch.tensor([[10.0, 30.0]])
    if edit is not None:
        edit(batch)
    return update(algorithm, Recorded(batch)).metrics["loss"]


def mean_squares(*errors):
    return pytest.approx(sum(e * e for e in errors) / len(errors), rel=1e-5)


def test_double_q_takes_the_targets_value_of_the_online_choice():
    assert one_agent_loss() == mean_squares(1 - (10 + 0.5 * 1), 2 - 30)
    assert one_agent_loss(double_q=False) == mean_squares(1 - (10 + 0.5 * 5), 2 - 30)


def test_unavailable_next_actions_are_never_chosen():
    def edit(batch):
        batch.obs.mask[:, 1, :, 1] = False

    assert one_agent_loss(edit) == mean_squares(1 - (10 + 0.5 * 4), 2 - 30)


def test_a_time_limit_bootstraps():
    def edit(batch):
        batch.terminated[:] = False
        batch.truncated[:, -1] = True
        batch.obs.mask[:] = True  # a survivor may choose

    assert one_agent_loss(edit) == mean_squares(1 - (10 + 0.5 * 1), 2 - (30 + 0.5 * 1))


@pytest.mark.parametrize("cls", VALUE_BASED)
@pytest.mark.parametrize("network", [{}, RECURRENT], ids=["mlp", "gru"])
def test_padding_does_not_matter(cls, network):
    one, other = (build(cls, td_lambda=0.5, **network) for _ in range(2))
    buffer = collected(one)
    batch = buffer.get_episodes(buffer.sample_indices(0))
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
        dirty.act[b, length:] = 3
        dirty.terminated[b, length:] = True
    first, second = update(one, Recorded(batch)), update(other, Recorded(dirty))

    assert first.metrics == second.metrics
    assert same_weights(one, other)


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_target_networks_change_at_multiples_of_200_episodes_only(cls):
    algorithm = build(cls)
    buffer = collected(algorithm)
    algorithm.policy.counts.zero_()
    changes, kept = [], copy.deepcopy(algorithm._target.state_dict())
    for episodes in range(50, 501, 50):
        algorithm.policy.count("episodes", 50)
        update(algorithm, buffer)
        target = algorithm._target.state_dict()
        if any(not torch.equal(target[key], kept[key]) for key in kept):
            changes.append(episodes)
            online = algorithm.policy.network.state_dict()
            for key, value in algorithm._target.module.agents.state_dict().items():
                assert torch.equal(value, online[key])
            kept = copy.deepcopy(target)

    assert changes == [200, 400]


def test_target_networks_by_updates():
    algorithm = build(QMIX, target_update=2, target_unit="updates")
    buffer = collected(algorithm)
    before = copy.deepcopy(algorithm._target.module.state_dict())
    update(algorithm, buffer)
    after_one = algorithm._target.module.state_dict()
    assert all(torch.equal(before[key], after_one[key]) for key in before)
    update(algorithm, buffer)
    assert torch.equal(algorithm._target.module.mixer.w1.weight, algorithm.mixer.w1.weight)


def test_vdn_is_invariant_to_permuting_agents_together_with_their_ids():
    one, other = build(VDN, **RECURRENT), build(VDN, **RECURRENT)
    buffer = collected(one)
    batch = buffer.get_episodes(buffer.sample_indices(0))
    order = torch.tensor([2, 0, 1])
    turned = copy_batch(batch)
    for key in ("obs.obs", "obs.seen", "obs.mask", "obs.alive", "act"):
        values = turned.flat()[key]
        values.copy_(values[:, :, order])
    for network in (other.policy.network, other._target.module.agents):
        with torch.no_grad():
            network.id_table.copy_(network.id_table[order])
    first, second = update(one, Recorded(batch)), update(other, Recorded(turned))

    assert first.metrics["loss"] == pytest.approx(second.metrics["loss"], rel=1e-6)
    wrong = build(VDN, **RECURRENT)  # its ids stay
    third = update(wrong, Recorded(turned))
    assert first.metrics["loss"] != pytest.approx(third.metrics["loss"], rel=1e-4)


def test_exploration_falls_from_1_to_05_over_50k_steps():
    policy = build(QMIX).policy
    assert policy.epsilon == 1.0
    policy.count("env_steps", 25_000)
    assert policy.epsilon == pytest.approx(0.525)
    policy.count("env_steps", 25_000)
    assert policy.epsilon == pytest.approx(0.05)
    policy.count("env_steps", 10**6)
    assert policy.epsilon == pytest.approx(0.05)


def test_exploring_agents_draw_available_actions_uniformly():
    policy = build(QMIX, exploration=0.5).policy
    output = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(40_000, 3, 4)
    mask = torch.tensor([True, False, True, True]).expand(output.shape)
    draws = Draws(torch.arange(40_000))
    act, logp = policy.select(output, mask, draws, training=True)
    shares = torch.bincount(act.flatten(), minlength=4) / act.numel()

    assert logp is None
    torch.testing.assert_close(shares, torch.tensor([1 / 6, 0.0, 1 / 6, 4 / 6]), rtol=0, atol=0.01)
    explored = (act != 3).float()
    together = (explored[:, 0] * explored[:, 1]).mean()
    assert float(together) == pytest.approx(1 / 9, abs=0.01)  # agents explore on their own
    greedy, _ = policy.select(output, mask, draws, training=False)
    assert bool((greedy == 3).all())


def test_exploration_beyond_one_is_refused_when_it_happens():
    class Growing:
        unit = "env_steps"

        def __call__(self, count):
            return 0.2 * count

    policy = build(QMIX, exploration=Growing()).policy
    policy.count("env_steps", 10)
    with pytest.raises(ValueError, match=r"QPolicy\.exploration\(\) must be a number in \[0, 1\]"):
        _ = policy.epsilon


@pytest.mark.parametrize("seed", [0, 1])
def test_qmix_learns_8_in_the_two_step_game_where_vdn_learns_7(seed):
    returns = {}
    for cls in (QMIX, VDN):
        algorithm = cls.for_env(
            TwoStepGame(),
            seed=seed,
            hidden=(32,),
            exploration=1.0,
            target_update=50,
            target_unit="updates",
            optim=None,
        )
        for group in algorithm.optim._optim.param_groups:
            group["lr"] = 5e-3
        buffer = collected(algorithm, 256, make_env=TwoStepGame, num_envs=64, seed=seed)
        for _ in range(500):
            update(algorithm, buffer, sample_size=64)
        algorithm.policy.exploration = Linear(0.0, 0.0, over=1)
        played = collected(algorithm, 1, make_env=TwoStepGame, num_envs=1)
        returns[cls] = float(played.get_episodes(played.sample_indices(0)).rew.sum())

    assert returns == {QMIX: 8.0, VDN: 7.0}


def test_iql_learns_a_game_with_a_dominant_action():
    def make():
        return MatrixGame([[8.0, 1.0], [1.0, 0.0]])

    algorithm = build(IQL, make(), exploration=1.0, optim=sgd(0.05))
    buffer = collected(algorithm, 128, make_env=make, num_envs=32)
    for _ in range(150):
        update(algorithm, buffer, sample_size=64)
    q = algorithm.policy.network.unroll(torch.eye(2).view(1, 1, 2, 2), None)[0][0, 0]

    assert q.argmax(-1).tolist() == [0, 0]
    torch.testing.assert_close(q, torch.tensor([[4.5, 0.5]] * 2), rtol=0, atol=0.8)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"gamma": 1.5}, ValueError, r"gamma must be a number in \[0, 1\], got 1\.5\."),
        ({"gamma": "1"}, TypeError, r"gamma must be a number in \[0, 1\], got '1'\."),
        ({"td_lambda": -0.1}, ValueError, r"td_lambda must be a number in \[0, 1\], got -0\.1\."),
        ({"target_update": 0}, ValueError, r"target_update must be an int >= 1, got 0\."),
        ({"target_unit": "steps"}, ValueError, r"target_unit must be one of .*, got 'steps'\."),
        ({"reward": "own"}, ValueError, r"reward must be one of .*, got 'own'\."),
        ({"max_grad_norm": 0.0}, ValueError, r"max_grad_norm must be a number > 0, got 0\.0\."),
        ({"exploration": "always"}, TypeError, r"\.exploration must be a number or"),
        ({"hidden": ()}, ValueError, r"\.hidden must be at least one width"),
        ({"learning_rate": 1.0}, TypeError, r"learning_rate"),
    ],
)
@pytest.mark.parametrize("cls", VALUE_BASED)
def test_bad_settings(cls, settings, kind, text):
    with pytest.raises(kind, match=text):
        build(cls, **settings)


def test_own_rewards_do_not_go_with_a_mixer():
    with pytest.raises(ValueError, match=r"QMIX\.reward must be 'team' with a mixer, got 'agents'"):
        build(QMIX, reward="agents")
    with pytest.raises(ValueError, match=r"VDN\.reward must be 'team' with a mixer"):
        VDN(policy=build(VDN).policy, mixer=VDNMixer(), reward="agents")


@pytest.mark.parametrize("cls", VALUE_BASED)
def test_continuous_actions_are_refused(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\.for_env\.env must be discrete"):
        build(cls, Arena(continuous=True))


def test_an_update_counts():
    algorithm = build(QMIX)
    buffer = collected(algorithm)
    played = algorithm.policy.counted("env_steps")
    assert played == int(buffer.lengths.sum())
    assert algorithm.policy.counted("episodes") == 6
    before = weights(algorithm)
    update(algorithm, buffer, sample_size=3)
    assert algorithm.policy.counted("updates") == 1
    assert any(not torch.equal(before[k], v) for k, v in weights(algorithm).items())
