"""Backward operators that PyTorch does not decompose, in operators that exist forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, exactly, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import TO_ONNX
from zenith_torch.lower.conv import per_axis
from zenith_torch.lower.create import filled
from zenith_torch.lower.pool import adaptive_weights, along_axes
from zenith_torch.lower.registry import lower

# --- convolution ----------------------------------------------------------------------------------


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
    stride, padding = per_axis(stride, axes), per_axis(padding, axes)
    dilation = per_axis(dilation, axes)
    to_x = to_weight = to_bias = None
    if output_mask[0]:
        gradient = _conv_input if transposed else _conv_transposed_input
        to_x = gradient(b, grad, x, weight, stride, padding, dilation, groups)
    if output_mask[1]:
        # Both kinds sum over the same pairs; in a transposed one x and the gradient change places.
        large, small = (grad, x) if transposed else (x, grad)
        to_weight = _conv_weight(b, large, small, weight, stride, padding, dilation, groups)
    if output_mask[2]:
        rest = [a for a in range(axes + 2) if a != 1]
        to_bias = b.reduce("ReduceSum", grad, rest, keepdims=False)
    return [to_x, to_weight, to_bias]


def _conv_input(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    weight: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ir.Value:
    """Of a transposed convolution: the plain one with the same weights."""
    return b.op(
        "Conv",
        grad,
        weight,
        shape=b.shape_of(x),
        kernel_shape=list(b.static_shape_of(weight)[2:]),
        strides=list(stride),
        pads=list(padding) * 2,
        dilations=list(dilation),
        group=groups,
    )


def _conv_transposed_input(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    weight: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ir.Value:
    """Of a plain convolution: the transposed one; rows no window reached are padding.

    Where nobody knows how many these are, it is made too large and cut.
    """
    kernel, axes = b.static_shape_of(weight)[2:], len(stride)
    have, out = b.shape_of(x)[2:], b.shape_of(grad)[2:]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    whole = [exactly((o - 1) * s + n) for o, s, n in zip(out, stride, spans, strict=True)]
    extra: list[int] | None = None
    ends, shape = list(padding), list(have)
    if all(isinstance(d, int) for d in (*have, *out)) or all(s == 1 for s in stride):
        missing = [h - (w - 2 * p) for h, w, p in zip(have, whole, padding, strict=True)]
        extra = [int(m) if isinstance(m, int) else 0 for m in missing]
    else:
        ends = [0] * axes
        shape = [exactly(w - p) for w, p in zip(whole, padding, strict=True)]
    result = b.op(
        "ConvTranspose",
        grad,
        weight,
        shape=(*b.shape_of(x)[:2], *shape),
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*padding, *ends],
        dilations=list(dilation),
        group=groups,
        output_padding=extra if extra and any(extra) else None,
    )
    return result if extra is not None else _cut(b, result, stride, have)


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
    b: Builder,
    large: ir.Value,
    small: ir.Value,
    weight: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ir.Value:
    """sum over images and places p of large[p * stride + tap * dilation] * small[p], per tap.

    That is a convolution whose batch is the channels of `large` and whose channels are the images;
    strides and dilations change places.
    """
    batch, channels, *sizes = b.shape_of(large)
    _, outputs, *kernel = b.shape_of(small)
    if not all(isinstance(k, int) for k in kernel):
        return _conv_weight_by_tap(b, large, small, weight, stride, padding, dilation, groups)
    tail = list(range(2, b.rank_of(large)))
    each = channels // groups
    if groups == 1:
        images = b.transpose(large, [1, 0, *tail])
    else:  # (images, groups, each, ...) -> (each, groups * images, ...)
        images = b.reshape(large, (batch, groups, each, *sizes))
        images = b.transpose(images, [2, 1, 0, *(a + 1 for a in tail)])
        images = b.reshape(images, (each, product([groups, batch]), *sizes))
    taps = b.static_shape_of(weight)[2:]
    found = [
        (size + 2 * pad - step * (k - 1) - 1) // gap + 1
        for size, pad, step, k, gap in zip(sizes, padding, stride, kernel, dilation, strict=True)
    ]
    result = b.op(
        "Conv",
        images,
        b.transpose(small, [1, 0, *tail]),
        shape=(each, outputs, *found),
        kernel_shape=list(kernel),
        strides=list(dilation),
        pads=list(padding) * 2,
        dilations=list(stride),
        group=groups,
    )
    for axis, (size, wanted) in enumerate(zip(found, taps, strict=True)):
        if size != wanted:  # the window of the last row ended before the image did
            result = b.slice(result, 2 + axis, 0, wanted)
    return b.transpose(result, [1, 0, *tail])


def _conv_weight_by_tap(
    b: Builder,
    large: ir.Value,
    small: ir.Value,
    weight: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ir.Value:
    """`_conv_weight` as one product per tap: a convolution wants a kernel of known size."""
    batch, channels, *sizes = b.shape_of(large)
    outputs, taps = b.shape_of(small)[1], b.static_shape_of(weight)[2:]
    places = b.shape_of(small)[2:]
    if any(padding):
        wide = [exactly(d + 2 * p) for d, p in zip(sizes, padding, strict=True)]
        ends = b.ints([0, 0, *padding] * 2)
        large = b.op("Pad", large, ends, shape=(batch, channels, *wide))
    count = product([batch, *places])

    def rows(x: ir.Value, width: Dim) -> ir.Value:
        """(images, channels, ...) to (groups, channels of one, images * places)."""
        x = b.transpose(x, [1, 0, *range(2, b.rank_of(x))])
        return b.reshape(x, (groups, width // groups, count))

    right = b.transpose(rows(small, outputs), [0, 2, 1])
    found = []
    for tap in np.ndindex(*taps):
        moved = large
        for axis, (i, d, s, n) in enumerate(zip(tap, dilation, stride, places, strict=True)):
            start = i * d
            end = exactly(start + (n - 1) * s + 1)
            moved = b.slice(moved, axis + 2, start, end, s)
        left = rows(moved, channels)
        shape = (groups, channels // groups, outputs // groups)
        found.append(b.unsqueeze(b.op("MatMul", left, right, shape=shape), 3))
    total = b.transpose(b.concat(found, 3), [0, 2, 1, 3])
    return b.reshape(total, b.shape_of(weight))


# --- pooling --------------------------------------------------------------------------------------


@lower("aten.max_pool2d_with_indices_backward.default")
def max_pool_backward(b: Builder, grad: ir.Value, x: ir.Value, *window: Any) -> ir.Value:
    """Each gradient goes to the place its maximum came from; the last argument tells which."""
    indices: ir.Value = window[-1]
    *lead, high, wide = b.shape_of(x)
    *_, rows, columns = b.shape_of(grad)
    flat = (*lead, product([rows, columns]))
    plane = (*lead, product([high, wide]))
    total = b.op(
        "ScatterElements",
        filled(b, 0, plane, b.out_dtype),
        b.reshape(indices, flat),
        b.reshape(grad, flat),
        shape=plane,
        axis=len(lead),
        reduction="add",
    )
    return b.reshape(total, b.shape_of(x))


@lower("aten.avg_pool2d_backward.default")
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
    taps = per_axis(kernel, 2)
    steps, pads = per_axis(stride, 2) if stride else taps, per_axis(padding, 2)
    if ceil_mode or (any(pads) and not count_include_pad) or b.rank_of(x) != 4:
        how = (taps, steps, pads, count_include_pad, divisor_override)
        return _avg_pool_by_matrix(b, grad, x, *how)
    batch, channels, *sizes = b.shape_of(x)
    extra = []
    for size, out, k, step, pad in zip(sizes, b.shape_of(grad)[2:], taps, steps, pads, strict=True):
        if not isinstance(size, int) or not isinstance(out, int):
            raise NotSupportedError("an axis of dynamic size")
        extra.append(size - ((out - 1) * step + k - 2 * pad))
    share = 1 / (divisor_override or taps[0] * taps[1])
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
    sizes, counts = b.shape_of(x)[-2:], b.shape_of(grad)[-2:]
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
    axes = int(b.target.split("pool")[1][0])
    sizes, counts = b.shape_of(x)[-axes:], b.shape_of(grad)[-axes:]
    if all(count == 1 for count in counts):
        total = b.operand(product(sizes), b.out_dtype)
        return b.expand(b.op("Div", grad, total), b.shape_of(x))
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("an axis of dynamic size")
    pairs = zip(sizes, counts, strict=True)
    return along_axes(b, grad, [adaptive_weights(*pair).T for pair in pairs])


# --- attention ------------------------------------------------------------------------------------


_LOWEST = -1e30


def attention_scores(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    mask: ir.Value | None,
    is_causal: bool,
    scale: float | None,
) -> ir.Value:
    """query @ key^T * scale + mask, (batch, heads, queries, keys)."""
    shape = (*b.shape_of(query)[:3], b.shape_of(key)[2])
    size = b.shape_of(query)[3]
    if scale is None:
        if not isinstance(size, int):
            raise NotSupportedError("a head of dynamic size")
        scale = size**-0.5
    scaled = b.op("Mul", query, b.number(scale, query.dtype))
    scores = b.op("MatMul", scaled, b.transpose(key, [0, 1, 3, 2]), shape=shape)
    low = b.number(-np.inf, query.dtype)
    if is_causal:
        ones = filled(b, True, shape[2:], torch.bool)
        lower_half = b.op("Trilu", ones, b.number(0, torch.int64), shape=shape[2:], upper=0)
        scores = b.op("Where", lower_half, scores, low, shape=shape, dtype=scores.dtype)
    if mask is None:
        return scores
    if mask.dtype == ir.DataType.BOOL:
        return b.op("Where", mask, scores, low, shape=shape, dtype=scores.dtype)
    return b.op("Add", scores, b.cast(mask, query.dtype), shape=shape)


def attention_for_training(
    b: Builder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value | None,
    is_causal: bool,
    scale: float | None,
) -> list[ir.Value]:
    """The result, and the logarithms of the softmax's sums that the backward operator wants.

    Where a row may see no key at all, its maximum is bounded: exp(-inf - bound) is the zero wanted.
    """
    scores = attention_scores(b, query, key, mask, is_causal, scale)
    most = b.reduce("ReduceMax", scores, [3], keepdims=True)
    if mask is not None:
        most = b.op("Max", most, b.number(_LOWEST, most.dtype))
    powers = b.op("Exp", b.op("Sub", scores, most))
    total = b.reduce("ReduceSum", powers, [3], keepdims=True)
    if mask is not None:
        total = b.op("Max", total, b.number(1e-30, total.dtype))
    result = _matmul(b, b.op("Div", powers, total), value)
    sums = b.op("Add", b.op("Log", total), most)
    return [result, b.squeeze(sums, 3)]


@lower("aten._scaled_dot_product_flash_attention_for_cpu_backward.default")
def attention_backward(
    b: Builder,
    grad: ir.Value,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    out: ir.Value,
    logsumexp: ir.Value,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: ir.Value | None = None,
    scale: float | None = None,
) -> list[ir.Value]:
    """Gradients of query, key and value; the softmax is made again from its sums."""
    if dropout_p:
        raise NotSupportedError("attention with dropout")
    shape, kind = b.shape_of(query), query.dtype
    if b.shape_of(key)[1] != shape[1]:
        raise NotSupportedError("fewer heads of keys than of queries")
    scores = attention_scores(b, query, key, attn_mask, is_causal, scale)
    weights = b.op("Exp", b.op("Sub", scores, b.cast(b.unsqueeze(logsumexp, 3), kind)))
    pairs = b.shape_of(weights)
    to_value = _matmul(b, b.transpose(weights, [0, 1, 3, 2]), grad)
    to_weights = b.op("MatMul", grad, b.transpose(value, [0, 1, 3, 2]), shape=pairs)
    inner = b.reduce("ReduceSum", b.op("Mul", grad, out), [3], keepdims=True)
    to_scores = b.op("Mul", weights, b.op("Sub", to_weights, inner))
    size = shape[3]
    factor = scale if scale is not None else float(size) ** -0.5
    to_scores = b.op("Mul", to_scores, b.number(factor, kind))
    to_query = _matmul(b, to_scores, key)
    to_key = _matmul(b, b.transpose(to_scores, [0, 1, 3, 2]), query)
    return [to_query, to_key, to_value]


def _matmul(b: Builder, left: ir.Value, right: ir.Value) -> ir.Value:
    shape: tuple[Dim, ...] = (*b.shape_of(left)[:3], b.shape_of(right)[3])
    return b.op("MatMul", left, right, shape=shape)
