"""Steps along the sign of a gradient through plain networks, by compiled code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmarl.networks.calculus.formula import Formula
from robustmarl.networks.calculus.plan import Gru, Plan
from robustmarl.networks.calculus.reading import Network, array, compiled, fits, read_network

__all__ = ["SignSteps", "Way"]


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
        kernel = compiled("kernel")
        if kernel is None:
            return None
        networks = _read_networks(kernel, self._plans)
        if not networks:
            return None
        if extra is not None and extra.dim() < 2:
            extra = extra.expand(len(way.start), -1)
        rows = _read_rows(way, formula, extra, padding, blocked, networks[0])
        limits = _read_limits(way)
        if rows is None or limits is None or not fits(agents, (len(rows.found),), torch.int64):
            return None
        loss = (unmasked, int(formula.kind), formula.targeted, formula.unnamed)

        def walk(network: Network, rows: _Rows) -> int:
            found, clean, padding, *fixed, label, reference, counted = rows
            where = (found, clean, limits, padding, way.steps)
            aims = (*loss, label, reference, counted)
            answer: int = kernel.sign_steps(*where, network.layers, network.eps, *fixed, *aims)
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


def _is_plain(plan: Plan) -> bool:
    """Return whether compiled code knows all layers, and they read all coordinates."""
    return plan.columns is None and not any(isinstance(layer, Gru) for layer in plan.rest)


def _read_networks(kernel: Any, plans: list[Plan]) -> list[Network]:
    """Return networks as they are now, none where compiled code cannot read all of them."""
    networks = []
    for plan in plans:
        network = read_network(kernel, plan)
        if network is None:
            return []
        networks.append(network)
    sizes = {(*network.layers[0, 1:3], network.layers[-1, 2]) for network in networks[1:]}
    first = (*networks[0].layers[0, 1:3], networks[0].layers[-1, 2])
    return networks if sizes <= {first} else []


def _read_rows(
    way: Way,
    formula: Formula,
    extra: Tensor | None,
    padding: Tensor | None,
    blocked: Tensor | None,
    network: Network,
) -> _Rows | None:
    """Return what is given for rows, None where it does not fit the network."""
    count = way.start.shape[0]
    _, obs_size, width, *_ = network.layers[0].tolist()
    observed, answered = (count, obs_size), (count, int(network.layers[-1, 2]))
    known = (
        fits(way.start, observed)
        and fits(way.clean, observed)
        and fits(padding, observed, torch.bool)
        and fits(extra, (count, width))
        and fits(blocked, answered, torch.bool)
        and fits(formula.label, (count,), torch.int64)
        and fits(formula.reference, answered)
        and fits(formula.counted, answered, torch.bool)
    )
    if not known:
        return None
    return _Rows(
        found=array(way.start).copy(),
        clean=array(way.clean),
        padding=array(padding, _NO_BOOLS),
        extra=array(extra),
        blocked=array(blocked, _NO_BOOLS),
        label=array(formula.label, _NO_LABEL),
        reference=array(formula.reference),
        counted=array(formula.counted, _NO_BOOLS),
    )


def _read_limits(way: Way) -> NDArray[np.float32] | None:
    """Return limits and length per coordinate, (4, D), None where they do not fit."""
    size = way.start.shape[-1]
    limits = np.empty((4, size), np.float32)
    for number, values in enumerate((*way.limits, way.length)):
        if isinstance(values, Tensor):
            if values.shape not in ((), (size,)) or not fits(values, values.shape):
                return None
            limits[number] = values.numpy()
        else:
            limits[number] = values
    return limits
