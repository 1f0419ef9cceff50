"""Steps along the sign of a gradient through plain networks, by compiled code."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.networks.calculus.formula import Formula
from robustmarl.networks.calculus.plan import Affine, Gru, Norm, Plan, Relu, Tanh

__all__ = ["SignSteps", "Way"]


_NOTHING = np.zeros((0, 0), np.float32)
_NO_BOOLS = np.zeros((0, 0), np.bool_)
_NO_LABEL = np.zeros(0, np.int64)


class Way(NamedTuple):
    """Rows of observations, and where steps may lead them.

    Attributes:
        start: where they begin, (M, D).
        clean: the middle of the box in which every step ends, (M, D).
        limits: the box's radius, and the lowest and the highest valid value, () or (D,) each; the
            range is widened to contain ``clean``, as by :class:`~robustmarl.budgets.LinfBall`.
        length: of a step, one number or (D,).
        steps: how many, >= 1.
    """

    start: Tensor
    clean: Tensor
    limits: tuple[Tensor, Tensor, Tensor]
    length: float | Tensor
    steps: int


class _Network(NamedTuple):
    """A network as compiled code reads it.

    Attributes:
        layers: kind, fan-in, fan-out and addresses of weight and bias, int64 (L, 5).
        eps: of a LayerNorm, (L,).
    """

    layers: NDArray[np.int64]
    eps: NDArray[np.float32]


class _Rows(NamedTuple):
    """What belongs to M rows, as compiled code reads it."""

    found: NDArray[np.float32]
    clean: NDArray[np.float32]
    padding: NDArray[np.bool_]
    extra: NDArray[np.float32]
    blocked: NDArray[np.bool_]
    label: NDArray[np.int64]
    reference: NDArray[np.float32]
    counted: NDArray[np.bool_]

    def select(self, index: NDArray[np.int64]) -> _Rows:
        """Return copies of the rows ``index``, (K,)."""
        return _Rows._make(values[index] if len(values) else values for values in self)


class SignSteps:
    """All steps of a gradient attack in one call of compiled code.

    It can be done on the CPU in single precision, where numba can be imported and may keep what it
    compiled, for networks of affine layers, ReLU, Tanh and LayerNorm. Gradients are those of
    :class:`~robustmarl.networks.calculus.InputGradient` but for rounding, and no bit of a row
    depends on the others. Layers are referenced, and read anew in every call.

    Args:
        plans: of the agents' networks; one alone is everybody's.
    """

    def __init__(self, plans: list[Plan]) -> None:
        self._plans = plans

    @classmethod
    def of(cls, *plans: Plan | None) -> SignSteps | None:
        """Return the steps through these networks, None where they have to be taken one by one."""
        known = [plan for plan in plans if plan is not None and _is_plain(plan)]
        return cls(known) if len(known) == len(plans) else None

    def take(
        self,
        way: Way,
        formula: Formula,
        *,
        extra: Tensor | None = None,
        padding: Tensor | None = None,
        blocked: Tensor | None = None,
        unmasked: float = 0.0,
        agents: Tensor | None = None,
    ) -> tuple[Tensor, bool] | None:
        """Return where the steps lead, (M, D), and whether the last gradients are finite.

        Args:
            way: rows, limits and steps.
            formula: the loss that is raised; labels without a name are written to it.
            extra: added to the first layer's output, (M, H) or (H,), constant.
            padding: where observations do not exist, bool (M, D): read as zeros; None is nowhere.
            blocked: where outputs do not count, bool (M, A); None is nowhere.
            unmasked: what they are taken for there.
            agents: whose network a row goes through, int64 (M,); None is the first.

        Returns:
            None where compiled code does not fit what is given; then nothing was changed.
        """
        kernel = _kernel()
        if kernel is None:
            return None
        networks = _read_networks(kernel, self._plans)
        if not networks:
            return None
        if extra is not None and extra.dim() < 2:
            extra = extra.expand(len(way.start), -1)
        rows = _read_rows(way, formula, extra, padding, blocked, networks[0])
        limits = _read_limits(way)
        if rows is None or limits is None or not _fits(agents, (len(rows.found),), torch.int64):
            return None
        loss = (unmasked, int(formula.kind), formula.targeted, formula.unnamed)

        def walk(network: _Network, rows: _Rows) -> int:
            found, clean, padding, *fixed, label, reference, counted = rows
            where = (found, clean, limits, padding, way.steps)
            aims = (*loss, label, reference, counted)
            answer: int = kernel.sign_steps(*where, *network, *fixed, *aims)
            return answer

        if agents is None or len(networks) == 1:
            answers = {walk(networks[0], rows)}
        else:
            answers, whose = set(), agents.numpy()
            for number, network in enumerate(networks):
                index = np.flatnonzero(whose == number)
                part = rows.select(index)
                answers.add(walk(network, part))
                rows.found[index] = part.found
                if len(rows.label):
                    rows.label[index] = part.label
        if kernel.NO_ACTION in answers:
            return None
        return torch.from_numpy(rows.found), answers == {kernel.FINE}


@cache
def _kernel() -> Any:
    """Return the module of compiled code, None where there can be none."""
    try:
        numba = import_module("numba")
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:
        return None  # interpreted it would take minutes
    try:
        return import_module("robustmarl.networks.calculus._compiled.kernel")
    except (OSError, RuntimeError, numba.core.errors.NumbaError):
        return None  # no place to keep what is compiled, or a machine that it is not compiled for


def _is_plain(plan: Plan) -> bool:
    """Return whether compiled code knows all layers, and they read all coordinates."""
    return plan.columns is None and not any(isinstance(layer, Gru) for layer in plan.rest)


def _read_networks(kernel: Any, plans: list[Plan]) -> list[_Network]:
    """Return networks as they are now, none where compiled code cannot read all of them."""
    networks = []
    for plan in plans:
        network = _read_network(kernel, plan)
        if network is None:
            return []
        networks.append(network)
    sizes = {(*network.layers[0, 1:3], network.layers[-1, 2]) for network in networks[1:]}
    first = (*networks[0].layers[0, 1:3], networks[0].layers[-1, 2])
    return networks if sizes <= {first} else []


def _read_network(kernel: Any, plan: Plan) -> _Network | None:
    layers, eps, width = [], [], plan.first.module.in_features
    for layer in (plan.first, *plan.rest):
        fan_in, weight, bias, small = width, None, None, 0.0
        match layer:
            case Affine(module):
                kind, weight, bias = kernel.AFFINE, module.weight, module.bias
                width = weight.shape[0]
                fits = _stands(weight, (width, fan_in)) and _stands(bias, (width,))
            case Norm(module):
                kind, weight, bias, small = kernel.NORM, module.weight, module.bias, module.eps
                fits = module.normalized_shape == (width,)
                fits = fits and _stands(weight, (width,)) and _stands(bias, (width,))
            case Relu():
                kind, fits = kernel.RELU, True
            case Tanh():
                kind, fits = kernel.TANH, True
            case Gru():
                return None
            case _:
                assert_never(layer)
        if not fits:
            return None
        layers.append((kind, fan_in, width, _address(weight), _address(bias)))
        eps.append(small)
    return _Network(np.array(layers, np.int64), np.array(eps, np.float32))


def _read_rows(
    way: Way,
    formula: Formula,
    extra: Tensor | None,
    padding: Tensor | None,
    blocked: Tensor | None,
    network: _Network,
) -> _Rows | None:
    """Return what is given for rows, None where it does not fit the network."""
    count = way.start.shape[0]
    _, obs_size, width, *_ = network.layers[0].tolist()
    observed, answered = (count, obs_size), (count, int(network.layers[-1, 2]))
    fits = (
        _fits(way.start, observed)
        and _fits(way.clean, observed)
        and _fits(padding, observed, torch.bool)
        and _fits(extra, (count, width))
        and _fits(blocked, answered, torch.bool)
        and _fits(formula.label, (count,), torch.int64)
        and _fits(formula.reference, answered)
        and _fits(formula.counted, answered, torch.bool)
    )
    if not fits:
        return None
    return _Rows(
        found=_array(way.start).copy(),
        clean=_array(way.clean),
        padding=_array(padding, _NO_BOOLS),
        extra=_array(extra),
        blocked=_array(blocked, _NO_BOOLS),
        label=_array(formula.label, _NO_LABEL),
        reference=_array(formula.reference),
        counted=_array(formula.counted, _NO_BOOLS),
    )


def _read_limits(way: Way) -> NDArray[np.float32] | None:
    """Return limits and length per coordinate, (4, D), None where they do not fit."""
    size = way.start.shape[-1]
    limits = np.empty((4, size), np.float32)
    for number, values in enumerate((*way.limits, way.length)):
        if isinstance(values, Tensor):
            if values.shape not in ((), (size,)) or not _fits(values, values.shape):
                return None
            limits[number] = values.numpy()
        else:
            limits[number] = values
    return limits


def _fits(
    values: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> bool:
    """Return whether ``values``, if there are any, can be read by compiled code."""
    if values is None:
        return True
    return values.dtype is dtype and values.is_cpu and values.shape == shape


def _stands(weight: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Return whether ``weight`` can be read from its address."""
    return weight is None or (_fits(weight, shape) and weight.is_contiguous())


def _address(weight: Tensor | None) -> int:
    return 0 if weight is None else weight.data_ptr()


def _array(values: Tensor | None, otherwise: NDArray[Any] = _NOTHING) -> NDArray[Any]:
    return otherwise if values is None else values.detach().contiguous().numpy()
