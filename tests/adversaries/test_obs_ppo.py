"""ATLA's adversary: its density, its loss written out, and a bandit that it must solve."""

import copy
from functools import partial

import pytest
import torch
from learners import collected, joint_batch, sgd

from robustmarl._seeding import Draws
from robustmarl.adversaries import ObsAdversaryPPO, Sample
from robustmarl.algorithms import QMIX
from robustmarl.budgets import LinfBall
from robustmarl.envs import SignalMatching, ToyGame, TwoStepGame
from robustmarl.learning.optim import adam
from robustmarl.networks import Critic
from robustmarl.perturbers import GaussianObsAdversary

BALL = LinfBall(epsilon=0.5)


def standard(size):
    """Return an adversary with mean 0 and standard deviation 1."""
    adversary = GaussianObsAdversary(BALL, size, hidden=(4,))
    with torch.no_grad():
        for p in adversary.mean.parameters():
            p.zero_()
    return adversary


def test_a_share_of_coordinates_saturates():
    """2 (1 - Phi(1)) = 0.3173 of standard normal draws lie beyond one."""
    adversary = standard(10)
    obs = torch.zeros(20_000, 10)
    u, _ = adversary.sample(obs, Draws(torch.arange(20_000)))
    moved = adversary.moved(obs, u)

    assert float(moved.abs().max()) == 0.5
    assert float((moved.abs() == 0.5).float().mean()) == pytest.approx(0.3173, abs=0.005)


def test_a_sample_comes_with_its_density_and_the_attack_acts_by_its_mean():
    torch.manual_seed(0)
    actor = GaussianObsAdversary(BALL, 3, hidden=(4,))
    obs = torch.randn(5, 3)
    u, logp = actor.sample(obs, Draws(torch.arange(5)))
    torch.testing.assert_close(logp, actor.log_prob(obs, u).detach())
    assert torch.equal(u, actor.sample(obs, Draws(torch.arange(5)))[0])
    assert torch.equal(actor(None, obs), actor.moved(obs, actor.mean(obs).detach()))


def test_the_density_is_that_of_the_unclipped_sample():
    adversary = standard(1)
    found = adversary.log_prob(torch.zeros(1, 1), torch.full((1, 1), 3.0))
    assert found.item() == pytest.approx(-5.4189, abs=1e-4)
    two = standard(2).log_prob(torch.zeros(1, 2), torch.full((1, 2), 3.0))
    assert two.item() == pytest.approx(2 * -5.4189, abs=2e-4)  # summed over coordinates
    assert standard(2).entropy().item() == pytest.approx(2 * 1.418939, abs=1e-5)


def learner(size=3, state=2, **settings):
    torch.manual_seed(0)
    settings = {"optim": sgd(0.1), "epochs": 1, "max_grad_norm": 1e9} | settings
    adversary = GaussianObsAdversary(BALL, size, hidden=(4,))
    return ObsAdversaryPPO(adversary, Critic(state, hidden=(4,)), **settings)


