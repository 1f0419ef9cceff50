"""MFAC against its written equations, on games that need no further package."""

import functools

import numpy as np
import pytest
import torch
from doubles import Scripted
from learners import Arena, Recorded, collected, same_weights, sgd, update, weights

from robustmarl import envs
from robustmarl.algorithms import A2C, MFAC
from robustmarl.data import EpisodeBuffer, JointCollector, SlowCopy
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED
from robustmarl.learning import adam
from robustmarl.policies import Neighbours
from robustmarl.testing import check_algorithm

SMALL = {"hidden": (16,)}
VARIANTS = {
    "plain": {},
    "gru": {"recurrent": True, "last_action": True},
    "separate": {"shared": False},
    "ids": {"agent_id": True, "layer_norm": True},
    "mfrl": {"actor_uses_mean": False, "neighbours": Neighbours(include_self=True)},
    "paper": {"critic_mean": "current", "literal_eq8": True},
    "team": {"reward": "team", "td_lambda": 0.7},
    "near": {"neighbours": Neighbours(radius=1.0, position=(1, 2)), "critic_mean": "current"},
}


def made(**settings):
    return MFAC.for_env(Arena(), **(SMALL | settings))


def loud(algorithm):
    """Give logits, values and mean actions something to say, targets included."""
    generator = torch.Generator().manual_seed(0)
    for weight in algorithm.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.5
    return algorithm


def batch_of(algorithm, episodes=8):
    return collected(algorithm, episodes).sample(0)[0]


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_it_keeps_the_contract_of_algorithms(settings):
    check_algorithm(functools.partial(MFAC.for_env, **SMALL, **settings), Arena, env_steps=40)


def teams():
    members = {"red": ("a0", "a3"), "blue": ("a1", "a2")}
    return Scripted(4, obs_sizes=(9, 3, 5, 9), action_sizes=(6, 3, 4, 6), teams=members)


@pytest.mark.parametrize("team", ["red", "blue"])
def test_one_team_of_several(team):
    check_algorithm(functools.partial(MFAC.for_env, team=team, **SMALL), teams, env_steps=20)


def test_a_slow_copy_plays_with_its_own_sides_mean_actions():
    members = {"red": ("a0", "a1"), "blue": ("a2", "a3")}
    game = functools.partial(Scripted, 4, teams=members)
    red = loud(MFAC.for_env(game(), team="red", **SMALL))
    copy = SlowCopy(red)
    buffer = EpisodeBuffer(red.spec, 4)
    engine = JointVectorEnv(game, 2)
    collector = JointCollector(red, engine, buffer, team="red", opponents={"blue": copy})
    collector.collect(n_episode=4)
    collector.close()
    assert bool(buffer.latest(4).valid.any())


def mean_action_by_hand(act, alive, j, num_actions, include_self=False):
    others = [k for k in range(len(act)) if alive[k] and (include_self or k != j)]
    mean = torch.zeros(num_actions)
    for k in others:
        if act[k] >= 0:
            mean[act[k]] += 1 / len(others)
    return mean


def written(algorithm, batch):
    """Return targets, next values and critic means, one agent-step at a time."""
    actor, critic = algorithm._target.module
    size, steps, n = batch.act.shape
    target, following = torch.zeros(size, steps, n), torch.zeros(size, steps, n)
    for b, t in batch.valid.nonzero().tolist():
        alive = batch.obs.alive[b, t + 1]
        for j in range(n):
            mean = mean_action_by_hand(batch.act[b, t], alive, j, 4)
            obs = batch.obs.seen[b, t + 1, j]
            side = {"mean_act": mean}
            logits = actor.step(obs, actor.extra(None, None, side), None)[0]
            policy = torch.softmax(logits.masked_fill(~batch.obs.mask[b, t + 1, j], MASKED), -1)
            q = critic.step(obs, critic.extra(None, None, side), None)[0]
            over = batch.terminated[b, t] or not alive[j]
            following[b, t, j] = 0.0 if over else (policy * q).sum()
            target[b, t, j] = batch.rew_agents[b, t, j] + algorithm.gamma * following[b, t, j]
    return target, following


