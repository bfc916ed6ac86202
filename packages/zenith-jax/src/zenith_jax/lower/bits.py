"""Comparisons, logic, bits and element types."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from zenith.ir.bits import bitcast
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dtypes import is_float, is_key, is_signed
from zenith_jax.lower.registry import lower

__all__ = ["bits_of", "convert", "same"]

BOOL = ir.DataType.BOOL
_COMPARE = {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}
_UNSIGNED = {
    8: ir.DataType.UINT8,
    16: ir.DataType.UINT16,
    32: ir.DataType.UINT32,
    64: ir.DataType.UINT64,
}


def _compare(name: str, op_type: str) -> None:
    @lower(name, writes=op_type)
    def handler(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
        if x.dtype == BOOL and op_type != "Equal":
            x, y = b.cast(x, ir.DataType.INT32), b.cast(y, ir.DataType.INT32)
        return b.pointwise(op_type, x, y, dtype=BOOL)


for _name, _op in _COMPARE.items():
    _compare(_name, _op)


def _total(name: str, op_type: str) -> None:
    """Comparisons of a total order, as sorts use it: NaN comes last."""

    @lower(name, writes=f"{op_type}, IsNaN")
    def handler(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
        plain = b.pointwise(op_type, x, y, dtype=BOOL)
        if not is_float(x):
            return plain
        last, first = (b.pointwise("IsNaN", v, dtype=BOOL) for v in (y, x))
        if name == "eq_to":
            last = b.pointwise("And", last, first)
        elif name == "lt_to":
            last = b.pointwise("And", last, b.pointwise("Not", first))
        return b.pointwise("Or", plain, last)


_total("eq_to", "Equal")
_total("le_to", "LessOrEqual")
_total("lt_to", "Less")


@lower("ne", writes="Equal, Not, Xor for booleans")
def ne(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if x.dtype == BOOL:
        return b.pointwise("Xor", x, y)
    return b.pointwise("Not", b.pointwise("Equal", x, y, dtype=BOOL))


def _logic(name: str, for_bool: str, for_bits: str) -> None:
    @lower(name, writes=f"{for_bool} or {for_bits}")
    def handler(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
        if for_bool == "And":
            for one, other in ((x, y), (y, x)):
                number = b.constant_of(b.unexpanded(one))
                if number is not None and number.dtype == bool and number.all():
                    return b.expand(other, b.out_shape)
        return b.pointwise(for_bool if x.dtype == BOOL else for_bits, x, y)


_logic("and", "And", "BitwiseAnd")
_logic("or", "Or", "BitwiseOr")
_logic("xor", "Xor", "BitwiseXor")


@lower("not", writes="Not or BitwiseNot")
def not_(b: Builder, x: ir.Value) -> ir.Value:
    return b.pointwise("Not" if x.dtype == BOOL else "BitwiseNot", x)


@lower("is_finite", writes="IsInf, IsNaN")
def is_finite(b: Builder, x: ir.Value) -> ir.Value:
    infinite = b.pointwise("IsInf", x, dtype=BOOL)
    either = b.pointwise("Or", infinite, b.pointwise("IsNaN", x, dtype=BOOL))
    return b.pointwise("Not", either)


def bits_of(value: ir.Value) -> int:
    """Bits of one element."""
    assert value.dtype is not None
    return int(value.dtype.itemsize * 8)


def _shift(b: Builder, x: ir.Value, by: ir.Value, direction: str) -> ir.Value:
    """A logical shift: by as many places as there are bits, or more, nothing is left."""
    width, kind = bits_of(x), x.dtype
    unsigned = _UNSIGNED[width]
    bits = b.pointwise("BitCast", x, dtype=unsigned, to=unsigned) if is_signed(x) else x
    amount = b.pointwise("BitCast", by, dtype=unsigned, to=unsigned) if is_signed(by) else by
    number = b.constant_of(by)
    if number is not None and number.ndim == 0:
        if not 0 <= int(number) < width:
            return b.full(0, kind, b.out_shape)
        amount = b.number(int(number), unsigned)
        result = b.pointwise("BitShift", bits, amount, direction=direction)
    else:
        fits = b.pointwise("Less", amount, b.number(width, unsigned), dtype=BOOL)
        zero = b.number(0, unsigned)
        amount = b.pointwise("Where", fits, amount, zero, dtype=unsigned)
        result = b.pointwise("BitShift", bits, amount, direction=direction)
        result = b.pointwise("Where", fits, result, zero, dtype=unsigned)
    if result.dtype != kind:
        result = b.pointwise("BitCast", result, dtype=kind, to=kind)
    return b.expand(result, b.out_shape)


@lower("shift_left", writes="BitShift")
def shift_left(b: Builder, x: ir.Value, by: ir.Value) -> ir.Value:
    return _shift(b, x, by, "LEFT")


@lower("shift_right_logical", writes="BitShift")
def shift_right_logical(b: Builder, x: ir.Value, by: ir.Value) -> ir.Value:
    return _shift(b, x, by, "RIGHT")


@lower("shift_right_arithmetic", writes="BitShift, BitwiseNot, Where")
def shift_right_arithmetic(b: Builder, x: ir.Value, by: ir.Value) -> ir.Value:
    if not is_signed(x):
        return _shift(b, x, by, "RIGHT")
    # of a negative number, what comes in from the left are ones: not(not(x) >> by)
    below = b.pointwise("Less", x, b.number(0, x.dtype), dtype=BOOL)
    positive = b.pointwise("Where", below, b.pointwise("BitwiseNot", x), x, dtype=x.dtype)
    moved = _shift(b, positive, by, "RIGHT")
    back = b.pointwise("BitwiseNot", moved)
    return b.pointwise("Where", below, back, moved, dtype=x.dtype)


@lower("population_count", writes="BitShift, BitwiseAnd, Add")
def population_count(b: Builder, x: ir.Value) -> ir.Value:
    width = bits_of(x)
    unsigned = _UNSIGNED[width]
    bits = b.pointwise("BitCast", x, dtype=unsigned, to=unsigned) if is_signed(x) else x
    step = 1
    while step < width:  # neighbours' counts are added in fields of twice the size
        mask = b.number(sum(((1 << step) - 1) << at for at in range(0, width, 2 * step)), unsigned)
        high = b.pointwise("BitShift", bits, b.number(step, unsigned), direction="RIGHT")
        low = b.pointwise("BitwiseAnd", bits, mask)
        bits = b.pointwise("Add", low, b.pointwise("BitwiseAnd", high, mask))
        step *= 2
    return b.cast(bits, x.dtype)


@lower("clz", writes="BitShift, BitwiseOr, BitwiseAnd, Add")
def clz(b: Builder, x: ir.Value) -> ir.Value:
    width = bits_of(x)
    unsigned = _UNSIGNED[width]
    bits = b.pointwise("BitCast", x, dtype=unsigned, to=unsigned) if is_signed(x) else x
    step = 1
    while step < width:  # every bit below the highest one becomes a one
        moved = b.pointwise("BitShift", bits, b.number(step, unsigned), direction="RIGHT")
        bits = b.pointwise("BitwiseOr", bits, moved)
        step *= 2
    return b.cast(population_count(b, b.pointwise("BitwiseNot", bits)), x.dtype)


@lower("mulhi", writes="Mul, BitShift")
def mulhi(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if bits_of(x) > 32:
        raise NotSupportedError(f"of {x.dtype}")
    wide = ir.DataType.INT64 if is_signed(x) else ir.DataType.UINT64
    places = ir.DataType.UINT64
    full = b.pointwise("Mul", b.cast(x, wide), b.cast(y, wide))
    if wide != places:
        full = b.pointwise("BitCast", full, dtype=places, to=places)
    high = b.pointwise("BitShift", full, b.number(bits_of(x), places), direction="RIGHT")
    unsigned = _UNSIGNED[bits_of(x)]
    low = b.cast(b.pointwise("BitwiseAnd", high, b.number(2 ** bits_of(x) - 1, places)), unsigned)
    return low if unsigned == x.dtype else b.pointwise("BitCast", low, dtype=x.dtype, to=x.dtype)


# --- element types --------------------------------------------------------------------------------


@lower("convert_element_type", writes="Cast")
def convert_element_type(b: Builder, x: ir.Value, *, new_dtype: Any) -> ir.Value:
    if is_key(new_dtype):
        return x
    size = b.known_size(x)
    result = convert(b, x, b.out_dtype)
    return b.note_size(result, size) if size is not None and not b.rank_of(x) else result


def convert(b: Builder, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`x` as `dtype`."""
    if x.dtype == dtype:
        return x
    if x.const_value is not None and not b.rank_of(x):
        return b.cast(x, dtype)
    unsigned = not (is_float(x) or is_signed(x) or x.dtype == BOOL)
    if unsigned and dtype in _UNSIGNED.values() and dtype.itemsize < bits_of(x) // 8:
        mask = b.number(2 ** (int(dtype.itemsize) * 8) - 1, x.dtype)
        x = b.pointwise("BitwiseAnd", x, mask)
    return b.pointwise("Cast", x, dtype=dtype, to=dtype)


