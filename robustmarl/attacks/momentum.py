"""MI-FGSM: gradient ascent with momentum."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustmarl._checks import check_number, keep
from robustmarl.attacks.gradient import GradientAttack, Walk

__all__ = ["MIFGSM"]


@dataclass(frozen=True, kw_only=True)
class MIFGSM(GradientAttack):
    r"""The momentum iterative fast gradient sign method [Dong2018]_.

    .. math:: g_{u+1} = \mu g_u + \frac{\nabla L(\hat o_u)}{\|\nabla L(\hat o_u)\|_1}, \qquad
              \hat o_{u+1} = \Pi_{B_\epsilon(o)}(\hat o_u + \beta\,\mathrm{sgn}\,g_{u+1})

    with :math:`\beta = \epsilon / U` in each of U steps unless ``step_size`` says otherwise.

    Args:
        decay: :math:`\mu` >= 0, 1 in the paper; 0 is PGD. Others: ``GradientAttack``.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs).at()  # logits are the observation
        >>> MIFGSM(ball=LinfBall(epsilon=0.25))(view, torch.tensor([[1.0, 0.0]]))
        tensor([[0.7500, 0.2500]])
    """

    reach: ClassVar[float] = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        keep(self, decay=check_number("MIFGSM.decay", self.decay, 0.0))

    def direction(self, walk: Walk) -> Tensor:
        """Return the sign of the accumulated gradients, (M, D), each of norm 1 per row."""
        norm = walk.gradient.abs().sum(dim=-1, keepdim=True)
        unit = walk.gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # zero rows stay zero
        walk.memory["momentum"] = self.decay * walk.memory.get("momentum", 0.0) + unit
        return walk.memory["momentum"].sign()
