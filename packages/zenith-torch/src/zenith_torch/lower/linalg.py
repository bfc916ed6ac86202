"""Decompositions of matrices and what rests on them: LAPACK's plain forms, column by column.

Note [Columns]: a matrix is worked on by a Scan over the numbers of its columns, all matrices of a
batch at once; masks over rows and columns stand for the triangles that LAPACK loops over. What
eager raises for (a singular matrix) is a matrix of NaN here, and `info` says where, as LAPACK does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled, grid
from zenith_torch.lower.registry import lower

INT64 = ir.DataType.INT64

_Step = Callable[[Sequence[ir.Value], ir.Value], tuple[list[ir.Value], list[ir.Value]]]
"""(state, number of the column) to (new state, what is collected of every step)"""


# --- the matrices of a batch ----------------------------------------------------------------------


def _matrices(b: Builder, x: ir.Value) -> ir.Value:
    """(..., m, n) as (batch, m, n)."""
    *lead, m, n = b.shape_of(x)
    if 0 in (m, n):
        raise NotSupportedError("of empty matrices")
    return b.reshape(x, (product(lead), m, n))


def _transposed(b: Builder, x: ir.Value) -> ir.Value:
    return b.transpose(x, [0, 2, 1])


def _swapped(b: Builder, x: ir.Value) -> ir.Value:
    """The last two axes, the one for the other."""
    rank = b.rank_of(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def _steps(
    b: Builder, numbers: ir.Value, state: Sequence[ir.Value], collected: Sequence[Dim], step: _Step
) -> tuple[list[ir.Value], list[ir.Value]]:
    """A Scan over `numbers`; of each step, vectors of integers of the given sizes are collected."""
    facts = [(v.dtype or INT64, b.shape_of(v)) for v in state]
    (count,) = b.shape_of(numbers)

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        new, found = step(inputs[:-1], inputs[-1])
        return [*new, *found]

    body = b.body("column", [*facts, (INT64, ())], write)
    results = [*facts, *((INT64, (count, size)) for size in collected)]
    found = b.ops("Scan", *state, numbers, results=results, body=body, num_scan_inputs=1)
    return found[: len(state)], found[len(state) :]


def _numbers(b: Builder, count: Dim) -> ir.Value:
    return grid(b, (count,), (1,))


def _is(b: Builder, op_type: str, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op(op_type, x, y, dtype=torch.bool)


def _where(b: Builder, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Where", condition, x, y, dtype=x.dtype)


def _number(b: Builder, value: float, like: ir.Value) -> ir.Value:
    return b.number(value, like.dtype)


def _times(b: Builder, x: ir.Value, vector: ir.Value) -> ir.Value:
    """(batch, m, n) times (batch, n)."""
    shape = (*b.shape_of(x)[:2], 1)
    return b.squeeze(b.op("MatMul", x, b.unsqueeze(vector, 2), shape=shape), 2)


def _identity(b: Builder, like: ir.Value, size: Dim) -> ir.Value:
    ones = _is(b, "Equal", b.unsqueeze(_numbers(b, size), 1), _numbers(b, size))
    return b.expand(b.cast(ones, like.dtype), (b.shape_of(like)[0], size, size))


def _diagonal(b: Builder, x: ir.Value) -> ir.Value:
    batch, m, n = b.shape_of(x)
    count = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    return b.gather(b.reshape(x, (batch, exactly(m * n))), grid(b, (count,), (exactly(n + 1),)), 1)


def _first(b: Builder, bad: ir.Value) -> ir.Value:
    """(batch,) the number, from 1, of the first that is set; 0 where none is."""
    marks = b.cast(bad, torch.int32)
    lead = b.shape_of(bad)[:1]
    place = b.op("ArgMax", marks, shape=lead, dtype=torch.int64, axis=1, keepdims=0)
    any_bad = b.cast(b.reduce("ReduceMax", marks, [1], keepdims=False), torch.int64)
    return b.op("Mul", b.op("Add", place, b.number(1, torch.int64)), any_bad)


def _or_nan(b: Builder, x: ir.Value, info: ir.Value) -> ir.Value:
    broken = _is(b, "Greater", b.unsqueeze(info, 1, 2), b.number(0, torch.int64))
    return _where(b, broken, _number(b, float("nan"), x), x)


def _shaped(b: Builder, *values: ir.Value) -> list[ir.Value]:
    """Results in the shapes and types of the capture."""
    facts = zip(values, b.out_shapes, b.out_dtypes, strict=True)
    return [b.reshape(b.cast(v, kind), shape) for v, shape, kind in facts]


# --- Cholesky, triangles --------------------------------------------------------------------------


def _cholesky(b: Builder, a: ir.Value) -> ir.Value:
    rows = _numbers(b, b.shape_of(a)[1])

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (factor,) = state
        column, row = b.gather(a, j, 2), b.gather(factor, j, 1)
        rest = b.op("Sub", column, _times(b, factor, row))
        head = b.unsqueeze(b.gather(rest, j, 1), 1)
        column = b.op("Div", rest, b.op("Sqrt", head))
        column = _where(b, _is(b, "GreaterOrEqual", rows, j), column, _number(b, 0, a))
        return [_where(b, _is(b, "Equal", rows, j), b.unsqueeze(column, 2), factor)], []

    start = b.expand(_number(b, 0, a), b.shape_of(a))
    return _steps(b, rows, [start], [], step)[0][0]


@lower("aten.linalg_cholesky_ex.default")
def cholesky(
    b: Builder, x: ir.Value, *, upper: bool = False, check_errors: bool = False
) -> list[ir.Value]:
    a = _matrices(b, x)
    factor = _cholesky(b, _transposed(b, a) if upper else a)
    diagonal = _diagonal(b, factor)
    finite = b.op("And", _is(b, "Greater", diagonal, _number(b, 0, a)),
                  b.op("Not", b.op("IsInf", diagonal, dtype=torch.bool)))  # fmt: skip
    info = _first(b, b.op("Not", finite))
    return _shaped(b, _transposed(b, factor) if upper else factor, info)


def _solve_triangle(
    b: Builder, a: ir.Value, x: ir.Value, upper: bool, ones: bool = False
) -> ir.Value:
    """A^-1 X, where only a triangle of A is read; `ones`: its diagonal is taken for ones."""
    rows = _numbers(b, b.shape_of(a)[1])

    def step(state: Sequence[ir.Value], i: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (solved,) = state
        weights = b.gather(a, i, 1)
        # Rows that are not solved yet are zeros.
        known = _times(b, _transposed(b, solved), weights)
        value = b.op("Sub", b.gather(x, i, 1), known)
        if not ones:
            value = b.op("Div", value, b.unsqueeze(b.gather(weights, i, 1), 1))
        here = b.unsqueeze(_is(b, "Equal", rows, i), 1)
        return [_where(b, here, b.unsqueeze(value, 1), solved)], []

    start = b.expand(_number(b, 0, x), b.shape_of(x))
    return _steps(b, b.flip(rows, [0]) if upper else rows, [start], [], step)[0][0]


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
        a, x, upper = _swapped(b, a), _swapped(b, x), not upper
    a, x = _of_one_batch(b, a, x)
    solved = _solve_triangle(b, a, x, upper, unitriangular)
    return b.reshape(solved if left else _transposed(b, solved), b.out_shape)


def _of_one_batch(b: Builder, a: ir.Value, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both broadcast to the result's batch."""
    lead = b.out_shape[:-2]
    if len(lead) + 2 < max(b.rank_of(a), b.rank_of(x)):
        raise NotSupportedError("of a batch that the result does not have")
    parts = (b.expand(v, (*lead, *b.shape_of(v)[-2:])) for v in (a, x))
    first, second = (_matrices(b, v) for v in parts)
    return first, second


