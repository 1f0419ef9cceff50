"""APGD: gradient ascent that chooses its step sizes itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from robustmarl.attacks.gradient import GradientAttack, Walk

__all__ = ["APGD"]

MOMENTUM = 0.75
"""The weight of a step's own direction; the rest is the step before it, once more."""

IMPROVING = 0.75
"""The share of steps that have to raise the loss, or else the step is halved."""


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    r"""Auto-PGD [Croce2020]_: steps that are halved where they no longer raise the loss.

    .. math:: z_{u+1} &= \Pi_{B_\epsilon(o)}(\hat o_u + \beta_u\,\mathrm{sgn}\,
              \nabla L(\hat o_u)) \\
              \hat o_{u+1} &= \Pi_{B_\epsilon(o)}\bigl(\hat o_u + \tfrac34
              (z_{u+1} - \hat o_u) + \tfrac14 (\hat o_u - \hat o_{u-1})\bigr)

    beginning with :math:`\beta = 2\epsilon`. At checkpoints, each row by itself, the step is
    halved and the run goes on from the best point so far if less than three quarters of the steps
    since the last checkpoint raised the loss, or if neither step nor best loss changed. The best
    point of all is returned: a run never ends below its start. :class:`GradientAttack` has the
    arguments.

    Example:
        >>> from robustmarl.budgets import LinfBall
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs).at()  # logits are the observation
        >>> APGD(ball=LinfBall(epsilon=0.25), loss="margin")(view, torch.tensor([[1.0, 0.0]]))
        tensor([[0.7500, 0.2500]])
    """

    steps: int = 20
    _reads_value: ClassVar[bool] = True

    def step(self, walk: Walk) -> None:
        """Judge the point reached, choose the step size of each row, and move."""
        kept, count = walk.memory, walk.iteration
        gradient, value = walk.gradient, self._value(walk)
        if count == 0:
            one, nothing = torch.ones_like(value), torch.zeros_like(value)
            kept |= {"size": one, "raised": nothing, "value": value, "before": walk.found.clone()}
            kept |= {"best": walk.found.clone(), "highest": value, "best_gradient": gradient}
            kept |= {"highest_at_checkpoint": value, "halved": one.bool()}
        else:
            kept["raised"] = kept["raised"] + (value > kept["value"])
            kept["value"] = value
            self._remember(walk, value, gradient)
        if (since := _checkpoints(self.steps).get(count)) is not None:
            gradient = self._judge(walk, gradient, since)
        reached = walk.found.clone()
        length = kept["size"].unsqueeze(-1) * self.step_length(walk)
        ahead = (reached + length * gradient.sign()).clamp_(walk.low, walk.high)
        if count > 0:
            ahead = (
                reached + MOMENTUM * (ahead - reached) + (1 - MOMENTUM) * (reached - kept["before"])
            )
        walk.found = ahead.clamp_(walk.low, walk.high)
        kept["before"] = reached

    def end(self, walk: Walk) -> Tensor:
        """Return the best point of the run, (M, D)."""
        self._remember(walk, walk.loss(walk.view.output(walk.found)), walk.gradient)
        return walk.memory["best"]

    def _base_length(self, obs: Tensor) -> float | Tensor:
        """Return the first step: from one side of the ball to the other."""
        if self.step_size is not None or self.steps == 1:
            return super()._base_length(obs)
        return 2.0 * self.ball.radius(obs)

    def _value(self, walk: Walk) -> Tensor:
        """Return the loss at the point reached, (M,)."""
        return walk.loss(walk.view.output(walk.found)) if walk.value is None else walk.value

    def _remember(self, walk: Walk, value: Tensor, gradient: Tensor) -> None:
        kept = walk.memory
        better = value > kept["highest"]
        kept["highest"] = torch.where(better, value, kept["highest"])
        for name, now in (("best", walk.found), ("best_gradient", gradient)):
            kept[name] = torch.where(better.unsqueeze(-1), now, kept[name])

    def _judge(self, walk: Walk, gradient: Tensor, since: int) -> Tensor:
        """Halve the steps that did not help, and return the gradient where each row now is."""
        kept = walk.memory
        idle = ~kept["halved"] & (kept["highest_at_checkpoint"] >= kept["highest"])
        halve = (kept["raised"] < IMPROVING * since) | idle
        kept["size"] = torch.where(halve, kept["size"] / 2, kept["size"])
        kept |= {"halved": halve, "highest_at_checkpoint": kept["highest"]}
        kept["raised"] = torch.zeros_like(kept["raised"])
        back = halve.unsqueeze(-1)
        walk.found = torch.where(back, kept["best"], walk.found)
        return torch.where(back, kept["best_gradient"], gradient)


@lru_cache
def _checkpoints(steps: int) -> dict[int, int]:
    """Return the steps at which runs are judged, and how many steps after the one before.

    At ceil(p N) with p = 0, .22, and each distance .03 shorter than the last, but at least .06.
    """
    found, before, share, width = {}, 0, 0.22, 0.22
    while share <= 1.0 and (at := math.ceil(share * steps - 1e-9)) < steps:
        if at > before:
            found[at] = at - before
            before = at
        width = max(width - 0.03, 0.06)
        share += width
    return found
