"""Bounds of how far outputs stay ahead of each other in boxes, compiled: one call for all rows.

This module is compiled when it is imported, or read as it was compiled before. Intervals of some
rows at a time are worked out together; relaxations row by row, whose matrices stay in the inner
caches. No bit of a row depends on the other rows, or on how many there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from robustmarl.networks.calculus._compiled.intervals import (
    Net,
    ends_of,
    forward_ends,
    interval_leads,
    room,
    weight_of,
)
from robustmarl.networks.calculus._compiled.keeping import (
    FLAT,
    LEADS,
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
    Places,
    Table,
    lay_out,
    pack,
)
from robustmarl.networks.calculus._compiled.products import (
    Flat,
    Matrix,
    inner,
    padded,
    rows_of,
)
from robustmarl.networks.calculus._compiled.relaxing import (
    CHUNK,
    Pull,
    larger,
    line_rooms,
    pull_back,
    write_lines,
)

__all__ = [
    "AFFINE",
    "NORM",
    "RELU",
    "TANH",
    "bound_leads",
]

INTERVALS, TIGHTEST = 0, 2
"""Places of methods in ``leads.BoundMethod``."""

ZERO, HALF = np.float32(0.0), np.float32(0.5)

Number: TypeAlias = np.float32
Leads: TypeAlias = NDArray[np.float32]  # (M, L, A)


@inner
def _tighten(net: Net, number: int, row: int, work: Flat, pull: Pull, units: Places) -> None:
    """Bound what enters a hidden layer's activation in one row by the layers before it.

    ReLU's lines are exact where intervals say that its input has one sign: there nothing is done.
    """
    layer = 2 * number
    size = net.layers[layer, 2]
    weight, bias = weight_of(net, layer)
    low, high = ends_of(work, net.places[layer + 1], padded(size))
    bent, found = net.layers[layer + 1, 0] == RELU, 0
    for k in range(size):
        units[found] = k
        found += not (bent and (low[row, k] >= ZERO or high[row, k] <= ZERO))
    for first in range(0, found, CHUNK):
        count = min(CHUNK, found - first)
        v = rows_of(work, net.places[-1], count, weight.shape[1])
        for i in range(count):
            unit = units[first + i]
            for k in range(v.shape[1]):
                v[i, k] = weight[unit, k]
            pull.low[i] = pull.high[i] = bias[unit]
        pull_back(net, number, count, work, pull, pull.high)
        for i in range(count):
            unit = units[first + i]
            low[row, unit] = larger(low[row, unit], pull.low[i])
            high[row, unit] = -larger(-high[row, unit], -pull.high[i])


@inner
def _linear_leads(
    net: Net, pairs: Table, both: bool, work: Flat, pull: Pull, found: Matrix
) -> None:
    """Raise bounds of the leads of pairs, (K, 2), and of the reverse ones if ``both``."""
    weight, bias = weight_of(net, len(net.layers) - 1)
    high = pull.high if both else pull.high[:0]
    for first in range(0, len(pairs), CHUNK):
        count = min(CHUNK, len(pairs) - first)
        v = rows_of(work, net.places[-1], count, weight.shape[1])
        for i in range(count):
            ahead, behind = pairs[first + i]
            for k in range(v.shape[1]):
                v[i, k] = weight[ahead, k] - weight[behind, k]
            pull.low[i] = pull.high[i] = bias[ahead] - bias[behind]
        pull_back(net, len(net.layers) // 2, count, work, pull, high)
        for i in range(count):
            ahead, behind = pairs[first + i]
            row = ahead if both else 0
            found[row, behind] = larger(found[row, behind], pull.low[i])
            if both:
                found[behind, ahead] = larger(found[behind, ahead], -pull.high[i])


@inner
def _bound_leads(
    low: Matrix, high: Matrix, network: Table, net: Net, extra: Matrix, leader: Places, method: int,
    work: Flat, pull: Pull, units: Places, pairs: Table, found: Leads,
) -> bool:  # fmt: skip
    """Write lower bounds of the leads of one output, or of every one, over every one.

    Args:
        low: the boxes' lower ends, (M, D).
        high: their upper ends, (M, D).
        network: kind, fan-in and fan-out of each layer, and the addresses of its weight (H, D) or
            (H,) and its bias (H,), 0 for none, int64 (L, 5). But for ``INTERVALS`` affine layers
            and activations take turns, and the last is affine.
        net: room for its weights.
        extra: added to the first layer's output, (M, H), or nothing, (0, 0).
        leader: whose lead, (M,); (0,) is that of every output in turn.
        method: its place in ``leads.BoundMethod``.
        work: zeros.
        pull: room for lines and bounds.
        units: room for the numbers of a layer's units, and one more.
        pairs: room for all pairs of outputs, or for those with a leader, (K, 2).
        found: where the bounds are written, (M, 1, A), or (M, A, A).

    Returns:
        Whether all leaders are outputs; if not, nothing is done.
    """
    every, size, answers = len(leader) == 0, low.shape[1], found.shape[2]
    for row in range(len(leader)):
        if leader[row] < 0 or leader[row] >= answers:
            return False
    pack(network, net.layers, net.weights)
    for k in range(len(net.weights)):
        net.sizes[k] = abs(net.weights[k])
    x_low, x_high = ends_of(work, 0, padded(size))
    number = 0
    for ahead in range(answers if every else 0):
        for behind in range(ahead + 1, answers):
            pairs[number, 0], pairs[number, 1] = ahead, behind
            number += 1
    for first in range(0, len(low), BLOCK):
        rows = min(BLOCK, len(low) - first)
        for i in range(rows):
            for j in range(size):
                x_low[i, j], x_high[i, j] = low[first + i, j], high[first + i, j]
        forward_ends(net, extra, first, rows, work)
        for i in range(rows):
            row = first + i
            for place in range(found.shape[1]):
                interval_leads(net, i, place if every else leader[row], work, found[row, place])
            if method == INTERVALS:
                continue
            for j in range(size):
                pull.centre[j] = (x_low[i, j] + x_high[i, j]) * HALF
                pull.radius[j] = (x_high[i, j] - x_low[i, j]) * HALF
            for number in range(len(net.layers) // 2):
                if method == TIGHTEST and number > 0:  # the first layer's ends are exact already
                    _tighten(net, number, i, work, pull, units)
                more = extra[row] if len(extra) > 0 else pull.centre[:0]
                write_lines(net, number, i, more, work, pull)
            if not every:
                for k in range(answers - 1):
                    pairs[k, 0], pairs[k, 1] = leader[row], k + (k >= leader[row])
            if len(net.layers) > 1:
                _linear_leads(net, pairs, every, work, pull, found[row])
    return True


def _kept(sources: int) -> Any:
    """Return :func:`_bound_leads`, compiled, as it is kept on disk for these sources."""
    signature = types.boolean(MATRIX, MATRIX, TABLE, FLAT, MATRIX, PLACES, types.int64, LEADS)

    @njit(signature, cache=True, nogil=True, error_model="numpy")
    def bound_leads(
        low: Matrix, high: Matrix, network: Table, eps: Flat, extra: Matrix, leader: Places,
        method: int, found: Leads,
    ) -> bool:  # fmt: skip
        assert sources  # as for kernel.sign_steps
        layers, places = np.empty((len(network), 4), np.int64), np.empty(len(network) + 2, np.int64)
        weights = np.zeros(lay_out(network, layers), np.float32)
        widest, rooms = room(layers, places), np.zeros(len(network) // 2 + 1, np.int64)
        net = Net(layers, weights, np.empty_like(weights), eps, places, widest)
        lines = np.empty(line_rooms(layers, rooms), np.float32)
        chosen = np.empty(len(lines) // 2 + 1, np.int64)
        counts = np.empty((len(rooms), 2), np.int64)
        box = np.zeros((2, padded(low.shape[1])), np.float32)
        bounds = np.empty((2, CHUNK), np.float32)
        pull = Pull(rooms, lines, chosen, counts, box[0], box[1], bounds[0], bounds[1])
        work = np.zeros(places[-1] + 4 * max(BLOCK, CHUNK) * widest, np.float32)
        answers = found.shape[2]
        count = answers - 1 if len(leader) > 0 else answers * (answers - 1) // 2
        return _bound_leads(
            low, high, network, net, extra, leader, method, work, pull,
            np.empty(widest + 1, np.int64), np.empty((count, 2), np.int64), found,
        )  # fmt: skip

    return bound_leads


bound_leads = _kept(digest(Path(__file__).parent))
