"""Losses described for compiled code."""

from __future__ import annotations

import torch

from robustmarl.attacks.losses import (
    CrossEntropy,
    LabelLoss,
    Margin,
    ScaledMargin,
    SquaredError,
)
from robustmarl.attacks.policy_losses import Divergence, ExpectedChange
from robustmarl.networks.calculus import Formula, Kind
from robustmarl.victims import OutputLoss

__all__ = ["formula_of"]

_OF_LABELS: dict[type[OutputLoss], Kind] = {
    CrossEntropy: Kind.CROSS_ENTROPY,
    Margin: Kind.MARGIN,
    ScaledMargin: Kind.SCALED_MARGIN,
}


def formula_of(loss: OutputLoss, rows: int) -> Formula | None:
    """Return what compiled code has to know of ``loss``, None where it does not know its equation.

    Only the package's own classes of losses themselves are known: a subclass may raise
    something else.

    Args:
        loss: what is raised.
        rows: M.
    """
    if isinstance(loss, LabelLoss):
        kind, label = _OF_LABELS.get(type(loss)), loss.label
        if kind is None:
            return None
        unnamed = label is None
        label = torch.empty(rows, dtype=torch.int64) if label is None else label
        return Formula(kind, label=label, unnamed=unnamed, targeted=loss.targeted)
    if type(loss) is SquaredError:
        return Formula(
            Kind.SQUARED_ERROR, reference=loss.target, counted=loss.mask, targeted=loss.targeted
        )
    if type(loss) is Divergence:
        return Formula(Kind.DIVERGENCE, reference=loss.policy)
    if type(loss) is ExpectedChange:
        return Formula(Kind.EXPECTED_CHANGE, reference=loss.policy)
    return None
