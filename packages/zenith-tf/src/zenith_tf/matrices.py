"""Rules for tf.linalg: decompositions, solvers and diagonals.

What TensorFlow raises for (a matrix that is singular, or not positive definite) is infinite or NaN
here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir import linalg
from zenith.ir.builder import GraphBuilder, NotSupportedError
from zenith.ir.dims import broadcast, product
from zenith.ir.matrices import chosen, compared, identity, matrices, numbers, swapped
from zenith_tf.node import Node, Rule

__all__ = ["GAPS", "REPLACED"]

_INT64 = ir.DataType.INT64


def _cholesky(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        return b.reshape(linalg.cholesky(b, matrices(b, x)), b.shape_of(x))

    return n.function(write, *n.inputs)


def _qr(n: Node) -> list[str]:
    whole = n.attr("full_matrices", 0)

    def write(b: GraphBuilder, x: ir.Value) -> list[ir.Value]:
        *lead, rows, columns = b.shape_of(x)
        q, r = linalg.householder(b, matrices(b, x))
        width = rows if whole else min(rows, columns)
        q, r = b.slice(q, 2, 0, width), b.slice(r, 1, 0, width)
        return [b.reshape(q, (*lead, rows, width)), b.reshape(r, (*lead, width, columns))]

    return n.function(write, *n.inputs)


def _lu(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> list[ir.Value]:
        both, pivots = linalg.lu(b, matrices(b, x))
        order = linalg.row_order(b, pivots, b.shape_of(x)[-1])
        return [b.reshape(both, b.shape_of(x)), b.reshape(order, b.shape_of(x)[:-1])]

    return n.function(write, *n.inputs)


def _inverse(n: Node) -> list[str]:
    adjoint = bool(n.attr("adjoint", 0))

    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        a = matrices(b, x)
        both, pivots = linalg.lu(b, a)
        sides = identity(b, a, b.shape_of(a)[1])
        return b.reshape(linalg.lu_solve(b, both, pivots, sides, adjoint), b.shape_of(x))

    return n.function(write, *n.inputs)


def _solve(n: Node) -> list[str]:
    adjoint = bool(n.attr("adjoint", 0))

    def write(b: GraphBuilder, a: ir.Value, x: ir.Value) -> ir.Value:
        both, pivots = linalg.lu(b, matrices(b, a))
        found = linalg.lu_solve(b, both, pivots, matrices(b, x), adjoint)
        return b.reshape(found, b.shape_of(x))

    return n.function(write, *n.inputs)


def _triangular_solve(n: Node) -> list[str]:
    lower, adjoint = bool(n.attr("lower", 1)), bool(n.attr("adjoint", 0))

    def write(b: GraphBuilder, a: ir.Value, x: ir.Value) -> ir.Value:
        a = swapped(b, a) if adjoint else a
        lead = broadcast(b.shape_of(a)[:-2], b.shape_of(x)[:-2])
        shapes = [(*lead, *b.shape_of(v)[-2:]) for v in (a, x)]
        a, x = (matrices(b, b.expand(v, s)) for v, s in zip((a, x), shapes, strict=True))
        return b.reshape(linalg.solve_triangle(b, a, x, lower == adjoint), shapes[1])

    return n.function(write, *n.inputs)


def _log_determinant(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> list[ir.Value]:
        diagonal, sign = linalg.determinant_parts(b, *linalg.lu(b, matrices(b, x)))
        signs = b.reduce("ReduceProd", b.op("Sign", diagonal), [1], keepdims=False)
        logs = b.reduce("ReduceSum", b.op("Log", b.op("Abs", diagonal)), [1], keepdims=False)
        lead = b.shape_of(x)[:-2]
        return [b.reshape(b.op("Mul", signs, sign), lead), b.reshape(logs, lead)]

    return n.function(write, *n.inputs)


def _tridiagonal_product(n: Node) -> list[str]:
    """Rows of three diagonals, each as long as the matrix, times columns."""

    def write(b: GraphBuilder, *parts: ir.Value) -> ir.Value:
        *diagonals, x = parts
        above, main, below = (swapped(b, d) for d in diagonals)
        axis, size = b.rank_of(x) - 2, b.shape_of(x)[-2]
        zeros = b.op("Mul", b.slice(x, axis, 0, 1), b.number(0, x.dtype))
        after = b.concat([b.slice(x, axis, 1, size), zeros], axis)
        before = b.concat([zeros, b.slice(x, axis, 0, size - 1)], axis)
        total = b.op("Mul", main, x)
        total = b.op("Add", total, b.op("Mul", above, after))
        return b.op("Add", total, b.op("Mul", below, before))

    return n.function(write, *n.inputs)


def _cross(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        last = b.rank_of(x) - 1
        turned = [
            [b.gather(v, b.ints(order), last) for order in ([1, 2, 0], [2, 0, 1])] for v in (x, y)
        ]
        (x1, x2), (y1, y2) = turned
        return b.op("Sub", b.op("Mul", x1, y2), b.op("Mul", x2, y1))

    return n.function(write, *n.inputs)


# --- diagonals ------------------------------------------------------------------------------------


def _places(n: Node, k: Any, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """[diagonals, places]: row * columns + column of each element, -1 where a row is padded."""
    bounds = np.ravel(k)
    low, high = int(bounds[0]), int(bounds[-1])
    above, below = n.attr("align", b"RIGHT_LEFT").decode().split("_")
    numbers = range(high, low - 1, -1)
    sizes = {d: min(rows + min(d, 0), columns - max(d, 0)) for d in numbers}
    longest = max(sizes.values())
    places = np.full((len(sizes), longest), -1, np.int64)
    for row, d in enumerate(numbers):
        steps = np.arange(sizes[d])
        line = (steps + max(-d, 0)) * columns + steps + max(d, 0)
        right = (above if d > 0 else below) == "RIGHT" and d != 0
        start = longest - sizes[d] if right else 0
        places[row, start : start + sizes[d]] = line
    return places


def _sides(n: Node) -> tuple[int, int]:
    rows, columns = (n.shape() or [-1, -1])[-2:]
    if rows < 0 or columns < 0:
        raise ValueError("the sizes of the matrices are not known")
    return rows, columns


def _diagonal(n: Node) -> list[str]:
    rows, columns = _sides(n)
    places = _places(n, n.value(1), rows, columns)
    single = len(places) == 1

    def write(b: GraphBuilder, x: ir.Value, padding: ir.Value) -> ir.Value:
        lead = b.shape_of(x)[:-2]
        flat = b.reshape(x, (*lead, rows * columns))
        used = places[0] if single else places
        found = b.gather(flat, b.constant(np.maximum(used, 0)), len(lead))
        return found if single else _or(b, used, found, padding)

    return n.function(write, n.inputs[0], n.inputs[2])


def _or(b: GraphBuilder, places: Any, found: ir.Value, other: ir.Value) -> ir.Value:
    """`found` where there is a place."""
    return b.op("Where", b.constant(places >= 0), found, other, dtype=found.dtype)


def _set_diagonal(n: Node) -> list[str]:
    rows, columns = _sides(n)
    places = _places(n, n.value(2), rows, columns)
    flat_sources = np.full(rows * columns, -1, np.int64)
    known = np.flatnonzero(places.ravel() >= 0)
    flat_sources[places.ravel()[known]] = known
    sources = flat_sources.reshape(rows, columns)

    def write(b: GraphBuilder, x: ir.Value, diagonal: ir.Value) -> ir.Value:
        lead = b.shape_of(x)[:-2]
        flat = b.reshape(diagonal, (*lead, places.size))
        return _or(b, sources, b.gather(flat, b.constant(np.maximum(sources, 0)), len(lead)), x)

    return n.function(write, n.inputs[0], n.inputs[1])


def _band(n: Node) -> list[str]:
    """Zeros further than so many places below and above the diagonal; negative: no limit."""

    def write(b: GraphBuilder, x: ir.Value, *limits: ir.Value) -> ir.Value:
        rows, columns = (numbers(b, size) for size in b.shape_of(x)[-2:])
        below = b.op("Sub", b.unsqueeze(rows, 1), columns)
        kept = []
        for limit, far in zip(limits, (below, b.op("Neg", below)), strict=True):
            limit = b.cast(limit, _INT64)
            near = compared(b, "LessOrEqual", far, limit)
            kept.append(b.op("Or", near, compared(b, "Less", limit, b.number(0, _INT64))))
        return chosen(b, b.op("And", *kept), x, b.number(0, x.dtype))

    return n.function(write, *n.inputs)


def _tensor_diagonal(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        shape, size = b.shape_of(x), product(b.shape_of(x))
        if not isinstance(size, int):
            raise NotSupportedError("of a tensor of dynamic size")
        column = b.reshape(x, (size, 1))
        mask = b.constant(np.eye(size, dtype=np.bool_))
        spread = b.op("Where", mask, column, b.number(0, x.dtype), dtype=x.dtype)
        return b.reshape(spread, (*shape, *shape))

    return n.function(write, *n.inputs)


def _tensor_diagonal_part(n: Node) -> list[str]:
    def write(b: GraphBuilder, x: ir.Value) -> ir.Value:
        shape = b.shape_of(x)[: b.rank_of(x) // 2]
        size = product(shape)
        if not isinstance(size, int):
            raise NotSupportedError("of a tensor of dynamic size")
        flat = b.reshape(x, (size * size,))
        return b.reshape(b.gather(flat, b.constant(np.arange(size) * (size + 1)), 0), shape)

    return n.function(write, *n.inputs)


GAPS: dict[str, Rule] = {
    "Cholesky": _cholesky,
    "Cross": _cross,
    "Diag": _tensor_diagonal,
    "DiagPart": _tensor_diagonal_part,
    "LogMatrixDeterminant": _log_determinant,
    "Lu": _lu,
    "MatrixInverse": _inverse,
    "MatrixSolve": _solve,
    "MatrixTriangularSolve": _triangular_solve,
    "Qr": _qr,
    "TridiagonalMatMul": _tridiagonal_product,
}

REPLACED: dict[str, Rule] = {
    "MatrixBandPart": _band,
    "MatrixDiagPartV3": _diagonal,
    "MatrixSetDiagV3": _set_diagonal,
}
