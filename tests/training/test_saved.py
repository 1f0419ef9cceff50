"""Learners made again of their files alone."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from robustmarl import adversaries, algorithms, attacks, envs, losses, schedules, training
from robustmarl.budgets import LinfBall
from robustmarl.data import JointCollector
from robustmarl.joint import spec_of
from robustmarl.learning import adam
from robustmarl.perturbers import ObsPerturber, RandomAgents, stor
from robustmarl.schedules import Linear
from robustmarl.training import load, load_checkpoint, load_weights, save_weights
from robustmarl.training.checkpoints import save_checkpoint
from robustmarl.training.spelling import made_of, spelled

BALL = LinfBall(epsilon=0.1, low=-1.0, high=1.0)
MATCHING = partial(envs.SignalMatching, agents=2, horizon=4, noise=0.1)
FADING = Linear(1.0, 0.05, over=100, unit="env_steps")


class Held(losses.PolicyRegularizer, algorithms.QMIX):
    """A user's own composition."""


class Steadfast(losses.ActionLossRegularizer, algorithms.MAPPO):
    """Another."""


def held(env):
    loss = losses.PolicyLoss.repetitive(attacks.PGD.fgsm(BALL), 1_000)
    return Held.for_env(env, hidden=(8,), exploration=FADING, policy_loss=loss, seed=3)


def steadfast(env):
    loss = losses.ActionLoss(attack=attacks.PGD(ball=BALL), weight=Linear(0.0, 0.1, over=9))
    return Steadfast.for_env(env, hidden=(8,), recurrent=True, action_loss=loss, optim=adam(1e-3))


TEAMS = {
    name: getattr(algorithms, name)
    for name in algorithms.__all__
    if name != "OwnActionValues"  # a mixin
}
ADVERSARIES = {
    "ATSA": lambda env: adversaries.ATSA.for_env(env, stor(BALL), alpha=FADING, hidden=(8,)),
    "PAAD": lambda env: adversaries.PAAD.for_env(env, stor(BALL, steps=10), hidden=(8,)),
    "RAP": lambda env: adversaries.RAP.for_env(env, stor(BALL), number=2, hidden=(8,)),
    "ROMANCE": lambda env: adversaries.ROMANCE.for_env(env, None, attackers=2, seed=4),
    "ObsAdversaryPPO": lambda env: adversaries.ObsAdversaryPPO.for_env(env, BALL, preset="paper"),
    "DirectionPAAD": lambda env: adversaries.DirectionPAAD.for_env(env, stor(BALL)),
    "TeamPAAD": lambda env: adversaries.TeamPAAD.for_env(
        spec_of(envs.spread(2, continuous_actions=True)),
        attacks.FrankWolfe(ball=BALL, steps=2),
        kind=algorithms.MADDPG,
        hidden=(8,),
    ),
    "ContinuousATSA": lambda env: adversaries.ContinuousATSA.for_env(
        spec_of(envs.spread(2, continuous_actions=True)), stor(BALL), alpha=FADING, hidden=(8,)
    ),
}


def same_weights(one, other):
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    tensors = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    assert tensors
    return all(torch.equal(found[key], expected[key]) for key in tensors)


def shaken(learner):
    """Return it with other weights than any seed draws."""
    with torch.no_grad():
        for weight in learner.parameters():
            weight.add_(torch.randn_like(weight))
    return learner


@pytest.mark.parametrize("name", TEAMS)
@pytest.mark.parametrize("optimizers", [True, False])
def test_every_team_is_made_again_of_its_file(tmp_path, name, optimizers):
    team = shaken(TEAMS[name].for_env(MATCHING(), seed=5))
    save_weights(team, tmp_path / "team.pt", optimizers=optimizers)
    saved = load(tmp_path / "team.pt", TEAMS[name])
    assert type(saved.learner) is TEAMS[name]
    assert same_weights(saved.learner, team)
    assert saved.learner.seed == 5
    assert saved.make_env is None
    assert saved.about == {}


@pytest.mark.parametrize("make", [held, steadfast])
def test_compositions_of_mixins_and_learners_too(tmp_path, make):
    team = shaken(make(MATCHING()))
    save_weights(team, tmp_path / "team.pt")
    again = load(tmp_path / "team.pt").learner
    assert type(again).__name__ == type(team).__name__
    assert type(again).__bases__ == type(team).__bases__
    assert same_weights(again, team)
    assert training.fingerprint.fingerprint(a=again) == training.fingerprint.fingerprint(a=team)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversaries_too(tmp_path, name):
    adversary = shaken(ADVERSARIES[name](MATCHING()))
    save_weights(adversary, tmp_path / "adversary.pt", optimizers=False)
    again = load(tmp_path / "adversary.pt", adversaries.Adversary).learner
    assert type(again) is type(adversary)
    assert same_weights(again, adversary)
    fingerprint = training.fingerprint.fingerprint
    assert fingerprint(a=again) == fingerprint(a=adversary)


