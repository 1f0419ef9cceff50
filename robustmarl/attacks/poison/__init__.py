r"""TRAM [Wu2022]_: where to shift an agent's action distribution, and how far.

Everything here is about R attacked steps of one agent with m actions. A direction is a vector in
logit space; the perturbed policy is :math:`\pi' = \mathrm{softmax}(l + \beta\hat\delta)`.
"""

from robustmarl.attacks.poison.budget import Poisoned, kl_scale, log_likelihood, poison
from robustmarl.attacks.poison.directions import (
    JAttack,
    PoisonAttack,
    RandomAttack,
    VarianceAttack,
    shift_direction,
)
from robustmarl.attacks.poison.view import AdvantageFn, Outcomes, PoisonView

__all__ = [
    "AdvantageFn",
    "JAttack",
    "Outcomes",
    "PoisonAttack",
    "PoisonView",
    "Poisoned",
    "RandomAttack",
    "VarianceAttack",
    "kl_scale",
    "log_likelihood",
    "poison",
    "shift_direction",
]
