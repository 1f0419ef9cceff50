"""What attacks see of a policy: logits or means, and the gradient with respect to its input."""

from robustmarl.victims.protocol import OutputLoss, Victim, VictimRows, VictimView
from robustmarl.victims.views import FunctionVictim, NetworkVictim, PolicyVictim, as_victim

__all__ = [
    "FunctionVictim",
    "NetworkVictim",
    "OutputLoss",
    "PolicyVictim",
    "Victim",
    "VictimRows",
    "VictimView",
    "as_victim",
]
