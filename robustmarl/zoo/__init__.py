"""Trained teams and adversaries to try things on, each with a card of what was measured.

Example:
    >>> saved = load("3s_vs_3z/qmix-plain/0")
    >>> type(saved.learner).__name__, card("3s_vs_3z/qmix-plain/0").metric
    ('QMIX', 'battle_won')
"""

from robustmarl.zoo.cards import Card, leaderboard, measure
from robustmarl.zoo.entries import ENTRIES, Entry
from robustmarl.zoo.shelf import card, cards, load, load_adversary, names, train, write_card
from robustmarl.zoo.worlds import WORLDS, Traitor, World, world

__all__ = [
    "ENTRIES",
    "WORLDS",
    "Card",
    "Entry",
    "Traitor",
    "World",
    "card",
    "cards",
    "leaderboard",
    "load",
    "load_adversary",
    "measure",
    "names",
    "train",
    "world",
    "write_card",
]
