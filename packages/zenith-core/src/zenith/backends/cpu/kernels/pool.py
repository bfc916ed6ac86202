"""Rows of the pool family: max, average and norms over windows or whole volumes, channels-last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zenith.backends.cpu.emit import BF16, F32, Emit
from zenith.backends.cpu.kernels.reduce import reduced_axes
from zenith.backends.cpu.kernels.views import known, unbound
from zenith.backends.cpu.operand import Operand, channels_last_order
from zenith.backends.cpu.window import as_pixels, output_pixels, rank_reason, window_of
from zenith.ir.dims import Dim, exactly, product
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

_ANY_MAX = frozenset({"float32", "float64", "int8", "uint8"})
_GLOBAL: dict[str, Any] = {
    "kernel_shape": (1, 1, 1),
    "strides": (1, 1, 1),
    "pads": (0,) * 6,
    "dilations": (1, 1, 1),
}


def _indices_used(op: OpView) -> bool:
    """Whether the second output of a MaxPool is there and someone reads it."""
    if len(op.outputs) < 2:
        return False
    value = op.node.outputs[1]
    return bool(value.uses()) or value.is_graph_output()


def _reason(op: OpView) -> str | None:
    if _indices_used(op):
        return "the Indices output is used"
    return rank_reason(op, 3)


def _any_reason(op: OpView) -> str | None:
    return rank_reason(op, 3)


def _params(op: OpView) -> dict[str, Any]:
    window = window_of(op, op.attr("kernel_shape"), 3)
    return {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
        "include_pad": int(op.attr("count_include_pad", 0)),
        "p": int(op.attr("p", 2)),
        "column_major": int(op.attr("storage_order", 0)),
    }


def _emit_window(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        x = as_pixels(e.channels_last(0), 3)
        e.batch_step(kernel, [x], [output_pixels(e, 3)], **_params(e.op))

    return emit


def _emit_max(e: Emit) -> None:
    """Any type, and Indices."""
    x = as_pixels(e.channels_last(0), 3)
    outputs = [output_pixels(e, 3)]
    if _indices_used(e.op):
        order = channels_last_order(e.op.outputs[1].rank)
        outputs.append(as_pixels(e.output(1, order=order), 3))
    # Indices count from the first image on.
    step = e.batch_step if len(outputs) == 1 else e.step
    step(f"max_pool_{x.dtype}", [x], outputs, **_params(e.op))


def _global_reason(op: OpView) -> str | None:
    x = op.inputs[0]
    assert x is not None
    return None if x.rank >= 3 else f"inputs of rank {x.rank} have no kernel"


def _flat(operand: Operand) -> Operand:
    """[N, C, *spatial], channels-last, as [N, 1, H, W, C]; further axes are part of W."""
    last = operand.transpose(channels_last_order(operand.rank))
    n, *spatial, c = last.shape
    height: Dim = spatial[0] if len(spatial) > 1 else 1
    width = product(spatial[1:]) if len(spatial) > 1 else spatial[0]
    flat = last.reshape((n, 1, height, width, c))
    assert flat is not None, "the operand is gapless"
    return flat


def _emit_global(kernel: str) -> Callable[[Emit], None]:
    def emit(e: Emit) -> None:
        out = e.output(0, order=channels_last_order(e.op.outputs[0].rank))
        params = _GLOBAL | {"include_pad": 0, "p": int(e.op.attr("p", 2)), "column_major": 0}
        e.batch_step(kernel, [_flat(e.channels_last(0))], [_flat(out)], **params)

    return emit


def _reduction_reason(op: OpView) -> str | None:
    x, axes = op.required(0), op.input(1)
    if axes is not None and axes.const is None:
        return "axes are not constant"
    if x.rank < 3 or reduced_axes(op) != list(range(2, x.rank)):
        return "only over all axes behind the channels"
    return None


def _emit_reduction(kernel: str) -> Callable[[Emit], None]:
    """What `lower_global_pool` made of a pool over everything."""

    def emit(e: Emit) -> None:
        out, rank = e.output(0), e.op.required(0).rank
        for axis in range(out.rank, rank):
            out = out.unsqueeze(axis)
        params = _GLOBAL | {"include_pad": 0, "p": 2, "column_major": 0}
        e.batch_step(kernel, [_flat(e.channels_last(0))], [_flat(out)], **params)

    return emit


def _unpool_reason(op: OpView) -> str | None:
    if op.input(2) is not None and known(op, 2) is None:
        return "output_shape is computed from data"
    return unbound(op)


def _emit_unpool(e: Emit) -> None:
    op, x = e.op, e.dense(0)
    kernel = op.attr("kernel_shape")
    strides = op.attr("strides") or [1] * len(kernel)
    pads = op.attr("pads") or [0] * 2 * len(kernel)
    shape: list[Dim] = list(x.shape[:2])
    for axis, size in enumerate(kernel):
        full = (x.shape[2 + axis] - 1) * strides[axis] + size
        shape.append(exactly(full - pads[axis] - pads[axis + len(kernel)]))
    e.step("max_unpool_f32", [x, e.dense(1)], [e.output(0)], shape=shape)


def _window_cost(op: OpView) -> Cost:
    values = [v for v in (op.inputs[0], op.outputs[0]) if v is not None]
    taps = product(op.attr("kernel_shape"))
    return Cost(flops=op.outputs[0].size * taps, bytes=sum(v.nbytes for v in values))


def _global_cost(op: OpView) -> Cost:
    values = [v for v in (op.inputs[0], op.outputs[0]) if v is not None]
    return Cost(flops=values[0].size, bytes=sum(v.nbytes for v in values))


# Every one has a kernel of float32, those before the norms of bfloat16 as well.
_POOLS = [
    ("max_pool", "MaxPool", _emit_window, _reason, _window_cost),
    ("average_pool", "AveragePool", _emit_window, _reason, _window_cost),
    ("global_max_pool", "GlobalMaxPool", _emit_global, _global_reason, _global_cost),
    ("global_average_pool", "GlobalAveragePool", _emit_global, _global_reason, _global_cost),
    ("lp_pool", "LpPool", _emit_window, _reason, _window_cost),
    ("global_lp_pool", "GlobalLpPool", _emit_global, _global_reason, _global_cost),
]

SPECS: list[KernelSpec] = [
    KernelSpec(
        f"{name}_{kind}",
        f"ai.onnx:{op}",
        emit(f"{name}_{kind}"),
        dtypes={0: dtypes},
        supports=supports,
        cost=cost,
    )
    for kind, dtypes, pools in (("f32", F32, _POOLS), ("bf16", BF16, _POOLS[:4]))
    for name, op, emit, supports, cost in pools
]
SPECS += [
    KernelSpec(
        f"reduce_{kernel}",
        f"ai.onnx:{op}",
        _emit_reduction(kernel),
        dtypes={0: BF16},
        supports=_reduction_reason,
        cost=_global_cost,
    )
    for kernel, op in (
        ("global_average_pool_bf16", "ReduceMean"),
        ("global_max_pool_bf16", "ReduceMax"),
    )
]
SPECS += [
    KernelSpec(
        "max_pool_any",
        "ai.onnx:MaxPool",
        _emit_max,
        dtypes={0: _ANY_MAX},
        supports=_any_reason,
        cost=_window_cost,
    ),
    KernelSpec(
        "max_unpool_f32",
        "ai.onnx:MaxUnpool",
        _emit_unpool,
        dtypes={0: F32, 1: frozenset({"int64"})},
        supports=_unpool_reason,
    ),
]
