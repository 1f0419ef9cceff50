"""Attacks, what plays them, wrappers, certificates and losses."""

import math

import numpy as np
import torch
from catalogue.kinds import (
    Domain,
    Made,
    Pair,
    Subject,
    choice,
    flag,
    function,
    instance,
    integer,
    names,
    number,
    schedule,
    seed,
    tensor,
    widths,
)
from catalogue.things import (
    ATTACK,
    BALL,
    NAMES,
    ROWS,
    SPEC,
    coma,
    maddpg,
    mappo,
    noise,
    traitor,
    vdn,
    victim,
)
from learners import Arena

from robustmarl.algorithms import MADDPG, QMIX, VDN
from robustmarl.attacks import (
    APGD,
    MIFGSM,
    PGD,
    AdversaryOutputs,
    CrossEntropy,
    FrankWolfe,
    FunctionLoss,
    GaussianNoise,
    GradientAttack,
    Imitation,
    LipschitzAttack,
    Margin,
    NegativeValue,
    SquaredError,
    UniformNoise,
    toward_adversary,
)
from robustmarl.attacks.base import check_attack
from robustmarl.attacks.black_box import SPSA, RandomSearch, SquareSearch
from robustmarl.attacks.losses import ScaledMargin
from robustmarl.attacks.poison import (
    JAttack,
    RandomAttack,
    VarianceAttack,
    kl_scale,
    log_likelihood,
    poison,
    shift_direction,
)
from robustmarl.attacks.policy_losses import Divergence, ExpectedChange, TowardPolicy
from robustmarl.budgets import LinfBall
from robustmarl.certify import certified, certified_return, margin_bounds, possible_actions
from robustmarl.envs import TwoStepGame
from robustmarl.losses import (
    ActionLoss,
    ActionLossRegularizer,
    CertifiedLoss,
    CertifiedRegularizer,
    LipschitzLoss,
    LipschitzRegularizer,
    PolicyLoss,
    PolicyRegularizer,
    action_loss,
    certified_loss,
    lipschitz_loss,
    policy_loss,
)
from robustmarl.perturbers import (
    ActionPoisonPerturber,
    AttackerActions,
    AttackerObs,
    Attackers,
    ByzantinePerturber,
    CriticalSteps,
    CriticObsPerturber,
    DirectedObsPerturber,
    DirectionActor,
    GaussianObsAdversary,
    LearnedObsPerturber,
    ObsPerturber,
    PerturberStack,
    TypeDistribution,
    WorstOfPopulation,
    as_perturber,
    places,
    stor,
)
from robustmarl.perturbers.directions import PolicyDirection
from robustmarl.perturbers.drawn import RandomAgents
from robustmarl.perturbers.sparing import SparingPerturber
from robustmarl.perturbers.stack import listed
from robustmarl.wrappers import ActionPoisonWrapper, BayesianTypeWrapper, ObsAdversaryWrapper


class RobustQMIX(ActionLossRegularizer, QMIX):
    """A learner with the action loss."""


class RegularQMIX(PolicyRegularizer, QMIX):
    """A learner with the policy loss."""


class CertifiedQMIX(CertifiedRegularizer, QMIX):
    """A learner with the certified loss."""


class SmoothQMIX(LipschitzRegularizer, QMIX):
    """A learner with the Lipschitz loss."""


