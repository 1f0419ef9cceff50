"""Matrix products for compiled code, whose rows do not depend on each other in any bit.

An element of a product is a sum over one axis, in its order, by fused multiply-adds: the same ones
whichever rows are worked out beside it, and however many there are. Libraries of matrix products do
not promise that. Matrices lie in flat arrays, their rows padded to whole vectors of ``LANES``
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "Flat",
    "Matrix",
    "add_product",
    "add_product_of_some",
    "fill",
    "inner",
    "number_at",
    "padded",
    "rows_of",
    "sum_of",
    "summing",
]

LANES = 16
"""Numbers in a vector: one register of AVX-512, two or four of others."""

_TILE = 4
"""Rows of a product that are summed up together, in registers."""


def _has_long_registers() -> bool:
    try:
        return bool(binding.get_host_cpu_features().get("avx512f", False))
    except RuntimeError:  # a machine that does not tell
        return False


# Vectors of these rows: 4 times 2 of them fill a quarter of AVX-512's registers, and hide the
# latency of a sum; with the 16 registers of half the length that others have, 4 times 1.
_VECTORS = 2 if _has_long_registers() else 1

Flat: TypeAlias = NDArray[np.float32]  # (K,)
Matrix: TypeAlias = NDArray[np.float32]  # (K, L)

Ir: TypeAlias = Any
"""Of numba and llvmlite: neither says what its values are."""

Function = TypeVar("Function", bound=Callable[..., Any])


# Division by zero is infinite; nobody but compiled code calls these functions. They do not count
# who holds an array, which would cost as much as a short loop for each row that is looked at: so
# they make none, and whoever calls them from outside holds what they are given, and gets none.
_OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}


def inner(function: Function) -> Function:
    """Compile a function that compiled code calls."""
    made: Function = njit(**_OPTIONS)(function)
    return made


def summing(function: Function) -> Function:
    """Compile a function whose sums compiled code may add up in another order, in vectors."""
    made: Function = njit(fastmath={"reassoc", "contract"}, **_OPTIONS)(function)
    return made


@inner
def padded(size: int) -> int:
    """Return the length of a row of ``size`` numbers with its padding."""
    return (size + LANES - 1) // LANES * LANES


@inner
def fill(values: Flat, number: np.float32) -> None:
    """Set all to ``number``."""
    for k in range(len(values)):
        values[k] = number


@intrinsic
def _number_at(_: Ir, address: Ir, index: Ir) -> Ir:
    """Return number ``index`` of the contiguous float32 array that begins at ``address``."""

    def emit(context: Ir, build: Ir, signature: Ir, given: Ir) -> Ir:
        start = build.inttoptr(given[0], ir.FloatType().as_pointer())
        return build.load(build.gep(start, [given[1]]), align=4)

    return types.float32(types.int64, types.intp), emit


@intrinsic
def _rows_of(_: Ir, values: Ir, at: Ir, rows: Ir, wide: Ir) -> Ir:
    """Return the matrix (rows, wide) at a place of an array, which somebody else holds."""

    def emit(context: Ir, build: Ir, signature: Ir, given: Ir) -> Ir:
        made = context.make_array(signature.return_type)(context, build)
        size = context.get_constant(types.intp, np.dtype(np.float32).itemsize)
        start = build.gep(_data(context, build, signature, given, 0), [given[1]])
        strides = (build.mul(given[3], size), size)
        populate_array(made, start, given[2:4], strides, size, meminfo=None)
        return made._getvalue()

    return types.float32[:, ::1](values, types.intp, types.intp, types.intp), emit


@intrinsic
def _sum_of(_: Ir, values: Ir, at: Ir, size: Ir) -> Ir:
    """Return the sum of ``size`` numbers, whole vectors, of an array from ``at`` on.

    Vectors are added up in order, and then the halves of what is left.
    """

    def emit(context: Ir, build: Ir, signature: Ir, given: Ir) -> Ir:
        integer, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
        start = build.gep(_data(context, build, signature, given, 0), [given[1]])
        before = build.block
        loop, after = build.append_basic_block("loop"), build.append_basic_block("after")
        build.branch(loop)

        build.position_at_end(loop)
        k, running = build.phi(integer), build.phi(vector)
        place = build.bitcast(build.gep(start, [k]), vector.as_pointer())
        total = build.fadd(running, build.load(place, align=4))
        following = build.add(k, integer(LANES))
        k.add_incoming(integer(0), before)
        k.add_incoming(following, loop)
        running.add_incoming(ir.Constant(vector, [0.0] * LANES), before)
        running.add_incoming(total, loop)
        build.cbranch(build.icmp_signed("<", following, given[2]), loop, after)

        build.position_at_end(after)
        width = LANES
        while width > 1:
            width //= 2
            indices = ir.VectorType(ir.IntType(32), width)
            first = ir.Constant(indices, list(range(width)))
            second = ir.Constant(indices, list(range(width, 2 * width)))
            halves = [build.shuffle_vector(total, total, part) for part in (first, second)]
            total = build.fadd(*halves)
        return build.extract_element(total, ir.IntType(32)(0))

    return types.float32(values, types.intp, types.intp), emit


def _data(context: Ir, build: Ir, signature: Ir, given: Ir, number: int) -> Ir:
    """Return a pointer to the first number of the array that is argument ``number``."""
    return context.make_array(signature.args[number])(context, build, given[number]).data


number_at: Ir = _number_at  # called without what they get from numba
rows_of: Ir = _rows_of
sum_of: Ir = _sum_of


def _tile(rows: int, vectors: int, *, some: bool = False) -> Ir:
    """Return a function that adds to a tile: ``rows`` rows of ``vectors`` vectors.

    It is out += x @ w, x being (rows, size) and w (size, vectors * LANES). Every matrix is given as
    a flat array, an offset and the distance of its rows. Written out because a compiler cannot be
    brought to keep the tile in registers. With ``some`` only some of x's columns and w's rows
    count: ``size`` of them, whose numbers are in an array from an offset on.
    """
    places = (types.intp, types.intp)

    @intrinsic
    def tile(
        _: Ir, x: Ir, x_at: Ir, x_wide: Ir, w: Ir, w_at: Ir, w_wide: Ir,
        out: Ir, out_at: Ir, out_wide: Ir, size: Ir,
    ) -> Ir:  # fmt: skip
        return types.void(x, *places, w, *places, out, *places, types.intp), emit

    @intrinsic
    def tile_of_some(
        _: Ir, x: Ir, x_at: Ir, x_wide: Ir, w: Ir, w_at: Ir, w_wide: Ir,
        out: Ir, out_at: Ir, out_wide: Ir, size: Ir, chosen: Ir, chosen_at: Ir,
    ) -> Ir:  # fmt: skip
        counted = (types.intp, chosen, types.intp)
        return types.void(x, *places, w, *places, out, *places, *counted), emit

    def emit(context: Ir, build: Ir, signature: Ir, given: Ir) -> Ir:
        integer, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
        nothing = ir.Constant(vector, ir.Undefined)
        first_lane = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        fused = cgutils.get_or_insert_function(
            build.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
        )

        def pointer(number: int) -> Ir:
            return build.gep(_data(context, build, signature, given, number), [given[number + 1]])

        chosen = pointer(10) if some else None

        def vectors_from(pointer: Ir) -> list[Ir]:
            starts = [build.gep(pointer, [integer(j * LANES)]) for j in range(vectors)]
            return [build.bitcast(start, vector.as_pointer()) for start in starts]

        def lines_of(pointer: Ir, wide: Ir) -> list[Ir]:
            return [build.gep(pointer, [build.mul(wide, integer(i))]) for i in range(rows)]

        x, w, out = pointer(0), pointer(3), pointer(6)
        x_wide, w_wide, out_wide, size = given[2], given[5], given[8], given[9]
        numbers = lines_of(x, x_wide)
        targets = [vectors_from(line) for line in lines_of(out, out_wide)]
        sums = [[build.load(target, align=4) for target in line] for line in targets]
        before = build.block
        loop, after = build.append_basic_block("loop"), build.append_basic_block("after")
        build.branch(loop)

        build.position_at_end(loop)
        step = build.phi(integer)
        totals = [[build.phi(vector) for _ in line] for line in sums]
        k = build.load(build.gep(chosen, [step])) if some else step
        factors = [
            build.load(start, align=4)
            for start in vectors_from(build.gep(w, [build.mul(k, w_wide)]))
        ]
        for i in range(rows):
            number = build.load(build.gep(numbers[i], [k]))
            lane = build.insert_element(nothing, number, ir.IntType(32)(0))
            lanes = build.shuffle_vector(lane, nothing, first_lane)
            for j in range(vectors):
                total = build.call(fused, [lanes, factors[j], totals[i][j]])
                totals[i][j].add_incoming(sums[i][j], before)
                totals[i][j].add_incoming(total, loop)
                sums[i][j] = total
        following = build.add(step, integer(1))
        step.add_incoming(integer(0), before)
        step.add_incoming(following, loop)
        build.cbranch(build.icmp_signed("<", following, size), loop, after)

        build.position_at_end(after)
        for i in range(rows):
            for j in range(vectors):
                build.store(sums[i][j], targets[i][j], align=4)
        return context.get_dummy_value()

    return tile_of_some if some else tile


def _adding(*, some: bool) -> Ir:
    """Return a function that adds x (rows, size) times w (size, w_wide) to out (rows, w_wide).

    What ``along`` says is size, or with ``some`` as for :func:`_tile`.
    """
    many_wide, one_wide = _tile(_TILE, _VECTORS, some=some), _tile(1, _VECTORS, some=some)
    many_narrow, one_narrow = _tile(_TILE, 1, some=some), _tile(1, 1, some=some)

    @inner
    def add(
        x: Flat, x_at: int, x_wide: int, w: Flat, w_at: int, w_wide: int, out: Flat, out_at: int,
        rows: int, *along: Ir,
    ) -> None:  # fmt: skip
        if along[0] == 0:
            return
        tiled, wide = rows - rows % _TILE, _VECTORS * LANES
        for j in range(0, w_wide - wide + 1, wide):
            for i in range(0, tiled, _TILE):
                x_i, out_i = x_at + i * x_wide, out_at + i * w_wide + j
                many_wide(x, x_i, x_wide, w, w_at + j, w_wide, out, out_i, w_wide, *along)
            for i in range(tiled, rows):
                x_i, out_i = x_at + i * x_wide, out_at + i * w_wide + j
                one_wide(x, x_i, x_wide, w, w_at + j, w_wide, out, out_i, w_wide, *along)
        for j in range(w_wide - w_wide % wide, w_wide, LANES):
            for i in range(0, tiled, _TILE):
                x_i, out_i = x_at + i * x_wide, out_at + i * w_wide + j
                many_narrow(x, x_i, x_wide, w, w_at + j, w_wide, out, out_i, w_wide, *along)
            for i in range(tiled, rows):
                x_i, out_i = x_at + i * x_wide, out_at + i * w_wide + j
                one_narrow(x, x_i, x_wide, w, w_at + j, w_wide, out, out_i, w_wide, *along)

    return add


add_product, add_product_of_some = _adding(some=False), _adding(some=True)
