"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.aimed import AimedAttack
from robustmarl.attacks.apgd import APGD
from robustmarl.attacks.averaged import AveragedView
from robustmarl.attacks.base import ObsAttack
from robustmarl.attacks.black_box import SPSA, RandomSearch, SquareSearch
from robustmarl.attacks.gradient import PGD, GradientAttack, Walk
from robustmarl.attacks.imitation import (
    AdversaryOutputs,
    ByzantineOutputs,
    Imitation,
    toward_adversary,
)
from robustmarl.attacks.lipschitz import LipschitzAttack
from robustmarl.attacks.losses import (
    CrossEntropy,
    FunctionLoss,
    LabelLoss,
    Margin,
    NegativeValue,
    ScaledMargin,
    SquaredError,
)
from robustmarl.attacks.momentum import MIFGSM
from robustmarl.attacks.noise import GaussianNoise, UniformNoise
from robustmarl.attacks.poison import (
    JAttack,
    Outcomes,
    PoisonAttack,
    PoisonView,
    RandomAttack,
    VarianceAttack,
)
from robustmarl.attacks.policy_losses import Divergence, ExpectedChange, TowardPolicy
from robustmarl.attacks.toward import FrankWolfe

__all__ = [
    "APGD",
    "MIFGSM",
    "PGD",
    "SPSA",
    "AdversaryOutputs",
    "AimedAttack",
    "AveragedView",
    "ByzantineOutputs",
    "CrossEntropy",
    "Divergence",
    "ExpectedChange",
    "FrankWolfe",
    "FunctionLoss",
    "GaussianNoise",
    "GradientAttack",
    "Imitation",
    "JAttack",
    "LabelLoss",
    "LipschitzAttack",
    "Margin",
    "NegativeValue",
    "ObsAttack",
    "Outcomes",
    "PoisonAttack",
    "PoisonView",
    "RandomAttack",
    "RandomSearch",
    "ScaledMargin",
    "SquareSearch",
    "SquaredError",
    "TowardPolicy",
    "UniformNoise",
    "VarianceAttack",
    "Walk",
    "toward_adversary",
]
