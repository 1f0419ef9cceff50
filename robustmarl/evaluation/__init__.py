"""Cross-play tables, statistics over training seeds, and plots."""

from robustmarl.evaluation.adaptation import Adaptation, adaptation
from robustmarl.evaluation.aggregates import Profile, performance_profile, task_iqm
from robustmarl.evaluation.blind import blindfolds, train_blind
from robustmarl.evaluation.cells import Cell
from robustmarl.evaluation.certified import Certificates, certified
from robustmarl.evaluation.comparisons import SignedRank, probability_of_improvement, signed_rank
from robustmarl.evaluation.crossplay import crossplay
from robustmarl.evaluation.curves import Curve, feature_bars, size_curves
from robustmarl.evaluation.executors import Workplace
from robustmarl.evaluation.exports import marl_eval
from robustmarl.evaluation.findings import Finding, Measured, WorstCase
from robustmarl.evaluation.grid import Grid
from robustmarl.evaluation.grid_tables import GridKey, read_tables, read_warnings, report_tables
from robustmarl.evaluation.html import report
from robustmarl.evaluation.jobs import CellsError, Failure, Job, read_cells, run_cells
from robustmarl.evaluation.meter import Reading
from robustmarl.evaluation.plots import curve_panels, heatmap, learning_curves
from robustmarl.evaluation.recipes import Defence, Learned, Recipe
from robustmarl.evaluation.recordings import Recording, record
from robustmarl.evaluation.resampling import bootstrap, iqm
from robustmarl.evaluation.rollouts import Rollouts, rollout
from robustmarl.evaluation.statistics import Estimate, clopper_pearson, interval, wilson
from robustmarl.evaluation.suite import Case, Entry, Suite, quick, standard
from robustmarl.evaluation.suites import byzantine_attacks
from robustmarl.evaluation.sweep import Sweep, sweep
from robustmarl.evaluation.tables import Average, CrossTable
from robustmarl.evaluation.teams import TeamController
from robustmarl.evaluation.worst_case import worst_case

__all__ = [
    "Adaptation",
    "Average",
    "Case",
    "Cell",
    "CellsError",
    "Certificates",
    "CrossTable",
    "Curve",
    "Defence",
    "Entry",
    "Estimate",
    "Failure",
    "Finding",
    "Grid",
    "GridKey",
    "Job",
    "Learned",
    "Measured",
    "Profile",
    "Reading",
    "Recipe",
    "Recording",
    "Rollouts",
    "SignedRank",
    "Suite",
    "Sweep",
    "TeamController",
    "Workplace",
    "WorstCase",
    "adaptation",
    "blindfolds",
    "bootstrap",
    "byzantine_attacks",
    "certified",
    "clopper_pearson",
    "crossplay",
    "curve_panels",
    "feature_bars",
    "heatmap",
    "interval",
    "iqm",
    "learning_curves",
    "marl_eval",
    "performance_profile",
    "probability_of_improvement",
    "quick",
    "read_cells",
    "read_tables",
    "read_warnings",
    "record",
    "report",
    "report_tables",
    "rollout",
    "run_cells",
    "signed_rank",
    "size_curves",
    "standard",
    "sweep",
    "task_iqm",
    "train_blind",
    "wilson",
    "worst_case",
]
