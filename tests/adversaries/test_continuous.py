"""Adversaries of continuous teams: ATSA's director, PA-AD's with a learner, ATLA's."""

import copy
import math
from functools import partial

import pytest
import torch
from learners import MEMORY, Arena, arena_spec, collected, same_weights, sgd, weights

from robustmarl.adversaries import (
    ATSA,
    PAAD,
    ContinuousATSA,
    ObsAdversaryPPO,
    Population,
    Sample,
    TeamPAAD,
)
from robustmarl.adversaries.atsa import soft_targets
from robustmarl.adversaries.squashed import SquashedDirector
from robustmarl.algorithms import DOP, FACMAC, IPPO, M3DDPG, MADDPG, MAPPO, QMIX
from robustmarl.attacks import PGD, FrankWolfe
from robustmarl.budgets import LinfBall
from robustmarl.joint import JointBatch, JointObs, TeamSpec, last_actions
from robustmarl.learning.optim import adam
from robustmarl.losses import PolicyLoss, PolicyRegularizer
from robustmarl.networks.squashed import SquashedNetwork
from robustmarl.perturbers import stor
from robustmarl.testing import check_adversary
from robustmarl.testing._game import UnevenGame
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run

QUIET = Log(progress=False)
LEARN = OffPolicy(batch_size=4, learning_starts=4)
TEAMS = [MADDPG, FACMAC, IPPO, MAPPO]
LEARNERS = [MADDPG, FACMAC]  # off-policy: a director may be one


def boxes():
    return Arena(continuous=True)


def uneven():
    return UnevenGame(continuous=True)


def atsa(env=None, epsilon=0.3, **settings):
    env = boxes() if env is None else env
    return ContinuousATSA.for_env(env, stor(LinfBall(epsilon=epsilon)), hidden=(8,), **settings)


def paad(env=None, epsilon=0.3, cls=MADDPG, attack=stor, agents=None, episodes=1.0, **settings):
    generator, env = attack(LinfBall(epsilon=epsilon)), boxes() if env is None else env
    settings = {"kind": cls, "hidden": (8,), "agents": agents, "episodes": episodes} | settings
    return TeamPAAD.for_env(env, generator, **settings)


def atla(env=None, epsilon=0.3, **settings):
    env = boxes() if env is None else env
    ball = LinfBall(epsilon=epsilon)
    return ObsAdversaryPPO.for_env(env, ball, hidden=(8,), epochs=2, **settings)


EVERY = {"ATSA": atsa, "PA-AD": paad, "FACMAC's PA-AD": partial(paad, cls=FACMAC), "ATLA": atla}


def team(env=None, cls=MADDPG, **settings):
    return cls.for_env(boxes() if env is None else env, hidden=(8,), **settings)


def lived(made, victim=None, episodes=6):
    victim = team() if victim is None else victim
    perturb = [made.perturber()]
    return collected(victim, episodes, make_env=boxes, perturb=perturb).latest(episodes)


# Contracts


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("name", EVERY)
def test_they_keep_the_contract(name, cls):
    check_adversary(EVERY[name], lambda env: team(env, cls), boxes)


def test_other_forms_keep_it_too():
    def other(env):
        forms = {"target": "fop", "gradient": "exact", "reward_scale": 5.0, "episodes": 0.7}
        return atsa(env, recurrent=False, target_update=1, kappa=0.0, **forms)

    def memory(env):
        return team(env, **MEMORY)

    check_adversary(other, memory, boxes)
    for cls in (M3DDPG, FACMAC):
        check_adversary(lambda env, cls=cls: paad(env, recurrent=True, cls=cls), memory, boxes)
    check_adversary(lambda env: Population([atsa(env), paad(env)]), memory, boxes)


@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize("make", [atsa, paad])
def test_agents_of_other_sizes_that_come_late(make, cls):
    check_adversary(make, lambda env: team(env, cls), uneven)


@pytest.mark.parametrize("cls", [MADDPG, FACMAC, QMIX])
def test_a_learner_directs_teams_of_discrete_actions_too(cls):
    def made(env):
        return TeamPAAD(cls.for_env(env, hidden=(8,)), stor(LinfBall(epsilon=0.3)))

    check_adversary(made, lambda env: QMIX.for_env(env, hidden=(8,)), Arena)


