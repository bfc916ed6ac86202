"""Rows for reductions along axes, ArgMax, ArgMin and CumSum: kernels take any strides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.pointwise_program import Program, Value
from zenith.backends.cpu.operand import Operand
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["REDUCTIONS", "SPECS"]

# ONNX operator -> number in cpp/cpu/kernels/reduce/reduce.cpp.
REDUCTIONS = {
    "ReduceSum": 0,
    "ReduceMean": 1,
    "ReduceMax": 2,
    "ReduceMin": 3,
    "ReduceProd": 4,
    "ReduceL1": 5,
    "ReduceL2": 6,
    "ReduceSumSquare": 7,
    "ReduceLogSum": 8,
}
_F32 = frozenset({"float32"})
_NUMBERS = frozenset({"float32", "int64", "int32"})
_ALL = _NUMBERS | {"bool", "uint8"}
_DTYPES = {"ReduceSum": _NUMBERS, "ReduceProd": _NUMBERS, "ReduceMax": _ALL, "ReduceMin": _ALL}


def _axes(op: OpView) -> list[int] | None:
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


def _cost(op: OpView) -> Cost:
    x = op.inputs[0]
    assert x is not None
    return Cost(flops=x.size, bytes=x.nbytes + op.outputs[0].nbytes)


def _emit_reduce(e: Emit) -> None:
    x, axes = e.operand(0), _axes(e.op)
    assert x is not None and axes is not None
    op = REDUCTIONS[e.op.type]
    if not axes and op in (0, 1, 2, 3, 4):
        e.alias(0, x)
        return
    e.step("reduce", [x], [e.output(0)], op=op, axes=axes)


def _pointwise(
    e: Emit, build: Callable[..., Value], inputs: list[Operand], output: Operand
) -> None:
    """One elementwise step; all operands f32 and of the output's shape."""
    program = Program()
    values = [program.input("float32") for _ in inputs]
    program.finish([build(program, *values)])
    constants = [e.const(v.const) for v in program.inputs if v.const is not None]
    codes, args = program.encode()
    operands = [o.expand(output.shape) for o in (*inputs, *constants)]
    e.step("pointwise", operands, [output], steps=codes, args=args)


def _emit_log_sum_exp(e: Emit) -> None:
    """max + log(sum(exp(x - max))), where an infinite max counts as 0."""
    x, axes = e.operand(0), _axes(e.op)
    assert x is not None and axes is not None
    if not axes:
        e.alias(0, x)
        return
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    largest, total = e.temp("float32", kept), e.temp("float32", kept)
    shift, powers = e.temp("float32", kept), e.temp("float32", x.shape)
    e.step("reduce", [x], [largest], op=REDUCTIONS["ReduceMax"], axes=axes)

    def finite(p: Program, m: Value) -> Value:
        infinite = p.op("isinf", m, dtype="bool", p=1.0, q=1.0)
        return p.op("where", infinite, p.number(0.0, "float32"), m)

    _pointwise(e, finite, [largest], shift)
    _pointwise(e, lambda p, v, m: p.op("exp", p.op("sub", v, m)), [x, shift], powers)
    e.step("reduce", [powers], [total], op=REDUCTIONS["ReduceSum"], axes=axes)
    output = e.output(0)
    if len(output.shape) != len(kept):
        for axis in reversed(axes):
            shift, total = shift.squeeze(axis), total.squeeze(axis)
    _pointwise(e, lambda p, m, s: p.op("add", m, p.op("log", s)), [shift, total], output)


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


def _emit_cumsum(e: Emit) -> None:
    x, axis = e.operand(0), e.op.input(1)
    assert x is not None and axis is not None and axis.const is not None
    e.step(
        "cumsum",
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
                   dtypes={0: _DTYPES.get(name, _F32)}, supports=_supports, cost=_cost)
        for name in REDUCTIONS
    ),
    KernelSpec("reduce_logsumexp", "ai.onnx:ReduceLogSumExp", _emit_log_sum_exp,
               dtypes={0: _F32}, supports=_supports, cost=_cost),
    *(
        KernelSpec(name.lower(), f"ai.onnx:{name}", _emit_arg,
                   dtypes={0: _NUMBERS | {"uint8"}}, supports=_rank_reason, cost=_cost)
        for name in ("ArgMax", "ArgMin")
    ),
    KernelSpec("cumsum", "ai.onnx:CumSum", _emit_cumsum, dtypes={0: _NUMBERS},
               supports=_cumsum_supports),
]  # fmt: skip
