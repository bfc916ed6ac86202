"""Signs, zeros of either sign, and what is told from them."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder
from zenith_torch.lower.elementwise import is_float
from zenith_torch.lower.registry import lower


def is_negative(b: Builder, x: ir.Value) -> ir.Value:
    """Below zero, or the zero below zero, which only a quotient tells."""
    zero = b.number(0, x.dtype)
    below = b.op("Less", x, zero, dtype=torch.bool)
    if not is_float(x):
        return below
    return b.op("Or", below, b.op("Less", b.op("Reciprocal", x), zero, dtype=torch.bool))


@lower("aten.signbit.default")
def signbit(b: Builder, x: ir.Value) -> ir.Value:
    return is_negative(b, b.cast(x, torch.int32) if x.dtype == ir.DataType.BOOL else x)


@lower("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(b: Builder, x: ir.Value, y: Any) -> ir.Value:
    size = b.op("Abs", b.operand(x, b.out_dtype))
    other = b.operand(y, b.out_dtype)
    return b.op("Where", is_negative(b, other), b.op("Neg", size), size, dtype=b.out_dtype)


@lower("aten.angle.default")
def angle(b: Builder, x: ir.Value) -> ir.Value:
    """Of real numbers: half a circle below zero; a NaN stays."""
    x = b.cast(x, b.out_dtype)
    below = b.op("Less", x, b.number(0, b.out_dtype), dtype=torch.bool)
    turned = b.op("Where", below, b.number(math.pi, b.out_dtype), b.number(0, b.out_dtype),
                  dtype=b.out_dtype)  # fmt: skip
    return b.op("Where", b.op("IsNaN", x, dtype=torch.bool), x, turned, dtype=b.out_dtype)


@lower("aten.fmax.default", "aten.fmin.default")
def extreme_number(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """A NaN counts for nothing."""
    op_type = {"aten.fmax.default": "Max", "aten.fmin.default": "Min"}[b.target]
    x, y = b.operand(x, b.out_dtype), b.operand(y, b.out_dtype)
    if b.out_dtype is torch.bool:
        return b.op({"Max": "Or", "Min": "And"}[op_type], x, y)
    if not b.out_dtype.is_floating_point:
        return b.op(op_type, x, y)
    nan_x, nan_y = (b.op("IsNaN", v, dtype=torch.bool) for v in (x, y))
    left = b.op("Where", nan_x, y, x, dtype=b.out_dtype)
    return b.op(op_type, left, b.op("Where", nan_y, x, y, dtype=b.out_dtype))


@lower("aten.hypot.default")
def hypot(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """By the ratio to the larger one: its square cannot overflow."""
    sizes = [b.op("Abs", b.operand(v, b.out_dtype)) for v in (x, y)]
    large, small = b.op("Max", *sizes), b.op("Min", *sizes)
    zero, one = b.number(0, b.out_dtype), b.number(1, b.out_dtype)
    unscaled = b.op("Or", b.op("Equal", large, zero, dtype=torch.bool),
                    b.op("IsInf", large, dtype=torch.bool))  # fmt: skip
    ratio = b.op("Div", small, b.op("Where", unscaled, one, large, dtype=b.out_dtype))
    length = b.op("Mul", large, b.op("Sqrt", b.op("Add", b.op("Mul", ratio, ratio), one)))
    return b.op("Where", unscaled, large, length, dtype=b.out_dtype)


@lower("aten.ldexp.Tensor")
def ldexp(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    power = b.op("Pow", b.number(2, b.out_dtype), b.operand(y, b.out_dtype))
    return b.op("Mul", b.operand(x, b.out_dtype), power)
