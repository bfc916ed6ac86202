"""Reductions, cumulative sums and selections by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, product
from zenith_torch.builder import Builder, NotSupportedError, Scalar
from zenith_torch.lower.registry import lower

Axes = int | Sequence[int] | None


def _axes(axes: Axes) -> list[int] | None:
    if axes is None:
        return None
    return [axes] if isinstance(axes, int) else list(axes)


def _count(b: Builder, x: ir.Value, axes: Axes) -> Dim:
    chosen = _axes(axes)
    shape = b.shape_of(x)
    return product(shape[a] for a in chosen) if chosen else product(shape)


@lower("aten.sum.dim_IntList", "aten.sum.default")
def sum_(
    b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
) -> ir.Value:
    work = torch.int64 if b.out_dtype in (torch.int8, torch.int16, torch.uint8) else b.out_dtype
    return b.cast(b.reduce("ReduceSum", b.cast(x, work), _axes(dim), keepdim), b.out_dtype)


@lower("aten.mean.dim", "aten.mean.default")
def mean(
    b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
) -> ir.Value:
    return b.reduce("ReduceMean", b.cast(x, b.out_dtype), _axes(dim), keepdim)


@lower("aten.prod.dim_int", "aten.prod.default")
def prod(
    b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
) -> ir.Value:
    op_type = "ReduceMin" if b.out_dtype is torch.bool else "ReduceProd"
    return b.reduce(op_type, b.cast(x, b.out_dtype), _axes(dim), keepdim)


def _extreme(b: Builder, op_type: str, x: ir.Value, dim: Axes, keepdim: bool) -> ir.Value:
    axes, shape = _axes(dim), b.shape_of(x)
    if 0 in ([shape[a] for a in axes] if axes and shape else shape):
        raise NotSupportedError("the extreme of no element")
    return b.reduce(op_type, x, axes, keepdim)


@lower("aten.amax.default")
def amax(b: Builder, x: ir.Value, dim: Axes = (), keepdim: bool = False) -> ir.Value:
    return _extreme(b, "ReduceMax", x, dim, keepdim)


@lower("aten.amin.default")
def amin(b: Builder, x: ir.Value, dim: Axes = (), keepdim: bool = False) -> ir.Value:
    return _extreme(b, "ReduceMin", x, dim, keepdim)


@lower("aten.max.default")
def max_all(b: Builder, x: ir.Value) -> ir.Value:
    return _extreme(b, "ReduceMax", x, None, False)


@lower("aten.min.default")
def min_all(b: Builder, x: ir.Value) -> ir.Value:
    return _extreme(b, "ReduceMin", x, None, False)


def _arg(b: Builder, op_type: str, x: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
    if x.dtype == ir.DataType.BOOL:
        x = b.cast(x, torch.int32)
    if b.rank_of(x) == 0:
        return b.number(0, torch.int64)
    if dim is None:
        x = b.reshape(x, (b.elements(x),))
        rank = len(b.out_shape)
        result = b.op(op_type, x, shape=[], dtype=torch.int64, axis=0, keepdims=0)
        return b.reshape(result, [1] * rank) if rank else result
    axis = b.axis(x, dim)
    shape = list(b.shape_of(x))
    shape[axis : axis + 1] = [1] if keepdim else []
    return b.op(op_type, x, shape=shape, dtype=torch.int64, axis=axis, keepdims=int(keepdim))


@lower("aten.argmax.default")
def argmax(b: Builder, x: ir.Value, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    return _arg(b, "ArgMax", x, dim, keepdim)


@lower("aten.argmin.default")
def argmin(b: Builder, x: ir.Value, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    return _arg(b, "ArgMin", x, dim, keepdim)


@lower("aten.max.dim")
def max_dim(b: Builder, x: ir.Value, dim: int, keepdim: bool = False) -> list[ir.Value]:
    return [_extreme(b, "ReduceMax", x, dim, keepdim), _arg(b, "ArgMax", x, dim, keepdim)]


@lower("aten.min.dim")
def min_dim(b: Builder, x: ir.Value, dim: int, keepdim: bool = False) -> list[ir.Value]:
    return [_extreme(b, "ReduceMin", x, dim, keepdim), _arg(b, "ArgMin", x, dim, keepdim)]


@lower("aten.any.default", "aten.any.dim", "aten.any.dims", "aten._is_any_true.default")
def any_(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False) -> ir.Value:
    return b.reduce("ReduceMax", b.cast(x, torch.bool), _axes(dim), keepdim)


@lower("aten.all.default", "aten.all.dim", "aten.all.dims", "aten._is_all_true.default")
def all_(b: Builder, x: ir.Value, dim: Axes = None, keepdim: bool = False) -> ir.Value:
    return b.reduce("ReduceMin", b.cast(x, torch.bool), _axes(dim), keepdim)


def _variance(b: Builder, x: ir.Value, dim: Axes, correction: Scalar, keepdim: bool) -> ir.Value:
    mean_value = b.reduce("ReduceMean", x, _axes(dim), keepdims=True)
    centred = b.op("Sub", x, mean_value)
    squares = b.op("Mul", centred, centred)
    if correction == 0:
        return b.reduce("ReduceMean", squares, _axes(dim), keepdim)
    count = _count(b, x, dim)
    below = count - correction
    if isinstance(below, (int, float)):
        below = max(below, 0)
    below = b.operand(below, b.out_dtype)
    return b.op("Div", b.reduce("ReduceSum", squares, _axes(dim), keepdim), below)


@lower("aten.var.correction")
def var(
    b: Builder,
    x: ir.Value,
    dim: Axes = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> ir.Value:
    return _variance(b, x, dim, 1 if correction is None else correction, keepdim)


@lower("aten.std.correction")
def std(
    b: Builder,
    x: ir.Value,
    dim: Axes = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> ir.Value:
    return b.op("Sqrt", var(b, x, dim, correction=correction, keepdim=keepdim))


@lower("aten.var_mean.correction")
def var_mean(
    b: Builder,
    x: ir.Value,
    dim: Axes = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> list[ir.Value]:
    first = var(b, x, dim, correction=correction, keepdim=keepdim)
    return [first, b.reduce("ReduceMean", x, _axes(dim), keepdim)]


@lower("aten.linalg_vector_norm.default")
def vector_norm(
    b: Builder,
    x: ir.Value,
    ord: Scalar = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> ir.Value:
    x = b.cast(x, b.out_dtype)
    axes = _axes(dim)
    if ord == 2:
        return b.reduce("ReduceL2", x, axes, keepdim)
    size = b.op("Abs", x)
    if ord == 1:
        return b.reduce("ReduceSum", size, axes, keepdim)
    if ord == float("inf"):
        return b.reduce("ReduceMax", size, axes, keepdim)
    if ord == float("-inf"):
        return b.reduce("ReduceMin", size, axes, keepdim)
    if ord == 0:
        nonzero = b.op("Sign", size)
        return b.reduce("ReduceSum", nonzero, axes, keepdim)
    total = b.reduce("ReduceSum", b.op("Pow", size, b.number(ord, b.out_dtype)), axes, keepdim)
    return b.op("Pow", total, b.number(1 / ord, b.out_dtype))


@lower("aten.logsumexp.default")
def logsumexp(b: Builder, x: ir.Value, dim: Axes, keepdim: bool = False) -> ir.Value:
    return b.reduce("ReduceLogSumExp", b.cast(x, b.out_dtype), _axes(dim), keepdim)


def _cumulative(b: Builder, op_type: str, x: ir.Value, dim: int) -> ir.Value:
    x = b.cast(x, b.out_dtype)
    if b.rank_of(x) == 0:
        return x
    return b.op(op_type, x, b.number(b.axis(x, dim), torch.int64), shape=b.shape_of(x))


@lower("aten.cumsum.default")
def cumsum(b: Builder, x: ir.Value, dim: int, *, dtype: Any = None) -> ir.Value:
    return _cumulative(b, "CumSum", x, dim)


@lower("aten.cumprod.default")
def cumprod(b: Builder, x: ir.Value, dim: int, *, dtype: Any = None) -> ir.Value:
    return _cumulative(b, "CumProd", x, dim)


@lower("aten.topk.default")
def topk(
    b: Builder, x: ir.Value, k: Dim, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[ir.Value]:
    axis = b.axis(x, dim)
    if b.rank_of(x) == 0:
        return [x, b.number(0, torch.int64)]
    shape = list(b.shape_of(x))
    shape[axis] = k
    kind = torch.uint8 if b.out_dtype is torch.bool else b.out_dtype
    values, places = b.ops(
        "TopK",
        b.cast(x, kind),
        b.size_vector([k]),
        results=[(kind, shape), (torch.int64, shape)],
        axis=axis,
        largest=int(largest),
        sorted=int(sorted),
    )
    return [b.cast(values, b.out_dtype), places]


@lower("aten.sort.default", "aten.sort.stable")
def sort(
    b: Builder,
    x: ir.Value,
    dim: int = -1,
    descending: bool = False,
    *,
    stable: bool | None = None,
) -> list[ir.Value]:
    # TopK names the lower index first where values are equal, so every sort is stable.
    size = b.shape_of(x)[b.axis(x, dim)] if b.rank_of(x) else 1
    return topk(b, x, size, dim, largest=descending)
