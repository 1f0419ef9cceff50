"""What a network's outputs can be while its observation stays in a box.

Two bounds that hold for every point of the box. Intervals are pushed forward through all layers
[Gowal2018]_. Linear relaxations are pulled back from the output to the observation, as CROWN does
[Zhang2018]_, through affine layers, ReLU and Tanh: tighter on most networks, and dearer by a pass
back per layer. Both are exact for affine networks. They are computed in the network's own
precision: rounding may move them by a few units in the last place. They carry gradients, with
respect to weights and ends, so that a network can be trained on them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl.networks.calculus.plan import Affine, Gru, Norm, Plan, Relu, Tanh

__all__ = [
    "Interval",
    "Lines",
    "activation_lines",
    "interval_bounds",
    "interval_lead_bounds",
    "linear_lower_bounds",
]


class Interval(NamedTuple):
    """All points between two ends.

    Attributes:
        low: (..., H).
        high: (..., H), nowhere below ``low``.
    """

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        """The middle, (..., H)."""
        return (self.low + self.high) * 0.5

    @property
    def radius(self) -> Tensor:
        """Half of the width, (..., H), >= 0."""
        return (self.high - self.low) * 0.5


def interval_bounds(
    plan: Plan,
    box: Interval,
    added: Tensor | None = None,
    hidden: Tensor | None = None,
) -> list[Interval]:
    """Return where each layer's output lies, from the first layer on; the last is the network's.

    Args:
        plan: the network.
        box: where its observations lie, (M, D).
        added: what its other inputs add to the first layer's output, (M, H), or None.
        hidden: a GRU's state before the step, (M, H), known exactly; None is zeros.
    """
    columns = slice(None) if plan.columns is None else plan.columns
    low, high = (end[..., columns] for end in box)
    reached = [_affine(plan.first.module, Interval(low, high), added)]
    for layer in plan.rest:
        before = reached[-1]
        match layer:
            case Affine():
                reached.append(_affine(layer.module, before, None))
            case Relu():
                reached.append(Interval(before.low.relu(), before.high.relu()))
            case Tanh():
                reached.append(Interval(before.low.tanh(), before.high.tanh()))
            case Norm():
                reached.append(_norm(layer.module, before))
            case Gru():
                reached.append(_gru(layer.module, before, hidden))
            case _:
                assert_never(layer)
    return reached


def interval_lead_bounds(
    plan: Plan, box: Interval, forward: list[Interval], leader: Tensor
) -> Tensor:
    r"""Return lower bounds of one output's lead over each other, :math:`z_y - z_a`, (M, A).

    The last layer is applied to the difference, if it is affine: the radius weighs
    :math:`|w_y - w_a|`, which is never more than :math:`|w_y| + |w_a|` [Gowal2018]_.

    Args:
        plan: the network.
        box: where its observations lie, (M, D).
        forward: what :func:`interval_bounds` makes of them.
        leader: y, int64 (M, 1).
    """
    last, reached = (plan.first, *plan.rest)[-1], forward[-1]
    if not isinstance(last, Affine):
        return reached.low.gather(-1, leader) - reached.high
    columns = slice(None) if plan.columns is None or plan.rest else plan.columns
    before = forward[-2] if plan.rest else box
    half = last.module.weight * 0.5
    # One product for the differences of all pairs is cheaper than a matrix for each row.
    first, second, number = _pairs(len(half), half.device)
    radii = F.linear((before.high - before.low)[..., columns], (half[first] - half[second]).abs())
    radius = radii.gather(-1, number[leader.squeeze(-1)])
    centre = reached.centre
    return centre.gather(-1, leader) - centre - radius


@lru_cache
def _pairs(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return both members of each pair of ``size`` outputs, and the number of every pair."""
    with torch.inference_mode(mode=False):  # what is kept must do where there are gradients
        first, second = torch.triu_indices(size, size, device=device)
        number = torch.zeros(size, size, dtype=torch.int64, device=device)
        number[first, second] = number[second, first] = torch.arange(len(first), device=device)
    return first, second, number


def _affine(module: nn.Linear, box: Interval, added: Tensor | None) -> Interval:
    half = module.weight * 0.5  # of sum and difference of the ends: weights are fewer than rows
    centre = F.linear(box.low + box.high, half, module.bias)
    if added is not None:
        centre = centre + added
    radius = F.linear(box.high - box.low, half.abs())
    return Interval(centre - radius, centre.add_(radius))