LENGTH = Domain(
    ("0.1", True, ("a",), 1j),
    (math.nan, math.inf, 0.0, -0.1, (0.1, -0.1), ()),
    (
        Pair(np.float64(0.25), 0.25),
        Pair(np.array(0.25), 0.25),
        Pair([0.25, 0.5], (0.25, 0.5)),
        Pair(np.array([0.25, 0.5]), (0.25, 0.5)),
    ),
)
STEPS = {
    "ball": instance(0.1),
    "steps": integer(3),
    "step_size": LENGTH,
    "random_start": Domain(("no", 1, None), (), (Pair(np.bool_(True), True),)),
    "restarts": integer(2),
}
AIMS = {
    "loss": Domain((), ("mae", 3, lambda one: one)),
    "target": Domain(
        ("0", 1.5, True),
        (-1,),
        (Pair(np.int64(1), 1), Pair([0.5, 0.1], (0.5, 0.1)), Pair(np.array([0.5]), (0.5,))),
    ),
    "clean_if_own": Domain(("no", 1, None), (True,), (Pair(np.bool_(False), False),)),
}
VICTIMS = Domain((3, object()))
WHO = {"agents": names(*NAMES)}
WHEN = {
    **WHO,
    "every": integer(2),
    "probability": number(0.5, 0.0, 1.0),
    "episodes": number(0.5, 0.0, 1.0),
}
RADIUS = {"epsilon": schedule(0.0, optional=True)}
CRITICAL = {"when": instance(ATTACK, optional=True)}
POISON = {
    "attack": instance(RandomAttack),
    "learner": instance(victim()),
    "agent": Domain((3, None, NAMES), ("nobody",)),
    "attack_frequency": number(0.5, 0.0, 1.0),
    "kl_budget": number(2.0, 0.0, open_low=True),
    "when": choice(),
    "advantage_fn": function(optional=True),
}
TRAITOR = {
    "adversary": Domain((3, None, ByzantinePerturber), ("worst",)),
    "types": Domain((3, "all")),
    "slots": choice(),
    "belief": Domain((), (Made(vdn, "vdn"),)),
}
LOSS = {
    "attack": instance(BALL),
    "weight": schedule(0.0),
    "max_rows": integer(64, optional=True),
}
CERTIFIED_LOSS = {
    "ball": instance(0.1),
    "weight": schedule(0.0),
    "max_rows": integer(64, optional=True),
    "epsilon": Domain(("1", True), (-0.5, math.nan), (Pair(np.float64(0.5), 0.5),)),
    "margin": number(0.5, 0.0, open_low=True),
    "worst": flag(),
    "method": choice(),
    "memory_given": flag(),
}
TERM = Domain((3, None, "loss", Made(lambda: ATTACK, "attack")))
LABELS = {"label": Domain((3, "greedy", [1])), "targeted": flag()}