@lower("aten.cholesky_solve.default")
def cholesky_solve(b: Builder, x: ir.Value, factor: ir.Value, upper: bool = False) -> ir.Value:
    factor, x = _of_one_batch(b, _swapped(b, factor) if upper else factor, x)
    half = _solve_triangle(b, factor, x, False)
    return b.reshape(_solve_triangle(b, _transposed(b, factor), half, True), b.out_shape)


@lower("aten.cholesky_inverse.default")
def cholesky_inverse(b: Builder, factor: ir.Value, upper: bool = False) -> ir.Value:
    factor = _matrices(b, _swapped(b, factor) if upper else factor)
    half = _solve_triangle(b, factor, _identity(b, factor, b.shape_of(factor)[1]), False)
    return b.reshape(b.op("MatMul", _transposed(b, half), half), b.out_shape)


# --- LU -------------------------------------------------------------------------------------------


def _exchanged(b: Builder, rows: ir.Value, j: ir.Value, pivot: ir.Value) -> ir.Value:
    """(batch, m) where each row comes from when row j and the pivot's change places."""
    moved = _where(b, _is(b, "Equal", rows, pivot), j, rows)
    return _where(b, _is(b, "Equal", rows, j), pivot, moved)


def _taken(b: Builder, x: ir.Value, rows: ir.Value) -> ir.Value:
    """Rows of each matrix in another order."""
    places = b.expand(b.unsqueeze(rows, 2), b.shape_of(x))
    return b.op("GatherElements", x, places, shape=b.shape_of(x), axis=1)


