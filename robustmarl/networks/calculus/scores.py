r"""How an actor's logits depend on its parameters, for all actions at once.

The gradient of a logit with respect to a linear layer's weight is an outer product of what flows
back and what flowed in, so products of such gradients never need the gradients themselves:

.. math:: \langle \nabla_W l_a, \nabla_W l'_b \rangle = (c_a \cdot c'_b)(x \cdot x')

Only the small c and x are computed, batched over rows and actions, once backward for all m
actions; a product with one fixed direction is a single forward-mode pass. Exact; incoming hidden
states are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmarl._checks import check
from robustmarl.networks.agents import AgentNetwork, Agents
from robustmarl.networks.calculus.plan import Affine, Gru, Layer, Norm, Relu, Tanh

__all__ = [
    "ActorJacobian",
    "Scope",
    "SeparateJacobian",
    "linearize",
    "score_gram",
    "score_products",
]

Scope = Literal["full", "head"]
"""Which parameters count: all of the actor's, or its last linear layer's."""

Block = tuple[Tensor, Tensor | None, bool]
"""Cotangents (E, N, K, out), inputs (E, N, in) or None for elementwise, and whether biased."""


class _Node(Protocol):
    """One layer at given rows."""

    def tangent(self, t: Tensor | None) -> Tensor:
        """Return the output's tangent along the parameters' and the input's, (E, N, out)."""

    def back(self, cot: Tensor) -> tuple[list[Block], Tensor | None]:
        """Return blocks, and the input's cotangent (E, N, K, in), of ``cot`` (E, N, K, out)."""

    def pick(self, take: Callable[[Tensor], Tensor]) -> _Node:
        """Return the node at some of its rows."""


def _ascent(parameter: Tensor | None) -> Tensor | None:
    """Return the last ascent direction, minus the gradient of the loss that was stepped on."""
    return None if parameter is None or parameter.grad is None else -parameter.grad


def _known(parameter: Tensor) -> Tensor:
    """Return the last ascent direction, zeros if there is none."""
    ascent = _ascent(parameter)
    return torch.zeros_like(parameter) if ascent is None else ascent


class _Linear:
    """``tables`` are the (rows, out) weights of one-hot inputs, which come last in ``x``."""

    def __init__(
        self, layer: nn.Linear, x: Tensor, tables: Sequence[Tensor] = (), *, first: bool = False
    ) -> None:
        self.layer, self.x, self.tables, self.first = layer, x, tables, first

    def tangent(self, t: Tensor | None) -> Tensor:
        weight = _known(self.layer.weight)
        if self.tables:
            weight = torch.cat([weight, *(_known(table).T for table in self.tables)], dim=1)
        out = F.linear(self.x, weight, _ascent(self.layer.bias))
        return out if t is None else out + F.linear(t, self.layer.weight)

    def back(self, cot: Tensor) -> tuple[list[Block], Tensor | None]:
        block: Block = (cot, self.x, self.layer.bias is not None)
        return [block], None if self.first else cot @ self.layer.weight

    def pick(self, take: Callable[[Tensor], Tensor]) -> _Linear:
        return _Linear(self.layer, take(self.x), self.tables, first=self.first)


