"""Tianshou's policies as victims, against what they do themselves."""

import gymnasium
import numpy as np
import pytest
import torch
from tianshou.algorithm.imitation.bcq import BCQPolicy
from tianshou.algorithm.imitation.discrete_bcq import DiscreteBCQPolicy
from tianshou.algorithm.imitation.imitation_base import ImitationPolicy
from tianshou.algorithm.modelfree.bdqn import BDQNPolicy
from tianshou.algorithm.modelfree.c51 import C51Policy
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.discrete_sac import DiscreteSACPolicy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.fqf import FQFPolicy
from tianshou.algorithm.modelfree.iqn import IQNPolicy
from tianshou.algorithm.modelfree.qrdqn import QRDQNPolicy
from tianshou.algorithm.modelfree.redq import REDQPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentPolicy
from tianshou.data import Batch
from tianshou.utils.net.common import Net, Recurrent
from tianshou.utils.net.continuous import (
    ContinuousActorDeterministic,
    ContinuousActorProbabilistic,
    RecurrentActorProb,
)
from tianshou.utils.net.discrete import (
    DiscreteActor,
    FractionProposalNetwork,
    FullQuantileFunction,
    ImplicitQuantileNetwork,
    NoisyLinear,
)
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from robustmarl.attacks import PGD, CrossEntropy
from robustmarl.budgets import LinfBall
from robustmarl.joint import MASKED
from robustmarl.victims import MembersVictim, PolicyVictim, Rows, as_victim

OBS, ACTIONS = 4, 3
DISCRETE = gymnasium.spaces.Discrete(ACTIONS)
BOX = gymnasium.spaces.Box(np.float32([-1, 0, 2]), np.float32([1, 4, 8]))


def net(**settings):
    settings = {"action_shape": ACTIONS, "hidden_sizes": (16,), **settings}
    return Net(state_shape=(OBS,), **settings)


def features(**settings):
    return Net(state_shape=(OBS,), hidden_sizes=(16,), **settings)


def recurrent(**settings):
    return Recurrent(
        layer_num=2, state_shape=(OBS,), hidden_layer_size=8, action_shape=ACTIONS, **settings
    )


def actor(softmax_output=True, **settings):
    return DiscreteActor(
        preprocess_net=settings.pop("preprocess", None) or features(),
        action_shape=ACTIONS,
        softmax_output=softmax_output,
    )


def fqf():
    settings = {"preprocess_net": features(), "action_shape": ACTIONS, "hidden_sizes": (8,)}
    return FQFPolicy(
        model=FullQuantileFunction(**settings),
        fraction_model=FractionProposalNetwork(num_fractions=6, embedding_dim=16),
        action_space=DISCRETE,
    )


def noisy():
    model = net(num_atoms=11, softmax=True, linear_layer=NoisyLinear)
    return C51Policy(model=model, num_atoms=11, action_space=DISCRETE)


VALUES = {
    "dqn": lambda: DiscreteQLearningPolicy(model=net(), action_space=DISCRETE),
    "dueling": lambda: DiscreteQLearningPolicy(
        model=net(dueling_param=({"hidden_sizes": (8,)}, {"hidden_sizes": (8,)})),
        action_space=DISCRETE,
    ),
    "c51": lambda: C51Policy(
        model=net(num_atoms=51, softmax=True), num_atoms=51, action_space=DISCRETE
    ),
    "qrdqn": lambda: QRDQNPolicy(model=net(num_atoms=20), action_space=DISCRETE),
    "rainbow": noisy,
}

PROBABLE = {
    "logits": lambda: DiscreteActorPolicy(actor=actor(False), action_space=DISCRETE),
    "softmax read as logits": lambda: DiscreteActorPolicy(actor=actor(), action_space=DISCRETE),
    "probabilities": lambda: DiscreteActorPolicy(
        actor=actor(), dist_fn=Categorical, action_space=DISCRETE
    ),
    "probabilities of a net": lambda: DiscreteActorPolicy(
        actor=net(softmax=True), dist_fn=Categorical, action_space=DISCRETE
    ),
    "tempered": lambda: DiscreteActorPolicy(
        actor=actor(False), dist_fn=lambda z: Categorical(logits=z / 3), action_space=DISCRETE
    ),
    "discrete sac": lambda: DiscreteSACPolicy(actor=actor(False), action_space=DISCRETE),
}


