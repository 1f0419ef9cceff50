r"""Weights, radii and rates over time: constant, linear and repetitive.

A schedule is a value object that maps a count to a number and says what it counts: updates,
episodes or environment steps.

Example:
    >>> ramp = Linear(0.0, 0.1, over=100, begin=50)
    >>> [ramp(count) for count in (0, 50, 100, 150, 900)]
    [0.0, 0.0, 0.05, 0.1, 0.1]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, get_args

import numpy as np
import torch

from robustmarl._checks import check_choice, check_int, check_number, keep
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
    """The same value for ever.

    Example:
        >>> Constant(0.1)(0), Constant(0.1)(10**6)
        (0.1, 0.1)
    """

    value: float
    unit: Unit = "updates"

    def __post_init__(self) -> None:
        keep(self, value=check_number("Constant.value", self.value))
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

    Example:
        >>> ramp = Linear(0.0, 1.0, over=100, begin=50)
        >>> [ramp(updates) for updates in (0, 50, 100, 150, 1000)]
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """

    start: float
    stop: float
    over: int
    begin: int = 0
    unit: Unit = "updates"

    def __post_init__(self) -> None:
        keep(
            self,
            start=check_number("Linear.start", self.start),
            stop=check_number("Linear.stop", self.stop),
            over=check_int("Linear.over", self.over, 1),
            begin=check_int("Linear.begin", self.begin, 0),
        )
        check_choice("Linear.unit", self.unit, get_args(Unit))

    def __call__(self, count: int) -> float:
        """Return the value at ``count``."""
        share = min(max((count - self.begin) / self.over, 0.0), 1.0)
        if share == 1.0:
            return self.stop  # which the line misses by what rounding makes of its length
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

    Example:
        >>> ramps = Repetitive(1.0, warmup=10, period=10, loops=2)
        >>> [round(ramps(episode), 2) for episode in (5, 14, 18, 19, 24, 28, 30)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 1.0, 0.0]
    """

    peak: float
    warmup: int
    period: int
    loops: int = 3
    ramp: float = 0.8
    unit: Unit = "episodes"

    def __post_init__(self) -> None:
        keep(
            self,
            peak=check_number("Repetitive.peak", self.peak, 0.0),
            warmup=check_int("Repetitive.warmup", self.warmup, 0),
            period=check_int("Repetitive.period", self.period, 1),
            loops=check_int("Repetitive.loops", self.loops, 1),
            ramp=check_number("Repetitive.ramp", self.ramp, 0.0, 1.0, open_low=True),
        )
        check_choice("Repetitive.unit", self.unit, get_args(Unit))

    def __call__(self, count: int) -> float:
        """Return the value at ``count``."""
        since = count - self.warmup
        if since < 0 or since >= self.loops * self.period:
            return 0.0
        rise = self.ramp * self.period
        return self.peak * (min(since % self.period, rise) / rise)


def as_schedule(
    where: str,
    value: float | Schedule,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> Schedule:
    """Return ``value`` as a schedule; a bare number is constant.

    Args:
        where: what it is given to, for messages.
        value: a number or a schedule.
        low: the least that it may be, as far as that can be told before it is used.
        high: the most.
        open_low: whether it has to be more than ``low``.

    Raises:
        TypeError: for what is neither.
        ValueError: for a number, or a schedule of this module, that leaves ``[low, high]``, or
            ``(low, high]``.

    Example:
        >>> as_schedule("weight", 0.1)
        Constant(value=0.1, unit='updates')
    """
    if callable(value) and hasattr(value, "unit"):
        for extreme in _extremes(value):
            check_number(where, extreme, low, high, open_low=open_low)
        return value
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(
            f"{where} must be a number or a robustmarl.schedules object, got {value!r}."
        )
    return Constant(check_number(where, value, low, high, open_low=open_low))


_NUMBERS = int | float | np.integer | np.floating | np.ndarray | torch.Tensor


def _extremes(schedule: Schedule) -> tuple[float, ...]:
    """Return values between which the schedule stays, of one that is not ours none."""
    if isinstance(schedule, Constant):
        return (schedule.value,)
    if isinstance(schedule, Linear):
        return schedule.start, schedule.stop
    return (0.0, schedule.peak) if isinstance(schedule, Repetitive) else ()