def lived(lengths=(4, 2, 3), steps=4, agents=2, size=3):
    """Return episodes in which an adversary played; agent 1 dies in the first one."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    count = len(lengths)
    alive = torch.ones(count, steps + 1, agents, dtype=torch.bool)
    alive[0, 2:, 1] = False
    valid = torch.arange(steps) < torch.tensor(lengths)[:, None]
    terminated = torch.zeros(count, steps, dtype=torch.bool)
    terminated[1, 1] = True  # the others end by a time limit
    u, logp = draw(count, steps, agents, size), -5 + 0.5 * draw(count, steps, agents)
    return joint_batch(
        draw(count, steps + 1, agents, size),
        draw(count, steps + 1, 2),
        alive,
        act=torch.zeros(count, steps, agents, dtype=torch.int64),
        rew=-draw(count, steps),
        terminated=terminated,
        valid=valid,
        records={"adversary": {"act": u, "logp": logp}},
    )


def hand_loss(made, batch):
    (actor, critic), played = (made.actor, made.critic), batch.record("adversary")
    advantages, ratios, errors = [], [], []
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        values, following = critic(batch.obs.state[b]), 0.0
        for t in reversed(range(length)):
            v, v_next = values[t].detach(), values[t + 1].detach()
            bootstrap = 0.0 if batch.terminated[b, t] else 1.0
            delta = -batch.rew[b, t] + made.gamma * bootstrap * v_next - v
            over = t == length - 1
            following = delta + (0.0 if over else made.gamma * made.gae_lambda) * following
            errors.append((values[t] - following - v).square())
            for i in range(2):
                if batch.obs.alive[b, t, i] and played["logp"][b, t, i] != 0:
                    density = torch.distributions.Normal(
                        actor.mean(batch.obs.obs[b, t, i]), actor.log_std.exp()
                    )
                    logp = density.log_prob(played["act"][b, t, i]).sum()
                    advantages.append(following)
                    ratios.append((logp - played["logp"][b, t, i]).exp())
    advantage, ratio = torch.stack(advantages), torch.stack(ratios)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = ratio.clamp(1 - made.clip, 1 + made.clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
    entropy = torch.distributions.Normal(0.0, actor.log_std.exp()).entropy().sum()
    return -surrogate + 0.5 * torch.stack(errors).mean() - made.entropy_coef * entropy


def test_an_epoch_is_one_sgd_step_on_the_written_loss():
    made = learner(gamma=0.9, gae_lambda=0.8, entropy_coef=0.01)
    batch = lived()
    batch.record("adversary")["logp"][2, 0, 0] = 0.0  # was not attacked
    twin = copy.deepcopy(made)
    loss = hand_loss(twin, batch)
    loss.backward()
    figures = made.learn(Sample(fresh=batch))

    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for before, after in zip(twin.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-4, atol=1e-6)


def test_padding_does_not_matter():
    one, other = learner(), learner()
    batch, dirty = lived(), lived()
    for b, length in enumerate((4, 2, 3)):
        dirty.obs.obs[b, length + 1 :] = 50.0
        dirty.obs.state[b, length + 1 :] = 50.0
        dirty.rew[b, length:] = 1e4
        dirty.record("adversary")["act"][b, length:] = 2.0
        dirty.terminated[b, length:] = True
    assert one.learn(Sample(fresh=batch)) == other.learn(Sample(fresh=dirty))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_nothing_attacked_is_nothing_learned():
    made, batch = learner(), lived()
    batch.record("adversary")["logp"][:] = 0.0
    before = [p.clone() for p in made.parameters()]
    assert made.learn(Sample(fresh=batch)) == {}
    assert made.learn(Sample()) == {}
    assert all(torch.equal(p, q) for p, q in zip(before, made.parameters(), strict=True))


def moved_by(batch):
    """Return the weights after one epoch on a batch."""
    made = learner()
    made.learn(Sample(fresh=batch))
    return list(made.parameters())


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


def test_an_episode_that_was_left_alone_teaches_nothing():
    alone, other = lived(), lived()
    for batch in (alone, other):
        batch.record("adversary")["logp"][2] = 0.0
    other.rew[2] = 100.0
    other.obs.state[2] = 5.0
    assert same(moved_by(alone), moved_by(other))
    attacked = lived()
    attacked.rew[2] = 100.0
    assert not same(moved_by(lived()), moved_by(attacked))


def test_steps_after_its_agents_died_still_teach_its_critic():
    """Nothing can be attacked in that piece of an episode; what it earns is still to be known."""
    left, other = lived(), lived()
    for batch in (left, other):
        batch.obs.alive[2, 1:, 0] = False  # agent 0 is the one that is attacked
        batch.obs.alive[2, 0, 0] = False
        batch.record("adversary")["logp"][:, :, 1] = 0.0
        batch.record("adversary")["logp"][2] = 0.0
    other.rew[2] = 100.0
    assert not same(moved_by(left), moved_by(other))


def test_half_of_the_episodes_are_attacked_and_these_throughout():
    game = partial(ToyGame, horizon=5)
    made = ObsAdversaryPPO.for_env(game(), BALL, episodes=0.5, hidden=(4,))
    team = QMIX.for_env(game(), hidden=(4,))
    batch = collected(team, 40, perturb=[made.perturber()], make_env=game).latest(40)
    attacked = batch.record("adversary")["logp"] != 0
    share = attacked.flatten(1).any(dim=1)
    assert torch.equal(share, attacked.flatten(1).all(dim=1))
    assert 10 <= int(share.sum()) <= 30
    assert made.deployed().episodes == 1.0


def test_the_ratio_is_one_on_the_first_epoch():
    made, batch = learner(), lived()
    played = batch.record("adversary")
    with torch.no_grad():
        played["logp"].copy_(made.actor.log_prob(batch.obs.obs[:, :-1], played["act"]))
    assert made.learn(Sample(fresh=batch))["policy_loss"] == pytest.approx(0.0, abs=1e-6)


def test_learns_to_lower_the_reward_of_a_bandit():
    """The team earns the first coordinate of the perturbation, so it must become negative."""
    torch.manual_seed(0)
    made = learner(size=2, state=1, optim=adam(3e-3), epochs=10, max_grad_norm=0.5)
    obs, valid = torch.zeros(64, 2, 1, 2), torch.ones(64, 1, dtype=torch.bool)
    for number in range(100):
        draws = Draws(torch.arange(64) + 64 * number)
        u, logp = made.actor.sample(obs[:, 0, 0], draws)
        team_reward = made.actor.moved(obs[:, 0, 0], u)[:, 0] / BALL.epsilon
        alive = torch.ones(64, 2, 1, dtype=torch.bool)
        batch = joint_batch(
            obs,
            torch.zeros(64, 2, 1),
            alive,
            act=torch.zeros(64, 1, 1, dtype=torch.int64),
            valid=valid,
            terminated=valid,
            rew=team_reward[:, None],
            records={"adversary": {"act": u[:, None, None], "logp": logp[:, None, None]}},
        )
        made.learn(Sample(fresh=batch))

    assert made.actor.mean(obs[0, 0])[0, 0].item() < -0.5


def test_for_env_reads_sizes_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    made = ObsAdversaryPPO.for_env(SignalMatching(), BALL, seed=3, hidden=(8,))
    assert torch.equal(before, torch.get_rng_state())
    assert made.actor.obs_size == 2
    assert made.critic.first.in_features == 2
    same = ObsAdversaryPPO.for_env(SignalMatching(), BALL, seed=3, hidden=(8,))
    for p, q in zip(made.parameters(), same.parameters(), strict=True):
        assert torch.equal(p, q)
    per_agent = ObsAdversaryPPO.for_env(ToyGame(), BALL)
    assert per_agent.critic.first.in_features == 2 * 5


def test_episodes_of_others_are_refused():
    batch = lived().replace(records={})
    with pytest.raises(ValueError, match=r"learn\.sample must be of episodes that it played in"):
        learner().learn(Sample(fresh=batch))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"gamma": 2.0}, ValueError, r"ObsAdversaryPPO\.gamma must be a number in \[0, 1\], got 2"),
        ({"gae_lambda": "x"}, TypeError, r"gae_lambda must be a number in \[0, 1\], got 'x'"),
        ({"clip": 0.0}, ValueError, r"clip must be a number > 0, got 0\.0"),
        ({"entropy_coef": -1e-3}, ValueError, r"entropy_coef must be a number >= 0, got -0\.001"),
        ({"epochs": 0}, ValueError, r"epochs must be an int >= 1, got 0"),
        ({"max_grad_norm": 0.0}, ValueError, r"max_grad_norm must be a number > 0, got 0\.0"),
    ],
)
def test_bad_settings(settings, kind, text):
    with pytest.raises(kind, match=text):
        learner(**settings)


def test_a_ball_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"ball\.epsilon must be one number or 2 numbers"):
        ObsAdversaryPPO.for_env(SignalMatching(), LinfBall(epsilon=(0.1, 0.2, 0.3)))


def test_coordinates_that_do_not_exist_do_not_count():
    """An agent of one coordinate beside one of three: a density of one coordinate."""
    actor = standard(3)
    obs, u = torch.zeros(2, 3), torch.tensor([[1.0, 7.0, 7.0], [1.0, 1.0, 1.0]])
    real = torch.tensor([[True, False, False], [True, True, True]])
    one = -0.5 - 0.918939
    found = actor.log_prob(obs, u, real)
    assert found.tolist() == pytest.approx([one, 3 * one], abs=1e-5)
    drawn, logp = actor.sample(obs, Draws(torch.arange(2)), real)
    torch.testing.assert_close(logp, actor.log_prob(obs, drawn, real).detach())
    assert actor.entropy(real).item() == pytest.approx(2 * 1.418939, abs=1e-5)  # mean of 1 and 3


def test_other_kinds_of_balls_and_optimizers_are_refused():
    with pytest.raises(TypeError, match=r"ObsAdversaryPPO\.ball must be a LinfBall, got 0\.1"):
        ObsAdversaryPPO.for_env(TwoStepGame(), 0.1)
    with pytest.raises(TypeError, match=r"ObsAdversaryPPO\.optim must be an optimizer factory"):
        ObsAdversaryPPO.for_env(TwoStepGame(), LinfBall(epsilon=0.1), optim=1e-3)


def test_the_papers_preset_is_that_of_the_release():
    """RMSprop at 1e-6, no entropy bonus, a norm of 10; networks and the rest as ever."""
    made = ObsAdversaryPPO.for_env(SignalMatching(2), BALL, preset="paper")
    (optim,) = (optimizer._optim for optimizer in made.optimizers)
    assert isinstance(optim, torch.optim.RMSprop)
    group = optim.param_groups[0]
    assert (group["lr"], group["alpha"], group["eps"]) == (1e-6, 0.99, 1e-5)
    figures = made.gamma, made.gae_lambda, made.clip, made.epochs, made.entropy_coef
    assert figures == (0.98, 0.9, 0.2, 10, 0.0)
    assert made.optimizers[0]._max_grad_norm == 10.0
    widths = [layer.out_features for layer in made.actor.mean if hasattr(layer, "out_features")]
    assert widths == [64, 64, 2]
    torch.testing.assert_close(made.actor.log_std.detach(), torch.zeros(2))


def test_what_is_given_counts_for_more_than_the_preset():
    given = {"epochs": 3, "optim": sgd(0.1)}
    made = ObsAdversaryPPO.for_env(SignalMatching(2), BALL, preset="paper", **given)
    assert (made.epochs, made.entropy_coef) == (3, 0.0)
    assert isinstance(made.optimizers[0]._optim, torch.optim.SGD)
    with pytest.raises(ValueError, match=r"ObsAdversaryPPO\.preset must be one of"):
        ObsAdversaryPPO.for_env(SignalMatching(2), BALL, preset="release")
