"""What the vector environment checks, and that environments do not touch each other."""

import numpy as np
import pytest
import torch
from doubles import Scripted, begin_rows, step_rows

from robustmarl import envs, evaluation, training
from robustmarl.algorithms import QMIX
from robustmarl.envs import PaddedSkirmish, SkirmishEngine, ToyEngine, ToyGame
from robustmarl.envs.vector import JointVectorEnv, vector_env
from robustmarl.joint import describe

ACT = torch.zeros(3, 2, dtype=torch.int64)


def test_rows_are_independent():
    many = JointVectorEnv(lambda: Scripted(lengths=(3, 5)), 3)
    begin_rows(many, np.array([0, 2]), [10, 12])
    step_rows(many, ACT, np.array([0, 2]))
    begin_rows(many, np.array([1]), [11])
    step_rows(many, ACT, np.array([1, 2]))
    for e, (seed, steps) in enumerate([(10, 1), (11, 1), (12, 2)]):
        one = JointVectorEnv(lambda: Scripted(lengths=(3, 5)), 1)
        begin_rows(one, np.array([0]), [seed])
        for _ in range(steps):
            step_rows(one, ACT[:1], np.array([0]))
        for key, value in one.tensors.items():
            assert torch.equal(value[0], many.tensors[key][e]), key


def test_the_arrays_are_the_same_memory_for_ever():
    env = JointVectorEnv(Scripted, 2)
    before = {key: value.data_ptr() for key, value in env.tensors.items()}
    begin_rows(env, np.array([0, 1]), [0, 1])
    step_rows(env, ACT[:2], np.array([0, 1]))
    assert {key: value.data_ptr() for key, value in env.tensors.items()} == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("what", "step"), [("obs", 2), ("reward", 1)])
def test_a_number_that_is_not_finite_names_environment_agent_and_step(what, step, value):
    bad = {2: (what, 1, step, value)}
    made = iter(range(3))
    env = JointVectorEnv(lambda: Scripted(bad=bad.get(next(made))), 3)
    rows = np.arange(3)
    begin_rows(env, rows, [0, 1, 2])
    step_rows(env, ACT, rows)
    name = {"obs": "observation", "reward": "reward"}[what]
    with pytest.raises(
        ValueError, match=f"{name} must be finite.*environment 2, agent 'a1', st.*2"
    ):
        step_rows(env, ACT, rows)


def test_a_first_observation_that_is_not_finite_is_refused():
    env = JointVectorEnv(lambda: Scripted(bad=("obs", 0, 0, np.nan)), 1)
    with pytest.raises(ValueError, match="environment 0, agent 'a0', step 0"):
        begin_rows(env, np.array([0]), [0])


@pytest.mark.parametrize("layout", ["joint", "per_agent"])
def test_a_state_that_is_not_finite_is_refused(layout):
    class Bad(Scripted):
        def state(self):
            return super().state() * (np.nan if self.t == 1 else 1.0)

    env = JointVectorEnv(lambda: Bad(state=layout), 2)
    begin_rows(env, np.array([0, 1]), [0, 1])
    with pytest.raises(
        ValueError, match="state must be finite, got nan from environment 1, step 1"
    ):
        step_rows(env, ACT[:2], np.array([1]))


def test_infinities_that_cancel_are_found():
    class Both(Scripted):
        def _row(self, agent):
            return np.array([np.inf, -np.inf, 0, 0, 0], np.float32)

    with pytest.raises(ValueError, match="observation must be finite"):
        begin_rows(JointVectorEnv(Both, 1), np.array([0]), [0])


def test_large_finite_numbers_are_legal():
    class Large(Scripted):
        def _row(self, agent):
            return np.full(5, 3e38, np.float32)

    env = JointVectorEnv(Large, 1)
    begin_rows(env, np.array([0]), [0])
    assert float(env.tensors["obs"][0, 0, 0]) == pytest.approx(3e38)


def test_environments_must_be_alike():
    made = iter([{}, {"n": 3}])
    with pytest.raises(ValueError, match=r"like the first environment.*agents"):
        JointVectorEnv(lambda: Scripted(**next(made)), 2)


def test_make_env_must_build_a_new_environment_each_time():
    env = Scripted()
    with pytest.raises(ValueError, match="builds a new env each time"):
        JointVectorEnv(lambda: env, 2)
    with pytest.raises(ValueError, match="builds a new env each time"):
        JointVectorEnv(lambda: describe(env, horizon=9), 2)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"make_env must be a function.*lambda: env"):
        JointVectorEnv(Scripted(), 1)
    with pytest.raises(ValueError, match=r"num_envs must be an int >= 1, got 0"):
        JointVectorEnv(Scripted, 0)


