"""What attacks see of a policy: logits or means, and the gradient with respect to its input."""

from robustmarl.victims.protocol import (
    HasVictim,
    LossRows,
    OutputLoss,
    Rows,
    Victim,
    VictimLike,
    VictimView,
)
from robustmarl.victims.views import FunctionVictim, NetworkVictim, PolicyVictim, as_victim

__all__ = [
    "FunctionVictim",
    "HasVictim",
    "LossRows",
    "NetworkVictim",
    "OutputLoss",
    "PolicyVictim",
    "Rows",
    "Victim",
    "VictimLike",
    "VictimView",
    "as_victim",
]
