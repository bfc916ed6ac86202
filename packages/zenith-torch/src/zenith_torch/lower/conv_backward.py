"""Gradients of convolutions, as convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.dims import Dim, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.conv import per_axis
from zenith_torch.lower.registry import lower


@dataclass(frozen=True)
class _Windows:
    """Where a convolution reads: one number for each spatial axis, and its groups of channels."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


@lower("aten.convolution_backward.default")
def convolution_backward(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    weight: ir.Value,
    bias_sizes: Sequence[Any] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> list[ir.Value | None]:
    """Gradients of the input (a convolution the other way round), weights and bias."""
    axes = b.rank_of(weight) - 2
    if b.rank_of(x) != axes + 2:
        raise NotSupportedError("a convolution without a batch axis")
    how = _Windows(
        per_axis(stride, axes), per_axis(padding, axes), per_axis(dilation, axes), groups
    )
    to_x = to_weight = to_bias = None
    if output_mask[0]:
        gradient = _conv_input if transposed else _conv_transposed_input
        to_x = gradient(b, grad, x, weight, how)
    if output_mask[1]:
        # Both kinds sum over the same pairs; in a transposed one x and the gradient change places.
        large, small = (grad, x) if transposed else (x, grad)
        to_weight = _conv_weight(b, large, small, weight, how)
    if output_mask[2]:
        rest = [a for a in range(axes + 2) if a != 1]
        to_bias = b.reduce("ReduceSum", grad, rest, keepdims=False)
    return [to_x, to_weight, to_bias]


def _conv_input(
    b: Builder, grad: ir.Value, x: ir.Value, weight: ir.Value, how: _Windows
) -> ir.Value:
    """Of a transposed convolution: the plain one with the same weights."""
    return b.op(
        "Conv",
        grad,
        weight,
        shape=b.shape_of(x),
        kernel_shape=list(b.static_shape_of(weight)[2:]),
        strides=how.stride,
        pads=how.padding * 2,
        dilations=how.dilation,
        group=how.groups,
    )


def _conv_transposed_input(
    b: Builder, grad: ir.Value, x: ir.Value, weight: ir.Value, how: _Windows
) -> ir.Value:
    """Of a plain convolution: the transposed one; rows no window reached are padding.

    Where nobody knows how many these are, it is made too large and cut.
    """
    kernel, axes = b.static_shape_of(weight)[2:], len(how.stride)
    have, out = b.shape_of(x)[2:], b.shape_of(grad)[2:]
    spans = [d * (k - 1) + 1 for d, k in zip(how.dilation, kernel, strict=True)]
    whole = [exactly((o - 1) * s + n) for o, s, n in zip(out, how.stride, spans, strict=True)]
    extra: list[int] | None = None
    ends, shape = list(how.padding), list(have)
    if all(isinstance(d, int) for d in (*have, *out)) or all(s == 1 for s in how.stride):
        missing = [h - (w - 2 * p) for h, w, p in zip(have, whole, how.padding, strict=True)]
        extra = [int(m) if isinstance(m, int) else 0 for m in missing]
    else:
        ends = [0] * axes
        shape = [exactly(w - p) for w, p in zip(whole, how.padding, strict=True)]
    result = b.op(
        "ConvTranspose",
        grad,
        weight,
        shape=(*b.shape_of(x)[:2], *shape),
        kernel_shape=list(kernel),
        strides=how.stride,
        pads=[*how.padding, *ends],
        dilations=how.dilation,
        group=how.groups,
        output_padding=extra if extra and any(extra) else None,
    )
    return result if extra is not None else _cut(b, result, how.stride, have)


def _cut(b: Builder, x: ir.Value, stride: Sequence[int], sizes: Sequence[Dim]) -> ir.Value:
    """The first `sizes` rows of x, with up to stride - 1 zeros behind what it has."""
    ends = [0] * (b.rank_of(x) + 2) + [s - 1 for s in stride]
    lead = b.shape_of(x)[:2]
    wide = [exactly(d + s - 1) for d, s in zip(b.shape_of(x)[2:], stride, strict=True)]
    x = b.op("Pad", x, b.ints(ends), shape=(*lead, *wide))
    for axis, size in enumerate(sizes, start=2):
        x = b.slice(x, axis, 0, size)
    return x


def _conv_weight(
    b: Builder, large: ir.Value, small: ir.Value, weight: ir.Value, how: _Windows
) -> ir.Value:
    """sum over images and places p of large[p * stride + tap * dilation] * small[p], per tap.

    That is a convolution whose batch is the channels of `large` and whose channels are the images;
    strides and dilations change places.
    """
    batch, channels, *sizes = b.shape_of(large)
    _, outputs, *kernel = b.shape_of(small)
    if not all(isinstance(size, int) for size in (batch, *kernel)):
        return _conv_weight_by_tap(b, large, small, weight, how)
    tail = list(range(2, b.rank_of(large)))
    each = channels // how.groups
    if how.groups == 1:
        images = b.transpose(large, [1, 0, *tail])
    else:  # (images, groups, each, ...) -> (each, groups * images, ...)
        images = b.reshape(large, (batch, how.groups, each, *sizes))
        images = b.transpose(images, [2, 1, 0, *(a + 1 for a in tail)])
        images = b.reshape(images, (each, product([how.groups, batch]), *sizes))
    taps = b.static_shape_of(weight)[2:]
    found = [
        (size + 2 * pad - step * (k - 1) - 1) // gap + 1
        for size, pad, step, k, gap in zip(
            sizes, how.padding, how.stride, kernel, how.dilation, strict=True
        )
    ]
    result = b.op(
        "Conv",
        images,
        b.transpose(small, [1, 0, *tail]),
        shape=(each, outputs, *found),
        kernel_shape=list(kernel),
        strides=how.dilation,
        pads=how.padding * 2,
        dilations=how.stride,
        group=how.groups,
    )
    for axis, (size, wanted) in enumerate(zip(found, taps, strict=True)):
        if size != wanted:  # the window of the last row ended before the image did
            result = b.slice(result, 2 + axis, 0, wanted)
    return b.transpose(result, [1, 0, *tail])


def _conv_weight_by_tap(
    b: Builder, large: ir.Value, small: ir.Value, weight: ir.Value, how: _Windows
) -> ir.Value:
    """`_conv_weight` as one product per tap: a convolution wants weights of a known shape, and
    these have the images for channels."""
    batch, channels, *sizes = b.shape_of(large)
    outputs, taps = b.shape_of(small)[1], b.static_shape_of(weight)[2:]
    places = b.shape_of(small)[2:]
    if any(how.padding):
        wide = [exactly(d + 2 * p) for d, p in zip(sizes, how.padding, strict=True)]
        ends = b.ints([0, 0, *how.padding] * 2)
        large = b.op("Pad", large, ends, shape=(batch, channels, *wide))
    count = product([batch, *places])

    def rows(x: ir.Value, width: Dim) -> ir.Value:
        """(images, channels, ...) to (groups, channels of one, images * places)."""
        x = b.transpose(x, [1, 0, *range(2, b.rank_of(x))])
        return b.reshape(x, (how.groups, width // how.groups, count))

    right = b.transpose(rows(small, outputs), [0, 2, 1])
    found = []
    for tap in np.ndindex(*taps):
        moved = large
        for axis, (i, d, s, n) in enumerate(
            zip(tap, how.dilation, how.stride, places, strict=True)
        ):
            start = i * d
            end = exactly(start + (n - 1) * s + 1)
            moved = b.slice(moved, axis + 2, start, end, s)
        left = rows(moved, channels)
        shape = (how.groups, channels // how.groups, outputs // how.groups)
        found.append(b.unsqueeze(b.op("MatMul", left, right, shape=shape), 3))
    total = b.transpose(b.concat(found, 3), [0, 2, 1, 3])
    return b.reshape(total, b.shape_of(weight))
