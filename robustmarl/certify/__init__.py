"""What no attack in a ball can change, proved."""

from robustmarl.certify.directed import DirectedGame, SoftValues
from robustmarl.certify.margins import BoundMethod, certified, margin_bounds, possible_actions
from robustmarl.certify.returns import CertifiedReturn, ListedGame, certified_return
from robustmarl.certify.sasg import StateAdversarialGame, WorstCase

__all__ = [
    "BoundMethod",
    "CertifiedReturn",
    "DirectedGame",
    "ListedGame",
    "SoftValues",
    "StateAdversarialGame",
    "WorstCase",
    "certified",
    "certified_return",
    "margin_bounds",
    "possible_actions",
]
