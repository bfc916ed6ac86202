"""Rows of a table, by index."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.index import as_index
from zenith_torch.lower.reduce import vector_norm
from zenith_torch.lower.registry import lower

_SUM, _MEAN, _MAX = 0, 1, 2


@lower("aten.embedding.default")
def embedding(b: Builder, weight: ir.Value, indices: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return b.gather(weight, as_index(b, indices), 0)


@lower("aten.embedding_renorm.default")
def embedding_renorm(
    b: Builder, weight: ir.Value, indices: ir.Value, max_norm: float, norm_type: float
) -> ir.Value:
    """The table with the rows that are read cut down to a norm of at most `max_norm`."""
    rows, _ = b.shape_of(weight)
    kind = weight.dtype
    norm = vector_norm(b, weight, norm_type, 1, True)
    small = b.op("Add", norm, b.number(1e-7, kind))  # PyTorch's own guard against zero
    scale = b.op("Div", b.number(max_norm, kind), small)
    flat = b.reshape(as_index(b, indices), (b.elements(indices),))
    read = _added(b, b.expand(b.number(1, torch.float32), b.shape_of(flat)), flat, (rows,))
    touched = b.reshape(
        b.op("Greater", read, b.number(0, torch.float32), dtype=torch.bool), (rows, 1)
    )
    large = b.op("Greater", norm, b.number(max_norm, kind), dtype=torch.bool)
    one = b.number(1, kind)
    factor = b.op("Where", b.op("And", touched, large), scale, one, dtype=kind)
    return b.op("Mul", weight, factor)


def _added(
    b: Builder, rows: ir.Value, places: ir.Value, shape: tuple[Dim, ...], reduction: str = "add"
) -> ir.Value:
    """Rows added up (or their maxima) at their places of a tensor that is empty at first."""
    start = 0 if reduction == "add" else float("-inf")
    base = b.expand(b.number(start, rows.dtype), shape)
    where = b.unsqueeze(b.cast(places, torch.int64), 1)
    return b.op("ScatterND", base, where, rows, shape=shape, reduction=reduction)


def _bag_of_each(b: Builder, offsets: ir.Value, count: Dim) -> ir.Value:
    """Which bag each index is in: how many bags began, less one."""
    ones = b.expand(b.number(1, torch.int64), b.shape_of(offsets))
    begins = _added(b, ones, offsets, (exactly(count + 1),))
    begun = b.op("CumSum", b.slice(begins, 0, 0, count), b.number(0, torch.int64), shape=(count,))
    return b.op("Sub", begun, b.number(1, torch.int64))


@lower("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def embedding_bag(
    b: Builder,
    weight: ir.Value,
    indices: ir.Value,
    offsets: ir.Value,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: ir.Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> list[ir.Value]:
    """Results: the bags, the bag of each index, the size of each bag, the places of maxima."""
    if mode == _MAX and 3 in b.used:
        raise NotSupportedError("the places of the maxima in bags")
    shape, kind, types = b.out_shapes[0], weight.dtype, list(b.out_dtypes)
    bags, count = shape[0], b.shape_of(indices)[0]
    which = _bag_of_each(b, b.slice(offsets, 0, 0, bags), count)
    rows = b.gather(weight, as_index(b, indices), 0)
    if per_sample_weights is not None:
        rows = b.op("Mul", rows, b.unsqueeze(per_sample_weights, 1))
    kept = b.expand(b.number(1, kind), (count,))
    if padding_idx >= 0:
        padding = b.op("Equal", indices, b.number(padding_idx, indices.dtype), dtype=torch.bool)
        kept = b.cast(b.op("Not", padding), kind)
        nothing = b.number(float("-inf") if mode == _MAX else 0, kind)
        rows = b.op("Where", b.unsqueeze(padding, 1), nothing, rows, dtype=kind)
    size = _added(b, kept, which, (bags,))
    result = _added(b, rows, which, shape, "max" if mode == _MAX else "add")
    if mode == _MAX:
        empty = b.op("Equal", size, b.number(0, kind), dtype=torch.bool)
        zero = b.number(0, kind)
        result = b.op("Where", b.unsqueeze(empty, 1), zero, result, shape=shape, dtype=kind)
    if mode == _MEAN:
        result = b.op("Div", result, b.unsqueeze(b.op("Max", size, b.number(1, kind)), 1))
    if b.out_shapes[1] == (0,):  # PyTorch does without them where it can
        which = filled(b, 0, (0,), torch.int64)
    ends = exactly(b.out_shapes[2][0] - bags)
    if ends != 0:  # the capture counts the end of the last bag as a bag
        size = b.concat([size, filled(b, 0, (ends,), b.out_dtype)], 0)
    places = filled(b, 0, b.out_shapes[3], types[3])
    return [result, b.cast(which, types[1]), b.cast(size, types[2]), places]


@lower("aten._embedding_bag_backward.default")
def embedding_bag_backward(
    b: Builder,
    grad: ir.Value,
    indices: ir.Value,
    offsets: ir.Value,
    bag_of_each: ir.Value,
    bag_size: ir.Value,
    places: ir.Value,
    rows: Dim,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: ir.Value | None,
    padding_idx: int = -1,
) -> ir.Value:
    """Each row of the table gets the gradients of the bags that it is in."""
    if mode == _MAX or scale_grad_by_freq or sparse:
        raise NotSupportedError("gradients of maxima, by frequency, or as a sparse tensor")
    kind, count = grad.dtype, b.shape_of(indices)[0]
    bags = b.slice(offsets, 0, 0, b.shape_of(grad)[0])
    which = _bag_of_each(b, bags, count)
    given = b.gather(grad, which, 0)
    if mode == _MEAN:
        sizes = b.gather(b.cast(bag_size, kind), which, 0)
        given = b.op("Div", given, b.unsqueeze(b.op("Max", sizes, b.number(1, kind)), 1))
    if per_sample_weights is not None:
        given = b.op("Mul", given, b.unsqueeze(per_sample_weights, 1))
    if padding_idx >= 0:
        padding = b.op("Equal", indices, b.number(padding_idx, indices.dtype), dtype=torch.bool)
        given = b.op("Where", b.unsqueeze(padding, 1), b.number(0, kind), given, dtype=kind)
    return _added(b, given, indices, (rows, b.shape_of(grad)[1]))


@lower("aten._embedding_bag_per_sample_weights_backward.default")
def embedding_bag_weights_backward(
    b: Builder,
    grad: ir.Value,
    weight: ir.Value,
    indices: ir.Value,
    offsets: ir.Value,
    bag_of_each: ir.Value,
    mode: int,
    padding_idx: int = -1,
) -> ir.Value:
    """Of each weight: the gradient of its bag along the row that it weighs."""
    which = _bag_of_each(b, b.slice(offsets, 0, 0, b.shape_of(grad)[0]), b.shape_of(indices)[0])
    row = b.gather(weight, as_index(b, indices), 0)
    along = b.op("Mul", row, b.gather(grad, which, 0))
    result = b.reduce("ReduceSum", along, [1], keepdims=False)
    if padding_idx < 0:
        return result
    padding = b.op("Equal", indices, b.number(padding_idx, indices.dtype), dtype=torch.bool)
    return b.op("Where", padding, b.number(0, grad.dtype), result, dtype=grad.dtype)
