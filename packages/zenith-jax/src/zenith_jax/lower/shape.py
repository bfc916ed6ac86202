"""Movement: nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from zenith.ir.dims import Dim, exactly, product
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import size, sizes
from zenith_jax.lower.bits import convert
from zenith_jax.lower.registry import lower

__all__ = ["pad_with"]

INT64 = ir.DataType.INT64


@lower("reshape", writes="Reshape")
def reshape(b: Builder, x: ir.Value, *, new_sizes: Any, dimensions: Any = None) -> ir.Value:
    if dimensions is not None and tuple(dimensions) != tuple(range(len(dimensions))):
        x = b.transpose(x, dimensions)
    return b.reshape(x, b.out_shape)


@lower("squeeze", "expand_dims", writes="Squeeze")
def squeeze(b: Builder, x: ir.Value, *, dimensions: Any) -> ir.Value:
    return b.reshape(x, b.out_shape)


@lower("transpose", writes="Transpose")
def transpose(b: Builder, x: ir.Value, *, permutation: Any) -> ir.Value:
    perm = [int(p) for p in permutation]
    return b.transpose(x, [*perm, *range(len(perm), b.rank_of(x))])


@lower("broadcast_in_dim", writes="Reshape, Expand")
def broadcast_in_dim(
    b: Builder, x: ir.Value, *sized: ir.Value, broadcast_dimensions: Any, shape: Any = None
) -> ir.Value:
    target = b.out_shape
    places = [int(d) for d in broadcast_dimensions]
    places += range(len(target) - (b.rank_of(x) - len(places)), len(target))
    source = b.shape_of(x)
    axes: list[int | None] = [None] * len(target)
    wide: list[Dim] = [1] * len(target)
    for axis, place in enumerate(places):
        axes[place], wide[place] = axis, source[axis]
    return b.expand(b.view(x, wide, axes) if x.dtype else x, target)


@lower("broadcast_to", writes="Expand")
def broadcast_to(b: Builder, x: ir.Value, **how: Any) -> ir.Value:
    return b.expand(x, b.out_shape)


@lower("empty", "empty2", writes="a constant: nobody reads it before it is written")
def empty(b: Builder, **how: Any) -> ir.Value:
    return b.full(0, b.out_dtype, b.out_shape)


@lower("iota", writes="Range, Expand")
def iota(b: Builder, *sized: ir.Value, dtype: Any, shape: Any, dimension: int) -> ir.Value:
    target = b.out_shape
    row = b.range_of(target[dimension], b.out_dtype)
    row = b.unsqueeze(row, *(a for a in range(len(target)) if a != dimension))
    return b.expand(row, target)


@lower("dim_as_value", writes="Shape")
def dim_as_value(b: Builder, *, dim: Any) -> ir.Value:
    expression = size(dim)
    return b.note_size(convert(b, b.size_scalar(expression), b.out_dtype), expression)


@lower("dimension_size", writes="Shape")
def dimension_size(b: Builder, x: ir.Value, *, dimension: int) -> ir.Value:
    expression = b.shape_of(x)[dimension]
    return b.note_size(convert(b, b.size_scalar(expression), b.out_dtype), expression)


@lower("shape_assertion", writes="nothing: sizes are checked when the model is called")
def shape_assertion(b: Builder, *values: ir.Value, **how: Any) -> list[ir.Value]:
    return []


@lower("slice", writes="Slice")
def slice_(
    b: Builder, x: ir.Value, *, start_indices: Any, limit_indices: Any, strides: Any = None
) -> ir.Value:
    starts, limits = sizes(start_indices), sizes(limit_indices)
    steps = strides or (1,) * len(starts)
    for axis, (start, limit, step) in enumerate(zip(starts, limits, steps, strict=True)):
        full = (start, limit, int(step)) == (0, b.shape_of(x)[axis], 1)
        if not full:
            base, axes = b.base(x)
            place = axes[axis]
            if place is None:
                x = b.slice(x, axis, start, limit, int(step))
                continue
            cut = b.slice(base, place, start, limit, int(step))
            shape = list(b.shape_of(x))
            shape[axis] = b.shape_of(cut)[place]
            x = b.view(cut, shape, axes)
    return x


@lower("rev", writes="Slice")
def rev(b: Builder, x: ir.Value, *, dimensions: Any) -> ir.Value:
    return b.flip(x, [int(d) for d in dimensions])


@lower("concatenate", writes="Concat")
def concatenate(b: Builder, *parts: ir.Value, dimension: int) -> ir.Value:
    return b.concat(parts, dimension)


@lower("stack", writes="Unsqueeze, Concat")
def stack(b: Builder, *parts: ir.Value, axis: int) -> ir.Value:
    return b.concat([b.unsqueeze(part, axis) for part in parts], axis)


@lower("unstack", writes="Slice, Squeeze")
def unstack(b: Builder, x: ir.Value, *, axis: int) -> list[ir.Value]:
    count = b.shape_of(x)[axis]
    return [b.squeeze(b.slice(x, axis, i, i + 1), axis) for i in range(count)]


@lower("split", writes="Slice")
def split(b: Builder, x: ir.Value, *, sizes: Any, axis: int) -> list[ir.Value]:
    parts, start = [], 0
    for length in sizes:
        end = exactly(start + size(length))
        parts.append(b.slice(x, axis, start, end))
        start = end
    return parts


@lower("tile", writes="Tile")
def tile(b: Builder, x: ir.Value, *, reps: Any) -> ir.Value:
    return b.op("Tile", x, b.ints([int(r) for r in reps]), shape=b.out_shape)


@lower("pad", writes="Pad, Slice")
def pad(b: Builder, x: ir.Value, number: ir.Value, *, padding_config: Any) -> ir.Value:
    config = [(size(low), size(high), int(inner)) for low, high, inner in padding_config]
    return pad_with(b, x, number, config)


def pad_with(
    b: Builder, x: ir.Value, number: ir.Value, config: Sequence[tuple[Dim, Dim, int]]
) -> ir.Value:
    """(before, after, between) per axis; a negative number cuts elements off."""
    if any(inner for _, _, inner in config):
        x = _spread(b, x, number, [inner for _, _, inner in config])
    cut = [(_cut(low), _cut(high)) for low, high, _ in config]
    pads = [(_grow(low), _grow(high)) for low, high, _ in config]
    if any(low != 0 or high != 0 for low, high in pads):
        before, after = [low for low, _ in pads], [high for _, high in pads]
        shape = [d + low + high for d, (low, high) in zip(b.shape_of(x), pads, strict=True)]
        sizes_ = b.size_vector([*before, *after])
        x = b.op("Pad", x, sizes_, number, shape=[exactly(d) for d in shape])
    for axis, (low, high) in enumerate(cut):
        if (low, high) != (0, 0):
            x = b.slice(x, axis, low, exactly(b.shape_of(x)[axis] - high))
    return x


def _cut(amount: Dim) -> Dim:
    return -amount if isinstance(amount, int) and amount < 0 else 0


def _grow(amount: Dim) -> Dim:
    return 0 if isinstance(amount, int) and amount < 0 else amount


def _spread(b: Builder, x: ir.Value, number: ir.Value, inner: Sequence[int]) -> ir.Value:
    """`number` between each two elements: every element gets room behind it; the last gives it
    back."""
    shape = b.shape_of(x)
    if product(shape) == 0:
        raise NotSupportedError("with room between the elements of an empty array")
    rank = len(shape)
    places = [2 * a for a in range(rank)]
    apart = b.reshape(x, [d for size_ in shape for d in (size_, 1)])
    grown = [n for k in inner for n in (1, 1 + k)]
    zeros, pads = [0] * (2 * rank), [n - 1 for n in grown]
    wide = [d for size_, k in zip(shape, inner, strict=True) for d in (size_, 1 + k)]
    assert len(places) * 2 == len(wide)
    apart = b.op("Pad", apart, b.ints([*zeros, *pads]), number, shape=wide)
    x = b.reshape(apart, [exactly(d * (1 + k)) for d, k in zip(shape, inner, strict=True)])
    for axis, k in enumerate(inner):
        if k:
            x = b.slice(x, axis, 0, exactly(b.shape_of(x)[axis] - k))
    return x
