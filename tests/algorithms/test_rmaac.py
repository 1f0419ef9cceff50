"""RMAAC: noise in training only, a noise actor of opposite sign, MAPPO at radius zero."""

import copy
from dataclasses import replace

import pytest
import torch
from learners import Arena, Recorded, collected, same_weights, sgd, update

from robustmarl import training
from robustmarl._seeding import Draws
from robustmarl.adversaries import ByzantineAttacker, SharedObsAdversary
from robustmarl.algorithms import MAPPO, RMAAC
from robustmarl.budgets import LinfBall
from robustmarl.data import EpisodeBuffer, JointCollector, ScriptedController
from robustmarl.envs import SignalMatching, ToyGame
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation import rollout
from robustmarl.learning.optim import adam
from robustmarl.learning.returns import normalize
from robustmarl.perturbers import GaussianObsAdversary
from robustmarl.testing import check_algorithm
from robustmarl.training import AdversarialTraining

SMALL = {"hidden": (8, 8)}


def boxes():
    return Arena(continuous=True)


def made(env=Arena, cls=RMAAC, **settings):
    return cls.for_env(env(), **(SMALL | settings))


def played(algorithm, episodes=8, *, env=Arena, seed=0):
    own = algorithm.perturbers() if hasattr(algorithm, "perturbers") else ()
    buffer = collected(algorithm, episodes, make_env=env, perturb=own, seed=seed)
    return buffer.get_episodes(buffer.sample_indices(0))


@pytest.mark.parametrize("settings", [{}, {"recurrent": True}, {"shared": False}])
@pytest.mark.parametrize("env", [Arena, boxes])
def test_contract(settings, env):
    check_algorithm(lambda env: RMAAC.for_env(env, **SMALL, **settings), env, env_steps=40)


def test_a_bad_norm_of_gradients_is_refused():
    actor = GaussianObsAdversary(LinfBall(epsilon=0.1), 2)
    with pytest.raises(ValueError, match=r"SharedObsAdversary\.max_grad_norm must be a number > 0"):
        SharedObsAdversary(actor, max_grad_norm=0.0)


def test_states_per_agent():
    check_algorithm(lambda env: RMAAC.for_env(env, **SMALL), lambda: ToyGame(horizon=5))


@pytest.mark.parametrize("env", [Arena, boxes])
def test_radius_zero_is_mappo_bit_for_bit(env):
    one = made(env, ball=LinfBall(epsilon=0.0))
    other = made(env, MAPPO)
    kept = copy.deepcopy(one.adversary.actor)
    for seed in range(3):
        batches = [played(a, env=env, seed=seed) for a in (one, other)]
        assert torch.equal(*(b.obs.seen for b in batches))
        first, second = (
            update(a, Recorded(b), repeat=2) for a, b in zip((one, other), batches, strict=True)
        )
        assert first.metrics == second.metrics
    assert same_weights(one.policy, other.policy)
    assert same_weights(one.critic, other.critic)
    assert same_weights(one.adversary.actor, kept)


