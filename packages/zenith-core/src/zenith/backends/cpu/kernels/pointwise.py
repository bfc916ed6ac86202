"""Rows for elementwise operators: each node is one step of the native `pointwise` kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.pointwise_program import (
    TEMPLATES,
    Unsupported,
    translate,
)
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim
from zenith.runtime.kernel_registry import Cost, KernelSpec, traffic
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

_MAX_RANK = 8


def _shape_reason(op: OpView) -> str | None:
    shape = op.outputs[0].shape
    if len(shape) > _MAX_RANK:
        return f"rank {len(shape)} is above {_MAX_RANK}"
    if any(v.shape != shape for v in op.outputs[1:]):
        return "outputs have different shapes"
    for value in op.inputs:
        if value is not None and value.rank > len(shape):
            return "an input has a higher rank than the output"
    return None


def _supports(op: OpView) -> str | None:
    if op.domain == "zenith" and op.body is None:
        return "its function body is missing"
    try:
        translate(op)
    except Unsupported as reason:
        return str(reason)
    # The target of CastLike is never read.
    return None if op.type == "CastLike" else _shape_reason(op)


def _cost(op: OpView) -> Cost:
    steps = len(translate(op)[0].steps)
    return traffic(op, op.outputs[0].size * steps)


def _output_order(operands: Sequence[Operand], shape: Sequence[Dim]) -> tuple[int, ...] | None:
    """The memory order of the first gapless operand of full size: layouts flow through."""
    for operand in operands:
        if operand.shape == tuple(shape):
            order = operand.order()
            if order is not None:
                return order
    return None


def _emit(e: Emit) -> None:
    program, sources = translate(e.op)
    shape = e.op.outputs[0].shape
    x = e.operand(0)
    if e.op.body is None and program.is_copy and x is not None and x.shape == tuple(shape):
        e.alias(0, x)
        return
    operands: list[Operand] = []
    for source in sources:
        operand = e.const(source) if isinstance(source, np.ndarray) else e.operand(source)
        assert operand is not None
        operands.append(operand)
    order = _output_order(operands, shape)
    outputs = [e.output(i, order) for i in range(len(e.op.outputs))]
    codes, args = program.encode()
    inputs = [o.expand(shape) if o.shape != tuple(shape) else o for o in operands]
    e.step("pointwise", inputs, outputs, steps=codes, args=args)


# Dropout at inference.


def _dropout_supports(op: OpView) -> str | None:
    training = op.input(2)
    if training is not None and (training.const is None or bool(training.const)):
        return "training mode"
    return None


def _emit_dropout(e: Emit) -> None:
    x = e.operand(0)
    assert x is not None
    e.alias(0, x)
    if len(e.op.outputs) > 1:
        e.alias(1, e.const(np.array(True)).expand(x.shape))


SPECS = [
    *(
        KernelSpec(f"pointwise_{name.lower()}", f"ai.onnx:{name}", _emit,
                   supports=_supports, cost=_cost)
        for name in TEMPLATES
    ),
    KernelSpec("pointwise", "zenith:Pointwise", _emit, supports=_supports, cost=_cost),
    KernelSpec("dropout", "ai.onnx:Dropout", _emit_dropout, supports=_dropout_supports),
]  # fmt: skip