# What is played


@pytest.mark.parametrize("greedy", [None, True])
def test_what_the_director_names_is_drawn_or_its_squashed_mean(greedy):
    made = atsa()
    perturber = made.deployed(greedy)
    batch = collected(team(), 6, make_env=boxes, perturb=[perturber]).latest(6)
    record, rows = batch.record("director"), batch.living
    last = last_actions(record["target"], terminal=True)
    output = made.director.network.unroll(batch.obs.obs, last)[0][:, :-1].detach()
    mean, _ = made.director.halves(output)
    same = (record["target"] - mean.tanh()).abs().amax(-1) < 1e-4
    assert bool(same[rows].all()) is bool(greedy)
    logp = made.director.log_prob(output, record["target"])
    torch.testing.assert_close(logp[rows], record["logp"][rows], atol=5e-2, rtol=1e-2)
    assert float(record["target"][rows].abs().max()) <= 1.0
    assert not torch.equal(batch.obs.seen, batch.obs.obs)


@pytest.mark.parametrize("make", EVERY.values())
def test_without_radius_they_are_the_identity_bit_for_bit(make):
    def played(perturb):
        victim = team(seed=1)
        return collected(victim, 6, make_env=boxes, perturb=perturb).latest(6)

    one, other = played([make(epsilon=0.0).perturber()]), played([])
    assert torch.equal(one.obs.seen, other.obs.obs)
    assert torch.equal(one.act, other.act)


# One update


def test_the_director_lowers_what_it_says_it_lowers():
    """One SGD step is that along the gradient of the loss, written by hand."""
    made = atsa(kappa=0.1, optim=sgd(), critic_optim=sgd(), max_grad_norm=None, alpha=0.2)
    victim = team()
    batch, twin = lived(made, victim), copy.deepcopy(made)
    made.perturber()
    director, target = twin.director, made.recorded(batch)["target"]
    last = last_actions(target, terminal=True)[:, :-1]
    obs, rows = batch.obs.obs[:, :-1], batch.living
    output = director.network.unroll(obs, last)[0]
    noise = made._noise("director", output)
    mean, log_std = output.chunk(2, dim=-1)
    u = mean + noise * log_std.clamp(-5, 2).exp()
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    logp = (normal.log_prob(u) - (1 - u.tanh().square()).log()).sum(-1)
    q = torch.minimum(*(c.q(c.features(obs, last), u.tanh()) for c in twin.critics))
    seen = victim.policy.network.unroll(batch.obs.seen[:, :-1], None)[0].detach()
    before = torch.atanh(seen.clamp(-0.999, 0.999))
    own = (normal.log_prob(before) - (1 - before.tanh().square()).log()).sum(-1)
    loss = (0.2 * logp - q)[rows].mean() - 0.1 * own[rows].mean()
    gradients = torch.autograd.grad(loss, list(director.network.parameters()))
    begun = weights(made.director)
    figures = made.learn(Sample(drawn=batch))
    lowered = figures["policy_loss"] + 0.1 * figures["alignment"]
    assert lowered == pytest.approx(float(loss.detach()), rel=1e-4)
    named = director.network.named_parameters()
    for (name, _), slope in zip(named, gradients, strict=True):
        found = (begun[f"network.{name}"] - made.director.network.get_parameter(name)) / 0.1
        torch.testing.assert_close(found.detach(), slope, atol=2e-5, rtol=1e-3)