class _Bend:
    """An elementwise activation with derivative ``slope`` (E, N, H)."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def tangent(self, t: Tensor | None) -> Tensor:
        assert t is not None  # never the first node
        return t * self.slope

    def back(self, cot: Tensor) -> tuple[list[Block], Tensor | None]:
        return [], cot * self.slope.unsqueeze(-2)

    def pick(self, take: Callable[[Tensor], Tensor]) -> _Bend:
        return _Bend(take(self.slope))


class _Norm:
    """LayerNorm over the last axis: ``unit`` is its output before scale and shift."""

    def __init__(self, layer: nn.LayerNorm, unit: Tensor, rstd: Tensor) -> None:
        self.layer, self.unit, self.rstd = layer, unit, rstd

    def tangent(self, t: Tensor | None) -> Tensor:
        assert t is not None  # never the first node
        scale, shift = _ascent(self.layer.weight), _ascent(self.layer.bias)
        out = self.layer.weight * self._through(t, self.unit, self.rstd)
        out = out if scale is None else out + scale * self.unit
        return out if shift is None else out + shift

    def back(self, cot: Tensor) -> tuple[list[Block], Tensor | None]:
        unit, rstd = self.unit.unsqueeze(-2), self.rstd.unsqueeze(-2)
        blocks: list[Block] = [(cot * unit, None, False), (cot, None, False)]
        return blocks, self._through(cot * self.layer.weight, unit, rstd)

    @staticmethod
    def _through(values: Tensor, unit: Tensor, rstd: Tensor) -> Tensor:
        """Apply the Jacobian of normalising, which is symmetric: it serves both directions."""
        centred = values - values.mean(-1, True)
        return rstd * (centred - unit * (values * unit).mean(-1, True))

    def pick(self, take: Callable[[Tensor], Tensor]) -> _Norm:
        return _Norm(self.layer, take(self.unit), take(self.rstd))


class _GRU:
    """A GRU cell on input ``x`` from a constant state ``h``, as torch writes it.

    With reset gate r, update gate z and candidate n it gives h' = n + z (h - n); ``slopes`` are the
    derivatives of h' by what enters r, z and n.
    """

    def __init__(self, gru: nn.GRU, x: Tensor, h: Tensor, slopes: Tensor, reset: Tensor) -> None:
        self.gru, self.x, self.h, self.slopes, self.reset = gru, x, h, slopes, reset

    @classmethod
    def at(cls, gru: nn.GRU, x: Tensor, h: Tensor) -> tuple[_GRU, Tensor]:
        w_x, w_h, b_x, b_h = gru.all_weights[0]
        r_x, z_x, n_x = F.linear(x, w_x, b_x).chunk(3, dim=-1)
        r_h, z_h, n_h = F.linear(h, w_h, b_h).chunk(3, dim=-1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        to_n = (1.0 - z) * (1.0 - n * n)
        slopes = torch.cat([to_n * n_h * r * (1.0 - r), (h - n) * z * (1.0 - z), to_n], dim=-1)
        return cls(gru, x, h, slopes, r), n + z * (h - n)

    def tangent(self, t: Tensor | None) -> Tensor:
        assert t is not None  # never the first node
        weights = self.gru.all_weights[0]
        along_x, along_h, along_bx, along_bh = (_known(weight) for weight in weights)
        of_x = F.linear(t, weights[0], along_bx) + F.linear(self.x, along_x)
        of_h = F.linear(self.h, along_h, along_bh)
        r, z, n = (self.slopes * of_x).chunk(3, dim=-1)
        r_h, z_h, n_h = (self.slopes * of_h).chunk(3, dim=-1)
        return r + z + n + r_h + z_h + n_h * self.reset

    def back(self, cot: Tensor) -> tuple[list[Block], Tensor | None]:
        size = self.gru.hidden_size
        of_x = cot.repeat(1, 1, 1, 3) * self.slopes.unsqueeze(-2)
        candidate = of_x[..., 2 * size :] * self.reset.unsqueeze(-2)
        of_h = torch.cat([of_x[..., : 2 * size], candidate], dim=-1)
        blocks: list[Block] = [(of_x, self.x, True), (of_h, self.h, True)]
        return blocks, of_x @ self.gru.all_weights[0][0]

    def pick(self, take: Callable[[Tensor], Tensor]) -> _GRU:
        kept = take(self.x), take(self.h), take(self.slopes), take(self.reset)
        return _GRU(self.gru, *kept)


class ActorJacobian:
    """d logits / d parameters at E x N rows; made by :func:`linearize`.

    Args:
        nodes: the layers in order.
        logits: their output, (E, N, A).
    """

    def __init__(self, nodes: Sequence[_Node], logits: Tensor) -> None:
        self._nodes, self.logits = nodes, logits

    def agents(self, index: Sequence[int]) -> ActorJacobian:
        """Return the Jacobian of some agents' rows, (E, len(index))."""
        where = torch.tensor(index, device=self.logits.device)

        def take(values: Tensor) -> Tensor:
            return values.index_select(1, where)

        return ActorJacobian([node.pick(take) for node in self._nodes], take(self.logits))

    @torch.no_grad()
    def jvp(self) -> Tensor:
        """Return J G, (E, N, A), G being minus the gradient of the actor's last step."""
        t: Tensor | None = None
        for node in self._nodes:
            t = node.tangent(t)
        assert t is not None  # there is a layer
        return t

    @torch.no_grad()
    def blocks(self, cot: Tensor | None = None) -> list[Block]:
        """Return the factors of J^T ``cot``; (E, N, K, A), None being the identity (K = A)."""
        if cot is None:
            size = self.logits.shape[-1]
            eye = torch.eye(size, dtype=self.logits.dtype, device=self.logits.device)
            cot = eye.expand(*self.logits.shape[:2], size, size)
        found: list[Block] = []
        flow: Tensor | None = cot
        for node in reversed(self._nodes):
            assert flow is not None  # only the first layer ends it
            new, flow = node.back(flow)
            found += new
        return found


