"""Tianshou's own learners are poisoned, and play for Byzantine agents."""

import gymnasium
import numpy as np
import pytest
import torch
from tianshou.algorithm import DQN, PPO
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.utils.net.common import Net, Recurrent
from tianshou.utils.net.continuous import ContinuousActorDeterministic
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step

from robustmarl import algorithms, envs
from robustmarl.attacks.poison import JAttack, RandomAttack, VarianceAttack
from robustmarl.evaluation import rollout
from robustmarl.joint import spec_of
from robustmarl.perturbers import ActionPoisonPerturber, ByzantinePerturber, TypeDistribution
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper

ENV = envs.gather(horizon=6)
OBS, ACTIONS = ENV.observation_space("agent_0").shape, ENV.action_space("agent_0")
ALWAYS = TypeDistribution(p=1.0)


def actor_policy():
    net = Net(state_shape=OBS, hidden_sizes=[16])
    actor = DiscreteActor(preprocess_net=net, action_shape=ACTIONS.n, softmax_output=False)
    return DiscreteActorPolicy(actor=actor, action_space=ACTIONS, deterministic_eval=False)


def value_policy():
    net = Net(state_shape=OBS, action_shape=ACTIONS.n, hidden_sizes=[16])
    return DiscreteQLearningPolicy(model=net, action_space=ACTIONS)


def recurrent_policy():
    net = Recurrent(layer_num=1, state_shape=OBS, action_shape=ACTIONS.n, hidden_layer_size=8)
    return DiscreteQLearningPolicy(model=net, action_space=ACTIONS)


def ppo():
    critic = DiscreteCritic(preprocess_net=Net(state_shape=OBS, hidden_sizes=[16]))
    return PPO(policy=actor_policy(), critic=critic, optim=AdamOptimizerFactory(lr=1e-3))


def dqn():
    return DQN(policy=value_policy(), optim=AdamOptimizerFactory(lr=1e-3))


def members():
    return MultiAgentPolicy({agent: actor_policy() for agent in ENV.possible_agents})


def east(view):
    """Return the direction of one action."""
    return torch.eye(view.mask.shape[1])[3].expand(view.mask.shape)


LEARNERS = {
    "PPO": (ppo, None),
    "its policy": (actor_policy, None),
    "one per agent": (members, None),
    "DQN": (dqn, 0.5),
    "a recurrent one": (recurrent_policy, 0.5),
}


def played(env, seed=0):
    """Return the infos of an episode in which all agents ask for action 0."""
    env.reset(seed=seed)
    found = []
    while env.agents:
        found.append(env.step(dict.fromkeys(env.agents, 0))[-1])
    return found


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("attack", [RandomAttack(), east], ids=["random", "east"])
@pytest.mark.parametrize(("make", "temperature"), LEARNERS.values(), ids=LEARNERS.keys())
def test_a_learner_is_poisoned_while_it_trains(make, temperature, attack):
    learner = make()
    env = ActionPoisonWrapper(
        envs.gather(horizon=6),
        attack,
        learner=learner,
        agent="agent_1",
        kl_budget=0.5,
        temperature=temperature,
    )
    assert not any(info["agent_1"]["poisoned"] for info in played(env))
    with policy_within_training_step(getattr(learner, "policy", learner)):
        infos = [info["agent_1"] for info in played(env)]
    assert all(info["poisoned"] for info in infos)
    kls = np.array([info["poison_kl"] for info in infos])
    np.testing.assert_allclose(kls, 0.5, atol=1e-4)
    assert ("clean_logp" in infos[0]) == (temperature is None)
    assert all(info.get("clean_logp", -1.0) < 0.0 for info in infos)


def test_what_it_was_likely_to_do_is_told_by_its_own_distribution():
    learner = ppo()
    env = ActionPoisonWrapper(
        envs.gather(horizon=6), east, learner=learner, agent="agent_0", when="always"
    )
    obs, _ = env.reset(seed=1)
    for _ in range(6):
        with torch.no_grad():
            logits, _ = learner.policy.actor(torch.as_tensor(obs["agent_0"]).unsqueeze(0))
        obs, _, _, _, infos = env.step(dict.fromkeys(env.agents, 0))
        told, action = infos["agent_0"]["clean_logp"], infos["agent_0"]["executed_action"]
        assert told == pytest.approx(float(logits.log_softmax(-1)[0, action]), abs=1e-5)