@torch.no_grad()
def test_targets_are_the_written_ones():
    algorithm = loud(made())
    batch = batch_of(algorithm)
    target, following, _ = algorithm.targets(batch)
    want = written(algorithm, batch)
    valid = batch.valid
    assert bool(batch.terminated.any())
    assert bool((~batch.obs.alive[:, :-1][valid]).any())
    torch.testing.assert_close(target[valid], want[0][valid])
    torch.testing.assert_close(following[valid], want[1][valid])


def test_the_value_of_a_policy_and_its_target():
    """Sheet: pi = (.2, .3, .5), Q = (1, 2, 4), r = 1, gamma = .95."""
    policy, q = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 2.0, 4.0])
    game = envs.MatrixGame(np.full((3, 3), 1.0), steps=2)
    algorithm = MFAC.for_env(game, hidden=(4,))
    for network, output in zip(algorithm._target.module, (policy.log(), q), strict=True):
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)
        network.rest[-1].bias.data = output
    batch = collected(algorithm, 2, make_env=lambda: game, num_envs=1).sample(0)[0]
    target, following, _ = algorithm.targets(batch)
    torch.testing.assert_close(target[0, :, 0], torch.tensor([1 + 0.95 * 2.8, 1.0]))
    torch.testing.assert_close(following[0, :, 0], torch.tensor([2.8, 0.0]))


@pytest.mark.parametrize("literal", [False, True])
def test_a_step_of_both_is_the_written_one(literal):
    lr = 0.1
    settings = {"optim": sgd(lr), "critic_optim": sgd(lr), "max_grad_norm": None}
    algorithm = loud(made(literal_eq8=literal, entropy_coef=0.03, **settings))
    batch = batch_of(algorithm)
    target, following = written(algorithm, batch)
    actor, critic = algorithm.policy.network, algorithm.critic
    policy_terms, critic_terms = [], []
    for b, t, j in batch.living.nonzero().tolist():
        before = batch.act[b, t - 1] if t else torch.full((3,), -1)
        side = {"mean_act": mean_action_by_hand(before, batch.obs.alive[b, t], j, 4)}
        obs, act = batch.obs.seen[b, t, j], batch.act[b, t, j]
        q = critic.step(obs, critic.extra(None, None, side), None)[0]
        logits = actor.step(obs, actor.extra(None, None, side), None)[0]
        logp = torch.log_softmax(logits.masked_fill(~batch.obs.mask[b, t, j], MASKED), -1)
        gain = (q[act] - (logp.exp() * q).sum()).detach()
        weight = following[b, t, j].detach() if literal else gain
        policy_terms.append(-weight * logp[act] + 0.03 * (logp.exp() * logp).sum())
        critic_terms.append((target[b, t, j].detach() - q[act]).square())
    want = {}
    for name, network, terms in (
        ("policy.network", actor, policy_terms),
        ("critic", critic, critic_terms),
    ):
        names, values = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(torch.stack(terms).mean(), values)
        for part, value, gradient in zip(names, values, gradients, strict=True):
            want[f"{name}.{part}"] = (value - lr * gradient).detach()
    update(algorithm, Recorded(batch))
    found = weights(algorithm)
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


PLAIN = {"max_grad_norm": None, "hidden": (8,)}