def test_the_critics_learn_values_of_what_was_named_and_soft_values_of_what_is_drawn():
    made = atsa(alpha=0.2, td_lambda=0.0, optim=sgd(1e-12), critic_optim=sgd(), max_grad_norm=None)
    batch = lived(made)
    target, alive = made.recorded(batch)["target"], batch.obs.alive
    last = last_actions(target, terminal=True)
    with torch.no_grad():
        output = made.director.network.unroll(batch.obs.obs, last)[0]
        drawn, logp = made.director.named(output, made._noise("critics", output))
        lagged = torch.minimum(
            *(
                c(c.features(batch.obs.obs, last), drawn, batch.obs.state, alive)
                for c in made.lagged
            )
        )
        paid = torch.where(alive, logp, 0.0).sum(-1)
        y = -batch.rew + 0.99 * batch.bootstrap * (lagged - 0.2 * paid)[:, 1:]
        joint, own = [], []
        for critic in made.critics:
            features = critic.features(batch.obs.obs, last)[:, :-1]
            joint.append(critic(features, target, batch.obs.state[:, :-1], alive[:, :-1]))
            soft = critic.q(features, drawn[:, :-1]) - 0.2 * logp[:, :-1]
            own.append((critic.value(features) - soft)[batch.living].square().mean())
    figures = made.learn(Sample(drawn=batch))
    by_hand = sum((q - y)[batch.valid].square().mean() for q in joint)
    assert figures["critic_loss"] == pytest.approx(float(by_hand), rel=1e-4)
    assert figures["value_loss"] == pytest.approx(float(sum(own)), rel=1e-4)
    assert figures["target"] == pytest.approx(float(y[batch.valid].mean()), rel=1e-4)


def test_an_agent_that_is_dead_has_no_advantage():
    critic = atsa().critics[0]
    features, state = torch.randn(4, 3, 8), torch.randn(4, 5)
    one, other = torch.rand(4, 3, 2), torch.rand(4, 3, 2)
    alive = torch.tensor([True, True, False]).expand(4, -1)
    with torch.no_grad():
        weight = critic.mixer.weights(one, state)
        q, value = critic.q(features, one), critic.value(features)
        by_hand = torch.where(alive, weight * (q - value) + value, q).sum(-1)
        bias = critic.mixer.v(critic.mixer.normalize(state)).squeeze(-1)
        torch.testing.assert_close(critic(features, one, state, alive), by_hand + bias)
        assert bool((critic.mixer.weights(other, state) > 0).all())
        assert not torch.equal(critic.mixer.weights(other, state), weight)


def test_without_weight_the_alignment_is_no_part_of_the_update():
    one, other = atsa(kappa=0.0), atsa(kappa=1e-30)
    batch = lived(one)
    lived(other)
    assert "alignment" not in one.learn(Sample(drawn=batch))
    other.learn(Sample(drawn=batch))
    assert same_weights(one, other)


def test_the_alignment_pulls_towards_the_victims_actions():
    made = atsa(kappa=1e3, optim=adam(1e-2), max_grad_norm=None)
    batch = lived(made)
    found = [made.learn(Sample(drawn=batch))["alignment"] for _ in range(40)]
    assert found[-1] < found[0] - 1.0


def test_padding_and_episodes_without_attack_do_not_matter():
    for made in (atsa(episodes=0.5), atsa(episodes=0.5, attention=True), paad(episodes=0.5)):
        batch = lived(made, episodes=12)
        assert not bool(made.recorded(batch)["attacked"].flatten(1).any(1).all())
        one, other = copy.deepcopy(made), copy.deepcopy(made)
        dirty = copy.deepcopy(batch)
        dirty.rew[~batch.valid] = 1e4
        dirty.rew[~batch.record("director")["attacked"].flatten(1).any(1)] = 1e4
        assert one.learn(Sample(drawn=batch)) == other.learn(Sample(drawn=dirty))
        assert same_weights(one, other)


@pytest.mark.parametrize("cls", LEARNERS)
def test_a_director_of_the_victims_class_learns_what_that_class_would(cls):
    """Its own update on the episodes with targets for actions and the reward turned."""
    made = paad(cls=cls, optim=sgd(), critic_optim=sgd())
    learner = cls.for_env(boxes(), hidden=(8,), last_action=True, optim=sgd(), critic_optim=sgd())
    assert same_weights(made.learner, learner)
    batch = lived(made)
    target = made.recorded(batch)["target"]
    turned = batch.replace(
        obs=batch.obs.replace(seen=batch.obs.obs), act=target, rew=-batch.rew, records={}
    )
    learner.learn(turned)
    figures = made.learn(Sample(fresh=batch, drawn=batch))
    assert {"critic_loss", "policy_loss", "q", "missed"} == set(figures)
    assert same_weights(made.learner, learner)
    counted = [made.director.counted(unit) for unit in ("updates", "episodes", "env_steps")]
    assert counted == [1, 6, int(batch.valid.sum())]


