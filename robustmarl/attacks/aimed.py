"""Attacks that raise a loss of the victim's output: which loss, which target, how many tries."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypeGuard, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

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
from robustmarl.attacks.averaged import AveragedView
from robustmarl.attacks.base import draws_of
from robustmarl.attacks.losses import (
    CrossEntropy,
    LabelLoss,
    Margin,
    NegativeValue,
    ScaledMargin,
    SquaredError,
)
from robustmarl.attacks.policy_losses import Divergence, ExpectedChange, TowardPolicy
from robustmarl.budgets import Coordinates, LinfBall
from robustmarl.joint import MASKED
from robustmarl.victims import OutputLoss, VictimView

__all__ = ["AimedAttack", "Critic", "Loss", "LossFactory", "Target"]

Critic = Callable[[VictimView, Tensor, Tensor], Tensor]
"""Maps (view, clean observations (M, D), actions (M, A)) to values (M,)."""

LossFactory = Callable[[VictimView, Tensor], OutputLoss]
"""Makes the loss of one call from (view, clean observations (M, D))."""

LossName = Literal["cross_entropy", "margin", "dlr", "kl", "expected", "mse"]

Loss = LossName | OutputLoss | LossFactory | Critic
"""What an attack can be told to raise; callables of three arguments are critics."""

Target = int | tuple[float, ...] | Callable[[VictimView, Tensor], Tensor]
"""An action index, an action vector, or a rule from (view, clean observations) to rows of them."""

_OF_LABELS: dict[str, type[LabelLoss]] = {
    "cross_entropy": CrossEntropy,
    "margin": Margin,
    "dlr": ScaledMargin,
}
_OF_POLICIES: dict[str, type[Divergence] | type[ExpectedChange]] = {
    "kl": Divergence,
    "expected": ExpectedChange,
}

_MSE_REMEDY = (
    "Its gradient is zero at the clean observation, so the attack would do nothing: set "
    "random_start=True, give a target, or pass a critic as the loss."
)

_NO_TARGET = "False where there is no target action"


@dataclass(frozen=True, kw_only=True)
class AimedAttack(ABC):
    r"""What attacks have in common that raise a loss: a subclass says how, in :meth:`climb`.

    Args:
        ball: what may change; ``epsilon`` in observation units.
        restarts: number of runs, >= 1; the highest loss is kept per row. Starts after the first
            are random.
        loss: for discrete victims ``"cross_entropy"`` (None, where gradients are followed),
            ``"margin"`` (None, where values are compared: searches and SPSA), ``"dlr"``
            (:class:`ScaledMargin`), ``"kl"`` (:class:`Divergence` from the clean policy; needs a
            random start), ``"expected"`` (:class:`ExpectedChange` of a drawn action), or
            ``"mse"`` from target logits; for continuous ones ``"mse"`` (None), the squared
            distance from the clean action, or a critic whose value is lowered. For both an
            :class:`~robustmarl.victims.OutputLoss` of your own (copied for each call), or a
            function of (view, clean observations) that makes one.
        target: pull the victim towards this action instead of away from its own; rows where it
            is unavailable stay unchanged. With ``"mse"`` a vector of logits, unavailable ones
            ignored, or a rule that returns rows of them; likewise with ``"kl"``, which then pulls
            towards the policy that these are of (:class:`TowardPolicy`).
        clean_if_own: show the clean observation where the target is the action that the victim
            takes anyway, as ATSA's generator does [Zhou2025]_; otherwise the attack makes it
            surer of that action.
        samples: how often a victim that answers at random is asked for each answer, >= 1.

    Raises:
        ValueError: for numbers out of range, a target beside a loss that has none,
            ``clean_if_own`` without a target action, or ``"mse"`` or ``"kl"`` without random
            start and target; when called, for a loss or a target that does not fit the victim, or a
            per-coordinate size that does not fit the observation.
        TypeError: for values of the wrong kind.
    """

    ball: LinfBall = field(kw_only=False)
    restarts: int = 1
    loss: Loss | None = None
    target: Target | None = None
    clean_if_own: bool = False
    samples: int = 1
    _usual_loss: ClassVar[str] = "cross_entropy"
    """What None is for logits."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_kind(f"{name}.ball", self.ball, LinfBall, "a LinfBall")
        keep(
            self,
            restarts=check_int(f"{name}.restarts", self.restarts),
            samples=check_int(f"{name}.samples", self.samples),
            clean_if_own=check_flag(f"{name}.clean_if_own", self.clean_if_own),
            target=self._checked_target(name),
        )
        self._check_loss(name)
        aims = self.target is not None or callable(self.loss)
        fits = not self.clean_if_own or (aims and self.loss not in ("mse", "kl"))
        check(fits, f"{name}.clean_if_own", _NO_TARGET, self.clean_if_own)

    @property
    def by_chance(self) -> bool:
        """Whether the first run needs random numbers, too."""
        return True

    def with_epsilon(self, epsilon: Coordinates) -> Self:
        """Return the same attack at another radius."""
        return replace(self, ball=self.ball.with_epsilon(epsilon))

    @abstractmethod
    def climb(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        """Return what one run makes of M rows, (M, D), in the ball.

        Args:
            view: the victim, bound to the same M rows.
            obs: clean observations, (M, D); not to be written to.
            loss: what is raised.
            draws: the rows' random numbers; None is the run without chance.
        """

    @torch.no_grad()
    def __call__(self, view: VictimView, obs: Tensor, draws: Draws | None = None) -> Tensor:
        """Return adversarial observations (M, D); see :class:`~.base.ObsAttack`."""
        name, remedy = type(self).__name__, "Write victims.FunctionVictim(module).at()."
        rule = "a view of a victim, bound to rows"
        check(not isinstance(view, nn.Module), f"{name}.view", rule, view, remedy)
        obs = obs.detach()
        self.ball.check_size(name, obs.shape[-1])
        if self.ball.is_zero or obs.numel() == 0:
            return obs
        if self.samples > 1:
            view = AveragedView(view, self.samples)
        loss = self.output_loss(view, obs)
        if self.by_chance or self.restarts > 1:
            draws = draws_of(name, draws, obs)
        found = self.climb(view, obs, loss, draws if self.by_chance else None)
        if self.restarts > 1:
            highest = loss(view.output(found))
            for _ in range(self.restarts - 1):
                again = self.climb(view, obs, loss, draws)
                value = loss(view.output(again))
                better = value > highest
                found = torch.where(better.unsqueeze(-1), again, found)
                highest = torch.where(better, value, highest)
        if self.clean_if_own:
            found = torch.where(self._aims_at_own(view, obs, loss), obs, found)
        return _where_possible(view, loss, found, obs)

    def output_loss(self, view: VictimView, obs: Tensor) -> OutputLoss:
        """Return what is raised on M rows, given their clean observations (M, D): a hook."""
        if self.loss is not None and not isinstance(self.loss, str):
            return self._given_loss(self.loss, view, obs)
        return (
            self._loss_of_means(view, obs) if view.continuous else self._loss_of_logits(view, obs)
        )

    @property
    def _starts_clean(self) -> bool:
        """Whether the first output that the loss is shown is the clean one."""
        return False

    def _check_loss(self, name: str) -> None:
        loss, names = self.loss, get_args(LossName)
        named = loss is None or isinstance(loss, str)
        known = loss is None or loss in names if named else _is_loss(loss) or callable(loss)
        rule = f"None, one of {names}, an OutputLoss, a function that makes one, or a critic"
        check(known, f"{name}.loss", rule, loss)
        alone = self.target is None or (named and loss != "expected")
        rule = "None where the loss is a critic, 'expected', or your own"
        check(alone, f"{name}.target", rule, self.target)
        if not named and not _is_loss(loss):
            fits = _takes(loss, 3) or _takes(loss, 2)
            rule = (
                "an OutputLoss, or a function of (view, obs) that makes one, "
                "or a critic of (view, obs, actions)"
            )
            check(fits, f"{name}.loss", rule, loss)
        void = loss in ("mse", "kl") and not self.by_chance and self.target is None
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
        remedy = "Leave it out; STor is stor(ball, continuous=True, target=...)."
        check(self.loss in (None, "mse"), name, rule, self.loss, remedy)
        if self.target is not None:
            rule = "a vector, or a rule that returns rows of them, for a continuous victim"
            fits = not isinstance(self.target, int)
            check(fits, f"{type(self).__name__}.target", rule, self.target)
            target = self._target_rows(self.target, view, obs)
            return SquaredError(target, targeted=True, mask=view.mask)
        check(self.by_chance, name, "able to move the observation", "mse", _MSE_REMEDY)
        return SquaredError(view.mean(obs), mask=view.mask)

    def _loss_of_logits(self, view: VictimView, obs: Tensor) -> OutputLoss:
        name = type(self).__name__
        if self.loss in ("mse", "kl") and self.target is not None:
            rule = (
                f"a vector of logits, or a rule that returns rows of them, for loss={self.loss!r}"
            )
            check(not isinstance(self.target, int), f"{name}.target", rule, self.target)
            target = self._target_logits(self.target, view, obs)
            if self.loss == "kl":
                return TowardPolicy(target)
            return SquaredError(target, targeted=True, mask=view.mask)
        rule = "one of actions' logits, such as 'margin', or your own for a discrete victim"
        check(self.loss != "mse", f"{name}.loss", rule, self.loss)
        if self.loss in _OF_POLICIES:
            return _OF_POLICIES[cast(str, self.loss)](view.logits(obs))
        kind = _OF_LABELS[self._usual_loss if self.loss is None else cast(str, self.loss)]
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


def _where_possible(view: VictimView, loss: OutputLoss, found: Tensor, obs: Tensor) -> Tensor:
    """Return ``found``, and ``obs`` in rows whose target is an action that is unavailable.

    Their loss has no gradient, but a value, which searches and restarts would raise.
    """
    targeted = isinstance(loss, LabelLoss) and loss.targeted
    if not targeted or view.mask is None:
        return found
    label = cast(Tensor, cast(LabelLoss, loss).label)
    return torch.where(view.mask.gather(-1, label.unsqueeze(-1)), found, obs)


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