SUBJECTS = (
    *(
        Subject(kind, lambda: {"ball": BALL, "steps": 2}, STEPS | AIMS)
        for kind in (GradientAttack, PGD)
    ),
    Subject(
        FrankWolfe,
        lambda: {"ball": BALL, "steps": 2, "target": (0.5, 0.1)},
        {
            **{name: STEPS[name] for name in ("ball", "steps", "random_start", "restarts")},
            "loss": Domain((), ("mae", "margin", 3)),
            "step_size": Domain((), (0.1,)),
        },
    ),
    Subject(
        MIFGSM,
        lambda: {"ball": BALL},
        {"ball": STEPS["ball"], "steps": STEPS["steps"], "decay": number(0.5, 0.0)},
    ),
    Subject(
        APGD,
        lambda: {"ball": BALL},
        {"ball": STEPS["ball"], "steps": STEPS["steps"], "samples": integer(2)},
    ),
    *(
        Subject(
            kind,
            lambda: {"ball": BALL},
            {"ball": STEPS["ball"], "queries": integer(2), "restarts": integer(2)} | more,
        )
        for kind, more in (
            (RandomSearch, {}),
            (SquareSearch, {"share": number(0.5, 0.0, 1.0, open_low=True)}),
        )
    ),
    Subject(
        SPSA,
        lambda: {"ball": BALL},
        {
            "ball": STEPS["ball"],
            "steps": integer(2),
            "pairs": integer(2),
            "probe": number(0.5, 0.0, 1.0, open_low=True),
            "step_size": number(0.5, 0.0, open_low=True, optional=True),
            "restarts": integer(2),
        },
    ),
    *(
        Subject(kind, lambda: {"clean": torch.zeros(2, 3)}, {"clean": tensor()})
        for kind in (Divergence, ExpectedChange)
    ),
    Subject(TowardPolicy, lambda: {"wanted": torch.zeros(2, 3)}, {"wanted": tensor()}),
    Subject(ScaledMargin, dict, LABELS),
    Subject(
        SparingPerturber,
        lambda: {"inner": ObsPerturber(ATTACK), "steps": 2},
        {"inner": instance(ATTACK), "steps": integer(2, 0), "threshold": number(0.5, 0.0)},
    ),
    Subject(
        CriticalSteps,
        dict,
        {
            "measure": choice(),
            "threshold": number(0.5, 0.0, 1.0, open_low=True),
            "temperature": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(
        RandomAgents,
        lambda: {"number": 1, "among": NAMES},
        {"number": integer(2, 0), "among": names(*NAMES)},
    ),
    Subject(
        Imitation,
        lambda: {"ball": BALL, "loss": "mse", "target": (0.0, 0.0)},
        {"ball": STEPS["ball"], "steps": STEPS["steps"]},
    ),
    Subject(
        LipschitzAttack,
        lambda: {"ball": BALL},
        {
            "ball": STEPS["ball"],
            "steps": STEPS["steps"],
            "random_start": Domain((), (False,)),
            "loss": Domain((), ("margin",)),
            "target": Domain((), (1,)),
            "start_radius": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(UniformNoise, lambda: {"ball": BALL}, {"ball": instance(0.1)}),
    Subject(
        GaussianNoise,
        lambda: {"ball": BALL},
        {
            "ball": instance(0.1),
            "std": Domain(
                ("0.1", True, ("a",)),
                (math.nan, math.inf, -0.1, ()),
                (Pair(np.float64(0.25), 0.25), Pair([0.25, 0.5], (0.25, 0.5))),
            ),
        },
    ),
    Subject(
        toward_adversary,
        lambda: {"adversary": traitor(), "ball": BALL},
        {
            "adversary": instance(),
            "ball": Domain(("1", None, True), (-0.5, math.nan), (Pair(np.float64(0.5), 0.5),)),
            "steps": integer(3),
        },
    ),
    Subject(AdversaryOutputs, lambda: {"adversary": traitor()}, {"adversary": instance()}),
    Subject(CrossEntropy, dict, LABELS),
    Subject(Margin, dict, LABELS),
    Subject(
        SquaredError,
        lambda: {"target": torch.zeros(4, 2)},
        {"target": tensor(), "targeted": flag(), "mask": Domain((3, "all"))},
    ),
    Subject(FunctionLoss, lambda: {"function": torch.sum}, {"function": function()}),
    Subject(
        NegativeValue,
        lambda: {"critic": torch.sum, "view": ROWS.view(victim()), "obs": ROWS.obs},
        {"critic": function(), "obs": tensor()},
    ),
    Subject(RandomAttack, dict, {}),
    Subject(JAttack, dict, {"scope": choice(), "samples": integer(4)}),
    Subject(VarianceAttack, dict, {"scope": choice(), "terms": choice(), "samples": integer(4)}),
    Subject(
        poison,
        lambda: {
            "logits": torch.zeros(2, 3),
            "mask": torch.ones(2, 3, dtype=torch.bool),
            "direction": torch.eye(3)[:2],
            "kl_budget": 0.1,
        },
        {
            "logits": tensor(),
            "mask": tensor((2, 4)),
            "direction": tensor((2, 4)),
            "kl_budget": number(0.1, 0.0, open_low=True),
        },
    ),
    Subject(
        kl_scale,
        lambda: {
            "log_policy": torch.full((2, 2), math.log(0.5)),
            "unit": torch.eye(2),
            "kl_budget": 0.1,
        },
        {
            "log_policy": tensor(),
            "unit": tensor((3, 4)),
            "kl_budget": number(0.1, 0.0, open_low=True),
        },
    ),
    Subject(
        log_likelihood,
        lambda: {
            "log_policy": torch.full((2, 2), math.log(0.5)),
            "poisoned": torch.full((2, 2), 0.5),
        },
        {"poisoned": tensor((3, 4)), "attack_frequency": number(0.5, 0.0, 1.0)},
    ),
    Subject(
        shift_direction,
        lambda: {"policy": torch.full((2, 2), 0.5), "weight": torch.eye(2)},
        {"policy": tensor(), "weight": tensor((3, 4))},
    ),
    *(
        Subject(
            kind,
            lambda: {"victim": vdn().victim(), "rows": ROWS, "ball": BALL},
            {
                "victim": instance(victim()),
                "rows": instance(),
                "ball": instance(0.1)
                | Domain((), (Made(lambda: LinfBall(epsilon=(0.1, 0.2)), "two"),)),
                **({"method": choice()} if kind is margin_bounds else {}),
            },
        )
        for kind in (certified, margin_bounds, possible_actions)
    ),
    Subject(
        certified_return,
        lambda: {
            "victim": VDN.for_env(TwoStepGame(), hidden=(4,)).victim(),
            "game": TwoStepGame(),
            "ball": BALL,
        },
        {"victim": instance(victim()), "game": instance(), "ball": instance(0.1)},
    ),
    Subject(
        ObsPerturber,
        lambda: {"attack": ATTACK},
        {"attack": instance(PGD, BALL), "victim": VICTIMS, **WHEN, **CRITICAL, **RADIUS},
    ),
    Subject(
        DirectedObsPerturber,
        lambda: {"director": vdn().policy, "generator": stor(BALL)},
        {
            "director": instance(),
            "generator": instance(BALL),
            "explore": flag(),
            "victim": VICTIMS,
            **WHEN,
            **RADIUS,
        },
    ),
    Subject(
        Attackers,
        lambda: {"spec": SPEC, "hidden": (4,)},
        {
            "spec": instance(Arena),
            "number": integer(2),
            "budget": integer(2, 0),
            "agents": names(*NAMES),
            "hidden": widths(),
            "rate": number(0.5, 0.0, 1.0, open_low=True),
            "soft": number(0.5, 0.0, open_low=True),
            "floor": number(0.1, 0.0, 0.25, optional=True),
            "seed": seed(),
        },
    ),
    *(
        Subject(
            kind,
            lambda more=more: {"attackers": Attackers(SPEC, hidden=(4,)), **more},
            {
                "attackers": instance(ATTACK),
                "explore": flag(),
                "greedy": flag(),
                "episodes": number(0.5, 0.0, 1.0),
                **({"generator": instance(BALL), **RADIUS} if more else {}),
            },
        )
        for kind, more in ((AttackerActions, {}), (AttackerObs, {"generator": stor(BALL)}))
    ),
    Subject(
        DirectionActor,
        lambda: {"generator": stor(BALL), "obs_size": 3, "num_actions": 4, "hidden": (4,)},
        {
            "generator": instance(BALL),
            "obs_size": integer(3),
            "num_actions": integer(4, 2),
            "hidden": widths(),
            "seed": seed(),
        },
    ),
    Subject(
        PolicyDirection,
        lambda: {"clean": torch.zeros(2, 3), "direction": torch.eye(3)[:2]},
        {"clean": tensor(), "direction": tensor((3, 4))},
    ),
    Subject(
        stor,
        lambda: {"ball": BALL},
        {
            "ball": instance(0.1),
            "steps": integer(3),
            "continuous": flag(),
            "target": Domain(("0", 1.5, True), (-1,), (Pair(np.int64(1), 1),)),
        },
    ),
    Subject(
        CriticObsPerturber,
        lambda: {"attack": ATTACK, "critic": maddpg()},
        {
            "attack": instance(BALL),
            "critic": Domain((3, None, Made(mappo, "MAPPO"), MADDPG)),
            **WHEN,
        },
    ),
    Subject(
        GaussianObsAdversary,
        lambda: {"ball": BALL, "obs_size": 3, "hidden": (4,)},
        {
            "ball": instance(0.1),
            "obs_size": integer(3),
            "hidden": widths(),
            "max_std": number(0.5, 0.0, open_low=True, optional=True),
            "seed": seed(),
        },
    ),
    Subject(
        LearnedObsPerturber,
        lambda: {"actor": noise()},
        {
            "actor": instance(ATTACK),
            "greedy": flag(),
            "episodes": number(0.5, 0.0, 1.0),
            **WHO,
            **RADIUS,
        },
    ),
    Subject(
        as_perturber,
        lambda: {"perturbation": ATTACK},
        {"perturbation": instance(PGD, [ATTACK])},
    ),
    Subject(
        lambda attack: check_attack("check_attack.attack", attack),
        lambda: {"attack": ATTACK},
        {"attack": instance(BALL)},
        "check_attack",
        check_attack,
    ),
    Subject(
        lambda attacks: listed("listed.attacks", attacks),
        lambda: {"attacks": ATTACK},
        {"attacks": Domain((3, "noise", [3]), (), (Pair(ATTACK, [ATTACK]), Pair(None, [])))},
        "listed",
        listed,
    ),
    Subject(
        PerturberStack,
        lambda: {"perturbations": [ATTACK]},
        {
            "perturbations": Domain(
                (3, "noise", [3]), (), (Pair(ATTACK, [ATTACK]), Pair((ATTACK,), [ATTACK]))
            )
        },
    ),
    Subject(
        places,
        lambda: {"kinds": ["obs", "obs"]},
        {"kinds": Domain((3, "obs", [3])), "first": integer(3, 0)},
    ),
    Subject(
        TypeDistribution,
        dict,
        {
            "p": number(0.5, 0.0, 1.0),
            "choice": choice() | Domain((), ("fixed",)),
            "agents": names(*NAMES),
            "k": integer(2),
            "scale": number(0.5, 0.0, open_low=True),
        },
    ),
    Subject(
        lambda returns: TypeDistribution().update(returns),
        lambda: {"returns": torch.zeros(3)},
        {
            "returns": Domain(
                ("low", None, {"a": 1}),
                ([math.inf, -math.inf], [[1.0]], 3.0),
                (Pair([1.0, math.nan], (1.0, math.nan)),),
            )
        },
        "TypeDistribution.update",
        TypeDistribution,
    ),
    Subject(
        lambda **new: TypeDistribution().present(**new),
        lambda: {"p": 0.5, "returns": None},
        {"p": number(0.5, 0.0, 1.0), "returns": Domain((3, "low"), ())},
        "TypeDistribution",
    ),
    Subject(
        WorstOfPopulation,
        lambda: {"adversaries": ["random", traitor()], "returns": [1.0, 2.0]},
        {
            "adversaries": Domain((3, "random", [3, 4], None), ([], ["worst", "random"])),
            "returns": Domain(
                (3, "low", None, ["1", "2"]),
                ([1.0], [1.0, math.nan], [math.inf, 0.0]),
                (Pair(np.array([1.0, 2.0]), [1.0, 2.0]), Pair((1, 2), [1.0, 2.0])),
            ),
        },
    ),
    Subject(
        ByzantinePerturber,
        lambda: {"adversary": "random"},
        TRAITOR,
    ),
    Subject(
        ActionPoisonPerturber,
        lambda: {"attack": RandomAttack(), "learner": coma(), "agent": "unit_0"},
        POISON | {"temperature": Domain((), (0.5,))},
    ),
    Subject(
        lambda **given: ActionPoisonPerturber(**given),
        lambda: {
            "attack": RandomAttack(),
            "learner": vdn(),
            "agent": "unit_0",
            "temperature": 1.0,
        },
        {"temperature": number(2.0, 0.0, open_low=True, optional=True) | Domain((), (None,))},
        "ActionPoisonPerturber",
        ActionPoisonPerturber,
    ),
    Subject(
        ObsAdversaryWrapper,
        lambda: {"env": Arena(), "attack": ATTACK, "victim": vdn()},
        {"env": instance(Arena), "attack": instance(BALL), "victim": VICTIMS, **WHEN, **CRITICAL},
    ),
    Subject(
        ActionPoisonWrapper,
        lambda: {
            "env": Arena(),
            "attack": RandomAttack(),
            "learner": coma(),
            "agent": "unit_0",
        },
        POISON | {"env": instance(Arena)},
    ),
    Subject(
        BayesianTypeWrapper,
        lambda: {"env": Arena(), "adversary": "random"},
        TRAITOR | {"env": instance(Arena), "adversary": Domain((3, None), ("worst",))},
    ),
    Subject(
        ActionLoss,
        lambda: {"attack": ATTACK, "weight": 0.5},
        LOSS | {"epsilon": Domain(("1", True), (-0.5, math.nan), (Pair(np.float64(0.5), 0.5),))},
    ),
    Subject(
        PolicyLoss,
        lambda: {"attack": ATTACK},
        LOSS | {"form": choice(), "margin": number(0.5, 0.0, open_low=True)},
    ),
    Subject(
        PolicyLoss.repetitive,
        lambda: {"attack": ATTACK, "total": 100},
        {
            "total": integer(100, 5),
            "peak": number(0.5, 0.0),
            "loops": integer(2, 1, 60),
            "unit": choice(),
            "form": choice(),
            "margin": number(0.5, 0.0, open_low=True),
            "max_rows": integer(64, optional=True),
        },
    ),
    Subject(LipschitzLoss, lambda: {"attack": ATTACK}, LOSS),
    Subject(CertifiedLoss, lambda: {"ball": BALL}, CERTIFIED_LOSS),
    Subject(
        CertifiedQMIX.for_env,
        lambda: {"env": SPEC, "certified_loss": CertifiedLoss(ball=BALL)},
        {"certified_loss": TERM | Domain((Made(lambda: PolicyLoss(attack=ATTACK), "PolicyLoss"),))},
        "CertifiedQMIX",
        CertifiedRegularizer,
    ),
    Subject(
        certified_loss,
        lambda: {"victim": vdn().victim(), "rows": ROWS, "ball": BALL},
        {
            "victim": instance(victim()),
            "rows": instance(),
            "ball": instance(0.1),
            "margin": number(0.5, 0.0, open_low=True),
            "worst": flag(),
            "method": choice(),
            "memory_given": flag(),
        },
    ),
    Subject(
        RobustQMIX.for_env,
        lambda: {"env": SPEC, "action_loss": ActionLoss(attack=ATTACK, weight=0.5)},
        {"action_loss": TERM | Domain((Made(lambda: PolicyLoss(attack=ATTACK), "PolicyLoss"),))},
        "RobustQMIX",
        ActionLossRegularizer,
    ),
    Subject(
        RegularQMIX.for_env,
        lambda: {"env": SPEC, "policy_loss": PolicyLoss(attack=ATTACK)},
        {
            "policy_loss": TERM
            | Domain((Made(lambda: ActionLoss(attack=ATTACK, weight=0.5), "ActionLoss"),))
        },
        "RegularQMIX",
        PolicyRegularizer,
    ),
    Subject(
        SmoothQMIX.for_env,
        lambda: {"env": SPEC, "lipschitz_loss": LipschitzLoss(attack=ATTACK)},
        {"lipschitz_loss": TERM | Domain((Made(lambda: PolicyLoss(attack=ATTACK), "PolicyLoss"),))},
        "SmoothQMIX",
        LipschitzRegularizer,
    ),
    *(
        Subject(
            kind,
            lambda: {"victim": vdn().victim(), "rows": ROWS, "attack": ATTACK},
            {"victim": instance(), "rows": instance(), "attack": instance(BALL)},
        )
        for kind in (action_loss, lipschitz_loss)
    ),
    Subject(
        policy_loss,
        lambda: {"clean": torch.zeros(2, 3), "perturbed": torch.ones(2, 3)},
        {
            "clean": tensor(),
            "perturbed": tensor((2, 4)),
            "form": choice(),
            "margin": number(0.5, 0.0, open_low=True),
        },
    ),
)
