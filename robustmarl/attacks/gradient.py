"""Gradient attacks on observations inside an l-infinity ball: the base, FGSM and PGD."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypedDict, TypeGuard, Unpack, cast, get_args

import numpy as np
import torch
from torch import Tensor

from robustmarl._checks import (
    check,
    check_each,
    check_flag,
    check_int,
    check_kind,
    check_number,
    keep,
)
from robustmarl._seeding import Draws
from robustmarl.attacks.losses import (
    CrossEntropy,
    LabelLoss,
    Margin,
    NegativeValue,
    SquaredError,
)
from robustmarl.budgets import Coordinates, LinfBall, check_coordinates
from robustmarl.joint import MASKED
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["PGD", "Critic", "GradientAttack", "Loss", "LossFactory", "Target", "Walk"]

Critic = Callable[[VictimView, Tensor, Tensor], Tensor]
"""Maps (view, clean observations (M, D), actions (M, A)) to values (M,)."""

LossFactory = Callable[[VictimView, Tensor], OutputLoss]
"""Makes the loss of one call from (view, clean observations (M, D))."""

LossName = Literal["cross_entropy", "margin", "mse"]

Loss = LossName | OutputLoss | LossFactory | Critic
"""What an attack can be told to raise; callables of three arguments are critics."""

Target = int | tuple[float, ...] | Callable[[VictimView, Tensor], Tensor]
"""An action index, an action vector, or a rule from (view, clean observations) to rows of them."""

_MSE_REMEDY = (
    "Its gradient is zero at the clean observation, so the attack would do nothing: set "
    "random_start=True, give a target, or pass a critic as the loss."
)

_NO_TARGET = "False where there is no target action"


@dataclass(kw_only=True)
class Walk:
    """One run of a gradient attack from one start: what its hooks read, and what they keep.

    Attributes:
        view: the victim, bound to M rows.
        clean: the true observations, (M, D); not to be written to.
        loss: what is raised.
        low: lowest legal observations, (M, D).
        high: highest legal observations, (M, D).
        length: the settings' step size, one number or (D,).
        found: where the run is, (M, D); the default step moves it in place.
        gradient: d loss / d obs at ``found``, (M, D), up to a positive factor per row.
        iteration: steps done.
        memory: what hooks keep from one step to the next, by a name of their choice.
    """

    view: VictimView
    clean: Tensor
    loss: OutputLoss
    low: Tensor
    high: Tensor
    length: float | Tensor
    found: Tensor
    gradient: Tensor
    iteration: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GradientAttack:
    r"""Projected ascent along a direction made of gradients: subclass it and override hooks.

    .. math:: \hat o_{u+1} = \Pi_{B_\epsilon(o)}(\hat o_u + \beta_u d_u)

    ======================  ====================================  ==========================
    hook                    says                                  by default
    ======================  ====================================  ==========================
    :meth:`output_loss`     what is raised                        ``loss`` and ``target``
    :meth:`start`           :math:`\hat o_0`                      clean, or a draw
    :meth:`direction`       :math:`d_u`                           the gradient's sign
    :meth:`step_length`     :math:`\beta_u`                       ``step_size``
    :meth:`step`            the whole step                        as above
    ======================  ====================================  ==========================

    The attack is a value: hooks keep nothing in it, but in the :class:`Walk` that they are given.
    Rows must not influence each other, and a gradient is known up to a positive factor per row
    only, so a direction has to normalise each row by itself.

    Args:
        ball: what may change; ``epsilon`` in observation units.
        steps: number of gradient steps, >= 1.
        step_size: :math:`\beta`, observation units, > 0, one number or one per coordinate; None
            is ``reach`` * epsilon / steps (epsilon if there is one step) per coordinate. Kept
            by ``with_epsilon`` when given.
        random_start: draw :math:`\hat o_0` uniformly from the ball.
        restarts: number of runs, >= 1; the highest loss is kept per row. Starts after the first
            are random.
        loss: ``"cross_entropy"`` (None) or ``"margin"`` for discrete victims, or ``"mse"`` from
            target logits; for continuous ones ``"mse"`` (None), the squared distance from the
            clean action, or a critic whose value is lowered. For both an
            :class:`~robustmarl.victims.OutputLoss` of your own (copied for each call), or a
            function of (view, clean observations) that makes one.
        target: pull the victim towards this action instead of away from its own; rows where it
            is unavailable stay unchanged. With ``"mse"`` a vector of logits, unavailable ones
            ignored, or a rule that returns rows of them.
        clean_if_own: show the clean observation where the target is the action that the victim
            takes anyway, as ATSA's generator does [Zhou2025]_; otherwise the attack makes it
            surer of that action.

    Attributes:
        reach: how many radii the default steps cover together.

    Raises:
        ValueError: for numbers out of range, a target beside a critic or a loss of your own,
            ``clean_if_own`` without a target action, or ``"mse"`` without random start and
            target; when called, for a loss or a target that does not fit the victim, a
            per-coordinate size that does not fit the observation, or a gradient that is not
            finite.
        TypeError: for values of the wrong kind.
    """

    # 2.5 epsilon / steps: long enough to reach the ball's border from anywhere in it, and to walk
    # along it afterwards (Madry et al., 2018).
    reach: ClassVar[float] = 2.5

    ball: LinfBall
    steps: int = 10
    step_size: Coordinates | None = None
    random_start: bool = False
    restarts: int = 1
    loss: Loss | None = None
    target: Target | None = None
    clean_if_own: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_kind(f"{name}.ball", self.ball, LinfBall, "a LinfBall")
        keep(
            self,
            steps=check_int(f"{name}.steps", self.steps),
            restarts=check_int(f"{name}.restarts", self.restarts),
            random_start=check_flag(f"{name}.random_start", self.random_start),
            clean_if_own=check_flag(f"{name}.clean_if_own", self.clean_if_own),
            target=self._checked_target(name),
        )
        if self.step_size is not None:
            size = check_coordinates(f"{name}.step_size", self.step_size, 0.0, open_low=True)
            keep(self, step_size=size)
        self._check_loss(name)
        aims = self.target is not None or callable(self.loss)
        fits = not self.clean_if_own or (aims and self.loss != "mse")
        check(fits, f"{name}.clean_if_own", _NO_TARGET, self.clean_if_own)

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same attack at another radius."""
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return adversarial observations (M, D); see :class:`~.base.ObsAttack`."""
        obs = obs.detach()
        if self.ball.is_zero or obs.numel() == 0:
            return obs
        loss = self.output_loss(view, obs)
        if draws is None and (self.random_start or self.restarts > 1):
            draws = Draws.fresh(len(obs), obs.device)
        found = self._walk(view, obs, loss, draws if self.random_start else None)
        if self.restarts > 1:
            highest = loss(view.output(found))
            for _ in range(self.restarts - 1):
                again = self._walk(view, obs, loss, draws)
                value = loss(view.output(again))
                better = value > highest
                found = torch.where(better.unsqueeze(-1), again, found)
                highest = torch.where(better, value, highest)
        if self.clean_if_own:
            found = torch.where(self._aims_at_own(view, obs, loss), obs, found)
        return found

    def output_loss(self, view: VictimView, obs: Tensor) -> OutputLoss:
        """Return what is raised on M rows, given their clean observations (M, D): a hook."""
        if self.loss is not None and not isinstance(self.loss, str):
            return self._given_loss(self.loss, view, obs)
        return (
            self._loss_of_means(view, obs) if view.continuous else self._loss_of_logits(view, obs)
        )

    def start(self, view: VictimView, obs: Tensor, draws: Draws | None) -> Tensor:
        """Return where a run begins, (M, D): a hook.

        Args:
            view: the victim, bound to the same M rows.
            obs: clean observations, (M, D).
            draws: the rows' random numbers; None is the start without chance.
        """
        return obs if draws is None else self.ball.sample(obs, draws)

    def direction(self, walk: Walk) -> Tensor:
        """Return which way to go, (M, D), in units of the step length: a hook."""
        return walk.gradient.sign()

    def step_length(self, walk: Walk) -> float | Tensor:
        """Return how far to go, one number, (D,) or (M, 1): a hook."""
        return walk.length

    def step(self, walk: Walk) -> None:
        """Move ``walk.found`` one step and keep it legal: a hook."""
        direction, length = self.direction(walk), self.step_length(walk)
        if isinstance(length, Tensor):
            walk.found.addcmul_(direction, length)
        else:
            walk.found.add_(direction, alpha=length)
        walk.found.clamp_(walk.low, walk.high)

    def _walk(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        low, high = self.ball.box(obs)
        found = self.start(view, obs, draws).clone()  # steps write in place, never into the input
        walk = Walk(
            view=view,
            clean=obs,
            loss=loss,
            low=low,
            high=high,
            length=self._base_length(obs),
            found=found,
            gradient=found,
        )
        for walk.iteration in range(self.steps):
            walk.gradient = view.input_gradient(walk.found, loss)
            self.step(walk)
        _check_finite(type(self).__name__, walk.gradient)
        return walk.found

    def _base_length(self, obs: Tensor) -> float | Tensor:
        if self.step_size is not None:
            size = self.step_size
            return obs.new_tensor(size) if isinstance(size, tuple) else float(size)
        scale = 1.0 if self.steps == 1 else self.reach / self.steps
        if isinstance(self.ball.epsilon, tuple):
            return self.ball.radius(obs) * scale
        return self.ball.epsilon * scale

    @property
    def _starts_clean(self) -> bool:
        """Whether a run begins at the clean observation: its first output is the clean one."""
        return not self.random_start and type(self).start is GradientAttack.start

    def _check_loss(self, name: str) -> None:
        loss, names = self.loss, get_args(LossName)
        named = loss is None or isinstance(loss, str)
        known = loss is None or loss in names if named else _is_loss(loss) or callable(loss)
        rule = f"None, one of {names}, an OutputLoss, a function that makes one, or a critic"
        check(known, f"{name}.loss", rule, loss)
        alone = self.target is None or named
        rule = "None where the loss is a critic or your own"
        check(alone, f"{name}.target", rule, self.target)
        if not named and not _is_loss(loss):
            fits = _takes(loss, 3) or _takes(loss, 2)
            rule = (
                "an OutputLoss, or a function of (view, obs) that makes one, "
                "or a critic of (view, obs, actions)"
            )
            check(fits, f"{name}.loss", rule, loss)
        void = loss == "mse" and not self.random_start and self.target is None
        check(not void, f"{name}.loss", "able to move the observation", loss, _MSE_REMEDY)

    def _checked_target(self, name: str) -> Target | None:
        target, where = self.target, f"{name}.target"
        if target is None or callable(target):
            return target
        if isinstance(target, int | np.integer):
            return check_int(where, target, 0)
        rule = "an action's index, a tuple of floats, or a function of (view, obs)"
        return check_each(where, target, check_number, rule)

    def _given_loss(
        self, loss: OutputLoss | LossFactory | Critic, view: VictimView, obs: Tensor
    ) -> OutputLoss:
        if _is_loss(loss):
            own = copy.copy(loss)  # one that remembers its first output begins anew in each call
            if isinstance(own, LabelLoss) and own.label is None and not self._starts_clean:
                own.label = view.logits(obs).argmax(dim=-1)
            return own
        if _takes(loss, 3):
            name = f"{type(self).__name__}.loss"
            check(view.continuous, name, "no critic for a discrete victim", loss)
            return NegativeValue(cast(Critic, loss), view, obs)
        made = cast(LossFactory, loss)(view, obs)
        if not _is_loss(made):
            kind = type(made).__name__
            raise TypeError(f"{type(self).__name__}.loss must make an OutputLoss, got {kind}.")
        return made

    def _loss_of_means(self, view: VictimView, obs: Tensor) -> OutputLoss:
        name = f"{type(self).__name__}.loss"
        rule = "'mse', a critic or your own for a continuous victim"
        check(self.loss in (None, "mse"), name, rule, self.loss)
        if self.target is not None:
            rule = "a vector, or a rule that returns rows of them, for a continuous victim"
            fits = not isinstance(self.target, int)
            check(fits, f"{type(self).__name__}.target", rule, self.target)
            target = self._target_rows(self.target, view, obs)
            return SquaredError(target, targeted=True, mask=view.mask)
        check(self.random_start, name, "able to move the observation", "mse", _MSE_REMEDY)
        return SquaredError(view.mean(obs), mask=view.mask)

    def _loss_of_logits(self, view: VictimView, obs: Tensor) -> OutputLoss:
        name = type(self).__name__
        if self.loss == "mse" and self.target is not None:
            rule = "a vector of logits, or a rule that returns rows of them, for loss='mse'"
            check(not isinstance(self.target, int), f"{name}.target", rule, self.target)
            target = self._target_logits(self.target, view, obs)
            return SquaredError(target, targeted=True, mask=view.mask)
        rule = "'cross_entropy', 'margin' or your own for a discrete victim"
        check(self.loss != "mse", f"{name}.loss", rule, self.loss)
        kind = Margin if self.loss == "margin" else CrossEntropy
        if self.target is not None:
            label = self._target_rows(self.target, view, obs)
            fits = isinstance(label, Tensor) and label.shape == (len(obs),)
            check(fits, f"{name}.target", "an action's index for each row", self.target)
            return kind(label, targeted=True)
        if not self._starts_clean:
            return kind(view.logits(obs).argmax(dim=-1))
        # The first gradient is taken at the clean observation: its output names the action, and a
        # forward pass is saved.
        return kind()

    def _target_rows(self, target: Target, view: VictimView, obs: Tensor) -> Tensor:
        """Return one target per row: actions' indices (M,), or vectors (M, A)."""
        if callable(target):
            return target(view, obs)
        if isinstance(target, tuple):
            return obs.new_tensor(target).expand(len(obs), -1)
        if view.mask is not None:
            size = view.mask.shape[-1]
            rule = f"an action, an int below {size}"
            check(target < size, f"{type(self).__name__}.target", rule, target)
        return torch.full((len(obs),), int(target), device=obs.device)

    def _target_logits(self, target: Target, view: VictimView, obs: Tensor) -> Tensor:
        """Return target logits (M, A), ``MASKED`` where the victim's are."""
        rows = self._target_rows(target, view, obs)
        if view.mask is None:
            return rows
        size = view.mask.shape[-1]
        rule = f"{size} logits, one per action"
        check(rows.shape[-1] == size, f"{type(self).__name__}.target", rule, rows.shape[-1])
        return rows.masked_fill(~view.mask, MASKED)

    def _aims_at_own(self, view: VictimView, obs: Tensor, loss: OutputLoss) -> Tensor:
        """Return where the target is the victim's own greedy action, bool (M, 1)."""
        label = loss.label if isinstance(loss, LabelLoss) and loss.targeted else None
        if label is None:
            check(False, f"{type(self).__name__}.clean_if_own", _NO_TARGET, self.clean_if_own)
        return torch.eq(view.logits(obs).argmax(dim=-1), cast(Tensor, label)).unsqueeze(-1)


