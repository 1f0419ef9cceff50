"""What a constructor is told shows in the fingerprint, whichever of its arguments it is."""

from dataclasses import is_dataclass, replace
from inspect import isabstract, signature

import pytest
import torch
from catalogue.attacks import SUBJECTS as ATTACKS
from catalogue.things import ATTACK, BALL, BOXES, NAMES, SPEC, coma, maddpg, vdn
from learners import Arena

from robustmarl import attacks, budgets, losses, perturbers, schedules
from robustmarl.algorithms import COMA, MADDPG
from robustmarl.attacks import JAttack, RandomAttack, UniformNoise
from robustmarl.budgets import LinfBall
from robustmarl.evaluation import rollout
from robustmarl.networks import BeliefNetwork
from robustmarl.perturbers import Attackers, CriticalSteps, ObsPerturber, TypeDistribution, stor
from robustmarl.schedules import Linear
from robustmarl.training.fingerprint import fingerprint

WIDE = LinfBall(epsilon=0.5)
SEARCH = {
    "ball": WIDE,
    "restarts": 3,
    "loss": "margin",
    "target": 1,
    "samples": 4,
}
GRADIENT = {**SEARCH, "steps": 7, "step_size": 0.01, "random_start": True}
WHEN = {"agents": NAMES, "every": 3, "probability": 0.5, "episodes": 0.5}
TERM = {"attack": UniformNoise(ball=WIDE), "weight": Linear(0.0, 1.0, over=5), "max_rows": 9}
CHOICE = {"explore": True, "greedy": True, "episodes": 0.5}


def attackers(**settings):
    return Attackers(SPEC, **{"hidden": (4,), **settings})


def of(ball):
    return stor(ball, steps=3)


# By class: another value for each argument. Dataclasses keep their fields, so that theirs are
# here where a class allows another value.
OTHERS = {
    attacks.GradientAttack: GRADIENT,
    attacks.PGD: GRADIENT,
    attacks.MIFGSM: {**GRADIENT, "decay": 0.5},
    attacks.APGD: {key: GRADIENT[key] for key in GRADIENT if key not in ("restarts", "step_size")},
    attacks.FrankWolfe: {
        "ball": WIDE,
        "restarts": 3,
        "loss": "mse",
        "target": (0.5, 0.2),
        "samples": 4,
        "steps": 7,
        "random_start": True,
    },
    attacks.Imitation: {"ball": WIDE, "restarts": 3, "target": (0.5, 0.2), "steps": 7},
    attacks.LipschitzAttack: {"ball": WIDE, "steps": 7, "step_size": 0.01, "start_radius": 0.05},
    attacks.RandomSearch: {**SEARCH, "queries": 3},
    attacks.SquareSearch: {**SEARCH, "queries": 3, "share": 0.5},
    attacks.SPSA: {**SEARCH, "steps": 7, "pairs": 3, "probe": 0.5, "step_size": 0.01},
    attacks.UniformNoise: {"ball": WIDE},
    attacks.GaussianNoise: {"ball": WIDE, "std": 0.3},
    attacks.JAttack: {"scope": "head", "samples": 5},
    attacks.VarianceAttack: {"scope": "head", "terms": "joint", "samples": 5},
    attacks.FunctionLoss: {"function": torch.mean},
    losses.ActionLoss: {**TERM, "epsilon": Linear(0.0, 0.1, over=5)},
    losses.PolicyLoss: {**TERM, "form": "kl", "margin": 0.5},
    losses.LipschitzLoss: TERM,
    losses.CertifiedLoss: {
        "ball": WIDE,
        "weight": TERM["weight"],
        "max_rows": 9,
        "epsilon": Linear(0.0, 0.1, over=5),
        "margin": 0.5,
        "worst": True,
        "method": "linear",
        "memory_given": True,
    },
    schedules.Constant: {"value": 0.5, "unit": "episodes"},
    schedules.Linear: {"start": 0.5, "stop": 0.5, "over": 7, "begin": 3, "unit": "episodes"},
    schedules.Repetitive: {
        "peak": 0.5,
        "warmup": 7,
        "period": 7,
        "loops": 7,
        "ramp": 0.5,
        "unit": "updates",
    },
    budgets.LinfBall: {"epsilon": 0.5, "low": -1.0, "high": 1.0, "fixed": (True, False, False)},
    perturbers.ObsPerturber: {
        "attack": UniformNoise(ball=BALL),
        "victim": vdn(),
        **WHEN,
        "when": CriticalSteps(),
        "epsilon": 0.5,
    },
    perturbers.DirectedObsPerturber: {
        "director": coma().policy,
        "generator": of(WIDE),
        "explore": True,
        "victim": vdn(),
        **WHEN,
        "epsilon": 0.5,
    },
    perturbers.CriticObsPerturber: {"attack": replace(ATTACK, steps=9), **WHEN},
    perturbers.LearnedObsPerturber: {
        "actor": perturbers.DirectionActor(of(BALL), 3, 4, hidden=(4,)),
        "agents": NAMES,
        "greedy": True,
        "episodes": 0.5,
        "epsilon": 0.5,
    },
    perturbers.SparingPerturber: {
        "inner": ObsPerturber(ATTACK, every=2),
        "steps": 3,
        "threshold": 0.5,
    },
    perturbers.CriticalSteps: {"measure": "gap", "threshold": 0.75, "temperature": 0.5},
    perturbers.RandomAgents: {"number": 2, "among": NAMES[:1]},
    perturbers.Attackers: {
        "spec": replace(SPEC, state_size=9),
        "number": 3,
        "budget": 3,
        "agents": NAMES,
        "hidden": (8,),
        "rate": 0.5,
        "soft": 0.5,
        "floor": 0.1,
    },
    perturbers.AttackerActions: {"attackers": attackers(budget=3), **CHOICE},
    perturbers.AttackerObs: {
        "attackers": attackers(budget=3),
        "generator": of(WIDE),
        "epsilon": 0.5,
        **CHOICE,
    },
    perturbers.DirectionActor: {
        "generator": of(WIDE),
        "obs_size": 5,
        "num_actions": 5,
        "hidden": (8,),
    },
    perturbers.GaussianObsAdversary: {"ball": WIDE, "obs_size": 5, "hidden": (8,), "max_std": 0.5},
    perturbers.TypeDistribution: {
        "p": 0.25,
        "choice": "adaptive",
        "agents": NAMES,
        "k": 2,
        "scale": 2.0,
    },
    perturbers.WorstOfPopulation: {"adversaries": ["random", "random"], "returns": [2.0, 1.0]},
    perturbers.ByzantinePerturber: {
        "adversary": torch.nn.Linear(3, 4),
        "types": TypeDistribution(1.0),
        "slots": "zeros",
    },
    perturbers.ActionPoisonPerturber: {
        "attack": JAttack(),
        "learner": COMA.for_env(SPEC, gamma=0.5),
        "agent": "unit_1",
        "attack_frequency": 0.5,
        "kl_budget": 0.5,
        "when": "always",
        "advantage_fn": torch.zeros_like,
    },
}