def test_how_far_agents_are_from_what_was_named():
    made = paad()
    batch = lived(made)
    figures = made.learn(Sample(drawn=batch))
    away = (batch.act - made.recorded(batch)["target"]).abs()[batch.living].mean()
    assert figures["missed"] == pytest.approx(float(away), rel=1e-5)


def test_draws_differ_by_seed_and_update():
    made = atsa()
    output = torch.zeros(3, 4, 3, 4)
    first = made._noise("director", output)
    assert not torch.equal(first, made._noise("critics", output))
    made.director.count("updates", 1)
    assert not torch.equal(first, made._noise("director", output))
    assert not torch.equal(first, atsa(seed=1)._noise("director", output))
    assert first.shape == (3, 4, 3, 2)


# Games with known answers


def one_step_spec(agents):
    return TeamSpec(
        agents=tuple("abc"[:agents]),
        teams={"team": tuple(range(agents))},
        obs_sizes=(1,) * agents,
        action_sizes=(1,) * agents,
        continuous=True,
        state_size=1,
        state_layout="joint",
        team_reward="sum",
        horizon=1,
        action_low=((-1.0,),) * agents,
        action_high=((1.0,),) * agents,
    )


def one_step(target, reward, agents):
    """Return one-step episodes in which a director named ``target`` (B, 1, N, 1)."""
    number = len(target)
    ones = torch.ones(number, 2, agents, 1)
    flags = torch.ones(number, 2, agents, dtype=torch.bool)
    obs = JointObs(
        obs=ones, seen=ones, mask=flags.unsqueeze(-1), state=ones[..., 0, :], alive=flags
    )
    over = torch.ones(number, 1, dtype=torch.bool)
    return JointBatch(
        obs=obs,
        act=target,
        rew=reward,
        rew_agents=torch.zeros(number, 1, agents),
        terminated=over,
        truncated=~over,
        valid=over,
        records={"director": {"target": target, "attacked": flags[:, :1]}},
    )


def trained(made, agents, reward, updates=400):
    """Let a director name vectors and learn from one-step episodes, and return its outputs."""
    ones = torch.ones(64, 1, agents, 1)
    for number in range(updates):
        with torch.no_grad():
            output = made.director.network.unroll(ones, torch.zeros(64, 1, agents, 1))[0]
        noise = torch.randn(64, 1, agents, 1, generator=torch.Generator().manual_seed(number))
        if isinstance(made.director, SquashedDirector):
            act, _ = made.director.named(output, noise)
        else:
            act = (output + 0.3 * noise).clamp(-1, 1)
        made.learn(Sample(drawn=one_step(act, reward(act), agents)))
    return output[0, 0]


def test_its_policy_is_the_one_that_maximum_entropy_has():
    """One agent, Q(a) = -(a - .3)^2 / 2 w: softmax(Q / alpha), with FOP's weight held at 1.

    With a weight that is learned the agent's temperature is alpha over it, which nothing pins down.
    """
    width, alpha = 0.15, 0.4
    made = ContinuousATSA.for_env(
        one_step_spec(1),
        stor(LinfBall(epsilon=0.1)),
        hidden=(32,),
        recurrent=False,
        optim=adam(5e-3),
        critic_optim=adam(5e-3),
        alpha=alpha,
        kappa=0.0,
    )
    for critic in made.critics:
        critic.mixer._weights = lambda act, state: torch.ones(act.shape[:-1])

    def reward(act):
        return (act - 0.3).square().sum((-1, -2)) / (2 * width)

    output = trained(made, 1, reward, 500)
    grid = torch.linspace(-1, 1, 2_001)[:-1] + 5e-4
    policy = (-(grid - 0.3).square() / (2 * width * alpha)).softmax(0)
    mean = float((policy * grid).sum())
    spread = math.sqrt(float((policy * (grid - mean).square()).sum()))
    draws = made.director.named(output.expand(20_000, 1, 2), torch.randn(20_000, 1, 1))[0].detach()
    assert float(draws.mean()) == pytest.approx(mean, abs=0.05)
    assert float(draws.std()) == pytest.approx(spread, rel=0.2)


