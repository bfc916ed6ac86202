"""Order statistics, running extremes, places among sorted numbers, counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.reduce import topk
from zenith_torch.lower.registry import lower


@lower("aten.kthvalue.default")
def kthvalue(
    b: Builder, x: ir.Value, k: int, dim: int = -1, keepdim: bool = False
) -> list[ir.Value]:
    """The last of the k smallest."""
    axis = b.axis(x, dim)
    if b.rank_of(x) == 0:
        return [x, b.number(0, torch.int64)]
    found = [b.slice(v, axis, k - 1, k) for v in topk(b, x, k, dim, largest=False)]
    return found if keepdim else [b.squeeze(v, axis) for v in found]


@lower("aten.median.dim")
def median(b: Builder, x: ir.Value, dim: int, keepdim: bool = False) -> list[ir.Value]:
    """The lower of the two in the middle; the last axis of a NaN is one, as TopK sorts them."""
    size = b.shape_of(x)[b.axis(x, dim)] if b.rank_of(x) else 1
    if not isinstance(size, int):
        raise NotSupportedError("the median of a dynamic axis")
    values, places = kthvalue(b, x, (size + 1) // 2, dim, keepdim)
    if not b.out_dtype.is_floating_point:
        return [values, places]
    nan = b.op("IsNaN", x, dtype=torch.bool)
    axis = [b.axis(x, dim)] if b.rank_of(x) else []
    first = b.op("ArgMax", b.cast(nan, torch.int32), shape=b.shape_of(places), dtype=torch.int64,
                 axis=axis[0], keepdims=int(keepdim)) if axis else places  # fmt: skip
    any_nan = b.reduce("ReduceMax", b.cast(nan, torch.int32), axis, keepdim)
    any_nan = b.cast(any_nan, torch.bool)
    low = b.number(float("nan"), b.out_dtype)
    return [
        b.op("Where", any_nan, low, values, dtype=b.out_dtype),
        b.op("Where", any_nan, first, places, dtype=torch.int64),
    ]


@lower("aten.median.default")
def median_of_all(b: Builder, x: ir.Value) -> ir.Value:
    return median(b, b.reshape(x, (b.elements(x),)), 0)[0]


# --- running --------------------------------------------------------------------------------------

_Combine = Callable[[Sequence[ir.Value], Sequence[ir.Value]], list[ir.Value]]


def _running(
    b: Builder, values: Sequence[ir.Value], axis: int, combine: _Combine
) -> list[ir.Value]:
    """`combine` of everything up to each place, in steps of 1, 2, 4, ...: few and wide."""
    size, step = b.shape_of(values[0])[axis], 1
    if not isinstance(size, int):
        raise NotSupportedError("running values of a dynamic axis")
    values = list(values)
    while step < size:
        before = [b.slice(v, axis, 0, size - step) for v in values]
        here = [b.slice(v, axis, step, size) for v in values]
        first = [b.slice(v, axis, 0, step) for v in values]
        pairs = zip(first, combine(before, here), strict=True)
        values = [b.concat(list(pair), axis) for pair in pairs]
        step *= 2
    return values


@lower("aten.cummax.default", "aten.cummin.default")
def running_extreme(b: Builder, x: ir.Value, dim: int) -> list[ir.Value]:
    """Of equal ones the last; a NaN stays."""
    if b.rank_of(x) == 0:
        return [x, b.number(0, torch.int64)]
    kind, shape, axis = x.dtype, b.shape_of(x), b.axis(x, dim)
    keeps = "Greater" if "cummax" in b.target else "Less"
    count = b.op("CumSum", filled(b, 1, shape, torch.int64), b.number(axis, torch.int64),
                 shape=shape)  # fmt: skip
    places = b.op("Sub", count, b.number(1, torch.int64))

    def combine(before: Sequence[ir.Value], here: Sequence[ir.Value]) -> list[ir.Value]:
        wide = [b.cast(v[0], torch.int32) if kind == ir.DataType.BOOL else v[0]
                for v in (before, here)]  # fmt: skip
        kept = b.op(keeps, *wide, dtype=torch.bool)
        if kind is not None and kind.is_floating_point():
            nans = [b.op("IsNaN", v, dtype=torch.bool) for v in wide]
            kept = b.op("And", b.op("Or", kept, nans[0]), b.op("Not", nans[1]))
        pairs = zip(before, here, strict=True)
        return [b.op("Where", kept, old, new, dtype=new.dtype) for old, new in pairs]

    return _running(b, [x, places], axis, combine)


@lower("aten.logcumsumexp.default")
def logcumsumexp(b: Builder, x: ir.Value, dim: int) -> ir.Value:
    if b.rank_of(x) == 0:
        return x

    def combine(before: Sequence[ir.Value], here: Sequence[ir.Value]) -> list[ir.Value]:
        largest = b.op("Max", before[0], here[0])
        bound = b.op("Max", largest, b.number(torch.finfo(b.out_dtype).min, b.out_dtype))
        parts = [b.op("Exp", b.op("Sub", v[0], bound)) for v in (before, here)]
        return [b.op("Add", b.op("Log", b.op("Add", *parts)), bound)]

    return _running(b, [x], b.axis(x, dim), combine)[0]


# --- among sorted numbers -------------------------------------------------------------------------


@lower("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def searchsorted(
    b: Builder,
    limits: ir.Value,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: ir.Value | None = None,
) -> ir.Value:
    """How many limits lie below each number, or not above it: counted, not searched."""
    if sorter is not None:
        raise NotSupportedError("an order that is given")
    kind = limits.dtype
    if isinstance(x, ir.Value):
        kind = ir.DataType.from_numpy(torch.empty(0, dtype=b.result_type(limits, x)).numpy().dtype)
    values, limits = b.operand(x, kind), b.cast(limits, kind)
    wide = b.unsqueeze(values, b.rank_of(values))
    if b.rank_of(limits) > 1:
        limits = b.unsqueeze(limits, b.rank_of(limits) - 1)
    below = "LessOrEqual" if right or side == "right" else "Less"
    counted = b.cast(b.op(below, limits, wide, dtype=torch.bool), b.out_dtype)
    return b.reduce("ReduceSum", counted, [b.rank_of(counted) - 1], keepdims=False)


@lower("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(
    b: Builder, x: Any, limits: ir.Value, *, out_int32: bool = False, right: bool = False
) -> ir.Value:
    return searchsorted(b, limits, x, right=right)


# --- counts ---------------------------------------------------------------------------------------


@lower("aten.histc.default")
def histc(b: Builder, x: ir.Value, bins: int = 100, low: float = 0, high: float = 0) -> ir.Value:
    """How many elements fall into each of equal intervals; the last one includes its end."""
    kind, count = b.out_dtype, b.elements(x)
    x = b.reshape(x, (count,))
    ends: list[Any] = [low, high]
    if low == high:
        ends = [b.reduce(f"Reduce{which}", x, None, False) for which in ("Min", "Max")]
    first, last = (b.operand(end, kind) for end in ends)
    apart = b.op("Div", b.op("Sub", x, first), b.op("Sub", last, first))
    place = b.op("Floor", b.op("Mul", apart, b.number(bins, kind)))
    limits = (b.number(0, kind), b.number(bins - 1, kind))
    place = b.op("Min", b.op("Max", place, limits[0]), limits[1])
    inside = b.op(
        "And",
        b.op("GreaterOrEqual", x, first, dtype=torch.bool),
        b.op("LessOrEqual", x, last, dtype=torch.bool),
    )
    return _added_up(b, b.cast(place, torch.int64), b.cast(inside, kind), bins)


def _added_up(b: Builder, places: ir.Value, weights: ir.Value, count: Dim) -> ir.Value:
    zeros = filled(b, 0, (count,), b.out_dtype)
    return b.op("ScatterElements", zeros, places, weights, shape=(count,), axis=0, reduction="add")


@lower("aten.bincount.default")
def bincount(
    b: Builder, x: ir.Value, weights: ir.Value | None = None, minlength: int = 0
) -> ir.Value:
    """As many counts as the largest number says, which only the data knows."""
    places = b.cast(x, torch.int64)
    zero = b.number(-1, torch.int64, (1,))
    last = b.reduce("ReduceMax", b.concat([places, zero], 0), None, False)
    count = b.op("Add", last, b.number(1, torch.int64))
    count = b.op("Max", count, b.number(minlength, torch.int64))
    (size,) = b.out_shape
    if not isinstance(size, int):
        b.tells(exactly(size), count)
    ones = weights if weights is not None else filled(b, 1, b.shape_of(x), torch.int64)
    return _added_up(b, places, b.cast(ones, b.out_dtype), size)


@lower("aten.repeat_interleave.Tensor")
def repeat_interleave(b: Builder, repeats: ir.Value, *, output_size: Any = None) -> ir.Value:
    """Whose repetition each place has: so many end before it."""
    repeats = b.cast(repeats, torch.int64)
    (size,) = b.out_shape
    if not isinstance(size, int):
        b.tells(exactly(size), b.reduce("ReduceSum", repeats, None, False))
    ends = b.op("CumSum", repeats, b.number(0, torch.int64))
    zero, one = b.number(0, torch.int64), b.number(1, torch.int64)
    places = b.op("Range", zero, b.operand(size, torch.int64), one, shape=(size,))
    return b.cast(searchsorted(b, ends, places, right=True), b.out_dtype)


@lower("aten._unique2.default", "aten.unique_dim.default")
def unique(
    b: Builder,
    x: ir.Value,
    *how: Any,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> list[ir.Value]:
    """The different elements, or slices, in order; where each went; how often there was each."""
    axis = b.axis(x, how[0]) if "unique_dim" in b.target else None
    shape, (inverse_shape, counts_shape) = b.out_shapes[0], b.out_shapes[1:]
    size = shape[axis or 0]
    total = b.elements(x) if axis is None else b.shape_of(x)[axis]
    results = [(b.out_dtype, shape), *((torch.int64, (n,)) for n in (size, total, size))]
    found, _, inverse, counts = b.ops("Unique", x, results=results, axis=axis, sorted=1)
    b.knows(size, found, axis or 0)
    nothing = filled(b, 0, (0,), torch.int64)
    return [
        found,
        nothing if inverse_shape == (0,) else b.reshape(inverse, inverse_shape),
        nothing if counts_shape == (0,) else counts,
    ]
