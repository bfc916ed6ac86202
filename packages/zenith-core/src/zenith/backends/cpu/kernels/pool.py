"""Rows of the pool family: max and average over windows or whole images, channels-last."""

from __future__ import annotations

from collections.abc import Callable

from zenith.backends.cpu.emit import F32, Emit
from zenith.backends.cpu.window import as_pixels, output_pixels, rank_reason, window_of
from zenith.ir.dims import product
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]


def _reason(op: OpView) -> str | None:
    if len(op.outputs) > 1 and op.node.outputs[1].uses():
        return "the Indices output has no kernel"
    return rank_reason(op)


def _emit_window(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        window = window_of(e.op, e.op.attr("kernel_shape"))
        e.step(
            kernel,
            [as_pixels(e.channels_last(0))],
            [output_pixels(e)],
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=window.pads,
            dilations=window.dilations,
            include_pad=int(e.op.attr("count_include_pad", 0)),
        )

    return emit


def _emit_global(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        e.step(kernel, [as_pixels(e.channels_last(0))], [output_pixels(e)])

    return emit


def _window_cost(op: OpView) -> Cost:
    values = [v for v in (op.inputs[0], op.outputs[0]) if v is not None]
    taps = product(op.attr("kernel_shape"))
    return Cost(flops=op.outputs[0].size * taps, bytes=sum(v.nbytes for v in values))


def _global_cost(op: OpView) -> Cost:
    values = [v for v in (op.inputs[0], op.outputs[0]) if v is not None]
    return Cost(flops=values[0].size, bytes=sum(v.nbytes for v in values))


SPECS: list[KernelSpec] = [
    KernelSpec(
        name,
        f"ai.onnx:{op_type}",
        emit(name),
        dtypes={0: F32},
        supports=_reason,
        cost=cost,
    )
    for name, op_type, emit, cost in (
        ("max_pool_f32", "MaxPool", _emit_window, _window_cost),
        ("average_pool_f32", "AveragePool", _emit_window, _window_cost),
        ("global_max_pool_f32", "GlobalMaxPool", _emit_global, _global_cost),
        ("global_average_pool_f32", "GlobalAveragePool", _emit_global, _global_cost),
    )
]
