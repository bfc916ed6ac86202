"""Convolutions of one, two and three axes, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.registry import lower


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
    if not b.out_dtype.is_floating_point:
        raise NotSupportedError("a convolution of integers")
    axes = b.rank_of(weight) - 2
    unbatched = b.rank_of(x) == axes + 1
    shape = b.out_shape
    if unbatched:
        x, shape = b.unsqueeze(x, 0), (1, *shape)
    transposed = output_padding is not None
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
