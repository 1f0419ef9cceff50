"""Gradient attacks on observations inside an l-infinity ball: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from robustmarl._checks import check, check_int, check_number
from robustmarl._seeding import Draws
from robustmarl.attacks.losses import CrossEntropy, Margin, NegativeValue, SquaredError
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.joint import MASKED
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["PGD", "Critic", "Target"]

Critic = Callable[[VictimView, Tensor, Tensor], Tensor]
"""Maps (view, clean observations (M, D), actions (M, A)) to values (M,)."""

Target = int | tuple[float, ...] | Callable[[VictimView, Tensor], Tensor]
"""An action index, an action vector, or a rule from (view, clean observations) to rows of them."""

_MSE_REMEDY = (
    "Its gradient is zero at the clean observation, so the attack would do nothing: set "
    "random_start=True, give a target, or pass a critic as the loss."
)


@dataclass(frozen=True, kw_only=True)
class PGD:
    r"""Projected gradient ascent on a loss of the victim's output.

    From :math:`\hat o_0 = o` and with y the greedy available action on the clean :math:`o`,

    .. math:: \hat o_{u+1} = \Pi_{B_\epsilon(o)}\bigl(\hat o_u
              + \beta\,\mathrm{sgn} \nabla_{\hat o} L(\hat o_u, y)\bigr)

    RoMFAC, Eq. (11) [Zhou2022]_; the paper writes ``clip``, here the projection is on ball and
    valid range, as in [Madry2018]_. A coordinate with zero gradient stays where it is.

    Args:
        ball: what may change; ``epsilon`` in observation units.
        steps: number of gradient steps, >= 1.
        step_size: :math:`\beta`, observation units, > 0, one number or one per coordinate; None
            is 2.5 * epsilon / steps (epsilon if there is one step) per coordinate. Kept by
            ``at`` when given.
        random_start: draw :math:`\hat o_0` uniformly from the ball.
        restarts: number of runs, >= 1; the highest loss is kept per row. Starts after the first
            are random.
        loss: ``"cross_entropy"`` (None) or ``"margin"`` for discrete victims, or ``"mse"`` from
            target logits; for continuous ones ``"mse"`` (None), the squared distance from the
            clean action, or a critic whose value is lowered.
        target: pull the victim towards this action instead of away from its own; rows where it
            is unavailable stay unchanged. With ``"mse"`` a vector of logits, unavailable ones
            ignored, or a rule that returns rows of them.

    Raises:
        ValueError: for numbers out of range, a critic with a target, or ``"mse"`` without random
            start and target; when called, for a loss or a target that does not fit the victim, a
            per-coordinate size that does not fit the observation, or a gradient that is not
            finite.
        TypeError: for values of the wrong kind.

    Example:
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs).at()
        >>> PGD(ball=LinfBall(epsilon=0.25))(view, torch.tensor([[1.0, 0.0]]))
        tensor([[0.7500, 0.2500]])
    """

    ball: LinfBall
    steps: int = 10
    step_size: Coordinates | None = None
    random_start: bool = False
    restarts: int = 1
    loss: Literal["cross_entropy", "margin", "mse"] | Critic | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.ball, LinfBall):
            raise TypeError(f"{name}.ball must be a LinfBall, got {self.ball!r}.")
        check_int(f"{name}.steps", self.steps)
        check_int(f"{name}.restarts", self.restarts)
        if self.step_size is not None:
            sizes = self.step_size if isinstance(self.step_size, tuple) else (self.step_size,)
            for size in sizes:
                check_number(
                    f"{name}.step_size", size, 0.0, open_low=True, unit="observation units"
                )
        names = ("cross_entropy", "margin", "mse")
        known = self.loss is None or callable(self.loss) or self.loss in names
        check(known, f"{name}.loss", f"None, one of {names} or a critic", self.loss)
        if isinstance(self.target, int):
            check_int(f"{name}.target", self.target, 0)
        alone = self.target is None or not callable(self.loss)
        check(alone, f"{name}.target", "None where the loss is a critic", self.target)
        void = self.loss == "mse" and not self.random_start and self.target is None
        check(not void, f"{name}.loss", "able to move the observation", self.loss, _MSE_REMEDY)

    @classmethod
    def fgsm(cls, ball: LinfBall, **settings: Any) -> Self:
        """Return the fast gradient sign method: one step of full length [Goodfellow2015]_.

        Args:
            ball: what may change.
            settings: further arguments of the class, except ``steps``.
        """
        return cls(ball=ball, steps=1, **settings)

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same attack at another radius."""
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return adversarial observations (M, D); see :class:`~.base.ObsAttack`."""
        obs = obs.detach()
        if self.ball.is_zero or obs.numel() == 0:
            return obs
        loss = self._loss(view, obs)
        step = self._step(obs)
        low, high = self.ball.box(obs)
        if draws is None and (self.random_start or self.restarts > 1):
            draws = Draws.fresh(len(obs), obs.device)
        best = worst = gradient = None
        for restart in range(self.restarts):
            if draws is not None and (self.random_start or restart > 0):
                found = self.ball.sample(obs, draws)
            else:
                found = obs.clone()
            for _ in range(self.steps):
                gradient = view.input_gradient(found, loss)
                if isinstance(step, Tensor):
                    found.addcmul_(gradient.sign(), step)
                else:
                    found.add_(gradient.sign(), alpha=step)
                found.clamp_(low, high)
            _check_finite(type(self).__name__, gradient)
            if self.restarts > 1:
                value = loss(view.output(found))
                if best is not None and worst is not None:
                    better = value > worst
                    found = torch.where(better.unsqueeze(-1), found, best)
                    value = torch.where(better, value, worst)
                worst = value
            best = found
        assert best is not None  # restarts >= 1
        return best

    def _step(self, obs: Tensor) -> float | Tensor:
        size: Coordinates | None = self.step_size
        if size is None:
            scale = 1.0 if self.steps == 1 else 2.5 / self.steps
            if isinstance(self.ball.epsilon, tuple):
                return self.ball.radius(obs) * scale
            return self.ball.epsilon * scale
        return obs.new_tensor(size) if isinstance(size, tuple) else float(size)

    def _loss(self, view: VictimView, obs: Tensor) -> OutputLoss:
        name = type(self).__name__
        targeted = self.target is not None
        if view.continuous:
            fits = self.loss in (None, "mse") or callable(self.loss)
            check(fits, f"{name}.loss", "'mse' or a critic for a continuous victim", self.loss)
            if callable(self.loss):
                return NegativeValue(self.loss, view, obs)
            able = self.random_start or targeted
            check(able, f"{name}.loss", "able to move the observation", "mse", _MSE_REMEDY)
            target = self._target(view, obs) if targeted else view.mean(obs)
            return SquaredError(target, targeted=targeted, mask=view.mask)
        if self.loss == "mse" and targeted:
            vector = not isinstance(self.target, int)
            rule = "a vector of logits, or a rule that returns rows of them, for loss='mse'"
            check(vector, f"{name}.target", rule, self.target)
            return SquaredError(self._target(view, obs), targeted=True, mask=view.mask)
        fits = self.loss in (None, "cross_entropy", "margin")
        rule = "'cross_entropy' or 'margin' for a discrete victim"
        check(fits, f"{name}.loss", rule, self.loss)
        kind = Margin if self.loss == "margin" else CrossEntropy
        if targeted:
            return kind(self._target(view, obs), targeted=True)
        if self.random_start:
            return kind(view.logits(obs).argmax(dim=-1))
        return kind()  # the first gradient is taken at the clean observation

    def _target(self, view: VictimView, obs: Tensor) -> Tensor:
        if callable(self.target):
            rows = self.target(view, obs)
        elif isinstance(self.target, tuple):
            rows = obs.new_tensor(self.target).expand(len(obs), -1)
        else:
            action = int(cast(int, self.target))
            if view.mask is not None:
                size = view.mask.shape[-1]
                rule = f"an action, an int below {size}"
                check(action < size, f"{type(self).__name__}.target", rule, action)
            return torch.full((len(obs),), action, device=obs.device)
        if self.loss != "mse" or view.continuous or view.mask is None:
            return rows
        size = view.mask.shape[-1]
        rule = f"{size} logits, one per action"
        check(rows.shape[-1] == size, f"{type(self).__name__}.target", rule, rows.shape[-1])
        return rows.masked_fill(~view.mask, MASKED)


def _check_finite(name: str, gradient: Tensor | None) -> None:
    if gradient is not None and not torch.isfinite(gradient).all():  # sign() would make nan zero
        raise ValueError(
            f"{name}: the victim's gradient must be finite, got inf or nan. "
            "Check the victim's weights and the observations."
        )