def test_with_a_single_action_its_critic_learns_as_that_of_a2c():
    """Q(o, a) is V(o) then, and there is nothing to choose."""
    game = envs.MatrixGame(np.ones((1, 1)), steps=3)
    mean_field = MFAC.for_env(game, critic_optim=sgd(0.05), **PLAIN)
    plain = A2C.for_env(
        game, optim=sgd(0.1), value_coef=0.5, gae_lambda=0.0, normalize_value=False, **PLAIN
    )
    critic, value = mean_field.critic, plain.critic
    batch = collected(plain, 4, make_env=lambda: game, num_envs=1).sample(0)[0]
    batch = batch.replace(rew_agents=torch.randn(batch.rew_agents.shape))
    with torch.no_grad():
        critic.mean_table.zero_()
        critic.first.load_state_dict(value.first.state_dict())
        critic.rest.load_state_dict(value.rest.state_dict())
    mean_field._target.module[1].load_state_dict(critic.state_dict())
    before = weights(mean_field)
    for algorithm in (mean_field, plain):
        update(algorithm, Recorded(batch))
    torch.testing.assert_close(critic.first.weight, value.first.weight)
    torch.testing.assert_close(critic.rest[-1].weight, value.rest[-1].weight)
    assert not torch.equal(critic.first.weight, before["critic.first.weight"])
    for name, weight in mean_field.policy.network.named_parameters():
        assert torch.equal(weight, before[f"policy.network.{name}"])


def test_without_the_branch_of_mean_actions_its_actor_learns_as_that_of_a2c():
    """Where both know the same advantages: 1 and -1, for the two actions of an even policy."""
    game = envs.MatrixGame(np.ones((2, 2)))
    spread = (8 / 7) ** 0.5  # of the eight advantages, by which A2C divides
    mean_field = MFAC.for_env(game, actor_uses_mean=False, optim=sgd(0.1), **PLAIN)
    plain = A2C.for_env(game, agent_id=False, optim=sgd(0.1 * spread), **PLAIN)
    batch = collected(plain, 4, make_env=lambda: game, num_envs=1).sample(0)[0]
    act = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).unsqueeze(1)
    batch = batch.replace(act=act, rew_agents=1.0 - 2.0 * act)
    with torch.no_grad():
        for critic in (mean_field.critic, plain.critic):
            for weight in critic.parameters():
                weight.zero_()
        mean_field.critic.rest[-1].bias.copy_(torch.tensor([1.0, -1.0]))
        for weight in plain.policy.network.rest[-1].parameters():
            weight.zero_()
    mean_field.policy.network.load_state_dict(plain.policy.network.state_dict())
    for algorithm in (mean_field, plain):
        update(algorithm, Recorded(batch))
    actors = mean_field.policy.network, plain.policy.network
    for one, other in zip(*(actor.parameters() for actor in actors), strict=True):
        torch.testing.assert_close(one, other)
    assert bool(actors[0].rest[-1].weight.any())


def test_the_dead_are_left_out_of_mean_actions():
    """Agent 2 dies in step 3: from the next on it is nobody's neighbour, and it has neighbours."""
    algorithm = made()
    batch = batch_of(algorithm)
    means, alive = algorithm.mean_actions(batch), batch.obs.alive
    long = batch.valid.sum(1) > 4
    assert bool(long.any())
    assert not bool(alive[long, 4, 2].any())
    act = torch.nn.functional.one_hot(batch.act, 4).float()
    torch.testing.assert_close(means[long, 4, 0], act[long, 3, 1])  # of the one that is left
    torch.testing.assert_close(means[long, 3, 0], act[long, 2, 1:].mean(1))
    assert not bool(means[:, 0].any())


def test_targets_follow_slowly():
    algorithm = made(tau=0.01, optim=sgd(0.0), critic_optim=sgd(0.0))
    batch = batch_of(algorithm)
    target = algorithm._target.module[1].first.weight
    target.data.zero_()
    algorithm.critic.first.weight.data.fill_(1.0)
    update(algorithm, Recorded(batch))
    assert torch.allclose(target, torch.tensor(0.01))
    update(algorithm, Recorded(batch))
    assert torch.allclose(target, torch.tensor(0.0199))


