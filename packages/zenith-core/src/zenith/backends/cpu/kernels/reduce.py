"""Rows for reductions along axes, ArgMax, ArgMin, CumSum and CumProd: any strides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.compose import REDUCTIONS, pointwise, reduced
from zenith.backends.cpu.kernels.pointwise_program import Program, Value
from zenith.backends.cpu.late import run_late
from zenith.backends.cpu.operand import Operand
from zenith.runtime.kernel_registry import Cost, KernelSpec, no_cost
from zenith.runtime.op_view import OpView

__all__ = ["REDUCTIONS", "SPECS", "reduced_axes"]

_FLOATS = frozenset({"float32", "float64"})
_WORDS = frozenset({"int32", "int64", "uint32", "uint64"})
_INTEGERS = _WORDS | {"int8", "uint8", "int16", "uint16"}
_NATIVE = {
    "ReduceSum": _FLOATS | _WORDS,
    "ReduceProd": _FLOATS | _WORDS,
    "ReduceSumSquare": _FLOATS | _WORDS,
    "ReduceMax": _FLOATS | _INTEGERS | {"bool"},
    "ReduceMin": _FLOATS | _INTEGERS | {"bool"},
}
_LATE = {
    **{name: _NATIVE.get(name, _FLOATS | _WORDS) for name in (*REDUCTIONS, "ReduceLogSumExp")},
    "CumSum": _FLOATS | _WORDS,
    "CumProd": _FLOATS | _WORDS,
}


def reduced_axes(op: OpView) -> list[int] | None:
    """The reduced axes, not negative; none for a plain copy. None when they are computed."""
    x = op.inputs[0]
    assert x is not None
    given = op.input(1)
    if given is None:
        axes = op.attr("axes", [])
    elif given.known is not None:
        axes = given.known
    else:
        return None
    if len(axes) == 0 and not op.attr("noop_with_empty_axes", 0):
        axes = range(x.rank)
    return sorted({int(axis) % x.rank for axis in axes})


def _supports(op: OpView) -> str | None:
    x = op.inputs[0]
    assert x is not None
    if x.rank > 8:
        return f"rank {x.rank} is above 8"
    given = op.input(1)
    if given is not None and (given.known is None or not all(_is_int(a) for a in given.known)):
        return "axes are not constant"
    return None


def _is_int(x: object) -> bool:
    return isinstance(x, int)


def _late_reason(op: OpView) -> str | None:
    """For rows that read the axes, or the rank, when the node runs."""
    x, given = op.inputs[0], op.input(1)
    assert x is not None
    ranked = x.value.shape is not None and op.outputs[0].value.shape is not None
    if ranked and (
        given is None or (given.known is not None and all(_is_int(a) for a in given.known))
    ):
        return "everything is known before it runs"
    return None


def _cost(op: OpView) -> Cost:
    x = op.inputs[0]
    assert x is not None
    return Cost(flops=x.size, bytes=x.nbytes + op.outputs[0].nbytes)


def _emit_reduce(e: Emit) -> None:
    x, axes = e.operand(0), reduced_axes(e.op)
    assert x is not None and axes is not None
    op = REDUCTIONS[e.op.type]
    if not axes and op in (0, 1, 2, 3, 4):
        e.alias(0, x)
        return
    e.step("reduce", [x], [e.output(0)], op=op, axes=axes)


def _placed(y: Operand, axes: Sequence[int], rank: int) -> Operand:
    """The output with its reduced axes, which `keepdims=0` leaves out."""
    if y.rank != rank:
        for axis in axes:
            y = y.unsqueeze(axis)
    return y


def _emit_integer_reduce(e: Emit) -> None:
    """Reductions of integers that leave the integers on the way: their sum wraps around as
    ReduceSum's does, what follows is float64, and the result is truncated."""
    x, axes = e.operand(0), reduced_axes(e.op)
    assert x is not None and axes is not None
    y = _placed(e.output(0), axes, x.rank)
    kind, dtype = e.op.type, x.dtype
    if kind == "ReduceL1":
        x = pointwise(e, lambda p, v: p.op("abs", v), [x])
    total = reduced(e, "ReduceSumSquare" if kind == "ReduceL2" else "ReduceSum", x, axes)
    if kind == "ReduceL1":
        e.copy(total, y)
    elif kind == "ReduceMean":
        one = e.const(np.ones((), dtype)).expand(x.shape)
        count = reduced(e, "ReduceSum", one, axes)
        pointwise(e, lambda p, v, n: p.op("div", v, n), [total, count], y)
    else:
        name = "sqrt" if kind == "ReduceL2" else "log"
        pointwise(e, lambda p, v: p.cast(p.op(name, p.cast(v, "float64")), dtype), [total], y)


