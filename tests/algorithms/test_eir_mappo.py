"""EIR-MAPPO against its closed forms, and its reductions to EAR-MAPPO and MAPPO."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import (
    Arena,
    Recorded,
    arena_spec,
    collected,
    copy_batch,
    same_weights,
    sgd,
    update,
    weights,
)

from robustmarl import envs, training
from robustmarl.adversaries import ByzantineAttacker, Sample
from robustmarl.adversaries.ppo import byzantine_rows
from robustmarl.algorithms import EARMAPPO, EIRMAPPO, MAPPO, QMIX, TrueTypeMAPPO
from robustmarl.algorithms.eir_settings import PRESETS
from robustmarl.attacks import PGD, toward_adversary
from robustmarl.budgets import LinfBall
from robustmarl.data import JointCollector
from robustmarl.envs.vector import JointVectorEnv
from robustmarl.evaluation.suites import byzantine_attacks
from robustmarl.learning.returns import ppo_surrogate
from robustmarl.learning.values import Valuation
from robustmarl.perturbers import ByzantinePerturber, ObsPerturber, Place, TypeDistribution
from robustmarl.policies import ByzantinePolicy
from robustmarl.schedules import Linear
from robustmarl.testing import check_algorithm
from robustmarl.victims import Rows
from robustmarl.wrappers import BayesianTypeWrapper

TEAMS = (EIRMAPPO, EARMAPPO, TrueTypeMAPPO)
SMALL = {"hidden": (16, 16), "preset": None}


def made(cls=EIRMAPPO, *, env=Arena, **settings):
    return cls.for_env(env(), **(SMALL | settings))


def played(algorithm, episodes=8, *, env=Arena, seed=0):
    return collected(algorithm, episodes, make_env=env, perturb=algorithm.perturbers(), seed=seed)


def batch_of(algorithm, *args, **keywords):
    return played(algorithm, *args, **keywords).sample(0)[0]


def attack_on(victim, agents, **settings):
    """Return the non-oblivious attack on a team that stands still."""
    attacker = ByzantineAttacker.against(victim, agents, **settings)
    return training.AdversarialTraining(victim, attacker, team_every=None)


def loud(algorithm):
    """Give beliefs, logits and values something to say."""
    torch.manual_seed(0)
    policies = (algorithm.policy, algorithm.adversary.policy)
    for module in (policy.network.rest[-1] for policy in policies):
        torch.nn.init.normal_(module.weight, 0.0, 0.3)
    if algorithm.policy.belief is not None:
        torch.nn.init.normal_(algorithm.policy.belief.head.weight)
    return algorithm


@pytest.mark.parametrize("cls", TEAMS)
def test_it_keeps_the_contract_of_algorithms(cls):
    check_algorithm(lambda env: cls.for_env(env, **SMALL), Arena)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("cls", TEAMS)
def test_everything_that_should_learn_moves_and_stays_finite(cls, continuous):
    def env():
        return Arena(continuous=continuous)

    algorithm = made(cls, env=env, p=0.7)
    before = weights(algorithm)
    stats = update(algorithm, played(algorithm, env=env), repeat=2)
    after = weights(algorithm)
    assert all(np.isfinite(value) for value in stats.metrics.values())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    fixed = {"critic.id_table"}
    if cls is EARMAPPO:
        fixed |= {"policy.network.slot_table", "critic.slot_table"}
    for part in ("policy.network", "critic", "adversary", "policy.belief"):
        names = {name for name in before if name.startswith(part)} - fixed
        assert names <= moved, names - moved
    assert not moved & fixed


# Reductions


@pytest.mark.parametrize("env", [Arena, envs.ToyGame])
def test_mappo_is_ear_mappo_without_byzantine_agents_bit_for_bit(env):
    plain = MAPPO.for_env(env(), hidden=(16, 16), seed=3)
    robust = made(EARMAPPO, env=env, p=0.0, seed=3)
    for _ in range(3):
        batches = [
            collected(plain, 4, make_env=env).sample(0)[0],
            batch_of(robust, 4, env=env),
        ]
        assert torch.equal(batches[0].act, batches[1].act)
        for algorithm, batch in zip((plain, robust), batches, strict=True):
            update(algorithm, Recorded(batch), repeat=3, batch_size=40)
    own = weights(robust)
    assert all(torch.equal(value, own[name]) for name, value in weights(plain).items())


def test_a_perturber_that_draws_nobody_changes_nothing():
    one, other = (made(EARMAPPO, p=p) for p in (0.0, 0.5))
    other.adversary.types.p = 0.0
    silent = ByzantinePerturber(other.adversary.policy, types=TypeDistribution(0.0))
    batches = [batch_of(one), collected(other, 8, perturb=[silent]).sample(0)[0]]
    before = weights(other.adversary)
    for algorithm, batch in zip((one, other), batches, strict=True):
        update(algorithm, Recorded(batch), repeat=2)
    assert same_weights(one.policy, other.policy)
    assert all(torch.equal(v, before[k]) for k, v in weights(other.adversary).items())


def test_ear_is_eir_with_empty_slots():
    eir, ear = loud(made()), made(EARMAPPO)
    ear.policy.network.load_state_dict(eir.policy.network.state_dict())
    ear.critic.load_state_dict(eir.critic.state_dict())
    batch = batch_of(ear)
    obs, empty = batch.obs.seen, torch.zeros(*batch.obs.seen.shape[:3], 3)
    one, other = (x.policy.network for x in (ear, eir))
    plain = one.unroll(obs, None)[0]
    assert torch.allclose(plain, other.unroll(obs, None, {"slots": empty})[0], atol=1e-6)
    assert not torch.allclose(plain, other.unroll(obs, None, {"slots": empty + 1})[0])


def test_true_type_slots_are_the_types_of_the_attacked():
    algorithm = made(TrueTypeMAPPO, p=0.5)
    batch = batch_of(algorithm, 16)
    want = batch.record("byzantine")["types"].float().unsqueeze(2).expand(-1, -1, 3, -1)
    assert torch.equal(batch.record("policy")["slots"][batch.valid], want[batch.valid])
    assert 0.0 < float(want[batch.valid].mean()) < 0.5
    slots = algorithm._lived(batch)[1]["slots"]
    assert torch.equal(slots[:, :-1][batch.valid], want[batch.valid])
    assert torch.equal(slots[:, -1], want[:, 0])
    clean = collected(algorithm, 4).sample(0)[0]  # nobody draws types
    assert not bool(algorithm._lived(clean)[1]["slots"].any())


# Beliefs


def test_the_actor_acts_on_the_belief_that_it_learns_with():
    algorithm = loud(made(p=0.5))
    batch = batch_of(algorithm)
    memory, side = algorithm._lived(batch)
    logits, states = algorithm.belief.unroll(batch.obs.seen)
    assert torch.equal(memory, states)
    rows = batch.valid
    belief = torch.sigmoid(logits)[:, :-1][rows]
    assert torch.allclose(batch.record("policy")["slots"][rows], belief, atol=1e-5)
    assert torch.equal(side["slots"][:, :-1][rows], batch.record("policy")["slots"][rows])
    assert float(belief.detach().std()) > 0.01
    slots = {"slots": side["slots"][:, :-1]}
    output, _ = algorithm.policy.network.unroll(batch.obs.seen[:, :-1], None, slots)
    output = output.masked_fill(~batch.obs.mask[:, :-1], -1e9)
    logp = algorithm.policy.log_prob(output, batch.act)
    assert torch.allclose(logp[rows], batch.logp[rows], atol=1e-5)
    other = {"slots": 1.0 - side["slots"]}  # V(s, b)
    values = (algorithm.valuation.values(batch.obs, one) for one in (side, other))
    assert not torch.allclose(*values)


def test_beliefs_learn_who_is_byzantine_and_keep_ppo_out():
    algorithm = made(p=0.5, belief_optim=sgd(0.0), belief_chunk=None)
    before = {k: v.clone() for k, v in algorithm.belief.named_parameters()}
    update(algorithm, played(algorithm), repeat=2)
    assert all(torch.equal(v, before[k]) for k, v in algorithm.belief.named_parameters())
    frozen = {
        "optim": sgd(0.0),
        "adversary_optim": sgd(0.0),
    }
    algorithm = made(p=0.5, **frozen)
    others = weights(algorithm)
    update(algorithm, played(algorithm), repeat=2)
    for name, value in weights(algorithm).items():
        assert torch.equal(value, others[name]) != name.startswith("policy.belief")


@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 50, None])
def test_the_belief_loss_is_the_written_one_however_it_is_cut(chunk):
    algorithm = loud(made(p=0.6, belief_chunk=chunk, belief_minibatches=1))
    batch = batch_of(algorithm)
    logits, memory = algorithm.belief.unroll(batch.obs.seen)
    terms = []
    for b, t in batch.valid.nonzero().tolist():
        for i in range(3):
            for j in range(3):
                p = torch.sigmoid(logits[b, t, i, j])
                terms.append(
                    -torch.log(p if batch.record("byzantine")["types"][b, t, j] else 1.0 - p)
                )
    obs, types = batch.obs.seen[:, :-1], batch.record("byzantine")["types"]
    learner = algorithm.belief_learner
    found = learner.learn(obs, types, batch.valid, memory.detach(), seed=0)
    assert found == pytest.approx(float(torch.stack(terms).mean().detach()), rel=1e-4)


def test_hard_beliefs_are_zero_or_one():
    batch = batch_of(loud(made(hard_belief=True)))
    assert set(batch.record("policy")["slots"][batch.valid].flatten().tolist()) == {
        0.0,
        1.0,
    }


def test_teacher_forcing_shows_the_truth_that_often_in_training_only():
    algorithm = loud(made(p=0.9, teacher_forcing=0.3))
    batch = batch_of(algorithm, 200)
    truth = batch.record("byzantine")["types"].float().unsqueeze(2).expand(-1, -1, 3, -1)
    forced = (batch.record("policy")["slots"] == truth).all(dim=-1)[batch.valid]
    assert float(forced.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert int((forced.sum(dim=1) == 1).sum()) > 0  # a coin per agent
    collector = JointCollector(
        algorithm, JointVectorEnv(Arena, 3), perturb=algorithm.perturbers(), seed=1
    )
    collector.collect(n_episode=3)
    slots = algorithm.policy.record()["slots"]
    assert not bool(((slots == 0.0) | (slots == 1.0)).all(dim=-1).any())


def test_what_the_actor_is_shown_does_not_reach_the_belief():
    """Truth in the slots or not: the belief's memory, and what it learns from, are the same."""
    forced, free = (loud(made(p=0.7, teacher_forcing=share)) for share in (1.0, 0.0))
    batch = batch_of(forced)
    truth = batch.record("byzantine")["types"].float().unsqueeze(2).expand(-1, -1, 3, -1)
    assert torch.equal(batch.record("policy")["slots"][batch.valid], truth[batch.valid])
    (memory, _), (other, _) = (a._lived(batch) for a in (forced, free))
    assert torch.equal(memory, other)
    _, states = forced.belief.unroll(batch.obs.obs)
    assert torch.equal(memory, states)


