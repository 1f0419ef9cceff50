"""Policies from elsewhere play, and are attacked while they do."""

import gymnasium
import numpy as np
import pytest
import torch
from doubles import Scripted, armies
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.net.common import Net, Recurrent
from torch import nn
from torch.distributions import Categorical, Normal

from robustmarl import algorithms, attacks, evaluation, wrappers
from robustmarl.budgets import LinfBall
from robustmarl.data import (
    PolicyController,
    RandomController,
    ScriptedController,
    as_controller,
)
from robustmarl.joint import StepContext, spec_of
from robustmarl.perturbers import ObsPerturber
from robustmarl.victims import FunctionVictim, PolicyVictim

PGD = attacks.PGD(ball=LinfBall(epsilon=0.5))
SPEC = spec_of(Scripted())
SPACE = gymnasium.spaces.Discrete(3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def module(size=5, actions=3):
    return nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, actions))


def dqn(size=5, actions=3):
    net = Net(state_shape=(size,), action_shape=actions, hidden_sizes=(8,))
    return DiscreteQLearningPolicy(model=net, action_space=gymnasium.spaces.Discrete(actions))


def script(context):
    return torch.ones_like(context.last_act)


def typed_script(step: StepContext):
    return script(step)


class Distribution:
    def __init__(self, distribution):
        self.distribution = distribution


class ActorCriticNet(nn.Module):
    """What the policy of Stable-Baselines3's PPO has."""

    squash_output = False

    def __init__(self, space, size=5):
        super().__init__()
        self.action_space, self.continuous = space, isinstance(space, gymnasium.spaces.Box)
        self.net = module(size, space.shape[0] if self.continuous else int(space.n))

    def get_distribution(self, obs):
        out = self.net(obs)
        if self.continuous:
            return Distribution(Normal(out, 1.0))
        return Distribution(Categorical(logits=out))

    def _predict(self, obs, deterministic=False):
        distribution = self.get_distribution(obs).distribution
        return distribution.mean if self.continuous else distribution.logits.argmax(-1)


class QNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_net = module()


class Model:
    """What a model of Stable-Baselines3 has."""

    def __init__(self, policy, space):
        self.policy, self.action_space = policy, space
        self.observation_space = gymnasium.spaces.Box(-10, 10, (5,))

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        with torch.no_grad():
            found = self.policy._predict(torch.as_tensor(obs), deterministic=True).numpy()
        if isinstance(self.action_space, gymnasium.spaces.Box):
            found = np.clip(found, self.action_space.low, self.action_space.high)
        return found, None


def baselines(space=SPACE):
    return Model(ActorCriticNet(space), space)


def test_a_model_with_an_action_of_one_value():
    thin = gymnasium.spaces.Box(np.float32([-1.0, 2.0]), np.float32([1.0, 2.0]))
    means = PolicyVictim(baselines(thin)).at().mean(torch.randn(8, 5))
    assert bool(means.isfinite().all())
    assert bool((means[:, 1] == 0).all())


def algorithm():
    return DQN(policy=dqn(), optim=AdamOptimizerFactory(lr=1e-3))


ATTACKED = {
    "module": module,
    "function": lambda: lambda obs, net=module(): net(obs),  # noqa: B008
    "victim": lambda: FunctionVictim(module()),
    "tianshou": dqn,
    "tianshou algorithm": algorithm,
    "members": lambda: MultiAgentPolicy({"a0": dqn(), "a1": dqn()}),
    "recurrent": lambda: DiscreteQLearningPolicy(
        model=Recurrent(layer_num=1, state_shape=(5,), action_shape=3, hidden_layer_size=8),
        action_space=SPACE,
    ),
    "baselines": baselines,
    "baselines' q": lambda: Model(QNet(), SPACE),
}
SCRIPTS = {
    "script": lambda: script,
    "typed": lambda: typed_script,
    "scripted": lambda: ScriptedController(SPEC, script),
    "random": lambda: RandomController(SPEC),
}