class SeparateJacobian:
    """The same for agents with a network each: their parameters have nothing in common.

    Args:
        parts: the agents' own, of (E, 1) rows.
    """

    def __init__(self, parts: Sequence[ActorJacobian]) -> None:
        self.parts = parts
        self.logits = torch.cat([part.logits for part in parts], dim=1)

    def jvp(self) -> Tensor:
        """Return J G, (E, N, A); see :meth:`ActorJacobian.jvp`."""
        return torch.cat([part.jvp() for part in self.parts], dim=1)


def linearize(
    network: Agents,
    obs: Tensor,
    agents: Tensor,
    last_act: Tensor | None,
    hidden: Tensor | None,
    scope: Scope = "full",
    side: Mapping[str, Tensor] | None = None,
) -> ActorJacobian | SeparateJacobian:
    """Return the Jacobian of an actor's logits.

    Args:
        network: the actor, or one per agent; discrete actions.
        obs: what its agents see, (E, N, D).
        agents: their indices, int64 (N,).
        last_act: their last actions, int64 (E, N), -1 for none; only if the network sees them.
        hidden: their states before ``obs``, (E, N, H); None is zeros.
        scope: ``"full"``, or ``"head"`` for the last linear layer alone.
        side: further inputs of the first layer by name, (E, N, size) each.

    Raises:
        ValueError: for a network of continuous actions, or with layers that are not known here.
    """
    rule = "of discrete actions: the attack shifts logits"
    check(not network.continuous, "linearize.network", rule, "one with continuous actions")
    if isinstance(network, AgentNetwork):
        given = {"agents": agents, "last_act": last_act, **(side or {})}
        return _linearize(network, obs, given, hidden, scope)
    parts = []
    for column, agent in enumerate(agents.tolist()):
        one = slice(column, column + 1)
        last = None if last_act is None else last_act[:, one]
        before = None if hidden is None else hidden[:, one]
        beside = {name: values[:, one] for name, values in (side or {}).items()}
        given = {"last_act": last, **beside}
        parts.append(_linearize(network.of(agent), obs[:, one], given, before, scope))
    return SeparateJacobian(parts)


