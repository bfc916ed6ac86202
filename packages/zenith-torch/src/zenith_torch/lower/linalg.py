"""Cholesky and LU, and what rests on them: LAPACK's plain forms. See Note [Columns].

What eager raises for (a singular matrix) is a matrix of NaN here, and `info` says where.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.matrices import (
    as_captured,
    chosen,
    compared,
    diagonal_of,
    first_set,
    identity,
    matrices,
    number_like,
    numbers,
    or_nan,
    over_columns,
    swapped,
    times_vector,
    transposed,
)
from zenith_torch.lower.registry import lower

# --- Cholesky, triangles --------------------------------------------------------------------------


def _cholesky(b: Builder, a: ir.Value) -> ir.Value:
    rows = numbers(b, b.shape_of(a)[1])

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (factor,) = state
        column, row = b.gather(a, j, 2), b.gather(factor, j, 1)
        rest = b.op("Sub", column, times_vector(b, factor, row))
        head = b.unsqueeze(b.gather(rest, j, 1), 1)
        column = b.op("Div", rest, b.op("Sqrt", head))
        column = chosen(b, compared(b, "GreaterOrEqual", rows, j), column, number_like(b, 0, a))
        return [chosen(b, compared(b, "Equal", rows, j), b.unsqueeze(column, 2), factor)], []

    start = b.expand(number_like(b, 0, a), b.shape_of(a))
    return over_columns(b, rows, [start], [], step)[0][0]


@lower("aten.linalg_cholesky_ex.default")
def cholesky(
    b: Builder, x: ir.Value, *, upper: bool = False, check_errors: bool = False
) -> list[ir.Value]:
    a = matrices(b, x)
    factor = _cholesky(b, transposed(b, a) if upper else a)
    diagonal = diagonal_of(b, factor)
    finite = b.op("And", compared(b, "Greater", diagonal, number_like(b, 0, a)),
                  b.op("Not", b.op("IsInf", diagonal, dtype=torch.bool)))  # fmt: skip
    info = first_set(b, b.op("Not", finite))
    return as_captured(b, transposed(b, factor) if upper else factor, info)


def _solve_triangle(
    b: Builder, a: ir.Value, x: ir.Value, upper: bool, ones: bool = False
) -> ir.Value:
    """A^-1 X, where only a triangle of A is read; `ones`: its diagonal is taken for ones."""
    rows = numbers(b, b.shape_of(a)[1])

    def step(state: Sequence[ir.Value], i: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (solved,) = state
        weights = b.gather(a, i, 1)
        # Rows that are not solved yet are zeros.
        known = times_vector(b, transposed(b, solved), weights)
        value = b.op("Sub", b.gather(x, i, 1), known)
        if not ones:
            value = b.op("Div", value, b.unsqueeze(b.gather(weights, i, 1), 1))
        here = b.unsqueeze(compared(b, "Equal", rows, i), 1)
        return [chosen(b, here, b.unsqueeze(value, 1), solved)], []

    start = b.expand(number_like(b, 0, x), b.shape_of(x))
    return over_columns(b, b.flip(rows, [0]) if upper else rows, [start], [], step)[0][0]


@lower("aten.linalg_solve_triangular.default")
def solve_triangular(
    b: Builder,
    a: ir.Value,
    x: ir.Value,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> ir.Value:
    if not left:  # X A = B says A^T X^T = B^T
        a, x, upper = swapped(b, a), swapped(b, x), not upper
    a, x = _of_one_batch(b, a, x)
    solved = _solve_triangle(b, a, x, upper, unitriangular)
    return b.reshape(solved if left else transposed(b, solved), b.out_shape)


def _of_one_batch(b: Builder, a: ir.Value, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both broadcast to the result's batch."""
    lead = b.out_shape[:-2]
    if len(lead) + 2 < max(b.rank_of(a), b.rank_of(x)):
        raise NotSupportedError("of a batch that the result does not have")
    parts = (b.expand(v, (*lead, *b.shape_of(v)[-2:])) for v in (a, x))
    first, second = (matrices(b, v) for v in parts)
    return first, second


@lower("aten.cholesky_solve.default")
def cholesky_solve(b: Builder, x: ir.Value, factor: ir.Value, upper: bool = False) -> ir.Value:
    factor, x = _of_one_batch(b, swapped(b, factor) if upper else factor, x)
    half = _solve_triangle(b, factor, x, False)
    return b.reshape(_solve_triangle(b, transposed(b, factor), half, True), b.out_shape)


