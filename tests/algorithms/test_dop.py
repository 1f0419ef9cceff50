"""DOP: decomposed critic, on-policy TD(lambda) and off-policy tree backup, learning."""

import functools

import numpy as np
import pytest
import torch
from learners import Arena, Recorded, collected, copy_batch, sgd, weights
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl.algorithms import DOP
from robustmarl.algorithms.dop import tree_backup
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import ToyGame, TwoStepGame
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, StepContext
from robustmarl.networks import ActionCritic, WeightedMixer
from robustmarl.testing import check_algorithm

SMALL = {"hidden": (8,), "critic_hidden": (8,)}


def make(make_env=Arena, **settings):
    return DOP.for_env(make_env(), **{**SMALL, **settings})


def update(learner, buffer, size=4):
    with policy_within_training_step(learner.policy):
        return learner.update(buffer=buffer, sample_size=size)


def everything(buffer):
    return buffer.get_episodes(np.arange(len(buffer)))


@pytest.mark.parametrize("settings", [{}, {"recurrent": False}, {"off_policy_weight": 0.0}])
def test_contract(settings):
    check_algorithm(functools.partial(DOP.for_env, **SMALL, **settings), Arena, env_steps=40)


def test_states_per_agent():
    make_env = functools.partial(ToyGame, horizon=5)
    check_algorithm(functools.partial(DOP.for_env, **SMALL), make_env, env_steps=20)


# -- decomposition ------------------------------------------------------------------------


def test_weights_sum_to_one_and_are_not_negative():
    torch.manual_seed(0)
    mixer, state = WeightedMixer(5, 3), torch.randn(40, 5)
    weight = mixer.weights(state)
    assert (weight >= 0).all()
    assert torch.allclose(weight.sum(-1), torch.ones(40))
    assert weight.std(0).min() > 0.01  # they depend on the state
    q = torch.randn(40, 3)
    assert torch.allclose(mixer(q, state), (weight * q).sum(-1))


def test_weights_by_hand():
    mixer = WeightedMixer(1, 2, embed=2, normalize_state=False)
    with torch.no_grad():
        mixer.w1.weight.copy_(torch.tensor([[1.0], [-2.0], [0.0], [3.0]]))
        mixer.w1.bias.zero_()
        mixer.w2.weight.copy_(torch.tensor([[-1.0], [2.0]]))
        mixer.w2.bias.zero_()
    # |W1| = [[1, 2], [0, 3]], |w2| = [1, 2] at s = 1: (5, 6) / 11
    assert torch.allclose(mixer.weights(torch.ones(1, 1)), torch.tensor([[5.0, 6.0]]) / 11)


def test_a_dueling_critic_adds_one_value_to_all_actions():
    torch.manual_seed(0)
    plain = ActionCritic(4, 3, 2, 5, hidden=(6,))
    dueling = ActionCritic(4, 3, 2, 5, hidden=(6,), dueling=True)
    state, obs = torch.randn(2, 4), torch.randn(2, 2, 3)
    assert plain(state, obs).shape == dueling(state, obs).shape == (2, 2, 5)
    before = dueling(state, obs)
    with torch.no_grad():
        dueling.rest[-1].bias[0] += 3.0
    assert torch.allclose(dueling(state, obs), before + 3.0, atol=1e-6)


def test_advantages():
    learner = make()
    batch = everything(collected(learner))
    yes = torch.ones(len(batch.act), dtype=torch.bool)
    zero = torch.zeros(len(yes), dtype=torch.int64)
    context = StepContext(
        obs=batch.obs.obs[:, 0],
        seen=batch.obs.seen[:, 0],
        mask=batch.obs.mask[:, 0],
        state=batch.obs.state[:, 0],
        alive=batch.obs.alive[:, 0],
        observed=batch.obs.alive[:, 0],
        last_act=batch.act[:, 0],
        hidden=None,
        step=zero,
        keys=zero,
        live=yes,
        terminal=~yes,
    )
    logits = torch.randn(*context.mask.shape).masked_fill(~context.mask, MASKED)
    policy = logits.softmax(-1)
    found = learner.action_advantages(context, logits, batch.act[None, :, 0].expand(3, -1, -1))
    assert found.shape == (3, *logits.shape)
    q = learner.critics.critic(context.state, context.seen)
    weight = learner.critics.mixer.weights(context.state)
    expected = weight.unsqueeze(-1) * (q - (policy * q).sum(-1, keepdim=True))
    assert torch.allclose(found[2], expected, atol=1e-6)
    assert (policy * found[0]).sum(-1).abs().max() < 1e-6
    assert DOP.additive_advantages


# -- targets ------------------------------------------------------------------------------


