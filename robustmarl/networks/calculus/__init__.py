"""One reading of agents' networks, and derivatives worked out by hand where autograd costs more."""

from robustmarl.networks.calculus.formula import Formula, Kind
from robustmarl.networks.calculus.plan import Plan
from robustmarl.networks.calculus.steps import SignSteps, Way
from robustmarl.networks.calculus.vjp import InputGradient

__all__ = ["Formula", "InputGradient", "Kind", "Plan", "SignSteps", "Way"]
