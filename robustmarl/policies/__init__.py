"""Policies of whole teams: greedy over Q-values, stochastic, typed, Byzantine."""

from robustmarl.policies.actor import ActorPolicy, DeterministicPolicy
from robustmarl.policies.base import TeamPolicy
from robustmarl.policies.byzantine import ByzantinePolicy
from robustmarl.policies.exploring import ExploringPolicy
from robustmarl.policies.frozen import FrozenPolicy
from robustmarl.policies.q import QPolicy
from robustmarl.policies.typed import TypedPolicy

__all__ = [
    "ActorPolicy",
    "ByzantinePolicy",
    "DeterministicPolicy",
    "ExploringPolicy",
    "FrozenPolicy",
    "QPolicy",
    "TeamPolicy",
    "TypedPolicy",
]
