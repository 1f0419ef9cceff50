"""Keywords of for_env: typed, known by signatures, and answered by name where they are wrong."""

import inspect
import re
from typing import get_args, get_type_hints

import pytest
from learners import Arena, sgd
from tianshou.algorithm import DQN

from robustmarl import adversaries, algorithms
from robustmarl._signatures import keywords, passes_on, typed_keywords
from robustmarl.algorithms import IPPO, IQL, M3DDPG, MADDPG, MAPPO, QMIX, VDN, OwnActionValues
from robustmarl.attacks import PGD
from robustmarl.budgets import LinfBall
from robustmarl.learning import OffPolicyTeam, TeamAlgorithm
from robustmarl.learning.settings import NetworkSettings, known_settings, take
from robustmarl.losses import ActionLoss, ActionLossRegularizer, PolicyRegularizer
from robustmarl.networks import AgentNetwork
from robustmarl.perturbers import stor

LEARNERS = sorted(
    (
        cls
        for cls in (getattr(algorithms, name) for name in algorithms.__all__)
        if cls is not OwnActionValues  # a mixin
    ),
    key=lambda cls: cls.__name__,
)
SMALL = {"hidden": (8,)}
LOSS = ActionLoss(attack=PGD.fgsm(LinfBall(epsilon=0.1)), weight=1.0, max_rows=4)
# What for_env makes of the environment, and so is no keyword of it.
PARTS = {"policy", "mixer", "critic", "critic_input", "noise", "adversary"}


class Robust(ActionLossRegularizer, QMIX):
    pass


class Attackable(OwnActionValues, MAPPO):
    pass


def typed_settings(cls):
    """Return the TypedDict of the for_env that cls has, with its types."""
    hint = get_type_hints(cls.for_env.__func__)["settings"]
    return get_type_hints(get_args(hint)[0])


def refused(cls, **settings):
    with pytest.raises(TypeError) as caught:
        cls.for_env(Arena(), **SMALL, **settings)
    return str(caught.value)


@pytest.mark.parametrize("cls", LEARNERS)
def test_a_misspelt_keyword_is_answered_with_the_nearest_one(cls):
    text = refused(cls, hidde=(8,))
    start = f"{cls.__name__}.for_env has no setting 'hidde'. Did you mean 'hidden'? It takes "
    assert text.startswith(start)
    assert text.endswith(f"{', '.join(sorted(known_settings(cls)))}.")


@pytest.mark.parametrize("cls", LEARNERS)
def test_a_keyword_like_no_other_is_answered_with_all(cls):
    assert re.match(
        rf"{cls.__name__}\.for_env has no setting 'xyz'\. It takes a", refused(cls, xyz=1)
    )


@pytest.mark.parametrize("cls", LEARNERS)
@pytest.mark.parametrize("name", ["lr", "learning_rate"])
def test_a_step_size_is_the_optimizers(cls, name):
    text = refused(cls, **{name: 1e-3})
    assert text.startswith(f"{cls.__name__}.for_env has no setting '{name}'. ")
    assert "optim=adam(lr)" in text


def test_a_critics_step_size_is_its_optimizers():
    assert "critic_optim=adam(lr)" in refused(MADDPG, critic_lr=1e-3)
    assert ": optim=adam(lr)" in refused(MAPPO, critic_lr=1e-3)  # which has one for both


@pytest.mark.parametrize("cls", [c for c in LEARNERS if not issubclass(c, ActionLossRegularizer)])
def test_a_mixins_keyword_tells_to_mix_it_in(cls):
    name = cls.__name__
    assert refused(cls, action_loss=LOSS) == (
        f"{name}.for_env has no setting 'action_loss'. ActionLossRegularizer takes it, mixed in "
        f"left of the algorithm: class My{name}(ActionLossRegularizer, {name}): ..."
    )
    assert "(PolicyRegularizer, " in refused(cls, policy_loss=1)
    assert "(OwnActionValues, " in refused(cls, action_critic_lr=1e-3)


def test_mixed_in_it_is_taken_and_known():
    assert Robust.for_env(Arena(), action_loss=LOSS, **SMALL)._terms == {"action_loss": LOSS}
    assert known_settings(Robust) == known_settings(QMIX) | {"action_loss"}
    assert "Did you mean 'action_loss'?" in refused(Robust, action_los=LOSS)
    assert "Did you mean 'action_critic_lr'?" in refused(Attackable, action_critic_lrs=1e-3)
    assert Attackable.for_env(Arena(), action_critic_updates=2, **SMALL).action_critic_updates == 2


def test_a_subclass_extends_what_is_known_by_its_constructor():
    class Patient(QMIX):
        def __init__(self, *, patience=1, **settings):
            super().__init__(**settings)
            self.patience = patience

    assert Patient.for_env(Arena(), patience=3, **SMALL).patience == 3
    assert "Did you mean 'patience'?" in refused(Patient, patienc=3)
    assert "QMIX.for_env has no setting 'patience'" in refused(QMIX, patience=3)


@pytest.mark.parametrize(
    ("bases", "right"),
    [
        ((QMIX, ActionLossRegularizer), "ActionLossRegularizer, QMIX"),
        ((M3DDPG, PolicyRegularizer), "PolicyRegularizer, M3DDPG"),
        ((DQN, ActionLossRegularizer), "ActionLossRegularizer, DQN"),
        (
            (PolicyRegularizer, QMIX, ActionLossRegularizer),
            "PolicyRegularizer, ActionLossRegularizer, QMIX",
        ),
        ((MAPPO, OwnActionValues), "OwnActionValues, MAPPO"),
    ],
)
def test_a_mixin_on_the_wrong_side_is_refused_when_the_class_is_made(bases, right):
    given = ", ".join(base.__name__ for base in bases)
    text = rf"Bad must have \w+ left of the algorithm: class Bad\({right}\), got \({given}\)\."
    with pytest.raises(TypeError, match=text):
        type("Bad", bases, {})
    assert all(issubclass(base, base) for base in bases)  # abstract classes remember answers


