"""One reading of agents' networks, and derivatives worked out by hand where autograd costs more."""

from robustmarl.networks.calculus.plan import Plan
from robustmarl.networks.calculus.vjp import InputGradient

__all__ = ["InputGradient", "Plan"]