def test_all_living_agents_are_shown_noise_of_the_stated_law():
    algorithm = made(ball=LinfBall(epsilon=0.25))
    with torch.no_grad():
        for p in algorithm.adversary.actor.mean.parameters():
            p.zero_()
    batch = played(algorithm, 200)
    living = batch.obs.alive[:, :-1] & batch.valid.unsqueeze(-1)
    moved = (batch.obs.seen - batch.obs.obs)[:, :-1][living] / 0.25
    sigma = 0.5 / (1.0 + torch.tensor(-1.0).exp())  # half of sigmoid(1)
    assert bool((moved != 0).all())
    assert float(moved.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(moved.std()) == pytest.approx(float(sigma), abs=0.02)
    normal = torch.distributions.Normal(0.0, sigma)
    logp = normal.log_prob(batch.records["adversary"]["act"][living]).sum(-1)
    torch.testing.assert_close(batch.records["adversary"]["logp"][living], logp)


def test_evaluation_is_clean():
    algorithm = made(lambda: SignalMatching(2))
    own = rollout(algorithm, lambda: SignalMatching(2), episodes=5)
    plain = rollout(made(lambda: SignalMatching(2), MAPPO), lambda: SignalMatching(2), episodes=5)
    assert own.returns.tolist() == plain.returns.tolist()


def hand_losses(algorithm, batch, steps, lr):
    """Take the noise actor's SGD steps as the docstring has them; return the last loss."""
    noise = copy.deepcopy(algorithm.adversary.actor)
    living = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]
    with torch.no_grad():
        raw = algorithm.advantages(batch)[0].expand(living.shape)
    gain = -normalize(raw, living)[living]
    obs, n = batch.obs.obs[:, :-1][living], batch.records["adversary"]["act"][living]
    for _ in range(steps):
        sigma = 0.5 * torch.sigmoid(noise.log_std)
        density = torch.distributions.Normal(noise.mean(obs), sigma)
        ratio = (density.log_prob(n).sum(-1) - batch.records["adversary"]["logp"][living]).exp()
        clipped = ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip)
        entropy = density.entropy()[0].sum()
        loss = -torch.minimum(ratio * gain, clipped * gain).mean()
        noise.zero_grad()
        (loss - algorithm.entropy_coef * entropy).backward()
        with torch.no_grad():
            for p in noise.parameters():
                p -= lr * p.grad
    return noise


