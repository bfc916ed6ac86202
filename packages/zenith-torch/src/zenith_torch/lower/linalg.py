"""Cholesky and LU, and what rests on them.

What eager raises for (a singular matrix) is a matrix of NaN here, and `info` says where.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from zenith.ir import linalg
from zenith.ir.dims import Dim, product
from zenith.ir.matrices import (
    compared,
    diagonal_of,
    first_set,
    identity,
    matrices,
    number_like,
    or_nan,
    swapped,
    transposed,
)
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.registry import lower

__all__ = ["as_captured"]


def as_captured(b: Builder, *values: ir.Value) -> list[ir.Value]:
    """Results in the shapes and types of the capture."""
    facts = zip(values, b.out_shapes, b.out_dtypes, strict=True)
    return [b.reshape(b.cast(v, kind), shape) for v, shape, kind in facts]


# --- Cholesky, triangles --------------------------------------------------------------------------


@lower("aten.linalg_cholesky_ex.default")
def cholesky(
    b: Builder, x: ir.Value, *, upper: bool = False, check_errors: bool = False
) -> list[ir.Value]:
    a = matrices(b, x)
    factor = linalg.cholesky(b, transposed(b, a) if upper else a)
    diagonal = diagonal_of(b, factor)
    finite = b.op("And", compared(b, "Greater", diagonal, number_like(b, 0, a)),
                  b.op("Not", b.op("IsInf", diagonal, dtype=torch.bool)))  # fmt: skip
    info = first_set(b, b.op("Not", finite))
    return as_captured(b, transposed(b, factor) if upper else factor, info)


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
    solved = linalg.solve_triangle(b, a, x, upper, unitriangular)
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
    half = linalg.solve_triangle(b, factor, x, False)
    return b.reshape(linalg.solve_triangle(b, transposed(b, factor), half, True), b.out_shape)


@lower("aten.cholesky_inverse.default")
def cholesky_inverse(b: Builder, factor: ir.Value, upper: bool = False) -> ir.Value:
    factor = matrices(b, swapped(b, factor) if upper else factor)
    half = linalg.solve_triangle(b, factor, identity(b, factor, b.shape_of(factor)[1]), False)
    return b.reshape(b.op("MatMul", transposed(b, half), half), b.out_shape)


# --- LU -------------------------------------------------------------------------------------------


def _one_based(b: Builder, pivots: ir.Value) -> ir.Value:
    return b.op("Add", pivots, b.number(1, torch.int64))


@lower("aten.linalg_lu_factor_ex.default")
def lu_factor(
    b: Builder, x: ir.Value, *, pivot: bool = True, check_errors: bool = False
) -> list[ir.Value]:
    if not pivot:
        raise NotSupportedError("without pivoting")
    both, pivots = linalg.lu(b, matrices(b, x))
    return as_captured(b, both, _one_based(b, pivots), linalg.singular_at(b, both))


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
    solved = linalg.lu_solve(b, both, pivots, x, adjoint if left else not adjoint)
    return b.reshape(solved if left else transposed(b, solved), b.out_shape)


@lower("aten.linalg_inv_ex.default")
def inverse(b: Builder, x: ir.Value, *, check_errors: bool = False) -> list[ir.Value]:
    a = matrices(b, x)
    both, pivots = linalg.lu(b, a)
    info = linalg.singular_at(b, both)
    found = linalg.lu_solve(b, both, pivots, identity(b, a, b.shape_of(a)[1]), False)
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
    both, pivots = linalg.lu(b, matrices(b, a))
    info = linalg.singular_at(b, both)
    x = matrices(b, b.expand(x if left else swapped(b, x), (*lead, *_sides(shape, left))))
    own = [(both, (size, size)), (pivots, (size,)), (info, ())]
    shared = b.shape_of(a)[:-2]
    spread = [
        b.reshape(b.expand(b.reshape(v, (*shared, *core)), (*lead, *core)), (product(lead), *core))
        for v, core in own
    ]
    found = or_nan(b, linalg.lu_solve(b, spread[0], spread[1], x, not left), spread[2])
    return as_captured(
        b, found if left else transposed(b, found), both, _one_based(b, pivots), info
    )


def _sides(shape: Sequence[Dim], left: bool) -> Sequence[Dim]:
    return shape[-2:] if left else shape[:-3:-1]


@lower("aten._linalg_det.default")
def det(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots = linalg.lu(b, matrices(b, x))
    diagonal, sign = linalg.determinant_parts(b, both, pivots)
    whole = b.op("Mul", b.reduce("ReduceProd", diagonal, [1], keepdims=False), sign)
    return as_captured(b, whole, both, _one_based(b, pivots))


@lower("aten._linalg_slogdet.default")
def slogdet(b: Builder, x: ir.Value) -> list[ir.Value]:
    both, pivots = linalg.lu(b, matrices(b, x))
    diagonal, sign = linalg.determinant_parts(b, both, pivots)
    signs = b.reduce("ReduceProd", b.op("Sign", diagonal), [1], keepdims=False)
    logs = b.op("Log", b.op("Abs", diagonal))
    total = b.reduce("ReduceSum", logs, [1], keepdims=False)
    return as_captured(b, b.op("Mul", signs, sign), total, both, _one_based(b, pivots))