def gaussian(cls=ProbabilisticActorPolicy, space=BOX, unbounded=True, **settings):
    network = ContinuousActorProbabilistic(
        preprocess_net=features(), action_shape=ACTIONS, unbounded=unbounded
    )
    if cls is ProbabilisticActorPolicy:
        settings["dist_fn"] = lambda given: Independent(Normal(*given), 1)
    return cls(actor=network, action_space=space, deterministic_eval=True, **settings)


def deterministic(cls=ContinuousDeterministicPolicy, **settings):
    network = ContinuousActorDeterministic(preprocess_net=features(), action_shape=ACTIONS)
    return cls(actor=network, action_space=BOX, **settings)


MEANS = {
    "clip": gaussian,
    "tanh": lambda: gaussian(action_bound_method="tanh"),
    "unscaled": lambda: gaussian(action_scaling=False, action_bound_method=None),
    "clipped, unscaled": lambda: gaussian(action_scaling=False, action_bound_method="clip"),
    "sac": lambda: gaussian(SACPolicy),
    "sac, unscaled": lambda: gaussian(SACPolicy, action_scaling=False),
    "redq": lambda: gaussian(REDQPolicy),
    "ddpg": deterministic,
    "imitation": lambda: deterministic(ImitationPolicy, action_scaling=True),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def forward(policy, obs, state=None):
    with torch.no_grad():
        return policy.eval()(Batch(obs=obs, info=Batch()), state)


def by_autograd(view, obs):
    """Return the true gradient of the cross entropy of the first action."""
    x = obs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(view.output(x), torch.zeros(len(x), dtype=torch.int64))
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_the_policy_compares(name):
    policy, obs = VALUES[name](), torch.randn(64, OBS)
    own = forward(policy, obs)
    logits = PolicyVictim(policy).at().logits(obs)

    assert torch.equal(logits, policy.compute_q_value(own.logits, None))
    assert logits.argmax(-1).tolist() == own.act.tolist()


def test_values_of_fractions_and_of_likely_actions():
    obs, policy = torch.randn(64, OBS), fqf()
    own = forward(policy, obs)
    logits = PolicyVictim(policy).at().logits(obs)
    assert logits.argmax(-1).tolist() == own.act.tolist()
    taus = own.fractions.taus
    expected = ((taus[:, 1:] - taus[:, :-1])[:, None] * own.logits).sum(2)
    torch.testing.assert_close(logits, expected)

    policy = DiscreteBCQPolicy(
        model=net(), imitator=net(), unlikely_action_threshold=0.9, action_space=DISCRETE
    )
    logits = PolicyVictim(policy).at().logits(obs)
    assert logits.argmax(-1).tolist() == forward(policy, obs).act.tolist()
    assert (logits == MASKED).any()


@pytest.mark.parametrize("name", PROBABLE)
def test_logits_are_those_of_the_policys_own_distribution(name):
    policy, obs = PROBABLE[name](), torch.randn(64, OBS) * 3
    view = PolicyVictim(policy).at()

    expected = forward(policy, obs).dist.logits
    torch.testing.assert_close(view.logits(obs).log_softmax(-1), expected)
    gradient = view.input_gradient(obs, CrossEntropy(torch.zeros(64, dtype=torch.int64)))
    expected = by_autograd(view, obs)
    assert torch.equal(gradient.sign(), expected.sign())


def test_saturated_probabilities_keep_their_gradient():
    policy, obs = PROBABLE["probabilities"](), torch.randn(8, OBS)
    for weight in policy.actor.last.parameters():
        weight.data *= 1000.0
    assert (forward(policy, obs).dist.probs == 1).any()

    found = PGD(ball=LinfBall(epsilon=0.1))(PolicyVictim(policy).at(), obs)
    assert ((found - obs).abs().amax(-1) > 0).all()


@pytest.mark.parametrize("name", MEANS)
def test_means_are_the_policys_actions_in_its_box(name):
    policy, obs = MEANS[name](), torch.randn(64, OBS)
    mean = PolicyVictim(policy).at().mean(obs)
    own = policy.map_action(forward(policy, obs).act)
    low, high = torch.tensor(BOX.low), torch.tensor(BOX.high)
    if policy.action_bound_method == "clip":
        mean = mean if not policy.action_scaling else mean.clamp(-1, 1)

    played = low + (mean + 1) / 2 * (high - low)
    torch.testing.assert_close(played, torch.as_tensor(own), atol=1e-5, rtol=1e-5)
    assert PolicyVictim(policy).num_actions == ACTIONS


def test_a_box_that_leaves_one_value_makes_no_nan():
    thin = gymnasium.spaces.Box(np.float32([-1, 2, 2]), np.float32([1, 2, 8]))
    policy = gaussian(space=thin, action_scaling=False, action_bound_method=None)
    view, obs = PolicyVictim(policy).at(), torch.randn(8, OBS)
    assert bool((view.mean(obs)[:, 1] == 0).all())
    found = PGD(ball=LinfBall(epsilon=0.1), random_start=True)(view, obs)
    assert bool(found.isfinite().all())
    assert bool((found != obs).any())


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiscreteQLearningPolicy(model=recurrent(), action_space=DISCRETE),
        lambda: DiscreteActorPolicy(
            actor=actor(preprocess=recurrent()), dist_fn=Categorical, action_space=DISCRETE
        ),
        lambda: ProbabilisticActorPolicy(
            actor=RecurrentActorProb(
                layer_num=1, state_shape=(OBS,), action_shape=(ACTIONS,), unbounded=True
            ),
            dist_fn=lambda given: Independent(Normal(*given), 1),
            action_space=gymnasium.spaces.Box(-1, 1, (ACTIONS,)),
        ),
    ],
)
def test_recurrent_policies_remember(make):
    policy = make()
    victim, hidden, state = PolicyVictim(policy), None, None
    assert victim.hidden_size in (32, 256)
    for obs in torch.randn(3, 5, OBS):
        own = forward(policy, obs, state)
        view = victim.at(Rows(hidden=hidden))
        if victim.continuous:
            torch.testing.assert_close(view.mean(obs), own.logits[0])
        else:
            expected = own.dist.logits if "dist" in own else own.logits
            torch.testing.assert_close(view.logits(obs), expected)
        state, hidden = own.state, view.advance(obs)
    again = victim.at(Rows(hidden=torch.zeros(5, victim.hidden_size)))
    assert torch.equal(again.output(obs), victim.at().output(obs))
    assert not torch.equal(victim.at(Rows(hidden=hidden)).output(obs), again.output(obs))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(OBS, ACTIONS)

    def forward(self, obs, state=None, info=None):
        return (hidden := self.cell(obs, state)), hidden


