"""What all learners of teams share: construction, returns, optimizers."""

from robustmarl.learning.base import OffPolicyTeam, OnPolicyTeam, TeamAlgorithm, TeamTrainingStats
from robustmarl.learning.optim import adam
from robustmarl.learning.world import WorldModel

__all__ = [
    "OffPolicyTeam",
    "OnPolicyTeam",
    "TeamAlgorithm",
    "TeamTrainingStats",
    "WorldModel",
    "adam",
]
