"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.base import ObsAttack
from robustmarl.attacks.gradient import PGD
from robustmarl.attacks.imitation import AdversaryOutputs, toward_adversary
from robustmarl.attacks.losses import CrossEntropy, Margin, NegativeValue, SquaredError
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
    "PGD",
    "AdversaryOutputs",
    "CrossEntropy",
    "GaussianNoise",
    "JAttack",
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
    "toward_adversary",
]