def _lu(b: Builder, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Partial pivoting: both factors in one matrix, and the pivots (batch, columns)."""
    batch, m, n = b.shape_of(a)
    rows, columns = _numbers(b, m), _numbers(b, n)
    zero, one = _number(b, 0, a), _number(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (a,) = state
        open_rows = _is(b, "GreaterOrEqual", rows, j)
        size = _where(b, open_rows, b.op("Abs", b.gather(a, j, 2)), _number(b, -1, a))
        pivot = b.op("ArgMax", size, shape=(batch, 1), dtype=torch.int64, axis=1, keepdims=1)
        a = _taken(b, a, _exchanged(b, rows, j, pivot))
        column, row = b.gather(a, j, 2), b.gather(a, j, 1)
        head = b.unsqueeze(b.gather(column, j, 1), 1)
        safe = _where(b, _is(b, "Equal", head, zero), one, head)
        below = _is(b, "Greater", rows, j)
        factor = _where(b, below, b.op("Div", column, safe), zero)
        right = _where(b, _is(b, "Greater", columns, j), row, zero)
        product_of = b.op("Mul", b.unsqueeze(factor, 2), b.unsqueeze(right, 1))
        done = b.unsqueeze(_where(b, below, factor, column), 2)
        rest = b.op("Sub", a, product_of)
        return [_where(b, _is(b, "Equal", columns, j), done, rest)], [b.squeeze(pivot, 1)]

    count = min(m, n) if isinstance(m, int) and isinstance(n, int) else n
    (both,), (pivots,) = _steps(b, _numbers(b, count), [a], [batch], step)
    return both, b.transpose(pivots, [1, 0])


def _order(b: Builder, pivots: ir.Value, size: Dim) -> ir.Value:
    """(batch, m) which row of the matrix each row of its factors is."""
    batch, count = b.shape_of(pivots)
    rows = _numbers(b, size)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        (order,) = state
        moved = _exchanged(b, rows, j, b.unsqueeze(b.gather(pivots, j, 1), 1))
        shape = b.shape_of(order)
        return [b.op("GatherElements", order, moved, shape=shape, axis=1)], []

    start = b.expand(rows, (batch, size))
    return _steps(b, _numbers(b, count), [start], [], step)[0][0]


def _lu_solve(
    b: Builder, both: ir.Value, pivots: ir.Value, x: ir.Value, transposed: bool
) -> ir.Value:
    """A^-1 X, or A^-T X, from the factors: A with its rows in `order` is L U."""
    order = _order(b, pivots, b.shape_of(both)[1])
    if not transposed:
        half = _solve_triangle(b, both, _taken(b, x, order), False, ones=True)
        return _solve_triangle(b, both, half, True)
    both = _transposed(b, both)
    half = _solve_triangle(b, both, x, False)
    solved = _solve_triangle(b, both, half, True, ones=True)
    places = b.expand(b.unsqueeze(order, 2), b.shape_of(x))
    return b.op("ScatterElements", solved, places, solved, shape=b.shape_of(x), axis=1)


def _info(b: Builder, both: ir.Value) -> ir.Value:
    return _first(b, _is(b, "Equal", _diagonal(b, both), _number(b, 0, both)))


def _one_based(b: Builder, pivots: ir.Value) -> ir.Value:
    return b.op("Add", pivots, b.number(1, torch.int64))


@lower("aten.linalg_lu_factor_ex.default")
def lu_factor(
    b: Builder, x: ir.Value, *, pivot: bool = True, check_errors: bool = False
) -> list[ir.Value]:
    if not pivot:
        raise NotSupportedError("without pivoting")
    both, pivots = _lu(b, _matrices(b, x))
    return _shaped(b, both, _one_based(b, pivots), _info(b, both))


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
    both, x = _of_one_batch(b, both, x if left else _swapped(b, x))
    pivots = b.reshape(b.expand(pivots, (*b.out_shape[:-2], count)), (b.shape_of(x)[0], count))
    solved = _lu_solve(b, both, pivots, x, adjoint if left else not adjoint)
    return b.reshape(solved if left else _transposed(b, solved), b.out_shape)


@lower("aten.linalg_inv_ex.default")
def inverse(b: Builder, x: ir.Value, *, check_errors: bool = False) -> list[ir.Value]:
    a = _matrices(b, x)
    both, pivots = _lu(b, a)
    info = _info(b, both)
    found = _lu_solve(b, both, pivots, _identity(b, a, b.shape_of(a)[1]), False)
    return _shaped(b, _or_nan(b, found, info), info)


@lower("aten._linalg_solve_ex.default")
def solve(
    b: Builder, a: ir.Value, x: ir.Value, *, left: bool = True, check_errors: bool = False
) -> list[ir.Value]:
    shape, size = b.out_shapes[0], b.shape_of(a)[-1]
    vectors = b.shape_of(x) == b.shape_of(a)[:-1] or b.rank_of(x) == 1
    if vectors:
        x, shape = b.unsqueeze(x, b.rank_of(x)), (*shape, 1)
    lead = shape[:-2]
    both, pivots = _lu(b, _matrices(b, a))
    info = _info(b, both)
    x = _matrices(b, b.expand(x if left else _swapped(b, x), (*lead, *_sides(shape, left))))
    own = [(both, (size, size)), (pivots, (size,)), (info, ())]
    shared = b.shape_of(a)[:-2]
    spread = [
        b.reshape(b.expand(b.reshape(v, (*shared, *core)), (*lead, *core)), (product(lead), *core))
        for v, core in own
    ]
    found = _or_nan(b, _lu_solve(b, spread[0], spread[1], x, not left), spread[2])
    return _shaped(b, found if left else _transposed(b, found), both, _one_based(b, pivots), info)


def _sides(shape: Sequence[Dim], left: bool) -> Sequence[Dim]:
    return shape[-2:] if left else shape[:-3:-1]


def _determinant(b: Builder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """The factors, the pivots, the diagonal, and the sign of the order (batch,)."""
    both, pivots = _lu(b, _matrices(b, x))
    moved = b.op("Not", _is(b, "Equal", pivots, _numbers(b, b.shape_of(pivots)[1])))
    count = b.reduce("ReduceSum", b.cast(moved, torch.int64), [1], keepdims=False)
    odd = b.cast(b.op("Mod", count, b.number(2, torch.int64)), x.dtype)
    sign = b.op("Sub", _number(b, 1, x), b.op("Mul", odd, _number(b, 2, x)))
    return both, pivots, _diagonal(b, both), sign


@lower("aten._linalg_det.default")
def det(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots, diagonal, sign = _determinant(b, x)
    whole = b.op("Mul", b.reduce("ReduceProd", diagonal, [1], keepdims=False), sign)
    return _shaped(b, whole, both, _one_based(b, pivots))


@lower("aten._linalg_slogdet.default")
def slogdet(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots, diagonal, sign = _determinant(b, x)
    signs = b.reduce("ReduceProd", b.op("Sign", diagonal), [1], keepdims=False)
    logs = b.op("Log", b.op("Abs", diagonal))
    total = b.reduce("ReduceSum", logs, [1], keepdims=False)
    return _shaped(b, b.op("Mul", signs, sign), total, both, _one_based(b, pivots))


# --- QR -------------------------------------------------------------------------------------------


@lower("aten.linalg_qr.default")
def qr(b: Builder, x: ir.Value, mode: str = "reduced") -> list[ir.Value]:
    """Householder's reflections, with LAPACK's signs."""
    a = _matrices(b, x)
    batch, m, n = b.shape_of(a)
    if not isinstance(m, int) or not isinstance(n, int):
        raise NotSupportedError("of matrices of dynamic size")
    rows, columns = _numbers(b, m), _numbers(b, n)
    zero, one = _number(b, 0, a), _number(b, 1, a)

    def step(state: Sequence[ir.Value], j: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        a, q = state
        column = b.gather(a, j, 2)
        head = b.unsqueeze(b.gather(column, j, 1), 1)
        tail = _where(b, _is(b, "Greater", rows, j), column, zero)
        flat = _is(b, "Equal", b.reduce("ReduceMax", b.op("Abs", tail), [1], True), zero)
        both = b.concat([head, tail], 1)
        norm = b.reduce("ReduceL2", both, [1], True)
        length = _where(b, _is(b, "Less", head, zero), norm, b.op("Neg", norm))
        safe = _where(b, flat, one, length)
        factor = _where(b, flat, zero, b.op("Div", b.op("Sub", length, head), safe))
        below = b.op("Div", tail, _where(b, flat, one, b.op("Sub", head, length)))
        vector = _where(b, _is(b, "Equal", rows, j), one, below)
        scaled = b.op("Mul", factor, vector)
        side = b.unsqueeze(_times(b, _transposed(b, a), scaled), 1)
        reflected = b.op("Sub", a, b.op("Mul", b.unsqueeze(vector, 2), side))
        turned = b.op("Mul", b.unsqueeze(_times(b, q, vector), 2), b.unsqueeze(scaled, 1))
        return [reflected, b.op("Sub", q, turned)], []

    start = [a, _identity(b, a, m)]
    (r, q), _ = _steps(b, _numbers(b, min(m, n)), start, [], step)
    upper = _is(b, "LessOrEqual", b.unsqueeze(rows, 1), columns)
    r = _where(b, upper, r, zero)
    width = m if mode == "complete" else min(m, n)
    r = b.slice(r, 1, 0, width)
    if mode == "r":
        return [filled(b, 0, b.out_shapes[0], b.out_dtype), b.reshape(r, b.out_shapes[1])]
    return _shaped(b, b.slice(q, 2, 0, width), r)
