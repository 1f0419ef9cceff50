"""COMA: counterfactual advantages, TD(lambda) targets, exploration, learning."""

import functools
import itertools

import numpy as np
import pytest
import torch
from learners import Arena, Recorded, collected, copy_batch, sgd, weights
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import training
from robustmarl._seeding import Draws
from robustmarl.algorithms import COMA
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector
from robustmarl.envs import ToyGame, climbing
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.joint import MASKED, StepContext
from robustmarl.learning.optim import adam
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.networks import ActionCritic
from robustmarl.policies import ExploringPolicy
from robustmarl.schedules import Linear
from robustmarl.testing import check_algorithm

SMALL = {"hidden": (8,), "critic_hidden": (8,)}


def make(make_env=Arena, **settings):
    return COMA.for_env(make_env(), **{**SMALL, **settings})


def update(learner, buffer, repeat=1):
    with policy_within_training_step(learner.policy):
        return learner.update(buffer=buffer, batch_size=None, repeat=repeat)


def everything(buffer):
    return buffer.get_episodes(np.arange(len(buffer)))


def context_of(batch, step):
    yes = torch.ones(len(batch.act), dtype=torch.bool)
    return StepContext(
        obs=batch.obs.obs[:, step],
        seen=batch.obs.seen[:, step],
        mask=batch.obs.mask[:, step],
        state=batch.obs.state[:, step],
        alive=batch.obs.alive[:, step],
        observed=batch.obs.alive[:, step],
        last_act=batch.act[:, step],
        hidden=None,
        step=torch.zeros(len(yes), dtype=torch.int64),
        keys=torch.zeros(len(yes), dtype=torch.int64),
        live=yes,
        terminal=~yes,
    )


@pytest.mark.parametrize("settings", [{}, {"recurrent": False}, {"layer_norm": True}])
def test_contract(settings):
    if settings.get("layer_norm"):
        settings = {**settings, "recurrent": False, "last_action": True}
    check_algorithm(functools.partial(COMA.for_env, **SMALL, **settings), Arena, env_steps=40)


def test_states_per_agent():
    make_env = functools.partial(ToyGame, horizon=5)
    check_algorithm(functools.partial(COMA.for_env, **SMALL), make_env, env_steps=20)


def test_the_critic_sees_others_actions_and_not_ones_own():
    torch.manual_seed(0)
    critic = ActionCritic(5, 3, 3, 4, hidden=(8,), others=True)
    state, obs = torch.randn(2, 5), torch.randn(2, 3, 3)
    act = torch.tensor([[0, 1, 2], [3, 3, 3]])
    q = critic(state, obs, act)
    assert q.shape == (2, 3, 4)
    other = act.clone()
    other[:, 1] = 0
    changed = ((critic(state, obs, other) - q).abs() > 1e-5).any(-1)
    assert changed.tolist() == [[True, False, True], [True, False, True]]
    many = critic(state, obs, torch.stack([act, other]))
    assert torch.allclose(many[0], q, atol=1e-6)


@torch.no_grad()
def test_advantages_are_counterfactual():
    learner = make()
    batch = everything(collected(learner))
    context = context_of(batch, 1)
    logits = torch.randn(*context.mask.shape).masked_fill(~context.mask, MASKED)
    act = batch.act[:, 1]
    policy = logits.softmax(-1)
    found = learner.action_advantages(context, logits, act.unsqueeze(0))[0]
    assert (policy * found).sum(-1).abs().max() < 1e-5
    for row, i, a in itertools.product(range(2), range(3), range(4)):
        joint = act[row].clone()
        joint[i] = a
        state, seen = context.state[row : row + 1], context.seen[row : row + 1]
        q = learner.critic(state, seen, joint[None])[0, i]
        expected = q[a] - policy[row, i] @ q
        assert float(found[row, i, a]) == pytest.approx(float(expected), abs=1e-5)
    assert not COMA.additive_advantages


class Table(torch.nn.Module):
    """Stands for a target critic: Q = 100 b + 10 t + i + action / 2."""

    def forward(self, state, obs, act):
        b, t, n = act.shape
        base = 100.0 * torch.arange(b)[:, None, None] + 10.0 * torch.arange(t)[:, None]
        base = base + torch.arange(n)
        return base.unsqueeze(-1) + 0.5 * torch.arange(4.0)


def test_targets_by_hand():
    learner = make(gamma=0.5, td_lambda=0.25)
    batch = copy_batch(everything(collected(learner, 8)))
    learner._target = Table()
    found = learner.targets(batch)
    output, _, _ = learner._outputs(batch)
    policy = output.softmax(-1).detach()
    kinds = set()
    for b in range(len(batch.act)):
        steps = int(batch.valid[b].sum())
        for i in range(3):
            following = None
            for t in range(steps - 1, -1, -1):
                base = 100.0 * b + 10.0 * (t + 1) + i
                reward = float(batch.rew[b, t])
                if t == steps - 1:
                    ended = bool(batch.terminated[b, t])
                    kinds.add(ended)
                    value = base + 0.5 * float(policy[b, t + 1, i] @ torch.arange(4.0))
                    following = reward + (0.0 if ended else 0.5 * value)
                else:
                    value = base + 0.5 * float(batch.act[b, t + 1, i])
                    following = reward + 0.5 * (0.75 * value + 0.25 * following)
                assert float(found[b, t, i]) == pytest.approx(following, rel=1e-5)
    assert kinds == {True, False}


