"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.base import ObsAttack, StepContext
from robustmarl.attacks.gradient import PGD
from robustmarl.attacks.learned import GaussianObsAdversary, LearnedObsPerturber
from robustmarl.attacks.losses import CrossEntropy, Margin, NegativeValue, SquaredError
from robustmarl.attacks.noise import GaussianNoise, UniformNoise
from robustmarl.attacks.perturbers import ObsPerturber, Perturber, as_perturber

__all__ = [
    "PGD",
    "CrossEntropy",
    "GaussianNoise",
    "GaussianObsAdversary",
    "LearnedObsPerturber",
    "Margin",
    "NegativeValue",
    "ObsAttack",
    "ObsPerturber",
    "Perturber",
    "SquaredError",
    "StepContext",
    "UniformNoise",
    "as_perturber",
]
