"""Reading by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import broadcast
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.registry import lower

_INDEX_TYPES = (ir.DataType.INT64, ir.DataType.INT32)


def as_index(b: Builder, indices: ir.Value) -> ir.Value:
    """Indices in a type that ONNX takes; masks are counted at run time, so not supported."""
    if indices.dtype == ir.DataType.BOOL:
        raise NotSupportedError("indexing by a mask: the size of the result depends on the data")
    return indices if indices.dtype in _INDEX_TYPES else b.cast(indices, torch.int64)


@lower("aten.embedding.default")
def embedding(b: Builder, weight: ir.Value, indices: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return b.gather(weight, as_index(b, indices), 0)


@lower("aten.index_select.default")
def index_select(b: Builder, x: ir.Value, dim: int, indices: ir.Value) -> ir.Value:
    if b.rank_of(x) == 0:
        return x
    if b.rank_of(indices) == 0:
        indices = b.unsqueeze(indices, 0)
    return b.gather(x, as_index(b, indices), b.axis(x, dim))


@lower("aten.gather.default")
def gather(b: Builder, x: ir.Value, dim: int, indices: ir.Value, **_: Any) -> ir.Value:
    indices = as_index(b, indices)
    if b.rank_of(x) == 0:
        return b.expand(x, b.shape_of(indices))
    shape = b.shape_of(indices)
    axis = b.axis(x, dim)
    others = [s[a] for s in (b.shape_of(x), shape) for a in range(len(shape)) if a != axis]
    if all(size == 1 for size in others):  # one row: whole slices can be read
        return b.gather(x, b.reshape(indices, (shape[axis],)), axis)
    return b.op("GatherElements", x, indices, shape=shape, axis=axis)


@lower("aten.take.default")
def take(b: Builder, x: ir.Value, indices: ir.Value) -> ir.Value:
    return b.gather(b.reshape(x, (b.elements(x),)), as_index(b, indices), 0)


@lower("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(b: Builder, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    used = [(axis, as_index(b, i)) for axis, i in enumerate(indices) if i is not None]
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
    if axes == list(range(axes[0], axes[-1] + 1)):
        # Adjacent indices: their axes stay where the first of them was.
        lead, count = axes[0], len(common)
        before = [count + i for i in range(lead)]
        after = range(count + lead, len(shape))
        result = b.transpose(result, [*before, *range(count), *after])
    return result