def test_the_actor_gradient_is_that_of_the_surrogate():
    learner = make(optim=sgd(0.0), critic_optim=sgd(0.0), exploration=0.2, max_grad_norm=None)
    buffer = collected(learner)
    batch = everything(buffer)
    update(learner, buffer)
    network = learner.policy.network
    found = [p.grad.clone() for p in network.parameters()]
    output, _, _ = learner._outputs(batch)
    mask = batch.obs.mask[:, :-1]
    soft = output[:, :-1].softmax(-1)
    mixed = 0.8 * soft + 0.2 * mask / mask.sum(-1, keepdim=True).clamp(min=1)
    q = learner.critic(batch.obs.state[:, :-1], batch.obs.seen[:, :-1], batch.act).detach()
    advantage = q - (mixed.detach() * q).sum(-1, keepdim=True)
    one = batch.act.unsqueeze(-1)
    rows = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]
    chosen = torch.where(rows, mixed.gather(-1, one).squeeze(-1), 1.0).log()
    loss = -(advantage.gather(-1, one).squeeze(-1) * chosen)[rows].mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rewards_are_scaled_before_the_critic_learns_them():
    batch = everything(collected(make()))
    scaled = batch.replace(rew=0.25 * batch.rew)
    assert torch.allclose(make(reward_scale=0.25).targets(batch), make().targets(scaled))


@pytest.mark.parametrize("target_update", [1, 2, 5])
def test_repeated_critic_steps_see_a_target_as_new_as_single_ones(target_update):
    still = {"optim": sgd(0.0), "critic_optim": sgd(), "target_update": target_update}
    singly, together = make(**still, exploration=0.1), make(**still, exploration=0.1)
    batch = everything(collected(singly))
    for _ in range(3):
        update(singly, Recorded(batch))
    update(together, Recorded(batch), repeat=3)
    one, other = weights(singly), weights(together)
    assert all(torch.allclose(one[n], other[n], atol=1e-6) for n in one if "critic" in n)


def test_padding_teaches_nothing():
    still = {"seed": 1, "exploration": 0.1, "optim": sgd(), "critic_optim": sgd()}
    learner, twin = make(**still), make(**still)
    batch = everything(collected(learner))
    spoilt = copy_batch(batch)
    outside = ~batch.valid
    spoilt.rew[outside] = 1e6
    spoilt.act[outside] = 3
    spoilt = spoilt.replace(obs=spoilt.obs.replace(seen=spoilt.obs.seen.clone()))
    spoilt.obs.seen[:, 1:][outside] = 7.0
    assert outside.any()

    update(learner, Recorded(batch))
    update(twin, Recorded(spoilt))
    one, other = weights(learner), weights(twin)
    for name in one:
        assert torch.allclose(one[name], other[name], atol=1e-6), name


def test_the_dead_have_values_and_no_say():
    """What the team goes on to earn without an agent is part of its last action's value."""
    learner = make(exploration=0.1, optim=sgd(), critic_optim=sgd(0.0))
    twin = make(exploration=0.1, optim=sgd(), critic_optim=sgd(0.0))
    batch = everything(collected(learner))
    spoilt = copy_batch(batch)
    dead = (~batch.obs.alive[:, :-1] & batch.valid.unsqueeze(-1)).nonzero()
    assert len(dead) > 0
    spoilt = spoilt.replace(obs=spoilt.obs.replace(seen=spoilt.obs.seen.clone()))
    spoilt.obs.seen[tuple(dead.T)] = 7.0
    assert not torch.allclose(learner.targets(batch), learner.targets(spoilt))
    update(learner, Recorded(batch))
    update(twin, Recorded(spoilt))
    one, other = weights(learner), weights(twin)
    assert all(torch.allclose(one[n], other[n], atol=1e-7) for n in one if "policy" in n)


def test_target_network_follows_on_time():
    learner = make(target_update=3)
    buffer = collected(learner)

    def target():
        return [p.clone() for p in learner._target.parameters()]

    begun = target()
    update(learner, buffer, repeat=2)
    assert all(map(torch.equal, begun, target()))
    update(learner, buffer, repeat=1)
    assert all(map(torch.equal, learner.critic.parameters(), target()))
    assert int(learner.critic_steps) == 3
    assert learner.policy.counted("updates") == 2


def policy_of(epsilon, **settings):
    learner = make(exploration=epsilon, **settings)
    return learner.policy


