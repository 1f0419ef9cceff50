"""How far TRAM shifts an action distribution: Algorithm 1 [Wu2022]_."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl._checks import check_number, check_tensor

__all__ = ["Poisoned", "kl_scale", "log_likelihood", "poison"]

BSN1, BSN2 = 55, 15
"""At most so many doublings, and halvings after them: Algorithm 1, as in the experiments."""

_USUAL = 12  # doublings that are tried first: hardly a budget takes more
_ROUND = 4  # halvings that one round of the search settles; each doubles the points it tries

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
    check_tensor("poison.logits", logits)
    check_tensor("poison.mask", mask, logits)
    check_tensor("poison.direction", direction, logits)
    kl_budget = check_number("poison.kl_budget", kl_budget, 0.0, open_low=True, unit="nats")
    # In numpy: at R x m numbers, calling torch costs several times the arithmetic. In float64: the
    # divergence of a small shift is a difference of nearly equal numbers.
    device, available = logits.device, mask.cpu().numpy()
    log_policy = np.where(available, logits.double().cpu().numpy(), -np.inf)
    log_policy = log_policy - _log_sum_exp(log_policy)
    unit, effective = _unit_rows(np.where(available, direction.double().cpu().numpy(), 0.0))
    # Shifted so that the best action's is 0, which changes no policy: ties stay exact at any scale.
    unit = unit - np.where(available, unit, -np.inf).max(-1, keepdims=True)
    best = available & (unit == 0.0)
    log_best = np.where(best, log_policy, -np.inf)
    supremum = -_log_sum_exp(log_best)[:, 0]  # KL of all mass on the best actions
    saturated = effective & (supremum <= kl_budget)
    scale = np.where(saturated, 2.0**BSN1, 0.0)
    searched = np.flatnonzero(effective & ~saturated)
    if len(searched):
        scale[searched] = _kl_scale(log_policy[searched], unit[searched], kl_budget)
    moved = np.where(saturated[:, None], log_best, log_policy + scale[:, None] * unit)
    moved = moved - _log_sum_exp(moved)
    moved = np.where(effective[:, None], moved, log_policy)
    kl = np.where(saturated, supremum, _kl(scale[:, None], log_policy, unit)[:, 0])

    def tensor(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Poisoned(
        policy=tensor(np.exp(moved)),
        scale=tensor(scale),
        kl=tensor(kl),
        log_policy=tensor(log_policy),
        effective=tensor(effective),
    )


def _unit_rows(direction: Array64) -> tuple[Array64, NDArray[np.bool_]]:
    """Return rows of length 1 (R, m), and which had a length, (R,); zero rows stay zero."""
    # Scaled by a power of two, which loses no bit: else squares of long ones would overflow, and
    # those of short ones vanish.
    _, exponent = np.frexp(np.abs(direction).max(-1, keepdims=True))
    direction = np.ldexp(direction, -exponent)
    length = np.sqrt(np.square(direction).sum(-1, keepdims=True))
    effective = length[:, 0] > 0.0
    return direction / np.where(effective[:, None], length, 1.0), effective


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
    check_tensor("kl_scale.log_policy", log_policy)
    check_tensor("kl_scale.unit", unit, log_policy)
    kl_budget = check_number("kl_scale.kl_budget", kl_budget, 0.0, open_low=True, unit="nats")
    log_probs, direction = log_policy.cpu().numpy(), unit.cpu().numpy()
    possible = np.isfinite(log_probs)
    direction = direction - np.where(possible, direction, -np.inf).max(-1, keepdims=True)
    return torch.from_numpy(_kl_scale(log_probs, direction, kl_budget)).to(log_policy.device)


def _kl_scale(log_policy: Array64, unit: Array64, kl_budget: float) -> Array64:
    def count_feasible(scales: Array64) -> Array64:
        """Return how many of (R, K) growing scales are, up to the first that is not."""
        feasible = _kl(scales, log_policy, unit) <= kl_budget
        first_bad = feasible.argmin(-1)
        return np.where(feasible.all(-1), feasible.shape[1], first_bad).astype(np.float64)

    ends = np.broadcast_to(2.0 ** np.arange(BSN1), (len(unit), BSN1))
    doublings = count_feasible(ends[:, :_USUAL])
    if (doublings == _USUAL).any():
        doublings = count_feasible(ends)
    width = 2.0**doublings
    # Algorithm 1 halves once more for each doubling, so that all rows end on a grid of 2**-BSN2;
    # its loop counts one doubling less where it runs through without a break.
    halvings = BSN2 + np.minimum(doublings, BSN1 - 1)
    low = np.zeros_like(width)
    inner_points = np.arange(1.0, 2.0**_ROUND)
    for done in range(0, int(halvings.max()), _ROUND):
        # The last round may have fewer halvings left: its finer points are off the grid.
        left = np.clip(halvings - done, 0, _ROUND)
        spacing = width * 0.5 ** (done + left)
        feasible = count_feasible(low[:, None] + spacing[:, None] * inner_points)
        low = low + spacing * np.minimum(feasible, 2.0**left - 1.0)
    return low


def _log_sum_exp(values: Array64) -> Array64:
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
    # Rounding may leave a little less than 0 where nothing moved.
    return np.maximum(scale * mean - np.log(total) - highest[..., 0], 0.0)


def log_likelihood(log_policy: Tensor, poisoned: Tensor, attack_frequency: float = 1.0) -> Tensor:
    r"""Return how likely what was played looks to who knows the clean policy (Eq. 3), (R,).

    .. math:: L = f_A \sum_a \pi'(a) \log\pi(a) + (1 - f_A) \sum_a \pi(a) \log\pi(a)

    Natural logarithm; closer to 0 is harder to notice.

    Args:
        log_policy: :math:`\log\pi`, (R, m).
        poisoned: :math:`\pi'`, (R, m).
        attack_frequency: :math:`f_A` in [0, 1].
    """
    check_tensor("log_likelihood.log_policy", log_policy)
    check_tensor("log_likelihood.poisoned", poisoned, log_policy)
    where = "log_likelihood.attack_frequency"
    attack_frequency = check_number(where, attack_frequency, 0.0, 1.0)
    mixed = attack_frequency * poisoned + (1.0 - attack_frequency) * log_policy.exp()
    return torch.where(mixed > 0, mixed * log_policy, 0.0).sum(-1)
