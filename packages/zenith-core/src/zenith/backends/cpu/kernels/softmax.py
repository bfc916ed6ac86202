"""ai.onnx:Softmax and LogSoftmax along one axis."""

from __future__ import annotations

from zenith.backends.cpu.emit import F32, Emit
from zenith.ir.dims import exactly
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _supports(op: OpView) -> str | None:
    return "a scalar has no axis" if op.outputs[0].rank == 0 else None


def _cost(op: OpView) -> Cost:
    y = op.outputs[0]
    # Maximum, exponential (about 10 operations), sum, product.
    return Cost(flops=exactly(13 * y.size), bytes=exactly(2 * y.nbytes))


def _row(kernel: str, op: str) -> KernelSpec:
    def emit(e: Emit) -> None:
        x = e.inner(0)
        e.step(kernel, [x], [e.output(0)], axis=e.op.attr("axis", -1) % x.rank)

    return KernelSpec(kernel, op, emit, dtypes={0: F32}, supports=_supports, cost=_cost)


SPECS = [
    _row("softmax_f32", "ai.onnx:Softmax"),
    _row("log_softmax_f32", "ai.onnx:LogSoftmax"),
]