TENSORS = "of tensors: made in each call, and no setting of a run"
INNER = "made by the library of settings that are seen where they were given"
WEIGHTS = "of a policy, which is its weights: these are left out"
WITHOUT = {
    attacks.AdversaryOutputs: WEIGHTS,
    attacks.CrossEntropy: TENSORS,
    attacks.Margin: TENSORS,
    attacks.ScaledMargin: TENSORS,
    attacks.Divergence: TENSORS,
    attacks.ExpectedChange: TENSORS,
    attacks.NegativeValue: TENSORS,
    attacks.SquaredError: TENSORS,
    attacks.TowardPolicy: TENSORS,
    attacks.AveragedView: TENSORS,
    attacks.Outcomes: TENSORS,
    attacks.PoisonView: TENSORS,
    attacks.Walk: TENSORS,
    perturbers.ByzantinePlay: TENSORS,
    perturbers.OtherEpisodeObs: TENSORS,
    perturbers.ForeignLearner: INNER,
    perturbers.PerturberStack: INNER,
    perturbers.Place: INNER,
}
"""Classes that no run is told, and why."""


# Arguments that a class takes with others only: two good calls that differ in them alone.
TOGETHER = [
    (
        perturbers.ByzantinePerturber,
        "belief",
        {
            "adversary": "random",
            "slots": "belief",
            "belief": BeliefNetwork(SPEC, hidden=(4,), memory=4),
        },
        BeliefNetwork(SPEC, hidden=(8,), memory=4),
    ),
    (
        perturbers.ActionPoisonPerturber,
        "temperature",
        {"attack": RandomAttack(), "learner": vdn(), "agent": "unit_0", "temperature": 1.0},
        2.0,
    ),
    (
        perturbers.CriticObsPerturber,
        "critic",
        {"attack": ATTACK, "critic": maddpg()},
        MADDPG.for_env(BOXES, gamma=0.5),
    ),
]


def rows():
    """Return classes, how they are made, and each of their arguments with another value."""
    good = {one.call: one.good() for one in ATTACKS if isinstance(one.call, type)}
    good |= {
        schedules.Constant: {"value": 0.1},
        schedules.Linear: {"start": 0.0, "stop": 1.0, "over": 5},
        schedules.Repetitive: {"peak": 0.1, "warmup": 5, "period": 5, "loops": 2},
        budgets.LinfBall: {"epsilon": 0.1},
    }
    alone = [
        (cls, argument, good[cls], value)
        for cls, others in OTHERS.items()
        for argument, value in others.items()
    ]
    return [*alone, *TOGETHER]


@pytest.mark.parametrize(
    ("cls", "argument", "good", "value"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[1]}") for row in rows()],
)
def test_another_argument_is_another_fingerprint(cls, argument, good, value):
    before, after = fingerprint(it=cls(**good)), fingerprint(it=cls(**{**good, argument: value}))
    assert before == fingerprint(it=cls(**good))
    assert before != after


def test_no_class_and_no_argument_is_forgotten():
    rooms = (perturbers, attacks, losses, schedules, budgets)
    every = [getattr(room, name) for room in rooms for name in room.__all__]
    classes = {one for one in every if isinstance(one, type) and not _is_base(one)}
    assert classes == OTHERS.keys() | WITHOUT.keys()
    given = {(row[0], row[1]) for row in rows()}
    for cls in OTHERS:
        arguments = {(cls, name) for name in signature(cls).parameters if name != "seed"}
        assert {one for one in given if one[0] is cls} <= arguments
        assert is_dataclass(cls) or arguments <= given


def _is_base(cls):
    """Return whether nobody makes one, or there is nothing to tell it."""
    return getattr(cls, "_is_protocol", False) or isabstract(cls) or not signature(cls).parameters


def test_a_perturber_that_has_played_is_as_it_was_told():
    told = {"types": TypeDistribution(1.0), "slots": "truth"}
    perturber = perturbers.ByzantinePerturber("random", **told)
    before = fingerprint(it=perturber)
    rollout(vdn(), Arena, episodes=1, perturb=perturber)
    assert fingerprint(it=perturber) == before
