"""Attacks: small value objects of settings, called with the victim's view."""

from robustmarl.attacks.action_poison import ActionPoisonPerturber
from robustmarl.attacks.base import ObsAttack, StepContext
from robustmarl.attacks.byzantine import (
    AdversaryOutputs,
    ByzantineAdversary,
    ByzantinePerturber,
    ByzantinePlay,
    TypeDistribution,
    WorstOfPopulation,
    byzantine_attacks,
    toward_adversary,
)
from robustmarl.attacks.gradient import PGD
from robustmarl.attacks.learned import GaussianObsAdversary, LearnedObsPerturber
from robustmarl.attacks.losses import CrossEntropy, Margin, NegativeValue, SquaredError
from robustmarl.attacks.noise import GaussianNoise, UniformNoise
from robustmarl.attacks.perturbers import ObsPerturber, Perturber, as_perturber
from robustmarl.attacks.tram import (
    JAttack,
    Outcomes,
    PoisonAttack,
    PoisonView,
    RandomAttack,
    VarianceAttack,
)

__all__ = [
    "PGD",
    "ActionPoisonPerturber",
    "AdversaryOutputs",
    "ByzantineAdversary",
    "ByzantinePerturber",
    "ByzantinePlay",
    "CrossEntropy",
    "GaussianNoise",
    "GaussianObsAdversary",
    "JAttack",
    "LearnedObsPerturber",
    "Margin",
    "NegativeValue",
    "ObsAttack",
    "ObsPerturber",
    "Outcomes",
    "Perturber",
    "PoisonAttack",
    "PoisonView",
    "RandomAttack",
    "SquaredError",
    "StepContext",
    "TypeDistribution",
    "UniformNoise",
    "VarianceAttack",
    "WorstOfPopulation",
    "as_perturber",
    "byzantine_attacks",
    "toward_adversary",
]
