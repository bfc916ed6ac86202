"""conv_general_dilated: Conv and ConvTranspose; axes are put in ONNX's order and back."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import sympy

from zenith.ir.dims import Dim, exactly
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dims import size
from zenith_jax.dtypes import is_float
from zenith_jax.lower.bits import convert
from zenith_jax.lower.registry import lower
from zenith_jax.lower.shape import pad_with

__all__: list[str] = []


@lower("conv_general_dilated", writes="Conv, ConvTranspose")
def conv_general_dilated(
    b: Builder,
    x: ir.Value,
    w: ir.Value,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    preferred_element_type: Any,
) -> ir.Value:
    kind = b.out_dtype
    wide = kind if is_float(x) else ir.DataType.DOUBLE  # exact below 2**53
    if not is_float(x) and kind in (ir.DataType.INT64, ir.DataType.UINT64):
        raise NotSupportedError(f"of {kind}")
    x, w = convert(b, x, wide), convert(b, w, wide)
    numbers = dimension_numbers
    x = b.transpose(x, numbers.lhs_spec)  # [N, C, sizes]
    w = b.transpose(w, numbers.rhs_spec)  # [M, C / groups, sizes]
    bare = not window_strides  # ONNX wants an axis to slide along
    if bare:
        x, w = b.unsqueeze(x, 2), b.unsqueeze(w, 2)
        window_strides = lhs_dilation = rhs_dilation = (1,)
        padding = ((0, 0),)
    groups = int(feature_group_count)
    if batch_group_count > 1:  # groups of the batch are groups of channels of a smaller batch
        x, groups = _batch_groups(b, x, int(batch_group_count)), int(batch_group_count)
    strides, spread = [int(s) for s in window_strides], [int(s) for s in lhs_dilation]
    dilations = [int(d) for d in rhs_dilation]
    pads = [(size(low), size(high)) for low, high in padding]
    out_nchw = [0] * len(numbers.out_spec)
    for place, axis in enumerate(numbers.out_spec):
        out_nchw[place] = b.out_shape[axis]
    out_nchw += [1] if bare else []
    static = all(isinstance(p, int) for pair in pads for p in pair)
    if any(s > 1 for s in spread) and set(strides) == {1} and static and groups >= 1:
        result = _transposed(b, x, w, spread, pads, dilations, groups, out_nchw)
    else:
        if any(s > 1 for s in spread):
            inner = [(0, 0, 0), (0, 0, 0), *((0, 0, s - 1) for s in spread)]
            x = pad_with(b, x, b.number(0, wide), inner)
        result = _plain(b, x, w, strides, pads, dilations, groups, out_nchw)
    if bare:
        result = b.squeeze(result, 2)
    back = [0] * len(numbers.out_spec)
    for place, axis in enumerate(numbers.out_spec):
        back[axis] = place
    result = b.transpose(result, back)
    return convert(b, result, kind)


def _plain(
    b: Builder,
    x: ir.Value,
    w: ir.Value,
    strides: list[int],
    pads: list[tuple[Dim, Dim]],
    dilations: list[int],
    groups: int,
    shape: list[Dim],
) -> ir.Value:
    if any(not isinstance(p, int) or p < 0 for pair in pads for p in pair):
        assert x.dtype is not None
        config = [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in pads)]
        x = pad_with(b, x, b.number(0, x.dtype), config)
        pads = [(0, 0)] * len(pads)
    return b.op(
        "Conv",
        x,
        w,
        shape=shape,
        strides=strides,
        pads=[*(low for low, _ in pads), *(high for _, high in pads)],
        dilations=dilations,
        group=groups,
        kernel_shape=[int(d) for d in b.shape_of(w)[2:]],
    )


def _transposed(
    b: Builder,
    x: ir.Value,
    w: ir.Value,
    spread: list[int],
    pads: list[tuple[Dim, Dim]],
    dilations: list[int],
    groups: int,
    shape: list[Dim],
) -> ir.Value:
    """Zeros between the elements of x: ConvTranspose by the mirrored kernel.

    Its pads are what the window (k - 1) * d overlaps less what the convolution pads; where they
    would be negative, the result has a rim of zeros.
    """
    outputs, channels, *kernel = b.shape_of(w)
    mirrored = b.flip(w, range(2, len(kernel) + 2))
    if groups > 1:
        split = b.reshape(mirrored, [groups, exactly(outputs // groups), channels, *kernel])
        order = [0, 2, 1, *range(3, len(kernel) + 3)]
        mirrored = b.reshape(
            b.transpose(split, order), [groups * channels, exactly(outputs // groups), *kernel]
        )
    else:
        mirrored = b.transpose(mirrored, [1, 0, *range(2, len(kernel) + 2)])
    before = [
        ((k - 1) * d - low, (k - 1) * d - high)
        for k, d, (low, high) in zip(kernel, dilations, pads, strict=True)
    ]
    crop = [(max(low, 0), max(high, 0)) for low, high in before]
    rim = [(max(-low, 0), max(-high, 0)) for low, high in before]
    inner = [d - low - high for d, (low, high) in zip(shape[2:], rim, strict=True)]
    result = b.op(
        "ConvTranspose",
        x,
        mirrored,
        shape=[*shape[:2], *inner],
        strides=spread,
        pads=[*(low for low, _ in crop), *(high for _, high in crop)],
        dilations=dilations,
        group=groups,
        kernel_shape=[int(k) for k in kernel],
    )
    if any(low or high for low, high in rim):
        assert x.dtype is not None
        config = [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in rim)]
        result = pad_with(b, result, b.number(0, x.dtype), config)
    return result


def _batch_groups(b: Builder, x: ir.Value, groups: int) -> ir.Value:
    """[groups * N, C, ...] as [N, groups * C, ...]."""
    batch, channels, *rest = b.shape_of(x)
    apart = b.reshape(x, [groups, exactly(sympy.sympify(batch) / groups), channels, *rest])
    order = [1, 0, *range(2, len(rest) + 3)]
    moved = b.transpose(apart, order)
    return b.reshape(moved, [exactly(sympy.sympify(batch) / groups), groups * channels, *rest])
