"""Comparisons and logic. Both sides are compared in torch's promoted type; results are bool."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from zenith_torch.builder import Builder
from zenith_torch.lower.elementwise import is_float
from zenith_torch.lower.registry import lower

_COMPARE = {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}


def compare(b: Builder, op_type: str, x: Any, y: Any) -> ir.Value:
    """A comparison in the operands' common type."""
    dtype = b.result_type(x, y)
    if dtype is torch.bool and op_type != "Equal":
        dtype = torch.int32
    return b.op(op_type, b.operand(x, dtype), b.operand(y, dtype), dtype=torch.bool)


def _register_compare(name: str, op_type: str) -> None:
    @lower(f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def handler(b: Builder, x: ir.Value, y: Any) -> ir.Value:
        return compare(b, op_type, x, y)


for _name, _op in _COMPARE.items():
    _register_compare(_name, _op)


@lower("aten.ne.Tensor", "aten.ne.Scalar")
def not_equal(b: Builder, x: ir.Value, y: Any) -> ir.Value:
    return b.op("Not", compare(b, "Equal", x, y))


@lower("aten.logical_not.default")
def logical_not(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Not", b.cast(x, torch.bool))


_LOGIC = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor")}


def _register_logic(name: str, on_bool: str, on_bits: str) -> None:
    @lower(f"aten.logical_{name}.default")
    def logical(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
        return b.op(on_bool, b.cast(x, torch.bool), b.cast(y, torch.bool))

    @lower(f"aten.bitwise_{name}.Tensor", f"aten.bitwise_{name}.Scalar", f"aten.__{name}__.Tensor")
    def bitwise(b: Builder, x: ir.Value, y: Any) -> ir.Value:
        op_type = on_bool if b.out_dtype is torch.bool else on_bits
        return b.op(op_type, b.operand(x, b.out_dtype), b.operand(y, b.out_dtype))


for _name, (_on_bool, _on_bits) in _LOGIC.items():
    _register_logic(_name, _on_bool, _on_bits)


@lower("aten.bitwise_not.default")
def bitwise_not(b: Builder, x: ir.Value) -> ir.Value:
    return b.op("Not" if b.out_dtype is torch.bool else "BitwiseNot", x)


@lower(
    "aten.bitwise_left_shift.Tensor",
    "aten.bitwise_left_shift.Tensor_Scalar",
    "aten.__lshift__.Tensor",
    "aten.__lshift__.Scalar",
)
def left_shift(b: Builder, x: ir.Value, y: Any) -> ir.Value:
    return b.op("Mul", b.operand(x, b.out_dtype), _power_of_two(b, b.operand(y, torch.int64)))


@lower(
    "aten.bitwise_right_shift.Tensor",
    "aten.bitwise_right_shift.Tensor_Scalar",
    "aten.__rshift__.Tensor",
    "aten.__rshift__.Scalar",
)
def right_shift(b: Builder, x: ir.Value, y: Any) -> ir.Value:
    """Division by the power of two, down; in two halves, since the largest one is negative."""
    x = b.operand(x, b.out_dtype)
    amount = b.op("Min", b.operand(y, torch.int64), b.number(8 * b.out_dtype.itemsize - 1,
                  torch.int64))  # fmt: skip
    first = b.op("Div", amount, b.number(2, torch.int64))
    for part in (first, b.op("Sub", amount, first)):
        factor = _power_of_two(b, part)
        x = b.op("Div", b.op("Sub", x, b.op("Mod", x, factor)), factor)
    return x


def _power_of_two(b: Builder, exponent: ir.Value) -> ir.Value:
    """In the result's type; powers of the small ones do not exist."""
    return b.cast(b.op("Pow", b.number(2, torch.int64), exponent), b.out_dtype)


@lower("aten.isnan.default")
def isnan(b: Builder, x: ir.Value) -> ir.Value:
    if not is_float(x):
        return b.op("Not", b.op("Equal", x, x, dtype=torch.bool))
    return b.op("IsNaN", x, dtype=torch.bool)


@lower("aten.isinf.default")
def isinf(b: Builder, x: ir.Value) -> ir.Value:
    if not is_float(x):
        return b.op("Not", b.op("Equal", x, x, dtype=torch.bool))
    return b.op("IsInf", x, dtype=torch.bool)


@lower("aten.isfinite.default")
def isfinite(b: Builder, x: ir.Value) -> ir.Value:
    # x - x is 0 for a finite number and NaN otherwise.
    return b.op("Equal", b.op("Sub", x, x), b.op("Sub", x, x), dtype=torch.bool)
