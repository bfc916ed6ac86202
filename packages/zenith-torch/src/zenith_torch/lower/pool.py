"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower.registry import lower

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
    if b.out_dtype is torch.int64:
        raise NotSupportedError("pooling of int64")
    kernel = _per_axis(kernel, axes)
    batched = _batched(b, x, axes)
    unbatched = batched is not x
    shape = (1, *b.out_shape) if unbatched else b.out_shape
    strides = _per_axis(stride, axes) if stride != [] and stride != () else kernel
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
        if not b.out_dtype.is_floating_point:
            raise NotSupportedError("average pooling of integers")
        sizes = _per_axis(kernel, axes)
        batched = _batched(b, x, axes)
        unbatched = batched is not x
        if divisor_override is not None and (ceil_mode or not count_include_pad):
            raise NotSupportedError("avg_pool with a divisor and ceil_mode or uncounted padding")
        result = b.op(
            "AveragePool",
            batched,
            shape=(1, *b.out_shape) if unbatched else b.out_shape,
            kernel_shape=sizes,
            strides=sizes if stride in ([], ()) else _per_axis(stride, axes),
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
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("adaptive pooling of dynamic spatial axes")
    if all(s % c == 0 for s, c in zip(sizes, counts, strict=True)):
        kernel = [s // c for s, c in zip(sizes, counts, strict=True)]
        batched = _batched(b, x, axes)
        shape = (*b.shape_of(batched)[:2], *counts)
        result = b.op("AveragePool", batched, shape=shape, kernel_shape=kernel, strides=kernel)
        return b.squeeze(result, 0) if batched is not x else result
    # Windows of unequal size: one product with an averaging matrix per axis.
    rank = b.rank_of(x)
    for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if size == count:
            continue
        weights = np.zeros((size, count), TO_ONNX[b.out_dtype].numpy())
        for j, (start, end) in enumerate(_windows(size, count)):
            weights[start:end, j] = 1.0 / (end - start)
        axis = rank - axes + i
        order = [a for a in range(rank) if a != axis] + [axis]
        back = [order.index(a) for a in range(rank)]
        moved = b.transpose(x, order)
        shape = (*b.shape_of(moved)[:-1], count)
        x = b.transpose(b.op("MatMul", moved, b.constant(weights), shape=shape), back)
    return x


@lower(
    "aten.adaptive_max_pool1d.default",
    "aten.adaptive_max_pool2d.default",
    "aten.adaptive_max_pool3d.default",
)
def adaptive_max_pool(b: Builder, x: ir.Value, output_size: Sizes) -> list[ir.Value | None]:
    axes = int(b.target.split("pool")[1][0])
    counts, sizes = b.out_shape[-axes:], b.shape_of(x)[-axes:]
    if all(c == 1 for c in counts):
        which = range(b.rank_of(x) - axes, b.rank_of(x))
        return [b.reduce("ReduceMax", x, list(which), keepdims=True)]
    if not all(isinstance(d, int) for d in (*sizes, *counts)) or any(
        s % c for s, c in zip(sizes, counts, strict=True)
    ):
        raise NotSupportedError("adaptive max pooling with windows of unequal size")
    kernel = [s // c for s, c in zip(sizes, counts, strict=True)]
    return [_max_pool(b, x, axes, kernel, kernel, 0, 1, False)[0]]