@pytest.mark.parametrize("env", [Arena, boxes])
def test_the_noise_actor_takes_ppo_steps_on_minus_the_teams_advantage(env):
    norms = {"noise_optim": sgd(0.2), "max_grad_norm": None}
    algorithm = made(env, entropy_coef=0.03, clip=0.1, **norms)
    batch = played(algorithm, env=env)
    expected = hand_losses(algorithm, batch, steps=3, lr=0.2)
    stats = update(algorithm, Recorded(batch), repeat=3)

    for p, q in zip(algorithm.adversary.actor.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert {"adversary/policy_loss", "adversary/entropy"} < set(stats.metrics)


def test_the_team_learns_as_mappo_does_from_the_same_episodes():
    algorithm, plain = made(), made(cls=MAPPO)
    batch = played(algorithm)
    first, second = (update(a, Recorded(batch), repeat=2) for a in (algorithm, plain))
    assert second.metrics.items() <= first.metrics.items()
    assert same_weights(algorithm.policy, plain.policy)


def test_team_and_noise_learn_from_one_valuation():
    algorithm, asked = made(), []
    batch, advantages = played(algorithm), algorithm.advantages
    algorithm.advantages = lambda batch: asked.append(batch) or advantages(batch)
    for _ in range(2):
        update(algorithm, Recorded(batch), repeat=2)
    assert asked == [batch] * 2  # and the next update values anew


def test_the_noise_needs_no_victim():
    """It is sampled over a script, too, and what it records is the density it drew from."""
    algorithm = made()
    spec, buffer = algorithm.spec, EpisodeBuffer(algorithm.spec, 4)
    script = ScriptedController(spec, lambda now: now.mask.int().argmax(-1))
    engine = JointVectorEnv(Arena, 2)
    JointCollector(script, engine, buffer, perturb=algorithm.perturbers()).collect(n_episode=4)
    batch = buffer.sample(0)[0]
    living = batch.obs.alive[:, :-1] & batch.valid.unsqueeze(-1)
    act = batch.records["adversary"]["act"][living]
    logp = algorithm.adversary.actor.log_prob(batch.obs.obs[:, :-1][living], act).detach()
    torch.testing.assert_close(batch.records["adversary"]["logp"][living], logp)
    assert not batch.records["adversary"]["logp"][~living].any()


def test_episodes_without_noise_leave_the_noise_actor_alone():
    algorithm = made()
    kept = copy.deepcopy(algorithm.adversary.actor)
    batch = played(made(cls=MAPPO))
    stats = update(algorithm, Recorded(batch))
    assert same_weights(algorithm.adversary.actor, kept)
    assert "adversary/entropy" not in stats.metrics


def test_the_noise_learns_to_hide_the_context():
    """Noise that may invert the shown context lowers the return of a team that trusts it."""

    def game():
        return SignalMatching(2, horizon=5)

    steps = {"num_envs": 16, "log": training.Log(progress=False)}
    team = made(game, MAPPO, optim=adam(1e-2), entropy_coef=0.0)
    training.run(team, game, env_steps=2400, **steps)
    ball, fast = LinfBall(epsilon=1.0), adam(1e-2)
    robust = made(game, ball=ball, optim=sgd(1e-9), noise_optim=fast, entropy_coef=0.0)
    robust.policy.load_state_dict(team.policy.state_dict())
    before = rollout(robust, game, episodes=50, perturb=robust.adversary.deployed()).returns.mean()
    training.run(robust, game, env_steps=2400, **steps)
    after = rollout(robust, game, episodes=50, perturb=robust.adversary.deployed()).returns.mean()
    assert rollout(robust, game, episodes=50).returns.mean() > 4.5
    assert after < before - 1.0


def test_a_run_resumes_bit_for_bit(tmp_path):
    common = {"num_envs": 3, "learn": training.OnPolicy(episodes_per_round=4, epochs=2)}
    quiet = training.Log(progress=False)
    kept, resumed = replace(quiet, logdir=tmp_path), replace(quiet, logdir=tmp_path, resume=True)
    whole, parts, again = made(), made(), made()
    training.run(whole, Arena, env_steps=120, interval=60, log=quiet, **common)
    training.run(parts, Arena, env_steps=60, interval=60, log=kept, **common)
    training.run(again, Arena, env_steps=120, interval=60, log=resumed, **common)
    assert same_weights(whole, again)
    assert not same_weights(whole.adversary, made().adversary)


def test_a_fresh_adversary_attacks_it():
    team = made()
    attacker = ByzantineAttacker.against(team, ["unit_0"], hidden=(16,))
    kept, adversary = copy.deepcopy(team.policy), copy.deepcopy(attacker.policy)
    attack = AdversarialTraining(team, attacker, team_every=None)
    training.run(attack, Arena, env_steps=60, num_envs=3, log=training.Log(progress=False))
    assert same_weights(team.policy, kept)
    assert same_weights(attack.policy.copied, kept)
    assert not same_weights(attacker.policy, adversary)


def test_the_bounded_standard_deviation():
    noise = GaussianObsAdversary(LinfBall(epsilon=1.0), 4, max_std=0.5)
    twin = noise.with_epsilon(2.0)
    assert twin.max_std == 0.5
    obs = torch.zeros(1, 4)
    for value in (-50.0, 0.0, 50.0):
        with torch.no_grad():
            noise.log_std.fill_(value)
        sigma = 0.5 * torch.sigmoid(torch.tensor(value))
        for one in (noise, twin):
            at_mean = one.log_prob(obs, one.mean(obs)).detach()
            expected = -4 * (sigma.log() + 0.5 * torch.log(torch.tensor(2 * torch.pi)))
            torch.testing.assert_close(at_mean[0], expected)
    u, _ = noise.sample(obs, Draws(torch.zeros(1, dtype=torch.int64)))
    assert float(noise.moved(obs, u).abs().max()) <= 1.0


def test_bad_settings():
    with pytest.raises(ValueError, match=r"GaussianObsAdversary\.max_std must be a number > 0"):
        GaussianObsAdversary(LinfBall(epsilon=1.0), 4, max_std=0.0)
    with pytest.raises(ValueError, match=r"ball\.epsilon must be one number or 3 numbers"):
        made(ball=LinfBall(epsilon=(0.1, 0.2)))
    with pytest.raises(TypeError, match="noise_lr"):
        made(noise_lr=1.0)
