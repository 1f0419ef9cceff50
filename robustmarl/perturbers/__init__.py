"""What changes a step of a team: the cores that collector and wrappers adapt."""

from robustmarl.perturbers.action_poison import ActionPoisonPerturber
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.learned import GaussianObsAdversary, LearnedObsPerturber
from robustmarl.perturbers.obs import ObsPerturber, as_perturber
from robustmarl.perturbers.stack import PerturberStack, places
from robustmarl.perturbers.traitors import ByzantineAdversary, ByzantinePlay, WorstOfPopulation
from robustmarl.perturbers.types import TypeDistribution

__all__ = [
    "ActionPoisonPerturber",
    "ByzantineAdversary",
    "ByzantinePerturber",
    "ByzantinePlay",
    "GaussianObsAdversary",
    "LearnedObsPerturber",
    "ObsPerturber",
    "Perturber",
    "PerturberStack",
    "Place",
    "TypeDistribution",
    "WorstOfPopulation",
    "as_perturber",
    "places",
]