@pytest.mark.parametrize(
    ("learner", "attack", "settings", "error", "text"),
    [
        (ppo, VarianceAttack(), {}, TypeError, "must be a robustmarl algorithm for VarianceAttack"),
        (ppo, JAttack(), {}, TypeError, "must be a robustmarl algorithm for JAttack"),
        (dqn, east, {}, ValueError, "temperature must be given for a value-based learner"),
        (ppo, east, {"temperature": 1.0}, ValueError, "temperature must be left out"),
        (lambda: torch.nn.Linear(4, 5), east, {}, TypeError, "policy of Tianshou, got Linear"),
    ],
)
def test_what_the_method_does_not_allow_is_refused(learner, attack, settings, error, text):
    with pytest.raises(error, match=text):
        ActionPoisonWrapper(ENV, attack, learner=learner(), agent="agent_0", **settings)


def test_a_direction_that_asks_for_scores_is_refused_when_it_does():
    env = ActionPoisonWrapper(
        envs.gather(horizon=6),
        lambda view: view.jacobian("head"),
        learner=ppo(),
        agent="agent_0",
        when="always",
    )
    env.reset(seed=0)
    with pytest.raises(TypeError, match="networks from elsewhere are not looked into"):
        env.step(dict.fromkeys(env.agents, 0))


def test_the_perturber_says_which_wrapper_takes_it():
    with pytest.raises(TypeError, match=r"PPO\. wrappers\.ActionPoisonWrapper takes Tianshou's"):
        ActionPoisonPerturber(RandomAttack(), learner=ppo(), agent="agent_0")


@pytest.mark.parametrize(
    "make", [ppo, actor_policy, dqn, members, recurrent_policy, lambda: torch.nn.Linear(*OBS, 5)]
)
def test_it_plays_for_byzantine_agents(make):
    """Its greedy actions where it has none to draw from; the same ones each time."""
    adversary = make()
    env = BayesianTypeWrapper(envs.gather(horizon=6), adversary, types=ALWAYS)
    obs, infos = env.reset(seed=2)
    traitor = next(a for a in env.possible_agents if infos[a]["byzantine"])
    for _ in range(6):
        seen = torch.as_tensor(obs[traitor]).unsqueeze(0)
        obs, _, _, _, infos = env.step(dict.fromkeys(obs, 0))
        if isinstance(adversary, torch.nn.Linear):
            assert infos[traitor]["executed_action"] == int(adversary(seen).argmax())
        elif make is dqn:
            q, _ = adversary.policy.model(seen)
            assert infos[traitor]["executed_action"] == int(q.argmax())
        others = [infos[a]["executed_action"] for a in infos if a != traitor]
        assert others == [0, 0]
    again = BayesianTypeWrapper(envs.gather(horizon=6), adversary, types=ALWAYS)
    actions = [[i["agent_0"]["executed_action"] for i in played(e, 5)] for e in (env, again)]
    assert actions[0] == actions[1]


def test_it_plays_in_the_collector():
    team = algorithms.IPPO.for_env(ENV)
    perturber = ByzantinePerturber(dqn(), types=ALWAYS)
    played = rollout(team, lambda: envs.gather(horizon=6), episodes=3, perturb=perturber)
    assert played.counters["0/replaced"] == 18


def test_a_continuous_one_acts_within_the_box():
    env = envs.spread(max_cycles=4, continuous_actions=True)
    space = env.observation_space("agent_0")
    net = Net(state_shape=space.shape, hidden_sizes=[8])
    actor = ContinuousActorDeterministic(preprocess_net=net, action_shape=5)
    policy = ContinuousDeterministicPolicy(
        actor=actor, action_space=env.action_space("agent_0"), exploration_noise=None
    )
    wrapped = BayesianTypeWrapper(env, policy, types=ALWAYS)
    _, infos = wrapped.reset(seed=0)
    traitor = next(a for a in infos if infos[a]["byzantine"])
    *_, infos = wrapped.step({a: np.zeros(5, np.float32) for a in wrapped.agents})
    action = infos[traitor]["executed_action"]
    assert env.action_space(traitor).contains(action)
    assert np.abs(action).sum() > 0


def test_an_adversary_for_other_spaces_is_refused():
    small = gymnasium.spaces.Discrete(3)
    net = Net(state_shape=OBS, action_shape=3, hidden_sizes=[16])
    policy = DiscreteQLearningPolicy(model=net, action_space=small)
    text = r"BayesianTypeWrapper\.adversary must be a policy for actions"
    with pytest.raises(ValueError, match=text):
        BayesianTypeWrapper(ENV, policy)
    assert spec_of(ENV).num_actions == 5
