"""Gradient attacks on observations inside an l-infinity ball: the base, FGSM and PGD."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Self, TypedDict, Unpack

from torch import Tensor

from robustmarl._checks import all_finite, check_flag, check_int, keep
from robustmarl._seeding import Draws
from robustmarl.attacks.aimed import AimedAttack, Loss, Target
from robustmarl.attacks.formulas import formula_of
from robustmarl.attacks.losses import LabelLoss
from robustmarl.budgets import Coordinates, LinfBall, check_coordinates
from robustmarl.networks.calculus import Way
from robustmarl.victims import OutputLoss, VictimView
from robustmarl.victims.protocol import StepsAtOnce

__all__ = ["PGD", "GradientAttack", "Walk"]


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
        value: the loss there, (M,), of an attack that reads it; None where the view asked for the
            loss' gradient not just once, and ``loss(view.output(found))`` has to tell.
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
    value: Tensor | None = None
    iteration: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GradientAttack(AimedAttack):
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
    :meth:`end`             what a run returns                    where it ended
    ======================  ====================================  ==========================

    The attack is a value: hooks keep nothing in it, but in the :class:`Walk` that they are given.
    Rows must not influence each other, and a gradient is known up to a positive factor per row
    only, so a direction has to normalise each row by itself.

    Args:
        steps: number of gradient steps, >= 1.
        step_size: :math:`\beta`, observation units, > 0, one number or one per coordinate; None
            is ``reach`` * epsilon / steps (epsilon if there is one step) per coordinate. Kept
            by ``with_epsilon`` when given.
        random_start: draw :math:`\hat o_0` uniformly from the ball. Further ones, ball, restarts,
            loss, target, clean_if_own and samples: :class:`AimedAttack`.

    Attributes:
        reach: how many radii the default steps cover together.

    Raises:
        ValueError: as of :class:`AimedAttack`; when called, for a gradient that is not finite.
        TypeError: for values of the wrong kind.
    """

    # 2.5 epsilon / steps: long enough to reach the ball's border from anywhere in it, and to walk
    # along it afterwards (Madry et al., 2018).
    reach: ClassVar[float] = 2.5
    _reads_value: ClassVar[bool] = False
    """Whether steps go by the loss, too, which is noted where its gradient is asked for."""

    steps: int = 10
    step_size: Coordinates | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        keep(self, random_start=check_flag(f"{name}.random_start", self.random_start))
        super().__post_init__()
        keep(self, steps=check_int(f"{name}.steps", self.steps))
        if self.step_size is not None:
            size = check_coordinates(f"{name}.step_size", self.step_size, 0.0, open_low=True)
            keep(self, step_size=size)

    @property
    def by_chance(self) -> bool:
        """Whether the first run begins at a random point, too."""
        return self.random_start

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

    def end(self, walk: Walk) -> Tensor:
        """Return what the run found, (M, D): a hook."""
        return walk.found

    def climb(self, view: VictimView, obs: Tensor, loss: OutputLoss, draws: Draws | None) -> Tensor:
        """Return where the walk from one start ends, (M, D)."""
        start, length = self.start(view, obs, draws), self._base_length(obs)
        if _steps_by_sign(type(self)) and isinstance(view, StepsAtOnce):
            way = Way(start, obs, self.ball.limits(obs), length, self.steps)
            taken = self._all_steps(view, way, loss)
            if taken is not None:
                return taken
        low, high = self.ball.box(obs)
        found = start.clone()  # steps write in place, never into the input
        walk = Walk(
            view=view,
            clean=obs,
            loss=loss,
            low=low,
            high=high,
            length=length,
            found=found,
            gradient=found,
        )
        for walk.iteration in range(self.steps):
            if self._reads_value:
                noted = _Noted(loss)
                walk.gradient = view.input_gradient(walk.found, noted)
                walk.value = noted.value(walk.found)
            else:
                walk.gradient = view.input_gradient(walk.found, loss)
            self.step(walk)
        self._check_finite(all_finite(walk.gradient))
        return self.end(walk)

    def _all_steps(self, view: StepsAtOnce, way: Way, loss: OutputLoss) -> Tensor | None:
        """Return where the walk ends, (M, D); None where each gradient has to be asked for."""
        formula = formula_of(loss, len(way.start))
        taken = None if formula is None else view.sign_steps(way, formula)
        if formula is None or taken is None:
            return None
        found, finite = taken
        self._check_finite(finite)
        if isinstance(loss, LabelLoss):
            loss.label = formula.label  # named by the first output, unless it was known
        return found

    def _check_finite(self, finite: bool) -> None:
        if not finite:  # sign() would make nan zero
            raise ValueError(
                f"{type(self).__name__}: the victim's gradient must be finite, got inf or nan. "
                "Check the victim's weights and the observations."
            )

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
        clean = not self.random_start and type(self).start is GradientAttack.start
        return clean and self.samples == 1  # of several answers the first one names no action


class _Noted:
    """A loss that keeps its values wherever its gradient is asked for."""

    def __init__(self, loss: OutputLoss) -> None:
        self._loss, self._values = loss, list[Tensor]()

    def __call__(self, output: Tensor) -> Tensor:
        return self._loss(output)

    def gradient(self, output: Tensor) -> Tensor:
        self._values.append(self._loss(output))
        return self._loss.gradient(output)

    def value(self, obs: Tensor) -> Tensor | None:
        """Return the value in the type of ``obs``; None unless it was asked for exactly once."""
        return self._values[0].to(obs.dtype) if len(self._values) == 1 else None


@cache
def _steps_by_sign(kind: type[GradientAttack]) -> bool:
    """Return whether every step is the plain one: all may be taken before anybody looks."""
    hooks = ("direction", "step_length", "step", "end")
    return all(getattr(kind, hook) is getattr(GradientAttack, hook) for hook in hooks)


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
        >>> import torch
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
