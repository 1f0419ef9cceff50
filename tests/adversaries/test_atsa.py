"""ATSA's director: closed forms of its values, losses and targets, and games that it learns."""

import copy
import math

import pytest
import torch
from learners import Arena, collected, same_weights, weights

from robustmarl._seeding import Draws
from robustmarl.adversaries import ATSA, Population, Sample
from robustmarl.adversaries.atsa import actor_objective, soft_targets, soft_value
from robustmarl.algorithms import MAPPO, MFAC, QMIX, VDN
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED, JointBatch, JointObs, TeamSpec
from robustmarl.learning.optim import adam
from robustmarl.perturbers import stor
from robustmarl.schedules import Linear
from robustmarl.testing import check_adversary
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run

QUIET = Log(progress=False)
LEARN = OffPolicy(batch_size=4, learning_starts=4)


def atsa(env, epsilon=0.3, **settings):
    return ATSA.for_env(env, stor(LinfBall(epsilon=epsilon)), hidden=(8,), **settings)


def team(env, cls=QMIX, **settings):
    return cls.for_env(env, hidden=(8,), **settings)


@pytest.mark.parametrize("cls", [VDN, QMIX, MAPPO])
def test_it_keeps_the_contract(cls):
    check_adversary(atsa, lambda env: team(env, cls), Arena)


def test_it_keeps_it_with_the_generators_other_loss():
    def other(env, loss="cross_entropy", epsilon=0.3):
        return ATSA.for_env(env, stor(LinfBall(epsilon=epsilon), loss=loss), hidden=(8,))

    check_adversary(other, team, Arena)
    with pytest.raises(ValueError, match=r"ATSA\.generator\.loss must be another than 'kl'"):
        other(Arena(), "kl")


def test_other_forms_keep_it_too():
    def other(env):
        forms = {"target": "fop", "gradient": "exact", "reward_scale": 5.0, "episodes": 0.7}
        forms |= {"attention": True}
        return atsa(env, recurrent=False, target_update=1, kappa=0.0, **forms)

    def memory(env):
        return team(env, recurrent=True, last_action=True)

    check_adversary(other, memory, Arena)
    check_adversary(lambda env: Population([atsa(env), atsa(env, seed=1)]), memory, Arena)


# Closed forms


def test_soft_values():
    q, every = torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool)
    assert soft_value(q, every, 0.5).item() == pytest.approx(1.063464, abs=1e-6)
    assert soft_value(q, every, 1e-3).item() == pytest.approx(1.0, abs=1e-6)
    some = torch.tensor([True] * 5 + [False] * 4)
    value = soft_value(torch.full((9,), 2.0), some, 0.5)
    assert value.item() == pytest.approx(2.0 + 0.5 * math.log(5), abs=1e-5)
    assert soft_value(q, ~every, 0.5).item() == 0.0


def test_the_slope_of_a_soft_value_is_its_policy():
    """softmax(Q / alpha), exactly 0 for what is unavailable, without overflow at alpha = .001."""

    def policy(q, mask, alpha):
        q = torch.tensor(q, requires_grad=True)
        (slope,) = torch.autograd.grad(soft_value(q, torch.tensor(mask), alpha), q)
        return slope.tolist()

    assert policy([1.0, 0.0], [True, True], 0.5) == pytest.approx([0.880797, 0.119203], abs=1e-6)
    assert policy([1.0, 0.0], [True, True], 1e-3) == [1.0, 0.0]
    assert policy([2.0, 2.0, 2.0], [True, False, True], 0.5) == pytest.approx([0.5, 0.0, 0.5])
    assert policy([2.0, 9.0, 2.0], [True, False, True], 0.5)[1] == 0.0