class Plain(nn.Module):
    def __init__(self, *args):
        super().__init__()
        self.layer = nn.Linear(OBS, ACTIONS)

    def forward(self, obs, *rest, **more):
        return self.layer(obs), None


SEVERAL = gymnasium.spaces.MultiDiscrete([3, 3])

REFUSED = [
    (
        lambda: DiscreteQLearningPolicy(model=Gru(), action_space=DISCRETE),
        "memory.*got DiscreteQLearningPolicy with Gru",
    ),
    (
        lambda: gaussian_of(recurrent()),
        "memory.*got ProbabilisticActorPolicy with ContinuousActorProbabilistic",
    ),
    (lambda: BDQNPolicy(model=Plain(), action_space=DISCRETE), "got BDQNPolicy, which chooses sev"),
    (
        lambda: ImitationPolicy(actor=Plain(), action_space=SEVERAL),
        "got ImitationPolicy, which chooses several",
    ),
    (
        lambda: IQNPolicy(
            model=ImplicitQuantileNetwork(preprocess_net=features(), action_shape=ACTIONS),
            action_space=DISCRETE,
        ),
        "got IQNPolicy, which draws quantiles anew",
    ),
    (
        lambda: BCQPolicy(
            actor_perturbation=Plain(), critic=Plain(), vae=Plain(), action_space=BOX
        ),
        "with `model` or `actor`, got BCQPolicy",
    ),
    (
        lambda: DiscreteActorPolicy(
            actor=actor(), dist_fn=lambda p: Bernoulli(p), action_space=DISCRETE
        ),
        "Categorical distribution, got DiscreteActorPolicy with Bernoulli",
    ),
]


