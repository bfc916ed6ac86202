"""Rows of operators that carry a state from call to call: LinearAttention, CausalConvWithState."""

from __future__ import annotations

from typing import Any

from zenith.backends.cpu.emit import F32, Emit
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import product
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _optional(e: Emit, index: int) -> Operand | None:
    return None if e.op.input(index) is None else e.inner(index)


def _state_output(e: Emit, shape: tuple[Any, ...]) -> Operand:
    """Output 1, or memory in its place when nobody names it."""
    named = len(e.op.outputs) > 1 and e.op.outputs[1].name
    return e.output(1) if named else e.temp("float32", shape)


# LinearAttention.


def _attention_shape(op: OpView) -> tuple[Any, ...]:
    """[batch, heads, key depth, value depth] of the state."""
    heads = int(op.attr("kv_num_heads"))
    key, value = op.required(1), op.required(2)
    return (key.shape[0], heads, key.shape[2] // heads, value.shape[2] // heads)


def _attention_reason(op: OpView) -> str | None:
    rule = op.attr("update_rule", "gated_delta")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        return f"update rule '{rule}' is unknown"
    if "gated" in rule and op.input(4) is None:
        return f"update rule '{rule}' has no decay"
    if "delta" in rule and op.input(5) is None:
        return f"update rule '{rule}' has no beta"
    for index in (0, 1, 2):
        if not isinstance(op.required(index).shape[2], int):
            return "the size of the heads is dynamic"
    heads, queries = op.attr("kv_num_heads"), op.attr("q_num_heads")
    if not heads or not queries or heads < 1 or queries < 1 or queries % heads:
        return f"{queries} query heads are not a multiple of {heads} heads"
    if op.required(1).shape[2] % heads or op.required(2).shape[2] % heads:
        return "the heads do not divide keys or values"
    batch, heads, depth, width = _attention_shape(op)
    steps = op.required(0).shape[1]
    decay, beta = op.input(4), op.input(5)
    per_row = decay is not None and decay.rank == 3 and decay.shape[2] != heads
    one = beta is not None and beta.rank == 3 and beta.shape[2] == 1
    return (
        op.misfit(0, batch, steps, queries * depth)
        or op.misfit(1, batch, steps, heads * depth)
        or op.misfit(2, batch, steps, heads * width)
        or op.misfit(3, batch, heads, depth, width)
        or op.misfit(4, batch, steps, heads * depth if per_row else heads)
        or op.misfit(5, batch, steps, 1 if one else heads)
    )


def _emit_attention(e: Emit) -> None:
    op = e.op
    rule = op.attr("update_rule", "gated_delta")
    shape = _attention_shape(op)
    past = None if op.input(3) is None else e.dense(3)
    e.step(
        "linear_attention_f32",
        [
            *(e.inner(i) for i in range(3)),
            past,
            _optional(e, 4) if "gated" in rule else None,
            _optional(e, 5) if "delta" in rule else None,
        ],
        [e.output(0), _state_output(e, shape)],
        query_heads=int(op.attr("q_num_heads")),
        heads=shape[1],
        scale=float(op.attr("scale", 0.0)) or float(shape[2]) ** -0.5,
    )


def _attention_cost(op: OpView) -> Cost:
    batch, heads, depth, width = _attention_shape(op)
    steps = op.required(1).shape[1]
    # Decay, correction, update and one read per query head.
    each = 5 + 2 * int(op.attr("q_num_heads")) // heads
    return traffic(op, batch * heads * steps * depth * width * each)


# CausalConvWithState.


def _conv_reason(op: OpView) -> str | None:
    if op.attr("activation", "none") not in ("none", "silu", "swish"):
        return f"activation '{op.attr('activation')}' is unknown"
    x, w = op.required(0), op.required(1)
    if x.rank != 3 or w.rank != 3 or not isinstance(w.shape[2], int) or w.shape[2] < 1:
        return "the kernel's size is dynamic, or ranks are not 3"
    batch, channels, _ = x.shape
    return (
        op.misfit(1, channels, 1, w.shape[2])
        or op.misfit(2, channels)
        or op.misfit(3, batch, channels, w.shape[2] - 1)
    )


def _emit_conv(e: Emit) -> None:
    x, w = e.op.required(0), e.dense(1)
    weights = w.reshape((w.shape[0], w.shape[2]))
    assert weights is not None, "the weights are dense"
    e.step(
        "causal_conv_f32",
        [e.inner(0), weights, _optional(e, 2), _optional(e, 3)],
        [e.output(0), _state_output(e, (*x.shape[:2], w.shape[2] - 1))],
        silu=int(e.op.attr("activation", "none") != "none"),
    )


def _conv_cost(op: OpView) -> Cost:
    taps = op.required(1).shape[2]
    return traffic(op, 2 * product(op.required(0).shape) * taps)


SPECS: list[KernelSpec] = [
    KernelSpec(
        "linear_attention_f32",
        "ai.onnx:LinearAttention",
        _emit_attention,
        dtypes=dict.fromkeys(range(6), F32),
        supports=_attention_reason,
        cost=_attention_cost,
    ),
    KernelSpec(
        "causal_conv_f32",
        "ai.onnx:CausalConvWithState",
        _emit_conv,
        dtypes=dict.fromkeys(range(4), F32),
        supports=_conv_reason,
        cost=_conv_cost,
    ),
]
