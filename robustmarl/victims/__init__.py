"""What attacks see of a policy: logits or means, and the gradient with respect to its input."""

from robustmarl.victims.protocol import LossRows, OutputLoss, Rows, Victim, VictimView
from robustmarl.victims.views import FunctionVictim, NetworkVictim, PolicyVictim, as_victim

__all__ = [
    "FunctionVictim",
    "LossRows",
    "NetworkVictim",
    "OutputLoss",
    "PolicyVictim",
    "Rows",
    "Victim",
    "VictimView",
    "as_victim",
]
