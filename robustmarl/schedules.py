r"""Weights and radii over time: constant, linear and repetitive.

A schedule is a value object that maps a count to a number and says what it counts: updates,
episodes or environment steps.

Example:
    >>> ramp = Linear(0.0, 0.1, over=100, begin=50)
    >>> [ramp(count) for count in (0, 50, 100, 150, 900)]
    [0.0, 0.0, 0.05, 0.1, 0.1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, get_args

from robustmarl._checks import check_choice, check_int, check_number
from robustmarl.typing import Unit

__all__ = ["Constant", "Linear", "Repetitive", "Schedule", "as_schedule"]


class Schedule(Protocol):
    """A number as a function of a count."""

    @property
    def unit(self) -> Unit:
        """What is counted."""

    def __call__(self, count: int) -> float:
        """Return the value after ``count`` units."""


@dataclass(frozen=True)
class Constant:
    """The same value for ever."""

    value: float
    unit: Unit = "updates"

    def __post_init__(self) -> None:
        check_number("Constant.value", self.value)
        check_choice("Constant.unit", self.unit, get_args(Unit))

    def __call__(self, count: int) -> float:
        """Return ``value``."""
        return float(self.value)


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``stop`` in a straight line, constant before and after.

    Args:
        start: value up to ``begin``.
        stop: value from ``begin + over`` on.
        over: length of the line, in units, >= 1.
        begin: where the line begins, in units, >= 0.
        unit: what is counted.
    """

    start: float
    stop: float
    over: int
    begin: int = 0
    unit: Unit = "updates"

    def __post_init__(self) -> None:
        check_number("Linear.start", self.start)
        check_number("Linear.stop", self.stop)
        check_int("Linear.over", self.over, 1)
        check_int("Linear.begin", self.begin, 0)
        check_choice("Linear.unit", self.unit, get_args(Unit))

    def __call__(self, count: int) -> float:
        """Return the value at ``count``."""
        share = min(max((count - self.begin) / self.over, 0.0), 1.0)
        return self.start + (self.stop - self.start) * share


@dataclass(frozen=True)
class Repetitive:
    r"""RoMFAC's repetitive regularisation, Eq. (13): several ramps from zero to a peak.

    .. math:: \mu(m) = \bar\mu\,
        \frac{\min(\max(m - M_{norm}, 0) \bmod M_{adv},\ \omega M_{adv})}{\omega M_{adv}}

    The printed formula lacks :math:`\bar\mu`; with ``peak=1`` this is the printed one. After the
    last loop the value is 0 (the printed formula would start again).

    Args:
        peak: :math:`\bar\mu`, the upper bound.
        warmup: :math:`M_{norm}`, units at zero before the first loop, >= 0.
        period: :math:`M_{adv}`, units per loop, >= 1.
        loops: number of loops, >= 1.
        ramp: :math:`\omega`, share of a loop spent rising, in (0, 1].
        unit: what is counted; the paper counts rounds, which are episodes.
    """

    peak: float
    warmup: int
    period: int
    loops: int = 3
    ramp: float = 0.8
    unit: Unit = "episodes"

    def __post_init__(self) -> None:
        check_number("Repetitive.peak", self.peak, 0.0)
        check_int("Repetitive.warmup", self.warmup, 0)
        check_int("Repetitive.period", self.period, 1)
        check_int("Repetitive.loops", self.loops, 1)
        check_number("Repetitive.ramp", self.ramp, 0.0, 1.0, open_low=True)
        check_choice("Repetitive.unit", self.unit, get_args(Unit))

    def __call__(self, count: int) -> float:
        """Return the value at ``count``."""
        since = count - self.warmup
        if since < 0 or since >= self.loops * self.period:
            return 0.0
        rise = self.ramp * self.period
        return self.peak * (min(since % self.period, rise) / rise)


def as_schedule(where: str, value: float | Schedule) -> Schedule:
    """Return ``value`` as a schedule; a bare number is constant."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Constant(float(value))
    if not callable(value) or not hasattr(value, "unit"):
        raise TypeError(
            f"{where} must be a number or a robustmarl.schedules object, got {value!r}."
        )
    return value
