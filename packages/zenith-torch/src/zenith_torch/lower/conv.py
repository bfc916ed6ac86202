"""Convolutions of one, two and three axes, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from zenith.ir.dims import product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.linear import product_of
from zenith_torch.lower.registry import lower
from zenith_torch.lower.shape import flip
from zenith_torch.lower.windows import window_positions, windows


def per_axis(value: int | Sequence[int], axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _convolve(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    stride: Any,
    pads: list[int],
    dilation: Any,
    groups: int,
    output_padding: list[int] | None = None,
) -> ir.Value:
    """`output_padding` is None for a convolution and a list for its transpose."""
    axes = b.rank_of(weight) - 2
    unbatched = b.rank_of(x) == axes + 1
    shape = b.out_shape
    if unbatched:
        x, shape = b.unsqueeze(x, 0), (1, *shape)
    transposed = output_padding is not None
    if not b.out_dtype.is_floating_point:
        how = (per_axis(stride, axes), pads[:axes], per_axis(dilation, axes), groups, transposed)
        result = _integers(b, x, weight, shape, *how)
        if bias is not None:
            result = b.op("Add", result, b.reshape(bias, (*b.shape_of(bias), *[1] * axes)))
        return b.squeeze(result, 0) if unbatched else result
    result = b.op(
        "ConvTranspose" if transposed else "Conv",
        x,
        weight,
        bias,
        shape=shape,
        kernel_shape=list(b.static_shape_of(weight)[2:]),
        strides=per_axis(stride, axes),
        pads=pads,
        dilations=per_axis(dilation, axes),
        group=groups,
        output_padding=output_padding if transposed and any(output_padding or []) else None,
    )
    return b.squeeze(result, 0) if unbatched else result


def _integers(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    shape: Sequence[Any],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    groups: int,
    transposed: bool,
) -> ir.Value:
    """Exact sums of integers, which ONNX's Conv does not take: products with gathered windows."""
    axes = len(strides)
    n, channels = b.shape_of(x)[:2]
    each, *kernel = b.static_shape_of(weight)[1:]
    if transposed:  # the plain one over x with zeros between, the weights turned and swapped
        x, pads = _spread(b, x, strides, [d * (k - 1) - p for d, k, p in
                                          zip(dilations, kernel, pads, strict=True)])  # fmt: skip
        strides = [1] * axes
        weight = b.reshape(weight, (groups, channels // groups, each, *kernel))
        weight = b.transpose(flip(b, weight, range(3, 3 + axes)), [0, 2, 1, *range(3, 3 + axes)])
        each = channels // groups
    taps = [3 + 2 * i for i in range(axes)]
    positions = window_positions(b.shape_of(x)[2:], shape[2:], kernel, strides, pads, dilations)
    found = windows(b, x, positions)
    found = b.transpose(found, [0, 1, *taps, *(2 + 2 * i for i in range(axes))])
    places = product(shape[2:])
    found = b.reshape(found, (n, groups, each * product(kernel), places))
    weight = b.reshape(weight, (groups, shape[1] // groups, each * product(kernel)))
    return b.reshape(product_of(b, weight, found), shape)


def _spread(
    b: Builder, x: ir.Value, steps: Sequence[int], pads: list[int]
) -> tuple[ir.Value, list[int]]:
    """x with step - 1 zeros between its rows; what padding below zero cuts off is cut here."""
    for axis, step in enumerate(steps, start=2):
        size, rest = b.static_shape_of(x)[axis], list(b.shape_of(x))
        wide = [*rest[: axis + 1], step, *rest[axis + 1 :]]
        ends = [0] * 2 * len(wide)
        ends[len(wide) + axis + 1] = step - 1
        x = b.op("Pad", b.unsqueeze(x, axis + 1), b.ints(ends), shape=wide)
        x = b.reshape(x, [*rest[:axis], size * step, *rest[axis + 1 :]])
        cut = max(0, -pads[axis - 2])
        x = b.slice(x, axis, cut, (size - 1) * step + 1)
    return x, [max(0, p) for p in pads]


@lower("aten.convolution.default", "aten._convolution.default")
def convolution(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *_: Any,
) -> ir.Value:
    axes = b.rank_of(weight) - 2
    extra = per_axis(output_padding, axes) if transposed else None
    pads = per_axis(padding, axes) * 2
    return _convolve(b, x, weight, bias, stride, pads, dilation, groups, extra)


@lower("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> ir.Value:
    pads = per_axis(padding, b.rank_of(weight) - 2) * 2
    return _convolve(b, x, weight, bias, stride, pads, dilation, groups)


@lower("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def conv_named_padding(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> ir.Value:
    axes = b.rank_of(weight) - 2
    pads = [0] * (2 * axes)
    if padding == "same":
        steps = per_axis(dilation, axes)
        total = [s * (k - 1) for s, k in zip(steps, b.static_shape_of(weight)[2:], strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif padding != "valid":
        raise NotSupportedError(f"padding '{padding}'")
    return _convolve(b, x, weight, bias, stride, pads, dilation, groups)


@lower(
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input"
)
def conv_transpose(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> ir.Value:
    axes = b.rank_of(weight) - 2
    pads = per_axis(padding, axes) * 2
    extra = per_axis(output_padding, axes)
    return _convolve(b, x, weight, bias, stride, pads, dilation, groups, extra)