def _emit_log_sum_exp(e: Emit) -> None:
    """max + log(sum(exp(x - max))), where an infinite max counts as 0. Integers as float64."""
    x, axes = e.operand(0), reduced_axes(e.op)
    assert x is not None and axes is not None
    if not axes:
        e.alias(0, x)
        return
    dtype = x.dtype
    if dtype not in _FLOATS:
        x = pointwise(e, lambda p, v: p.cast(v, "float64"), [x])
    work = x.dtype

    def finite(p: Program, m: Value) -> Value:
        infinite = p.op("isinf", m, dtype="bool", p=1.0, q=1.0)
        return p.op("where", infinite, p.number(0.0, work), m)

    shift = pointwise(e, finite, [reduced(e, "ReduceMax", x, axes)])
    powers = pointwise(e, lambda p, v, m: p.op("exp", p.op("sub", v, m)), [x, shift])
    total = reduced(e, "ReduceSum", powers, axes)
    y = _placed(e.output(0), axes, x.rank)
    pointwise(e, lambda p, m, s: p.cast(p.op("add", m, p.op("log", s)), dtype), [shift, total], y)


def _rank_reason(op: OpView) -> str | None:
    x = op.inputs[0]
    assert x is not None
    return f"rank {x.rank} is above 8" if x.rank > 8 else None


def _emit_arg(e: Emit) -> None:
    x = e.operand(0)
    assert x is not None
    e.step(
        "arg_reduce",
        [x],
        [e.output(0)],
        axis=e.op.attr("axis", 0) % x.rank,
        largest=int(e.op.type == "ArgMax"),
        last=e.op.attr("select_last_index", 0),
    )


def _cumsum_supports(op: OpView) -> str | None:
    axis = op.input(1)
    if axis is None or axis.const is None or not np.issubdtype(axis.const.dtype, np.integer):
        return "axis is not constant"
    return _rank_reason(op)


def _emit_cumulative(e: Emit) -> None:
    x, axis = e.operand(0), e.op.input(1)
    assert x is not None and axis is not None and axis.const is not None
    e.step(
        e.op.type.lower(),
        [x],
        [e.output(0)],
        axis=int(axis.const.ravel()[0]) % x.rank,
        largest=0,
        last=0,
        exclusive=e.op.attr("exclusive", 0),
        reverse=e.op.attr("reverse", 0),
    )


SPECS = [
    *(
        KernelSpec(name.lower().replace("reduce", "reduce_"), f"ai.onnx:{name}", _emit_reduce,
                   dtypes={0: _NATIVE.get(name, _FLOATS)}, supports=_supports, cost=_cost)
        for name in REDUCTIONS
    ),
    *(
        KernelSpec(f"reduce_{name.lower()}_integer", f"ai.onnx:Reduce{name}", _emit_integer_reduce,
                   dtypes={0: _WORDS}, supports=_supports, cost=_cost)
        for name in ("Mean", "L1", "L2", "LogSum")
    ),
    KernelSpec("reduce_logsumexp", "ai.onnx:ReduceLogSumExp", _emit_log_sum_exp,
               dtypes={0: _FLOATS | _WORDS}, supports=_supports, cost=_cost),
    *(
        KernelSpec(name.lower(), f"ai.onnx:{name}", _emit_arg,
                   dtypes={0: _FLOATS | _INTEGERS}, supports=_rank_reason, cost=_cost)
        for name in ("ArgMax", "ArgMin")
    ),
    *(
        KernelSpec(name.lower(), f"ai.onnx:{name}", _emit_cumulative, dtypes={0: _FLOATS | _WORDS},
                   supports=_cumsum_supports)
        for name in ("CumSum", "CumProd")
    ),
    *(
        KernelSpec(f"{name.lower()}_late", f"ai.onnx:{name}", run_late(1), dtypes={0: dtypes},
                   supports=_late_reason, cost=no_cost, call=True)
        for name, dtypes in _LATE.items()
    ),
]  # fmt: skip
