"""What a gradient attack raises: losses on the victim's logits or mean actions.

Gradients are written out, up to a positive factor per row, so that they never underflow: sign
steps need the direction only. ``targeted=True`` turns a loss round, so that raising it pulls
the victim towards the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmarl._checks import check, check_flag, check_function, check_tensor
from robustmarl.joint import MASKED
from robustmarl.victims import VictimView

__all__ = [
    "CrossEntropy",
    "FunctionLoss",
    "LabelLoss",
    "Margin",
    "NegativeValue",
    "ScaledMargin",
    "SquaredError",
]


_NARROW = 1e-12  # what AutoAttack adds to DLR's denominator, which may be 0


class LabelLoss(ABC):
    """A loss that sets one action per row, its label, against all other available ones.

    Args:
        label: int64 (M,); None takes the greedy actions of the first output given.
        targeted: raise the label's logit against the others' instead of lowering it; rows whose
            label is unavailable get zero gradient.

    Raises:
        ValueError: when called, for a label of another shape or that is no action's index.
    """

    def __init__(self, label: Tensor | None = None, *, targeted: bool = False) -> None:
        if label is not None:
            check_tensor(f"{type(self).__name__}.label", label)
        self.label = label
        self.targeted = check_flag(f"{type(self).__name__}.targeted", targeted)
        self._codes: tuple[Tensor, Tensor, Tensor] | None = None

    @abstractmethod
    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""

    @abstractmethod
    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A); zero where no other is available."""

    def _code(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the label as an index (M, 1), and as one-hot bool and float (M, A).

        Made once: an attack asks for the same ones in each of its steps.
        """
        if self._codes is None:
            given = self.label
            label = self.label = output.argmax(dim=-1) if given is None else given
            where, size = f"{type(self).__name__}.label", output.shape[-1]
            fits = label.shape == output.shape[:-1]  # which broadcasting would hide
            check(fits, where, f"of shape {tuple(output.shape[:-1])}", tuple(label.shape))
            index = label.unsqueeze(-1)
            one_hot = index == torch.arange(size, device=output.device)
            # An accelerator would have to be waited for.
            known = given is None or not output.is_cpu or bool(one_hot.any(dim=-1).all())
            check(known, where, f"indices of {size} actions", label)
            self._codes = index, one_hot, one_hot.to(output.dtype)
        return self._codes

    def _label_logit(self, output: Tensor) -> Tensor:
        return output.gather(-1, self._code(output)[0]).squeeze(-1)

    def _other_logits(self, output: Tensor) -> Tensor:
        """Return logits (M, A), the label's put between unavailable and available ones.

        So the label itself wins exactly where no other action is available, and what is added
        for the best other action cancels what is subtracted for the label.
        """
        return output.masked_fill(self._code(output)[1], MASKED / 2)

    def _lead(self, output: Tensor) -> Tensor:
        """Return how far the best other action is ahead of the label, (M,); 0 if there is none.

        Nothing is to be gained there, so that no search may take one point for a better one.
        """
        best = self._other_logits(output).amax(dim=-1)
        return (best - self._label_logit(output)).masked_fill(best <= MASKED / 2, 0.0)

    def _turned(self, gradient: Tensor, output: Tensor) -> Tensor:
        """Return the gradient (M, A), turned round in place where the label is a target."""
        if not self.targeted:
            return gradient
        available = self._label_logit(output) > MASKED / 2
        return gradient.neg_().mul_(available.unsqueeze(-1))

    def _signed(self, loss: Tensor) -> Tensor:
        return -loss if self.targeted else loss


class CrossEntropy(LabelLoss):
    r"""Cross entropy :math:`-\log\pi(y \mid o)`: RoMFAC, Eq. (11).

    Written as :math:`\log(1 + e^{m})` with :math:`m = \log\sum_{j \ne y} e^{z_j} - z_y`, which
    keeps its relative precision where softmax saturates. The gradient is divided by
    :math:`1 - \pi(y)`: softmax over the other actions, and -1 at :math:`y`.

    Args:
        label: :math:`y`, int64 (M,); None takes the greedy actions of the first output given.
        targeted: lower the cross entropy instead; rows whose label is unavailable get zero.

    Example:
        >>> loss = CrossEntropy(torch.tensor([0]))
        >>> loss(torch.zeros(1, 2))  # -log(1/2)
        tensor([0.6931])
        >>> loss.gradient(torch.zeros(1, 2))
        tensor([[-1.,  1.]])
    """

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        others = self._other_logits(output).logsumexp(dim=-1)
        return self._signed(F.softplus(others - self._label_logit(output)))

    def gradient(self, output: Tensor) -> Tensor:
        """Return the direction of d loss / d logits, (M, A); zero where no other is available."""
        gradient = self._other_logits(output).softmax(dim=-1)
        return self._turned(gradient.sub_(self._code(output)[2]), output)


class Margin(LabelLoss):
    r"""How far the best other action is above action y: :math:`\max_{j \ne y} z_j - z_y`.

    It is 0 where no other action is available.

    Args:
        label: :math:`y`, int64 (M,); None takes the greedy actions of the first output given.
        targeted: raise :math:`z_y - \max_{j \ne y} z_j`; rows whose label is unavailable get
            zero gradient.

    Example:
        >>> Margin(torch.tensor([0]))(torch.tensor([[3.0, 1.0, 2.0]]))
        tensor([-1.])
    """

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        return self._signed(self._lead(output))

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d logits, (M, A); zero where no other action is available."""
        best = self._other_logits(output).argmax(dim=-1, keepdim=True)
        gradient = torch.zeros_like(output).scatter_(-1, best, 1.0)
        return self._turned(gradient.sub_(self._code(output)[2]), output)


class ScaledMargin(LabelLoss):
    r"""The margin free of scale: the difference of logits ratio, DLR [Croce2020]_.

    .. math:: \frac{\max_{j \ne y} z_j - z_y}{z_{(1)} - z_{(3)}}

    with :math:`z_{(k)}` the k-th largest logit of an available action. Multiplying all logits by
    a positive number changes nothing, so that runs and rows compare whatever the victim's scale.
    Of a target the denominator is :math:`z_{(1)} - (z_{(3)} + z_{(4)})/2`, and the numerator has
    the best other action where the paper has the true class. With three available actions the
    target's denominator is that above, with fewer it is 1: nothing is left that has a scale.

    Args:
        label: :math:`y`, int64 (M,); None takes the greedy actions of the first output given.
        targeted: raise it turned round; rows whose label is unavailable get zero gradient.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
        >>> loss = ScaledMargin(torch.tensor([0]))
        >>> loss(logits), loss(100 * logits)
        (tensor([-0.5000]), tensor([-0.5000]))
    """

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of logits (M, A)."""
        return self._signed(self._ratio(output)[0])

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d logits times the denominator, (M, A)."""
        best = self._other_logits(output).argmax(dim=-1, keepdim=True)
        ratio, slope = self._ratio(output)
        gradient = torch.zeros_like(output).scatter_(-1, best, 1.0).sub_(self._code(output)[2])
        return self._turned(gradient.sub_(ratio.unsqueeze(-1) * slope), output)

    def _ratio(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of no target, (M,), and d denominator / d logits, (M, A)."""
        fourth = [1.0, 0.0, -0.5, -0.5] if self.targeted else [1.0, 0.0, -1.0, 0.0]
        # Weights of the four largest logits, by how many actions are available.
        by_count = output.new_tensor([[0.0] * 4] * 3 + [[1.0, 0.0, -1.0, 0.0], fourth])
        count = (output > MASKED / 2).sum(dim=-1)
        largest, index = output.topk(min(4, output.shape[-1]), dim=-1)
        weight = by_count[count.clamp(max=4), : largest.shape[-1]]
        width = (largest * weight).sum(dim=-1).clamp_min(_NARROW)
        width = torch.where(count < 3, 1.0, width)
        slope = torch.zeros_like(output).scatter_(-1, index, weight)
        return self._lead(output) / width, slope


class SquaredError:
    r"""Mean squared distance of the output from ``target``: :math:`\|\mu - a\|^2 / A`.

    Args:
        target: :math:`a`, (M, A), mean actions, or logits that are ``MASKED`` where the output is.
        targeted: lower the distance instead.
        mask: the actions, or action coordinates, that count, bool (M, A); None is all.

    Example:
        >>> SquaredError(torch.zeros(1, 2))(torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """

    def __init__(
        self, target: Tensor, *, targeted: bool = False, mask: Tensor | None = None
    ) -> None:
        name = type(self).__name__
        check_tensor(f"{name}.target", target)
        if mask is not None:
            check_tensor(f"{name}.mask", mask)
        self.target, self.mask = target, mask
        self.targeted = check_flag(f"{name}.targeted", targeted)

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of outputs (M, A)."""
        distance = self.difference(output).square().sum(dim=-1) / self._count(output).squeeze(-1)
        return -distance if self.targeted else distance

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d output, (M, A)."""
        scale = (-2.0 if self.targeted else 2.0) / self._count(output)
        return self.difference(output) * scale

    def difference(self, output: Tensor) -> Tensor:
        """Return how far outputs (M, A) are from the target, (M, A), 0 where it does not count."""
        same, shape = self.target.shape == output.shape, tuple(output.shape)
        rule = f"of the output's shape, {shape}"  # which broadcasting would hide
        check(same, f"{type(self).__name__}.target", rule, tuple(self.target.shape))
        difference = output - self.target
        return difference if self.mask is None else difference.masked_fill(~self.mask, 0.0)

    def _count(self, output: Tensor) -> Tensor:
        """Return how many coordinates count, (1,) or (M, 1)."""
        if self.mask is None:
            return output.new_tensor([output.shape[-1]])
        return self.mask.sum(dim=-1, keepdim=True).clamp(min=1).to(output.dtype)


class FunctionLoss:
    """A loss from any differentiable function of the output; autograd finds its gradient.

    Args:
        function: maps logits or means (M, A) to one loss per row, (M,), of that row only. Logits
            of unavailable actions are ``MASKED``, about -1e9: their gradient is not used, but has
            to be finite.

    Raises:
        ValueError: when called, unless there is one loss per row.

    Example:
        >>> FunctionLoss(lambda logits: logits.logsumexp(-1)).gradient(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        where = f"{type(self).__name__}.function"
        check_function(where, function, "a function of outputs (M, A)")
        self.function = function

    def __call__(self, output: Tensor) -> Tensor:
        """Return one loss per row, (M,), of outputs (M, A)."""
        loss, rows = self.function(output), len(output)
        rule = f"one loss per row, of shape ({rows},)"
        check(loss.shape == (rows,), f"{type(self).__name__}.function", rule, tuple(loss.shape))
        return loss

    def gradient(self, output: Tensor) -> Tensor:
        """Return d loss / d output, (M, A); touches no ``.grad``."""
        variable = output.detach().requires_grad_()
        with torch.enable_grad():  # callers may act under no_grad
            total = self(variable).sum()  # rows are independent: each gets its own gradient
        return torch.autograd.grad(total, variable)[0]


class NegativeValue(FunctionLoss):
    r"""Minus a critic's value of the mean action, :math:`-Q(o, \mu)`, on the clean ``obs``.

    Args:
        critic: maps (view, clean observations (M, D), actions (M, A)) to values (M,).
        view: the victim's view.
        obs: clean observations, (M, D).

    Example:
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs, continuous=True).at()
        >>> def critic(view, obs, act):
        ...     return -(act - 1).pow(2).sum(-1)
        >>> loss = NegativeValue(critic, view, torch.zeros(1, 2))
        >>> loss(torch.tensor([[1.0, 1.0]])), loss(torch.tensor([[1.0, 3.0]]))
        (tensor([0.]), tensor([4.]))
    """

    def __init__(
        self, critic: Callable[[VictimView, Tensor, Tensor], Tensor], view: VictimView, obs: Tensor
    ) -> None:
        rule = "a function of (view, observations, actions)"
        check_function("NegativeValue.critic", critic, rule)
        check_tensor("NegativeValue.obs", obs)
        self.critic, self.view, self.obs = critic, view, obs
        super().__init__(self._negative_value)

    def _negative_value(self, means: Tensor) -> Tensor:
        return -self.critic(self.view, self.obs, means).reshape(len(means))