def test_closing_twice_closes_once():
    env = JointVectorEnv(Scripted, 3)
    assert len(env) == 3
    env.close()
    env.close()
    assert all(joint.env.closed for joint in env.joint)


class Housed:
    """Builds engines, and keeps where they were wanted."""

    def __init__(self):
        self.asked = []

    def make_engine(self, num_envs, device="cpu"):
        self.asked.append((num_envs, torch.device(device)))
        return SkirmishEngine("3m", num_envs)


class Unhoused:
    def make_engine(self, num_envs):
        return SkirmishEngine("3m", num_envs)


def test_a_batch_lives_where_it_is_wanted_if_it_can():
    maker = Housed()
    vector_env(maker, 3, "meta")
    vector_env(maker, 2)
    assert maker.asked == [(3, torch.device("meta")), (2, torch.device("cpu"))]
    assert len(vector_env(Unhoused(), 3, "meta")) == 3


def test_an_instance_that_is_wrapped_does_not_hand_out_the_batch_of_what_is_inside():
    """A function that builds such an environment steps it one by one, wrapper and all."""
    inside = ToyGame(horizon=9)
    wrapped = describe(inside, horizon=5)
    assert wrapped.make_engine == inside.make_engine  # PettingZoo's wrappers pass it on
    with pytest.raises(TypeError, match=r"make_env must be a function.*Write lambda: env"):
        vector_env(wrapped, 2)
    team = evaluation.Recipe(algorithm=QMIX, env_steps=5)
    with pytest.raises(TypeError, match=r"environments\['toy'\] must be what builds an env"):
        evaluation.Grid(
            victims={"QMIX": team}, attacks={"none": None}, environments={"toy": wrapped}
        )
    one_by_one = vector_env(lambda: describe(ToyGame(horizon=9), horizon=5), 2)
    assert (type(one_by_one), one_by_one.spec.horizon) == (JointVectorEnv, 5)
    assert type(vector_env(inside, 2)) is type(vector_env(ToyGame, 2)) is ToyEngine


ENGINES = {
    "one by one": lambda: vector_env(Scripted, 2),
    "toy": lambda: ToyGame().make_engine(2),
    "particles": lambda: envs.gather().make_engine(2),
    "spread": lambda: envs.spread(2).make_engine(2),
    "foraging": lambda: envs.foraging(5, mask=False).make_engine(2),
    "merge": lambda: envs.merge(2).make_engine(2),
    "battle": lambda: envs.battle(12).make_engine(2),
    "padded": lambda: PaddedSkirmish("2m_vs_1z", like="3s_vs_3z").make_engine(2),
    "motors": lambda: envs.spread(2, continuous_actions=True).make_engine(2),
}


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_actions_of_another_kind_or_shape_are_refused_before_anything_is_stepped(make):
    engine, every = make(), torch.ones(2, dtype=torch.bool)
    engine.begin(every, torch.tensor([3, 4]))
    shown = {key: values.clone() for key, values in engine.tensors.items()}
    shape = (2, *engine.spec.action_shape())
    other = torch.int64 if engine.spec.continuous else torch.float32
    kind = "float32" if engine.spec.continuous else "int64"
    for bad in (torch.full(shape, 1.9).to(other), np.ones(shape), None):
        with pytest.raises(TypeError, match=rf"\.advance\.act must be an? {kind} tensor, got "):
            engine.advance(bad, every)
    right = torch.ones(shape, dtype=getattr(torch, kind))
    for bad in (right[:1], right[:, :1], right[..., None], torch.cat([right, right], dim=1)):
        with pytest.raises(ValueError, match=r"\.advance\.act must be of shape \(2, .*\), got \("):
            engine.advance(bad, every)
    assert all(torch.equal(values, shown[key]) for key, values in engine.tensors.items())
    engine.advance(torch.zeros_like(right), every)


def test_training_and_evaluation_ask_for_the_teams_own_device():
    maker = Housed()
    team = QMIX.for_env(SkirmishEngine("3m").spec, hidden=(8,))
    training.run(
        team,
        maker,
        env_steps=60,
        num_envs=4,
        learn=training.OffPolicy(learning_starts=4),
        tests=training.Tests({"clean": None}),
    )
    evaluation.rollout(team, maker, episodes=2, num_envs=2)
    evaluation.rollout(team.policy, maker, episodes=2, num_envs=2)
    assert len(maker.asked) == 4
    assert {device for _, device in maker.asked} == {team.device}