@lower("bitcast_convert_type", writes="BitCast, BitShift between types of different size")
def bitcast_convert_type(b: Builder, x: ir.Value, *, new_dtype: Any) -> ir.Value:
    return bitcast(b, x, b.out_dtype)


@lower("reduce_precision", writes="Cast")
def reduce_precision(
    b: Builder, x: ir.Value, *, exponent_bits: int, mantissa_bits: int
) -> ir.Value:
    narrow = {
        (8, 7): ir.DataType.BFLOAT16,
        (5, 10): ir.DataType.FLOAT16,
        (8, 23): ir.DataType.FLOAT,
        (11, 52): ir.DataType.DOUBLE,
    }.get((exponent_bits, mantissa_bits))
    if narrow is None:
        raise NotSupportedError(f"to {exponent_bits} exponent and {mantissa_bits} mantissa bits")
    if narrow.itemsize >= x.dtype.itemsize if x.dtype else True:
        return x
    return b.cast(b.cast(x, narrow), x.dtype)


@lower(
    "copy",
    "device_put",
    "name",
    "optimization_barrier",
    "pin",
    "pvary",
    "sharding_constraint",
    "stop_gradient",
    "unpin",
    "layout_constraint",
    writes="nothing: the value itself",
)
def same(b: Builder, *values: ir.Value, **how: Any) -> list[ir.Value]:
    return list(values)
