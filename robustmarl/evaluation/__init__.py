"""Cross-play tables, statistics over training seeds, and plots."""

from robustmarl.evaluation.adaptation import Adaptation, adaptation
from robustmarl.evaluation.blind import blindfolds
from robustmarl.evaluation.crossplay import crossplay
from robustmarl.evaluation.plots import curve_panels, heatmap, learning_curves
from robustmarl.evaluation.rollouts import Rollouts, rollout
from robustmarl.evaluation.statistics import (
    Estimate,
    SignedRank,
    bootstrap,
    iqm,
    signed_rank,
    wilson,
)
from robustmarl.evaluation.suites import byzantine_attacks
from robustmarl.evaluation.tables import Cell, CrossTable
from robustmarl.evaluation.teams import TeamController

__all__ = [
    "Adaptation",
    "Cell",
    "CrossTable",
    "Estimate",
    "Rollouts",
    "SignedRank",
    "TeamController",
    "adaptation",
    "blindfolds",
    "bootstrap",
    "byzantine_attacks",
    "crossplay",
    "curve_panels",
    "heatmap",
    "iqm",
    "learning_curves",
    "rollout",
    "signed_rank",
    "wilson",
]
