"""Battles on a small map in the arrays of a large one."""

import copy
import pickle

import pytest
import torch

from robustmarl import algorithms, attacks, evaluation, training
from robustmarl.budgets import LinfBall
from robustmarl.envs.skirmish import PaddedSkirmish, SkirmishEngine, SkirmishMap
from robustmarl.envs.skirmish.layout import NO_OP, Layout
from robustmarl.envs.skirmish.maps import map_of
from robustmarl.testing import check_engine

SMALL, LARGE = "2m_vs_1z", "3s_vs_3z"
ALL = torch.ones(2, dtype=torch.bool)


@pytest.fixture
def padded():
    return PaddedSkirmish(SMALL, like=LARGE).make_engine(2)


def test_keeps_the_contract_of_engines():
    check_engine(PaddedSkirmish(SMALL, like=LARGE).make_engine, episodes=4)


def test_has_the_arrays_of_the_large_map(padded):
    spec = SkirmishEngine(LARGE).spec
    assert (padded.spec.obs_size, padded.spec.state_size) == (spec.obs_size, spec.state_size)
    assert padded.spec.action_sizes == spec.action_sizes
    assert padded.spec.agents == spec.agents


def test_features_stand_under_their_names(padded):
    plain = SkirmishEngine(SMALL, 2)
    seeds = torch.tensor([3, 4])
    for engine in (plain, padded):
        engine.begin(ALL, seeds)
    act = torch.full((2, 3), 4)  # east
    plain.advance(act[:, :2].contiguous(), ALL)
    padded.advance(act, ALL)

    small, large = (Layout(map_of(name, "name")).feature_names() for name in (SMALL, LARGE))
    for name in large:
        column = padded.tensors["obs"][:, :2, large.index(name)]
        if name in small:
            expected = plain.tensors["obs"][:, :, small.index(name)]
            torch.testing.assert_close(column, expected, rtol=0.0, atol=0.0)
        else:
            assert not column.any(), name
    assert not padded.tensors["obs"][:, 2].any()


def test_states_keep_all_of_their_values(padded):
    plain = SkirmishEngine(SMALL, 2)
    for engine in (plain, padded):
        engine.begin(ALL, torch.tensor([3, 4]))
    state = padded.tensors["state"]
    assert torch.equal(
        state[0][state[0] != 0].sort()[0],
        plain.tensors["state"][0][plain.tensors["state"][0] != 0].sort()[0],
    )
    # 3s_vs_3z has [health, cooldown, x, y, shield] of each of three allies, then enemies
    torch.testing.assert_close(state[:, 5:9], plain.tensors["state"][:, 4:8], rtol=0.0, atol=0.0)
    torch.testing.assert_close(state[:, 15:19], plain.tensors["state"][:, 8:12], rtol=0.0, atol=0.0)


def test_agents_that_are_too_many_are_dead_and_share_the_reward(padded):
    padded.begin(ALL, torch.tensor([0, 1]))
    mask = padded.tensors["mask"]
    assert not padded.tensors["alive"][:, 2].any()
    assert mask[:, 2].sum(dim=-1).tolist() == [1, 1]
    assert mask[:, 2, NO_OP].all()
    assert not mask[:, :2, 7:].any()

    act = mask.int().argmax(dim=-1)
    padded.advance(act, ALL)
    rewards = padded.tensors["rew_agents"]
    assert torch.equal(rewards, rewards[:, :1].expand(2, 3))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_tells_its_own_endings(padded, copied):
    """All stand where they are until the zealot has come."""
    padded.begin(ALL, torch.tensor([1, 2]))
    twin = copied(padded)
    for _ in range(150):
        padded.advance(padded.tensors["mask"].int().argmax(dim=-1), ALL)
        twin.advance(twin.tensors["mask"].int().argmax(dim=-1), ALL)
        for key, values in padded.tensors.items():
            assert torch.equal(values, twin.tensors[key]), key
        if (over := padded.tensors["terminated"] | padded.tensors["truncated"]).any():
            break
    assert over.any()
    before = padded.tensors["terminated"].clone()
    twin.begin(ALL, torch.tensor([3, 4]))
    assert not twin.tensors["terminated"].any()
    assert torch.equal(padded.tensors["terminated"], before)


def test_a_team_of_the_large_map_plays_and_is_attacked_on_the_small_one():
    make = PaddedSkirmish(SMALL, like=LARGE)
    team = algorithms.QMIX.for_env(SkirmishEngine(LARGE).spec, hidden=(8,))
    fgsm = attacks.PGD.fgsm(LinfBall(epsilon=0.1))
    played = evaluation.rollout(team, make, episodes=2, num_envs=2, perturb=fgsm)
    assert len(played.returns) == 2

    learn = training.OffPolicy(batch_size=2, learning_starts=2)
    quiet = training.Log(progress=False)
    training.run(team, make, env_steps=200, num_envs=2, learn=learn, log=quiet)


ARMY = {"allies": (("stalker", 2), ("zealot", 2)), "enemies": (("stalker", 2), ("zealot", 2))}
TURNED = SkirmishMap(name="turned", **ARMY, limit=9, enemy_types=("zealot", "stalker"))


@pytest.mark.parametrize(
    ("game", "like", "message"),
    [
        # enemies' types would be told by the other's numbers
        (TURNED, SkirmishMap(name="plain", **ARMY, limit=9), r"in the same order, got 'plain'"),
        ("3s_vs_3z", "2m_vs_1z", r"PaddedSkirmish\.like must be a map with the features of"),
        ("3s_vs_3z", "2s3z", r"PaddedSkirmish\.like must be a map with the types of unit of"),
        ("MMM", "MMM2", r"PaddedSkirmish\.game must be a map without healers"),
    ],
)
def test_refuses_maps_that_do_not_hold_one_another(game, like, message):
    with pytest.raises(ValueError, match=message):
        PaddedSkirmish(game, like=like)


def test_types_in_one_order_are_no_matter_how_it_is_told():
    named = SkirmishMap(name="named", **ARMY, limit=9, enemy_types=("stalker", "zealot"))
    PaddedSkirmish(named, like=SkirmishMap(name="plain", **ARMY, limit=9))