def test_exploration_is_mixed_after_the_softmax():
    policy = policy_of(0.5)
    logits = torch.tensor([[[2.0, 0.0, MASKED, 0.0]]])
    found = policy.log_policy(logits)[0, 0].exp()
    expected = 0.5 * logits[0, 0].softmax(-1) + 0.5 * torch.tensor([1 / 3, 1 / 3, 0.0, 1 / 3])
    assert torch.allclose(found, expected, atol=1e-6)
    size = 60_000
    mask = (logits > MASKED).expand(size, 1, 4)
    act, logp = policy.select(logits.expand(size, 1, 4), mask, Draws(torch.arange(size)), True)
    share = torch.bincount(act[:, 0], minlength=4) / size
    assert (share - expected).abs().max() < 0.01
    assert torch.allclose(logp.exp(), expected[act], atol=1e-6)
    assert torch.allclose(policy.log_prob(logits, act[:1]), logp[:1])
    act, _ = policy.select(logits.expand(size, 1, 4), mask, Draws(torch.arange(size)), False)
    share = torch.bincount(act[:, 0], minlength=4) / size
    assert (share - logits[0, 0].softmax(-1)).abs().max() < 0.01  # none outside training


def test_greedy_evaluation():
    policy = policy_of(1.0, deterministic_eval=True)
    logits = torch.tensor([[[0.0, 0.1, 0.0, 0.0]]]).expand(50, 1, 4)
    mask = torch.ones(50, 1, 4, dtype=torch.bool)
    assert (policy.select(logits, mask, Draws(torch.arange(50)), False)[0] == 1).all()
    assert len(policy.select(logits, mask, Draws(torch.arange(50)), True)[0].unique()) == 4


def test_padding_has_a_finite_policy():
    policy = policy_of(0.3)
    logits = torch.full((1, 1, 4), MASKED, requires_grad=True)
    found = policy.entropy(logits)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()


def test_exploration_follows_its_schedule():
    policy = policy_of(Linear(0.5, 0.0, over=10, unit="env_steps"))
    assert isinstance(policy, ExploringPolicy)
    assert policy.epsilon == 0.5
    policy.count("env_steps", 5)
    assert policy.epsilon == 0.25


def test_it_learns_a_matrix_game():
    """The climbing game's best response from a uniform start is not its optimum."""
    learner = COMA.for_env(
        climbing(),
        hidden=(16,),
        critic_hidden=(32,),
        exploration=0.1,
        optim=adam(5e-3),
        critic_optim=adam(5e-3),
        seed=2,
    )
    buffer = EpisodeBuffer(learner.spec, 64)
    collector = JointCollector(learner, JointVectorEnv(climbing, 16), buffer)
    returns = []
    for _ in range(60):
        buffer.reset()
        with policy_within_training_step(learner.policy):
            returns.append(collector.collect(n_episode=64).returns.mean())
        update(learner, buffer, repeat=4)
    played = collector.collect(n_episode=64).returns.mean()
    assert np.mean(returns[:3]) < 0.0
    assert played > 4.0


def test_minibatches_are_refused_where_they_were_ignored():
    learner = make()
    rule = r"COMA\.learn\.minibatch must be None: actors take a step per round, got 5\."
    with pytest.raises(ValueError, match=rule):
        learner.learn(collected(learner).latest(4), 5, 2)
    learn = training.OnPolicy(batch_size=5)
    with pytest.raises(ValueError, match=rule):
        training.run(learner, Arena, env_steps=40, learn=learn, log=training.Log(progress=False))


def test_penalties_join_the_actors_step_only():
    class Robust(ActionLossRegularizer, COMA):
        pass

    attack = PGD(ball=LinfBall(epsilon=0.1), steps=2)
    learner = Robust.for_env(
        Arena(), action_loss=ActionLoss(attack=attack, weight=1.0, max_rows=8), **SMALL
    )
    plain = make()
    buffer = collected(plain)
    stats = update(learner, buffer, repeat=2)
    update(plain, buffer, repeat=2)
    assert "action_loss/loss" in stats.metrics
    one, other = weights(learner), weights(plain)
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("critic"))
    assert any(not torch.equal(one[n], other[n]) for n in one if n.startswith("policy"))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"gamma": 1.5}, r"COMA\.gamma must be a number in \[0, 1\]"),
        ({"td_lambda": -1.0}, r"COMA\.td_lambda must be a number in \[0, 1\]"),
        ({"target_update": 0}, r"COMA\.target_update must be an int >= 1"),
        ({"reward_scale": 0.0}, r"COMA\.reward_scale must be a number > 0"),
        ({"entropy_coef": -1.0}, r"COMA\.entropy_coef must be a number >= 0"),
        ({"max_grad_norm": 0.0}, r"COMA\.max_grad_norm must be a number"),
        ({"critic_hidden": ()}, r"\.critic_hidden must be at least one width"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        make(**settings)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match=r"COMA\.for_env\.env must be discrete"):
        COMA.for_env(Arena(continuous=True))
