"""Gradients of pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.dims import product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower.conv import per_axis
from zenith_torch.lower.create import filled
from zenith_torch.lower.pool import adaptive_weights, along_axes
from zenith_torch.lower.registry import lower


@lower(
    "aten.max_pool2d_with_indices_backward.default",
    "aten.max_pool3d_with_indices_backward.default",
    "aten.adaptive_max_pool2d_backward.default",
    "aten.adaptive_max_pool3d_backward.default",
    "aten.fractional_max_pool2d_backward.default",
    "aten.fractional_max_pool3d_backward.default",
)
def max_pool_backward(b: Builder, grad: ir.Value, x: ir.Value, *window: Any) -> ir.Value:
    """Each gradient goes to the place its maximum came from; the last argument tells which."""
    axes = _axes(b)
    lead = b.shape_of(x)[:-axes]
    flat = (*lead, product(b.shape_of(grad)[-axes:]))
    plane = (*lead, product(b.shape_of(x)[-axes:]))
    total = b.op(
        "ScatterElements",
        filled(b, 0, plane, b.out_dtype),
        b.reshape(window[-1], flat),
        b.reshape(grad, flat),
        shape=plane,
        axis=len(lead),
        reduction="add",
    )
    return b.reshape(total, b.shape_of(x))


def _axes(b: Builder) -> int:
    return int(b.target.split("pool")[1][0])


@lower("aten.avg_pool2d_backward.default", "aten.avg_pool3d_backward.default")
def avg_pool_backward(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> ir.Value:
    """Each gradient is spread evenly over its window."""
    axes = _axes(b)
    taps = per_axis(kernel, axes)
    steps, pads = per_axis(stride, axes) if stride else taps, per_axis(padding, axes)
    if ceil_mode or (any(pads) and not count_include_pad) or b.rank_of(x) != axes + 2:
        how = (taps, steps, pads, count_include_pad, divisor_override)
        return _avg_pool_by_matrix(b, grad, x, *how)
    batch, channels, *sizes = b.shape_of(x)
    extra = []
    for size, out, k, step, pad in zip(sizes, b.shape_of(grad)[2:], taps, steps, pads, strict=True):
        if not isinstance(size, int) or not isinstance(out, int):
            raise NotSupportedError("an axis of dynamic size")
        extra.append(size - ((out - 1) * step + k - 2 * pad))
    share = 1 / (divisor_override or product(taps))
    weight = np.full((1, 1, *taps), share, TO_ONNX[b.out_dtype].numpy())
    planes = (product([batch, channels]), 1)
    spread = b.op(
        "ConvTranspose",
        b.reshape(grad, (*planes, *b.shape_of(grad)[2:])),
        b.constant(weight),
        shape=(*planes, *sizes),
        kernel_shape=taps,
        strides=steps,
        pads=pads * 2,
        output_padding=extra if any(extra) else None,
    )
    return b.reshape(spread, b.shape_of(x))


def _avg_pool_by_matrix(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    taps: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[int],
    count_include_pad: bool,
    divisor: int | None,
) -> ir.Value:
    """Which element has which share in which average, axis by axis."""
    matrices = []
    sizes, counts = (b.shape_of(v)[-len(taps) :] for v in (x, grad))
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("an axis of dynamic size")
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        shares = np.zeros((count, size))
        for place in range(count):
            first = place * steps[axis] - pads[axis]
            last = min(first + taps[axis], size + pads[axis])
            start, end = max(first, 0), min(last, size)
            below = last - first if count_include_pad else end - start
            if divisor is not None:
                below = divisor if axis == 0 else 1
            shares[place, start:end] = 1 / below
        matrices.append(shares)
    return along_axes(b, grad, matrices)


@lower("aten._adaptive_avg_pool2d_backward.default", "aten._adaptive_avg_pool3d_backward.default")
def adaptive_avg_pool_backward(b: Builder, grad: ir.Value, x: ir.Value) -> ir.Value:
    axes = _axes(b)
    sizes, counts = b.shape_of(x)[-axes:], b.shape_of(grad)[-axes:]
    if all(count == 1 for count in counts):
        total = b.operand(product(sizes), b.out_dtype)
        return b.expand(b.op("Div", grad, total), b.shape_of(x))
    matrices = [adaptive_weights(b, *pair) for pair in zip(sizes, counts, strict=True)]
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            matrices[axis] = (
                b.transpose(matrix, [1, 0]) if isinstance(matrix, ir.Value) else matrix.T
            )
    return along_axes(b, grad, matrices)
