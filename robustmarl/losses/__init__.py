"""Defences as mixins: loss terms that join an algorithm's one optimizer step."""

from robustmarl.losses.action import ActionLoss, ActionLossRegularizer, action_loss
from robustmarl.losses.attack_term import AttackTerm
from robustmarl.losses.certified import CertifiedLoss, CertifiedRegularizer, certified_loss
from robustmarl.losses.lipschitz import LipschitzLoss, LipschitzRegularizer, lipschitz_loss
from robustmarl.losses.mixin import LossMixin, RampedTerm, Term
from robustmarl.losses.policy import PolicyLoss, PolicyRegularizer, policy_loss

__all__ = [
    "ActionLoss",
    "ActionLossRegularizer",
    "AttackTerm",
    "CertifiedLoss",
    "CertifiedRegularizer",
    "LipschitzLoss",
    "LipschitzRegularizer",
    "LossMixin",
    "PolicyLoss",
    "PolicyRegularizer",
    "RampedTerm",
    "Term",
    "action_loss",
    "certified_loss",
    "lipschitz_loss",
    "policy_loss",
]