def test_mixins_may_be_stacked_and_inherited():
    both = type("Both", (OwnActionValues, ActionLossRegularizer, PolicyRegularizer, IPPO), {})
    assert {"action_loss", "policy_loss", "action_critic_lr", "clip"} < known_settings(both)
    assert known_settings(type("Child", (Robust,), {})) == known_settings(Robust)


def test_a_mixin_on_tianshous_own_has_no_for_env():
    robust = type("RobustDQN", (ActionLossRegularizer, DQN), {})
    with pytest.raises(TypeError, match=r"RobustDQN\.for_env must be of a robustmarl algorithm"):
        robust.for_env(Arena(), action_loss=LOSS)


@pytest.mark.parametrize("cls", LEARNERS)
def test_what_is_typed_is_what_constructors_take(cls):
    """One list in two places: keywords of the TypedDict have the names and types of the class."""
    typed = typed_settings(cls)
    assert typed.keys() == known_settings(cls)
    for base in cls.__mro__[: cls.__mro__.index(TeamAlgorithm)]:
        if "__init__" not in vars(base):
            continue
        own = get_type_hints(vars(base)["__init__"])
        names = keywords(base)
        assert names - typed.keys() <= PARTS
        assert {n: typed[n] for n in names & typed.keys() - {"types"}} == {
            n: own[n]
            for n in names & typed.keys() - {"types"}  # for_env may leave types out
        }
        if not passes_on(base):
            break


def test_what_is_typed_is_what_networks_take():
    typed, own = get_type_hints(NetworkSettings), get_type_hints(AgentNetwork.__init__)
    settings = {p.name for p in inspect.signature(AgentNetwork).parameters.values() if p.kind == 3}
    assert typed.keys() - settings == {"shared", "conv"}  # which network it is
    # Of the environment, or the learner.
    assert settings - typed.keys() == {"continuous", "squash", "mean_action"}
    assert all(typed[name] == own[name] for name in typed.keys() & settings)


def test_for_env_without_typed_keywords_is_looked_through():
    class Loud(VDN):
        @classmethod
        def for_env(cls, env, **settings):
            return super().for_env(env, **settings)

    assert typed_keywords(Loud.for_env.__func__) is None
    assert known_settings(Loud) == known_settings(VDN)
    assert "Loud.for_env has no setting 'gama'. Did you mean 'gamma'?" in refused(Loud, gama=1.0)


def test_take_leaves_the_rest():
    settings = {"gamma": 0.9, "hidden": (8,), "shared": False, "foo": 1}
    assert take(settings, NetworkSettings) == {"hidden": (8,), "shared": False}
    assert settings == {"gamma": 0.9, "foo": 1}


@pytest.mark.parametrize("cls", LEARNERS)
def test_optimizers_are_factories(cls):
    for name in (n for n in known_settings(cls) if n.endswith("optim")):
        text = refused(cls, **{name: 1e-3})
        assert text.startswith(f"{cls.__name__}.{name} must be an optimizer factory, got 0.001.")


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match=r"MADDPG\.deterministic_eval must be left out"):
        MADDPG.for_env(Arena(continuous=True), deterministic_eval=True)
    with pytest.raises(ValueError, match=r"EIRMAPPO\.shared must be True"):
        algorithms.EIRMAPPO.for_env(Arena(), shared=False)


def test_bases_know_what_every_team_takes():
    assert known_settings(OffPolicyTeam) == known_settings(TeamAlgorithm)
    assert known_settings(IQL) == known_settings(VDN)
    assert IQL.for_env(Arena(), optim=sgd(), **SMALL).untrained(3).seed == 3


@pytest.mark.parametrize("seed", ["a", 1.5, None, True, -1])
def test_seeds_are_integers(seed):
    with pytest.raises((TypeError, ValueError), match=r"IQL\.seed must be an int >= 0, got"):
        IQL.for_env(Arena(), seed=seed, **SMALL)


GENERATOR = stor(LinfBall(epsilon=0.1))
PARTS_OF_ADVERSARIES = [
    (lambda **k: adversaries.PAAD.for_env(Arena(), GENERATOR, **k), ("director", "online")),
    (lambda **k: adversaries.ATSA.for_env(Arena(), GENERATOR, **k), ("director", "critics")),
    (
        lambda **k: adversaries.ContinuousATSA.for_env(Arena(continuous=True), GENERATOR, **k),
        ("director", "critics"),
    ),
    (lambda **k: adversaries.DirectionPAAD.for_env(Arena(), GENERATOR, **k), ("actor", "critic")),
    (
        lambda **k: adversaries.ObsAdversaryPPO.for_env(Arena(), GENERATOR.ball, **k),
        ("actor", "critic"),
    ),
    (
        lambda **k: adversaries.ByzantineAttacker.against(MAPPO.for_env(Arena(), **SMALL), **k),
        ("policy", "critic", "types"),
    ),
]


@pytest.mark.parametrize(("make", "parts"), PARTS_OF_ADVERSARIES)
def test_what_an_adversarys_factory_makes_itself_is_no_setting_of_it(make, parts):
    for part in parts:
        rule = rf"\.(for_env|against) has no setting '{part}'\. (Did you mean '\w+'\? )?It takes "
        with pytest.raises(TypeError, match=rule) as caught:
            make(**{part: 3})
        listed = str(caught.value).split("It takes ")[1].rstrip(".").split(", ")
        assert not set(parts) & set(listed)
        assert {"optim", "gamma"} <= set(listed)