def _scaled(box: Interval, weight: Tensor | None, bias: Tensor | None) -> Interval:
    """Return ``weight`` x + ``bias``, elementwise."""
    if weight is None:
        return box
    centre, radius = box.centre * weight, box.radius * weight.abs()
    centre = centre if bias is None else centre + bias
    return Interval(centre - radius, centre + radius)


def _norm(module: nn.LayerNorm, box: Interval) -> Interval:
    """Bound LayerNorm: x minus its mean exactly, its deviation and the quotient by intervals."""
    size = box.low.shape[-1]
    centre = box.centre - box.centre.mean(-1, keepdim=True)
    # Of x_i - mean(x) the weight on x_i is 1 - 1/n, on each other -1/n.
    radius = box.radius * (1.0 - 2.0 / size) + box.radius.mean(-1, keepdim=True)
    low, high = centre - radius, centre + radius
    largest = torch.maximum(low.abs(), high.abs()).square()
    smallest = torch.minimum(low.abs(), high.abs()).square()
    smallest = torch.where((low <= 0.0) & (high >= 0.0), 0.0, smallest)
    steep = (smallest.mean(-1, keepdim=True) + module.eps).rsqrt()
    flat = (largest.mean(-1, keepdim=True) + module.eps).rsqrt()
    unit_high = torch.where(high > 0.0, high * steep, high * flat)
    unit_low = torch.where(low < 0.0, low * steep, low * flat)
    most = (size - 1.0) ** 0.5  # of n numbers with mean 0 and mean square 1 none is larger
    unit = Interval(unit_low.clamp(min=-most), unit_high.clamp(max=most))
    return _scaled(unit, module.weight, module.bias)


def _gru(module: nn.GRU, box: Interval, hidden: Tensor | None) -> Interval:
    """Bound a step from a known state: gates are monotone, and mix old and new."""
    w_x, w_h, b_x, b_h = module.all_weights[0]
    state = torch.zeros_like(box.low) if hidden is None else hidden
    centre, radius = F.linear(box.centre, w_x, b_x), F.linear(box.radius, w_x.abs())
    of_state = F.linear(state, w_h, b_h)
    reset_c, update_c, new_c = centre.chunk(3, dim=-1)
    reset_r, update_r, new_r = radius.chunk(3, dim=-1)
    reset_h, update_h, new_h = of_state.chunk(3, dim=-1)
    reset = [torch.sigmoid(reset_c + reset_h + sign * reset_r) for sign in (-1.0, 1.0)]
    update = [torch.sigmoid(update_c + update_h + sign * update_r) for sign in (-1.0, 1.0)]
    gated = [gate * new_h for gate in reset]
    new_low = torch.tanh(new_c - new_r + torch.minimum(*gated))
    new_high = torch.tanh(new_c + new_r + torch.maximum(*gated))
    # (1 - z) n + z h grows with n, and is linear in z: its ends are at the ends of z.
    lows = [(1.0 - z) * new_low + z * state for z in update]
    highs = [(1.0 - z) * new_high + z * state for z in update]
    return Interval(torch.minimum(*lows), torch.maximum(*highs))


class Lines(NamedTuple):
    """Two lines between which an activation lies: slopes and offsets, (M, H) each.

    Attributes:
        lower_slope: of the line below.
        lower: its offset; None is 0 everywhere.
        upper_slope: of the line above.
        upper: its offset.
    """

    lower_slope: Tensor
    lower: Tensor | None
    upper_slope: Tensor
    upper: Tensor