@torch.no_grad()
def _linearize(
    network: AgentNetwork,
    obs: Tensor,
    given: Mapping[str, Tensor | None],
    hidden: Tensor | None,
    scope: Scope,
) -> ActorJacobian:
    plan = network.plan()
    if plan is None:
        rule = "made of layers that networks.calculus.plan knows"
        raise ValueError(f"linearize.network must be {rule}, got {network}.")
    first = plan.first.module
    read = obs if plan.columns is None else obs[..., plan.columns]
    blocks, tables = [read], []
    for block in plan.inputs:
        values = given.get(block.name)
        if values is not None:
            vectors = block.vectors(values)
            blocks.append(vectors.expand(*obs.shape[:2], -1))
            tables.append(block.table)
    x = torch.cat(blocks, dim=-1) if tables else read
    weight = torch.cat([first.weight, *(table.T for table in tables)], dim=1)
    nodes: list[_Node] = [_Linear(first, x, tables, first=True)]
    x = F.linear(x, weight, first.bias)
    for layer in plan.rest:
        node, x = _node(layer, x, hidden)
        nodes.append(node)
    return ActorJacobian(nodes[-1:] if scope == "head" else nodes, x)


def _node(layer: Layer, x: Tensor, hidden: Tensor | None) -> tuple[_Node, Tensor]:
    """Return ``layer`` at its input ``x`` (E, N, in), and its output (E, N, out)."""
    match layer:
        case Affine(module):
            return _Linear(module, x), F.linear(x, module.weight, module.bias)
        case Relu():
            return _Bend((x > 0).to(x)), x.relu()
        case Tanh():
            y = x.tanh()
            return _Bend(1.0 - y * y), y
        case Norm(module):
            rstd = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + module.eps)
            unit = (x - x.mean(-1, True)) * rstd
            return _Norm(module, unit, rstd), module.weight * unit + module.bias
        case Gru(module):
            return _GRU.at(module, x, torch.zeros_like(x) if hidden is None else hidden)
    assert_never(layer)


def gram(one: list[Block], other: list[Block]) -> Tensor:
    """Return the inner products (E, N, K, M, L) of rows (E, N, K) with rows (E, M, L)."""
    total: Tensor | None = None
    for (c, x, bias), (d, y, _) in zip(one, other, strict=True):
        product = c.flatten(1, 2) @ d.flatten(1, 2).transpose(1, 2)
        product = product.view(*c.shape[:3], *d.shape[1:3])
        if x is not None and y is not None:
            inner = x @ y.transpose(1, 2) + float(bias)
            product *= inner[:, :, None, :, None]  # in place: these are the largest tensors here
        total = product if total is None else total.add_(product)
    assert total is not None  # there is a layer
    return total


def score_gram(
    one: ActorJacobian | SeparateJacobian,
    policy: Tensor,
    other: ActorJacobian | None = None,
    to: Tensor | None = None,
) -> Tensor:
    r"""Return :math:`\langle s_i(a), s_j(b) \rangle`, (E, N, A, M, A).

    .. math:: s(a) = J^\top (e_a - \pi)

    Args:
        one: N agents.
        policy: their :math:`\pi`, (E, N, A).
        other: M agents; None is ``one``.
        to: the others' :math:`\pi`, (E, M, A).
    """
    if isinstance(one, SeparateJacobian):
        products = policy.new_zeros(*policy.shape, *policy.shape[1:])
        for i, part in enumerate(one.parts):
            within = score_gram(part, policy[:, i : i + 1])
            products[:, i, :, i] = within[:, 0, :, 0]
        return products
    blocks = one.blocks()
    if other is None or to is None:
        others, to = blocks, policy
    else:
        others = other.blocks()
    products = gram(blocks, others)
    products = products - (products * policy[..., None, None]).sum(2, keepdim=True)
    return products - (products * to[:, None, None]).sum(4, keepdim=True)


def score_products(jacobian: ActorJacobian | SeparateJacobian, policy: Tensor) -> Tensor:
    r"""Return :math:`\langle G, s(a) \rangle`, (E, N, A); see :meth:`ActorJacobian.jvp`."""
    along = jacobian.jvp()
    return along - (policy * along).sum(-1, keepdim=True)
