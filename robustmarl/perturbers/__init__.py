"""What changes a step of a team: the cores that collector and wrappers adapt."""

from robustmarl.perturbers.action_poison import ActionPoisonPerturber, PoisonedLearner
from robustmarl.perturbers.attacker_perturbers import AttackerActions, AttackerObs
from robustmarl.perturbers.attackers import Attackers
from robustmarl.perturbers.base import Perturber, Place
from robustmarl.perturbers.blind import OtherEpisodeObs, ZeroedObs
from robustmarl.perturbers.by_critic import ActionValues, CriticObsPerturber
from robustmarl.perturbers.byzantine import ByzantinePerturber
from robustmarl.perturbers.critical import CriticalSteps
from robustmarl.perturbers.directions import DirectionActor
from robustmarl.perturbers.director import DirectedObsPerturber, stor
from robustmarl.perturbers.drawn import RandomAgents
from robustmarl.perturbers.foreign import ForeignLearner
from robustmarl.perturbers.learned import GaussianObsAdversary, LearnedObsPerturber
from robustmarl.perturbers.obs import ObsPerturber, as_perturber
from robustmarl.perturbers.sparing import SparingPerturber
from robustmarl.perturbers.stack import PerturberStack, places
from robustmarl.perturbers.traitors import (
    AdversaryLike,
    ByzantineAdversary,
    ByzantinePlay,
    HasPolicy,
    WorstOfPopulation,
)
from robustmarl.perturbers.types import TypeDistribution

__all__ = [
    "ActionPoisonPerturber",
    "ActionValues",
    "AdversaryLike",
    "AttackerActions",
    "AttackerObs",
    "Attackers",
    "ByzantineAdversary",
    "ByzantinePerturber",
    "ByzantinePlay",
    "CriticObsPerturber",
    "CriticalSteps",
    "DirectedObsPerturber",
    "DirectionActor",
    "ForeignLearner",
    "GaussianObsAdversary",
    "HasPolicy",
    "LearnedObsPerturber",
    "ObsPerturber",
    "OtherEpisodeObs",
    "Perturber",
    "PerturberStack",
    "Place",
    "PoisonedLearner",
    "RandomAgents",
    "SparingPerturber",
    "TypeDistribution",
    "WorstOfPopulation",
    "ZeroedObs",
    "as_perturber",
    "places",
    "stor",
]
