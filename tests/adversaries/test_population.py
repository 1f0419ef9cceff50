"""A population: exactly one plays in an episode, and learns from it."""

import copy
from dataclasses import replace

import pytest
import torch
from learners import Arena, collected

from robustmarl import training
from robustmarl.adversaries import ByzantineAttacker, ObsAdversaryPPO, Population, Sample
from robustmarl.algorithms import MAPPO
from robustmarl.budgets import LinfBall

BALL = LinfBall(epsilon=0.3)


@pytest.fixture
def team():
    return MAPPO.for_env(Arena(), hidden=(8,))


@pytest.fixture
def population(team):
    noises = [
        ObsAdversaryPPO.for_env(Arena(), BALL, hidden=(8,), seed=k, epochs=1) for k in range(2)
    ]
    return Population([*noises, ByzantineAttacker.against(team, ["unit_1"], hidden=(8,))])


def episodes(team, population, number=60, *, num_envs=5, seed=0):
    perturb = [population.perturber()]
    return collected(team, number, perturb=perturb, num_envs=num_envs, seed=seed).latest(number)


def test_exactly_one_plays_in_an_episode(team, population):
    batch = episodes(team, population)
    index = batch.record("population")["index"]
    assert set(batch.records) == {"population", "population/0", "population/1", "population/2"}
    assert torch.equal(index[batch.valid], index[:, :1].expand(index.shape)[batch.valid])
    assert index[:, 0].unique().tolist() == [0, 1, 2]
    for b, own in enumerate(index[:, 0].tolist()):
        valid = batch.valid[b]
        moved = bool((batch.obs.seen[b] != batch.obs.obs[b]).any())
        replaced = bool((batch.act_exec[b] != batch.act_intended[b])[valid].any())
        assert moved == (own < 2)
        assert not replaced or own == 2
        for k in range(2):
            attacked = bool((batch.record(f"population/{k}")["logp"][b][valid] != 0).any())
            assert attacked == (own == k)


def test_who_plays_follows_from_the_episodes_key(team, population):
    """However many environments play side by side, and in about equal shares."""
    one, other = (
        episodes(team, population, 200, num_envs=size).record("population")["index"][:, 0]
        for size in (2, 7)
    )
    assert sorted(one.tolist()) == sorted(other.tolist())
    shares = torch.bincount(one, minlength=3) / 200
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.1)


def test_each_learns_from_the_episodes_that_it_played(team, population):
    batch = episodes(team, population)
    index, seen = batch.record("population")["index"][:, 0], {}
    for number, member in enumerate(population.members):
        member.learn = lambda sample, number=number: seen.update({number: sample}) or {"x": 1.0}
    advantage = torch.arange(60.0)[:, None, None].expand(batch.living.shape)
    figures = population.learn(Sample(fresh=batch, drawn=batch, advantage=advantage))
    assert figures == {"0/x": 1.0, "1/x": 1.0, "2/x": 1.0}
    for number, sample in seen.items():
        for own in (sample.fresh, sample.drawn):
            assert torch.equal(own.obs.seen, batch.obs.seen[index == number])
            assert torch.equal(own.act, batch.act[index == number])
        assert torch.equal(sample.advantage, advantage[index == number])


def test_who_did_not_play_does_not_learn(team, population):
    batch = episodes(team, population)
    index = batch.record("population")["index"][:, 0]
    before = [[p.clone() for p in member.parameters()] for member in population.members]
    population.learn(Sample(fresh=batch.select(index != 1)))
    for number, (member, old) in enumerate(zip(population.members, before, strict=True)):
        moved = any(not torch.equal(p, q) for p, q in zip(member.parameters(), old, strict=True))
        assert moved == (number != 1)
    assert population.learn(Sample()) == {}


def test_in_a_population_of_populations_everybody_plays(team, population):
    outer = Population([population, ByzantineAttacker.against(team, ["unit_0"], hidden=(8,))])
    batch = episodes(team, outer, 120)
    first, own = (batch.record(name)["index"][:, 0] for name in ("population", "population/0"))
    inner = torch.bincount(own[first == 0], minlength=3) / (first == 0).sum()
    assert inner.tolist() == pytest.approx([1 / 3] * 3, abs=0.15)


def test_each_learns_only_where_there_is_what_it_needs(team, population):
    """A member may have played in what was drawn, and in none of the newest episodes."""
    batch = episodes(team, population)
    index, seen = batch.record("population")["index"][:, 0], []
    for number, member in enumerate(population.members):
        member.learn = lambda sample, number=number: seen.append(number) or {}
    population.members[2].needs = frozenset({"drawn"})
    sample = Sample(fresh=batch.select(index == 0), drawn=batch)
    population.learn(sample)
    assert seen == [0, 2]
    seen.clear()
    assert population.can_learn(replace(sample, fresh=None))
    population.learn(replace(sample, fresh=None))
    assert seen == [2]
    assert not population.can_learn(Sample())


def test_types_are_those_of_the_episodes_own_member(team):
    """Who is Byzantine in an episode of another member is nobody's business."""
    traitors = [
        ByzantineAttacker.against(team, [agent], hidden=(8,)) for agent in ("unit_0", "unit_1")
    ]
    population, seen = Population(traitors), []
    perturber = population.perturber()
    on_act = perturber.on_act
    perturber.on_act = lambda context, act: (seen.append(context.types), on_act(context, act))[1]
    batch = episodes(team, population, 12)
    index = batch.record("population")["index"]
    rows = batch.act_exec != batch.act_intended
    for agent in range(2):
        own = (index == agent) & batch.valid
        assert not bool(rows[own][:, [a for a in range(3) if a != agent]].any())
    assert all(bool((types.sum(dim=1) == 1).all()) for types in seen[:1])


def test_it_trains_with_a_team_and_saves_on_its_own(team, population, tmp_path):
    other = copy.deepcopy(population)  # as it was before
    whole = training.AdversarialTraining(team, population)
    quiet = training.Log(progress=False)
    training.run(whole, Arena, env_steps=80, num_envs=4, log=quiet)
    training.save_weights(population, tmp_path / "population.pt")
    training.load_weights(other, tmp_path / "population.pt")
    for p, q in zip(population.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    batch = episodes(team, population)
    for one in (population, other):
        one.learn(Sample(fresh=batch))
    for p, q in zip(population.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)  # the optimizers went with them


def test_bad_members_are_refused(team, population):
    with pytest.raises(TypeError, match=r"Population\.members must be adversaries, got MAPPO"):
        Population([team])
    with pytest.raises(TypeError, match=r"Population\.members must be adversaries, got"):
        Population(population)
    for wrong in ([], [population.members[0]] * 2):
        with pytest.raises(ValueError, match=r"Population\.members must be different adversaries"):
            Population(wrong)
