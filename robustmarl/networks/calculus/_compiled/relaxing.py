"""Linear relaxations of one row's activations, for compiled code; see ``calculus.bounds``.

Below the last layer a network is hidden layers, each of them affine and an activation. Instead of
an activation's two lines their mean a x + c and half of their distance b x + d are kept, the bias
of the affine layer and whatever is added to it being part of c and d. Of combinations V of what
activations answer, where V a is elementwise, then

    V a -+ |V| b  and  V c -+ |V| d

are slopes and offsets of the lower and the upper bound: as long as both have the same V, which they
have up to the first activation on the way back, only units whose two lines differ cost twice.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from robustmarl.networks.calculus._compiled.intervals import Net, ends_of, weight_of
from robustmarl.networks.calculus._compiled.layers import RELU, Places, Table, tanh
from robustmarl.networks.calculus._compiled.products import (
    Flat,
    Matrix,
    add_product_of_some,
    fill,
    inner,
    padded,
    rows_of,
    summing,
)

__all__ = ["CHUNK", "Pull", "larger", "line_rooms", "pull_back", "write_lines"]

CHUNK = 32
"""Combinations that are pulled back together: their matrices stay in the innermost cache."""

LINES = 4
"""Numbers of a unit's lines: a, b, c, d."""

Number: TypeAlias = np.float32

ZERO, HALF, ONE = (np.float32(number) for number in (0.0, 0.5, 1.0))
NARROW = np.float32(1e-12)


class Pull(NamedTuple):
    """What is needed to pull combinations of hidden layers' outputs back to one row's box.

    Attributes:
        rooms: where in ``lines`` those of each hidden layer begin, and where all end.
        lines: a, b, c and d of each, (4, padded H), one after the other.
        chosen: whose lines are not flat, from half of a layer's ``rooms`` on, and padded H further
            on whose differ in slope.
        counts: how many there are of both, (hidden layers, 2).
        centre: of the box, (padded D,).
        radius: of the box, (padded D,).
        low: the lower bounds, (CHUNK,).
        high: the upper bounds, (CHUNK,).
    """

    rooms: Places
    lines: Flat
    chosen: Places
    counts: Table
    centre: Flat
    radius: Flat
    low: Flat
    high: Flat


@inner
def line_rooms(layers: Table, rooms: Places) -> int:
    """Write where the lines of hidden layers begin and end; return how many numbers they are."""
    rooms[0] = 0
    for number in range(len(rooms) - 1):
        rooms[number + 1] = rooms[number] + LINES * padded(layers[2 * number, 2])
    return rooms[-1]


@inner
def larger(one: Number, other: Number) -> Number:
    """Return the larger, or what is no number, as ``torch.maximum`` does."""
    return other if other > one or other != other else one


@inner
def write_lines(net: Net, number: int, row: int, extra: Flat, work: Flat, pull: Pull) -> None:
    """Write a hidden layer's lines between the ends of its activation's input in ``work``."""
    layer = 2 * number
    size, at = net.layers[layer, 2], pull.rooms[number]
    wide, list_at = padded(size), at // 2
    low, high = ends_of(work, net.places[layer + 1], wide)
    _, bias = weight_of(net, layer)
    lines = rows_of(pull.lines, at, LINES, wide)
    if net.layers[layer + 1, 0] == RELU:
        _relu_lines(low[row], high[row], lines)
    else:
        _tanh_lines(low[row], high[row], lines)
    _shift(lines, bias)
    if number == 0:
        _shift(lines, extra)
    some, differing = 0, 0
    for k in range(size):
        pull.chosen[list_at + some] = k
        some += lines[0, k] != ZERO  # no line of ReLU or Tanh falls: if these are 0, so is b
        pull.chosen[list_at + wide + differing] = k
        differing += lines[1, k] != ZERO
    pull.counts[number, 0], pull.counts[number, 1] = some, differing


@inner
def _relu_lines(low: Flat, high: Flat, lines: Matrix) -> None:
    """Write ReLU's lines between two ends; see ``bounds._relu_lines``."""
    for k in range(len(low)):
        below = ZERO if low[k] > ZERO else low[k]  # nan stays nan
        above = ZERO if high[k] < ZERO else high[k]
        width = above - below
        upper = above / (NARROW if width < NARROW else width)
        lower = ONE if high[k] > -low[k] else ZERO
        offset = below * upper * -HALF
        lines[0, k], lines[1, k] = (upper + lower) * HALF, (upper - lower) * HALF
        lines[2, k], lines[3, k] = offset, offset


@inner
def _tanh_lines(low: Flat, high: Flat, lines: Matrix) -> None:
    """Write Tanh's lines between two ends; see ``bounds._tanh_lines``."""
    for k in range(len(low)):
        y_low, y_high = tanh(low[k]), tanh(high[k])
        slope = -larger(y_low * y_low - ONE, y_high * y_high - ONE)
        lower, upper = y_low - slope * low[k], y_high - slope * high[k]
        lines[0, k], lines[1, k] = slope, ZERO
        lines[2, k], lines[3, k] = (upper + lower) * HALF, (upper - lower) * HALF