def slow_tree(taken, expected, reward, probability, bootstrap, going_on, gamma, lam, steps):
    found = torch.zeros_like(taken)
    for b in range(len(taken)):
        for t in range(taken.shape[1]):
            total, factor = taken[b, t].clone(), 1.0
            for k in range(steps):
                if t + k >= taken.shape[1]:
                    break
                if k > 0:
                    if not going_on[b, t + k - 1]:
                        break
                    factor = factor * gamma * lam * probability[b, t + k]
                s = t + k
                error = reward[b, s] + gamma * bootstrap[b, s] * expected[b, s] - taken[b, s]
                total = total + factor * error
            found[b, t] = total
    return found


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_tree_backup_is_its_definition(steps):
    torch.manual_seed(steps)
    taken, expected, reward = torch.randn(3, 4, 6, dtype=torch.float64)
    probability = torch.rand(4, 6, dtype=torch.float64)
    bootstrap = (torch.rand(4, 6) < 0.8).double()
    going_on = torch.ones(4, 6, dtype=torch.float64)
    going_on[:, -1] = 0.0
    going_on[1, 2:] = 0.0
    args = (taken, expected, reward, probability, bootstrap, going_on, 0.9, 0.93, steps)
    assert torch.allclose(tree_backup(*args), slow_tree(*args), atol=1e-12)


def test_tree_backup_by_hand():
    found = tree_backup(
        taken=torch.tensor([[1.0, 2.0]]),
        expected=torch.tensor([[3.0, 4.0]]),
        reward=torch.tensor([[10.0, 20.0]]),
        probability=torch.tensor([[0.9, 0.25]]),
        bootstrap=torch.tensor([[1.0, 0.0]]),
        going_on=torch.tensor([[1.0, 0.0]]),
        gamma=0.5,
        lam=0.8,
        steps=5,
    )
    # last: 20; first: 10 + .5 * 3 + .5 * .8 * .25 * (20 - 2)
    assert torch.allclose(found, torch.tensor([[13.3, 20.0]]))


def test_with_a_certain_policy_lambda_one_gives_the_return():
    """Every ratio is 1: the backup telescopes to the rewards and the last expectation."""
    taken, expected = torch.randn(1, 5), torch.randn(1, 5)
    expected[:, :-1] = taken[:, 1:]  # as a policy that is certain makes it
    reward, ones = torch.randn(1, 5), torch.ones(1, 5)
    going_on = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    found = tree_backup(taken, expected, reward, ones, ones, going_on, 1.0, 1.0, 5)
    assert torch.allclose(found[:, 0], reward.sum(1) + expected[:, -1], atol=1e-5)


def test_on_policy_targets_by_hand():
    learner = make(gamma=0.5, td_lambda=0.25)
    batch = everything(collected(learner, 8))
    found = learner.on_policy_targets(batch)
    of = learner._backup(batch)
    ends = set()
    for b in range(len(batch.act)):
        steps = int(batch.valid[b].sum())
        target = None
        for t in range(steps - 1, -1, -1):
            reward = float(batch.rew[b, t])
            if t == steps - 1:
                ended = bool(batch.terminated[b, t])
                ends.add(ended)
                target = reward + (0.0 if ended else 0.5 * float(of.expected[b, t]))
            else:
                following = 0.75 * float(of.taken[b, t + 1]) + 0.25 * target
                target = reward + 0.5 * following
            assert float(found[b, t]) == pytest.approx(target, abs=1e-5)
    assert ends == {True, False}


@torch.no_grad()
def test_expected_values_are_means_over_joint_actions():
    """Linear in the agents' values, so a sum over agents is enough."""
    learner = make()
    batch = everything(collected(learner))
    of = learner._backup(batch)
    output, _, _ = learner._outputs(batch)
    pi = output[0, 1].softmax(-1)
    q, weight = learner._target(batch.obs.state, batch.obs.seen)
    q, weight = q[0, 1], weight[0, 1]
    joint = torch.einsum("a,b,c->abc", *pi)
    total = weight[0] * q[0][:, None, None] + weight[1] * q[1][:, None] + weight[2] * q[2]
    assert float(of.expected[0, 0]) == pytest.approx(float((joint * total).sum()), abs=1e-5)
    chosen = pi.gather(-1, batch.act[0, 1].unsqueeze(-1)).prod()
    assert float(of.probability[0, 1]) == pytest.approx(float(chosen), rel=1e-4)


# -- learning -----------------------------------------------------------------------------


def test_the_actor_gradient_is_that_of_the_surrogate():
    learner = make(optim=sgd(0.0), critic_optim=sgd(0.0), exploration=0.0, max_grad_norm=None)
    buffer = collected(learner)
    batch = everything(buffer)
    update(learner, buffer)
    network = learner.policy.network
    found = [p.grad.clone() for p in network.parameters()]
    output, _, _ = learner._outputs(batch)
    logp = output[:, :-1].log_softmax(-1)
    pi, state = logp.exp().detach(), batch.obs.state[:, :-1]
    q = learner.critics.critic(state, batch.obs.seen[:, :-1]).detach()
    weight = learner.critics.mixer.weights(state).detach()
    one = batch.act.unsqueeze(-1)
    advantage = weight * (q.gather(-1, one).squeeze(-1) - (pi * q).sum(-1))
    rows = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]
    loss = -(advantage * logp.gather(-1, one).squeeze(-1))[rows].mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rewards_are_scaled_before_the_critic_learns_them():
    batch = everything(collected(make()))
    scaled = batch.replace(rew=0.25 * batch.rew)
    for targets in ("on_policy_targets", "off_policy_targets"):
        found = getattr(make(reward_scale=0.25), targets)(batch)
        assert torch.allclose(found, getattr(make(), targets)(scaled))


