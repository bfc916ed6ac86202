"""Writing by index: each operator gives a new tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, broadcast, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.elementwise import div_mode, where
from zenith_torch.lower.index import as_index
from zenith_torch.lower.registry import lower
from zenith_torch.lower.shape import bound


def _scatter(
    b: Builder, x: ir.Value, dim: int, indices: ir.Value, source: ir.Value, reduction: str
) -> ir.Value:
    indices = as_index(b, indices)
    if b.rank_of(x) == 0:  # ONNX scatters along an axis
        x, indices, source = (b.reshape(v, (1,)) for v in (x, indices, source))
        return b.reshape(_scatter(b, x, 0, indices, source, reduction), ())
    shape = b.shape_of(indices)
    for axis, size in enumerate(shape):
        if b.shape_of(source)[axis] != size:
            source = b.slice(source, axis, 0, size)
    axis = b.axis(x, dim)
    return b.op(
        "ScatterElements",
        x,
        indices,
        b.cast(source, b.out_dtype),
        shape=b.shape_of(x),
        axis=axis,
        reduction=reduction,
    )


@lower("aten.scatter.src")
def scatter_src(b: Builder, x: ir.Value, dim: int, index: ir.Value, src: ir.Value) -> ir.Value:
    return _scatter(b, x, dim, index, src, "none")


@lower("aten.scatter.value")
def scatter_value(b: Builder, x: ir.Value, dim: int, index: ir.Value, value: Any) -> ir.Value:
    source = b.expand(b.operand(value, b.out_dtype), b.shape_of(index))
    return _scatter(b, x, dim, index, source, "none")


@lower("aten.scatter.reduce", "aten.scatter.value_reduce")
def scatter_with(
    b: Builder, x: ir.Value, dim: int, index: ir.Value, value: Any, *, reduce: str
) -> ir.Value:
    if not isinstance(value, ir.Value):
        value = b.expand(b.operand(value, b.out_dtype), b.shape_of(index))
    name = {"add": "sum", "multiply": "prod"}[reduce]
    return scatter_reduce(b, x, dim, index, value, name)


@lower("aten.scatter_add.default")
def scatter_add(b: Builder, x: ir.Value, dim: int, index: ir.Value, src: ir.Value) -> ir.Value:
    return _scatter(b, x, dim, index, src, "add")


@lower("aten.scatter_reduce.two")
def scatter_reduce(
    b: Builder,
    x: ir.Value,
    dim: int,
    index: ir.Value,
    src: ir.Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> ir.Value:
    names = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}
    if b.out_dtype is torch.bool:  # "or" is the maximum, "and" the minimum
        b.out_dtype, how = torch.int32, {"sum": "amax", "prod": "amin"}.get(reduce, reduce)
        wide = (b.cast(x, torch.int32), dim, index, b.cast(src, torch.int32), how)
        return b.cast(scatter_reduce(b, *wide, include_self=include_self), torch.bool)
    start = x
    if not include_self:  # what the written places held does not count
        start = _scatter(b, x, dim, index, _filled(b, _neutral(b, reduce), index), "none")
    result = _scatter(b, start, dim, index, src, names[reduce])
    if reduce != "mean":
        return result
    ones = b.expand(b.number(1, b.out_dtype), b.shape_of(x))
    if not include_self:
        ones = _scatter(b, ones, dim, index, _filled(b, 0, index), "none")
    counts = _scatter(b, ones, dim, index, _filled(b, 1, index), "add")
    counts = b.op("Max", counts, b.number(1, b.out_dtype))
    floats = b.out_dtype.is_floating_point
    return div_mode(b, result, counts, rounding_mode=None if floats else "floor")


def _filled(b: Builder, value: Any, like: ir.Value) -> ir.Value:
    """A number in the shape of the indices, in the type of the result."""
    return b.expand(b.number(value, b.out_dtype), b.shape_of(like))


def _neutral(b: Builder, reduce: str) -> Any:
    """What changes nothing in a reduction."""
    if reduce in ("sum", "mean", "prod"):
        return 1 if reduce == "prod" else 0
    largest: Any = float("inf")
    if not b.out_dtype.is_floating_point:
        bounds = torch.iinfo(b.out_dtype)
        return bounds.min if reduce == "amax" else bounds.max
    return -largest if reduce == "amax" else largest


@lower("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    b: Builder,
    x: ir.Value,
    indices: Sequence[ir.Value | None],
    values: ir.Value,
    accumulate: bool = False,
) -> ir.Value:
    used = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    if len(used) == 1 and used[0][1].dtype == ir.DataType.BOOL:
        return _masked_put(b, x, *used[0], values, accumulate)
    used = [(axis, as_index(b, i)) for axis, i in used]
    if len(used) == 1 and used[0][0] > 0 and b.rank_of(used[0][1]) == 1:
        return _rows_put(b, x, *used[0], values, accumulate)
    axes = [axis for axis, _ in used]
    rest = [a for a in range(b.rank_of(x)) if a not in axes]
    order = [*axes, *rest]
    common = broadcast(*(b.shape_of(i) for _, i in used))
    columns = [b.expand(b.cast(i, torch.int64), common) for _, i in used]
    stacked = b.concat([b.unsqueeze(c, len(common)) for c in columns], len(common))
    tail = [b.shape_of(x)[a] for a in rest]
    lead = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    # values have x's axes with the indexed ones replaced, in place, by the indices' axes
    shape = [*tail[:lead], *common, *tail[lead:]]
    updates = b.expand(b.cast(values, b.out_dtype), shape)
    where_common = range(lead, lead + len(common))
    moved = [a for a in range(len(shape)) if a not in where_common]
    updates = b.transpose(updates, [*where_common, *moved])
    front = b.transpose(x, order)
    reduction = "add" if accumulate else "none"
    result = b.op(
        "ScatterND", front, stacked, updates, shape=b.shape_of(front), reduction=reduction
    )
    return b.transpose(result, [order.index(a) for a in range(len(order))])


def _rows_put(
    b: Builder, x: ir.Value, axis: int, index: ir.Value, values: ir.Value, accumulate: bool
) -> ir.Value:
    """x[:, ..., index] = values for one list of places on an inner axis: no axis has to move, so
    that a cache can be written where it lies."""
    shape = list(b.shape_of(x))
    shape[axis] = b.shape_of(index)[0]
    updates = b.expand(b.cast(values, b.out_dtype), shape)
    places = b.reshape(index, [n if a == axis else 1 for a, n in enumerate(shape)])
    return _scatter(b, x, axis, b.expand(places, shape), updates, "add" if accumulate else "none")


def _masked_put(
    b: Builder, x: ir.Value, axis: int, mask: ir.Value, values: ir.Value, accumulate: bool
) -> ir.Value:
    """A number for all places of the mask, or one row for each of them, in order."""
    values = b.cast(values, b.out_dtype)
    tail = b.shape_of(x)[axis + b.rank_of(mask) :]
    if b.rank_of(values) > len(tail) and b.shape_of(values)[0] != 1:
        if axis != 0:
            raise NotSupportedError("rows for a mask of inner axes")
        rows = b.expand(values, (b.shape_of(values)[0], *tail))
        values = b.reshape(_row_of_each(b, mask, rows), (*b.shape_of(mask), *tail))
    elif b.rank_of(values) > len(tail):
        values = b.squeeze(values, 0)
    plus = "Or" if b.out_dtype is torch.bool else "Add"
    value = b.op(plus, x, values) if accumulate else values
    return where(b, b.reshape(mask, (*b.shape_of(mask), *[1] * len(tail))), value, x)


def _row_of_each(b: Builder, mask: ir.Value, rows: ir.Value) -> ir.Value:
    """For each element of the mask the row that is its own where it is set."""
    count = b.elements(mask)
    flat = b.cast(b.reshape(mask, (count,)), torch.int64)
    places = b.op("CumSum", flat, b.number(0, torch.int64), shape=(count,))
    places = b.op("Sub", places, b.number(1, torch.int64))
    places = b.op("Max", places, b.number(0, torch.int64))  # before the first there is none
    return b.gather(rows, places, 0)


@lower("aten.masked_scatter.default")
def masked_scatter(b: Builder, x: ir.Value, mask: ir.Value, source: ir.Value) -> ir.Value:
    """Element i of `source` goes to the i-th place of the mask, row by row."""
    shape = b.out_shape
    count = product(shape)
    x, flat = b.expand(x, shape), b.reshape(b.expand(mask, shape), (count,))
    places = b.op("CumSum", b.cast(flat, torch.int64), b.number(0, torch.int64), shape=(count,))
    places = b.op("Sub", places, b.number(1, torch.int64))
    last = b.op("Sub", b.operand(b.elements(source), torch.int64), b.number(1, torch.int64))
    zero = b.number(0, torch.int64)
    places = b.op("Max", b.op("Min", places, last), zero)
    values = b.gather(b.reshape(source, (b.elements(source),)), places, 0)
    return b.op("Where", b.reshape(flat, shape), b.reshape(values, shape), x, dtype=b.out_dtype)


@lower("aten.slice_scatter.default")
def slice_scatter(
    b: Builder,
    x: ir.Value,
    source: ir.Value,
    dim: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> ir.Value:
    axis = b.axis(x, dim)
    size, length = b.shape_of(x)[axis], b.shape_of(source)[axis]
    source = b.cast(source, b.out_dtype)
    first = bound(start, size, 0)
    if step == 1:
        last = exactly(first + length)
        parts = [source]
        if first != 0:
            parts.insert(0, b.slice(x, axis, 0, first))
        if last != size:
            parts.append(b.slice(x, axis, last, size))
        return b.concat(parts, axis)
    last = bound(end, size, size)
    bounds = [b.size_scalar(first), b.size_scalar(last), b.number(step, torch.int64)]
    rows = b.unsqueeze(b.op("Range", *bounds, shape=[length]), 1)
    order = [axis, *(a for a in range(b.rank_of(x)) if a != axis)]
    back = [order.index(a) for a in range(len(order))]
    front, update = b.transpose(x, order), b.transpose(source, order)
    return b.transpose(b.op("ScatterND", front, rows, update, shape=b.shape_of(front)), back)


@lower("aten.select_scatter.default")
def select_scatter(b: Builder, x: ir.Value, source: ir.Value, dim: int, index: Dim) -> ir.Value:
    axis = b.axis(x, dim)
    size = b.shape_of(x)[axis]
    start = exactly(index + size) if isinstance(index, int) and index < 0 else index
    return slice_scatter(b, x, b.unsqueeze(source, axis), axis, start, exactly(start + 1))


@lower("aten.copy.default")
def copy(b: Builder, x: ir.Value, source: ir.Value, *_: Any) -> ir.Value:
    return b.expand(b.cast(source, b.out_dtype), b.shape_of(x))


@lower("aten.fill.Scalar", "aten.fill.Tensor")
def fill(b: Builder, x: ir.Value, value: Any) -> ir.Value:
    return b.expand(b.operand(value, b.out_dtype), b.shape_of(x))


@lower("aten.put.default")
def put(
    b: Builder, x: ir.Value, indices: ir.Value, source: ir.Value, accumulate: bool = False
) -> ir.Value:
    """By places in the flat tensor."""
    flat = b.reshape(x, (b.elements(x),))
    places, values = (b.reshape(v, (b.elements(v),)) for v in (indices, source))
    how = "add" if accumulate else "none"
    return b.reshape(_scatter(b, flat, 0, places, values, how), b.shape_of(x))


@lower("aten.index_reduce.default")
def index_reduce(
    b: Builder,
    x: ir.Value,
    dim: int,
    index: ir.Value,
    source: ir.Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> ir.Value:
    """`scatter_reduce` of whole slices."""
    axis, shape = b.axis(x, dim), b.shape_of(source)
    places = b.reshape(index, [n if a == axis else 1 for a, n in enumerate(shape)])
    wide = b.expand(places, shape)
    return scatter_reduce(b, x, dim, wide, source, reduce, include_self=include_self)


@lower("aten.diagonal_scatter.default")
def diagonal_scatter(
    b: Builder, x: ir.Value, source: ir.Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> ir.Value:
    first, second = b.axis(x, dim1), b.axis(x, dim2)
    rest = [a for a in range(b.rank_of(x)) if a not in (first, second)]
    order = [first, second, *rest]
    count = b.shape_of(source)[-1]
    if not isinstance(count, int):
        raise NotSupportedError("the diagonal of dynamic axes")
    steps = np.arange(count, dtype=np.int64)
    places = b.constant(np.stack([steps + max(-offset, 0), steps + max(offset, 0)], 1))
    front = b.transpose(x, order)
    last = b.rank_of(source) - 1
    rows = b.transpose(b.cast(source, b.out_dtype), [last, *range(last)])
    written = b.op("ScatterND", front, places, rows, shape=b.shape_of(front))
    return b.transpose(written, [order.index(a) for a in range(len(order))])