def test_the_softmax_of_the_values_is_what_the_actor_seeks():
    """There the objective is minus the soft value, and its gradient is zero."""
    torch.manual_seed(0)
    q, mask = torch.randn(6, 4), torch.rand(6, 4) < 0.7
    mask[:, 0] = True
    logits = (q / 0.3).masked_fill(~mask, MASKED).requires_grad_()
    objective = actor_objective(logits.log_softmax(-1), q, mask, 0.3)
    torch.testing.assert_close(objective, -soft_value(q, mask, 0.3))
    (gradient,) = torch.autograd.grad(objective.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def one_step(form, bootstrap=1.0, lam=0.0):
    return soft_targets(
        torch.tensor([[-2.0]]),
        torch.tensor([[1.0]]),
        torch.full((1, 1, 2), math.log(0.5)),
        torch.full((1, 1, 2), math.log(2.0)),
        torch.full((1, 1), bootstrap),
        torch.zeros(1, 1),
        gamma=0.9,
        lam=lam,
        alpha=0.1,
        form=form,
    ).item()


def test_targets_of_one_step():
    assert one_step("exact") == pytest.approx(-0.975233, abs=1e-6)
    assert one_step("exact", lam=0.8) == pytest.approx(-0.975233, abs=1e-6)  # its last step
    assert one_step("fop") == pytest.approx(-1.030685, abs=1e-6)
    assert one_step("exact", bootstrap=0.0) == -2.0


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.8])
def test_a_uniform_director_without_reward_has_one_value_whatever_lambda(lam):
    """Of 3 agents with 5 actions: alpha N log A / (1 - gamma) less the first step's share."""
    steps, value = 400, 47.80
    entropy = torch.full((1, steps, 3), math.log(5.0))
    found = soft_targets(
        torch.zeros(1, steps),
        torch.full((1, steps), 0.99 * 0.1 * 3 * math.log(5.0) / 0.01),
        -entropy,
        entropy,
        torch.ones(1, steps),
        torch.ones(1, steps),
        gamma=0.99,
        lam=lam,
        alpha=0.1,
    )
    assert found[0, 0].item() == pytest.approx(value, abs=0.01)


def test_the_temperature_falls_with_what_was_played():
    made, found = atsa(Arena()), []
    for steps in (0, 50_000, 40_000, 910_000):
        made.director.count("env_steps", steps)
        found.append(made.alpha)
    assert found == pytest.approx([0.5, 0.25, 0.05, 0.05])


def test_the_share_of_clean_steps_is_the_chance_of_the_own_action():
    made = atsa(Arena()).director
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(70_000, 3, 4)
    act, logp = made.select(logits, logits > -9, Draws(torch.arange(70_000)), False)
    assert float((act == 0).float().mean()) == pytest.approx(0.4, abs=0.005)
    torch.testing.assert_close(logp[act == 0], logits[act == 0][:, 0])


# One update


def lived(made, victim=None, episodes=6):
    victim = team(Arena()) if victim is None else victim
    return collected(victim, episodes, perturb=[made.perturber()]).latest(episodes)


@pytest.mark.parametrize("memory", [False, True])
def test_the_alignment_is_with_what_the_victim_does(memory):
    """A cross entropy with the victim's greedy actions, as they were when nothing has moved."""
    victim = team(Arena(), recurrent=memory, last_action=memory, exploration=0.0)
    made = atsa(Arena())
    batch = lived(made, victim)
    with torch.no_grad():
        for p in made.director.network.head.parameters():
            p.zero_()
    figures = made.learn(Sample(drawn=batch))
    choices = batch.obs.mask[:, :-1].sum(-1)[batch.living].float()
    assert figures["alignment"] == pytest.approx(float(choices.log().mean()), rel=1e-5)
    assert figures["entropy"] == pytest.approx(figures["alignment"], rel=1e-5)
    assert torch.equal(made._victims_actions(batch)[batch.living], batch.act[batch.living])


def test_the_alignment_pulls_towards_the_victims_actions():
    made = atsa(Arena(), kappa=1e3, optim=adam(1e-2), max_grad_norm=None)
    batch = lived(made)
    found = [made.learn(Sample(drawn=batch))["alignment"] for _ in range(30)]
    assert found[-1] < 0.7 * found[0]


def test_the_alignment_is_a_cross_entropy():
    """log 4 of a uniform director, 0 of one that is sure; its slope is h less one-hot."""
    made = atsa(Arena(), kappa=1.0)
    batch = lived(made)
    batch.obs.mask.fill_(True)
    target, played = made.recorded(batch)["target"], batch.valid
    own = torch.nn.functional.one_hot(made._victims_actions(batch), 4).float()
    logits = torch.zeros_like(own).requires_grad_()
    made._logp = lambda obs, last_target, mask: logits.log_softmax(-1)
    made.optim.step = lambda loss: loss.backward()

    def stepped(values, kappa):
        made.kappa, logits.grad = kappa, None
        with torch.no_grad():
            logits.copy_(values)
        q = torch.zeros_like(own)
        return made._step_director(batch, target, q, played, 0.1), logits.grad

    even, with_it = stepped(torch.zeros_like(own), 1.0)
    assert float(even["alignment"]) == pytest.approx(1.386294, abs=1e-6)
    _, without = stepped(torch.zeros_like(own), 0.0)
    expected = torch.where(batch.living.unsqueeze(-1), 0.25 - own, 0.0) / batch.living.sum()
    torch.testing.assert_close(with_it - without, expected, rtol=1e-4, atol=1e-7)
    assert not bool(with_it[~batch.living].any())  # padding and the dead
    sure, _ = stepped(50.0 * own, 1.0)
    assert float(sure["alignment"]) == pytest.approx(0.0, abs=1e-6)


