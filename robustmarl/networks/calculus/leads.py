"""How far one output of a network stays ahead of the others while its observation is in a box."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robustmarl.networks.calculus.bounds import (
    Interval,
    activation_lines,
    interval_bounds,
    interval_lead_bounds,
    linear_lower_bounds,
)
from robustmarl.networks.calculus.plan import Affine, Gru, Layer, Norm, Plan, Relu, Tanh
from robustmarl.networks.calculus.reading import array, compiled, fits, read_network

__all__ = ["BoundMethod", "lead_bounds"]

BoundMethod = Literal["interval", "linear", "tightest"]
"""Intervals alone; per entry the better of them and of linear relaxations between intervals
(CROWN-IBP); or likewise with relaxations between bounds that are linear themselves (CROWN)."""

CACHED, LEAST_ROWS = 2**16, 64
"""Numbers in all rows' matrices at once, and how many rows are worth a step of their own."""

_EVERY_OUTPUT = np.zeros(0, np.int64)


def lead_bounds(
    plan: Plan,
    box: Interval,
    leaders: Tensor | None,
    *,
    method: BoundMethod,
    added: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    r"""Return lower bounds of some outputs' leads over every one, :math:`z_y - z_a`, (M, L, A).

    Of a network with layers that linear relaxations do not know they are those of intervals.

    Args:
        plan: the network.
        box: where its observations lie, (M, D).
        leaders: y, int64 (M, L); None are all outputs in order.
        method: which bounds.
        added: what its other inputs add to the first layer's output, (M, H), (H,) or None.
        hidden: a GRU's state before the step, (M, H), known exactly; None is zeros.
    """
    if not _carries_gradients(plan, box.low, box.high, added, hidden):
        found = _by_compiled_code(plan, box, leaders, method, added)
        if found is not None:
            return found
    rows = len(box.low)
    many = _at_once(plan, method) if box.low.device.type == "cpu" else rows
    if method == "interval" or rows <= many:
        return _all_at_once(plan, box, leaders, method, added, hidden)
    parts = []
    for start in range(0, rows, many):
        part = slice(start, start + many)
        whose = None if leaders is None else leaders[part]
        more = added[part] if added is not None and added.dim() > 1 else added
        state = None if hidden is None else hidden[part]
        low, high = box.low[part], box.high[part]
        parts.append(_all_at_once(plan, Interval(low, high), whose, method, more, state))
    return torch.cat(parts)


def _at_once(plan: Plan, method: BoundMethod) -> int:
    """Return how many rows a CPU bounds at once by linear relaxations.

    Each of them has a matrix, of as many numbers as combinations times units. Where all rows' are
    larger than a cache, or than what the system lets a process keep, each step waits for memory.
    """
    sizes = [
        layer.module.out_features for layer in (plan.first, *plan.rest) if isinstance(layer, Affine)
    ]
    combinations = max(sizes[1:], default=1) if method == "tightest" else sizes[-1]
    return max(LEAST_ROWS, CACHED // (combinations * max(sizes)))


def _all_at_once(
    plan: Plan,
    box: Interval,
    leaders: Tensor | None,
    method: BoundMethod,
    added: Tensor | None,
    hidden: Tensor | None,
) -> Tensor:
    forward = interval_bounds(plan, box, added, hidden)
    rows, size = forward[-1].low.shape
    if leaders is None:
        leaders = torch.arange(size, device=box.low.device).expand(rows, size)
    each = leaders.split(1, dim=-1)
    margins = torch.stack([interval_lead_bounds(plan, box, forward, one) for one in each], dim=1)
    if method == "interval":
        return margins
    # Whoever leads, the activations' lines are the same.
    lines = activation_lines(plan, box, forward, added, refine=method == "tightest")
    if lines is None:
        return margins
    one_hot = torch.eye(size, dtype=margins.dtype, device=margins.device)
    leads = (one_hot[one] - one_hot for one in each)  # (M, A, A): row a is z_y - z_a
    tighter = [linear_lower_bounds(plan, box, one, lines, added) for one in leads]
    return torch.maximum(margins, torch.stack(tighter, dim=1))


def _carries_gradients(plan: Plan, *given: Tensor | None) -> bool:
    """Return whether bounds of this network for what is given are to have gradients."""
    if not torch.is_grad_enabled():
        return False
    modules = [
        layer.module for layer in (plan.first, *plan.rest) if isinstance(layer, Affine | Norm | Gru)
    ]
    weights = (weight for module in modules for weight in module.parameters())
    return any(each is not None and each.requires_grad for each in (*given, *weights))


def _by_compiled_code(
    plan: Plan, box: Interval, leaders: Tensor | None, method: BoundMethod, added: Tensor | None
) -> Tensor | None:
    """Return the bounds that compiled code works out, without gradients, None where it cannot."""
    kernel = compiled("bounding")
    if kernel is None or not (leaders is None or leaders.shape[1] == 1):
        return None
    layers = (plan.first, *plan.rest)
    if method != "interval":
        if any(isinstance(layer, Norm) for layer in layers):
            method = "interval"  # which is all that there is
        elif not _takes_turns(layers):
            return None
    network = read_network(kernel, plan)
    if network is None:
        return None
    rows, answers = len(box.low), int(network.layers[-1, 2])
    _, size, width, *_ = network.layers[0].tolist()
    low, high = box if plan.columns is None else (end[:, plan.columns] for end in box)
    added = None if added is None else added.expand(rows, -1)
    of = None if leaders is None else leaders.squeeze(1)
    known = all(fits(end, (rows, size)) for end in (low, high)) and fits(added, (rows, width))
    if not known or not fits(of, (rows,), torch.int64):
        return None
    found = np.empty((rows, answers if of is None else 1, answers), np.float32)
    place = get_args(BoundMethod).index(method)
    given = array(low), array(high), network.layers, network.eps
    aims = array(added), array(of, _EVERY_OUTPUT), place
    return torch.from_numpy(found) if kernel.bound_leads(*given, *aims, found) else None


def _takes_turns(layers: tuple[Layer, ...]) -> bool:
    """Return whether layers are affine and activations in turn, and the last is affine."""
    kinds = [Relu | Tanh if number % 2 else Affine for number in range(len(layers))]
    return len(layers) % 2 == 1 and all(map(isinstance, layers, kinds))