@pytest.mark.parametrize("iterations", [8, 40])
def test_the_teacher_forcing_schedule_is_that_of_the_sheet(iterations):
    algorithm = made(teacher_forcing=Linear(1.0, 0.0, over=iterations // 2))
    found = []
    for _ in range(iterations):
        found.append(algorithm.policy.forcing)
        algorithm.policy.count("updates", 1)
    assert found[0] == 1.0
    assert found[iterations // 4 - 1] == pytest.approx(0.5 + 2 / iterations)
    assert found[iterations // 2 - 1] == pytest.approx(2 / iterations)
    assert found[iterations // 2 :] == [0.0] * (iterations // 2)


# Updates


def test_masks_are_disjoint_and_together_the_living():
    algorithm = made(p=0.7, types=None)
    batch = batch_of(algorithm, 16)
    team, adversary = algorithm.learning_rows(batch), algorithm.adversary.rows(batch)
    living = batch.valid.unsqueeze(-1) & batch.obs.alive[:, :-1]
    assert not bool((team & adversary).any())
    assert torch.equal(team | adversary, living)
    assert bool(team.any())
    assert bool(adversary.any())


SURROGATE = [(1.3, 2.0, 2.6), (0.7, -1.0, -0.7), (1.02, 0.5, 0.51)]


def test_the_adversarys_surrogate_is_that_of_the_sheet():
    """Its gradient is that of the team's with the advantage turned."""
    ratio, advantage, expected = torch.tensor(SURROGATE).unbind(1)
    logp = ratio.log().requires_grad_()
    loss = -ppo_surrogate(logp, torch.zeros(3), -advantage, 0.05)
    assert loss.tolist() == pytest.approx(expected.tolist())
    loss.sum().backward()
    assert logp.grad.tolist() == pytest.approx(expected.tolist())  # d (r A) / d log r, unclipped
    logp.grad = None
    ppo_surrogate(logp, torch.zeros(3), advantage, 0.05).sum().backward()
    assert logp.grad.tolist() == pytest.approx([0.0, 0.0, 0.51])  # the team's, clipped twice


@pytest.mark.parametrize(("ratio", "advantage", "expected"), SURROGATE)
def test_the_adversary_learns_by_that_surrogate(ratio, advantage, expected):
    algorithm = made(p=1.0, adversary_clip=0.05, adversary_entropy_coef=0.0)
    changed = copy_batch(batch_of(algorithm))
    changed.record("byzantine")["logp"].sub_(float(np.log(ratio)))
    steady = torch.full(algorithm.adversary.rows(changed).shape, advantage)
    figures = algorithm.adversary.learn(Sample(fresh=changed, advantage=steady))
    assert figures["policy_loss"] == pytest.approx(expected, rel=1e-4)


def stepped(algorithm, batch, advantage):
    """Return the adversary's gradient by the given advantage."""
    algorithm = copy.deepcopy(algorithm)
    before = weights(algorithm.adversary.policy)
    algorithm.adversary.learn(Sample(fresh=batch, advantage=advantage))
    return {k: before[k] - v for k, v in weights(algorithm.adversary.policy).items()}


def test_gradients_of_team_and_adversary_have_opposite_signs():
    own = {"adversary_optim": sgd(1.0), "adversary_clip": 0.2, "adversary_entropy_coef": 0.0}
    algorithm = loud(made(p=1.0, **own, max_grad_norm=None, sees_actions=True))
    batch = batch_of(algorithm, 16)
    rows = algorithm.adversary.rows(batch)
    advantage = torch.randn(rows.shape)
    found = stepped(algorithm, batch, advantage)
    adversary = algorithm.adversary.policy
    agents = torch.arange(3).expand(rows.shape)[rows]
    told = batch.act_intended.unsqueeze(2).expand(*rows.shape, 3)[rows]
    output = adversary.outputs(batch.obs.obs[:, :-1][rows], agents, told)
    logp = adversary.log_prob(
        output.masked_fill(~batch.obs.mask[:, :-1][rows], -1e9),
        batch.record("byzantine")["act"][rows],
    )
    assert torch.allclose(logp, batch.record("byzantine")["logp"][rows], atol=1e-5)
    objective = (logp * advantage[rows]).mean()  # at ratio 1: the team's would rise
    adversary.zero_grad()
    objective.backward()
    for name, parameter in adversary.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-6), name
    assert max(float(g.abs().max()) for g in found.values()) > 1e-3
    turned = stepped(algorithm, batch, -advantage)
    for name, gradient in found.items():
        assert torch.allclose(turned[name], -gradient, atol=1e-6)


def test_nothing_of_a_byzantine_agents_actions_reaches_the_team():
    algorithm = made(EARMAPPO, p=1.0, optim=sgd(1.0))
    batch = batch_of(algorithm, 16)
    changed = copy_batch(batch)
    rows = algorithm.adversary.rows(batch)
    changed.act[rows] = 1  # always available
    changed.logp[rows] -= 0.5
    twin = copy.deepcopy(algorithm)
    for one, data in ((algorithm, batch), (twin, changed)):
        update(one, Recorded(data), repeat=1)
    assert same_weights(algorithm.policy, twin.policy)


def test_a_wholly_byzantine_team_learns_nothing_and_stays_finite():
    names = [f"unit_{i}" for i in range(3)]
    algorithm = made(types=TypeDistribution(1.0, choice="fixed", agents=names), optim=sgd(1.0))
    batch = batch_of(algorithm)
    assert not bool(algorithm.learning_rows(batch).any())
    before = weights(algorithm.policy.network)
    stats = update(algorithm, Recorded(batch))
    assert stats.metrics["policy_loss"] == 0.0
    assert all(np.isfinite(value) for value in stats.metrics.values())
    after = weights(algorithm.policy.network)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_wholly_byzantine_round_of_own_rewards_is_learned_from():
    names = [f"unit_{i}" for i in range(3)]
    types = TypeDistribution(1.0, choice="fixed", agents=names)
    algorithm = made(types=types, reward="agents", normalize_value=True)
    for _ in range(2):
        stats = update(algorithm, Recorded(batch_of(algorithm)))
        assert all(np.isfinite(value) for value in stats.metrics.values())
    assert all(bool(value.isfinite().all()) for value in weights(algorithm).values())
    assert stats.metrics["adversary/policy_loss"] == 0.0  # there is no team to compare with


@pytest.mark.parametrize("reward", ["team", "agents"])
def test_the_critic_learns_what_byzantine_agents_are_worth(reward, monkeypatch):
    """Their adversary learns from the same values, in rounds of the team as in others."""
    algorithm, asked = made(p=1.0, reward=reward), []
    batch, targets = batch_of(algorithm), Valuation.targets

    def spy(self, returns, rows):
        asked.append(rows)
        return targets(self, returns, rows)

    monkeypatch.setattr(Valuation, "targets", spy)
    update(algorithm, Recorded(batch))
    expected = batch.living if reward == "agents" else batch.valid.unsqueeze(-1)
    assert bool(algorithm.adversary.rows(batch).any())
    assert torch.equal(asked[0], expected.expand_as(asked[0]))


def test_the_shared_advantage_is_standardised_over_the_teams_rows():
    algorithm = made(EARMAPPO, p=1.0)
    batch = batch_of(algorithm, 16)
    kept = {}

    def spy(sample):
        kept["advantage"], kept["steps"] = sample.advantage, sample.epochs
        return {}

    algorithm.adversary.learn = spy
    update(algorithm, Recorded(batch), repeat=3)
    team = kept["advantage"][algorithm.learning_rows(batch)]
    assert float(team.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(team.std()) == pytest.approx(1.0, abs=1e-4)
    assert kept["steps"] == 3


@pytest.mark.parametrize("cls", TEAMS)
def test_its_advantages_are_those_that_it_learns_by(cls, monkeypatch):
    algorithm, shared = made(cls, p=0.9, types=None), []
    buffer = played(algorithm)
    batch = buffer.get_episodes(buffer.sample_indices(0))
    with torch.no_grad():
        found = algorithm.standardized(batch, algorithm.advantages(batch)[0])
    monkeypatch.setattr(
        algorithm.adversary, "learn", lambda sample: shared.append(sample.advantage) or {}
    )
    update(algorithm, Recorded(batch))
    assert torch.equal(found, shared[0])


def test_a_learned_traitor_values_living_agents_alone(monkeypatch):
    valued, fit = [], Valuation.fit

    def spy(self, batch, returns, rows, *args):
        valued.append((rows, batch.living))
        return fit(self, batch, returns, rows, *args)

    monkeypatch.setattr(Valuation, "fit", spy)
    attack = attack_on(made(EARMAPPO), ["unit_0"], hidden=(16,), reward="agents")
    update(attack, played(attack))
    rows, living = valued[-1]
    assert torch.equal(rows, living)
    assert not living.all()


def test_adversary_epochs_multiply_its_steps_only():
    calls = {}
    for epochs in (1, 4):
        algorithm = made(p=1.0, adversary_epochs=epochs)
        optimizers = {
            "optim": algorithm.optim,
            "adversary_optim": algorithm.adversary.optim,
            "belief_optim": algorithm.belief_learner.optim,
        }
        for name, optim in optimizers.items():
            step = optim.step

            def counted(loss, name=name, step=step, epochs=epochs):
                calls[epochs, name] = calls.get((epochs, name), 0) + 1
                step(loss)

            optim.step = counted
        update(algorithm, played(algorithm), repeat=2)
    assert calls == {
        (1, "optim"): 2,
        (1, "adversary_optim"): 2,
        (1, "belief_optim"): 5,
        (4, "optim"): 2,
        (4, "adversary_optim"): 8,
        (4, "belief_optim"): 5,
    }


def test_the_adversarys_clip_and_entropy_weight_are_its_own():
    """They change the adversary alone; left out they are the team's."""
    settings = {"clip": 0.05, "entropy_coef": 0.01}
    found = []
    for own in (
        {},
        {"adversary_clip": 0.05, "adversary_entropy_coef": 0.01},
        {"adversary_clip": 1e-6},
        {"adversary_entropy_coef": 0.5},
    ):
        algorithm = made(p=0.5, **settings, **own)
        update(algorithm, played(algorithm), repeat=4)
        found.append(weights(algorithm))
    plain, same, *others = found
    for name, value in plain.items():
        assert torch.equal(value, same[name])
        for other in others:
            assert torch.equal(value, other[name]) or name.startswith("adversary"), name
    for other in others:
        assert any(not torch.equal(value, other[name]) for name, value in plain.items())


@pytest.mark.parametrize(("interval", "rounds"), [(1, 3), (2, 5), (3, 7)])
def test_the_team_learns_in_every_so_many_rounds(interval, rounds):
    algorithm = made(p=0.5, victim_interval=interval)
    moved = {"team": 0, "adversary": 0, "critic": 0}
    parts = {
        "team": algorithm.policy.network,
        "adversary": algorithm.adversary.policy.network,
        "critic": algorithm.critic,
    }
    for number in range(1, rounds + 1):
        before = {name: weights(part) for name, part in parts.items()}
        assert algorithm.present_p() == (0.5 if number % interval == 0 else 1.0)
        batch = batch_of(algorithm, 12, seed=number)
        everywhere = bool(batch.record("byzantine")["types"][:, 0].any(dim=1).all())
        assert everywhere == (number % interval != 0)
        update(algorithm, Recorded(batch), repeat=1)
        for name, part in parts.items():
            same = all(torch.equal(v, before[name][k]) for k, v in weights(part).items())
            moved[name] += not same
    assert moved == {"team": rounds // interval, "adversary": rounds, "critic": rounds}
    assert algorithm.policy.counted("updates") == rounds


def test_presets_are_the_two_time_scales():
    released, slow = PRESETS["released"], PRESETS["two_timescale"]
    differ = {key for key in released if released[key] is not slow[key]}
    assert differ == {"optim", "adversary_epochs"}
    team = EIRMAPPO.for_env(Arena(), preset="two_timescale", hidden=(8, 8))
    optimizers = [*team._optimizers, *team.adversary.optimizers]
    rates = [o.state_dict()["param_groups"][0]["lr"] for o in optimizers]
    assert rates == [1e-4, 5e-4, 5e-4]
    assert team.adversary.epochs == 2
    assert team.clip == 0.05
    with pytest.raises(ValueError, match=r"EIRMAPPO.preset must be one of"):
        EIRMAPPO.for_env(Arena(), preset="fast")


def test_adaptive_types_use_the_latest_returns():
    types = TypeDistribution(0.6, choice="adaptive")
    algorithm = made(types=types)
    assert types.returns is None
    batch = batch_of(algorithm, 30)
    update(algorithm, Recorded(batch))
    for j in range(3):
        own = [
            float(batch.rew[b][batch.valid[b]].sum())
            for b in range(30)
            if bool(batch.record("byzantine")["types"][b, 0, j])
        ]
        assert float(algorithm.adversary.type_returns[j]) == pytest.approx(np.mean(own), rel=1e-5)
    present = algorithm.adversary.perturber().type_distribution
    assert torch.equal(present.returns, algorithm.adversary.type_returns)
    assert types.returns is None  # the caller's own is not touched


def test_adaptive_types_begin_with_the_returns_that_they_are_given():
    types = TypeDistribution(0.6, choice="adaptive")
    types.update([-2.0, -9.0, float("nan")])
    algorithm = made(types=types)
    expected = torch.tensor([2.0, 9.0, 9.0]).softmax(dim=0)
    for present in (
        algorithm.adversary.present_types(),
        algorithm.adversary.deployed().type_distribution,
    ):
        torch.testing.assert_close(present.weights(algorithm.spec), expected)
    types.update([1.0, 1.0, 1.0])  # the caller's, who goes on with it
    torch.testing.assert_close(
        algorithm.adversary.present_types().weights(algorithm.spec), expected
    )
    types = TypeDistribution(0.6, choice="adaptive")
    types.update([1.0, 2.0])
    with pytest.raises(ValueError, match=r"TypeDistribution\.returns must be 3 numbers"):
        made(types=types)


def test_whoever_was_never_byzantine_is_tried_where_returns_are_negative():
    algorithm = made(types=TypeDistribution(1.0, choice="adaptive"))
    batch = batch_of(algorithm, 4)
    lost = batch.replace(rew=torch.full_like(batch.rew, -10.0))
    types = batch.record("byzantine")["types"]
    types[:] = torch.tensor([True, False, False])
    update(algorithm, Recorded(lost))
    weights = algorithm.adversary.present_types().weights(algorithm.spec)
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3))


def test_returns_that_are_not_known_travel_with_the_weights(tmp_path):
    types = TypeDistribution(1.0, choice="adaptive")
    algorithm, again = made(types=types), made(types=types, seed=1)
    algorithm.adversary.type_returns[1] = -4.0
    again.adversary.type_returns.fill_(3.0)
    training.save_weights(algorithm, tmp_path / "team.pt")  # not refused as diverged
    training.load_weights(again, tmp_path / "team.pt")
    assert torch.equal(again.adversary.type_returns, algorithm.adversary.type_returns)
    assert again.adversary.type_returns.isinf().tolist() == [True, False, True]


# Adversaries


@pytest.mark.parametrize("continuous", [False, True])
def test_an_adversary_sees_the_others_actions_but_not_its_own(continuous):
    spec = arena_spec(continuous=continuous)
    adversary = ByzantinePolicy(spec, sees_actions=True, hidden=(16,))
    torch.nn.init.normal_(adversary.network.rest[-1].weight)
    obs, agents = torch.randn(3, 3), torch.arange(3)
    act = torch.rand(3, 2) if continuous else torch.tensor([0, 1, 2])
    first = adversary.outputs(obs, agents, act.expand(3, *act.shape))
    other = act.clone()
    other[0] = 0.9 if continuous else 3
    second = adversary.outputs(obs, agents, other.expand(3, *act.shape))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])
    assert not torch.allclose(first[2], second[2])


def test_an_adversary_runs_with_and_without_type_slots():
    spec = made().spec
    adversary = ByzantinePolicy(spec, hidden=(16,))
    obs, agents = torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)
    wide = torch.cat([obs, torch.rand(5, 3)], dim=-1)
    plain = adversary.outputs(obs, agents, None)
    assert torch.equal(plain, adversary.outputs(wide, agents, None))
    wider = MAPPO.for_env(BayesianTypeWrapper(Arena(), "random", slots="zeros")).spec
    adversary.check_spec(wider)
    other = ByzantinePolicy(wider, hidden=(16,))
    other.check_spec(spec)
    zeros = torch.cat([obs, torch.zeros(5, 3)], dim=-1)
    assert torch.equal(other.outputs(obs, agents, None), other.outputs(zeros, agents, None))
    text = "must be made for observations of size 5, or 3 type slots more or fewer, got 3"
    with pytest.raises(ValueError, match=text):
        adversary.outputs(torch.randn(5, 5), agents, None)
    with pytest.raises(ValueError, match="ByzantinePolicy must be made for this team's spaces"):
        ByzantinePerturber(adversary).bind(made(env=envs.ToyGame).spec, None, Place(0, "it"))


def test_a_trained_adversary_saves_and_loads_like_a_team(tmp_path):
    attack = attack_on(made(), ["unit_1"], hidden=(16,))
    update(attack, played(attack))
    policy = attack.adversaries[0].policy
    training.save_weights(policy, tmp_path / "adversary.pt")
    fresh = ByzantinePolicy(attack.spec, hidden=(16,), seed=9)
    assert not same_weights(fresh, policy)
    training.load_weights(fresh, tmp_path / "adversary.pt")
    assert same_weights(fresh, policy)


@pytest.mark.parametrize("cls", [EIRMAPPO, TrueTypeMAPPO, MAPPO, QMIX])
def test_the_attack_phase_moves_the_adversary_alone(cls):
    victim = made(cls) if cls in TEAMS else cls.for_env(Arena())
    attack = attack_on(victim, ["unit_0"], hidden=(16,))
    before, own = weights(victim), weights(attack)
    counts = victim.policy.counts.clone()
    buffer = played(attack)
    batch = buffer.sample(0)[0]
    assert batch.record("byzantine")["types"][batch.valid].tolist() == [[True, False, False]] * int(
        batch.valid.sum()
    )
    update(attack, buffer, repeat=2)
    assert all(torch.equal(v, before[k]) for k, v in weights(victim).items())
    assert torch.equal(counts, victim.policy.counts)
    for name, value in weights(attack).items():
        learns = name.startswith("_adversaries")
        assert torch.equal(value, own[name]) != learns, name


class Guess(Arena):
    """Agent i earns 1 by its last action; nothing else matters."""

    def step(self, actions):
        played = dict(actions)
        obs, _, dead, late, infos = super().step(dict.fromkeys(actions, 1))
        return obs, {a: float(played[a] == 3) for a in played}, dead, late, infos

    def _look(self):
        looked = super()._look()
        for row in looked.values():
            row["action_mask"][:] = 1
        return looked


def test_an_adversary_learns_to_harm():
    victim = MAPPO.for_env(Guess())
    torch.nn.init.zeros_(victim.policy.network.rest[-1].weight)
    with torch.no_grad():
        victim.policy.network.rest[-1].bias.copy_(torch.tensor([-9.0, -9.0, -9.0, 9.0]))
    from tianshou.algorithm.optim import AdamOptimizerFactory

    attack = attack_on(
        victim,
        ["unit_0"],
        hidden=(16,),
        clip=0.2,
        optim=AdamOptimizerFactory(lr=0.02),
    )
    shares = []
    for number in range(12):
        batch = batch_of(attack, 12, env=Guess, seed=number)
        rows = byzantine_rows(batch, batch.record("byzantine"))
        shares.append(float((batch.act_exec[rows] == 3).float().mean()))
        update(attack, Recorded(batch), repeat=4)
    assert shares[0] == pytest.approx(0.25, abs=0.12)
    assert shares[-1] < 0.08


# Attacks on the observations of a team with beliefs


def test_gradient_attacks_go_through_the_belief_and_its_memory():
    algorithm = loud(made())
    victim = algorithm.victim()
    assert victim.hidden_size == algorithm.belief.hidden_size
    obs, hidden = torch.randn(6, 3), torch.randn(6, 16)
    agents = torch.arange(3).repeat(2)
    view = victim.at(Rows(hidden=hidden, agents=agents))
    belief, after = algorithm.belief.step_rows(obs, agents, hidden)
    network = algorithm.policy.network
    want, _ = network.step(obs, network.extra(agents, None, {"slots": belief}), None)
    assert torch.allclose(view.logits(obs), want, atol=1e-6)
    assert torch.allclose(view.advance(obs), after, atol=1e-6)
    attack = PGD(ball=LinfBall(epsilon=0.2), steps=3)
    found = attack(view, obs)
    assert 0.0 < float((found - obs).abs().max()) <= 0.2 + 1e-6
    stack = [attack, *algorithm.perturbers()]
    batch = collected(algorithm, 4, perturb=stack).sample(0)[0]
    seen = torch.sigmoid(algorithm.belief.unroll(batch.obs.seen)[0])[:, :-1]
    assert torch.allclose(
        batch.record("policy")["slots"][batch.valid], seen[batch.valid], atol=1e-5
    )
    assert not torch.equal(batch.obs.seen, batch.obs.obs)


def test_a_belief_that_reads_clean_observations_is_not_deceived():
    """The attack moves the actor's input only, and its gradient leaves the slots alone."""
    algorithm = loud(made(belief_reads="clean"))
    attack = ObsPerturber(toward_adversary(algorithm.adversary.policy, 0.3), agents=["unit_1"])
    batch = collected(algorithm, 4, perturb=[attack, *algorithm.perturbers()]).sample(0)[0]
    moved = (batch.obs.seen - batch.obs.obs)[:, :-1][batch.valid]
    assert 0.0 < float(moved[:, 1].abs().max()) <= 0.3 + 1e-6
    assert not moved[:, [0, 2]].any()
    clean = torch.sigmoid(algorithm.belief.unroll(batch.obs.obs)[0])[:, :-1]
    assert torch.allclose(
        batch.record("policy")["slots"][batch.valid], clean[batch.valid], atol=1e-5
    )
    obs, slots, agents = torch.randn(6, 3), torch.rand(6, 3), torch.arange(3).repeat(2)
    victim, network = algorithm.victim(), algorithm.policy.network
    side = {"slots": slots}
    want, _ = network.step(obs, network.extra(agents, None, side), None)
    assert torch.equal(victim.at(Rows(agents=agents, side=side)).logits(obs), want)
    foreign, other = ObsPerturber(attack.attack, victim=algorithm), made()
    with pytest.raises(ValueError, match="the acting team itself where its beliefs read clean"):
        collected(other, 1, perturb=[foreign])


@pytest.mark.parametrize("cls", [EIRMAPPO, MAPPO, QMIX])
def test_eleven_attacks_play_against_any_team(cls):
    """Byzantine in every step or moved within the radius, and only the one agent."""
    algorithm = made(cls) if cls is EIRMAPPO else cls.for_env(Arena())
    names = ("MADDPG", "M3DDPG", "MAPPO", "RMAAC", "EAR", "True Type", "EIR")
    spec = algorithm.spec
    trained = {
        name: {"unit_1": ByzantinePolicy(spec, hidden=(8,), seed=k)} for k, name in enumerate(names)
    }
    for adversary in trained.values():
        torch.nn.init.normal_(adversary["unit_1"].network.rest[-1].weight)
    attacks = byzantine_attacks("EIR", trained, "unit_1")
    assert list(attacks) == [
        "non-oblivious",
        "random ally",
        *("observation 0.2", "observation 0.5", "observation 1"),
        *(f"from {name}" for name in names[:-1]),
    ]
    assert attacks["non-oblivious"].adversary.policy is trained["EIR"]["unit_1"]
    assert attacks["from RMAAC"].adversary.policy is trained["RMAAC"]["unit_1"]
    for name, attack in attacks.items():
        batch = collected(algorithm, 2, perturb=[attack]).sample(0)[0]
        if not name.startswith("observation"):
            assert batch.record("byzantine")["types"][batch.valid].tolist() == [
                [False, True, False]
            ] * int(batch.valid.sum())
            continue
        moved = (batch.obs.seen - batch.obs.obs)[:, :-1][batch.valid].abs()
        assert 0.0 < float(moved[:, 1].max()) <= float(name.split()[1]) + 1e-6
        assert not moved[:, [0, 2]].any()
    with pytest.raises(ValueError, match=r"agent must be .* against 'MAPPO', \[\], got"):
        byzantine_attacks("EIR", {"EIR": {"unit_0": None}, "MAPPO": {}}, "unit_0")


def test_tianshous_batches_see_the_belief_too():
    algorithm = loud(made())
    obs = torch.randn(2, 3, 3)
    from tianshou.data import Batch

    found = algorithm.policy(Batch(obs=Batch(obs=obs)))
    belief, after = algorithm.belief.step(obs, None)
    network = algorithm.policy.network
    want, _ = network.step(obs, network.extra(torch.arange(3), None, {"slots": belief}), None)
    assert torch.allclose(found.logits, want, atol=1e-6)
    assert torch.allclose(found.state, after, atol=1e-6)


def test_a_team_with_beliefs_fills_the_wrappers_slots():
    algorithm = loud(made())
    env = BayesianTypeWrapper(Arena(), "random", slots="belief", belief=algorithm)
    obs, _ = env.reset(seed=0)
    rows = torch.from_numpy(np.stack([obs[agent]["observation"] for agent in env.agents]))
    belief, _ = algorithm.belief.step(rows[None, :, :3], None)
    assert torch.allclose(rows[:, 3:], belief[0], atol=1e-6)
    with pytest.raises(ValueError, match="belief must be a belief network, or a team that has one"):
        BayesianTypeWrapper(Arena(), "random", slots="belief", belief=made(EARMAPPO))


# Runs


def test_a_run_resumes_bit_for_bit(tmp_path):
    def fresh():
        return made(p=0.6, victim_interval=2, types=None, teacher_forcing=Linear(1.0, 0.0, over=4))

    common = {"num_envs": 3, "learn": training.OnPolicy(episodes_per_round=4, epochs=2)}
    quiet = training.Log(progress=False)
    kept, resumed = replace(quiet, logdir=tmp_path), replace(quiet, logdir=tmp_path, resume=True)
    whole, parts = fresh(), fresh()
    training.run(whole, Arena, env_steps=120, interval=60, log=quiet, **common)
    training.run(parts, Arena, env_steps=60, interval=60, log=kept, **common)
    again = fresh()
    training.run(again, Arena, env_steps=120, interval=60, log=resumed, **common)
    assert same_weights(whole, again)


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"p": 1.2}, ValueError, r"\.p must be a number in \[0, 1\]"),
        ({"p": 0.5, "types": TypeDistribution()}, ValueError, "p must be left out where types"),
        ({"types": TypeDistribution(k=4)}, ValueError, "TypeDistribution.k must be at most 3"),
        ({"adversary_epochs": 0}, ValueError, "EIRMAPPO.adversary_epochs must be an int >= 1"),
        ({"victim_interval": 0}, ValueError, "EIRMAPPO.victim_interval must be an int >= 1"),
        ({"belief_epochs": 0}, ValueError, "belief_epochs must be an int >= 1"),
        ({"belief_chunk": 0}, ValueError, "belief_chunk must be an int >= 1"),
        ({"recurrent": True}, ValueError, "recurrent must be without memory"),
        ({"columns": (3,)}, ValueError, "columns must be at least one index below 3"),
    ],
)
def test_bad_settings_are_refused(settings, kind, text):
    with pytest.raises(kind, match=text):
        made(**settings)


def test_an_attack_needs_a_team():
    with pytest.raises(TypeError, match=r"ByzantineAttacker.victim must be a robustmarl algorithm"):
        ByzantineAttacker.against("team")
    with pytest.raises(ValueError, match=r"ByzantineAttacker\.agents must be among"):
        ByzantineAttacker.against(made(), ["unit_9"])
    for bad, kind in (("a", TypeError), (-1, ValueError)):
        text = rf"ByzantineAttacker\.seed must be an int >= 0, got {bad!r}"
        with pytest.raises(kind, match=text):
            ByzantineAttacker.against(made(), seed=bad)
    good = ByzantineAttacker.against(made(), hidden=(8,))
    parts = {"policy": good.policy, "critic": good.critic, "types": good.types}
    for key, rule in (("policy", "a ByzantinePolicy"), ("types", "a TypeDistribution")):
        with pytest.raises(TypeError, match=rf"ByzantineAttacker\.{key} must be {rule}, got 0\.5"):
            ByzantineAttacker(**(parts | {key: 0.5}))