def test_the_critic_may_read_the_current_mean():
    algorithm = loud(made(critic_mean="current"))
    batch = batch_of(algorithm)
    policy = algorithm.target_policy(batch, algorithm.mean_actions(batch)).detach()
    means = algorithm.targets(batch)[2]
    for b, t in batch.valid.nonzero().tolist():
        for j in range(3):
            hand = mean_action_by_hand(batch.act[b, t], batch.obs.alive[b, t], j, 4)
            torch.testing.assert_close(means[b, t, j], hand)
    length = int(batch.valid[0].sum())
    alive = batch.obs.alive[0, length]
    others = [k for k in (1, 2) if alive[k]]
    want = torch.stack([policy[0, length, k] for k in others]).mean(0) if others else 0.0
    torch.testing.assert_close(means[0, length, 0], torch.zeros(4) + want)


def test_learning_reads_the_mean_actions_that_were_acted_on():
    algorithm = loud(made(neighbours=Neighbours(radius=1.5, position=(1, 2))))
    batch = batch_of(algorithm)
    side = {"mean_act": algorithm.mean_actions(batch)[:, :-1]}
    output, _ = algorithm.policy.network.unroll(batch.obs.seen[:, :-1], None, side)
    output = output.masked_fill(~batch.obs.mask[:, :-1], MASKED)
    logp = algorithm.policy.log_prob(output, batch.act)
    torch.testing.assert_close(logp[batch.living], batch.logp[batch.living])
    plain, _ = algorithm.policy.network.unroll(batch.obs.seen[:, :-1], None)
    assert not torch.allclose(plain[batch.living], output[batch.living])


def test_minibatches_cover_all_steps_and_are_seeded():
    one, other = made(seed=1), made(seed=1)
    batch = batch_of(one)
    for algorithm in (one, other):
        update(algorithm, Recorded(batch), batch_size=8, repeat=2)
    assert same_weights(one, other)
    whole = made(seed=1)
    update(whole, Recorded(batch), repeat=2)
    assert not same_weights(one, whole)


def test_it_learns_to_answer_what_it_observes():
    """Every agent observes the step modulo 4, the action that is paid (see Arena)."""
    algorithm = MFAC.for_env(
        Arena(deaths=False),
        hidden=(32,),
        optim=adam(5e-3),
        critic_optim=adam(1e-2),
        entropy_coef=0.01,
        tau=0.05,
        gamma=0.0,
    )

    def reward():
        batch = collected(algorithm, 60, make_env=lambda: Arena(deaths=False)).sample(0)[0]
        return float(batch.rew[batch.valid].mean()), batch

    before, batch = reward()
    for _ in range(15):
        update(algorithm, Recorded(batch), batch_size=64, repeat=2)
        after, batch = reward()
    assert after > 1.5 * before


@pytest.mark.parametrize(
    ("env", "settings", "text"),
    [
        (Arena, {"critic_mean": "next"}, r"MFAC\.critic_mean must be one of"),
        (Arena, {"tau": 0.0}, r"MFAC\.tau must be a number"),
        (Arena, {"reward": "sum"}, r"MFAC\.reward must be one of"),
        (Arena, {"entropy_coef": -1.0}, r"MFAC\.entropy_coef must be a number"),
        (functools.partial(Arena, continuous=True), {}, r"MFAC\.for_env\.env must be discrete"),
        (
            lambda: envs.MatrixGame(np.ones(3)),
            {},
            r"MFAC\.for_env\.env must be a team of more than one agent",
        ),
        (
            Arena,
            {"neighbours": Neighbours(radius=1.0, position=(3,))},
            r"\.neighbours\.position must be coordinates",
        ),
    ],
)
def test_bad_settings(env, settings, text):
    with pytest.raises(ValueError, match=text):
        MFAC.for_env(env(), **settings)


def test_settings_that_it_does_not_know():
    with pytest.raises(TypeError, match="Did you mean 'neighbours'"):
        made(neighbors=Neighbours())