def activation_lines(
    plan: Plan,
    box: Interval,
    forward: list[Interval],
    added: Tensor | None = None,
    *,
    refine: bool = True,
) -> dict[int, Lines] | None:
    """Return the lines of each activation, by its place among the layers.

    None for a network with layers that are not affine, ReLU or Tanh: intervals are all there is.

    Args:
        plan: the network.
        box: where its observations lie, (M, D).
        forward: what :func:`interval_bounds` makes of the same.
        added: what its other inputs add to the first layer's output, (M, H), or None.
        refine: bound each activation's input by the layers before it, which tightens its lines and
            costs a pass back for every unit; else take the intervals.
    """
    layers = (plan.first, *plan.rest)
    if any(isinstance(layer, Norm | Gru) for layer in layers):
        return None
    lines: dict[int, Lines] = {}
    for index, layer in enumerate(layers):
        if not isinstance(layer, Relu | Tanh):
            continue
        before = forward[index - 1]
        if refine and index > 1:  # the first layer's output is known exactly already
            size = before.low.shape[-1]
            each = torch.eye(size, dtype=before.low.dtype, device=before.low.device)[None]
            low = _pulled_back(plan, index, box, each, added, lines)
            high = -_pulled_back(plan, index, box, -each, added, lines)
            before = Interval(torch.maximum(low, before.low), torch.minimum(high, before.high))
        lines[index] = _relu_lines(before) if isinstance(layer, Relu) else _tanh_lines(before)
    return lines


def linear_lower_bounds(
    plan: Plan,
    box: Interval,
    combinations: Tensor,
    lines: dict[int, Lines],
    added: Tensor | None = None,
) -> Tensor:
    """Return lower bounds of linear combinations of the outputs, (M, K).

    Args:
        plan: the network.
        box: where its observations lie, (M, D).
        combinations: (M, K, A), or (1, K, A) if they are the same for all rows.
        lines: what :func:`activation_lines` makes of the same.
        added: what its other inputs add to the first layer's output, (M, H), or None.
    """
    return _pulled_back(plan, len(plan.rest) + 1, box, combinations, added, lines)


def _pulled_back(
    plan: Plan,
    depth: int,
    box: Interval,
    combinations: Tensor,
    added: Tensor | None,
    lines: dict[int, Lines],
) -> Tensor:
    """Return lower bounds of combinations of the first ``depth`` layers' output, (M, K)."""
    layers = (plan.first, *plan.rest)[:depth]
    weight, offset = combinations, combinations.new_zeros(combinations.shape[:2])
    for index in range(depth - 1, -1, -1):
        layer = layers[index]
        if isinstance(layer, Affine):
            bias = layer.module.bias
            if bias is not None:
                offset = offset + weight @ bias
            if index == 0 and added is not None:
                offset = offset + _times(weight, added)
            weight = weight @ layer.module.weight
        else:  # from below a positive weight rests on the lower line, a negative on the upper
            line = lines[index]
            negative, more = weight.clamp(max=0.0), line.upper_slope - line.lower_slope
            above = line.upper if line.lower is None else line.upper - line.lower
            offset = offset + _times(negative, above)
            if line.lower is not None:
                offset = offset + _times(weight, line.lower)
            weight = (weight * line.lower_slope.unsqueeze(1)).addcmul_(negative, more.unsqueeze(1))
    columns = slice(None) if plan.columns is None else plan.columns
    low, width = box.low[..., columns], (box.high - box.low)[..., columns]
    return offset + _times(weight, low) + _times(weight.clamp(max=0.0), width)


def _times(weight: Tensor, vector: Tensor) -> Tensor:
    """Return each row's matrix, (M, K, H) or one of all (1, K, H), times its vector (M, H)."""
    if len(weight) == 1:
        return vector @ weight[0].T
    # With the vector on the left bmm is seven times as fast as with it on the right.
    vector = vector.expand(len(weight), -1).unsqueeze(1)
    return torch.bmm(vector, weight.transpose(1, 2)).squeeze(1)


def _relu_lines(before: Interval) -> Lines:
    """Bound ReLU: exact where its input has one sign, else by its chord above and 0 or x below."""
    low, high = before
    below, above = low.clamp(max=0.0), high.clamp(min=0.0)
    # 0 or 1 where the input has one sign. A width below this is rounding, and must not divide.
    chord = above / (above - below).clamp(min=1e-12)
    # Of the lines from 0 below, the one that leaves out the smaller area (CROWN's choice).
    lower_slope = (high > -low).to(low.dtype)
    return Lines(lower_slope, None, chord, -below * chord)


def _tanh_lines(before: Interval) -> Lines:
    """Bound Tanh by two lines through its ends, no steeper than it is anywhere in between."""
    low, high = before.low.tanh(), before.high.tanh()
    slope = torch.minimum(1.0 - low.square(), 1.0 - high.square())  # its slope is least at an end
    return Lines(slope, low - slope * before.low, slope, high - slope * before.high)
