"""Policies of whole teams: greedy over Q-values, stochastic, typed, mean-field, Byzantine."""

from robustmarl.policies.actor import ActorPolicy, DeterministicPolicy
from robustmarl.policies.base import TeamPolicy
from robustmarl.policies.byzantine import ByzantinePolicy
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.policies.frozen import FrozenPolicy
from robustmarl.policies.mean_field import MeanFieldPolicy, Neighbours
from robustmarl.policies.q import QPolicy
from robustmarl.policies.typed import TypedPolicy

__all__ = [
    "ActorPolicy",
    "ByzantinePolicy",
    "DeterministicPolicy",
    "ExploringPolicy",
    "FrozenPolicy",
    "MeanFieldPolicy",
    "Neighbours",
    "QPolicy",
    "TeamPolicy",
    "TypedPolicy",
]
