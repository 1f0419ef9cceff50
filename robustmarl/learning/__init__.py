"""What all learners of teams share: construction, returns, optimizers."""

from robustmarl.learning.base import TeamAlgorithm, TeamTrainingStats
from robustmarl.learning.optim import adam

__all__ = ["TeamAlgorithm", "TeamTrainingStats", "adam"]