@inner
def _shift(lines: Matrix, added: Flat) -> None:
    """Take lines for such of what comes before ``added`` is added."""
    for k in range(len(added)):
        lines[2, k] += lines[0, k] * added[k]
        lines[3, k] += lines[1, k] * added[k]


@summing
def _bend_both(v: Matrix, spread: Matrix, lines: Matrix, low: Flat, high: Flat) -> None:
    """Replace V by V a, write |V| b beside it, and add V c -+ |V| d to the two offsets."""
    a, b, c, d = lines[0], lines[1], lines[2], lines[3]
    for i in range(len(v)):
        middle, reach = ZERO, ZERO
        for k in range(len(a)):
            value = v[i, k]
            size = abs(value)
            middle += value * c[k]
            reach += size * d[k]
            v[i, k] = value * a[k]
            spread[i, k] = size * b[k]
        low[i] += middle - reach
        high[i] += middle + reach


@summing
def _bend(v: Matrix, lines: Matrix, side: Number, offset: Flat) -> None:
    """Replace V by V a + side |V| b, and add V c + side |V| d to its offset."""
    a, b, c, d = lines[0], lines[1], lines[2], lines[3]
    for i in range(len(v)):
        total = ZERO
        for k in range(len(a)):
            value = v[i, k]
            size = side * abs(value)
            total += value * c[k] + size * d[k]
            v[i, k] = value * a[k] + size * b[k]
        offset[i] += total


@inner
def _part(middle: Matrix, spread: Matrix) -> None:
    """Replace them by middle - spread and middle + spread."""
    for i in range(len(middle)):
        for j in range(middle.shape[1]):
            one, other = middle[i, j], spread[i, j]
            middle[i, j], spread[i, j] = one - other, one + other


@summing
def _conclude(v: Matrix, box: Pull, side: Number, offset: Flat) -> None:
    """Add the least (side -1) or the largest (1) of V x over the box to its offset."""
    centre, radius = box.centre, box.radius
    for i in range(len(v)):
        total = ZERO
        for j in range(len(centre)):
            total += v[i, j] * centre[j] + side * (abs(v[i, j]) * radius[j])
        offset[i] += total


@summing
def _conclude_both(middle: Matrix, spread: Matrix, box: Pull, high: Flat) -> None:
    """Do so for the least of (middle - spread) x and the largest of (middle + spread) x."""
    centre, radius, low = box.centre, box.radius, box.low
    for i in range(len(middle)):
        least, largest = ZERO, ZERO
        for j in range(len(centre)):
            lower, upper = middle[i, j] - spread[i, j], middle[i, j] + spread[i, j]
            least += lower * centre[j] - abs(lower) * radius[j]
            largest += upper * centre[j] + abs(upper) * radius[j]
        low[i] += least
        high[i] += largest


@inner
def pull_back(net: Net, hidden: int, count: int, work: Flat, pull: Pull, high: Flat) -> None:
    """Bound combinations of what the first ``hidden`` hidden layers answer, over a box.

    Args:
        net: the network.
        hidden: how many hidden layers to go back, at least 1.
        count: how many combinations, at most ``CHUNK``.
        work: where they are, behind all ends, as rows of the last of these layers' padded width.
            There is room for four such matrices.
        pull: lines of these layers and the box; lower bounds are added to its own.
        high: upper bounds are added to these, if there is room for any.
    """
    both = len(high) > 0
    step = CHUNK * net.widest
    here, beside = net.places[-1], net.places[-1] + step
    there, besides = beside + step, beside + 2 * step
    parted = False
    for number in range(hidden - 1, -1, -1):
        fan_in, fan_out = net.layers[2 * number, 1], net.layers[2 * number, 2]
        wide_in, wide = padded(fan_in), padded(fan_out)
        w_at, at = net.layers[2 * number, 3] + (fan_in + 1) * wide, pull.rooms[number]
        lines = rows_of(pull.lines, at, LINES, wide)
        v, u = rows_of(work, here, count, wide), rows_of(work, beside, count, wide)
        some, differing = pull.counts[number, 0], pull.counts[number, 1]
        twice = parted or (both and differing > 0)
        if parted or not both:
            _bend(v, lines, -ONE, pull.low)
        else:
            _bend_both(v, u, lines, pull.low, high)
        if parted:
            _bend(u, lines, ONE, high)
        for second in range(1 + twice):
            x_at, y_at = (beside, besides) if second else (here, there)
            list_at = at // 2 if second == 0 or parted else at // 2 + wide
            size = some if second == 0 or parted else differing
            fill(work[y_at : y_at + count * wide_in], ZERO)
            add_product_of_some(
                work, x_at, wide, net.weights, w_at, wide_in, work, y_at, count, size,
                pull.chosen, list_at,
            )  # fmt: skip
        here, beside, there, besides = there, besides, here, beside
        v, u = rows_of(work, here, count, wide_in), rows_of(work, beside, count, wide_in)
        if twice and not parted:
            if number == 0:
                _conclude_both(v, u, pull, high)
                return
            _part(v, u)
            parted = True
    size = len(pull.centre)
    _conclude(rows_of(work, here, count, size), pull, -ONE, pull.low)
    if both:
        _conclude(rows_of(work, beside if parted else here, count, size), pull, ONE, high)
