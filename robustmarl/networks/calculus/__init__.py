"""Derivatives of agents' networks, worked out by hand where autograd costs more."""

from robustmarl.networks.calculus.vjp import PlainMLP

__all__ = ["PlainMLP"]
