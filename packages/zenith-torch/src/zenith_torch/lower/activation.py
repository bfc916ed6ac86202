"""Activation functions and softmax."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder, NotSupportedError, Scalar
from zenith_torch.lower.registry import lower


@lower("aten.relu.default")
def relu(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Relu", x)


@lower("aten.gelu.default")
def gelu(b: Builder, x: ir.Value, *, approximate: str = "none") -> ir.Value:
    return b.op("Gelu", x, approximate=approximate)


@lower("aten.silu.default")
def silu(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Swish", x, alpha=1.0)


@lower("aten.mish.default")
def mish(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Mish", x)


@lower("aten.leaky_relu.default")
def leaky_relu(b: Builder, x: ir.Value, negative_slope: Scalar = 0.01) -> ir.Value:
    return b.op("LeakyRelu", x, alpha=float(negative_slope))


@lower("aten.elu.default")
def elu(
    b: Builder, x: ir.Value, alpha: Scalar = 1, scale: Scalar = 1, input_scale: Scalar = 1
) -> ir.Value:
    if input_scale != 1:
        raise NotSupportedError("elu with an input scale")
    if scale != 1:
        return b.op("Selu", x, alpha=float(alpha), gamma=float(scale))
    return b.op("Elu", x, alpha=float(alpha))


@lower("aten.celu.default")
def celu(b: Builder, x: ir.Value, alpha: Scalar = 1.0) -> ir.Value:
    return b.op("Celu", x, alpha=float(alpha))


@lower("aten.selu.default")
def selu(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Selu", x)


@lower("aten.softplus.default")
def softplus(b: Builder, x: ir.Value, beta: Scalar = 1, threshold: Scalar = 20) -> ir.Value:
    scaled = x if beta == 1 else b.op("Mul", x, b.number(beta, b.out_dtype))
    soft = b.op("Softplus", scaled)
    if beta != 1:
        soft = b.op("Div", soft, b.number(beta, b.out_dtype))
    if threshold >= 20:
        return soft  # there softplus(x) and x are the same number
    linear = b.op("Greater", scaled, b.number(threshold, b.out_dtype), dtype=torch.bool)
    return b.op("Where", linear, x, soft, dtype=b.out_dtype)


@lower("aten.hardtanh.default")
def hardtanh(b: Builder, x: ir.Value, low: Scalar = -1, high: Scalar = 1) -> ir.Value:
    bounds = (b.number(low, b.out_dtype), b.number(high, b.out_dtype))
    return b.op("Clip", x, *bounds, shape=b.shape_of(x))


@lower("aten.relu6.default")
def relu6(b: Builder, x: ir.Value) -> ir.Value:
    return hardtanh(b, x, 0, 6)


@lower("aten.hardsigmoid.default")
def hardsigmoid(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@lower("aten.hardswish.default")
def hardswish(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("HardSwish", x)


@lower("aten.log_sigmoid.default")
def log_sigmoid(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Neg", b.op("Softplus", b.op("Neg", x)))


@lower("aten.threshold.default")
def threshold(b: Builder, x: ir.Value, limit: Scalar, value: Scalar) -> ir.Value:
    keep = b.op("Greater", x, b.number(limit, b.out_dtype), dtype=torch.bool)
    return b.op("Where", keep, x, b.number(value, b.out_dtype), dtype=b.out_dtype)


@lower("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(b: Builder, x: ir.Value, weight: ir.Value) -> ir.Value:
    rank = b.rank_of(x)
    if b.rank_of(weight) == 1 and rank > 1:
        weight = b.reshape(weight, (*b.shape_of(weight), *[1] * (rank - 2)))
    return b.op("PRelu", x, weight, shape=b.shape_of(x))


@lower("aten.hardshrink_backward.default", "aten.softshrink_backward.default")
def shrink_backward(b: Builder, grad: ir.Value, x: ir.Value, limit: float) -> ir.Value:
    """Nothing from where the activation is zero."""
    kept = b.op("Greater", b.op("Abs", x), b.number(limit, x.dtype), dtype=torch.bool)
    return b.op("Where", kept, grad, b.number(0, grad.dtype), dtype=grad.dtype)


@lower("aten.glu.default")
def glu(b: Builder, x: ir.Value, dim: int = -1) -> ir.Value:
    axis = b.axis(x, dim)
    half = b.out_shape[axis]
    first, second = b.ops(
        "Split", x, b.size_vector([half, half]), results=[(b.out_dtype, b.out_shape)] * 2, axis=axis
    )
    return b.op("Mul", first, b.op("Sigmoid", second))


def _softmax(b: Builder, op_type: str, x: ir.Value, dim: int) -> ir.Value:
    x = b.cast(x, b.out_dtype)
    if b.rank_of(x) == 0:
        return b.squeeze(b.op(op_type, b.unsqueeze(x, 0), axis=0), 0)
    return b.op(op_type, x, axis=b.axis(x, dim))


@lower("aten.softmax.int", "aten._softmax.default")
def softmax(b: Builder, x: ir.Value, dim: int, dtype: object = None) -> ir.Value:
    return _softmax(b, "Softmax", x, dim)


@lower("aten._safe_softmax.default")
def safe_softmax(b: Builder, x: ir.Value, dim: int, dtype: object = None) -> ir.Value:
    """Zero, not NaN, where all is masked by minus infinity."""
    result = _softmax(b, "Softmax", x, dim)
    if b.rank_of(x) == 0:
        return result
    most = b.reduce("ReduceMax", x, [b.axis(x, dim)], keepdims=True)
    masked = b.op("Equal", most, b.number(-math.inf, x.dtype), dtype=torch.bool)
    return b.op("Where", masked, b.number(0, result.dtype), result, dtype=result.dtype)


@lower("aten.log_softmax.int", "aten._log_softmax.default")
def log_softmax(b: Builder, x: ir.Value, dim: int, dtype: object = None) -> ir.Value:
    return _softmax(b, "LogSoftmax", x, dim)
