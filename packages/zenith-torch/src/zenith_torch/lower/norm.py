"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.dtypes import TO_ONNX, to_torch
from zenith_torch.lower.registry import lower


def _filled(b: Builder, value: float, shape: Sequence[Any]) -> ir.Value:
    return b.constant(np.full(tuple(shape), value, TO_ONNX[b.out_dtype].numpy()))


@lower("aten.layer_norm.default")
def layer_norm(
    b: Builder,
    x: ir.Value,
    normalized_shape: Sequence[int],
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> ir.Value:
    scale = weight if weight is not None else _filled(b, 1.0, normalized_shape)
    return b.op(
        "LayerNormalization",
        x,
        b.cast(scale, b.out_dtype),
        bias,
        shape=b.shape_of(x),
        axis=-len(normalized_shape),
        epsilon=eps,
    )


@lower("aten.native_layer_norm.default")
def native_layer_norm(
    b: Builder,
    x: ir.Value,
    normalized_shape: Sequence[int],
    weight: ir.Value | None,
    bias: ir.Value | None,
    eps: float,
) -> list[ir.Value]:
    if not b.used & {1, 2}:
        return [layer_norm(b, x, normalized_shape, weight, bias, eps)]
    rank = b.rank_of(x)
    x, weight, bias = _wide(b, x), _wide(b, weight), _wide(b, bias)
    result, mean, inverse = _by_hand(b, x, range(rank - len(normalized_shape), rank), eps)
    if weight is not None:
        result = b.op("Mul", result, weight, shape=b.shape_of(x))
    if bias is not None:
        result = b.op("Add", result, bias, shape=b.shape_of(x))
    return _as_declared(b, [result, mean, inverse])


@overload
def _wide(b: Builder, value: ir.Value) -> ir.Value: ...
@overload
def _wide(b: Builder, value: ir.Value | None) -> ir.Value | None: ...
def _wide(b: Builder, value: ir.Value | None) -> ir.Value | None:
    """Half precision as float32, in which statistics are computed."""
    half = value is not None and value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return b.cast(value, torch.float32) if value is not None and half else value


def _as_declared(b: Builder, results: list[ir.Value]) -> list[ir.Value]:
    """Results in the types the trace gives them."""
    return [b.cast(v, dtype) for v, dtype in zip(results, b.out_dtypes, strict=True)]


def _by_hand(
    b: Builder, x: ir.Value, axes: Sequence[int], eps: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """x normalised over the axes, its mean and 1 / deviation: for training, which needs all."""
    mean, var = _statistics(b, x, axes)
    spread = b.op("Sqrt", b.op("Add", var, b.number(eps, var.dtype)))
    inverse = b.op("Reciprocal", spread)
    return b.op("Mul", b.op("Sub", x, mean), inverse), mean, inverse


def _statistics(b: Builder, x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value]:
    """Mean and (biased) variance, with the axes kept."""
    mean = b.reduce("ReduceMean", x, list(axes), keepdims=True)
    centred = b.op("Sub", x, mean)
    return mean, b.reduce("ReduceMean", b.op("Mul", centred, centred), list(axes), keepdims=True)


@lower("aten.rms_norm.default")
def rms_norm(
    b: Builder,
    x: ir.Value,
    normalized_shape: Sequence[int],
    weight: ir.Value | None = None,
    eps: float | None = None,
) -> ir.Value:
    scale = weight if weight is not None else _filled(b, 1.0, normalized_shape)
    epsilon = torch.finfo(to_torch(x.dtype)).eps if eps is None else eps
    return b.op(
        "RMSNormalization",
        x,
        scale,
        shape=b.shape_of(x),
        axis=-len(normalized_shape),
        epsilon=epsilon,
    )


@lower("aten.group_norm.default")
def group_norm(
    b: Builder,
    x: ir.Value,
    num_groups: int,
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> ir.Value:
    channels = b.shape_of(x)[1]
    scale = weight if weight is not None else _filled(b, 1.0, [channels])
    shift = bias if bias is not None else _filled(b, 0.0, [channels])
    shape = b.shape_of(x)
    if len(shape) == 2:
        x = b.unsqueeze(x, 2)
    result = b.op(
        "GroupNormalization",
        x,
        scale,
        shift,
        shape=b.shape_of(x),
        num_groups=num_groups,
        epsilon=eps,
    )
    return b.reshape(result, shape)


@lower("aten.native_group_norm.default")
def native_group_norm(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    n: Any,
    c: Any,
    hxw: Any,
    group: int,
    eps: float,
) -> list[ir.Value]:
    if not b.used & {1, 2}:
        return [group_norm(b, x, group, weight, bias, eps)]
    shape = b.shape_of(x)
    x, weight, bias = _wide(b, x), _wide(b, weight), _wide(b, bias)
    grouped = b.reshape(x, (n, group, product([c // group, hxw])))
    result, mean, inverse = _by_hand(b, grouped, [2], eps)
    result = b.reshape(result, shape)
    tail = (c, *[1] * (len(shape) - 2))
    if weight is not None:
        result = b.op("Mul", result, b.reshape(weight, tail))
    if bias is not None:
        result = b.op("Add", result, b.reshape(bias, tail))
    mean, inverse = (b.reshape(v, (n, group)) for v in (mean, inverse))
    return _as_declared(b, [result, mean, inverse])


@lower("aten.instance_norm.default")
def instance_norm(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    running_mean: ir.Value | None,
    running_var: ir.Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> ir.Value:
    if not use_input_stats:
        return batch_norm(b, x, weight, bias, running_mean, running_var, eps)
    channels = b.shape_of(x)[1]
    scale = weight if weight is not None else _filled(b, 1.0, [channels])
    shift = bias if bias is not None else _filled(b, 0.0, [channels])
    shape = b.shape_of(x)
    return b.op("InstanceNormalization", x, scale, shift, shape=shape, epsilon=eps)


def batch_norm(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    mean: ir.Value | None,
    var: ir.Value | None,
    eps: float,
) -> ir.Value:
    """BatchNormalization with given statistics."""
    if mean is None or var is None:
        raise NotSupportedError("batch norm with the batch's own statistics")
    channels = b.shape_of(mean)
    scale = weight if weight is not None else _filled(b, 1.0, channels)
    shift = bias if bias is not None else _filled(b, 0.0, channels)
    shape = b.shape_of(x)
    return b.op("BatchNormalization", x, scale, shift, mean, var, shape=shape, epsilon=eps)


@lower("aten._native_batch_norm_legit_no_training.default")
def batch_norm_no_training(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    mean: ir.Value,
    var: ir.Value,
    momentum: float,
    eps: float,
) -> list[ir.Value | None]:
    return [batch_norm(b, x, weight, bias, mean, var, eps)]


@lower("aten._native_batch_norm_legit.no_stats")
def batch_norm_no_stats(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> list[ir.Value]:
    """Statistics of this very batch: instance norms arrive so, folded into one batch."""
    result, mean, _, inverse = _batch_norm_of_batch(b, x, weight, bias, eps)
    return _as_declared(b, [result, mean, inverse])


def _batch_norm_of_batch(
    b: Builder, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, eps: float
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """y, and of each channel the mean, the (biased) variance and 1 / deviation."""
    x, weight, bias = _wide(b, x), _wide(b, weight), _wide(b, bias)
    channels = (b.shape_of(x)[1],)
    mean, var = _statistics(b, x, [a for a in range(b.rank_of(x)) if a != 1])
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Add", var, b.number(eps, var.dtype))))
    tail = (*channels, *[1] * (b.rank_of(x) - 2))
    scale = inverse if weight is None else b.op("Mul", inverse, b.reshape(weight, tail))
    result = b.op("Mul", b.op("Sub", x, mean), scale)
    if bias is not None:
        result = b.op("Add", result, b.reshape(bias, tail))
    mean, var, inverse = (b.reshape(v, channels) for v in (mean, var, inverse))
    return result, mean, var, inverse


@lower("aten._native_batch_norm_legit_functional.default")
def batch_norm_functional(
    b: Builder,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    running_mean: ir.Value,
    running_var: ir.Value,
    training: bool,
    momentum: float,
    eps: float,
) -> list[ir.Value]:
    """Results: y, the batch's mean and 1 / deviation, the new running mean and variance."""
    if not training:
        empty = b.number([], running_mean.dtype, (0,))
        result = batch_norm(b, x, weight, bias, running_mean, running_var, eps)
        return [result, empty, empty, running_mean, running_var]
    result, mean, var, inverse = _batch_norm_of_batch(b, x, weight, bias, eps)
    axes = [a for a in range(b.rank_of(x)) if a != 1]
    count = b.operand(product([b.shape_of(x)[a] for a in axes]), var.dtype)
    one = b.number(1, var.dtype)
    unbiased = b.op("Mul", var, b.op("Div", count, b.op("Sub", count, one)))
    moved = []
    for old, new in ((running_mean, mean), (running_var, unbiased)):
        step = b.op("Mul", b.op("Sub", b.cast(new, old.dtype), old), b.number(momentum, old.dtype))
        moved.append(b.op("Add", old, step))
    return _as_declared(b, [result, mean, inverse, *moved])


@lower("aten._weight_norm_interface_backward.default")
def weight_norm_backward(
    b: Builder, grad: ir.Value, v: ir.Value, g: ir.Value, norms: ir.Value, dim: int
) -> list[ir.Value]:
    """Gradients of direction and length of g * v / |v|."""
    axes = [a for a in range(b.rank_of(v)) if a != dim]
    norms = b.cast(norms, v.dtype)
    unit = b.op("Div", v, norms)
    along = b.reduce("ReduceSum", b.op("Mul", grad, unit), axes, keepdims=True)
    across = b.op("Sub", grad, b.op("Mul", unit, along))
    return [b.op("Mul", across, b.op("Div", g, norms)), along]
