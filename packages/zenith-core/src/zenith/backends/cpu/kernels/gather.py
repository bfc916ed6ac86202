"""Operators that read or write by index: Gather*, Scatter*, TensorScatter, OneHot, TopK,
ReverseSequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zenith.backends.cpu.emit import Emit
from zenith.backends.cpu.kernels.move import MAX_RANK
from zenith.backends.cpu.kernels.views import ANY, need, nonnegative, unbound
from zenith.backends.cpu.operand import Operand
from zenith.ir.dims import Dim, exactly
from zenith.runtime.kernel_registry import KernelSpec, no_cost
from zenith.runtime.op_view import OpView

__all__ = ["NUMBERS", "SPECS"]

Array: TypeAlias = NDArray[Any]
INDEX = frozenset({"int64", "int32"})
NUMBERS = ANY - {"bool"}
REDUCTIONS = {"none": 0, "add": 1, "mul": 2, "min": 3, "max": 4}


def _position(index: Dim, n: Dim) -> Dim | None:
    """A known index counted from the front when it surely lies inside its axis, else None."""
    if isinstance(index, int) and index < 0:
        index = exactly(index + n)
    inside = nonnegative(index) and nonnegative(exactly(n - 1 - index))
    return index if inside else None


def _emit_gather(e: Emit) -> None:
    data, indices = need(e, 0), e.op.inputs[1]
    axis = e.op.attr("axis", 0) % data.rank
    assert indices is not None
    if indices.rank == 0 and indices.known is not None:
        at = _position(indices.known[0], data.shape[axis])
        if at is not None:
            e.alias(0, data.slice(axis, at, 1).squeeze(axis))
            return
    e.step("gather", [data, need(e, 1)], [e.output(0)], axis=axis)


def _few_axes(op: OpView) -> str | None:
    rank = op.outputs[0].rank
    return f"its result has {rank} axes, more than {MAX_RANK}" if rank > MAX_RANK else None


def _gather_text(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    data, indices = inputs
    assert data is not None and indices is not None
    return [np.take(data, indices, op.attr("axis", 0))]


def _emit_gather_nd(e: Emit) -> None:
    e.step(
        "gather_nd",
        [need(e, 0), need(e, 1)],
        [e.output(0)],
        batch_dims=e.op.attr("batch_dims", 0),
    )


def _emit_gather_elements(e: Emit) -> None:
    data = need(e, 0)
    axis = e.op.attr("axis", 0) % data.rank
    e.step("gather_elements", [data, need(e, 1)], [e.output(0)], axis=axis)


def _supports_scatter(op: OpView) -> str | None:
    reduction, value = op.attr("reduction", "none"), op.inputs[0]
    assert value is not None
    if reduction not in REDUCTIONS:
        return f"unknown reduction {reduction}"
    return None


def _copied(e: Emit) -> Operand:
    """Output 0 holding input 0's content, for a kernel that updates it in place."""
    out = e.output(0)
    e.copy(need(e, 0), out)
    return out


def _emit_scatter_elements(e: Emit) -> None:
    out = _copied(e)
    e.step(
        "scatter_elements",
        [need(e, 1), need(e, 2)],
        [out],
        axis=e.op.attr("axis", 0) % out.rank,
        reduction=REDUCTIONS[e.op.attr("reduction", "none")],
    )


def _emit_scatter_nd(e: Emit) -> None:
    out = _copied(e)
    reduction = REDUCTIONS[e.op.attr("reduction", "none")]
    e.step("scatter_nd", [need(e, 1), need(e, 2)], [out], reduction=reduction)


def _emit_tensor_scatter(e: Emit) -> None:
    out = _copied(e)
    e.step(
        "tensor_scatter",
        [need(e, 1), e.operand(2) if e.op.input(2) is not None else None],
        [out],
        axis=e.op.attr("axis", -2) % out.rank,
        circular=int(e.op.attr("mode", "linear") == "circular"),
    )


def _last(x: Operand, axis: int) -> Operand:
    """`x` with `axis` moved to the end."""
    return x.transpose([*(a for a in range(x.rank) if a != axis), axis])


def _emit_one_hot(e: Emit) -> None:
    out = e.output(0)
    axis = e.op.attr("axis", -1) % out.rank
    e.step("one_hot", [need(e, 0), need(e, 2)], [_last(out, axis)])


def _emit_topk(e: Emit) -> None:
    x = need(e, 0)
    axis = e.op.attr("axis", -1) % x.rank
    outputs = [_last(e.output(0), axis), _last(e.output(1), axis)]
    e.step("topk", [_last(x, axis)], outputs, largest=int(e.op.attr("largest", 1)))


def _supports_reverse_sequence(op: OpView) -> str | None:
    batch, time, x = op.attr("batch_axis", 1), op.attr("time_axis", 0), op.inputs[0]
    assert x is not None
    if {batch, time} != {0, 1} or x.rank < 2:
        return f"axes {batch} and {time} are not the first two"
    return op.misfit(1, x.shape[batch])


def _emit_reverse_sequence(e: Emit) -> None:
    e.step(
        "reverse_sequence",
        [need(e, 0), need(e, 1)],
        [e.output(0)],
        batch_axis=e.op.attr("batch_axis", 1),
        time_axis=e.op.attr("time_axis", 0),
    )


SPECS = [
    KernelSpec(
        "gather_text",
        "ai.onnx:Gather",
        _gather_text,
        dtypes={0: frozenset({"object"}), 1: INDEX},
        cost=no_cost,
        call=True,
    ),  # fmt: skip
    KernelSpec(
        "gather", "ai.onnx:Gather", _emit_gather, dtypes={0: ANY, 1: INDEX}, supports=_few_axes
    ),
    KernelSpec(
        "gathernd",
        "ai.onnx:GatherND",
        _emit_gather_nd,
        dtypes={0: ANY, 1: INDEX},
        supports=_few_axes,
    ),  # fmt: skip
    KernelSpec(
        "gatherelements",
        "ai.onnx:GatherElements",
        _emit_gather_elements,
        dtypes={0: ANY, 1: INDEX},
    ),
    KernelSpec(
        "scatterelements",
        "ai.onnx:ScatterElements",
        _emit_scatter_elements,
        dtypes={0: ANY, 1: INDEX},
        supports=_supports_scatter,
    ),
    KernelSpec(
        "scatternd",
        "ai.onnx:ScatterND",
        _emit_scatter_nd,
        dtypes={0: ANY, 1: INDEX},
        supports=_supports_scatter,
    ),
    KernelSpec(
        "tensorscatter",
        "ai.onnx:TensorScatter",
        _emit_tensor_scatter,
        dtypes={0: ANY, 2: INDEX},
    ),
    KernelSpec(
        "onehot", "ai.onnx:OneHot", _emit_one_hot, dtypes={0: NUMBERS, 2: ANY}, supports=unbound
    ),
    KernelSpec("topk", "ai.onnx:TopK", _emit_topk, dtypes={0: NUMBERS}, supports=unbound),
    KernelSpec(
        "reversesequence",
        "ai.onnx:ReverseSequence",
        _emit_reverse_sequence,
        dtypes={0: ANY, 1: INDEX},
        supports=_supports_reverse_sequence,
    ),
]