def test_two_critic_steps_are_two_updates_of_a_team_that_stays():
    still = {"optim": sgd(0.0), "critic_optim": sgd(), "exploration": 0.1}
    once, twice = make(**still), make(**still, critic_steps=2)
    batch = everything(collected(make(exploration=0.1)))
    update(once, Recorded(batch))
    update(once, Recorded(batch))
    update(twice, Recorded(batch))
    one, other = weights(once), weights(twice)
    assert all(torch.allclose(one[n], other[n], atol=1e-6) for n in one if "critics" in n)


def test_the_actor_learns_from_the_newest_episodes():
    """The sampled ones reach only the critic."""
    still = {"recent_episodes": 2, "critic_optim": sgd(0.0), "exploration": 0.1}
    learner, twin = make(**still), make(**still)
    buffer = collected(learner, 6)

    class Newest(EpisodeBuffer):
        def latest(self, episodes):
            assert episodes == 2
            return buffer.latest(2)

        def sample(self, size):
            return buffer.get_episodes(np.array([0])), np.array([0])

    update(learner, buffer)
    update(twin, Newest(learner.spec, 1))
    one, other = weights(learner), weights(twin)
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("policy"))


def test_without_off_policy_weight_the_sample_does_not_matter():
    def trained(weight, slots):
        learner = make(off_policy_weight=weight, seed=3)
        buffer = collected(learner, 6)
        buffer.sample_indices = lambda size: np.array(slots)
        stats = update(learner, buffer)
        return weights(learner), stats.metrics["tree_loss"]

    (one, none), (other, _) = trained(0.0, [0]), trained(0.0, [4])
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert none == 0.0
    (one, some), (other, _) = trained(1.0, [0]), trained(1.0, [4])
    assert any(not torch.equal(one[n], other[n]) for n in one)
    assert some > 0.0


def test_padding_teaches_nothing():
    still = {"exploration": 0.1, "optim": sgd(), "critic_optim": sgd()}
    learner, twin = make(**still), make(**still)
    batch = everything(collected(learner))
    spoilt = copy_batch(batch)
    outside = ~batch.valid
    assert outside.any()
    spoilt.rew[outside] = 1e6
    spoilt.act[outside] = 3

    update(learner, Recorded(batch))
    update(twin, Recorded(spoilt))
    one, other = weights(learner), weights(twin)
    for name in one:
        assert torch.allclose(one[name], other[name], atol=1e-6), name


def test_target_network_follows_on_time():
    learner = make(target_update=2)
    buffer = collected(learner)

    def target():
        return [p.clone() for p in learner._target.parameters()]

    begun = target()
    update(learner, buffer)
    assert all(map(torch.equal, begun, target()))
    update(learner, buffer)
    assert all(map(torch.equal, learner.critics.parameters(), target()))


def test_it_learns_the_two_step_game():
    learner = DOP.for_env(
        TwoStepGame(),
        hidden=(16,),
        critic_hidden=(32,),
        exploration=0.2,
        seed=1,
    )
    buffer = EpisodeBuffer(learner.spec, 500)
    collector = JointCollector(learner, JointVectorEnv(TwoStepGame, 16), buffer)
    for _ in range(150):
        with policy_within_training_step(learner.policy):
            collector.collect(n_episode=16)
        for _ in range(2):
            update(learner, buffer, 32)
    assert collector.collect(n_episode=64).returns.mean() > 6.5  # 7 is sure, 8 takes both


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"gamma": 1.5}, r"DOP\.gamma must be a number in \[0, 1\]"),
        ({"td_lambda": -1.0}, r"DOP\.td_lambda must be a number in \[0, 1\]"),
        ({"tree_lambda": 2.0}, r"DOP\.tree_lambda must be a number in \[0, 1\]"),
        ({"tree_steps": 0}, r"DOP\.tree_steps must be an int >= 1"),
        ({"off_policy_weight": -1.0}, r"DOP\.off_policy_weight must be a number >= 0"),
        ({"critic_steps": 0}, r"DOP\.critic_steps must be an int >= 1"),
        ({"reward_scale": 0.0}, r"DOP\.reward_scale must be a number > 0"),
        ({"recent_episodes": 0}, r"DOP\.recent_episodes must be an int >= 1"),
        ({"target_update": 0}, r"DOP\.target_update must be an int >= 1"),
        ({"entropy_coef": -1.0}, r"DOP\.entropy_coef must be a number >= 0"),
        ({"max_grad_norm": 0.0}, r"DOP\.max_grad_norm must be a number"),
        ({"embed": 0}, r"DOP\.embed must be an int >= 1"),
        ({"exploration": 2.0}, r"exploration.* must be a number in \[0, 1\]"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        make(**settings).policy.epsilon  # noqa: B018


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match=r"DOP\.for_env\.env must be discrete"):
        DOP.for_env(Arena(continuous=True))
