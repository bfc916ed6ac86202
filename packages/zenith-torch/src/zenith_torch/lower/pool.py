"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly, product
from zenith.ir.matrices import grid
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower.registry import lower
from zenith_torch.lower.windows import maxima, over_windows, window_positions, windows

Sizes = int | Sequence[int]


def _per_axis(value: Sizes, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _batched(b: Builder, x: ir.Value, axes: int) -> ir.Value:
    return b.unsqueeze(x, 0) if b.rank_of(x) == axes + 1 else x


def _max_pool(
    b: Builder,
    x: ir.Value,
    axes: int,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    with_indices: bool = False,
) -> list[ir.Value]:
    """The maxima and, where asked for, their places in the plane of each channel."""
    kernel = _per_axis(kernel, axes)
    batched = _batched(b, x, axes)
    unbatched = batched is not x
    shape = (1, *b.out_shape) if unbatched else b.out_shape
    strides = _per_axis(stride, axes) if stride != [] and stride != () else kernel
    if not b.out_dtype.is_floating_point:
        how = (kernel, strides, _per_axis(padding, axes), _per_axis(dilation, axes))
        positions = window_positions(b.shape_of(batched)[2:], shape[2:], *how)
        least = torch.iinfo(b.out_dtype).min
        results = maxima(b, batched, positions, least, with_indices)
        return [b.squeeze(result, 0) if unbatched else result for result in results]
    begins, ends = _per_axis(padding, axes), _per_axis(padding, axes)
    if ceil_mode:
        # Rounding up is padding more at the end, as long as every window touches the image.
        wider = [p + s - 1 for p, s in zip(ends, strides, strict=True)]
        if all(w < k for w, k in zip(wider, kernel, strict=True)):
            ends, ceil_mode = wider, False
    types = (b.out_dtype, torch.int64) if with_indices else (b.out_dtype,)
    results = b.ops(
        "MaxPool",
        batched,
        results=[(dtype, shape) for dtype in types],
        kernel_shape=kernel,
        strides=strides,
        pads=begins + ends,
        dilations=_per_axis(dilation, axes),
        ceil_mode=int(ceil_mode),
    )
    if with_indices:  # ONNX counts through the whole tensor
        plane = b.operand(product(b.shape_of(batched)[2:]), torch.int64)
        results[1] = b.op("Mod", results[1], plane, shape=shape)
    return [b.squeeze(result, 0) if unbatched else result for result in results]


def _average_of_windows(
    b: Builder,
    x: ir.Value,
    kernel: list[int],
    strides: list[int],
    pads: list[int],
    count_include_pad: bool,
    divisor: int | None,
) -> ir.Value:
    """Sums of windows over what PyTorch divides them by: for integers, and for any divisor."""
    counts = b.out_shape[-len(kernel) :]
    ones = [1] * len(kernel)
    positions = window_positions(b.shape_of(x)[2:], counts, kernel, strides, pads, ones)
    total = over_windows(b, "ReduceSum", windows(b, x, positions), len(kernel))
    below: Any = np.ones((), np.int64)
    for size, out, k, step, pad in zip(b.shape_of(x)[2:], counts, kernel, strides, pads,
                                       strict=True):  # fmt: skip
        first = np.arange(out) * step - pad
        last = np.minimum(first + k, size + pad)
        if not count_include_pad:
            first, last = np.maximum(first, 0), np.minimum(last, size)
        below = below[..., None] * (last - first)
    if divisor is not None:
        below = np.full_like(below, divisor)
    return b.op("Div", total, b.constant(below.astype(TO_ONNX[b.out_dtype].numpy())))


def _register_pools(axes: int) -> None:
    @lower(f"aten.max_pool{axes}d.default")
    def max_pool(
        b: Builder,
        x: ir.Value,
        kernel: Sizes,
        stride: Sizes = (),
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> ir.Value:
        return _max_pool(b, x, axes, kernel, stride, padding, dilation, ceil_mode)[0]

    @lower(f"aten.max_pool{axes}d_with_indices.default")
    def max_pool_with_indices(
        b: Builder,
        x: ir.Value,
        kernel: Sizes,
        stride: Sizes = (),
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> list[ir.Value]:
        more = 1 in b.used
        return _max_pool(b, x, axes, kernel, stride, padding, dilation, ceil_mode, more)

    @lower(f"aten.avg_pool{axes}d.default")
    def avg_pool(
        b: Builder,
        x: ir.Value,
        kernel: Sizes,
        stride: Sizes = (),
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> ir.Value:
        sizes = _per_axis(kernel, axes)
        batched = _batched(b, x, axes)
        unbatched = batched is not x
        strides = sizes if stride in ([], ()) else _per_axis(stride, axes)
        other = divisor_override is not None and (ceil_mode or not count_include_pad)
        if other or not b.out_dtype.is_floating_point:
            how = (sizes, strides, _per_axis(padding, axes))
            result = _average_of_windows(b, batched, *how, count_include_pad, divisor_override)
            return b.squeeze(result, 0) if unbatched else result
        result = b.op(
            "AveragePool",
            batched,
            shape=(1, *b.out_shape) if unbatched else b.out_shape,
            kernel_shape=sizes,
            strides=strides,
            pads=_per_axis(padding, axes) * 2,
            ceil_mode=int(ceil_mode),
            count_include_pad=int(count_include_pad),
        )
        if divisor_override is not None:
            factor = float(np.prod(sizes)) / divisor_override
            result = b.op("Mul", result, b.number(factor, b.out_dtype))
        return b.squeeze(result, 0) if unbatched else result


for _axes in (1, 2, 3):
    _register_pools(_axes)


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


@lower(
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool3d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool3d.default",
)
def adaptive_avg_pool(b: Builder, x: ir.Value, output_size: Sizes) -> ir.Value:
    axes = int(b.target.split("pool")[1][0])
    counts = b.out_shape[-axes:]
    sizes = b.shape_of(x)[-axes:]
    if all(c == 1 for c in counts):
        batched = _batched(b, x, axes)
        shape = (*b.shape_of(batched)[:2], *[1] * axes)
        result = b.op("GlobalAveragePool", batched, shape=shape)
        return b.squeeze(result, 0) if batched is not x else result
    if tuple(counts) == tuple(sizes):
        return x
    known = all(isinstance(d, int) for d in (*sizes, *counts))
    if known and all(s % c == 0 for s, c in zip(sizes, counts, strict=True)):
        kernel = [s // c for s, c in zip(sizes, counts, strict=True)]
        batched = _batched(b, x, axes)
        shape = (*b.shape_of(batched)[:2], *counts)
        result = b.op("AveragePool", batched, shape=shape, kernel_shape=kernel, strides=kernel)
        return b.squeeze(result, 0) if batched is not x else result
    # Windows of unequal size: one product with an averaging matrix per axis.
    pairs = zip(sizes, counts, strict=True)
    return along_axes(b, x, [adaptive_weights(b, *pair) for pair in pairs])


def adaptive_weights(b: Builder, size: Dim, count: Dim) -> Any:
    """[size, count] shares of each element in each average: an array, or computed from sizes;
    None where each is its own."""
    if size == count:
        return None
    if not (isinstance(size, int) and isinstance(count, int)):
        return _shares(b, size, count)
    weights = np.zeros((size, count))
    for j, (start, end) in enumerate(_windows(size, count)):
        weights[start:end, j] = 1.0 / (end - start)
    return weights


def _shares(b: Builder, size: Dim, count: Dim) -> ir.Value:
    """`adaptive_weights`, as `_windows` has their bounds."""
    ends = b.operand(count, torch.int64)
    first = b.op("Div", grid(b, (count,), (size,)), ends)
    last = b.op("Div", grid(b, (count,), (size,), exactly(size + count - 1)), ends)
    places = b.unsqueeze(grid(b, (size,), (1,)), 1)
    inside = b.op(
        "And",
        b.op("GreaterOrEqual", places, first, dtype=torch.bool),
        b.op("Less", places, last, dtype=torch.bool),
    )
    length = b.cast(b.op("Sub", last, first), b.out_dtype)
    return b.op("Div", b.cast(inside, b.out_dtype), length)


def along_axes(b: Builder, x: ir.Value, matrices: Sequence[Any]) -> ir.Value:
    """x with each of its last axes multiplied by a matrix: an array, a value, or None."""
    rank = b.rank_of(x)
    for i, matrix in enumerate(matrices, start=rank - len(matrices)):
        computed = isinstance(matrix, ir.Value)
        if matrix is None or not computed and np.array_equal(matrix, np.eye(len(matrix))):
            continue
        order = [a for a in range(rank) if a != i] + [i]
        moved = b.transpose(x, order)
        if not computed:
            matrix = b.constant(np.ascontiguousarray(matrix, TO_ONNX[b.out_dtype].numpy()))
        shape = (*b.shape_of(moved)[:-1], b.shape_of(matrix)[1])
        moved = b.op("MatMul", moved, matrix, shape=shape)
        x = b.transpose(moved, [order.index(a) for a in range(rank)])
    return x


@lower(
    "aten.adaptive_max_pool1d.default",
    "aten.adaptive_max_pool2d.default",
    "aten.adaptive_max_pool3d.default",
)
def adaptive_max_pool(b: Builder, x: ir.Value, output_size: Sizes) -> list[ir.Value]:
    """Windows of unequal size repeat their last place."""
    axes = int(b.target.split("pool")[1][0])
    counts, sizes = b.out_shape[-axes:], b.shape_of(x)[-axes:]
    with_indices = 1 in b.used
    if all(c == 1 for c in counts) and not with_indices:
        which = range(b.rank_of(x) - axes, b.rank_of(x))
        return [b.reduce("ReduceMax", x, list(which), keepdims=True)]
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("adaptive pooling of dynamic spatial axes")
    if all(s % c == 0 for s, c in zip(sizes, counts, strict=True)):
        kernel = [s // c for s, c in zip(sizes, counts, strict=True)]
        return _max_pool(b, x, axes, kernel, kernel, 0, 1, False, with_indices)
    positions = []
    for size, count in zip(sizes, counts, strict=True):
        spans = _windows(size, count)
        longest = max(end - start for start, end in spans)
        places = [np.minimum(start + np.arange(longest), end - 1) for start, end in spans]
        positions.append(np.stack(places))
    batched = _batched(b, x, axes)
    results = maxima(b, batched, positions, 0, with_indices)
    return [b.squeeze(result, 0) for result in results] if batched is not x else results