def test_a_team_of_directors_finds_the_best_pair():
    """r-hat = -(a_1 - .5)^2 - (a_2 + .5)^2: both kinds of directors come near it."""
    spec = one_step_spec(2)
    goal = torch.tensor([[0.5], [-0.5]])

    def reward(act):
        return (act - goal).square().sum((-1, -2))

    settings = {"hidden": (32,), "recurrent": False, "optim": adam(5e-3)}
    soft = ContinuousATSA.for_env(
        spec,
        stor(LinfBall(epsilon=0.1)),
        critic_optim=adam(5e-3),
        alpha=0.01,
        kappa=0.0,
        **settings,
    )
    mean, _ = soft.director.halves(trained(soft, 2, reward, 300))
    torch.testing.assert_close(mean.tanh(), goal, atol=0.15, rtol=0)
    for cls in LEARNERS:
        learner = cls.for_env(spec, last_action=True, critic_optim=adam(5e-3), **settings)
        hard = TeamPAAD(learner, stor(LinfBall(epsilon=0.1)))
        torch.testing.assert_close(trained(hard, 2, reward, 300), goal, atol=0.15, rtol=0)


def test_targets_take_the_draws_surprise_for_the_entropy():
    """With lambda and without they are those of one chain of draws."""
    logp = torch.tensor([[[0.3, -0.2], [0.1, 0.4]]])
    flags = torch.ones(1, 2), torch.tensor([[1.0, 0.0]])
    given = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -0.5]]), logp, -logp, *flags
    last = 2.0 + 0.9 * (-0.5 - 0.1 * 0.5)
    for lam in (0.0, 1.0):
        found = soft_targets(*given, gamma=0.9, lam=lam, alpha=0.1)
        after = 0.5 if lam == 0.0 else last
        assert found[0].tolist() == pytest.approx([1.0 + 0.9 * (after - 0.1 * 0.1), last])


# In training


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("name", EVERY)
def test_a_team_that_stands_still_does_not_move(name, cls):
    victim, made = team(cls=cls), EVERY[name]()
    kept, before = weights(victim), weights(made)
    attack = AdversarialTraining(victim, made, team_every=None)
    run(
        attack,
        boxes,
        env_steps=80,
        num_envs=2,
        learn=LEARN if attack.off_policy else None,
        log=QUIET,
    )
    assert all(torch.equal(kept[k], w) for k, w in weights(victim).items())
    assert any(not torch.equal(before[k], w) for k, w in weights(made).items())


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("name", EVERY)
def test_teams_learn_beside_it_and_without_budget_as_if_alone(name, cls):
    def trained_team(adversary):
        learner = victim = team(cls=cls, seed=1)
        if adversary is not None:
            learner = AdversarialTraining(victim, adversary)
        learn = LEARN if victim.off_policy else None
        run(learner, boxes, env_steps=80, num_envs=2, learn=learn, log=QUIET)
        return victim

    attacked = trained_team(EVERY[name]())
    plain, unharmed = trained_team(None), trained_team(EVERY[name](epsilon=0.0))
    assert same_weights(plain, unharmed)
    assert not same_weights(plain, attacked)


@pytest.mark.parametrize("memory", [{}, MEMORY])
@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("name", EVERY)
def test_a_killed_run_goes_on_bit_for_bit(name, cls, memory, tmp_path):
    def trained_both(steps, folder, resume=False):
        victim, made = team(cls=cls, seed=1, **memory), EVERY[name]()
        log = Log(logdir=folder, resume=resume, progress=False)
        attack = AdversarialTraining(victim, made)
        learn = LEARN if attack.off_policy else None
        run(attack, boxes, env_steps=steps, num_envs=2, interval=60, learn=learn, log=log)
        return attack

    trained_both(60, tmp_path / "one")
    again = trained_both(120, tmp_path / "one", True)
    assert same_weights(again, trained_both(120, tmp_path / "two"))