def test_without_weight_the_alignment_is_no_part_of_the_update():
    one, other = atsa(Arena(), kappa=0.0), atsa(Arena(), kappa=1e-30)
    batch = lived(one)
    lived(other)
    assert "alignment" not in one.learn(Sample(drawn=batch))
    other.learn(Sample(drawn=batch))
    assert same_weights(one, other)


def test_a_victim_whose_inputs_are_not_stored_is_refused():
    made, victim = atsa(Arena()), team(Arena(), MFAC)
    batch = lived(made, victim)
    with pytest.raises(ValueError, match=r"ATSA\.kappa must be 0 against a victim .*, got 0\.005"):
        made.learn(Sample(drawn=batch))
    without = atsa(Arena(), kappa=0.0)
    assert "policy_loss" in without.learn(Sample(drawn=lived(without, victim)))


def test_seeds_draw_other_targets():
    """Of the same weights and episodes: only what the critics' targets draw differs."""
    made = atsa(Arena())
    batch = lived(made)
    same, other = copy.deepcopy(made), copy.deepcopy(made)
    other.seed = 1
    one, two, three = (m.learn(Sample(drawn=batch))["target"] for m in (made, same, other))
    assert one == two != three


@pytest.mark.parametrize("attention", [False, True])
def test_padding_and_episodes_without_attack_do_not_matter(attention):
    made = atsa(Arena(), episodes=0.5, attention=attention)
    batch = lived(made, episodes=12)
    one, other = copy.deepcopy(made), copy.deepcopy(made)
    dirty = copy.deepcopy(batch)
    dirty.rew[~batch.valid] = 1e4
    dirty.rew[~batch.record("director")["attacked"].flatten(1).any(1)] = 1e4
    dirty.obs.state[:, :-1][~batch.valid] = 1e4
    assert one.learn(Sample(drawn=batch)) == other.learn(Sample(drawn=dirty))
    assert same_weights(one, other)


def test_critics_differ_and_targets_follow():
    made = atsa(Arena(), target_update=2, target_unit="updates")
    one, other = (critic.agents.first.weight for critic in made.critics)
    assert not torch.equal(one, other)
    batch = lived(made)
    made.learn(Sample(drawn=batch))
    assert not torch.equal(made.lagged[0].agents.first.weight, one)
    made.learn(Sample(drawn=batch))
    assert torch.equal(made.lagged[0].agents.first.weight, one)
    assert made.learn(Sample(fresh=batch)) == {}


@pytest.mark.parametrize("gradient", ["fop", "exact"])
def test_it_learns_an_additive_matrix_game(gradient):
    """Two agents of three actions, one step: the best of the nine pairs is the first."""
    spec = TeamSpec(
        agents=("a", "b"),
        teams={"team": (0, 1)},
        obs_sizes=(1, 1),
        action_sizes=(3, 3),
        continuous=False,
        state_size=1,
        state_layout="joint",
        team_reward="sum",
        horizon=1,
    )
    settings = {"optim": adam(1e-2), "critic_optim": adam(1e-2), "alpha": 0.05, "kappa": 0.0}
    made = ATSA.for_env(
        spec,
        stor(LinfBall(epsilon=0.1)),
        gradient=gradient,
        hidden=(16,),
        target_update=10,
        target_unit="updates",
        **settings,
    )
    ones, mask = torch.ones(32, 2, 2, 1), torch.ones(32, 2, 2, 3, dtype=torch.bool)
    obs = JointObs(obs=ones, seen=ones, mask=mask, state=ones[..., 0, :], alive=mask[..., 0])
    over = torch.ones(32, 1, dtype=torch.bool)
    for number in range(150):
        with torch.no_grad():
            logits = made.director.network.unroll(ones[:, :1], -torch.ones(32, 1, 2).long())[0]
        draws = Draws(torch.arange(32) + 32 * number)
        act = made.director.select(logits[:, 0], mask[:, 0], draws, True)[0].unsqueeze(1)
        turned = (3 - act.sum(-1)).float()
        batch = JointBatch(
            obs=obs,
            act=act,
            rew=-turned,
            rew_agents=torch.zeros(32, 1, 2),
            terminated=over,
            truncated=~over,
            valid=over,
            records={"director": {"target": act, "attacked": mask[:, :1, :, 0]}},
        )
        made.learn(Sample(drawn=batch))
    assert logits[0, 0].argmax(-1).tolist() == [0, 0]


