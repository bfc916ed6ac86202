"""Arithmetic, element by element. torch's type promotion becomes explicit casts."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder, NotSupportedError, Scalar
from zenith_torch.dtypes import to_torch
from zenith_torch.lower.registry import lower

_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "floor": "Floor",
    "neg": "Neg",
    "_neg_view": "Neg",
    "sign": "Sign",
    "sgn": "Sign",
}
_FLOAT_UNARY = {
    "acos": "Acos",
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "reciprocal": "Reciprocal",
    "sigmoid": "Sigmoid",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}


def is_float(value: ir.Value) -> bool:
    """Whether the element type is a floating-point type."""
    return to_torch(value.dtype).is_floating_point


def _register_unary(name: str, op_type: str, to_float: bool) -> None:
    @lower(f"aten.{name}.default")
    def unary(b: Builder, x: ir.Value) -> ir.Value:
        if to_float:
            return b.op(op_type, b.cast(x, b.out_dtype))
        if op_type in ("Ceil", "Floor") and not is_float(x) or x.dtype == ir.DataType.BOOL:
            return x
        if op_type == "Neg" and not b.out_dtype.is_signed:
            return b.op("Sub", b.number(0, x.dtype), x)
        return b.op(op_type, x)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op, to_float=False)
for _name, _op in _FLOAT_UNARY.items():
    _register_unary(_name, _op, to_float=True)


def binary(b: Builder, op_type: str, x: Any, y: Any) -> ir.Value:
    """One node over both operands in the result's type."""
    return b.op(op_type, b.operand(x, b.out_dtype), b.operand(y, b.out_dtype))


def _scaled(b: Builder, y: Any, alpha: Scalar) -> Any:
    if alpha == 1:
        return y
    if not isinstance(y, ir.Value):
        return y * alpha
    return b.op("Mul", b.operand(y, b.out_dtype), b.operand(alpha, b.out_dtype))


@lower("aten.add.Tensor", "aten.add.Scalar")
def add(b: Builder, x: Any, y: Any, alpha: Scalar = 1) -> ir.Value:
    if b.out_dtype is torch.bool:
        if not alpha:
            y = False
        return binary(b, "Or", x, y)
    return binary(b, "Add", x, _scaled(b, y, alpha))


@lower("aten.sub.Tensor", "aten.sub.Scalar")
def sub(b: Builder, x: Any, y: Any, alpha: Scalar = 1) -> ir.Value:
    return binary(b, "Sub", x, _scaled(b, y, alpha))