def test_the_environment_and_what_is_told_go_along(tmp_path):
    team = algorithms.VDN.for_env(MATCHING(), hidden=(8,))
    about = {"clean": 0.5, "command": "python", "scores": [1.0, 2.0]}
    save_weights(team, tmp_path / "team.pt", make_env=MATCHING, about=about)
    saved = load(tmp_path / "team.pt")
    assert saved.about == about
    assert saved.make_env is not None
    assert spec_of(saved.make_env()) == team.spec
    assert (saved.make_env.func, saved.make_env.keywords) == (MATCHING.func, MATCHING.keywords)


def test_a_runs_checkpoint_gives_its_team_also_out_of_adversarial_training(tmp_path):
    def run(learner, folder):
        training.run(
            learner,
            MATCHING,
            env_steps=64,
            num_envs=4,
            learn=training.OffPolicy(learning_starts=4, batch_size=4),
            log=training.Log(tmp_path / folder, progress=False),
        )

    team = algorithms.QMIX.for_env(MATCHING(), hidden=(8,))
    run(team, "plain")
    assert same_weights(load(tmp_path / "plain" / "checkpoint.pt").learner, team)

    team = algorithms.QMIX.for_env(MATCHING(), hidden=(8,))
    adversary = adversaries.PAAD.for_env(MATCHING(), stor(BALL), hidden=(8,))
    run(training.AdversarialTraining(team, adversary), "attacked")
    path = tmp_path / "attacked" / "checkpoint.pt"
    assert same_weights(load(path, algorithms.QMIX).learner, team)


def against_one_that_stands_still(team, adversary, path):
    both = training.AdversarialTraining(team, adversary, team_every=None)
    log = training.Log(path.parent, progress=False)
    training.run(both, MATCHING, env_steps=64, num_envs=4, log=log)
    return both


@pytest.mark.parametrize("policy", [False, True])
def test_of_an_attack_on_a_standing_team_it_gives_the_adversary(tmp_path, policy):
    path = tmp_path / "checkpoint.pt"
    team = algorithms.QMIX.for_env(MATCHING(), hidden=(8,))
    adversary = adversaries.ObsAdversaryPPO.for_env(MATCHING(), BALL, hidden=(8,))
    against_one_that_stands_still(team.policy if policy else team, adversary, path)
    again = load(path, adversaries.ObsAdversaryPPO).learner
    assert same_weights(again, adversary)
    assert again.get_extra_state().keys() == adversary.get_extra_state().keys()
    rule = r"must hold a TeamAlgorithm, got a ObsAdversaryPPO: load\(path, ObsAdversaryPPO\)"
    with pytest.raises(TypeError, match=rule):
        load(path)


def test_several_adversaries_on_a_standing_team_are_loaded_with_it(tmp_path):
    path = tmp_path / "checkpoint.pt"

    def made(seed):
        team = algorithms.QMIX.for_env(MATCHING(), hidden=(8,), seed=seed)
        ball = LinfBall(epsilon=0.5)
        several = [
            adversaries.ObsAdversaryPPO.for_env(MATCHING(), one, hidden=(8,), seed=seed)
            for one in (BALL, ball)
        ]
        return team, several

    both = against_one_that_stands_still(*made(0), path)
    rule = (
        r"its team stood still, and what was saved is AdversarialTraining\(team, "
        r"\[ObsAdversaryPPO, ObsAdversaryPPO\], team_every=None\)\. "
        r"Make the learner yourself, and give both to load_weights"
    )
    with pytest.raises(ValueError, match=rule):
        load(path, adversaries.ObsAdversaryPPO)
    again = training.AdversarialTraining(*made(1), team_every=None)
    load_weights(again, path)
    assert same_weights(again, both)


def test_a_team_that_is_made_again_learns_on_as_the_first_would(tmp_path):
    team = algorithms.QMIX.for_env(MATCHING(), hidden=(8,), optim=adam(1e-2))
    save_weights(team, tmp_path / "team.pt")
    again = load(tmp_path / "team.pt").learner
    for learner in (team, again):
        training.run(learner, MATCHING, env_steps=128, num_envs=4, seed=2)
    assert same_weights(again, team)


class Own(algorithms.QMIX):
    def learn(self, batch):
        return super().learn(batch)