def gaussian_of(preprocess):
    network = ContinuousActorProbabilistic(
        preprocess_net=preprocess, action_shape=ACTIONS, unbounded=True
    )
    return ProbabilisticActorPolicy(
        actor=network, dist_fn=lambda given: Independent(Normal(*given), 1), action_space=BOX
    )


@pytest.mark.parametrize(("make", "text"), REFUSED)
def test_what_cannot_be_a_victim_is_refused_by_name(make, text):
    with pytest.raises(TypeError, match=rf"PolicyVictim\.policy must be.*{text}"):
        as_victim("X.victim", make())


def test_members_answer_for_their_own_rows():
    """Members of different sizes, one with a memory: each row is its own agent's."""
    small = gymnasium.spaces.Box(-1, 1, (2,))
    first = DiscreteQLearningPolicy(
        model=Net(state_shape=(2,), action_shape=2),
        action_space=gymnasium.spaces.Discrete(2),
        observation_space=small,
    )
    second = DiscreteQLearningPolicy(model=recurrent(), action_space=DISCRETE)
    victim = as_victim("X.victim", MultiAgentPolicy({"a": first, "b": second}))
    assert isinstance(victim, MembersVictim)
    assert (victim.agents, victim.num_actions, victim.hidden_size) == (("a", "b"), 3, 32)

    obs, agents = torch.randn(5, OBS), torch.tensor([1, 0, 1, 1, 0])
    hidden = torch.randn(5, 32)
    view = victim.at(Rows(agents=agents, hidden=hidden))
    logits, after = view.logits(obs), view.advance(obs)
    b = PolicyVictim(second).at(Rows(hidden=hidden[agents == 1]))
    assert torch.equal(logits[agents == 1], b.logits(obs[agents == 1]))
    assert torch.equal(after[agents == 1], b.advance(obs[agents == 1]))
    assert torch.equal(logits[agents == 0, :2], first.model(obs[agents == 0, :2])[0])
    assert (logits[agents == 0, 2] == MASKED).all()
    assert (after[agents == 0] == 0).all()
    assert not torch.equal(PGD(ball=LinfBall(epsilon=0.1))(view, obs), obs)

    none = victim.at(Rows(agents=agents[:0])).logits(obs[:0])
    assert none.shape == (0, 3)


def test_rows_of_narrow_members_alone_are_as_wide_as_their_mask():
    """Functions do not tell their width, and the widest is not asked."""
    victim = MembersVictim({"a": lambda obs: obs[:, :2], "b": lambda obs: obs[:, :3]})
    mask, obs = torch.tensor([[True, True, False]] * 2), torch.ones(2, 4)
    narrow = victim.at(Rows(mask=mask, agents=torch.tensor([0, 0]))).logits(obs)
    assert narrow.tolist() == [[1.0, 1.0, MASKED]] * 2
    both = victim.at(Rows(mask=mask, agents=torch.tensor([1, 0]))).logits(obs)
    assert both.tolist() == narrow.tolist()
    assert victim.at(Rows(agents=torch.tensor([0, 0]))).logits(obs).shape == (2, 2)


def test_members_must_be_of_one_kind():
    policies = {"a": deterministic(), "b": VALUES["dqn"]()}
    with pytest.raises(ValueError, match=r"MembersVictim\.policies must be all discrete or all"):
        MembersVictim(policies)
