"""Gradients of losses of one row's output, for compiled code; ``attacks.losses`` has the equations.

An output is padded with ``MASKED`` to whole vectors, and its gradient with zeros.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustmarl.joint import MASKED as MASKED_LOGIT
from robustmarl.networks.calculus._compiled.layers import exp
from robustmarl.networks.calculus._compiled.products import Flat, fill, inner, sum_of
from robustmarl.networks.calculus.formula import Kind

__all__ = ["MASKED", "largest", "of_label", "of_policy", "of_target"]

CROSS_ENTROPY, SCALED_MARGIN = int(Kind.CROSS_ENTROPY), int(Kind.SCALED_MARGIN)
EXPECTED_CHANGE = int(Kind.EXPECTED_CHANGE)

ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0))
MASKED, UNAVAILABLE = np.float32(MASKED_LOGIT), np.float32(MASKED_LOGIT / 2)
NARROW, TINY = np.float32(1e-12), np.finfo(np.float32).tiny

Number: TypeAlias = np.float32
Bools: TypeAlias = NDArray[np.bool_]


@inner
def largest(values: Flat) -> int:
    """Return the index of the first of the largest."""
    best = 0
    for j in range(1, len(values)):
        if values[j] > values[best]:
            best = j
    return best


@inner
def _softmax(z: Flat, policy: Flat) -> None:
    """Write the probabilities of logits."""
    highest = z[largest(z)]
    for j in range(len(z)):
        policy[j] = exp(z[j] - highest)
    mass = sum_of(policy, 0, len(policy))
    for j in range(len(z)):
        policy[j] /= mass


@inner
def _balance(g: Flat, top: int) -> None:
    """Have entries sum to 0 by that at ``top``, and the largest be 1; as ``losses._balanced``."""
    g[top] = ZERO
    others, size = ZERO, ZERO
    for j in range(len(g)):
        others += g[j]
    g[top] = -others
    for j in range(len(g)):
        size = max(size, abs(g[j]))
    size = max(size, TINY)
    for j in range(len(g)):
        g[j] /= size


@inner
def of_label(z: Flat, size: int, kind: int, label: int, targeted: bool, g: Flat) -> None:
    """Write the gradient of a loss of ``label``; see ``attacks.losses.LabelLoss``."""
    own, lead = z[label], ZERO
    z[label] = UNAVAILABLE  # the others' logits, now
    best = largest(z)
    if kind == CROSS_ENTROPY:
        _softmax(z, g)
    else:
        fill(g, ZERO)
        g[best] = ONE
    g[label] -= ONE
    if kind == SCALED_MARGIN:
        lead = z[best] - own if z[best] > UNAVAILABLE else ZERO
        z[label] = own
        _scale_margin(z, size, lead, targeted, g)
    if targeted:
        available = own > UNAVAILABLE
        for j in range(len(g)):
            g[j] = -g[j] if available else ZERO


@inner
def _scale_margin(z: Flat, size: int, lead: Number, targeted: bool, g: Flat) -> None:
    """Subtract the lead's ratio to z_(1) - z_(3) times that one's gradient; overwrites z."""
    count = 0
    for j in range(size):
        count += z[j] > UNAVAILABLE
    if count < 3:
        return
    first = largest(z)
    width, z[first] = z[first], -np.inf
    z[largest(z)] = -np.inf
    third = fourth = largest(z)
    if targeted and count > 3:
        z_third, z[third] = z[third], -np.inf
        fourth = largest(z)
        width -= (z_third + z[fourth]) * HALF
    else:
        width -= z[third]
    ratio = lead / max(width, NARROW)
    g[first] -= ratio
    g[third] += ratio * HALF
    g[fourth] += ratio * HALF


@inner
def of_policy(z: Flat, kind: int, clean: Flat, g: Flat) -> None:
    """Write the gradient of ``attacks.policy_losses.Divergence`` or ``ExpectedChange``."""
    top, same = largest(z), ZERO
    _softmax(z, g)
    for j in range(len(clean)):
        same += clean[j] * g[j]
    for j in range(len(clean)):
        g[j] = g[j] * (same - clean[j]) if kind == EXPECTED_CHANGE else g[j] - clean[j]
    for j in range(len(clean), len(g)):
        g[j] = ZERO
    _balance(g, top)


@inner
def of_target(z: Flat, target: Flat, counted: Bools, row: int, targeted: bool, g: Flat) -> None:
    """Write the gradient of ``attacks.losses.SquaredError``."""
    size = len(target)
    count = 0
    for j in range(size):
        count += len(counted) == 0 or counted[row, j]
    scale = (-TWO if targeted else TWO) / np.float32(max(1, count))
    fill(g, ZERO)
    for j in range(size):
        if len(counted) == 0 or counted[row, j]:
            g[j] = (z[j] - target[j]) * scale
