"""Everything of ours keeps the contract of perturbers, and broken doubles do not."""

import pytest
import torch
from doubles import Scripted

from robustmarl.algorithms import EIRMAPPO, IPPO, MADDPG, QMIX
from robustmarl.attacks import PGD, GaussianNoise, UniformNoise
from robustmarl.attacks.poison import RandomAttack
from robustmarl.budgets import LinfBall
from robustmarl.joint import describe
from robustmarl.networks import BeliefNetwork
from robustmarl.perturbers import (
    ActionPoisonPerturber,
    ByzantinePerturber,
    GaussianObsAdversary,
    LearnedObsPerturber,
    ObsPerturber,
    Perturber,
    TypeDistribution,
)
from robustmarl.testing import ContractError, check_algorithm, check_perturber, check_wrapper
from robustmarl.testing._game import UnevenGame
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper, ObsAdversaryWrapper

BALL = LinfBall(epsilon=0.2)
RECURRENT = {"hidden": (8,), "recurrent": True, "last_action": True}


def boxes():
    return UnevenGame(continuous=True)


def recurrent(env):
    kind = MADDPG if env.continuous else IPPO
    return kind.for_env(env, **RECURRENT)


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        (UniformNoise(ball=BALL), {}),
        (GaussianNoise(ball=BALL), {"every": 2, "probability": 0.5}),
        (PGD(ball=BALL, steps=2), {"agents": ["late"]}),
        (PGD(ball=BALL, random_start=True), {"episodes": 0.5}),
        (UniformNoise(ball=LinfBall(epsilon=0.0)), {}),
    ],
)
def test_observation_attacks(attack, settings):
    check_perturber(
        lambda team: ObsPerturber(attack, **settings),
        wrap=lambda env, team: ObsAdversaryWrapper(env, attack, victim=team, **settings),
    )


@pytest.mark.parametrize("make_env", [UnevenGame, boxes])
def test_observation_attacks_on_another_victim_with_memory(make_env):
    other = IPPO.for_env(make_env(), seed=5, **RECURRENT)
    attack = PGD(ball=BALL, random_start=True)
    check_perturber(
        lambda team: ObsPerturber(attack, victim=other),
        wrap=lambda env, team: ObsAdversaryWrapper(env, attack, victim=other),
        make_env=make_env,
        make_team=recurrent,
    )


def test_learned_adversaries():
    adversary = GaussianObsAdversary(BALL, 5)
    check_perturber(lambda team: LearnedObsPerturber(adversary))


@pytest.mark.parametrize("slots", ["none", "zeros", "truth", "belief"])
@pytest.mark.parametrize("adversary", ["random", "policy"])
@pytest.mark.parametrize("make_env", [UnevenGame, boxes])
def test_byzantine_play(make_env, adversary, slots):
    team = recurrent(make_env())
    plays = team if adversary == "policy" else adversary
    settings = {"types": TypeDistribution(0.8, k=2), "slots": slots}
    if slots == "belief":
        settings["belief"] = BeliefNetwork(team.spec, hidden=(8,), memory=8)
    check_perturber(
        lambda team: ByzantinePerturber(plays, **settings),
        wrap=lambda env, team: BayesianTypeWrapper(env, plays, **settings),
        make_env=make_env,
    )


@pytest.mark.parametrize("kind", [IPPO, EIRMAPPO, QMIX])
def test_poisoned_actions(kind):
    settings = {"agent": "late", "attack_frequency": 0.6, "kl_budget": 1.0, "when": "always"}
    if kind is QMIX:
        settings["temperature"] = 1.0
    check_perturber(
        lambda team: ActionPoisonPerturber(RandomAttack(), learner=team, **settings),
        wrap=lambda env, team: ActionPoisonWrapper(env, RandomAttack(), learner=team, **settings),
        make_team=lambda env: kind.for_env(env, hidden=(8,)),
    )


class Widens(Perturber):
    def on_obs(self, context):
        return torch.cat([context.seen, context.seen], dim=-1)


class Doubles(Perturber):
    def on_obs(self, context):
        return context.seen.double()


class ShowsTheAbsent(Perturber):
    def on_obs(self, context):
        return context.seen + 1.0


class MovesPadding(Perturber):
    def on_obs(self, context):
        return context.seen + context.observed.unsqueeze(-1).float()


class WritesTheStep(Perturber):
    def on_obs(self, context):
        context.obs.mul_(2.0)
        return context.seen


class TellsTypes(Perturber):
    def shown(self, context):
        context.alive.logical_not_()


class Unblocks(Perturber):
    def on_logits(self, context, logits):
        living = context.acting
        return torch.where(living.unsqueeze(-1), torch.zeros_like(logits), logits)


class WritesLogits(Perturber):
    def on_logits(self, context, logits):
        return logits.mul_(2.0)


class MovesTheDead(Perturber):
    def on_act(self, context, act):
        return torch.ones_like(act)


class NotAvailable(Perturber):
    def on_act(self, context, act):
        living = context.acting
        return torch.where(living, 3, act)


class Forgets(Perturber):
    calls = 0

    def record(self):
        self.calls += 1
        return {"it": torch.zeros(1)} if self.calls % 2 else {}


class OneRow(Perturber):
    def record(self):
        return {"it": torch.zeros(1)}


