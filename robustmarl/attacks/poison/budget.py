"""How far TRAM shifts an action distribution: Algorithm 1 [Wu2022]_."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Poisoned", "kl_scale", "log_likelihood", "poison"]

BSN1, BSN2 = 55, 15
"""Algorithm 1: at most so many doublings, and so many halvings after them."""

_FAN = 15  # points per round of the bracket search, which settle 4 halvings at once

Array64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """What :func:`poison` made of R steps, in float64.

    Attributes:
        policy: the perturbed policy, (R, m).
        scale: beta, (R,); ``2.0**55`` where the budget cannot be used up.
        kl: KL(perturbed || clean) in nats, (R,), never above the budget.
        log_policy: the clean log-policy, (R, m).
        effective: whether there was a direction at all, bool (R,).
    """

    policy: Tensor
    scale: Tensor
    kl: Tensor
    log_policy: Tensor
    effective: Tensor


def poison(logits: Tensor, mask: Tensor, direction: Tensor, kl_budget: float) -> Poisoned:
    r"""Return the policy shifted along ``direction`` as far as the budget goes.

    Where the whole mass on the direction's best available action costs no more than the budget,
    the supremum over :math:`\beta` is taken at once: one-hot, ties in proportion to the policy.

    Args:
        logits: (R, m).
        mask: available actions, bool (R, m).
        direction: of any length, (R, m); masked entries do not matter, zero rows do nothing.
        kl_budget: :math:`KL^U` > 0, nats.
    """
    # In numpy: at R x m numbers, calling torch costs several times the arithmetic.
    device, available = logits.device, mask.cpu().numpy()
    log_policy = np.where(available, logits.double().cpu().numpy(), -np.inf)
    log_policy = log_policy - _log_sum(log_policy)
    unit = np.where(available, direction.double().cpu().numpy(), 0.0)
    length = np.sqrt(np.square(unit).sum(-1, keepdims=True))
    effective = length[:, 0] > 0.0
    unit = unit / np.where(effective[:, None], length, 1.0)
    # Shifted so that the best action's is 0: ties stay exact at any scale.
    unit = unit - np.where(available, unit, -np.inf).max(-1, keepdims=True)
    top = available & (unit == 0.0)
    on_top = np.where(top, log_policy, -np.inf)
    highest = -_log_sum(on_top)[:, 0]
    saturated = effective & (highest <= kl_budget)
    scale = np.where(saturated, 2.0**BSN1, 0.0)
    search = np.flatnonzero(effective & ~saturated)
    if len(search):
        scale[search] = _kl_scale(log_policy[search], unit[search], kl_budget)
    moved = np.where(saturated[:, None], on_top, log_policy + scale[:, None] * unit)
    moved = moved - _log_sum(moved)
    moved = np.where(effective[:, None], moved, log_policy)
    kl = np.where(saturated, highest, _kl(scale[:, None], log_policy, unit)[:, 0])
    of = {"policy": np.exp(moved), "scale": scale, "kl": kl, "log_policy": log_policy}
    made = {name: torch.from_numpy(values).to(device) for name, values in of.items()}
    return Poisoned(**made, effective=torch.from_numpy(effective).to(device))


def kl_scale(log_policy: Tensor, unit: Tensor, kl_budget: float) -> Tensor:
    r"""Return the largest feasible :math:`\beta` of Algorithm 1, (R,), float64.

    The algorithm doubles an upper end until it is infeasible and halves the bracket down to
    :math:`2^{-15}`. KL grows with :math:`\beta`, so the ends can all be tried at once, and the
    halvings four at a time: the same points of the same grid.

    Args:
        log_policy: :math:`\log\pi`, (R, m) float64, -inf where unavailable.
        unit: :math:`\hat\delta`, (R, m) float64; adding a constant to a row changes nothing.
        kl_budget: :math:`KL^U` > 0, nats.
    """
    logp, direction = log_policy.cpu().numpy(), unit.cpu().numpy()
    direction = direction - np.where(np.isfinite(logp), direction, -np.inf).max(-1, keepdims=True)
    return torch.from_numpy(_kl_scale(logp, direction, kl_budget)).to(log_policy.device)


def _kl_scale(log_policy: Array64, unit: Array64, kl_budget: float) -> Array64:
    def feasible(scale: Array64) -> Array64:
        """Return how many of (R, K) growing scales are, up to the first that is not."""
        good = _kl(scale, log_policy, unit) <= kl_budget
        return np.where(good.all(-1), good.shape[1], good.argmin(-1)).astype(np.float64)

    ends = 2.0 ** np.arange(BSN1)
    doublings = feasible(np.broadcast_to(ends, (len(unit), BSN1)))
    width = 2.0**doublings
    halvings = BSN2 + np.minimum(doublings, BSN1 - 1)
    low = np.zeros_like(width)
    steps = np.arange(1.0, _FAN + 1.0)
    for done in range(0, int(halvings.max()), 4):
        # The last round may have fewer halvings left: its finer points are off the grid.
        left = np.clip(halvings - done, 0, 4)
        step = width * 0.5 ** (done + left)
        found = feasible(low[:, None] + step[:, None] * steps)
        low = low + step * np.minimum(found, 2.0**left - 1.0)
    return low


def _log_sum(values: Array64) -> Array64:
    """Return log sum exp over the last axis, which is kept."""
    highest = values.max(-1, keepdims=True)
    return np.asarray(highest + np.log(np.exp(values - highest).sum(-1, keepdims=True)))


def _kl(scale: Array64, log_policy: Array64, unit: Array64) -> Array64:
    r"""Return KL of the policies at ``scale`` (R, K) from the clean one, (R, K).

    .. math:: KL = \beta \sum_a \pi'(a)\hat\delta(a) - \log\sum_a \pi(a) e^{\beta\hat\delta(a)}

    The best action's ``unit`` is 0, so nothing cancels at large scales.
    """
    shifted = log_policy[:, None] + scale[..., None] * unit[:, None]
    highest = shifted.max(-1, keepdims=True)
    mass = np.exp(shifted - highest)
    total = mass.sum(-1)
    mean = (mass * unit[:, None]).sum(-1) / total
    return np.maximum(scale * mean - np.log(total) - highest[..., 0], 0.0)


def log_likelihood(log_policy: Tensor, poisoned: Tensor, attack_frequency: float = 1.0) -> Tensor:
    r"""Return how likely what was played looks to who knows the clean policy (Eq. 3), (R,).

    .. math:: L = f_A \sum_a \pi'(a) \log\pi(a) + (1 - f_A) \sum_a \pi(a) \log\pi(a)

    Natural logarithm; closer to 0 is harder to notice.

    Args:
        log_policy: :math:`\log\pi`, (R, m).
        poisoned: :math:`\pi'`, (R, m).
        attack_frequency: :math:`f_A`.
    """
    mixed = attack_frequency * poisoned + (1.0 - attack_frequency) * log_policy.exp()
    return torch.where(mixed > 0, mixed * log_policy, 0.0).sum(-1)
