"""PA-AD: its update written by hand, what it deploys, and a game that it must spoil."""

import copy

import pytest
import torch
from learners import Arena, collected, same_weights, sgd, weights

from robustmarl.adversaries import PAAD, Population, Sample
from robustmarl.algorithms import MAPPO, QMIX, VDN
from robustmarl.budgets import LinfBall
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import rollout
from robustmarl.learning.optim import adam
from robustmarl.perturbers import DirectedObsPerturber, stor
from robustmarl.schedules import Linear
from robustmarl.testing import check_adversary
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run

BALL = LinfBall(epsilon=0.3)
QUIET = Log(progress=False)


def paad(env, epsilon=0.3, **settings):
    return PAAD.for_env(env, stor(LinfBall(epsilon=epsilon)), hidden=(8,), **settings)


@pytest.mark.parametrize("cls", [VDN, QMIX, MAPPO])
@pytest.mark.parametrize("mixer", ["vdn", "qmix"])
def test_it_keeps_the_contract(cls, mixer):
    check_adversary(
        lambda env: paad(env, mixer=mixer), lambda env: cls.for_env(env, hidden=(8,)), Arena
    )


def test_recurrent_victims_several_directors_and_single_agents():
    def team(env):
        return QMIX.for_env(env, hidden=(8,), recurrent=True)

    check_adversary(lambda env: paad(env, agents=["unit_0"], recurrent=False), team, Arena)
    check_adversary(lambda env: Population([paad(env), paad(env, seed=1)]), team, Arena)


def lived(made, episodes=6):
    team = QMIX.for_env(Arena(), hidden=(8,))
    return collected(team, episodes, perturb=[made.perturber()]).latest(episodes)


def test_an_update_is_double_q_learning_on_the_reward_turned():
    settings = {"optim": sgd(0.1), "gamma": 0.9, "max_grad_norm": None}
    made = paad(Arena(), mixer="vdn", **settings)
    batch = lived(made)
    with torch.no_grad():
        for weight in made.lagged.agents.parameters():
            weight.mul_(1.1)
    twin = copy.deepcopy(made)
    target = batch.record("director")["target"]
    errors = []
    for b, length in enumerate(batch.valid.sum(1).tolist()):
        last = torch.cat([torch.full((1, 3), -1), target[b, :length]])[None]
        obs, mask = batch.obs.obs[b, : length + 1][None], batch.obs.mask[b, : length + 1]
        q = twin.director.network.unroll(obs, last)[0][0]
        lagged = twin.lagged.agents.unroll(obs, last)[0][0].detach()
        for t in range(length):
            taken = sum(q[t, i, target[b, t, i]] for i in range(3))
            best = q[t + 1].masked_fill(~mask[t + 1], -1e9).argmax(-1)
            later = sum(lagged[t + 1, i, best[i]] for i in range(3))
            going = 0.0 if batch.terminated[b, t] else 0.9
            errors.append((taken + batch.rew[b, t] - going * later).square())
    loss = torch.stack(errors).mean()
    loss.backward()
    figures = made.learn(Sample(drawn=batch))

    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    pairs = zip(twin.director.parameters(), made.director.parameters(), strict=True)
    for before, after in pairs:
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-4, atol=1e-6)


def test_padding_and_episodes_without_attack_do_not_matter():
    made = paad(Arena(), episodes=0.5)
    batch = lived(made, 12)
    attacked = batch.record("director")["attacked"].flatten(1).any(1)
    one, other = copy.deepcopy(made), copy.deepcopy(made)
    figures = one.learn(Sample(drawn=batch))
    short = batch.select(attacked)
    short.rew[~short.valid] = 1e4
    again = other.learn(Sample(drawn=short))
    assert figures["loss"] == pytest.approx(again["loss"], rel=1e-5)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_targets_follow_and_exploration_fades_with_what_was_played():
    fading = Linear(1.0, 0.0, over=10, unit="episodes")
    made = paad(Arena(), exploration=fading, target_update=2, target_unit="updates")
    batch = lived(made)
    assert made.director.epsilon == 1.0
    made.learn(Sample(fresh=batch, drawn=batch))
    assert made.director.epsilon == pytest.approx(0.4)
    before = [p.clone() for p in made.lagged.agents.parameters()]
    online = list(made.director.network.parameters())
    assert not torch.equal(before[0], online[0])
    made.learn(Sample(drawn=batch))
    for p, q in zip(made.lagged.agents.parameters(), online, strict=True):
        assert torch.equal(p, q)
    assert made.learn(Sample(fresh=batch)) == {}