class Stream(Perturber):
    """Draws from a stream that is common to all environments."""

    def bind(self, spec, policy, place):
        super().bind(spec, policy, place)
        self.generator = torch.Generator().manual_seed(0)

    def record(self):
        return {"it": self.it}

    def on_obs(self, context):
        self.it = torch.rand(len(context.keys), generator=self.generator)
        return context.seen


class Global(Stream):
    def on_obs(self, context):
        self.it = torch.rand(len(context.keys))
        return context.seen


class Counts(Perturber):
    count = 3.0

    def counters(self):
        return {"it": self.count}


class LosesACounter(Perturber):
    asked = 0

    def counters(self):
        self.asked += 1
        return {"it": 0.0} if self.asked < 3 else {}


class Diverges(Perturber):
    asked = 0

    def counters(self):
        self.asked += 1
        return {"it": 0.0 if self.asked < 3 else float("nan")}


class Leaves(ObsPerturber):
    """Moves farther than its ball."""

    def __init__(self):
        super().__init__(UniformNoise(ball=BALL))

    def on_obs(self, context):
        seen = super().on_obs(context)
        return torch.where(seen == context.seen, seen, seen + 1.0)


class Overspends(ActionPoisonPerturber):
    def record(self):
        return {**super().record(), "kl": self.kl + 9.0}


BROKEN = [
    (Widens, "keep shape, dtype and device in on_obs"),
    (Doubles, "keep shape, dtype and device in on_obs"),
    (ShowsTheAbsent, "leave alone what agents without an observation see"),
    (MovesPadding, "leave coordinates alone that do not exist"),
    (WritesTheStep, "leave context.obs alone in on_obs"),
    (TellsTypes, "leave context.alive alone in shown"),
    (Unblocks, "leave unavailable actions unavailable"),
    (WritesLogits, "leave the logits that it is given as they are"),
    (MovesTheDead, "leave actions alone of those that do not act"),
    (NotAvailable, "execute available actions"),
    (Forgets, "record the same names, shapes and dtypes in every step"),
    (OneRow, "record one row per environment"),
    (Stream, "play an episode the same however many play beside it"),
    (Global, "repeat an episode when it is played again"),
    (Counts, "begin to count at 0 when it is bound"),
    (LosesACounter, "keep the names of its counters"),
    (Diverges, "count finite figures"),
    (Leaves, "keep observations in its ball"),
    (object, "be a Perturber"),
]


@pytest.mark.parametrize(("double", "text"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_broken_perturbers_are_caught(double, text):
    with pytest.raises(ContractError, match=f"A perturber must {text}"):
        check_perturber(lambda team: double())


def test_a_budget_that_is_overspent_is_caught():
    settings = {"agent": "small", "when": "always", "kl_budget": 0.5}
    with pytest.raises(ContractError, match="keep to its budget of KL"):
        check_perturber(lambda team: Overspends(RandomAttack(), learner=team, **settings))


@pytest.mark.parametrize(
    ("wrapped", "text"),
    [
        (lambda env: ObsAdversaryWrapper(env, UniformNoise(ball=BALL), every=2), "show"),
        (lambda env: env, "show"),
    ],
)
def test_a_wrapper_that_does_something_else_is_caught(wrapped, text):
    with pytest.raises(ContractError, match=f"{text} in its wrapper"):
        check_perturber(
            lambda team: ObsPerturber(UniformNoise(ball=BALL)), wrap=lambda env, team: wrapped(env)
        )


def test_a_wrapper_that_executes_something_else_is_caught():
    types = TypeDistribution(1.0)
    with pytest.raises(ContractError, match="execute in its wrapper"):
        check_perturber(
            lambda team: ByzantinePerturber("random", types=types), wrap=lambda env, team: env
        )


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"make_perturber": 3}, TypeError, "make_perturber must be callable, got 3"),
        ({"wrap": 3}, TypeError, "wrap must be callable, got 3"),
        ({"episodes": 0}, ValueError, "episodes must be an int >= 1"),
        ({"num_envs": 1}, ValueError, "num_envs must be an int >= 2"),
        ({"seed": -1}, ValueError, "seed must be an int >= 0"),
    ],
)
def test_bad_arguments(settings, kind, text):
    given = {"make_perturber": lambda team: Perturber()} | settings
    with pytest.raises(kind, match=rf"check_perturber\.{text}"):
        check_perturber(**given)


# One team of several


def two_teams():
    members = {"red": ("a0", "a3"), "blue": ("a1", "a2")}
    return Scripted(4, obs_sizes=(9, 3, 5, 9), masks="dict", teams=members, lengths=(3, 4))


@pytest.mark.parametrize("team", ["red", "blue"])
@pytest.mark.parametrize("kind", [IPPO, QMIX])
def test_learners_of_one_team_of_several_keep_their_contract(kind, team):
    check_algorithm(lambda env: kind.for_env(env, team=team, hidden=(8,)), two_teams, env_steps=20)


@pytest.mark.parametrize("team", ["small", "rest"])
def test_wrappers_around_several_teams_keep_their_contract(team):
    members = {"small": ("small",), "rest": ("late", "short")}

    def make_env():
        return describe(UnevenGame(), teams=members)

    victim = IPPO.for_env(make_env(), team=team, hidden=(8,))
    attack = PGD(ball=BALL)
    check_wrapper(
        lambda env: ObsAdversaryWrapper(env, attack, victim=victim, agents=members[team]), make_env
    )
