"""Arithmetic, one element at a time. Operands have one shape, or are numbers of rank 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.dims import product
from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dtypes import is_float, is_signed
from zenith_jax.lower.registry import lower

__all__: list[str] = []

BOOL, INT32, INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64
_UNARY = {
    "acos": "Acos",
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}


def _unary(name: str, op_type: str) -> None:
    @lower(name, writes=op_type)
    def handler(b: Builder, x: ir.Value) -> ir.Value:
        return b.pointwise(op_type, x)


for _name, _op in _UNARY.items():
    _unary(_name, _op)


@lower("abs", writes="Abs")
def abs_(b: Builder, x: ir.Value) -> ir.Value:
    return b.pointwise("Abs", x) if is_float(x) or is_signed(x) else x


@lower("neg", writes="Neg")
def neg(b: Builder, x: ir.Value) -> ir.Value:
    if is_float(x) or is_signed(x):
        return b.pointwise("Neg", x)
    return b.pointwise("Sub", b.number(0, x.dtype), x)


@lower("sign", writes="Sign")
def sign(b: Builder, x: ir.Value) -> ir.Value:
    if not is_float(x):
        return b.pointwise("Sign", x)
    not_a_number = b.pointwise("IsNaN", x, dtype=BOOL)
    return b.pointwise("Where", not_a_number, x, b.pointwise("Sign", x), dtype=x.dtype)


@lower("round", writes="Round, or Floor and Ceil")
def round_(b: Builder, x: ir.Value, *, rounding_method: Any) -> ir.Value:
    if rounding_method.name == "TO_NEAREST_EVEN":
        return b.pointwise("Round", x)
    # Away from zero: adding half is wrong just below it, so compare what was cut off.
    size = b.pointwise("Abs", x)
    whole = b.pointwise("Floor", size)
    rest = b.pointwise("Sub", size, whole)
    up = b.pointwise("GreaterOrEqual", rest, b.number(0.5, x.dtype), dtype=BOOL)
    more = b.pointwise("Add", whole, b.number(1, x.dtype))
    rounded = b.pointwise("Where", up, more, whole, dtype=x.dtype)
    return b.pointwise("Mul", b.pointwise("Sign", x), rounded)


@lower("rsqrt", writes="Sqrt, Reciprocal")
def rsqrt(b: Builder, x: ir.Value) -> ir.Value:
    return b.pointwise("Reciprocal", b.pointwise("Sqrt", x))


@lower("cbrt", writes="Sign, Abs, Pow, Mul")
def cbrt(b: Builder, x: ir.Value) -> ir.Value:
    root = b.pointwise("Pow", b.pointwise("Abs", x), b.number(1 / 3, x.dtype))
    # One step of Newton's method: a third is not a number of any float type.
    square = b.pointwise("Mul", root, root)
    three = b.number(3, x.dtype)
    cubed = b.pointwise("Mul", square, root)
    excess = b.pointwise("Sub", cubed, b.pointwise("Abs", x))
    step = b.pointwise("Div", excess, b.pointwise("Mul", three, square))
    better = b.pointwise("Sub", root, step)
    fine = b.pointwise("IsInf", step, dtype=BOOL)
    odd = b.pointwise("Or", fine, b.pointwise("IsNaN", step, dtype=BOOL), dtype=BOOL)
    magnitude = b.pointwise("Where", odd, root, better, dtype=x.dtype)
    return b.pointwise("Mul", b.pointwise("Sign", x), magnitude)


@lower("exp2", writes="Pow")
def exp2(b: Builder, x: ir.Value) -> ir.Value:
    return b.pointwise("Pow", b.number(2, x.dtype), x)


@lower("expm1", writes="Tanh, Exp")
def expm1(b: Builder, x: ir.Value) -> ir.Value:
    # exp(x) - 1 loses its digits near 0; tanh(x / 2) (exp(x) + 1) does not, and never overflows
    # before the result does.
    half = b.pointwise("Tanh", b.pointwise("Mul", x, b.number(0.5, x.dtype)))
    more = b.pointwise("Add", b.pointwise("Exp", x), b.number(1, x.dtype))
    return b.pointwise("Mul", half, more)


@lower("log1p", writes="Log, Atanh, Where")
def log1p(b: Builder, x: ir.Value) -> ir.Value:
    # 2 atanh(x / (2 + x)) keeps the digits that 1 + x drops near 0.
    ratio = b.pointwise("Div", x, b.pointwise("Add", x, b.number(2, x.dtype)))
    near = b.pointwise("Mul", b.pointwise("Atanh", ratio), b.number(2, x.dtype))
    far = b.pointwise("Log", b.pointwise("Add", x, b.number(1, x.dtype)))
    small = b.pointwise("Less", b.pointwise("Abs", x), b.number(0.5, x.dtype), dtype=BOOL)
    return b.pointwise("Where", small, near, far, dtype=x.dtype)


@lower("square", writes="Mul")
def square(b: Builder, x: ir.Value) -> ir.Value:
    return b.pointwise("Mul", x, x)


@lower("integer_pow", writes="Mul, Pow or Reciprocal")
def integer_pow(b: Builder, x: ir.Value, *, y: int) -> ir.Value:
    if y == 0:
        return b.expand(b.number(1, x.dtype), b.shape_of(x))
    if is_float(x) and abs(y) > 4:
        # repeated products, as JAX: Pow would go by way of logarithms
        result = _power(b, x, abs(y))
    elif abs(y) == 3 and is_float(x):
        result = b.pointwise("Pow", x, b.number(3, x.dtype))
    else:
        result = _power(b, x, abs(y))
    if y > 0:
        return result
    return b.pointwise("Div", b.number(1, x.dtype), result)


def _power(b: Builder, x: ir.Value, exponent: int) -> ir.Value:
    """x to a positive power by squaring."""
    result: ir.Value | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else b.pointwise("Mul", result, x)
        exponent >>= 1
        if exponent:
            x = b.pointwise("Mul", x, x)
    assert result is not None
    return result


# --- two operands ---------------------------------------------------------------------------------


@lower("add", "add_any", writes="Add, Or for booleans")
def add(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if x.dtype == BOOL:
        return b.pointwise("Or", x, y)
    for one, other in ((x, y), (y, x)):
        if _is_number(b, one, 0) and is_float(other) and b.shape_of(other) == b.out_shape:
            constant = b.constant_of(one)
            if constant is not None and np.signbit(constant):  # x + -0.0 is x; x + 0.0 is not
                return other
    return b.pointwise("Add", x, y)


@lower("sub", writes="Sub")
def sub(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.pointwise("Sub", x, y)


@lower("mul", writes="Mul, And for booleans, Gelu")
def mul(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if x.dtype == BOOL:
        return b.pointwise("And", x, y)
    for one, other in ((x, y), (y, x)):
        if _is_number(b, one, 1) and b.shape_of(other) == b.out_shape:
            return other
        gelu = _gelu(b, one, other)
        if gelu is not None:
            return gelu
    return b.pointwise("Mul", x, y)


def _gelu(b: Builder, half: ir.Value, tail: ir.Value) -> ir.Value | None:
    """0.5 x * erfc(-x / sqrt 2), which is how `jax.nn.gelu` is written."""
    argument = b.complement_of(tail)
    if argument is None:
        return None
    scaled, x = _factor(b, argument), _factor(b, half)
    if scaled is None or x is None or b.base(scaled[0])[0] is not b.base(x[0])[0]:
        return None
    if abs(x[1] - 0.5) > 1e-6 or abs(scaled[1] + np.sqrt(0.5)) > 1e-6:
        return None
    return b.pointwise("Gelu", x[0], approximate="none")


def _factor(b: Builder, value: ir.Value) -> tuple[ir.Value, float] | None:
    """(v, c) where `value` is v times the number c."""
    factor = 1.0
    for _ in range(3):
        node = value.producer()
        if node is None or node.op_type not in ("Mul", "Neg"):
            break
        inputs = [v for v in node.inputs if v is not None]
        if node.op_type == "Neg":
            value, factor = inputs[0], -factor
            continue
        numbers = [c for v in inputs if (c := b.constant_of(v)) is not None and c.size == 1]
        rest = [v for v in inputs if v.const_value is None]
        if len(numbers) != 1 or len(rest) != 1:
            break
        value, factor = rest[0], factor * float(numbers[0].reshape(()))
    return (value, factor) if factor != 1.0 else None


@lower("div", writes="Div, ReduceMean, AveragePool")
def div(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if not is_float(x):
        return b.pointwise("Div", x, y)
    if _is_number(b, y, 1) and b.shape_of(x) == b.out_shape:
        return x
    size = b.known_size(y)
    if size is not None:
        mean = _mean(b, x, size)
        if mean is not None:
            return mean
    return b.pointwise("Div", x, y)


def _mean(b: Builder, x: ir.Value, size: Any) -> ir.Value | None:
    """A sum divided by the number of its terms: one node, not two."""
    base, axes = b.base(x)
    node = base.producer()
    if node is None:
        return None
    pooled = b.pooled_sum(base)
    if pooled is not None and pooled[1] == size:
        return b.view(pooled[0], b.shape_of(x), axes)
    source = node.inputs[0]
    if node.op_type != "ReduceSum" or source is None:
        return None
    kept = node.attributes["keepdims"].as_int()
    before, after = b.shape_of(source), b.shape_of(base)
    which = [a for a, d in enumerate(before) if not kept or after[a] != d]
    if not kept and after:
        return None
    if product(before[a] for a in which) != size:
        return None
    inputs = [v for v in node.inputs[1:] if v is not None]
    mean = b.op("ReduceMean", source, *inputs, shape=after, keepdims=kept)
    return b.view(mean, b.shape_of(x), axes)


@lower("rem", writes="Mod")
def rem(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.pointwise("Mod", x, y, fmod=1)


@lower("max", writes="Max, Relu, Or for booleans")
def max_(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if x.dtype == BOOL:
        return b.pointwise("Or", x, y)
    for one, other in ((x, y), (y, x)):
        if b.shape_of(other) != b.out_shape or not is_float(other):
            continue
        if _is_number(b, one, -np.inf):
            return other
        if _is_number(b, one, 0) and b.rank_of(other):
            return b.pointwise("Relu", other)
    return b.pointwise("Max", x, y)


@lower("min", writes="Min, And for booleans")
def min_(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.pointwise("And" if x.dtype == BOOL else "Min", x, y)


@lower("pow", writes="Pow")
def pow_(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.pointwise("Pow", x, y, dtype=x.dtype)


@lower("atan2", writes="Atan, Where")
def atan2(b: Builder, y: ir.Value, x: ir.Value) -> ir.Value:
    kind = x.dtype
    zero, pi = b.number(0, kind), b.number(np.pi, kind)
    angle = b.pointwise("Atan", b.pointwise("Div", y, x))
    # 0/0 and inf/inf have angles too: those of the signs alone
    one = b.number(1, kind)
    both = b.pointwise(
        "And",
        b.pointwise("IsInf", x, dtype=BOOL),
        b.pointwise("IsInf", y, dtype=BOOL),
        dtype=BOOL,
    )
    corner = b.pointwise("Mul", _signed(b, y, one), _signed(b, x, b.number(np.pi / 4, kind)))
    angle = b.pointwise("Where", both, corner, angle, dtype=kind)
    flat = b.pointwise("Equal", y, zero, dtype=BOOL)
    angle = b.pointwise("Where", flat, y, angle, dtype=kind)
    left = b.pointwise("Less", _signed(b, x, one), zero, dtype=BOOL)
    turn = b.pointwise("Where", left, _signed(b, y, pi), zero, dtype=kind)
    result = b.pointwise("Add", angle, turn)
    unknown = b.pointwise("IsNaN", b.pointwise("Add", x, y), dtype=BOOL)
    opposed = b.pointwise("And", unknown, b.pointwise("Not", both, dtype=BOOL), dtype=BOOL)
    return b.pointwise("Where", opposed, b.pointwise("Add", x, y), result, dtype=kind)


def _signed(b: Builder, like: ir.Value, magnitude: ir.Value) -> ir.Value:
    """`magnitude` with the sign of `like`, also of -0.0."""
    kind = like.dtype
    zero = b.number(0, kind)
    # 1 / -0.0 is -inf, which tells the sign of zero
    key = b.pointwise("Where", b.pointwise("Equal", like, zero, dtype=BOOL),
                      b.pointwise("Reciprocal", like), like, dtype=kind)  # fmt: skip
    below = b.pointwise("Less", key, zero, dtype=BOOL)
    return b.pointwise("Where", below, b.pointwise("Neg", magnitude), magnitude, dtype=kind)


# --- selection ------------------------------------------------------------------------------------


@lower("clamp", writes="Max, Min")
def clamp(b: Builder, low: ir.Value, x: ir.Value, high: ir.Value) -> ir.Value:
    return b.pointwise("Min", b.pointwise("Max", x, low), high)


@lower("select_n", writes="Where")
def select_n(b: Builder, which: ir.Value, *cases: ir.Value) -> ir.Value:
    if len(cases) == 1:
        return cases[0]
    if which.dtype == BOOL:
        result = b.pointwise("Where", which, cases[1], cases[0], dtype=cases[0].dtype)
    else:
        result = cases[-1]
        for index in reversed(range(len(cases) - 1)):
            here = b.pointwise("LessOrEqual", which, b.number(index, which.dtype), dtype=BOOL)
            result = b.pointwise("Where", here, cases[index], result, dtype=result.dtype)
    return b.expand(result, b.out_shape)


@lower("nextafter", writes="BitCast")
def nextafter(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    kinds = {ir.DataType.FLOAT: INT32, ir.DataType.DOUBLE: INT64}
    if x.dtype not in kinds:
        raise NotSupportedError(f"of {x.dtype}")
    kind, floats = kinds[x.dtype], x.dtype
    zero = b.number(0, floats)
    bits = b.pointwise("BitCast", x, dtype=kind, to=kind)
    grows = b.pointwise("Equal", b.pointwise("Less", x, zero, dtype=BOOL),
                        b.pointwise("Less", y, x, dtype=BOOL), dtype=BOOL)  # fmt: skip
    step = b.pointwise("Where", grows, b.number(1, kind), b.number(-1, kind), dtype=kind)
    moved = b.pointwise("BitCast", b.pointwise("Add", bits, step), dtype=floats, to=floats)
    least = np.finfo(floats.numpy()).smallest_subnormal
    from_zero = b.pointwise("Mul", b.pointwise("Sign", y), b.number(least, floats))
    at_zero = b.pointwise("Equal", x, zero, dtype=BOOL)
    moved = b.pointwise("Where", at_zero, from_zero, moved, dtype=floats)
    same = b.pointwise("Equal", x, y, dtype=BOOL)
    moved = b.pointwise("Where", same, y, moved, dtype=floats)
    unknown = b.pointwise(
        "Or", b.pointwise("IsNaN", x, dtype=BOOL), b.pointwise("IsNaN", y, dtype=BOOL)
    )
    return b.pointwise("Where", unknown, b.pointwise("Add", x, y), moved, dtype=floats)


def _is_number(b: Builder, value: ir.Value, number: float) -> bool:
    """Whether every element of a constant is the number."""
    if value.const_value is None or b.rank_of(value) > 0:
        return False
    constant = b.constant_of(value)
    return constant is not None and bool(constant == number)