@lower("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(b: Builder, x: Any, y: Any, alpha: Scalar = 1) -> ir.Value:
    return binary(b, "Sub", y, _scaled(b, x, alpha))


@lower("aten.mul.Tensor", "aten.mul.Scalar")
def mul(b: Builder, x: Any, y: Any) -> ir.Value:
    if b.out_dtype is torch.bool:
        return binary(b, "And", x, y)
    return binary(b, "Mul", x, y)


@lower("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.true_divide.Scalar")
def div(b: Builder, x: Any, y: Any) -> ir.Value:
    return binary(b, "Div", x, y)


@lower("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(b: Builder, x: Any, y: Any, rounding_mode: str | None = None) -> ir.Value:
    if rounding_mode is None:
        return binary(b, "Div", x, y)
    left, right = b.operand(x, b.out_dtype), b.operand(y, b.out_dtype)
    if rounding_mode == "floor":
        if b.out_dtype.is_floating_point:
            return b.op("Floor", b.op("Div", left, right))
        return b.op("Div", b.op("Sub", left, b.op("Mod", left, right)), right)
    quotient = b.op("Div", left, right)
    return _truncate(b, quotient) if b.out_dtype.is_floating_point else quotient


@lower("aten.floor_divide.default")
def floor_divide(b: Builder, x: Any, y: Any) -> ir.Value:
    return div_mode(b, x, y, rounding_mode="floor")


@lower("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(b: Builder, x: Any, y: Any) -> ir.Value:
    left, right = b.operand(x, b.out_dtype), b.operand(y, b.out_dtype)
    return b.op("Mod", left, right, fmod=0)


@lower("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(b: Builder, x: Any, y: Any) -> ir.Value:
    left, right = b.operand(x, b.out_dtype), b.operand(y, b.out_dtype)
    return b.op("Mod", left, right, fmod=1)


@lower("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def power(b: Builder, x: Any, y: Any) -> ir.Value:
    if isinstance(y, (int, float)) and y == 1:
        return b.operand(x, b.out_dtype)
    if isinstance(y, (int, float)) and y == 0.5:
        return b.op("Sqrt", b.operand(x, b.out_dtype))
    if b.out_dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16) and (
        b.out_dtype not in (torch.int32, torch.int64)
    ):
        wide = b.op("Pow", b.operand(x, torch.int32), b.operand(y, torch.int32))
        return b.cast(wide, b.out_dtype)
    return binary(b, "Pow", x, y)


@lower("aten.square.default")
def square(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Mul", x, x)


@lower("aten.rsqrt.default")
def rsqrt(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Reciprocal", b.op("Sqrt", b.cast(x, b.out_dtype)))


@lower("aten.exp2.default")
def exp2(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Pow", b.number(2, b.out_dtype), b.cast(x, b.out_dtype))


@lower("aten.expm1.default")
def expm1(b: Builder, x: ir.Value) -> ir.Value:
    # exp(x) - 1 loses its digits near 0; 2 sinh(x/2) exp(x/2) does not.
    half = b.op("Mul", b.cast(x, b.out_dtype), b.number(0.5, b.out_dtype))
    doubled = b.op("Mul", b.op("Sinh", half), b.number(2, b.out_dtype))
    return b.op("Mul", doubled, b.op("Exp", half))


@lower("aten.log1p.default")
def log1p(b: Builder, x: ir.Value) -> ir.Value:
    # 2 atanh(x / (2 + x)) keeps the digits that 1 + x drops near 0.
    x = b.cast(x, b.out_dtype)
    ratio = b.op("Div", x, b.op("Add", x, b.number(2, b.out_dtype)))
    near = b.op("Mul", b.op("Atanh", ratio), b.number(2, b.out_dtype))
    far = b.op("Log", b.op("Add", x, b.number(1, b.out_dtype)))
    is_near = b.op("Less", b.op("Abs", x), b.number(0.5, b.out_dtype), dtype=torch.bool)
    return b.op("Where", is_near, near, far, dtype=b.out_dtype)


@lower("aten.log2.default", "aten.log10.default")
def log_other(b: Builder, x: ir.Value) -> ir.Value:
    base = 2.0 if b.target == "aten.log2.default" else 10.0
    natural = b.op("Log", b.cast(x, b.out_dtype))
    return b.op("Mul", natural, b.number(1 / math.log(base), b.out_dtype))


def _truncate(b: Builder, x: ir.Value) -> ir.Value:
    positive = b.op("Floor", b.op("Abs", x))
    return b.op("Mul", b.op("Sign", x), positive)


@lower("aten.trunc.default", "aten.fix.default")
def trunc(b: Builder, x: ir.Value) -> ir.Value:
    return _truncate(b, x) if is_float(x) else x


@lower("aten.frac.default")
def frac(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Sub", x, _truncate(b, x))


@lower("aten.round.default", "aten.round.decimals")
def round_(b: Builder, x: ir.Value, *, decimals: int = 0) -> ir.Value:
    if not is_float(x):
        return x
    if decimals == 0:
        return b.op("Round", x)
    scale = b.number(10.0 ** abs(decimals), b.out_dtype)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return b.op(back, b.op("Round", b.op(there, x, scale)), scale)


@lower("aten.maximum.default")
def maximum(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return binary(b, "Or" if b.out_dtype is torch.bool else "Max", x, y)


@lower("aten.minimum.default")
def minimum(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return binary(b, "And" if b.out_dtype is torch.bool else "Min", x, y)


@lower("aten.clamp.default", "aten.clip.default")
def clamp(
    b: Builder, x: ir.Value, min: Scalar | None = None, max: Scalar | None = None
) -> ir.Value:
    low = None if min is None else b.operand(min, b.out_dtype)
    high = None if max is None else b.operand(max, b.out_dtype)
    x = b.cast(x, b.out_dtype)
    return b.op("Clip", x, low, high, shape=b.shape_of(x))


@lower("aten.clamp_min.default")
def clamp_min(b: Builder, x: ir.Value, min: Scalar) -> ir.Value:
    return clamp(b, x, min=min)


@lower("aten.clamp_max.default")
def clamp_max(b: Builder, x: ir.Value, max: Scalar) -> ir.Value:
    return clamp(b, x, max=max)


@lower("aten.clamp.Tensor", "aten.clip.Tensor")
def clamp_tensor(
    b: Builder, x: ir.Value, min: ir.Value | None = None, max: ir.Value | None = None
) -> ir.Value:
    x = b.cast(x, b.out_dtype)
    if min is not None:
        x = b.op("Max", x, b.cast(min, b.out_dtype))
    if max is not None:
        x = b.op("Min", x, b.cast(max, b.out_dtype))
    return x


@lower("aten.clamp_min.Tensor")
def clamp_min_tensor(b: Builder, x: ir.Value, min: ir.Value) -> ir.Value:
    return clamp_tensor(b, x, min=min)


@lower("aten.clamp_max.Tensor")
def clamp_max_tensor(b: Builder, x: ir.Value, max: ir.Value) -> ir.Value:
    return clamp_tensor(b, x, max=max)


@lower("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def where(b: Builder, condition: ir.Value, x: Any, y: Any) -> ir.Value:
    left, right = b.operand(x, b.out_dtype), b.operand(y, b.out_dtype)
    return b.op("Where", b.cast(condition, torch.bool), left, right, dtype=b.out_dtype)


@lower("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(b: Builder, x: ir.Value, mask: ir.Value, value: Any) -> ir.Value:
    return where(b, mask, value, x)


@lower("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(b: Builder, start: ir.Value, end: ir.Value, weight: Any) -> ir.Value:
    step = b.op("Mul", b.op("Sub", end, start), b.operand(weight, b.out_dtype))
    return b.op("Add", start, step)


@lower("aten.addcmul.default", "aten.addcdiv.default")
def addc(
    b: Builder, x: ir.Value, left: ir.Value, right: ir.Value, *, value: Scalar = 1
) -> ir.Value:
    op_type = "Mul" if b.target == "aten.addcmul.default" else "Div"
    term = b.op(op_type, b.cast(left, b.out_dtype), b.cast(right, b.out_dtype))
    return b.op("Add", b.cast(x, b.out_dtype), _scaled(b, term, value))


@lower("prims.fma.default")
def fma(b: Builder, x: Any, y: Any, z: Any) -> ir.Value:
    """x * y + z; rounded twice."""
    return binary(b, "Add", binary(b, "Mul", x, y), z)


@lower("aten._to_copy.default", "aten.to.dtype", "prims.convert_element_type.default")
def to_copy(b: Builder, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    if b.out_dtype is torch.uint8 and is_float(x):
        return b.cast(b.cast(x, torch.int32), torch.uint8)
    return b.cast(x, b.out_dtype)


@lower(
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.lift_fresh_copy.default",
    "aten.lift_fresh.default",
)
def same(b: Builder, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return x


@lower("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def dropout(b: Builder, x: ir.Value, p: float, train: bool) -> ir.Value:
    if train and p > 0:
        raise NotSupportedError("dropout in training mode")
    return x


@lower("aten.atan2.default")
def atan2(b: Builder, y: ir.Value, x: ir.Value) -> ir.Value:
    """The angle of (x, y): the arctangent of the ratio, turned by half a circle left of zero.

    Opposite infinities and the sign of zeros are not told apart, as a ratio does not have them.
    """
    y, x = b.cast(y, b.out_dtype), b.cast(x, b.out_dtype)
    shape = b.out_shape
    zero, half = b.number(0, b.out_dtype), b.number(math.pi / 2, b.out_dtype)

    def less(left: ir.Value, right: ir.Value) -> ir.Value:
        return b.op("Less", left, right, dtype=torch.bool)

    angle = b.op("Atan", b.op("Div", y, x), shape=shape)
    turn = b.op("Where", less(y, zero), b.number(-math.pi, b.out_dtype),
                b.number(math.pi, b.out_dtype), dtype=b.out_dtype)  # fmt: skip
    turned = b.op("Where", less(x, zero), b.op("Add", angle, turn), angle, shape=shape,
                  dtype=b.out_dtype)  # fmt: skip
    upright = b.op("Mul", b.op("Sign", y), half)
    on_axis = b.op("Equal", x, zero, dtype=torch.bool)
    return b.op("Where", on_axis, upright, turned, shape=shape, dtype=b.out_dtype)
