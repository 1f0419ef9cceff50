"""Where every layer's output lies, for compiled code; ``calculus.bounds`` has the equations.

``work`` holds both ends of what the layers answer to a block of rows, one after the other, their
rows padded with zeros to whole vectors.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from robustmarl.networks.calculus._compiled.layers import (
    AFFINE,
    BLOCK,
    NORM,
    RELU,
    Places,
    Table,
    tanh,
)
from robustmarl.networks.calculus._compiled.products import (
    Flat,
    Matrix,
    add_product,
    inner,
    padded,
    rows_of,
    summing,
)

__all__ = ["Net", "ends_of", "forward_ends", "interval_leads", "room", "weight_of"]

Number: TypeAlias = np.float32

ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0.0, 0.5, 1.0, 2.0))


class Net(NamedTuple):
    """A network, packed.

    Attributes:
        layers: kind, fan-in, fan-out and place of each layer, (L, 4).
        weights: what is there; see :func:`~.layers.lay_out`.
        sizes: their absolute values.
        eps: of a LayerNorm, (L,).
        places: where in ``work`` the ends of each layer's input are, (L + 1,), and where those of
            the output stop, (L + 2,) in all.
        widest: the most numbers in a padded row.
    """

    layers: Table
    weights: Flat
    sizes: Flat
    eps: Flat
    places: Places
    widest: int


@inner
def room(layers: Table, places: Places) -> int:
    """Write the places of a network's ends; return the widest."""
    places[0], widest = 0, padded(layers[0, 1])
    for number in range(len(layers) + 1):
        wide = padded(layers[max(0, number - 1), 2 if number > 0 else 1])
        places[number + 1] = places[number] + 2 * BLOCK * wide
        widest = max(widest, wide)
    return widest


@inner
def weight_of(net: Net, number: int) -> tuple[Matrix, Flat]:
    """Return weight (H, padded D) and bias (padded H,) of a layer that is affine."""
    fan_in, fan_out, at = net.layers[number, 1], net.layers[number, 2], net.layers[number, 3]
    bias_at = at + fan_in * padded(fan_out)
    back_at = bias_at + padded(fan_out)
    back = rows_of(net.weights, back_at, fan_out, padded(fan_in))
    return back, net.weights[bias_at:back_at]


@inner
def ends_of(work: Flat, at: int, wide: int) -> tuple[Matrix, Matrix]:
    """Return the lower and the upper ends, (BLOCK, wide) each, at a place of ``work``."""
    return rows_of(work, at, BLOCK, wide), rows_of(work, at + BLOCK * wide, BLOCK, wide)


@inner
def forward_ends(net: Net, extra: Matrix, first: int, rows: int, work: Flat) -> None:
    """Write both ends of every layer's output for a block of rows to ``work``."""
    for number in range(len(net.layers)):
        kind, fan_in = net.layers[number, 0], net.layers[number, 1]
        fan_out, w_at = net.layers[number, 2], net.layers[number, 3]
        wide_in, wide = padded(fan_in), padded(fan_out)
        low_at = net.places[number + 1]
        x_low, x_high = ends_of(work, net.places[number], wide_in)
        low, high = ends_of(work, low_at, wide)
        if kind == AFFINE:
            _, bias = weight_of(net, number)
            centre_at = net.places[-1]
            radius_at = centre_at + BLOCK * wide_in
            centre, radius = ends_of(work, centre_at, wide_in)
            for i in range(rows):
                for j in range(wide_in):
                    centre[i, j] = (x_low[i, j] + x_high[i, j]) * HALF
                    radius[i, j] = (x_high[i, j] - x_low[i, j]) * HALF
                for j in range(wide):
                    low[i, j], high[i, j] = bias[j], ZERO
                if number == 0 and len(extra) > 0:
                    for j in range(fan_out):
                        low[i, j] += extra[first + i, j]
            high_at = low_at + BLOCK * wide
            add_product(
                work, centre_at, wide_in, net.weights, w_at, wide, work, low_at, rows, fan_in
            )
            add_product(
                work, radius_at, wide_in, net.sizes, w_at, wide, work, high_at, rows, fan_in
            )
            for i in range(rows):
                for j in range(wide):
                    middle, reach = low[i, j], high[i, j]
                    low[i, j], high[i, j] = middle - reach, middle + reach
        elif kind == RELU:
            for i in range(rows):
                for j in range(wide):
                    low[i, j] = ZERO if x_low[i, j] < ZERO else x_low[i, j]  # nan stays nan
                    high[i, j] = ZERO if x_high[i, j] < ZERO else x_high[i, j]
        elif kind == NORM:
            scale, shift_at = net.weights[w_at : w_at + wide], w_at + wide
            shift = net.weights[shift_at : shift_at + wide]
            for i in range(rows):
                _norm_ends(x_low[i], x_high[i], fan_in, net.eps[number], low[i], high[i])
                _scale_ends(low[i], high[i], scale, shift)
        else:
            for i in range(rows):
                for j in range(wide):
                    low[i, j] = tanh(x_low[i, j])
                    high[i, j] = tanh(x_high[i, j])


