"""Losses of whole policies: how far one moved from another, and whether draws of both differ.

As in :mod:`robustmarl.attacks.losses` gradients are written out, up to a positive factor per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustmarl._checks import check, check_tensor
from robustmarl.joint import MASKED

__all__ = ["Divergence", "ExpectedChange", "TowardPolicy"]


class Divergence:
    r"""How far the policy moved from the clean one: :math:`KL(\pi(o) \,\|\, \pi(\hat o))`.

    The cross entropy of the actions that a stochastic actor draws, in expectation, up to a
    constant. Its gradient is zero at the clean observation.

    Args:
        clean: logits on the clean observations, (M, A), ``MASKED`` where unavailable.

    Example:
        >>> clean = torch.zeros(1, 2)
        >>> Divergence(clean)(clean), Divergence(clean)(torch.tensor([[2.0, 0.0]]))
        (tensor([0.]), tensor([0.4338]))
    """

    def __init__(self, clean: Tensor) -> None:
        check_tensor("Divergence.clean", clean)
        self._log_clean = clean.log_softmax(dim=-1)

    @property
    def policy(self) -> Tensor:
        """The clean policy's probabilities, (M, A)."""
        return self._log_clean.exp()

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        change = self._log_clean - output.log_softmax(dim=-1)
        return (self.policy * change).sum(dim=-1)

    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A)."""
        return _balanced(output.softmax(dim=-1) - self.policy, output)


class TowardPolicy:
    r"""Minus how far the policy is from a wanted one: :math:`-KL(\pi(\hat o) \,\|\, h)`.

    The generator's loss as ATSA's paper writes it [Zhou2025]_, for the whole of what a director
    would draw. Wanted probabilities count as 1e-6 at least: what is never wanted is far, and not
    infinitely.

    Args:
        wanted: logits of h, (M, A), ``MASKED`` where unavailable.

    Example:
        >>> loss = TowardPolicy(torch.tensor([[0.0, 0.0]]))
        >>> loss(torch.zeros(1, 2)), loss(torch.tensor([[2.0, 0.0]]))
        (tensor([-0.]), tensor([-0.3278]))
    """

    def __init__(self, wanted: Tensor) -> None:
        check_tensor("TowardPolicy.wanted", wanted)
        rule = "logits, floats of shape (M, A)"
        check(wanted.is_floating_point() and wanted.dim() == 2, "TowardPolicy.wanted", rule, wanted)
        self._log_wanted = wanted.softmax(dim=-1).clamp_min(_LEAST).log()

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        return -(output.softmax(dim=-1) * self._ratio(output)).sum(dim=-1)

    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A)."""
        ratio = self._ratio(output)
        distance = (output.softmax(dim=-1) * ratio).sum(dim=-1, keepdim=True)
        # Of the other actions by their shares of what is left to them, which is nothing but in
        # exact numbers where the softmax saturates.
        top = output.argmax(dim=-1, keepdim=True)
        shares = output.scatter(-1, top, 2.0 * MASKED).softmax(dim=-1)
        gradient = torch.where(output > MASKED / 2, shares * (distance - ratio), 0.0)
        return _balanced(gradient, output)

    def _ratio(self, output: Tensor) -> Tensor:
        check_tensor("TowardPolicy.output", output, self._log_wanted)
        return output.log_softmax(dim=-1) - self._log_wanted


_LEAST = 1e-6  # of a wanted probability; no paper says


class ExpectedChange:
    r"""The probability that an action drawn under attack is not the one drawn without it.

    .. math:: 1 - \sum_a \pi(a \mid o)\, \pi(a \mid \hat o)

    the expectation, over the actions that a stochastic actor samples, of what an attack on its
    most likely action counts.

    Args:
        clean: logits on the clean observations, (M, A), ``MASKED`` where unavailable.

    Attributes:
        policy: the clean policy's probabilities, (M, A).

    Example:
        >>> clean = torch.zeros(1, 4)
        >>> ExpectedChange(clean)(clean)  # of two uniform draws, three in four differ
        tensor([0.7500])
    """

    def __init__(self, clean: Tensor) -> None:
        check_tensor("ExpectedChange.clean", clean)
        self.policy = clean.softmax(dim=-1)

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        return 1.0 - (self.policy * output.softmax(dim=-1)).sum(dim=-1)

    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A)."""
        shown = output.softmax(dim=-1)
        same = (self.policy * shown).sum(dim=-1, keepdim=True)
        return _balanced(shown * (same - self.policy), output)


def _balanced(gradient: Tensor, output: Tensor) -> Tensor:
    """Return ``gradient`` (M, A), whose rows sum to 0, with largest entry 1 and full precision.

    That of the most likely action is a difference of numbers near 1 where the softmax saturates;
    it is minus the sum of the others, which are small and exact.
    """
    top = output.argmax(dim=-1, keepdim=True)
    others = gradient.scatter(-1, top, 0.0)
    balanced = others.scatter(-1, top, -others.sum(dim=-1, keepdim=True))
    size = balanced.abs().amax(dim=-1, keepdim=True)
    return balanced / size.clamp_min(torch.finfo(size.dtype).tiny)
