"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.base import ObsAttack
from robustmarl.attacks.gradient import PGD, GradientAttack, Walk
from robustmarl.attacks.imitation import AdversaryOutputs, toward_adversary
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
    "CrossEntropy",
    "FunctionLoss",
    "GaussianNoise",
    "GradientAttack",
    "JAttack",
    "LabelLoss",
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
