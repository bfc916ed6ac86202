"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, broadcast
from zenith_torch.builder import Builder, Scalar
from zenith_torch.lower.registry import lower

_SHORT = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16)


def product_of(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """MatMul with numpy's rules for vectors and batches."""
    left, right = b.shape_of(x), b.shape_of(y)
    rows: tuple[Dim, ...] = left[-2:-1]
    columns: tuple[Dim, ...] = right[-1:] if len(right) > 1 else ()
    batch = broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else ()
    shape = (*batch, *rows, *columns)
    if x.dtype in _SHORT:  # ONNX has no product of these; the low bits of the sums are the same
        wide = (b.cast(v, torch.int32) for v in (x, y))
        return b.cast(b.op("MatMul", *wide, shape=shape), x.dtype)
    return b.op("MatMul", x, y, shape=shape)


@lower("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default")
def matmul(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return product_of(b, x, y)


@lower("aten.dot.default")
def dot(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return product_of(b, x, y)


@lower("aten.linear.default")
def linear(b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    rank = b.rank_of(weight)
    result = product_of(b, x, b.transpose(weight, (1, 0)) if rank == 2 else weight)
    return result if bias is None else b.op("Add", result, bias)


def _accumulate(
    b: Builder, start: ir.Value, x: ir.Value, y: ir.Value, beta: Scalar, alpha: Scalar
) -> ir.Value:
    result = product_of(b, x, y)
    if alpha != 1:
        result = b.op("Mul", result, b.number(alpha, b.out_dtype))
    if beta == 0:
        return b.expand(result, b.out_shape)
    if beta != 1:
        start = b.op("Mul", start, b.number(beta, b.out_dtype))
    return b.op("Add", result, start)


@lower("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(
    b: Builder,
    start: ir.Value,
    x: ir.Value,
    y: ir.Value,
    *,
    beta: Scalar = 1,
    alpha: Scalar = 1,
) -> ir.Value:
    return _accumulate(b, start, x, y, beta, alpha)


@lower("aten.addbmm.default")
def addbmm(
    b: Builder,
    start: ir.Value,
    x: ir.Value,
    y: ir.Value,
    *,
    beta: Scalar = 1,
    alpha: Scalar = 1,
) -> ir.Value:
    total = b.reduce("ReduceSum", product_of(b, x, y), [0], keepdims=False)
    if alpha != 1:
        total = b.op("Mul", total, b.number(alpha, b.out_dtype))
    if beta != 1:
        start = b.op("Mul", start, b.number(beta, b.out_dtype))
    return b.op("Add", total, start)


@lower("aten._trilinear.default")
def trilinear(
    b: Builder,
    x: ir.Value,
    y: ir.Value,
    z: ir.Value,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> ir.Value:
    """The sum of products of three tensors over some of their common axes, as an Einsum."""
    total = b.rank_of(x) + len(expand1)
    letters = "abcdefghijklmnopqrstuvwxyz"[:total]

    def without(*axes: Sequence[int]) -> str:
        gone = {a % total for each in axes for a in each}
        return "".join(letter for a, letter in enumerate(letters) if a not in gone)

    terms = ",".join(without(axes) for axes in (expand1, expand2, expand3))
    equation = f"{terms}->{without(sumdim)}"
    return b.op("Einsum", x, y, z, shape=b.out_shape, equation=equation)
