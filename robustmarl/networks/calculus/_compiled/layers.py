"""A network's layers, there and back, for compiled code.

``work`` holds what they answer to a block of rows, whose rows are padded with zeros to whole
vectors, and what a LayerNorm keeps for the way back. Nothing is fused, reordered or approximated by
the compiler but the products of :mod:`.products`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustmarl.networks.calculus._compiled.products import (
    LANES,
    Flat,
    Matrix,
    add_product,
    fill,
    inner,
    number_at,
    padded,
    rows_of,
    sum_of,
)

__all__ = [
    "AFFINE",
    "BLOCK",
    "NORM",
    "RELU",
    "TANH",
    "Places",
    "Table",
    "backward",
    "exp",
    "forward",
    "lay_out",
    "pack",
    "tanh",
]

AFFINE, RELU, TANH, NORM = 0, 1, 2, 3
"""Kinds of layers."""

BLOCK = 32
"""Rows that take their steps together: of a layer of 64 their outputs are 8 KiB."""

Number: TypeAlias = np.float32
Table: TypeAlias = NDArray[np.int64]  # (L, 4): kind, fan-in, fan-out, where its weights are
Places: TypeAlias = NDArray[np.int64]  # (L + 1,): where a layer's input is in ``work``

ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0))

# exp x = 2^n (1 + p(r)) with r = x - n log 2, log 2 being 355 / 512 and a little less: n times the
# first is exact. p is the series of exp r - 1, of which what is left out is below 6e-9.
LOG2_E, LOG_2_HIGH = np.float32(np.log2(np.e)), np.float32(355 / 512)
LOG_2_LOW = np.float32(np.log(2.0) - 355 / 512)
C2, C3, C4, C5, C6, C7 = (np.float32(1 / number) for number in (2, 6, 24, 120, 720, 5040))
EXP_RANGE = np.float32(-110.0)  # exp of less is 0 in float32
TANH_RANGE = np.float32(20.0)  # tanh of half of it is 1 in float32


@inner
def lay_out(network: Table, layers: Table) -> int:
    """Write kind, fan-in, fan-out and place of each layer, (L, 4); return how many weights it has.

    Of a linear layer they are W^T (D, padded H), its bias (padded H,) and W (H, padded D), one
    after the other; of a LayerNorm what it multiplies with and what it adds, (padded H,) each.
    """
    end = 0
    for number in range(len(network)):
        kind, fan_in, fan_out = network[number, 0], network[number, 1], network[number, 2]
        layers[number, 0], layers[number, 1], layers[number, 2] = kind, fan_in, fan_out
        layers[number, 3] = end
        if kind == AFFINE:
            end += (fan_in + 1) * padded(fan_out) + fan_out * padded(fan_in)
        elif kind == NORM:
            end += 2 * padded(fan_out)
    return end


@inner
def pack(network: Table, layers: Table, weights: Flat) -> None:
    """Write a network's weights to their places among zeros."""
    for number in range(len(network)):
        kind, fan_in, fan_out = network[number, 0], network[number, 1], network[number, 2]
        weight, bias, at = network[number, 3], network[number, 4], layers[number, 3]
        wide, wide_in = padded(fan_out), padded(fan_in)
        if kind == AFFINE:
            forth = rows_of(weights, at, fan_in, wide)
            back = rows_of(weights, at + (fan_in + 1) * wide, fan_out, wide_in)
            for i in range(fan_out):
                for j in range(fan_in):
                    back[i, j] = number_at(weight, i * fan_in + j)
            for start in range(0, fan_out, LANES):  # a vector at a time, for the caches' sake
                for j in range(fan_in):
                    for i in range(start, min(start + LANES, fan_out)):
                        forth[j, i] = back[i, j]
            at += fan_in * wide
        elif kind == NORM:
            for i in range(fan_out):
                weights[at + i] = number_at(weight, i) if weight != 0 else ONE
            at += wide
        if bias != 0:
            for i in range(fan_out):
                weights[at + i] = number_at(bias, i)


# Layers


@inner
def _exp_parts(x: Number) -> tuple[Number, Number, Number]:
    """Return p, s and t with exp x = (1 + p) s t, |p| below one half, s and t powers of two."""
    n = np.floor(x * LOG2_E + HALF)
    r = (x - n * LOG_2_HIGH) - n * LOG_2_LOW
    p = r + r * r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7)))))
    whole = np.int32(n)
    half = whole >> np.int32(1)  # two factors: one alone could not be as small as exp x may be
    s = np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    t = np.int32((whole - half + np.int32(127)) << np.int32(23)).view(np.float32)
    return p, s, t


@inner
def exp(x: Number) -> Number:
    """Return exp x of x <= 0."""
    p, s, t = _exp_parts(EXP_RANGE if x < EXP_RANGE else x)
    return (ONE + p) * s * t


@inner
def tanh(x: Number) -> Number:
    """Return (exp 2x - 1) / (exp 2x + 1), whose numerator keeps its precision where x is small."""
    size = TWO * abs(x)
    p, s, t = _exp_parts(TANH_RANGE if size > TANH_RANGE else size)
    above = s * t * p + (s * t - ONE)
    found = above / (above + TWO)
    return -found if x < ZERO else found