@pytest.mark.parametrize("name", ATTACKED)
def test_any_policy_plays_and_is_attacked(name):
    policy = ATTACKED[name]()
    clean = evaluation.rollout(policy, Scripted, episodes=6)
    again = evaluation.rollout(policy, Scripted, episodes=6, num_envs=2)
    attacked = evaluation.rollout(policy, Scripted, episodes=6, perturb=PGD)

    assert clean.returns.tolist() == again.returns.tolist()
    assert attacked.counters["0/unchanged"] < attacked.counters["0/attacked"]
    table = evaluation.crossplay({"x": policy}, {"clean": None, "pgd": PGD}, Scripted, episodes=6)
    assert table.cells["x"]["clean"].scores[0].tolist() == clean.returns.tolist()
    assert table.cells["x"]["pgd"].scores[0].tolist() == attacked.returns.tolist()


@pytest.mark.parametrize("name", ATTACKED)
def test_wrappers_take_any_policy(name):
    env = wrappers.ObsAdversaryWrapper(Scripted(), PGD, victim=ATTACKED[name]())
    _, infos = env.reset(seed=0)
    assert all(info["perturbation"] > 0 for info in infos.values())


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_play_and_have_no_gradient(name):
    policy = SCRIPTS[name]()
    noise = attacks.UniformNoise(ball=LinfBall(epsilon=0.1))
    transfer = ObsPerturber(PGD, victim=module())
    for attack in (None, noise, transfer):
        evaluation.rollout(policy, Scripted, episodes=2, perturb=attack)
    text = (
        r"ObsPerturber\.victim must be given where nobody acts, or a script.*attack, victim=other"
    )
    with pytest.raises(ValueError, match=text):
        evaluation.rollout(policy, Scripted, episodes=2, perturb=PGD)
    with pytest.raises(ValueError, match=text):
        evaluation.crossplay({"x": policy}, {"pgd": PGD}, Scripted, episodes=2, baselines=False)
    if hasattr(policy, "victim"):
        text = rf"ObsAdversaryWrapper\.victim must have outputs with .*{type(policy).__name__}"
        with pytest.raises(TypeError, match=text):
            wrappers.ObsAdversaryWrapper(Scripted(), PGD, victim=policy)


def test_a_victim_without_a_gradient_plays_and_is_named_when_attacked():
    def detached(obs):
        return net(obs).detach()

    net = module()
    evaluation.rollout(detached, Scripted, episodes=2)
    with pytest.raises(ValueError, match="have a gradient, got detached without one"):
        evaluation.rollout(detached, Scripted, episodes=2, perturb=PGD)


def acts(policy, make=Scripted, **settings):
    """Return what the policy saw and did, step by step."""
    env = make()
    controller = as_controller("X.policy", policy, spec_of(env))
    seen = []
    infer, select = controller.infer, controller.select

    def asked(context):
        seen.append([context.seen.clone(), context.step.clone()])
        return infer(context)

    def done(*given, **more):
        act, logp = select(*given, **more)
        seen[-1].append(act)
        return act, logp

    controller.infer, controller.select = asked, done
    evaluation.rollout(controller, make, episodes=3, num_envs=1, **settings)
    return seen


def test_tianshous_policies_play_what_they_play_there():
    policy = dqn()
    for obs, _, act in acts(policy):
        own = policy(Batch(obs=obs[0], info=Batch())).act
        assert act[0].tolist() == own.tolist()


def test_members_play_their_own_agents():
    first, second = dqn(), dqn()
    for obs, _, act in acts(MultiAgentPolicy({"a1": second, "a0": first})):
        for number, policy in enumerate((first, second)):
            own = policy(Batch(obs=obs[0, number : number + 1], info=Batch())).act
            assert act[0, number] == own[0]


def test_recurrent_policies_begin_anew_in_each_episode():
    policy, state = ATTACKED["recurrent"](), None
    for obs, step, act in acts(policy):
        out = policy(Batch(obs=obs[0], info=Batch()), None if step[0] == 0 else state)
        assert act[0].tolist() == out.act.tolist()
        state = out.state


def test_baselines_play_their_deterministic_actions():
    model = baselines()
    for obs, _, act in acts(model):
        assert act[0].tolist() == model.predict(obs[0], deterministic=True)[0].tolist()


def test_continuous_baselines_act_in_the_box():
    def make():
        return Scripted(continuous=True)

    space = make().action_space("a0")
    model = baselines(space)
    low, high = torch.tensor(space.low), torch.tensor(space.high)
    for obs, _, act in acts(model, make):
        own = torch.as_tensor(model.predict(obs[0], deterministic=True)[0])
        torch.testing.assert_close(low + (act[0] + 1) / 2 * (high - low), own)
    found = PolicyVictim(model).at().mean(torch.zeros(1, 5))
    assert found.shape == (1, len(low))


