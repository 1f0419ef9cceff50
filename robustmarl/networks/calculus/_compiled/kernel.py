"""Steps along the sign of a gradient, compiled: one call takes all of them for all rows.

This module is compiled when it is imported, or read as it was compiled before. Some rows at a time
take all of their steps, so that what is worked out about them stays in the inner caches; and no bit
of what becomes of a row depends on the other rows, or on how many there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from robustmarl.networks.calculus._compiled.keeping import (
    BOOLS,
    FLAT,
    MATRIX,
    PLACES,
    TABLE,
    digest,
)
from robustmarl.networks.calculus._compiled.layers import (
    AFFINE,
    BLOCK,
    NORM,
    RELU,
    TANH,
    backward,
    forward,
    lay_out,
    pack,
)
from robustmarl.networks.calculus._compiled.losses import (
    MASKED,
    largest,
    of_label,
    of_policy,
    of_target,
)
from robustmarl.networks.calculus._compiled.products import fill, inner, padded, rows_of
from robustmarl.networks.calculus.formula import Kind

__all__ = [
    "AFFINE",
    "FINE",
    "NORM",
    "NOT_FINITE",
    "NO_ACTION",
    "RELU",
    "TANH",
    "sign_steps",
]

FINE, NOT_FINITE, NO_ACTION = 0, 1, 2
"""What :func:`_sign_steps` may answer."""

OF_POLICIES = (int(Kind.DIVERGENCE), int(Kind.EXPECTED_CHANGE))
SQUARED_ERROR = int(Kind.SQUARED_ERROR)
ZERO, ONE = np.float32(0.0), np.float32(1.0)

Bools: TypeAlias = NDArray[np.bool_]
Table: TypeAlias = NDArray[np.int64]
Places: TypeAlias = NDArray[np.int64]
Matrix: TypeAlias = NDArray[np.float32]
Flat: TypeAlias = NDArray[np.float32]
Number: TypeAlias = np.float32


@inner
def _move(found: Matrix, clean: Matrix, limits: Matrix, padding: Bools, g: Matrix) -> None:
    """Take one step with a block of rows; see :func:`_sign_steps`, and ``LinfBall.box``."""
    epsilon, lowest, highest, length = limits[0], limits[1], limits[2], limits[3]
    for i in range(len(g)):
        if len(padding) > 0:
            for j in range(len(length)):
                value = g[i, j]
                g[i, j] = ZERO if padding[i, j] else value
        for j in range(len(length)):
            sign = ONE if g[i, j] > ZERO else -ONE if g[i, j] < ZERO else ZERO
            low = max(clean[i, j] - epsilon[j], min(lowest[j], clean[i, j]))
            high = min(clean[i, j] + epsilon[j], max(highest[j], clean[i, j]))
            moved = found[i, j] + length[j] * sign
            moved = low if moved < low else moved  # so that nan stays nan
            found[i, j] = high if moved > high else moved


@inner
def _is_finite(g: Matrix, size: int) -> bool:
    """Return whether gradients are finite, in the first ``size`` columns."""
    finite = True
    for i in range(len(g)):
        for j in range(size):
            finite &= np.isfinite(g[i, j])
    return finite


@inner
def _room(layers: Table, places: Places) -> int:
    """Write where in ``work`` layers' inputs, the output and gradients are; return its length."""
    places[0], widest = 0, padded(layers[0, 1])
    end = BLOCK * widest
    for number in range(len(layers)):
        wide = padded(layers[number, 2])
        places[number + 1], widest = end, max(widest, wide)
        end += BLOCK * wide
        if layers[number, 0] == NORM:
            end += BLOCK * wide + BLOCK
    places[-1] = end
    return end + 2 * BLOCK * widest


