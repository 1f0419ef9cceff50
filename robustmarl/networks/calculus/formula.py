"""A loss on a network's output, described so that compiled code can take its gradient."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

__all__ = ["Formula", "Kind"]


class Kind(IntEnum):
    """Whose gradient it is; ``attacks.losses`` has the equations."""

    CROSS_ENTROPY = 0
    MARGIN = 1
    SCALED_MARGIN = 2
    DIVERGENCE = 3
    EXPECTED_CHANGE = 4
    SQUARED_ERROR = 5


class Formula(NamedTuple):
    """What a loss is made of.

    Attributes:
        kind: its equation.
        label: actions, int64 (M,), of the first three kinds.
        unnamed: whether these are the greedy actions of the first output, to be written there.
        reference: the clean policy, or the target of a squared error, (M, A).
        counted: what counts in a squared error, bool (M, A); None is all.
        targeted: whether it is turned round.
    """

    kind: Kind
    label: Tensor | None = None
    unnamed: bool = False
    reference: Tensor | None = None
    counted: Tensor | None = None
    targeted: bool = False
