"""RAP: several directors that begin differently and share nothing, one per episode."""

import pytest
import torch
from learners import Arena, collected, same_weights, weights

from robustmarl.adversaries import PAAD, RAP, Sample
from robustmarl.algorithms import MAPPO, QMIX, VDN
from robustmarl.budgets import LinfBall
from robustmarl.perturbers import stor
from robustmarl.testing import check_adversary
from robustmarl.training import AdversarialTraining, Log, OffPolicy, run

STOR = stor(LinfBall(epsilon=0.3))


def rap(env, number=3, **settings):
    return RAP.for_env(env, STOR, number=number, hidden=(8,), **settings)


@pytest.mark.parametrize("cls", [VDN, QMIX, MAPPO])
def test_it_keeps_the_contract(cls):
    check_adversary(rap, lambda env: cls.for_env(env, hidden=(8,)), Arena)


def test_directors_begin_differently_and_share_nothing():
    made = rap(Arena(), number=4)
    kept = [weights(member) for member in made.members]
    for j in range(4):
        for k in range(j):
            assert all(
                not torch.equal(values, kept[k][name])
                for name, values in kept[j].items()
                if values.dim() > 1 and "_lagged" not in name
            )
    own = [{id(p) for p in member.parameters()} for member in made.members]
    assert sum(map(len, own)) == len(set().union(*own))
    assert same_weights(made, rap(Arena(), number=4))


def test_only_who_played_changes_and_the_team_gets_all_episodes():
    made, victim = rap(Arena(), target_unit="updates"), QMIX.for_env(Arena(), hidden=(8,))
    buffer = collected(victim, 30, perturb=[made.perturber()])
    batch = buffer.latest(30)
    index = batch.record("population")["index"][:, 0]
    assert index.unique().tolist() == [0, 1, 2]
    assert len(buffer) == 30
    before = [weights(member) for member in made.members]
    counts = [member.director.counts.clone() for member in made.members]
    one = batch.select(index == 1)
    made.learn(Sample(fresh=one, drawn=one))
    for number, (member, old, count) in enumerate(zip(made.members, before, counts, strict=True)):
        same = all(torch.equal(old[name], p) for name, p in weights(member).items())
        assert same == (number != 1)
        assert torch.equal(member.director.counts, count) == (number != 1)


def test_new_episodes_are_counted_though_none_of_them_was_drawn():
    made = rap(Arena())
    batch = collected(QMIX.for_env(Arena(), hidden=(8,)), 30, perturb=[made.perturber()]).latest(30)
    index = batch.record("population")["index"][:, 0]
    figures = made.learn(Sample(fresh=batch, drawn=batch.select(index == 1)))
    assert {name[0] for name in figures} == {"1"}  # the others do not learn
    for number, member in enumerate(made.members):
        own = index == number
        assert member.director.counted("episodes") == int(own.sum()) > 0
        assert member.director.counted("env_steps") == int(batch.valid[own].sum())
        assert member.director.counted("updates") == (number == 1)


def test_one_director_alone_is_paad_step_for_step():
    def trained(made):
        victim = QMIX.for_env(Arena(), hidden=(8,), seed=1)
        learn = OffPolicy(batch_size=4, learning_starts=4)
        attack = AdversarialTraining(victim, made)
        run(attack, Arena, env_steps=150, num_envs=2, learn=learn, log=Log(progress=False))
        return victim

    alone, among = PAAD.for_env(Arena(), STOR, hidden=(8,), seed=7), rap(Arena(), 1, seed=7)
    assert same_weights(trained(alone), trained(among))
    assert same_weights(alone, among.members[0])


def test_episodes_are_shared_out_evenly():
    """Frequencies over 10^4 episodes within three deviations of 1/n."""
    perturber = rap(Arena(), number=5).perturber()
    victim = VDN.for_env(Arena(), hidden=(8,))
    collected(victim, 1, perturb=[perturber])  # binds it
    keys = torch.randint(-(2**62), 2**62, (10_000,), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(perturber.drawn(keys), minlength=5) / 10_000
    assert float((shares - 0.2).abs().max()) < 3.0 * (0.2 * 0.8 / 10_000) ** 0.5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"number": 0}, "RAP.number must be an int >= 1, got 0"),
        ({"gamma": 3.0}, r"RAP.gamma must be a number in \[0, 1\], got 3.0"),
        ({"mixer": "sum"}, r"RAP.for_env.mixer must be one of \['qmix', 'vdn'\], got 'sum'"),
    ],
)
def test_errors_name_what_the_user_made(bad, message):
    with pytest.raises(ValueError, match=message):
        rap(Arena(), **bad)
