"""What learns against a team: one abstraction, PPO against a team written once, its users."""

from robustmarl.adversaries.atsa import ATSA
from robustmarl.adversaries.base import Adversary, Sample
from robustmarl.adversaries.byzantine import ByzantineAttacker
from robustmarl.adversaries.continuous_atsa import ContinuousATSA
from robustmarl.adversaries.directions import DirectionPAAD
from robustmarl.adversaries.obs_ppo import ObsAdversaryPPO
from robustmarl.adversaries.paad import PAAD
from robustmarl.adversaries.population import Population
from robustmarl.adversaries.rap import RAP
from robustmarl.adversaries.romance import ROMANCE
from robustmarl.adversaries.shared import SharedAdvantage, SharedByzantine, SharedObsAdversary
from robustmarl.adversaries.team_paad import TeamPAAD

__all__ = [
    "ATSA",
    "PAAD",
    "RAP",
    "ROMANCE",
    "Adversary",
    "ByzantineAttacker",
    "ContinuousATSA",
    "DirectionPAAD",
    "ObsAdversaryPPO",
    "Population",
    "Sample",
    "SharedAdvantage",
    "SharedByzantine",
    "SharedObsAdversary",
    "TeamPAAD",
]