def test_with_the_victims_values_turned_it_names_the_worst_action():
    team = VDN.for_env(Arena(), hidden=(8,), exploration=0.0)
    made = paad(Arena(), mixer="vdn", recurrent=False, last_action=False)
    network = copy.deepcopy(team.policy.network)
    with torch.no_grad():
        network.rest[-1].weight.neg_()
        network.rest[-1].bias.neg_()
    made.director.network = network
    batch = collected(team, perturb=[made.deployed()]).latest(6)
    q = team.policy.network.unroll(batch.obs.obs, None)[0][:, :-1]
    worst = q.masked_fill(~batch.obs.mask[:, :-1], 1e9).argmin(-1)
    target = batch.record("director")["target"]
    assert torch.equal(worst[batch.living], target[batch.living])


def test_it_spoils_a_game_of_a_team_that_stands_still():
    """And the team's weights do not move; without budget it changes nothing."""

    def make():
        return SignalMatching(2, horizon=5)

    team = QMIX.for_env(make(), hidden=(16,), optim=adam(3e-3), exploration=0.3)
    learn = OffPolicy(batch_size=16, learning_starts=16)
    run(team, make, env_steps=2_000, learn=learn, log=QUIET)
    made = paad(make(), 1.5, exploration=0.5, optim=adam(3e-3), target_update=20)
    kept = weights(team)
    attack = AdversarialTraining(team, made, team_every=None)
    run(attack, make, env_steps=1_500, learn=learn, log=QUIET)
    assert kept.keys() == weights(team).keys()
    assert all(torch.equal(kept[k], w) for k, w in weights(team).items())
    clean = rollout(team, make, episodes=40).returns.mean()
    attacked = rollout(team, make, episodes=40, perturb=made.deployed()).returns.mean()
    assert attacked < 0.5 * clean


def test_training_against_it_without_budget_is_plain_training():
    def trained(adversary):
        team = QMIX.for_env(Arena(), hidden=(8,), seed=1)
        learner = team if adversary is None else AdversarialTraining(team, adversary)
        learn = OffPolicy(batch_size=4, learning_starts=4)
        run(learner, Arena, env_steps=150, num_envs=2, learn=learn, log=QUIET)
        return team

    assert same_weights(trained(None), trained(paad(Arena(), 0.0)))


def test_what_it_deploys_is_greedy():
    made = paad(Arena(), exploration=1.0)
    assert isinstance(made.deployed(), DirectedObsPerturber)
    assert not made.deployed(greedy=True).explore
    with pytest.raises(ValueError, match=r"PAAD\.deployed\.greedy must be None or True"):
        made.deployed(greedy=False)


def test_bad_input():
    with pytest.raises(TypeError, match=r"PAAD\.director must be a QPolicy, got 3"):
        PAAD(3, stor(BALL), None)
    with pytest.raises(ValueError, match=r"for_env\.mixer must be one of \['qmix', 'vdn'\]"):
        paad(Arena(), mixer="sum")
    with pytest.raises(ValueError, match=r"PAAD\.for_env\.env must be discrete"):
        paad(Arena(continuous=True))
    with pytest.raises(ValueError, match=r"target_update must be an int >= 1"):
        paad(Arena(), target_update=0)
    team = QMIX.for_env(Arena(), hidden=(8,))
    batch = collected(team).latest(6)
    with pytest.raises(ValueError, match=r"learn\.sample must be of episodes that it played in"):
        paad(Arena()).learn(Sample(drawn=batch))


def test_one_of_one_is_the_same_step_for_step():
    """A population of a single director plays, learns and is met as that director alone."""

    def trained(wrap):
        victim, made = QMIX.for_env(Arena(), hidden=(8,), seed=1), paad(Arena())
        learn = OffPolicy(batch_size=4, learning_starts=4)
        attack = AdversarialTraining(victim, wrap(made))
        run(attack, Arena, env_steps=150, num_envs=2, learn=learn, log=QUIET)
        return victim, made

    alone, among = trained(lambda made: made), trained(lambda made: Population([made]))
    for one, other in zip(alone, among, strict=True):
        assert same_weights(one, other)