def test_policies_with_a_distribution_draw_unless_told_otherwise():
    def policy(deterministic):
        actor = Net(state_shape=(5,), action_shape=3)
        return DiscreteActorPolicy(
            actor=actor, action_space=SPACE, deterministic_eval=deterministic
        )

    for deterministic in (True, False):
        found = as_controller("X.policy", policy(deterministic), SPEC)
        greedy = []
        for obs, _, act in acts(found):
            best = found.victim().at().logits(obs[0]).argmax(-1)
            greedy.append((act[0] == best).all())
        assert all(greedy) == deterministic


def test_opponents_may_come_from_elsewhere():
    spec = spec_of(armies(2)).of_team("blue")
    size, actions = spec.obs_size, spec.num_actions
    given = {"blue": module(size, actions)}
    evaluation.rollout(
        lambda context: torch.zeros_like(context.last_act),
        lambda: armies(2),
        episodes=2,
        team="red",
        opponents=given,
    )


def test_modules_take_the_kind_of_their_environment():
    def make():
        return Scripted(continuous=True)

    actions = spec_of(make()).num_actions
    policy = module(5, actions)
    assert as_controller("X.policy", policy, spec_of(make())).victim().continuous
    attack = attacks.PGD(ball=LinfBall(epsilon=0.5), random_start=True)
    evaluation.rollout(policy, make, episodes=2, perturb=attack)
    env = wrappers.ObsAdversaryWrapper(make(), attack, victim=policy)
    assert env.reset(seed=0)[1]["a0"]["perturbation"] > 0


def test_ours_play_as_ever():
    team = algorithms.IPPO.for_env(Scripted(), hidden=(8,))
    assert as_controller("X.policy", team, SPEC) is team.policy
    assert as_controller("X.policy", team.policy, SPEC) is team.policy


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        (3, TypeError, r"X\.policy must be a Victim.*got int"),
        (DQN, TypeError, r"X\.policy must be made first, got the class DQN"),
        (
            FunctionVictim(lambda obs: obs, continuous=True),
            ValueError,
            r"X\.policy must be a policy for discrete actions, got 'a continuous one'",
        ),
        (
            Model(ActorCriticNet(SPACE, 9), gymnasium.spaces.Discrete(7)),
            ValueError,
            r"X\.policy must be a policy for actions of size 3, got 'one for size 7'\.",
        ),
        (
            MultiAgentPolicy({"red": dqn(), "blue": dqn(), "green": dqn()}),
            ValueError,
            r"X\.policy must be a policy of the attacked agents.*got",
        ),
    ],
)
def test_what_cannot_play_is_refused(policy, error, text):
    with pytest.raises(error, match=text):
        as_controller("X.policy", policy, SPEC)


def test_refusals_name_where():
    for play, where in (
        (lambda: evaluation.rollout(3, Scripted), r"rollout\.policy"),
        (
            lambda: evaluation.crossplay({"x": 3}, {"c": None}, Scripted),
            r"crossplay\.victims\['x'\]",
        ),
        (lambda: evaluation.rollout(module(5, 2), Scripted), r"rollout\.policy"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{where} must be"):
            play()


class Multi(Model):
    def __init__(self):
        super().__init__(QNet(), gymnasium.spaces.MultiDiscrete([2, 2]))


class Bare(nn.Module):
    pass


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Multi(), "one action or one action vector, got Multi"),
        (Model(nn.LSTM(5, 3), SPACE), "without memory, got Model with LSTM"),
        (Model(Bare(), SPACE), r"policy\.q_net or policy\.get_distribution, got Model"),
    ],
)
def test_baselines_that_cannot_be_read_are_refused(model, text):
    with pytest.raises(TypeError, match=text):
        PolicyVictim(model)


def test_a_policy_for_another_team_is_refused():
    controller = PolicyController(FunctionVictim(module()), SPEC)
    with pytest.raises(ValueError, match=r"PolicyController\.spec must be the team's"):
        controller.check_spec(spec_of(Scripted(3)))
    assert controller.record() == {}