def test_a_stronger_generator_misses_less():
    """Frank-Wolfe brings the same victim nearer to the same director's names than a sign step."""
    victim, found = team(output_gain=1.0), []
    for attack in (stor, lambda ball: FrankWolfe(ball=ball, steps=4)):
        made = paad(epsilon=0.5, attack=attack)
        batch = lived(made, victim)
        output = victim.policy.network.unroll(batch.obs.seen[:, :-1], None)[0].detach()
        away = (output - made.recorded(batch)["target"]).square().sum(-1)
        found.append(float(away[batch.living].mean()))
    assert found[1] < found[0]


# Errors


class HeldQMIX(PolicyRegularizer, QMIX):
    pass


@pytest.mark.parametrize(
    ("kind", "term"),
    [(DOP, {}), (HeldQMIX, {"policy_loss": PolicyLoss(attack=PGD.fgsm(LinfBall(epsilon=0.1)))})],
)
def test_any_off_policy_team_names_actions(kind, term):
    """Those that ask for the newest episodes, and those with further losses, among them."""
    settings = {"hidden": (8,), "seed": 1} | term
    made = TeamPAAD.for_env(Arena(), stor(LinfBall(epsilon=0.3)), kind=kind, **settings)
    victim = QMIX.for_env(Arena(), hidden=(8,), last_action=True)
    before = weights(made.learner.policy)
    batch = collected(victim, 8, perturb=[made.perturber()]).latest(8)
    figures = made.learn(Sample(fresh=batch, drawn=batch))
    after = weights(made.learner.policy)
    assert any(not torch.equal(values, after[name]) for name, values in before.items())
    assert ("policy_loss/loss" in figures) == bool(term)
    made.learner.learn(batch)  # nor does it fail when it is called by itself


def test_bad_input():
    generator = stor(LinfBall(epsilon=0.1))
    with pytest.raises(ValueError, match=r"ContinuousATSA\.for_env\.env must be continuous.*ATSA"):
        atsa(Arena())
    with pytest.raises(ValueError, match=r"ATSA\.for_env\.env must be discrete.*ContinuousATSA"):
        ATSA.for_env(boxes(), generator)
    with pytest.raises(ValueError, match=r"PAAD\.for_env\.env must be discrete.*TeamPAAD"):
        PAAD.for_env(boxes(), generator)
    with pytest.raises(ValueError, match=r"ContinuousATSA\.shared must be True, or left out"):
        atsa(shared=False)
    with pytest.raises(ValueError, match=r"ContinuousATSA\.alpha must be a number > 0, got 0\.0"):
        atsa(alpha=0.0)
    with pytest.raises(TypeError, match=r"ContinuousATSA\.director must be a SquashedDirector"):
        ContinuousATSA(3, (), generator)
    with pytest.raises(TypeError, match=r"ContinuousATSA\.for_env has no setting 'mixer'"):
        atsa(mixer="qmix")
    for cls in (IPPO, MAPPO):
        rule = r"TeamPAAD\.learner must be an off-policy team of this package, such as MADDPG"
        with pytest.raises(TypeError, match=rule):
            TeamPAAD(team(cls=cls), generator)
    for kind in (IPPO, 3):
        with pytest.raises(TypeError, match=r"TeamPAAD\.kind must be a class of off-policy teams"):
            TeamPAAD.for_env(boxes(), generator, kind=kind)
    with pytest.raises(ValueError, match=r"TeamPAAD\.deployed\.greedy must be None or True"):
        paad().deployed(greedy=False)
    network = SquashedNetwork(3, 3, 4, hidden=(4,))
    with pytest.raises(ValueError, match=r"SquashedDirector\.spec must be of continuous actions"):
        SquashedDirector(arena_spec(), network)
    with pytest.raises(TypeError, match=r"SquashedDirector\.network must be a SquashedNetwork"):
        SquashedDirector(arena_spec(continuous=True), team().policy.network)
