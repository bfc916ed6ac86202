"""Operators that make tensors out of sizes: ConstantOfShape, Range, Shape, Size, EyeLike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.views import ANY, need, unbound
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim
from zenith.runtime.kernel_registry import KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS", "emit_known"]

DIMS_PER_STEP = 64  # capacity of the native `dims` kernel
RANGE_TYPES = frozenset({"float32", "float64", "float16", "bfloat16", "int16", "int32", "int64"})


def emit_known(e: Emit, out: Operand, dims: Sequence[Dim]) -> None:
    """Write `dims`, integers known at compile time or when the plan is bound, to `out`.

    out: dense, int64 or int32, with as many elements as there are dims.
    """
    flat = out.reshape((len(dims),))
    assert flat is not None, "known values are written to dense memory"
    for start in range(0, len(dims), DIMS_PER_STEP):
        part = list(dims[start : start + DIMS_PER_STEP])
        e.step("dims", [], [flat.slice(0, start, len(part))], values=part)


def _emit_shape(e: Emit) -> None:
    value = e.op.inputs[0]
    assert value is not None
    start, end = e.op.attr("start", 0), e.op.attr("end")
    emit_known(e, e.output(0), value.shape[slice(start, end)])


def _emit_size(e: Emit) -> None:
    value = e.op.inputs[0]
    assert value is not None
    emit_known(e, e.output(0), [value.size])


def _emit_constant_of_shape(e: Emit) -> None:
    value = e.op.attr("value")
    array = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    e.copy(e.const(array).expand(e.op.outputs[0].shape), e.output(0))


def _emit_range(e: Emit) -> None:
    e.step("range", [need(e, 0), need(e, 2)], [e.output(0)])


def _supports_eye(op: OpView) -> str | None:
    dtype = op.outputs[0].dtype
    return None if dtype in ANY else f"output is {dtype}"


def _emit_eye(e: Emit) -> None:
    one = e.const(np.ones((), np.dtype(e.op.outputs[0].dtype)))
    e.step("eye", [one], [e.output(0)], k=e.op.attr("k", 0))


SPECS = [
    KernelSpec("shape", "ai.onnx:Shape", _emit_shape),
    KernelSpec("size", "ai.onnx:Size", _emit_size),
    KernelSpec(
        "constantofshape_copy", "ai.onnx:ConstantOfShape", _emit_constant_of_shape, supports=unbound
    ),
    KernelSpec("range", "ai.onnx:Range", _emit_range, dtypes={0: RANGE_TYPES}, supports=unbound),
    KernelSpec("eyelike", "ai.onnx:EyeLike", _emit_eye, supports=_supports_eye),
]