# In training


@pytest.mark.parametrize("cls", [VDN, QMIX, MAPPO])
def test_a_team_that_stands_still_does_not_move(cls):
    victim, made = team(Arena(), cls), atsa(Arena())
    kept, before = weights(victim), weights(made)
    attack = AdversarialTraining(victim, made, team_every=None)
    run(attack, Arena, env_steps=150, num_envs=2, learn=LEARN, log=QUIET)
    after = weights(victim)
    assert all(torch.equal(kept[k], after[k]) for k in kept)
    assert not torch.equal(before["director.network.head.bias"], made.director.network.head.bias)


def test_on_policy_teams_learn_beside_it():
    """Then it learns from the episodes that the team learns from, the newest."""
    victim, made = team(Arena(), MAPPO), atsa(Arena())
    before = weights(victim), weights(made)
    run(AdversarialTraining(victim, made), Arena, env_steps=100, num_envs=2, log=QUIET)
    for kept, module in zip(before, (victim, made), strict=True):
        assert any(not torch.equal(kept[k], w) for k, w in weights(module).items())


def test_training_against_it_without_budget_is_plain_training():
    def trained(adversary):
        learner = victim = team(Arena(), seed=1)
        if adversary is not None:
            learner = AdversarialTraining(victim, adversary)
        run(learner, Arena, env_steps=150, num_envs=2, learn=LEARN, log=QUIET)
        return victim

    assert same_weights(trained(None), trained(atsa(Arena(), 0.0)))


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    def trained(steps, folder, resume=False):
        victim, made = team(Arena(), seed=1), atsa(Arena())
        log = Log(logdir=folder, resume=resume, progress=False)
        attack = AdversarialTraining(victim, made)
        run(attack, Arena, env_steps=steps, num_envs=2, interval=60, learn=LEARN, log=log)
        return attack

    trained(60, tmp_path / "one")
    assert same_weights(trained(120, tmp_path / "one", True), trained(120, tmp_path / "two"))


def test_it_is_deployed_by_draws_or_greedily():
    made = atsa(Arena())
    found = {greedy: made.deployed(greedy) for greedy in (None, False, True)}
    for greedy, perturber in found.items():
        assert perturber.director.deterministic_eval is bool(greedy)
        assert perturber.director is not made.director
    batch = collected(team(Arena()), perturb=[found[True]]).latest(6)
    target, obs = batch.record("director")["target"], batch.obs
    last = torch.cat([torch.full_like(target[:, :1], -1), target[:, :-1]], dim=1)
    logits = made.director.network.unroll(obs.obs[:, :-1], last)[0]
    best = logits.masked_fill(~obs.mask[:, :-1], -1e9).argmax(-1)
    assert torch.equal(best[batch.living], target[batch.living])


def test_bad_input():
    with pytest.raises(TypeError, match=r"ATSA\.director must be an ActorPolicy, got 3"):
        ATSA(3, (), None)
    with pytest.raises(ValueError, match=r"ATSA\.for_env\.env must be discrete"):
        atsa(Arena(continuous=True))
    for name, value in (("kappa", -0.1), ("reward_scale", 0.0), ("td_lambda", 2.0)):
        with pytest.raises(ValueError, match=rf"ATSA\.{name} must be a number"):
            atsa(Arena(), **{name: value})
    with pytest.raises(ValueError, match=r"ATSA\.target must be one of"):
        atsa(Arena(), target="none")
    for alpha in (0.0, Linear(0.5, 0.0, over=10)):  # at once, not when training gets there
        with pytest.raises(ValueError, match=r"ATSA\.alpha must be a number > 0, got 0\.0"):
            atsa(Arena(), alpha=alpha)

    def falling(number):
        return 0.0

    falling.unit = "updates"
    made = atsa(Arena(), alpha=falling)
    batch = lived(made)
    with pytest.raises(ValueError, match=r"ATSA\.alpha\(\) must be a number > 0"):
        made.learn(Sample(drawn=batch))