@inner
def _norm(x: Matrix, row: int, size: int, eps: Number, unit: Matrix, squares: Matrix) -> Number:
    """Write a row of mean 0 and deviation 1 to ``unit``; return the factor that made it so."""
    wide = x.shape[1]
    mean = sum_of(x, row * wide, wide) / np.float32(size)
    for j in range(size):
        unit[row, j] = x[row, j] - mean
    for j in range(wide):
        squares[row, j] = unit[row, j] * unit[row, j]
    inverse = ONE / np.sqrt(sum_of(squares, row * wide, wide) / np.float32(size) + eps)
    for j in range(size):
        unit[row, j] *= inverse
    return inverse


@inner
def _norm_back(
    g: Matrix, row: int, size: int, unit: Matrix, inverse: Number, along: Matrix
) -> None:
    """Turn the gradient of a row in ``unit`` into that of what was normalised, in place."""
    wide = g.shape[1]
    for j in range(wide):
        along[row, j] = g[row, j] * unit[row, j]
    mean = sum_of(g, row * wide, wide) / np.float32(size)
    slope = sum_of(along, row * wide, wide) / np.float32(size)
    for j in range(size):
        g[row, j] = (g[row, j] - mean - unit[row, j] * slope) * inverse


@inner
def forward(
    layers: Table,
    eps: Flat,
    places: Places,
    weights: Flat,
    extra: Matrix,
    first: int,
    rows: int,
    work: Flat,
) -> None:
    """Write every layer's output for a block of rows to ``work``."""
    for number in range(len(layers)):
        kind, fan_in = layers[number, 0], layers[number, 1]
        fan_out, w_at = layers[number, 2], layers[number, 3]
        wide_in, wide = padded(fan_in), padded(fan_out)
        x_at, y_at = places[number], places[number + 1]
        x, y = rows_of(work, x_at, rows, wide_in), rows_of(work, y_at, rows, wide)
        if kind == AFFINE:
            bias_at = w_at + fan_in * wide
            bias = weights[bias_at : bias_at + wide]
            for i in range(rows):
                for j in range(wide):
                    y[i, j] = bias[j]
                if number == 0 and len(extra) > 0:
                    for j in range(fan_out):
                        y[i, j] += extra[first + i, j]
            add_product(work, x_at, wide_in, weights, w_at, wide, work, y_at, rows, fan_in)
        elif kind == RELU:
            for i in range(rows):
                for j in range(wide):
                    y[i, j] = ZERO if x[i, j] < ZERO else x[i, j]  # nan stays nan
        elif kind == TANH:
            for i in range(rows):
                for j in range(wide):
                    y[i, j] = tanh(x[i, j])
        else:
            scale, shift = weights[w_at : w_at + wide], weights[w_at + wide : w_at + 2 * wide]
            unit, inverse = _kept(work, y_at, rows, wide)
            for i in range(rows):
                inverse[i] = _norm(x, i, fan_in, eps[number], unit, y)
                for j in range(wide):
                    y[i, j] = unit[i, j] * scale[j] + shift[j]


@inner
def _kept(work: Flat, y_at: int, rows: int, wide: int) -> tuple[Matrix, Flat]:
    """Return where a LayerNorm keeps its rows of mean 0 and deviation 1, and its factors."""
    at = y_at + BLOCK * wide
    end = at + BLOCK * wide
    return rows_of(work, at, rows, wide), work[end : end + BLOCK]


@inner
def backward(
    layers: Table, places: Places, weights: Flat, rows: int, work: Flat, g_at: int, free_at: int
) -> int:
    """Return where d loss / d observation is, given d loss / d output at ``g_at``."""
    for number in range(len(layers) - 1, -1, -1):
        kind, fan_in = layers[number, 0], layers[number, 1]
        fan_out, w_at = layers[number, 2], layers[number, 3]
        wide_in, wide, y_at = padded(fan_in), padded(fan_out), places[number + 1]
        g, y = rows_of(work, g_at, rows, wide), rows_of(work, y_at, rows, wide)
        if kind == AFFINE:
            back_at = w_at + (fan_in + 1) * wide
            fill(work[free_at : free_at + rows * wide_in], ZERO)
            add_product(work, g_at, wide, weights, back_at, wide_in, work, free_at, rows, fan_out)
            g_at, free_at = free_at, g_at
        elif kind == RELU:
            for i in range(rows):
                for j in range(wide):
                    kept = g[i, j]  # read in any case, without a branch
                    g[i, j] = ZERO if y[i, j] <= ZERO else kept
        elif kind == TANH:
            for i in range(rows):
                for j in range(wide):
                    g[i, j] *= ONE - y[i, j] * y[i, j]
        else:
            scale, along = weights[w_at : w_at + wide], rows_of(work, free_at, rows, wide)
            unit, inverse = _kept(work, y_at, rows, wide)
            for i in range(rows):
                for j in range(wide):
                    g[i, j] *= scale[j]
                _norm_back(g, i, fan_in, unit, inverse[i], along)
    return g_at