@inner
def _scale_ends(low: Flat, high: Flat, scale: Flat, shift: Flat) -> None:
    for j in range(len(low)):
        middle, reach = (low[j] + high[j]) * HALF, (high[j] - low[j]) * HALF
        middle, reach = middle * scale[j] + shift[j], reach * abs(scale[j])
        low[j], high[j] = middle - reach, middle + reach


@inner
def _norm_ends(x_low: Flat, x_high: Flat, size: int, eps: Number, low: Flat, high: Flat) -> None:
    """Write the ends of a row that is brought to mean 0 and deviation 1; see ``bounds._norm``."""
    number, mean, reach = np.float32(size), ZERO, ZERO
    for j in range(size):
        mean += (x_low[j] + x_high[j]) * HALF
        reach += (x_high[j] - x_low[j]) * HALF
    mean, reach = mean / number, reach / number
    own, largest, smallest = ONE - TWO / number, ZERO, ZERO
    for j in range(size):
        middle = (x_low[j] + x_high[j]) * HALF - mean
        radius = (x_high[j] - x_low[j]) * HALF * own + reach
        low[j], high[j] = middle - radius, middle + radius
        below, above = abs(low[j]), abs(high[j])
        least = ZERO if low[j] <= ZERO and high[j] >= ZERO else min(below, above)
        largest += max(below, above) * max(below, above)
        smallest += least * least
    steep = ONE / np.sqrt(smallest / number + eps)
    flat = ONE / np.sqrt(largest / number + eps)
    most = np.sqrt(number - ONE)
    for j in range(size):
        above = high[j] * (steep if high[j] > ZERO else flat)
        below = low[j] * (steep if low[j] < ZERO else flat)
        high[j] = most if above > most else above
        low[j] = -most if below < -most else below


@summing
def interval_leads(net: Net, row: int, leader: int, work: Flat, found: Flat) -> None:
    """Write the bounds of one output's leads in a row; see ``bounds.interval_lead_bounds``."""
    last = len(net.layers) - 1
    low, high = ends_of(work, net.places[-2], padded(len(found)))
    own = low[row, leader] + high[row, leader]
    if net.layers[last, 0] != AFFINE:
        for other in range(len(found)):
            found[other] = low[row, leader] - high[row, other]
    else:
        weight, _ = weight_of(net, last)
        x_low, x_high = ends_of(work, net.places[last], weight.shape[1])
        for other in range(len(found)):
            width = ZERO
            for k in range(weight.shape[1]):
                width += abs(weight[leader, k] - weight[other, k]) * (
                    x_high[row, k] - x_low[row, k]
                )
            found[other] = (own - (low[row, other] + high[row, other]) - width) * HALF