@lower("aten.cholesky_inverse.default")
def cholesky_inverse(b: Builder, factor: ir.Value, upper: bool = False) -> ir.Value:
    factor = matrices(b, swapped(b, factor) if upper else factor)
    half = _solve_triangle(b, factor, identity(b, factor, b.shape_of(factor)[1]), False)
    return b.reshape(b.op("MatMul", transposed(b, half), half), b.out_shape)


# --- LU -------------------------------------------------------------------------------------------


def _exchanged(b: Builder, rows: ir.Value, j: ir.Value, pivot: ir.Value) -> ir.Value:
    """(batch, m) where each row comes from when row j and the pivot's change places."""
    moved = chosen(b, compared(b, "Equal", rows, pivot), j, rows)
    return chosen(b, compared(b, "Equal", rows, j), pivot, moved)


def _taken(b: Builder, x: ir.Value, rows: ir.Value) -> ir.Value:
    """Rows of each matrix in another order."""
    places = b.expand(b.unsqueeze(rows, 2), b.shape_of(x))
    return b.op("GatherElements", x, places, shape=b.shape_of(x), axis=1)


def _lu(b: Builder, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Partial pivoting: both factors in one matrix, and the pivots (batch, columns)."""
    batch, m, n = b.shape_of(a)
    rows, columns = numbers(b, m), numbers(b, n)
    zero, one = number_like(b, 0, a), number_like(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (a,) = state
        open_rows = compared(b, "GreaterOrEqual", rows, j)
        size = chosen(b, open_rows, b.op("Abs", b.gather(a, j, 2)), number_like(b, -1, a))
        pivot = b.op("ArgMax", size, shape=(batch, 1), dtype=torch.int64, axis=1, keepdims=1)
        a = _taken(b, a, _exchanged(b, rows, j, pivot))
        column, row = b.gather(a, j, 2), b.gather(a, j, 1)
        head = b.unsqueeze(b.gather(column, j, 1), 1)
        safe = chosen(b, compared(b, "Equal", head, zero), one, head)
        below = compared(b, "Greater", rows, j)
        factor = chosen(b, below, b.op("Div", column, safe), zero)
        right = chosen(b, compared(b, "Greater", columns, j), row, zero)
        product_of = b.op("Mul", b.unsqueeze(factor, 2), b.unsqueeze(right, 1))
        done = b.unsqueeze(chosen(b, below, factor, column), 2)
        rest = b.op("Sub", a, product_of)
        return [chosen(b, compared(b, "Equal", columns, j), done, rest)], [b.squeeze(pivot, 1)]

    count = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    (both,), (pivots,) = over_columns(b, numbers(b, count), [a], [batch], step)
    return both, b.transpose(pivots, [1, 0])


def _order(b: Builder, pivots: ir.Value, size: Dim) -> ir.Value:
    """(batch, m) which row of the matrix each row of its factors is."""
    batch, count = b.shape_of(pivots)
    rows = numbers(b, size)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (order,) = state
        moved = _exchanged(b, rows, j, b.unsqueeze(b.gather(pivots, j, 1), 1))
        shape = b.shape_of(order)
        return [b.op("GatherElements", order, moved, shape=shape, axis=1)], []

    start = b.expand(rows, (batch, size))
    return over_columns(b, numbers(b, count), [start], [], step)[0][0]


def _lu_solve(
    b: Builder, both: ir.Value, pivots: ir.Value, x: ir.Value, of_transpose: bool
) -> ir.Value:
    """A^-1 X, or A^-T X, from the factors: A with its rows in `order` is L U."""
    order = _order(b, pivots, b.shape_of(both)[1])
    if not of_transpose:
        half = _solve_triangle(b, both, _taken(b, x, order), False, ones=True)
        return _solve_triangle(b, both, half, True)
    both = transposed(b, both)
    half = _solve_triangle(b, both, x, False)
    solved = _solve_triangle(b, both, half, True, ones=True)
    places = b.expand(b.unsqueeze(order, 2), b.shape_of(x))
    return b.op("ScatterElements", solved, places, solved, shape=b.shape_of(x), axis=1)


def _info(b: Builder, both: ir.Value) -> ir.Value:
    return first_set(b, compared(b, "Equal", diagonal_of(b, both), number_like(b, 0, both)))


def _one_based(b: Builder, pivots: ir.Value) -> ir.Value:
    return b.op("Add", pivots, b.number(1, torch.int64))


@lower("aten.linalg_lu_factor_ex.default")
def lu_factor(
    b: Builder, x: ir.Value, *, pivot: bool = True, check_errors: bool = False
) -> list[ir.Value]:
    if not pivot:
        raise NotSupportedError("without pivoting")
    both, pivots = _lu(b, matrices(b, x))
    return as_captured(b, both, _one_based(b, pivots), _info(b, both))


@lower("aten.linalg_lu_solve.default")
def lu_solve(
    b: Builder,
    both: ir.Value,
    pivots: ir.Value,
    x: ir.Value,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> ir.Value:
    pivots = b.op("Sub", b.cast(pivots, torch.int64), b.number(1, torch.int64))
    count = b.shape_of(pivots)[-1]
    both, x = _of_one_batch(b, both, x if left else swapped(b, x))
    pivots = b.reshape(b.expand(pivots, (*b.out_shape[:-2], count)), (b.shape_of(x)[0], count))
    solved = _lu_solve(b, both, pivots, x, adjoint if left else not adjoint)
    return b.reshape(solved if left else transposed(b, solved), b.out_shape)


@lower("aten.linalg_inv_ex.default")
def inverse(b: Builder, x: ir.Value, *, check_errors: bool = False) -> list[ir.Value]:
    a = matrices(b, x)
    both, pivots = _lu(b, a)
    info = _info(b, both)
    found = _lu_solve(b, both, pivots, identity(b, a, b.shape_of(a)[1]), False)
    return as_captured(b, or_nan(b, found, info), info)


@lower("aten._linalg_solve_ex.default")
def solve(
    b: Builder, a: ir.Value, x: ir.Value, *, left: bool = True, check_errors: bool = False
) -> list[ir.Value]:
    shape, size = b.out_shapes[0], b.shape_of(a)[-1]
    vectors = b.shape_of(x) == b.shape_of(a)[:-1] or b.rank_of(x) == 1
    if vectors:
        x, shape = b.unsqueeze(x, b.rank_of(x)), (*shape, 1)
    lead = shape[:-2]
    both, pivots = _lu(b, matrices(b, a))
    info = _info(b, both)
    x = matrices(b, b.expand(x if left else swapped(b, x), (*lead, *_sides(shape, left))))
    own = [(both, (size, size)), (pivots, (size,)), (info, ())]
    shared = b.shape_of(a)[:-2]
    spread = [
        b.reshape(b.expand(b.reshape(v, (*shared, *core)), (*lead, *core)), (product(lead), *core))
        for v, core in own
    ]
    found = or_nan(b, _lu_solve(b, spread[0], spread[1], x, not left), spread[2])
    return as_captured(
        b, found if left else transposed(b, found), both, _one_based(b, pivots), info
    )


def _sides(shape: Sequence[Dim], left: bool) -> Sequence[Dim]:
    return shape[-2:] if left else shape[:-3:-1]


def _determinant(b: Builder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """The factors, the pivots, the diagonal, and the sign of the order (batch,)."""
    both, pivots = _lu(b, matrices(b, x))
    moved = b.op("Not", compared(b, "Equal", pivots, numbers(b, b.shape_of(pivots)[1])))
    count = b.reduce("ReduceSum", b.cast(moved, torch.int64), [1], keepdims=False)
    odd = b.cast(b.op("Mod", count, b.number(2, torch.int64)), x.dtype)
    sign = b.op("Sub", number_like(b, 1, x), b.op("Mul", odd, number_like(b, 2, x)))
    return both, pivots, diagonal_of(b, both), sign


@lower("aten._linalg_det.default")
def det(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots, diagonal, sign = _determinant(b, x)
    whole = b.op("Mul", b.reduce("ReduceProd", diagonal, [1], keepdims=False), sign)
    return as_captured(b, whole, both, _one_based(b, pivots))


@lower("aten._linalg_slogdet.default")
def slogdet(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots, diagonal, sign = _determinant(b, x)
    signs = b.reduce("ReduceProd", b.op("Sign", diagonal), [1], keepdims=False)
    logs = b.op("Log", b.op("Abs", diagonal))
    total = b.reduce("ReduceSum", logs, [1], keepdims=False)
    return as_captured(b, b.op("Mul", signs, sign), total, both, _one_based(b, pivots))
