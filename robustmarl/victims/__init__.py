"""What attacks see of a policy: logits or means, and the gradient with respect to its input."""

from robustmarl.victims.protocol import (
    Baselines,
    HasVictim,
    LossRows,
    OutputLoss,
    Rated,
    Rows,
    Victim,
    VictimLike,
    VictimView,
)
from robustmarl.victims.views import (
    FunctionVictim,
    MembersVictim,
    NetworkVictim,
    PolicyVictim,
    as_victim,
)

__all__ = [
    "Baselines",
    "FunctionVictim",
    "HasVictim",
    "LossRows",
    "MembersVictim",
    "NetworkVictim",
    "OutputLoss",
    "PolicyVictim",
    "Rated",
    "Rows",
    "Victim",
    "VictimLike",
    "VictimView",
    "as_victim",
]
