"""ROMANCE: closed forms of its policy, what a budget allows, and how its archive changes."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import Arena, arena_spec, collected, same_weights, sgd, weights

from robustmarl.adversaries import ROMANCE, Population, Sample
from robustmarl.adversaries.archive import Archive, jensen_shannon
from robustmarl.algorithms import MAPPO, QMIX, VDN
from robustmarl.budgets import LinfBall
from robustmarl.data import RandomController
from robustmarl.envs import SignalMatching
from robustmarl.evaluation import rollout
from robustmarl.learning.optim import adam
from robustmarl.perturbers import AttackerActions, AttackerObs, Attackers, stor
from robustmarl.perturbers.attackers import (
    attack_policy,
    reference_policy,
    smoothed,
    soft_backup,
)
from robustmarl.testing import check_adversary
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run

STOR = stor(LinfBall(epsilon=0.3))
KINDS = {"forced": None, "shown": STOR}
QUIET = Log(progress=False)
EVERYBODY = torch.ones(4, dtype=torch.bool)


def romance(env, generator=None, **settings):
    settings = {"hidden": (8,), "budget": 2, "rate": 0.5, "attackers": 3} | settings
    return ROMANCE.for_env(env, generator, **settings)


def team(cls=QMIX, **settings):
    return cls.for_env(Arena(), hidden=(8,), **settings)


def lived(made, victim=None, episodes=8, **how):
    victim = team() if victim is None else victim
    return collected(victim, episodes, perturb=[made.perturber()], **how).latest(episodes)


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("cls", "how"), [(VDN, {}), (QMIX, {}), (QMIX, {"recurrent": True}), (MAPPO, {})]
)
def test_it_keeps_the_contract(cls, how, generator):
    check_adversary(
        lambda env: romance(env, generator),
        lambda env: cls.for_env(env, hidden=(8,), **how),
        Arena,
    )


# The policy: numbers of three agents and nobody, delta_0 = .05, lambda = .04.


def test_the_attack_policy_and_its_value():
    q, reference = torch.tensor([0.10, 0.02, 0.0, 0.05]), reference_policy(EVERYBODY, 0.05)
    torch.testing.assert_close(reference, torch.tensor([0.05 / 3] * 3 + [0.95]))
    value, policy = soft_backup(q, reference, 0.04), attack_policy(q, reference, 0.04)
    assert float(value) == pytest.approx(0.050824, abs=1e-6)
    assert policy.tolist() == pytest.approx([0.0570, 0.0077, 0.0047, 0.9306], abs=5e-5)
    divergence = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close(value, (policy * q).sum() - 0.04 * divergence)


@pytest.mark.parametrize("agents", [1, 3, 7, 12, 23, 32])
def test_who_always_attacks_leaves_nobody_nothing(agents):
    """However much nobody is worth: e^25 times what rounding left would be much."""
    able = torch.ones(agents + 1, dtype=torch.bool)
    reference = reference_policy(able, 1.0)
    torch.testing.assert_close(reference, torch.tensor([1 / agents] * agents + [0.0]))
    q = torch.tensor([0.0] * agents + [1.0])
    assert float(attack_policy(q, reference, 0.04)[-1]) == 0.0
    able[0] = False
    assert float(reference_policy(able, 1.0)[-1]) == pytest.approx(1 / agents, abs=1e-6)


def test_a_soft_attacker_is_its_reference():
    q, reference = torch.tensor([0.10, 0.02, 0.0, 0.05]), reference_policy(EVERYBODY, 0.05)
    torch.testing.assert_close(attack_policy(q, reference, 1e6), reference)
    q, reference = q.double(), reference.double() / reference.double().sum()
    torch.testing.assert_close(
        soft_backup(q, reference, 1e6), (reference * q).sum(), rtol=1e-6, atol=1e-8
    )


def test_extreme_values_give_no_nan():
    q = torch.tensor([400.0, 0.0, -400.0, 0.0], requires_grad=True)  # over lambda: 10^4
    for able in (EVERYBODY, torch.tensor([False, True, True, True])):
        reference = reference_policy(able, 0.05)
        policy = smoothed(attack_policy(q, reference, 0.04), able, 0.02)
        total = soft_backup(q, reference, 0.04) + jensen_shannon(torch.stack([policy, policy]))
        (gradient,) = torch.autograd.grad(total, q)
        assert policy.isfinite().all()
        assert total.isfinite()
        assert gradient.isfinite().all()


@settings(deadline=None, max_examples=30)
@given(q=st.lists(st.floats(-1, 1), min_size=4, max_size=4), number=st.integers(0, 3))
def test_smoothing_keeps_a_distribution(q, number):
    able = torch.tensor([k < number for k in range(3)] + [True])
    policy = smoothed(
        attack_policy(torch.tensor(q), reference_policy(able, 0.05), 0.04), able, 0.02
    )
    assert float(policy.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(policy[able].min()) >= 0.02 - 1e-6
    assert float(policy.max()) <= 1.0 - 0.02 * number + 1e-6
    assert not policy[~able].any()


def test_how_unlike_policies_are():
    same = torch.tensor([0.1, 0.2, 0.7]).expand(4, 5, 3)
    torch.testing.assert_close(jensen_shannon(same), torch.zeros(5))
    assert float(jensen_shannon(torch.eye(4))) == pytest.approx(math.log(4))


# What a budget allows.


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("budget", [0, 1, 2, 4, 9])
def test_who_always_attacks_does_so_as_often_as_the_budget_allows(generator, budget):
    made = romance(Arena(), generator, budget=budget, rate=1.0, floor=0.0)
    batch = lived(made, episodes=12, make_env=lambda: Arena(deaths=False))
    attacked = (made.recorded(batch)["agent"] < 3) & batch.valid
    assert attacked.sum(1).tolist() == batch.valid.sum(1).clamp(max=budget).tolist()
    first = torch.arange(attacked.shape[1]) < budget
    assert torch.equal(attacked, batch.valid & first)  # from the first step on


def test_any_attacker_keeps_to_its_budget_and_sees_what_is_left():
    made = romance(Arena(), budget=2)
    batch = lived(made, episodes=20)
    record = made.recorded(batch)
    attacked = (record["agent"] < 3) & batch.valid
    before = attacked.cumsum(1) - attacked.int()
    assert torch.equal(record["used"][batch.valid], before[batch.valid])
    assert attacked.sum(1).max() == 2
    assert attacked.sum(1).min() < 2
    seen = made.attackers.seen(torch.zeros(3, 5), torch.tensor([0, 1, 2]))
    assert seen[:, -1].tolist() == [1.0, 0.5, 0.0]
    state = batch.obs.state[:, :-1]
    assert torch.equal(made.attackers.seen(state, record["used"])[..., :-1], state)


def test_only_the_living_and_the_named_are_attacked():
    made = romance(Arena(), rate=0.9, budget=9, agents=["unit_0", "unit_2"])
    batch = lived(made, episodes=20)
    agent = made.recorded(batch)["agent"][batch.valid]
    assert agent.unique().tolist() == [0, 2, 3]
    alive = torch.nn.functional.pad(batch.obs.alive[:, :-1], (0, 1), value=True)[batch.valid]
    assert bool(alive.gather(1, agent[:, None]).all())


@pytest.mark.parametrize("recurrent", [False, True])
def test_who_is_attacked_plays_the_worst_of_its_actions(recurrent):
    victim, made = team(recurrent=recurrent), romance(Arena(), budget=4)
    batch = lived(made, victim, episodes=12)
    network, obs = victim.policy.network, batch.obs
    output = network.unroll(obs.seen[:, :-1], None)[0]
    worst = output.masked_fill(~obs.mask[:, :-1], math.inf).argmin(-1)
    forced = made.recorded(batch)["agent"].unsqueeze(-1) == torch.arange(3)
    expected = torch.where(forced, worst, batch.act_intended)
    assert bool(forced[batch.valid].any())
    assert torch.equal(batch.act_exec[batch.living], expected[batch.living])
    assert torch.equal(batch.act[batch.living], batch.act_intended[batch.living])
    assert torch.equal(obs.seen, obs.obs)


def test_of_what_is_shown_one_agents_moves_and_towards_its_worst_action():
    victim, made = team(VDN), romance(Arena(), STOR, budget=4)
    batch = lived(made, victim, episodes=12)
    moved = (batch.obs.seen != batch.obs.obs)[:, :-1].any(-1) & batch.valid.unsqueeze(-1)
    chosen = made.recorded(batch)["agent"].unsqueeze(-1) == torch.arange(3)
    assert bool(moved.any())
    assert not bool((moved & ~chosen).any())
    assert float((batch.obs.seen - batch.obs.obs).abs().max()) <= 0.3 * (1 + 1e-6)
    mask = batch.obs.mask[:, :-1]
    before, after = (
        victim.policy.network.unroll(obs[:, :-1], None)[0]
        for obs in (batch.obs.obs, batch.obs.seen)
    )
    worst = before.masked_fill(~mask, math.inf).argmin(-1, keepdim=True)
    own = before.masked_fill(~mask, -math.inf).argmax(-1, keepdim=True)

    def lead(q):
        return (q.gather(-1, worst) - q.gather(-1, own)).squeeze(-1)

    assert bool((lead(after) > lead(before))[moved].all())
    ends = batch.valid.sum(1)
    last = torch.arange(len(batch)), ends
    assert torch.equal(batch.obs.seen[last], batch.obs.obs[last])  # nobody acts on these


def test_one_attacker_plays_in_an_episode():
    made = romance(Arena(), attackers=3)
    batch = lived(made, episodes=120)
    index = made.recorded(batch)["index"]
    assert torch.equal(index[batch.valid], index[:, :1].expand(index.shape)[batch.valid])
    shares = torch.bincount(index[:, 0], minlength=3) / 120
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.15)
    half = romance(Arena(), rate=1.0, floor=0.0, episodes=0.5)
    attacked = (half.recorded(batch := lived(half, episodes=60))["agent"] < 3) & batch.valid
    assert float(attacked.any(1).float().mean()) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
def test_what_it_plays_does_not_depend_on_who_plays_beside(generator):
    made = romance(Arena(), generator)
    one, other = (lived(made, episodes=8, num_envs=size) for size in (1, 4))
    by_first = [batch.obs.obs[:, 0, 0, 1].argsort() for batch in (one, other)]
    records = [
        made.recorded(batch)["agent"][order]
        for batch, order in zip((one, other), by_first, strict=True)
    ]
    valid = [batch.valid[order] for batch, order in zip((one, other), by_first, strict=True)]
    assert torch.equal(valid[0], valid[1])
    assert torch.equal(records[0][valid[0]], records[1][valid[1]])


@pytest.mark.parametrize("waits", [False, True])
def test_rows_are_chosen_alike_on_an_accelerator(waits):
    victim, plain = team(VDN), romance(Arena(), STOR, budget=4)
    other = romance(Arena(), STOR, budget=4)
    other.perturber()._waits = waits
    one, two = lived(plain, victim), lived(other, victim)
    assert torch.equal(one.obs.seen[:, :-1][one.valid], two.obs.seen[:, :-1][two.valid])


# Learning.


def test_an_update_is_soft_q_learning_on_the_reward_turned():
    settings = {"optim": sgd(0.1), "gamma": 0.9, "max_grad_norm": None, "diversity": 0.0}
    made = romance(Arena(), **settings)
    batch = lived(made)
    with torch.no_grad():
        for weight in made.lagged.parameters():
            weight.mul_(1.1)
    twin, record = copy.deepcopy(made), made.recorded(batch)
    errors = []
    for j in range(3):
        for b, length in enumerate(batch.valid.sum(1).tolist()):
            used = 0
            for t in range(length):
                k, state = int(record["agent"][b, t]), batch.obs.state[b]
                seen = torch.cat([state[t], torch.tensor([1.0 - used / 2])])
                attack = int(k < 3)
                later = torch.cat([state[t + 1], torch.tensor([1.0 - (used + attack) / 2])])
                able = batch.obs.alive[b, t + 1] & torch.tensor(used + attack < 2)
                p = torch.where(able, 0.5 / 3, 0.0)
                p = torch.cat([p, 1.0 - p.sum(0, keepdim=True)])
                q = twin.lagged(later)[j].detach()
                value = 0.04 * torch.logsumexp(p.log() + q / 0.04, 0)
                going = 0.0 if batch.terminated[b, t] else 0.9
                y = -batch.rew[b, t] - 0.5 * attack + going * value
                errors.append((twin.attackers(seen)[j, k] - y).square())
                used += attack
    loss = torch.stack(errors).mean()
    loss.backward()
    figures = made.learn(Sample(drawn=batch))
    assert figures["td_loss"] == pytest.approx(loss.item(), rel=1e-4)
    pairs = zip(twin.attackers.parameters(), made.attackers.parameters(), strict=True)
    for before, after in pairs:
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-3, atol=1e-5)


def test_target_networks_follow_slowly():
    made = romance(Arena(), target_rate=0.25)
    batch, before = lived(made), [p.clone() for p in made.lagged.parameters()]
    made.learn(Sample(drawn=batch))
    trio = zip(before, made.lagged.parameters(), made.attackers.parameters(), strict=True)
    for old, slow, fast in trio:
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast)


def test_diversity_drives_attackers_apart():
    made = romance(Arena(), diversity=1.2, attackers=2, optim=adam(1e-2), soft=1.0)
    batch = lived(made, episodes=12)
    batch.rew.zero_()
    figures = [made.learn(Sample(drawn=batch))["diversity"] for _ in range(30)]
    assert figures[-1] > 2.0 * figures[0]
    lone = romance(Arena(), attackers=1)
    assert "diversity" not in lone.learn(Sample(drawn=lived(lone)))


def test_padding_does_not_matter():
    made = romance(Arena())
    batch = lived(made, episodes=12)
    one, other = copy.deepcopy(made), copy.deepcopy(made)
    figures = one.learn(Sample(fresh=batch, drawn=batch))
    batch.rew[~batch.valid] = 1e4
    batch.obs.state[:, :-1][~batch.valid] = 1e4
    length = batch.valid.sum(1)
    batch.obs.state[:, 1:][torch.arange(batch.valid.shape[1]) >= length[:, None]] = 1e4
    again = other.learn(Sample(fresh=batch, drawn=batch))
    ended = torch.gather(batch.terminated, 1, length[:, None] - 1).all()
    if ended:
        assert figures == pytest.approx(again, rel=1e-5)
    assert torch.equal(one.earned, other.earned)
    assert torch.equal(one.points, other.points)


# Generations.


def generation(made, victim, number=0, rounds=None):
    """Let it live a generation, and the first episodes of the next."""
    for k in range((made.rounds if rounds is None else rounds) + 1):
        batch = lived(made, victim, episodes=9, seed=100 * number + k)
        made.learn(Sample(fresh=batch, drawn=batch))


def test_attackers_learn_in_the_first_half_of_a_generation():
    made, victim, learned = romance(Arena(), rounds=4), team(), []
    for k in range(8):
        batch, before = lived(made, victim, seed=k), weights(made.attackers)
        made.learn(Sample(fresh=batch, drawn=batch))
        learned.append(
            any(not torch.equal(p, before[n]) for n, p in made.attackers.named_parameters())
        )
    # the fifth call ends the first generation: the archive gives other weights
    assert learned == [True, True, False, False, True, True, False, False]
    assert int(made.generation) == 1


def test_an_episode_of_each_attacker_counts_for_it():
    made = romance(Arena())
    batch = lived(made, episodes=12)
    record = made.recorded(batch)
    made.learn(Sample(fresh=batch, drawn=batch))
    returns = torch.where(batch.valid, batch.rew, 0.0).sum(1)
    for j in range(3):
        own = record["index"][:, 0] == j
        assert float(made.earned[j]) == pytest.approx(float(returns[own].sum()), rel=1e-5)
        assert int(made.played[j]) == int(own.sum())
        attacked = (record["agent"][own] < 3) & batch.valid[own]
        assert int(made.counts[j]) == int(attacked.sum())


def test_the_archive_grows_and_never_overflows():
    made, victim, sizes = romance(Arena(), archive=4, rounds=1), team(), []
    for number in range(8):
        generation(made, victim, number)
        sizes.append(len(made.archive))
    assert sizes == sorted(sizes)
    assert 1 <= sizes[0] <= 3
    assert sizes[-1] <= 4
    assert made.archive.born.unique().numel() > 1


def test_when_attackers_no_longer_learn_the_archive_stands_still():
    made, victim = romance(Arena(), rounds=1, generations=2), team()
    for number in range(3):
        generation(made, victim, number)
    assert not made.learning
    kept = copy.deepcopy(made.archive.state_dict())
    for number in range(3, 6):
        generation(made, victim, number)
        for slot in range(3):  # each is one of those kept, bit for bit
            same = [
                all(
                    torch.equal(own[slot], others[k])
                    for own, others in zip(
                        made.attackers.layers, made.archive.kept.layers, strict=True
                    )
                )
                for k in range(len(made.archive))
            ]
            assert any(same)
    assert all(torch.equal(kept[k], v) for k, v in made.archive.state_dict().items())


def archive(size=3):
    attackers = Attackers(arena_spec(), number=4, hidden=(4,), soft=1.0)
    return attackers, Archive(attackers, size)


def add(kept, attackers, index, returned=5.0, tolerance=0.5, chance=0.5):
    points = torch.ones(2, attackers.features) * torch.arange(1.0, 3.0)[:, None]
    settings = {"returned": returned, "tolerance": tolerance, "chance": chance}
    return kept.add(attackers, index, points=points, **settings)


def test_what_is_new_is_added_and_the_oldest_makes_room():
    attackers, kept = archive()
    for number in range(4):
        assert add(kept, attackers, number, tolerance=1.0)
    assert len(kept) == 3
    assert kept.born.tolist() == [3, 1, 2]
    assert torch.equal(kept.kept.layers[0][0], attackers.layers[0][3])


@pytest.mark.parametrize(
    ("returned", "chance", "stays"),
    [
        (5.0, 0.66, True),
        (5.0, 0.67, False),
        (20.0, 0.33, True),
        (20.0, 0.34, False),
        (0.0, 0.99, True),
        (-1.0, 0.99, True),
    ],
)
def test_the_like_of_one_kept_takes_its_place_by_strength(returned, chance, stays):
    """The twin of one under whom the team earned 10 stays with 10 / (10 + R)."""
    attackers, kept = archive()
    add(kept, attackers, 0, returned=10.0)
    add(kept, attackers, 1, returned=10.0, tolerance=1.0)
    assert add(kept, attackers, 0, returned=returned, tolerance=0.5, chance=chance) == stays
    assert len(kept) == 2
    assert float(kept.returns[0]) == (returned if stays else 10.0)


def test_where_returns_are_not_positive_the_stronger_stays():
    attackers, kept = archive()
    add(kept, attackers, 0, returned=-3.0)
    assert not add(kept, attackers, 0, returned=-2.0, chance=0.0)
    assert add(kept, attackers, 0, returned=-4.0, chance=0.99)


def test_distances_are_divergences_where_either_attacked():
    attackers, kept = archive()
    assert len(kept.distances(attackers, 0, torch.zeros(0, 6))) == 0
    add(kept, attackers, 0)
    add(kept, attackers, 1, tolerance=1.0)
    points = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    found = kept.distances(attackers, 0, points)
    assert float(found[0]) == pytest.approx(0.0, abs=1e-6)
    seen = torch.cat([points, kept.points[1, :2]])
    able = torch.ones(5, 4, dtype=torch.bool)
    new, old = attackers.policies(attackers(seen), able, explore=True)[:2]
    torch.testing.assert_close(found[1], (new * (new / old).log()).sum(-1).mean())


def test_those_kept_are_like_those_that_it_keeps():
    settings = {"budget": 3, "rate": 0.3, "soft": 0.5, "floor": 0.01, "agents": ["unit_1"]}
    attackers = Attackers(arena_spec(), number=2, hidden=(4, 5), **settings)
    kept = Archive(attackers, size=7).kept
    assert kept.number == 7
    assert kept.sizes == attackers.sizes
    for name in (*settings, "attackable"):
        assert str(getattr(kept, name)) == str(getattr(attackers, name))


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_distances_are_finite_where_policies_have_nothing_in_common(rate):
    """Without a floor, and with rate 1 for nobody, probabilities are 0."""
    attackers = Attackers(arena_spec(), number=2, hidden=(4,), rate=rate, soft=1e-3, floor=0.0)
    with torch.no_grad():
        for index in (0, 1):
            attackers.layers[-1][index, 0, index] += 50.0
    kept = Archive(attackers, 3)
    assert add(kept, attackers, 0)
    points = torch.randn(3, attackers.features, generator=torch.Generator().manual_seed(0))
    same, other = (float(kept.distances(attackers, index, points)) for index in (0, 1))
    assert same == 0.0
    assert 10.0 < other < math.inf
    assert add(kept, attackers, 1, tolerance=1.0)


@pytest.mark.parametrize(("agents", "floor"), [(24, 0.02), (25, 1 / 52), (64, 1 / 130)])
def test_large_teams_have_a_floor_below_what_is_uniform(agents, floor):
    made = ROMANCE.for_env(SignalMatching(agents), hidden=(2,), attackers=1)
    assert made.attackers.floor == made.archive.kept.floor == pytest.approx(floor)
    given = ROMANCE.for_env(SignalMatching(64), hidden=(2,), attackers=1, floor=1e-3)
    assert given.archive.kept.floor == 1e-3


def test_the_strong_are_drawn_more_often():
    """By exp(-R / 5), all different while there are enough."""
    attackers, kept = archive()
    for number, returned in enumerate((0.0, 5.0, 10.0)):
        add(kept, attackers, number, returned=returned, tolerance=1.0)
    draws = torch.Generator().manual_seed(0)
    first = np.bincount([kept.draw(1, draws)[0] for _ in range(3000)], minlength=3) / 3000
    chances = np.exp([0.0, -1.0, -2.0])
    assert first == pytest.approx(chances / chances.sum(), abs=0.03)
    assert sorted(kept.draw(3, draws)) == [0, 1, 2]
    assert len(kept.draw(7, draws)) == 7


# In training.


def trained(adversary, env_steps=150, victim=None, **how):
    victim = team(seed=1) if victim is None else victim
    learner = victim if adversary is None else AdversarialTraining(victim, adversary, **how)
    learn = OffPolicy(batch_size=4, learning_starts=4)
    run(learner, Arena, env_steps=env_steps, num_envs=2, learn=learn, log=QUIET)
    return victim


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
def test_without_budget_it_is_plain_training(generator):
    assert same_weights(trained(None), trained(romance(Arena(), generator, budget=0)))
    if generator is not None:
        nothing = stor(LinfBall(epsilon=0.0))
        assert same_weights(trained(None), trained(romance(Arena(), nothing, budget=4)))


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
def test_a_team_that_stands_still_does_not_move(generator):
    victim, made = team(), romance(Arena(), generator, rounds=2)
    kept, before = weights(victim), weights(made.attackers)
    trained(made, victim=victim, team_every=None)
    assert all(torch.equal(kept[name], p) for name, p in weights(victim).items())
    moved = weights(made.attackers)
    assert any(not torch.equal(before[name], p) for name, p in moved.items())


@pytest.mark.parametrize("rounds", [0, 1, 3, 4])
def test_a_copy_that_was_loaded_goes_on_as_it_does(rounds):
    """From anywhere in a generation: tallies and points come along, and what they lead to."""
    made, victim = romance(Arena(), rounds=3), team(exploration=0.0)
    for k in range(rounds):
        batch = lived(made, victim, seed=k)
        made.learn(Sample(fresh=batch, drawn=batch))
    twin = romance(Arena(), rounds=3)
    twin.load_state_dict(made.state_dict())
    for k in range(rounds, rounds + 8):
        for one in (made, twin):
            batch = lived(one, victim, seed=k)
            one.learn(Sample(fresh=batch, drawn=batch))
    for (name, one), other in zip(
        made.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert not torch.is_tensor(one) or torch.equal(one, other), name
    assert len(made.archive) > 0


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
def test_it_resumes_bit_for_bit(generator, tmp_path):
    """In the middle of a generation, archive and tallies included."""

    def part(folder, env_steps):
        made = romance(Arena(), generator, rounds=3)
        whole = AdversarialTraining(team(seed=1), made)
        run(
            whole,
            Arena,
            env_steps=env_steps,
            num_envs=2,
            learn=OffPolicy(batch_size=4, learning_starts=4),
            log=Log(folder, progress=False, resume=(folder / "checkpoint.pt").exists()),
        )
        return whole

    part(tmp_path / "cut", 120)
    assert list((tmp_path / "cut").iterdir())
    cut, through = part(tmp_path / "cut", 300), part(tmp_path / "through", 300)
    assert int(through.adversaries[0].generation) > 1
    one, other = cut.state_dict(), through.state_dict()
    for key, values in one.items():
        if isinstance(values, torch.Tensor):
            assert torch.equal(values, other[key]), key
    assert same_weights(cut, through)


def test_it_spoils_a_game_of_a_team_that_stands_still():
    def make():
        return SignalMatching(2, horizon=5)

    victim = QMIX.for_env(make(), hidden=(16,), optim=adam(3e-3), exploration=0.3)
    learn = OffPolicy(batch_size=16, learning_starts=16)
    run(victim, make, env_steps=2_000, learn=learn, log=QUIET)
    made = ROMANCE.for_env(
        make(), hidden=(16,), budget=5, soft=0.3, attack_cost=0.1, optim=adam(3e-3)
    )
    untrained = rollout(victim, make, episodes=40, perturb=made.deployed()).returns.mean()
    attack = AdversarialTraining(victim, made, team_every=None)
    run(attack, make, env_steps=1_500, learn=learn, log=QUIET)
    clean = rollout(victim, make, episodes=40).returns.mean()
    attacked = rollout(victim, make, episodes=40, perturb=made.deployed()).returns.mean()
    assert attacked < 0.5 * clean
    assert attacked < 0.5 * untrained


def test_what_it_deploys():
    made = romance(Arena(), floor=0.25)
    assert isinstance(made.deployed(), AttackerActions)
    assert isinstance(romance(Arena(), STOR).deployed(), AttackerObs)
    assert made.deployed().attackers is not made.attackers
    # uniform while it explores; deployed it is the policy itself
    quiet = romance(Arena(), rate=1e-6, soft=1e6, floor=0.25, budget=6)
    victim = team()
    for perturber, attacks in ((quiet.perturber(), True), (quiet.deployed(), False)):
        batch = collected(victim, 6, perturb=[perturber]).latest(6)
        attacked = (batch.record("attackers")["agent"] < 3) & batch.valid
        assert bool(attacked.any()) == attacks
    always = romance(Arena(), rate=0.6, soft=1e6).deployed(
        greedy=True
    )  # .2 each against .4 for nobody
    batch = collected(victim, 6, perturb=[always]).latest(6)
    assert not bool(((batch.record("attackers")["agent"] < 3) & batch.valid).any())


@pytest.mark.parametrize("generator", KINDS.values(), ids=KINDS)
def test_deployed_it_attacks_in_every_episode(generator):
    """Whatever the share of those that it learned from, as directors do."""
    made = romance(Arena(), generator, episodes=0.0, rate=1.0)
    learning, at_work = (
        collected(team(), 6, perturb=[one]).latest(6) for one in (made.perturber(), made.deployed())
    )
    assert not bool(((learning.record("attackers")["agent"] < 3) & learning.valid).any())
    assert bool(((at_work.record("attackers")["agent"] < 3) & at_work.valid).any(dim=1).all())


def test_it_can_be_one_of_a_population():
    check_adversary(
        lambda env: Population([romance(env), romance(env, seed=1)]), lambda env: team(), Arena
    )


def test_in_a_population_new_episodes_are_a_round_though_none_of_them_was_drawn():
    both = Population([romance(Arena()), romance(Arena(), seed=1)])
    batch = collected(team(), 12, perturb=[both.perturber()]).latest(12)
    index = batch.record("population")["index"][:, 0]
    figures = both.learn(Sample(fresh=batch, drawn=batch.select(index == 0)))
    assert [int(member.round) for member in both.members] == [1, 1]
    assert [int(member.played.sum()) for member in both.members] == torch.bincount(index).tolist()
    assert "0/td_loss" in figures
    assert "1/td_loss" not in figures


def test_bad_input():
    with pytest.raises(ValueError, match=r"ROMANCE\.spec must be of discrete actions"):
        romance(Arena(continuous=True))
    with pytest.raises(TypeError, match=r"ROMANCE\.generator must be a GradientAttack"):
        romance(Arena(), LinfBall(epsilon=0.3))
    made, other = romance(Arena()), romance(SignalMatching(2))
    with pytest.raises(ValueError, match=r"AttackerActions\.attackers must be of a team with this"):
        collected(team(), perturb=[other.perturber()])
    with pytest.raises(ValueError, match=r"AttackerActions\.policy must be a team with values"):
        rollout(RandomController(made.attackers.spec), Arena, perturb=made.perturber(), episodes=2)
    plain = collected(team()).latest(6)
    for sample in (Sample(drawn=plain), Sample(fresh=plain)):
        with pytest.raises(
            ValueError, match=r"learn\.sample must be of episodes that it played in"
        ):
            made.learn(sample)