def test_what_cannot_be_made_again_says_why_and_what_to_do(tmp_path):
    own = Own.for_env(MATCHING(), hidden=(8,))
    save_weights(own, tmp_path / "team.pt")
    rule = r"says how its learner was made, got '.*': Own must be .* got Own, which defines learn\."
    with pytest.raises(ValueError, match=rule + r" Make the learner yourself.*load_weights"):
        load(tmp_path / "team.pt")
    again = Own.for_env(MATCHING(), hidden=(8,), seed=1)
    load_weights(again, tmp_path / "team.pt")
    assert same_weights(again, own)


def test_bad_requests_are_refused(tmp_path):
    team, path = algorithms.VDN.for_env(MATCHING(), hidden=(8,)), tmp_path / "team.pt"
    with pytest.raises(TypeError, match=r"make_env must be .* public names .*got .*<lambda>"):
        save_weights(team, path, make_env=lambda: MATCHING())
    assert not path.exists()
    save_weights(team, path)
    with pytest.raises(TypeError, match=r"load\.path must hold a MAPPO, got a VDN"):
        load(path, algorithms.MAPPO)
    with pytest.raises(TypeError, match=r"load\.kind must be a class of robustmarl"):
        load(path, "VDN")
    with pytest.raises(TypeError, match=r"load\.path must hold a Adversary, got a VDN"):
        load(path, adversaries.Adversary)


def test_a_file_names_nothing_beyond_the_package(tmp_path):
    path = tmp_path / "team.pt"
    save_weights(algorithms.VDN.for_env(MATCHING(), hidden=(8,)), path)
    for name in ("os.system", "builtins.eval", "training.run", "algorithms.__loader__", "envs.os"):
        content = load_checkpoint(path)
        content["environment"] = {"later": name, "args": ["true"], "with": {}}
        save_checkpoint(tmp_path / "bad.pt", content)
        with pytest.raises(ValueError, match=r"load\.path"):
            load(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, 2.5, "text", [True, None]),
        {"a": (1,), "b": {"c": 2.0}},
        BALL,
        LinfBall(epsilon=(0.1, 0.2)),
        FADING,
        attacks.APGD(ball=BALL, restarts=2),
        attacks.MIFGSM(ball=BALL, decay=0.5),
        attacks.SPSA(ball=BALL),
        attacks.UniformNoise(ball=BALL),
        losses.CertifiedLoss(ball=BALL, weight=0.1),
        ObsPerturber(attacks.PGD(ball=BALL), agents=RandomAgents(2), episodes=0.5),
        envs.battle,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_spelled_and_made_again(value):
    again = made_of("value", spelled("value", value))
    assert type(again) is type(value)
    fingerprint = training.fingerprint.fingerprint
    assert fingerprint(value=again) == fingerprint(value=value)


def test_optimizer_factories_are_spelled():
    factories = training.spelling.factories
    falling = adam(Linear(1e-3, 0.0, over=10, unit="env_steps"))
    others = factories.AdamOptimizerFactory(lr=0.1, betas=(0.5, 0.9))
    for factory in (adam(1e-3), falling, others):
        module = torch.nn.Linear(2, 2)
        groups = [
            one.create_instances(module)[0].param_groups[0]
            for one in (factory, made_of("optim", spelled("optim", factory)))
        ]
        first, second = ({k: v for k, v in g.items() if k != "params"} for g in groups)
        assert first == second
    again = made_of("optim", spelled("optim", falling))
    assert again.schedule == falling.schedule
    over = factories.LRSchedulerFactoryLinear(1, 1, 1)
    with pytest.raises(TypeError, match=r"optim must be plain data"):
        spelled("optim", adam(Linear(1e-3, 0.0, over=10)).with_lr_scheduler_factory(over))
    scheduled = adam(1e-3).with_lr_scheduler_factory(factories.LRSchedulerFactoryLinear(1, 1, 1))
    with pytest.raises(TypeError, match=r"optim must be plain data, .*TorchOptimizerFactory"):
        spelled("optim", scheduled)


class Keeping:
    """Is no name of the package."""


@dataclass(frozen=True)
class Doubling:
    """Keeps something else than it was told."""

    value: float

    def __post_init__(self):
        object.__setattr__(self, "value", 2 * self.value)


def test_what_keeps_something_else_than_it_was_told_is_refused(monkeypatch):
    named = type("Constant", (Doubling,), {})
    monkeypatch.setattr(schedules, "Constant", named)
    with pytest.raises(TypeError, match=r"^value must be plain data"):
        spelled("value", named(1.0))


def test_what_has_no_name_here_is_refused():
    for bad in (Keeping(), object(), JointCollector, same_weights, torch.ones(2), {1: 2}):
        with pytest.raises(TypeError, match=r"^value.* must be"):
            spelled("value", bad)
