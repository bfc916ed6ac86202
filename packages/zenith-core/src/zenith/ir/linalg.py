"""Decompositions and solvers for adapters: LAPACK's plain forms. See Note [Columns] in `matrices`.

Matrices are (batch, m, n). Nothing raises: of a singular matrix there are infinities or NaN, and
`singular_at` says where.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from zenith.ir.builder import GraphBuilder, NotSupportedError
from zenith.ir.dims import Dim
from zenith.ir.matrices import (
    chosen,
    compared,
    diagonal_of,
    first_set,
    identity,
    number_like,
    numbers,
    over_columns,
    times_vector,
    transposed,
)

__all__ = [
    "cholesky",
    "determinant_parts",
    "householder",
    "lu",
    "lu_solve",
    "row_order",
    "singular_at",
    "solve_triangle",
]

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64


def cholesky(b: GraphBuilder, a: ir.Value) -> ir.Value:
    """The lower factor; not finite where the matrix is not positive definite."""
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


def solve_triangle(
    b: GraphBuilder, a: ir.Value, x: ir.Value, upper: bool, ones: bool = False
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


def _exchanged(b: GraphBuilder, rows: ir.Value, j: ir.Value, pivot: ir.Value) -> ir.Value:
    """(batch, m) where each row comes from when row j and the pivot's change places."""
    moved = chosen(b, compared(b, "Equal", rows, pivot), j, rows)
    return chosen(b, compared(b, "Equal", rows, j), pivot, moved)


def _taken(b: GraphBuilder, x: ir.Value, rows: ir.Value) -> ir.Value:
    """Rows of each matrix in another order."""
    places = b.expand(b.unsqueeze(rows, 2), b.shape_of(x))
    return b.op("GatherElements", x, places, shape=b.shape_of(x), axis=1)


def lu(b: GraphBuilder, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Partial pivoting: both factors in one matrix, and the pivots (batch, columns)."""
    batch, m, n = b.shape_of(a)
    rows, columns = numbers(b, m), numbers(b, n)
    zero, one = number_like(b, 0, a), number_like(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (a,) = state
        open_rows = compared(b, "GreaterOrEqual", rows, j)
        size = chosen(b, open_rows, b.op("Abs", b.gather(a, j, 2)), number_like(b, -1, a))
        pivot = b.op("ArgMax", size, shape=(batch, 1), dtype=INT64, axis=1, keepdims=1)
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


def row_order(b: GraphBuilder, pivots: ir.Value, size: Dim) -> ir.Value:
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


def lu_solve(
    b: GraphBuilder, both: ir.Value, pivots: ir.Value, x: ir.Value, of_transpose: bool
) -> ir.Value:
    """A^-1 X, or A^-T X, from the factors: A with its rows in `order` is L U."""
    order = row_order(b, pivots, b.shape_of(both)[1])
    if not of_transpose:
        half = solve_triangle(b, both, _taken(b, x, order), False, ones=True)
        return solve_triangle(b, both, half, True)
    both = transposed(b, both)
    half = solve_triangle(b, both, x, False)
    solved = solve_triangle(b, both, half, True, ones=True)
    places = b.expand(b.unsqueeze(order, 2), b.shape_of(x))
    return b.op("ScatterElements", solved, places, solved, shape=b.shape_of(x), axis=1)


def singular_at(b: GraphBuilder, both: ir.Value) -> ir.Value:
    """(batch,) the number, from 1, of the first zero on the diagonal; 0 where there is none."""
    return first_set(b, compared(b, "Equal", diagonal_of(b, both), number_like(b, 0, both)))


def determinant_parts(
    b: GraphBuilder, both: ir.Value, pivots: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Of the factors' matrix: the diagonal, and the sign of the order (batch,)."""
    moved = b.op("Not", compared(b, "Equal", pivots, numbers(b, b.shape_of(pivots)[1])))
    count = b.reduce("ReduceSum", b.cast(moved, INT64), [1], keepdims=False)
    odd = b.cast(b.op("Mod", count, b.number(2, INT64)), both.dtype)
    sign = b.op("Sub", number_like(b, 1, both), b.op("Mul", odd, number_like(b, 2, both)))
    return diagonal_of(b, both), sign


def householder(b: GraphBuilder, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Q (batch, m, m) and R (batch, m, n) by reflections, with LAPACK's signs."""
    m, n = b.shape_of(a)[1:]
    if not isinstance(m, int) or not isinstance(n, int):
        raise NotSupportedError("of matrices of dynamic size")
    rows, columns = numbers(b, m), numbers(b, n)
    zero, one = number_like(b, 0, a), number_like(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        a, q = state
        column = b.gather(a, j, 2)
        head = b.unsqueeze(b.gather(column, j, 1), 1)
        tail = chosen(b, compared(b, "Greater", rows, j), column, zero)
        flat = compared(b, "Equal", b.reduce("ReduceMax", b.op("Abs", tail), [1], True), zero)
        both = b.concat([head, tail], 1)
        norm = b.reduce("ReduceL2", both, [1], True)
        length = chosen(b, compared(b, "Less", head, zero), norm, b.op("Neg", norm))
        safe = chosen(b, flat, one, length)
        factor = chosen(b, flat, zero, b.op("Div", b.op("Sub", length, head), safe))
        below = b.op("Div", tail, chosen(b, flat, one, b.op("Sub", head, length)))
        vector = chosen(b, compared(b, "Equal", rows, j), one, below)
        scaled = b.op("Mul", factor, vector)
        side = b.unsqueeze(times_vector(b, transposed(b, a), scaled), 1)
        reflected = b.op("Sub", a, b.op("Mul", b.unsqueeze(vector, 2), side))
        turned = b.op("Mul", b.unsqueeze(times_vector(b, q, vector), 2), b.unsqueeze(scaled, 1))
        return [reflected, b.op("Sub", q, turned)], []

    start = [a, identity(b, a, m)]
    (r, q), _ = over_columns(b, numbers(b, min(m, n)), start, [], step)
    upper = compared(b, "LessOrEqual", b.unsqueeze(rows, 1), columns)
    r = chosen(b, upper, r, zero)
    return q, r
