"""Nearest to a wanted action: Frank-Wolfe steps with a line search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustmarl._checks import check
from robustmarl.attacks.gradient import GradientAttack, Walk
from robustmarl.attacks.losses import SquaredError
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["FrankWolfe"]

_RULE = "None or 'mse', with a target: the distance from a wanted action is lowered"


@dataclass(frozen=True, kw_only=True)
class FrankWolfe(GradientAttack):
    r"""Moves a continuous victim as near as it can to a target, and no farther [Frank1956]_.

    Each step goes towards the corner of the box that the gradient of :math:`\|\mu(x) - a\|^2`
    points at, by the share that brings the victim nearest if it is linear on the way:

    .. math:: x_{u+1} = x_u + t\,(v - x_u), \qquad v = \arg\min_{v \in B_\epsilon(o)}
              \langle v, \nabla_x \|\mu(x_u) - a\|^2 \rangle, \qquad
              t = \mathrm{clip}\Bigl(\frac{\langle a - \mu(x_u), \mu(v) - \mu(x_u) \rangle}
              {\|\mu(v) - \mu(x_u)\|^2}, 0, 1\Bigr)

    where :math:`B_\epsilon` is ball and valid range. A step that would not come nearer is not
    taken. Against a linear victim one step is exact for one action coordinate, and several
    converge to the nearest action in the ball; a sign step of full length,
    ``PGD(steps=1, loss="mse")``, shoots past targets that are nearer than it reaches.
    :class:`GradientAttack` has the arguments and the errors; there is no ``step_size``, and
    ``loss`` is ``"mse"``.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: 2 * obs, continuous=True).at()
        >>> attack = FrankWolfe(ball=LinfBall(epsilon=0.5), steps=1, target=(0.25,))
        >>> attack(view, torch.zeros(1, 1))
        tensor([[0.1250]])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check(self.loss in (None, "mse"), f"{name}.loss", _RULE, self.loss)
        rule = "None: a line search finds the length"
        check(self.step_size is None, f"{name}.step_size", rule, self.step_size)

    def output_loss(self, view: VictimView, obs: Tensor) -> OutputLoss:
        """Return the distance from the target, turned round."""
        loss = super().output_loss(view, obs)
        near = isinstance(loss, SquaredError) and loss.targeted
        check(near, f"{type(self).__name__}.loss", _RULE, self.loss)
        return loss

    def step(self, walk: Walk) -> None:
        """Go towards the best corner as far as it pays."""
        loss, found = walk.loss, walk.found
        assert isinstance(loss, SquaredError)  # of output_loss
        up = walk.gradient > 0
        corner = torch.where(up, walk.high, torch.where(walk.gradient < 0, walk.low, found))
        before, at_corner = walk.view.output(found), walk.view.output(corner)
        wanted = -loss.difference(before)
        change = loss.difference(at_corner) + wanted
        size = change.square().sum(dim=-1, keepdim=True)
        share = (wanted * change).sum(dim=-1, keepdim=True) / size.clamp_min(_TINY)
        moved = (found + share.clamp(0.0, 1.0) * (corner - found)).clamp(walk.low, walk.high)
        nearer = loss(walk.view.output(moved)) > loss(before)
        found.copy_(torch.where(nearer.unsqueeze(-1), moved, found))


_TINY = 1e-30  # of a victim that the corner does not change: it stays
