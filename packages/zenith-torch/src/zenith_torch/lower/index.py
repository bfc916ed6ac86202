"""Reading by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, broadcast, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.registry import lower

_INDEX_TYPES = (ir.DataType.INT64, ir.DataType.INT32)


def as_index(b: Builder, indices: ir.Value) -> ir.Value:
    """Indices in a type that ONNX takes."""
    return indices if indices.dtype in _INDEX_TYPES else b.cast(indices, torch.int64)


@lower("aten.index_select.default")
def index_select(b: Builder, x: ir.Value, dim: int, indices: ir.Value) -> ir.Value:
    if b.rank_of(x) == 0:
        return x
    if b.rank_of(indices) == 0:
        indices = b.unsqueeze(indices, 0)
    return b.gather(x, as_index(b, indices), b.axis(x, dim))


@lower("aten.gather.default")
def gather(b: Builder, x: ir.Value, dim: int, indices: ir.Value, **_: Any) -> ir.Value:
    if indices.dtype not in _INDEX_TYPES and b.elements(indices) != 0:
        raise NotSupportedError("indices that are no integers of 32 or 64 bits")
    indices = as_index(b, indices)
    if b.rank_of(x) == 0:
        return b.expand(x, b.shape_of(indices))
    if b.rank_of(indices) == 0:
        return b.gather(x, indices, 0)
    shape = b.shape_of(indices)
    if 0 in shape:  # PyTorch lets these have any number of axes
        return b.expand(b.number(0, b.out_dtype), b.out_shape)
    axis = b.axis(x, dim)
    others = [s[a] for s in (b.shape_of(x), shape) for a in range(len(shape)) if a != axis]
    if all(size == 1 for size in others):  # one row: whole slices can be read
        return b.gather(x, b.reshape(indices, (shape[axis],)), axis)
    return b.op("GatherElements", x, indices, shape=shape, axis=axis)


@lower("aten.take.default")
def take(b: Builder, x: ir.Value, indices: ir.Value) -> ir.Value:
    return b.gather(b.reshape(x, (b.elements(x),)), as_index(b, indices), 0)


@lower("aten.nonzero.default")
def nonzero(b: Builder, x: ir.Value) -> ir.Value:
    return b.transpose(_set_places(b, x, b.out_shape[0]), [1, 0])


def _set_places(b: Builder, mask: ir.Value, count: Dim) -> ir.Value:
    """(rank, count) positions of what is not zero; the count is known when it runs.

    count: what the capture calls it; it has one name for all that read a mask.
    """
    if b.rank_of(mask) == 0:  # ONNX takes a number for a vector
        found = b.op("NonZero", b.reshape(mask, (1,)), shape=(1, count), dtype=torch.int64)
        b.knows(count, found, 1)
        return b.slice(found, 0, 0, 0)
    shape = (b.rank_of(mask), count)
    return b.knows(count, b.op("NonZero", mask, shape=shape, dtype=torch.int64), 1)


@lower("aten.masked_select.default")
def masked_select(b: Builder, x: ir.Value, mask: ir.Value) -> ir.Value:
    shape = broadcast(b.shape_of(x), b.shape_of(mask))
    flat = [b.reshape(b.expand(v, shape), (product(shape),)) for v in (x, mask)]
    (count,) = b.out_shape
    return b.knows(count, b.op("Compress", *flat, shape=(count,), axis=0), 0)


def _positions(b: Builder, indices: Sequence[ir.Value | None]) -> list[tuple[int, ir.Value]]:
    """(axis, positions) of every index; a mask is the positions where it is set."""
    axes: list[int] = []
    axis = 0
    for which in indices:
        taken = b.rank_of(which) if which is not None and which.dtype == ir.DataType.BOOL else 1
        axes += range(axis, axis + taken) if which is not None else ()
        axis += taken
    # In the result, a mask's count is the last of the indices' axes.
    ranks = [1 if w.dtype == ir.DataType.BOOL else b.rank_of(w) for w in indices if w is not None]
    last = (axes[0] if _adjacent(axes) else 0) + max(ranks) - 1
    used: list[ir.Value] = []
    for which in indices:
        if which is not None and which.dtype == ir.DataType.BOOL:
            places = _set_places(b, which, b.out_shape[last])
            rows = range(b.rank_of(which))
            used += [b.squeeze(b.slice(places, 0, row, row + 1), 0) for row in rows]
        elif which is not None:
            used.append(as_index(b, which))
    return list(zip(axes, used, strict=True))


def _adjacent(axes: Sequence[int]) -> bool:
    """Whether the axes of the indices stay where the first of them was."""
    return bool(axes) and list(axes) == list(range(axes[0], axes[-1] + 1))


@lower("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(b: Builder, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    used = _positions(b, indices)
    if len(used) == 1:
        axis, which = used[0]
        return b.gather(x, which, axis)
    axes = [axis for axis, _ in used]
    rest = [a for a in range(b.rank_of(x)) if a not in axes]
    common = broadcast(*(b.shape_of(i) for _, i in used))
    columns = [b.expand(b.cast(i, torch.int64), common) for _, i in used]
    stacked = b.concat([b.unsqueeze(c, len(common)) for c in columns], len(common))
    front = b.transpose(x, [*axes, *rest])
    shape = [*common, *(b.shape_of(x)[a] for a in rest)]
    result = b.op("GatherND", front, stacked, shape=shape, dtype=b.out_dtype)
    if _adjacent(axes):
        lead, count = axes[0], len(common)
        before = [count + i for i in range(lead)]
        after = range(count + lead, len(shape))
        result = b.transpose(result, [*before, *range(count), *after])
    return result
