"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.base import ObsAttack
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

__all__ = [
    "MIFGSM",
    "PGD",
    "AdversaryOutputs",
    "ByzantineOutputs",
    "CrossEntropy",
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
    "SquaredError",
    "UniformNoise",
    "VarianceAttack",
    "Walk",
    "toward_adversary",
]