@inner
def _sign_steps(
    found: Matrix, clean: Matrix, limits: Matrix, padding: Bools, steps: int, network: Table,
    eps: Flat, extra: Matrix, blocked: Bools, unmasked: Number, kind: int, targeted: bool,
    unnamed: bool, label: Places, reference: Matrix, counted: Bools, layers: Table, weights: Flat,
    places: Places, work: Flat, z: Flat,
) -> int:  # fmt: skip
    """Take steps along the sign of d loss / d observation, each of which ends in a box.

    Args:
        found: where the rows are, (M, D); moved in place.
        clean: the middle of their boxes, (M, D).
        limits: radius of a box, lowest and highest valid value and length of a step, per
            coordinate, (4, D).
        padding: where observations do not exist: read as zeros, not moved, bool (M, D) or (0, 0).
        steps: how many.
        network: kind, fan-in and fan-out of each layer, and the addresses of its weight (H, D) or
            (H,) and its bias (H,), 0 for none, int64 (L, 5).
        eps: of a LayerNorm, (L,).
        extra: added to the first layer's output, (M, H), or nothing, (0, 0).
        blocked: actions that do not exist or are unavailable, bool (M, A), or (0, 0).
        unmasked: what their outputs are taken for.
        kind: of the loss: a :class:`Kind`.
        targeted: whether the loss is turned round.
        unnamed: whether the label is the greedy action of the first output.
        label: as of :class:`Formula`, (M,); written to if ``unnamed``.
        reference: as of :class:`Formula`, (M, A) or (0, 0).
        counted: as of :class:`Formula`, (M, A) or (0, 0).
        layers: of the network, as :func:`~.layers.lay_out` writes them.
        weights: zeros, as many as it says.
        places: as :func:`_room` writes them.
        work: zeros, as many as it says.
        z: of the length of a padded output.

    Returns:
        ``FINE``, ``NOT_FINITE`` if a gradient of the last step is not, or ``NO_ACTION``: a label
        is none, and nothing was done.
    """
    answers = network[-1, 2]
    for row in range(0 if unnamed else len(label)):
        if label[row] < 0 or label[row] >= answers:
            return NO_ACTION
    pack(network, layers, weights)
    size, y_at, g_at = found.shape[1], places[-2], places[-1]
    free_at = g_at + (len(work) - g_at) // 2
    finite = True
    for first in range(0, len(found), BLOCK):
        rows = min(BLOCK, len(found) - first)
        x, y = rows_of(work, 0, rows, padded(size)), rows_of(work, y_at, rows, len(z))
        g = rows_of(work, g_at, rows, len(z))
        here, middle = found[first : first + rows], clean[first : first + rows]
        for step in range(steps):
            for i in range(rows):
                for j in range(size):
                    x[i, j] = here[i, j]
                if len(padding) > 0:
                    for j in range(size):
                        value = x[i, j]  # read in any case, without a branch
                        x[i, j] = ZERO if padding[first + i, j] else value
            forward(layers, eps, places, weights, extra, first, rows, work)
            for i in range(rows):
                row = first + i
                fill(z, MASKED)
                for j in range(answers):
                    z[j] = y[i, j]
                if len(blocked) > 0:
                    for j in range(answers):
                        value = z[j]
                        z[j] = unmasked if blocked[row, j] else value
                if kind == SQUARED_ERROR:
                    of_target(z, reference[row], counted, row, targeted, g[i])
                elif kind in OF_POLICIES:
                    of_policy(z, kind, reference[row], g[i])
                else:
                    if unnamed and step == 0:
                        label[row] = largest(z)
                    of_label(z, answers, kind, label[row], targeted, g[i])
                if len(blocked) > 0:
                    for j in range(answers):
                        value = g[i, j]
                        g[i, j] = ZERO if blocked[row, j] else value
            at = backward(layers, places, weights, rows, work, g_at, free_at)
            moves = rows_of(work, at, rows, padded(size))
            _move(here, middle, limits, padding[first : first + rows], moves)
            if step == steps - 1:
                finite &= _is_finite(moves, size)
    return FINE if finite else NOT_FINITE


def _kept(sources: int) -> Any:
    """Return :func:`_sign_steps`, compiled, as it is kept on disk for these sources."""
    where, network = (MATRIX, MATRIX, MATRIX, BOOLS, types.intp), (TABLE, FLAT, MATRIX)
    loss = (BOOLS, types.float32, types.int64, types.boolean, types.boolean)
    signature = types.int64(*where, *network, *loss, PLACES, MATRIX, BOOLS)

    @njit(signature, cache=True, nogil=True, error_model="numpy")
    def sign_steps(
        found: Matrix, clean: Matrix, limits: Matrix, padding: Bools, steps: int, network: Table,
        eps: Flat, extra: Matrix, blocked: Bools, unmasked: Number, kind: int, targeted: bool,
        unnamed: bool, label: Places, reference: Matrix, counted: Bools,
    ) -> int:  # fmt: skip
        # Numba asks only this file whether what it kept is out of date, and the values of free
        # variables: so the other files are in one.
        assert sources
        layers, places = np.empty((len(network), 4), np.int64), np.empty(len(network) + 2, np.int64)
        weights = np.zeros(lay_out(network, layers), np.float32)
        work = np.zeros(_room(layers, places), np.float32)
        z = np.empty(padded(layers[-1, 2]), np.float32)
        return _sign_steps(
            found, clean, limits, padding, steps, network, eps, extra, blocked, unmasked, kind,
            targeted, unnamed, label, reference, counted, layers, weights, places, work, z,
        )  # fmt: skip

    return sign_steps


sign_steps = _kept(digest(Path(__file__).parent))
