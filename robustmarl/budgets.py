r"""What an attack may do: the :math:`\ell_\infty` ball around an observation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from robustmarl._checks import check, check_each, check_flag, check_number, keep
from robustmarl._seeding import Draws

__all__ = ["LARGEST", "LinfBall", "check_coordinates"]

LARGEST = torch.finfo(torch.float32).max
"""What is larger is infinite where observations are."""

Coordinates = float | tuple[float, ...]


def check_coordinates(
    where: str,
    value: object,
    low: float = -math.inf,
    *,
    open_low: bool = False,
    infinite: bool = False,
) -> Coordinates:
    """Return ``value``, one number or one per coordinate, observation units, as plain ones.

    Args:
        where: what it is given to, for messages.
        value: a number, or a tuple, list, array or tensor of them.
        low: the least that it may be.
        open_low: whether it has to be more than that.
        infinite: whether it may be infinite where observations are, in float32.

    Raises:
        TypeError: for what is no number.
        ValueError: for one out of range, or none at all.

    Example:
        >>> check_coordinates("Mine.std", [0.1, 0.2], low=0.0)
        (0.1, 0.2)
    """

    def one(where: str, number: object) -> float:
        unit = "observation units"
        found = check_number(where, number, low, open_low=open_low, infinite=True, unit=unit)
        finite = infinite or abs(found) <= LARGEST
        check(finite, where, f"finite in float32, {unit}", number)
        return found

    if np.ndim(cast(ArrayLike, value)) == 0:
        return one(where, value)
    found = check_each(where, value, one, "a number, or one per coordinate")
    check(len(found) > 0, where, "a number, or one per coordinate", value)
    return found


@dataclass(frozen=True, kw_only=True)
class LinfBall:
    r"""All :math:`\hat o` with :math:`|\hat o_d - o_d| \le \epsilon_d`, within the valid range.

    A clean value outside ``[low, high]`` stays legal: the range is widened to contain it, so
    the ball always has priority and zero budget is the identity, bit for bit.

    Args:
        epsilon: radius in observation units, >= 0: one number, or one per coordinate.
        low: lowest valid value, one number or one per coordinate.
        high: highest valid value, likewise.
        fixed: per coordinate, True where it must not be touched (a one-hot id, a belief slot);
            None touches all.

    Raises:
        ValueError: for a negative or NaN radius, ``low > high``, or tuples of unequal length.
        TypeError: for values that are not numbers.

    Example:
        >>> ball = LinfBall(epsilon=0.5, low=0.0, high=1.0)
        >>> ball.project(torch.tensor([[2.0, -2.0]]), torch.tensor([[0.75, 0.25]]))
        tensor([[1., 0.]])
    """

    epsilon: Coordinates = field(kw_only=False)
    low: Coordinates = -math.inf
    high: Coordinates = math.inf
    fixed: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        keep(
            self,
            epsilon=check_coordinates("LinfBall.epsilon", self.epsilon, 0.0),
            low=check_coordinates("LinfBall.low", self.low, infinite=True),
            high=check_coordinates("LinfBall.high", self.high, infinite=True),
        )
        values = (self.epsilon, self.low, self.high)
        sizes = {len(value) for value in values if isinstance(value, tuple)}
        if self.fixed is not None:
            fixed = check_each("LinfBall.fixed", self.fixed, check_flag, "a tuple of bools")
            keep(self, fixed=fixed)
            check(len(fixed) > 0, "LinfBall.fixed", "one bool per coordinate, or None", fixed)
            sizes.add(len(fixed))
        check(len(sizes) < 2, "LinfBall", "given tuples of one length", sorted(sizes))
        pairs = self._pairs(self.low, self.high)
        check(all(lo <= hi for lo, hi in pairs), "LinfBall.low", f"<= high = {self.high}", self.low)

    @cached_property
    def is_zero(self) -> bool:
        """Whether nothing may change."""
        touched = self.fixed is None or not all(self.fixed)
        return not touched or all(e == 0.0 for e in self._values("epsilon"))

    @property
    def max_epsilon(self) -> float:
        """The largest radius of any coordinate."""
        return max(self._values("epsilon"))

    def with_epsilon(self, epsilon: Coordinates) -> LinfBall:
        """Return the same ball with another radius."""
        return replace(self, epsilon=epsilon)

    def radius(self, like: Tensor) -> Tensor:
        """Return the radius per coordinate, broadcastable to ``like`` (..., D)."""
        return self.limits(like)[0]

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return radius, lowest and highest valid value, () or (D,) each, for ``like`` (..., D)."""
        return _limits(self, like.dtype, like.device)

    def box(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest legal observations around ``clean``, (..., D) each."""
        epsilon, low, high = self.limits(clean)
        if self.low == -math.inf and self.high == math.inf:
            return clean - epsilon, clean + epsilon
        low = torch.maximum(clean - epsilon, torch.minimum(low, clean))
        high = torch.minimum(clean + epsilon, torch.maximum(high, clean))
        return low, high

    def project(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the nearest legal observations; both shapes (..., D)."""
        return torch.clamp(perturbed, *self.box(clean))

    def sample(self, clean: Tensor, draws: Draws) -> Tensor:
        """Return uniform draws from the ball around ``clean`` (R, D), projected on the range."""
        noise = draws.uniform(clean.shape[-1]).to(clean.dtype).mul_(2.0).sub_(1.0)
        return self.project(clean + noise * self.radius(clean), clean)

    def contains(self, perturbed: Tensor, clean: Tensor, rtol: float = 1e-6) -> bool:
        """Return whether all rows lie in the ball, up to rounding."""
        slack = rtol * (self.radius(clean) + clean.abs())
        legal = self.project(perturbed, clean)
        return bool(((perturbed - legal).abs() <= slack).all())

    def check_size(self, where: str, size: int) -> None:
        """Raise ``ValueError`` unless per-coordinate tuples fit observations of ``size``."""
        for name in ("epsilon", "low", "high", "fixed"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                rule = f"one number or {size} numbers, the observation size"
                check(len(value) == size, f"{where}.ball.{name}", rule, value)

    def _values(self, name: str) -> tuple[float, ...]:
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    @staticmethod
    def _pairs(low: Coordinates, high: Coordinates) -> list[tuple[float, float]]:
        lows = low if isinstance(low, tuple) else (low,)
        highs = high if isinstance(high, tuple) else (high,)
        size = max(len(lows), len(highs))
        lows = lows * size if len(lows) == 1 else lows
        highs = highs * size if len(highs) == 1 else highs
        return list(zip(lows, highs, strict=True))


@lru_cache(maxsize=256)
def _limits(
    ball: LinfBall, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    kind: dict[str, Any] = {"dtype": dtype, "device": device}
    epsilon = torch.tensor(ball.epsilon, **kind)
    if ball.fixed is not None:
        epsilon = torch.where(torch.tensor(ball.fixed, device=device), 0.0, epsilon)
    return epsilon, torch.tensor(ball.low, **kind), torch.tensor(ball.high, **kind)