class _Settings(TypedDict, total=False):
    """Arguments of :class:`PGD` that :meth:`PGD.fgsm` hands on."""

    step_size: Coordinates | None
    random_start: bool
    restarts: int
    loss: Loss | None
    target: Target | None
    clean_if_own: bool


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    r"""Projected gradient ascent on a loss of the victim's output.

    From :math:`\hat o_0 = o` and with y the greedy available action on the clean :math:`o`,

    .. math:: \hat o_{u+1} = \Pi_{B_\epsilon(o)}\bigl(\hat o_u
              + \beta\,\mathrm{sgn} \nabla_{\hat o} L(\hat o_u, y)\bigr)

    RoMFAC, Eq. (11) [Zhou2022]_; the paper writes ``clip``, here the projection is on ball and
    valid range, as in [Madry2018]_. A coordinate with zero gradient stays where it is.
    :class:`GradientAttack` has the arguments and the errors.

    Example:
        >>> from robustmarl.victims import FunctionVictim
        >>> view = FunctionVictim(lambda obs: obs).at()
        >>> PGD(ball=LinfBall(epsilon=0.25))(view, torch.tensor([[1.0, 0.0]]))
        tensor([[0.7500, 0.2500]])
    """

    @classmethod
    def fgsm(cls, ball: LinfBall, **settings: Unpack[_Settings]) -> Self:
        """Return the fast gradient sign method: one step of full length [Goodfellow2015]_.

        Args:
            ball: what may change.
            settings: further arguments of the class, except ``steps``.
        """
        return cls(ball=ball, steps=1, **settings)


def _is_loss(loss: object) -> TypeGuard[OutputLoss]:
    """Return whether ``loss`` is an output loss itself: nothing else has a ``gradient``."""
    return callable(getattr(loss, "gradient", None)) and not isinstance(loss, type)


def _takes(function: object, count: int) -> bool:
    """Return whether ``function`` can be called with ``count`` arguments."""
    try:
        inspect.signature(cast(Callable[..., object], function)).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # compiled, and tells nothing: take it at its word
        return True
    return True


def _check_finite(name: str, gradient: Tensor) -> None:
    if math.isfinite(float(gradient.sum())):  # one number to look at; it may overflow, however
        return
    if not torch.isfinite(gradient).all():  # sign() would make nan zero
        raise ValueError(
            f"{name}: the victim's gradient must be finite, got inf or nan. "
            "Check the victim's weights and the observations."
        )
