"""Reductions, scans along an axis, and the order of elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from zenith_jax.builder import Builder, NotSupportedError
from zenith_jax.dtypes import is_float, is_signed
from zenith_jax.lower.bits import convert
from zenith_jax.lower.registry import lower

__all__ = ["greatest", "least", "widened"]

BOOL, INT32, INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64
_WIDE = {INT32, INT64, ir.DataType.UINT32, ir.DataType.UINT64}


def widened(b: Builder, x: ir.Value) -> ir.Value:
    """Integers as one of the types that sums and products take."""
    if is_float(x) or x.dtype in _WIDE:
        return x
    return convert(b, x, INT32 if is_signed(x) or x.dtype == BOOL else ir.DataType.UINT32)


def _reduce(name: str, op_type: str, writes: str = "") -> None:
    @lower(name, writes=writes or op_type)
    def handler(b: Builder, x: ir.Value, *, axes: Any) -> ir.Value:
        if not axes:
            return x
        wide = widened(b, x)
        result = b.reduce(op_type, wide, [int(a) for a in axes], False)
        if x.dtype == BOOL:
            return convert(b, result, BOOL)
        return convert(b, result, b.out_dtype)


_reduce("reduce_sum", "ReduceSum")
_reduce("reduce_prod", "ReduceProd")
_reduce("reduce_max", "ReduceMax")
_reduce("reduce_min", "ReduceMin")


def _reduce_bool(name: str, op_type: str) -> None:
    @lower(name, writes=f"{op_type} of booleans")
    def handler(b: Builder, x: ir.Value, *, axes: Any) -> ir.Value:
        if x.dtype != BOOL:
            raise NotSupportedError(f"of {x.dtype}")
        if not axes:
            return x
        found = b.reduce(op_type, convert(b, x, INT32), [int(a) for a in axes], False)
        return convert(b, found, BOOL)


_reduce_bool("reduce_or", "ReduceMax")
_reduce_bool("reduce_and", "ReduceMin")


@lower("reduce_xor", writes="ReduceSum of booleans")
def reduce_xor(b: Builder, x: ir.Value, *, axes: Any) -> ir.Value:
    if x.dtype != BOOL:
        raise NotSupportedError(f"of {x.dtype}")
    total = b.reduce("ReduceSum", convert(b, x, INT32), [int(a) for a in axes], False)
    return convert(b, b.pointwise("BitwiseAnd", total, b.number(1, INT32)), BOOL)


def least(dtype: ir.DataType | None) -> Any:
    """The smallest value of a type."""
    assert dtype is not None
    kind = dtype.numpy()
    if dtype == BOOL:
        return False
    return -np.inf if kind.kind not in "iu" else np.iinfo(kind).min


def greatest(dtype: ir.DataType | None) -> Any:
    """The largest value of a type."""
    assert dtype is not None
    kind = dtype.numpy()
    return np.inf if kind.kind not in "iu" else np.iinfo(kind).max


def _arg(name: str, op_type: str) -> None:
    @lower(name, writes=op_type)
    def handler(b: Builder, x: ir.Value, *, axes: Any, index_dtype: Any) -> ir.Value:
        if len(axes) != 1:
            raise NotSupportedError("over several axes")
        axis = int(axes[0])
        wide = convert(b, x, INT32) if x.dtype == BOOL else x
        shape = [d for a, d in enumerate(b.shape_of(x)) if a != axis]
        found = b.op(op_type, wide, dtype=INT64, shape=shape, axis=axis, keepdims=0)
        if not is_float(x):
            return convert(b, found, b.out_dtype)
        # the first NaN, where there is one
        unknown = convert(b, b.pointwise("IsNaN", x, dtype=BOOL), INT32)
        first = b.op("ArgMax", unknown, dtype=INT64, shape=shape, axis=axis, keepdims=0)
        some = convert(b, b.reduce("ReduceMax", unknown, [axis], False), BOOL)
        chosen = b.pointwise("Where", some, first, found, dtype=INT64)
        return convert(b, chosen, b.out_dtype)


_arg("argmax", "ArgMax")
_arg("argmin", "ArgMin")


# --- along an axis --------------------------------------------------------------------------------


def _cumulative(name: str, op_type: str) -> None:
    @lower(name, writes=op_type)
    def handler(b: Builder, x: ir.Value, *, axis: int, reverse: bool) -> ir.Value:
        wide = widened(b, x)
        where = b.number(axis, INT64)
        result = b.op(op_type, wide, where, shape=b.shape_of(x), exclusive=0, reverse=int(reverse))
        return convert(b, result, b.out_dtype)


_cumulative("cumsum", "CumSum")
_cumulative("cumprod", "CumProd")


def _running(name: str, writes: str, combine: Any) -> None:
    """Prefixes of 1, 2, 4, ... elements: as many steps as the length has binary digits."""

    @lower(name, writes=f"{writes}; Scan along a symbolic size")
    def handler(b: Builder, x: ir.Value, *, axis: int, reverse: bool) -> ir.Value:
        length = b.shape_of(x)[axis]
        if not isinstance(length, int):
            return _one_by_one(b, x, axis, reverse, combine)
        step = 1
        while step < length:
            head, tail = (0, length - step), (step, length)
            if reverse:
                head, tail = tail, head
            kept = b.slice(x, axis, *((length - step, length) if reverse else (0, step)))
            both = combine(b, b.slice(x, axis, *tail), b.slice(x, axis, *head))
            x = b.concat([both, kept] if reverse else [kept, both], axis)
            step *= 2
        return x


def _one_by_one(b: Builder, x: ir.Value, axis: int, reverse: bool, combine: Any) -> ir.Value:
    """The same along an axis of symbolic size: a loop over its elements."""
    shape = [d for a, d in enumerate(b.shape_of(x)) if a != axis]
    assert x.dtype is not None
    fact = (x.dtype, tuple(shape))

    def write(inputs: list[ir.Value]) -> list[ir.Value]:
        found = combine(b, *inputs)
        return [found, found]

    start = b.full(least(x.dtype), x.dtype, shape)
    if b.target == "cummin":
        start = b.full(greatest(x.dtype), x.dtype, shape)
    how: dict[str, Any] = {"scan_input_axes": [axis], "scan_output_axes": [axis]}
    if reverse:
        how |= {"scan_input_directions": [1], "scan_output_directions": [1]}
    body = b.body("running_body", [fact, fact], write)
    results = [fact, (x.dtype, b.shape_of(x))]
    return b.ops("Scan", start, x, results=results, body=body, num_scan_inputs=1, **how)[1]


def _logaddexp(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    top = b.pointwise("Max", x, y)
    apart = b.pointwise("Sub", b.pointwise("Min", x, y), top)
    equal = b.pointwise("Equal", x, y, dtype=BOOL)  # of two infinities the difference is NaN
    apart = b.pointwise("Where", equal, b.number(0, x.dtype), apart, dtype=x.dtype)
    small = b.pointwise("Exp", apart)
    return b.pointwise(
        "Add", top, b.pointwise("Log", b.pointwise("Add", small, b.number(1, x.dtype)))
    )


_running("cummax", "Max, Slice, Concat", lambda b, x, y: b.pointwise("Max", x, y))
_running("cummin", "Min, Slice, Concat", lambda b, x, y: b.pointwise("Min", x, y))
_running("cumlogsumexp", "Exp, Log, Slice, Concat", _logaddexp)


# --- order ----------------------------------------------------------------------------------------


@lower("sort", writes="TopK, GatherElements")
def sort(
    b: Builder, *operands: ir.Value, dimension: int, is_stable: bool, num_keys: int
) -> list[ir.Value]:
    order: ir.Value | None = None
    for key in reversed(operands[:num_keys]):
        current = key if order is None else _take(b, key, order, dimension)
        found = _ascending(b, current, dimension)
        order = found if order is None else _take(b, order, found, dimension)
    assert order is not None
    return [_take(b, operand, order, dimension) for operand in operands]


def _ascending(b: Builder, key: ir.Value, axis: int) -> ir.Value:
    """Stable order, NaN last: TopK gives equal elements by their place."""
    if key.dtype == BOOL:
        key = convert(b, key, INT32)
    if is_float(key):
        # TopK does not say where NaN goes; one more pass puts them last.
        unknown = convert(b, b.pointwise("IsNaN", key, dtype=BOOL), INT32)
        infinity = b.number(np.inf, key.dtype)
        tame = b.pointwise("Where", b.cast(unknown, BOOL), infinity, key, dtype=key.dtype)
        first = _top(b, tame, axis)
        second = _top(b, _take(b, unknown, first, axis), axis)
        return _take(b, first, second, axis)
    return _top(b, key, axis)


def _top(b: Builder, key: ir.Value, axis: int) -> ir.Value:
    shape = b.shape_of(key)
    results = [(key.dtype, shape), (INT64, shape)]
    count = b.size_vector([shape[axis]])
    return b.ops("TopK", key, count, results=results, axis=axis, largest=0, sorted=1)[1]


def _take(b: Builder, value: ir.Value, order: ir.Value, axis: int) -> ir.Value:
    return b.op("GatherElements", value, order, shape=b.shape_of(order), axis=axis)


@lower("top_k", writes="TopK")
def top_k(b: Builder, x: ir.Value, *, k: int, axis: int = -1, **how: Any) -> list[ir.Value]:
    axis = axis % b.rank_of(x)
    results = [(x.dtype, b.out_shapes[0]), (INT64, b.out_shapes[1])]
    values, places = b.ops(
        "TopK", x, b.size_vector([k]), results=results, axis=axis, largest=1, sorted=1
    )
    return [values, convert(b, places, INT32)]


@lower("reduce", writes="one of the Reduce* operators")
def reduce(b: Builder, *operands: ir.Value, jaxpr: Any, dimensions: Any, **how: Any) -> ir.Value:
    """Only of one array, by a function that is one known primitive."""
    kinds = {"add": "ReduceSum", "mul": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    names = [eqn.primitive.name for eqn in inner.eqns]
    if len(operands) != 2 or len(names) != 1 or names[0] not in kinds:
        raise NotSupportedError(f"by {', '.join(names) or 'no operation'}")
    x, start = operands
    if x.dtype == BOOL:
        raise NotSupportedError("of booleans")
    axes = [int(d) for d in dimensions]
    reduced = convert(b, b.reduce(kinds[names[0]], widened(b, x), axes, False), b.out_dtype)
    combine = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}[names[0]]
    return b.pointwise(combine, reduced, start)
