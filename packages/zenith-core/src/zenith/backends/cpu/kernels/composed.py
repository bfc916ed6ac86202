"""Rows that are several steps each: normalisations and softmax of what the fused kernels leave.

Everything is computed in the dtype of the data, so float64 stays float64. Reductions and
elementwise programs do the work; the rows of `norm` and `softmax` come first where they apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.compose import arg_reduce, bits_as, pointwise, reduced
from zenith.backends.cpu.kernels.pointwise_program import Program, Value
from zenith.backends.cpu.kernels.views import need
from zenith.backends.cpu.operand import DTYPES, Operand, item_bytes
from zenith.ir.dims import exactly
from zenith.runtime.kernel_registry import Cost, KernelSpec, no_cost, traffic
from zenith.runtime.op_view import OpView, ValueView

__all__ = ["SPECS"]

_FLOATS = frozenset({"float32", "float64"})
_MAX_RANK = 8


def _epsilon(op: OpView) -> float:
    """Attributes are float32; so is the default."""
    return float(np.float32(op.attr("epsilon", 1e-5)))


def _cost(op: OpView) -> Cost:
    return traffic(op, 10 * op.outputs[0].size)


def _ranked(op: OpView) -> str | None:
    rank = op.required(0).rank
    if rank == 0:
        return "a scalar has no axis"
    return f"rank {rank} is above {_MAX_RANK}" if rank > _MAX_RANK else None


# Softmax, LogSoftmax, Hardmax.


def _emit_softmax(e: Emit) -> None:
    x = need(e, 0)
    axes = [e.op.attr("axis", -1) % x.rank]
    log = e.op.type == "LogSoftmax"
    top = reduced(e, "ReduceMax", x, axes)
    shifted = pointwise(e, lambda p, v, m: p.op("sub", v, m), [x, top])
    powers = pointwise(e, lambda p, v: p.op("exp", v), [shifted])
    total = reduced(e, "ReduceSum", powers, axes)
    if log:
        pointwise(e, lambda p, v, s: p.op("sub", v, p.op("log", s)), [shifted, total], e.output(0))
    else:
        pointwise(e, lambda p, v, s: p.op("div", v, s), [powers, total], e.output(0))


def _emit_hardmax(e: Emit) -> None:
    """1 where the first largest element is, else 0."""
    x = need(e, 0)
    axis = e.op.attr("axis", -1) % x.rank
    where = e.temp("int64", tuple(1 if d == axis else n for d, n in enumerate(x.shape)))
    arg_reduce(e, x, axis, where, largest=True, last=False)
    numbers = e.temp("int64", (x.shape[axis],))
    e.step("range", [e.const(np.array(0)), e.const(np.array(1))], [numbers])
    for _ in range(axis):
        numbers = numbers.unsqueeze(0)
    while numbers.rank < x.rank:
        numbers = numbers.unsqueeze(numbers.rank)
    y = e.output(0)
    pointwise(
        e,
        lambda p, i, at: p.cast(p.op("eq", i, at, dtype="bool"), x.dtype),
        [numbers, where],
        y,
    )


# Normalisations.


def _moments(e: Emit, x: Operand, axes: Sequence[int]) -> tuple[Operand, Operand, Operand]:
    """x less its mean, the mean, and the mean of squared differences."""
    mean = reduced(e, "ReduceMean", x, axes)
    centred = pointwise(e, lambda p, v, m: p.op("sub", v, m), [x, mean])
    squares = pointwise(e, lambda p, v: p.op("mul", v, v), [centred])
    return centred, mean, reduced(e, "ReduceMean", squares, axes)


def _inverse(e: Emit, variance: Operand, epsilon: float) -> Operand:
    def build(p: Program, v: Value) -> Value:
        return p.op("reciprocal", p.op("sqrt", p.op("add", v, p.number(epsilon, v.dtype))))

    return pointwise(e, build, [variance])


def _scaled(
    e: Emit, x: Operand, inverse: Operand, weights: Sequence[Operand | None], y: Operand
) -> None:
    """y = x * inverse * scale + bias, where the weights broadcast; each may be missing."""
    given = [w for w in weights if w is not None]

    def build(p: Program, v: Value, r: Value, *rest: Value) -> Value:
        v = p.op("mul", v, r)
        for name, weight in zip(("mul", "add"), rest, strict=False):
            v = p.op(name, v, p.cast(weight, v.dtype))
        return v

    pointwise(e, build, [x, inverse, *given], y)


def _optional(e: Emit, index: int) -> Operand | None:
    return e.operand(index) if index < len(e.op.inputs) else None


def _used(value: ValueView) -> bool:
    return bool(value.value.uses()) or value.value.is_graph_output()


def _emit_layer_norm(e: Emit) -> None:
    x = need(e, 0)
    axes = list(range(e.op.attr("axis", -1) % x.rank, x.rank))
    epsilon = _epsilon(e.op)
    weights = [need(e, 1), _optional(e, 2)]
    if e.op.type == "RMSNormalization":
        squares = pointwise(e, lambda p, v: p.op("mul", v, v), [x])
        inverse = _inverse(e, reduced(e, "ReduceMean", squares, axes), epsilon)
        _scaled(e, x, inverse, weights[:1], e.output(0))
        return
    centred, mean, variance = _moments(e, x, axes)
    inverse = _inverse(e, variance, epsilon)
    _scaled(e, centred, inverse, weights, e.output(0))
    for index, value in ((1, mean), (2, inverse)):
        if index < len(e.op.outputs) and _used(e.op.outputs[index]):
            target = e.output(index)
            pointwise(e, lambda p, v, t=target: p.cast(v, t.dtype), [value], target)


def _layer_norm_reason(op: OpView) -> str | None:
    reason = _ranked(op)
    for value in op.inputs[1:]:
        if value is not None and value.rank > op.required(0).rank:
            reason = "scale or bias has a higher rank than the input"
    return reason


def _emit_group_norm(e: Emit) -> None:
    """GroupNormalization and InstanceNormalization: [N, C, ...] as [N, G, C/G, positions]."""
    x = e.dense(0)
    batch, channels = x.shape[:2]
    assert isinstance(channels, int)
    single = e.op.type == "InstanceNormalization"
    groups = channels if single else int(e.op.attr("num_groups"))
    positions = 1
    for n in x.shape[2:]:
        positions = positions * n
    shape = (batch, groups, channels // groups, exactly(positions))
    grouped, y = x.reshape(shape), e.output(0).reshape(shape)
    assert grouped is not None and y is not None, "a dense tensor can take any shape"
    weights = [w.reshape((1, groups, channels // groups, 1)) for w in (e.dense(1), e.dense(2))]
    centred, _, variance = _moments(e, grouped, [2, 3])
    inverse = _inverse(e, variance, _epsilon(e.op))
    _scaled(e, centred, inverse, weights, y)


def _group_reason(op: OpView) -> str | None:
    x = op.required(0)
    if x.rank < 2:
        return "there is no channel axis"
    channels = x.shape[1]
    if not isinstance(channels, int):
        return "the number of channels is dynamic"
    groups = channels if op.type == "InstanceNormalization" else int(op.attr("num_groups"))
    if groups < 1 or channels % groups:
        return f"{channels} channels are not a multiple of {groups} groups"
    return None


def _emit_mean_variance(e: Emit) -> None:
    """(x - mean) / (deviation + 1e-9), as the body of the operator says."""
    x = need(e, 0)
    axes = [axis % x.rank for axis in e.op.attr("axes", [0, 2, 3])]
    centred, _, variance = _moments(e, x, axes)

    def build(p: Program, v: Value, s: Value) -> Value:
        return p.op("div", v, p.op("add", p.op("sqrt", s), p.number(1e-9, s.dtype)))

    pointwise(e, build, [centred, variance], e.output(0))


def _mean_variance_reason(op: OpView) -> str | None:
    rank, axes = op.required(0).rank, op.attr("axes", [0, 2, 3])
    if any(not -rank <= axis < rank for axis in axes):
        return f"there are no axes {axes} in rank {rank}"
    return _ranked(op)


def _emit_lp_norm(e: Emit) -> None:
    """x / norm, and 0 where the norm is 0."""
    x = need(e, 0)
    axes = [e.op.attr("axis", -1) % x.rank]
    norm = reduced(e, "ReduceL1" if e.op.attr("p", 2) == 1 else "ReduceL2", x, axes)

    def build(p: Program, v: Value, n: Value) -> Value:
        zero = p.number(0.0, v.dtype)
        return p.op("where", p.op("eq", n, zero, dtype="bool"), zero, p.op("div", v, n))

    pointwise(e, build, [x, norm], e.output(0))


def _lp_reason(op: OpView) -> str | None:
    return "p is neither 1 nor 2" if op.attr("p", 2) not in (1, 2) else _ranked(op)


# BatchNormalization with computed statistics, in training, or not of float32.


def _per_channel(x: Operand, rank: int) -> Operand:
    view = x.reshape((1, x.size, *(1 for _ in range(rank - 2)))) if rank > 1 else x
    assert view is not None, "a vector can take any shape"
    return view


def _emit_batch_norm(e: Emit) -> None:
    x = need(e, 0)
    epsilon = _epsilon(e.op)
    scale, bias, mean, variance = (_per_channel(e.dense(i), x.rank) for i in range(1, 5))
    if e.op.attr("training_mode", 0):
        axes = [axis for axis in range(x.rank) if axis != 1]
        centred, now, spread = _moments(e, x, axes)
        _running(e, 1, mean, now)
        _running(e, 2, variance, spread)
        variance = spread
    else:
        centred = pointwise(e, lambda p, v, m: p.op("sub", v, p.cast(m, v.dtype)), [x, mean])
    work = x.dtype
    wide = pointwise(e, lambda p, v: p.cast(v, work), [variance]) if (
        variance.dtype != work
    ) else variance  # fmt: skip
    _scaled(e, centred, _inverse(e, wide, epsilon), [scale, bias], e.output(0))


def _running(e: Emit, index: int, old: Operand, now: Operand) -> None:
    """running = old * momentum + now * (1 - momentum)"""
    if index >= len(e.op.outputs) or not e.op.outputs[index].name:
        return
    momentum = float(np.float32(e.op.attr("momentum", 0.9)))
    target = e.output(index)

    def build(p: Program, a: Value, b: Value) -> Value:
        kept = p.op("mul", a, p.number(momentum, a.dtype))
        return p.op("add", kept, p.op("mul", p.cast(b, a.dtype), p.number(1 - momentum, a.dtype)))

    pointwise(e, build, [old, now], _per_channel(target, old.rank))


def _batch_norm_reason(op: OpView) -> str | None:
    if any(v is not None and v.dtype not in _FLOATS for v in op.inputs):
        return "its statistics are not float32 or float64"
    return _ranked(op) or ("there is no channel axis" if op.required(0).rank < 2 else None)


# BitCast: the same memory.


def _emit_bit_cast(e: Emit) -> None:
    e.alias(0, bits_as(need(e, 0), e.op.outputs[0].dtype))


def _bit_cast_reason(op: OpView) -> str | None:
    source, target = op.required(0).dtype, op.outputs[0].dtype
    for dtype in (source, target):
        if dtype not in DTYPES:
            return f"no native {dtype}"
    return None if item_bytes(source) == item_bytes(target) else "the sizes differ"


def _row(
    name: str,
    op: str,
    emit: Callable[[Emit], None],
    supports: Callable[[OpView], str | None] = _ranked,
) -> KernelSpec:
    return KernelSpec(
        name, f"ai.onnx:{op}", emit, dtypes={0: _FLOATS}, supports=supports, cost=_cost
    )


SPECS = [
    _row("softmax_steps", "Softmax", _emit_softmax),
    _row("log_softmax_steps", "LogSoftmax", _emit_softmax),
    _row("hardmax_steps", "Hardmax", _emit_hardmax),
    _row("layer_norm_steps", "LayerNormalization", _emit_layer_norm, _layer_norm_reason),
    _row("rms_norm_steps", "RMSNormalization", _emit_layer_norm, _layer_norm_reason),
    _row("group_norm_steps", "GroupNormalization", _emit_group_norm, _group_reason),
    _row("instance_norm_steps", "InstanceNormalization", _emit_group_norm, _group_reason),
    _row("mean_variance_steps", "MeanVarianceNormalization", _emit_mean_variance,
         _mean_variance_reason),
    _row("lp_norm_steps", "LpNormalization", _emit_lp_norm, _lp_reason),
    _row("batch_norm_steps", "BatchNormalization", _emit_batch_norm, _batch_norm_reason),
    KernelSpec("bitcast_view", "ai.onnx:BitCast", _emit_bit_cast, supports=_bit_cast_reason,
               cost=no_cost),
]  # fmt: skip
