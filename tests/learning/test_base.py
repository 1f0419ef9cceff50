"""What all learners share: making, copying, loading, playing."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from learners import PPO, TEAMS, Arena, collected, same_weights, update, weights
from tianshou.data import Batch

from robustmarl._seeding import Draws
from robustmarl.algorithms import IPPO, QMIX, VDN
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.envs import ToyGame, TwoStepGame
from robustmarl.joint import MASKED, describe, last_actions, spec_of
from robustmarl.learning import TeamAlgorithm
from robustmarl.losses import ActionLoss, ActionLossRegularizer
from robustmarl.victims import Rows

SMALL = {"hidden": (8,)}


class RobustQMIX(ActionLossRegularizer, QMIX):
    pass


@pytest.mark.parametrize("cls", TEAMS)
def test_for_env_leaves_torchs_generator_alone_and_follows_its_seed(cls):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same = (
        cls.for_env(Arena(), seed=5, **SMALL),
        cls.for_env(spec_of(Arena()), seed=5, **SMALL),
    )
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    again = cls.for_env(Arena(), seed=5, **SMALL)

    assert same_weights(one, same)
    assert same_weights(one, again)
    assert not same_weights(one, cls.for_env(Arena(), seed=6, **SMALL))


@pytest.mark.parametrize("cls", TEAMS)
def test_for_env_reads_sizes(cls):
    algorithm = cls.for_env(Arena(), **SMALL)
    assert algorithm.spec == spec_of(Arena())
    assert algorithm.policy.network.first.in_features == 3
    assert algorithm.policy.network.id_table.shape == (3, 8)
    assert algorithm.policy.action_space == gymnasium.spaces.MultiDiscrete([4, 4, 4])
    assert algorithm.device == torch.device("cpu")


@pytest.mark.parametrize("cls", PPO)
def test_for_env_with_continuous_actions(cls):
    policy = cls.for_env(Arena(continuous=True), **SMALL).policy
    assert policy.action_type == "continuous"
    assert policy.action_space == gymnasium.spaces.Box(-1.0, 1.0, (3, 2))
    assert policy.network.log_std.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("cls", TEAMS)
def test_dead_agents_and_masks_are_respected(cls):
    """Arena raises for an action out of its mask."""
    algorithm = cls.for_env(Arena(), **SMALL)
    buffer = collected(algorithm, 12, num_envs=4)
    batch = buffer.get_episodes(buffer.sample_indices(0))
    rows = batch.valid.unsqueeze(-1).expand_as(batch.act)
    allowed = batch.obs.mask[:, :-1].gather(-1, batch.act.unsqueeze(-1)).squeeze(-1)

    assert bool(allowed[rows].all())
    assert bool((batch.act[~batch.obs.alive[:, :-1] & rows] == 0).all())
    assert np.isfinite(list(update(algorithm, buffer).metrics.values())).all()


@pytest.mark.parametrize("cls", TEAMS)
def test_a_team_among_several(cls):
    env = describe(Arena(), teams={"left": ("unit_0", "unit_2"), "right": ("unit_1",)})
    algorithm = cls.for_env(env, team="left", **SMALL)
    assert algorithm.spec.agents == ("unit_0", "unit_2")
    with pytest.raises(ValueError, match=r"team must be one of \['left', 'right'\] where there"):
        cls.for_env(env, **SMALL)
    with pytest.raises(ValueError, match=r"team must be one of \['left', 'right'\], got 'middle'"):
        cls.for_env(env, team="middle", **SMALL)


@pytest.mark.parametrize("cls", TEAMS)
def test_for_env_wants_factories_of_optimizers(cls):
    with pytest.raises(
        TypeError, match=cls.__name__ + r"\.optim must be an optimizer factory, got"
    ):
        cls.for_env(Arena(), optim=1e-3, **SMALL)


@pytest.mark.parametrize("cls", TEAMS)
def test_for_env_wants_a_parallel_environment(cls):
    with pytest.raises(TypeError, match=r"\.env must be a PettingZoo ParallelEnv, got int"):
        cls.for_env(3)


@pytest.mark.parametrize("cls", TEAMS)
def test_untrained_is_fresh_with_the_same_settings(cls):
    algorithm = cls.for_env(Arena(), gamma=0.5, recurrent=True, **SMALL)
    update(algorithm, collected(algorithm))
    fresh = algorithm.untrained()

    assert type(fresh) is cls
    assert (fresh.gamma, fresh.policy.network.recurrent) == (0.5, True)
    assert same_weights(fresh, cls.for_env(Arena(), gamma=0.5, recurrent=True, **SMALL))
    assert not same_weights(fresh, algorithm)
    assert fresh.policy.counted("updates") == 0
    assert not same_weights(fresh, algorithm.untrained(seed=1))


def test_untrained_wants_for_env():
    made = VDN.for_env(Arena(), **SMALL)
    with pytest.raises(ValueError, match=r"VDN\.untrained must be of for_env's making"):
        VDN(policy=made.policy).untrained()


def test_untrained_keeps_terms():
    term = ActionLoss(attack=PGD(ball=LinfBall(epsilon=0.1)), weight=1.0)
    assert RobustQMIX.for_env(Arena(), action_loss=term, **SMALL).untrained()._terms == {
        "action_loss": term
    }


@pytest.mark.parametrize("cls", TEAMS)
def test_loading_leaves_the_dictionary_alone_and_goes_on(cls):
    one, other = cls.for_env(Arena(), **SMALL), cls.for_env(Arena(), seed=9, **SMALL)
    buffer = collected(one)
    update(one, buffer)
    state = one.state_dict()
    kept = copy.deepcopy(state)
    other.load_state_dict(state)

    assert list(state) == list(kept)
    assert len(state["_optimizers"]) == 1
    assert other.policy.counted("updates") == 1
    for algorithm in (one, other):  # Adam's moments were loaded, too
        update(algorithm, buffer)
    assert same_weights(one, other)
    other.load_state_dict(kept)  # a second time


@pytest.mark.parametrize("cls", TEAMS)
def test_loading_other_sizes_is_refused(cls):
    state = cls.for_env(Arena(), hidden=(9,)).state_dict()
    with pytest.raises((RuntimeError, ValueError)):
        cls.for_env(Arena(), **SMALL).load_state_dict(state)


@pytest.mark.parametrize("cls", TEAMS)
def test_playing_the_same_episodes_whatever_the_global_seed(cls):
    algorithm = cls.for_env(Arena(), **SMALL)
    torch.manual_seed(0)
    one = collected(algorithm)
    algorithm.policy.counts.zero_()
    torch.manual_seed(1)
    other = collected(algorithm)
    assert torch.equal(one.data["act"], other.data["act"])
    assert torch.equal(one.data["obs"], other.data["obs"])


@pytest.mark.parametrize("cls", TEAMS)
@pytest.mark.parametrize("recurrent", [False, True])
def test_forward_is_tianshous_view_of_the_policy(cls, recurrent):
    policy = cls.for_env(Arena(), recurrent=recurrent, **SMALL).policy
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(5, 3, 3)).astype(np.float32)
    mask = np.ones((5, 3, 4), bool)
    mask[..., 2] = False
    found = policy(Batch(obs=Batch(seen=seen, mask=mask), info=Batch()))
    extra = policy.network.extra(torch.arange(3), None)
    expected, hidden = policy.network.step(torch.as_tensor(seen), extra, None)

    torch.testing.assert_close(found.logits[..., [0, 1, 3]], expected[..., [0, 1, 3]])
    assert bool((found.logits[..., 2] == MASKED).all())
    assert found.act.shape == (5, 3)
    assert not bool((found.act == 2).any())
    assert (hidden is None) == (found.state is None)
    if recurrent:
        again = policy(Batch(obs=Batch(seen=seen, mask=mask), info=Batch()), state=found.state)
        torch.testing.assert_close(found.state, hidden)
        assert not torch.equal(again.logits, found.logits)
    unmasked = policy(Batch(obs=seen, info=Batch()))
    torch.testing.assert_close(unmasked.logits, expected)


def test_a_policy_refuses_another_environment():
    policy = QMIX.for_env(TwoStepGame(), **SMALL).policy
    policy.check_spec(spec_of(TwoStepGame()))
    with pytest.raises(ValueError, match=r"policy must be made for this environment, got .*obs_s"):
        policy.check_spec(spec_of(ToyGame()))


def test_last_actions_are_shifted_by_one():
    act = torch.tensor([[[1, 2], [3, 0], [0, 1]]])
    assert last_actions(act, terminal=False).tolist() == [[[-1, -1], [1, 2], [3, 0]]]
    assert last_actions(act, terminal=True).tolist() == [[[-1, -1], [1, 2], [3, 0], [0, 1]]]
    vectors = torch.ones(1, 2, 1, 3)
    assert last_actions(vectors, terminal=False)[:, 0].tolist() == [[[0.0] * 3]]


def test_loss_rows_keep_rows_together():
    rows = torch.tensor([[[True, False, True], [False, True, False]]])
    obs = torch.arange(6.0).view(1, 2, 3, 1)
    mask = torch.ones(1, 2, 3, 4, dtype=torch.bool)
    team = IPPO.for_env(Arena(), **SMALL)
    made = team.loss_rows(obs, mask, rows, torch.arange(6).view(1, 2, 3), obs + 10)
    found = made.rows

    assert made.obs[:, 0].tolist() == [0, 2, 4]
    assert found.last_act.tolist() == [0, 2, 4]
    assert found.hidden[:, 0].tolist() == [10, 12, 14]
    assert found.agents.tolist() == [0, 2, 1]
    assert found.mask.shape == (3, 4)


def test_base_classes_are_not_learners():
    with pytest.raises(TypeError, match=r"TeamAlgorithm must implement _build\."):
        TeamAlgorithm.for_env(Arena())


@pytest.mark.parametrize("cls", TEAMS)
def test_every_setting_is_known(cls):
    with pytest.raises(TypeError, match="dropout"):
        cls.for_env(Arena(), dropout=0.5)


def test_a_victim_is_live():
    algorithm = VDN.for_env(Arena(), **SMALL)
    view = algorithm.victim().at(Rows(agents=torch.tensor([0, 1])))
    obs = torch.ones(2, 3)
    before = view.logits(obs).detach()
    buffer = collected(algorithm)
    update(algorithm, buffer)
    assert not torch.equal(view.logits(obs), before)
    assert weights(algorithm).keys() == weights(algorithm.untrained()).keys()


def test_draws_of_agents_are_independent_of_the_number_of_environments():
    policy = IPPO.for_env(Arena(), **SMALL).policy
    output = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(6, 3, 4, dtype=torch.bool)
    whole, _ = policy.select(output, mask, Draws(torch.arange(6)), True)
    part, _ = policy.select(output[4:], mask[4:], Draws(torch.arange(4, 6)), True)
    assert torch.equal(whole[4:], part)


class OwnParts(VDN):
    """Is given its policy by its own ``_build``, as algorithms of one's own are."""

    def __init__(self, *, policy, **settings):
        super().__init__(policy=policy, **settings)


def test_what_an_algorithm_makes_itself_need_not_be_given():
    assert isinstance(OwnParts.for_env(ToyGame(), hidden=(4,)), OwnParts)


def test_a_copy_reads_its_own_counts():
    """Versions of a copy's buffers begin anew, and come to be those that the original had."""
    policy = QMIX.for_env(ToyGame(), **SMALL).policy
    for _ in range(3):
        policy.count("env_steps", 1)
    assert policy.counted("env_steps") == 3
    for again in (copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))):
        for writes in range(9):
            copied = again(policy)
            for _ in range(writes):
                copied.counts.add_(10)
            assert copied.counted("env_steps") == 3 + 10 * writes
    assert policy.counted("env_steps") == 3
