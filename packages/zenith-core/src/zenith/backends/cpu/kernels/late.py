"""Operators whose sizes or parameters are computed from data: calls between two plans.

Those that only move data are numpy's own views and copies. The others become a plan of one node
for each call's sizes and parameters (`zenith.backends.cpu.late`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zenith.backends.cpu.late import run_late
from zenith.runtime.kernel_registry import KernelSpec, no_cost
from zenith.runtime.memory_manager import check_bytes
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

Array = np.ndarray[Any, Any]


def _ints(array: Array | None) -> list[int]:
    assert array is not None
    return [int(x) for x in array.reshape(-1)]


def _reshape(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    x, shape = inputs[0], _ints(inputs[1])
    assert x is not None
    if not op.attr("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return [x.reshape(shape)]


def _expand(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    x = inputs[0]
    assert x is not None
    shape = np.broadcast_shapes(x.shape, tuple(_ints(inputs[1])))
    check_bytes(math.prod(shape) * x.itemsize)
    return [np.broadcast_to(x, shape)]


def _slice(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    x = inputs[0]
    assert x is not None
    starts, ends = _ints(inputs[1]), _ints(inputs[2])
    given = [*inputs[3:], None, None]
    axes = range(len(starts)) if given[0] is None else _ints(given[0])
    steps = [1] * len(starts) if given[1] is None else _ints(given[1])
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        below = step < 0 and end < -x.shape[axis]  # down to and with the first element
        index[axis] = slice(start, None if below else end, step)
    return [x[tuple(index)]]


def _range(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    start, limit, delta = (np.asarray(x).reshape(()) for x in inputs)
    if delta == 0:
        raise ValueError("the step of Range is 0")
    count = max(int(np.ceil((limit - start) / delta)), 0)
    check_bytes(count * start.dtype.itemsize)
    steps = np.arange(count).astype(start.dtype)
    return [np.asarray(start + steps * delta, start.dtype)]


def _constant_of_shape(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    value = op.attr("value")
    fill = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    shape = _ints(inputs[0])
    check_bytes(math.prod(shape) * fill.itemsize)
    return [np.broadcast_to(fill, shape)]


def _tile(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    repeats = _ints(inputs[1])
    check_bytes(inputs[0].nbytes * math.prod(repeats))
    return [np.tile(inputs[0], repeats)]


def _split(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    axis = op.attr("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = _ints(inputs[1])
    else:
        parts, n = len(op.outputs), inputs[0].shape[axis]
        sizes = [-(-n // parts)] * (parts - 1)
        sizes.append(n - sum(sizes))
    if sum(sizes) != inputs[0].shape[axis] or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} do not make up an axis of {inputs[0].shape[axis]}")
    return list(np.split(inputs[0], np.cumsum(sizes)[:-1], axis))


def _squeeze(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    given = len(inputs) > 1 and inputs[1] is not None
    return [np.squeeze(inputs[0], tuple(_ints(inputs[1])) if given else None)]


def _unsqueeze(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    return [np.expand_dims(inputs[0], tuple(_ints(inputs[1])))]


def _shape(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    part = slice(op.attr("start", 0), op.attr("end"))
    return [np.array(inputs[0].shape[part], np.int64)]


def _size(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    return [np.array(inputs[0].size, np.int64)]


def _late(op_type: str, run: Any) -> KernelSpec:
    return KernelSpec(f"{op_type.lower()}_late", f"ai.onnx:{op_type}", run, cost=no_cost, call=True)


def _planned(op_type: str, *fixed: int) -> KernelSpec:
    """A row that plans the node per call, with the inputs at `fixed` as parameters."""

    def supports(op: OpView) -> str | None:
        from zenith.backends.cpu.kernels import all_specs

        x = op.input(0)
        rows = [spec for spec in all_specs() if spec.op == op.key and not spec.call]
        if x is None or not any(x.dtype in spec.dtypes.get(0, {x.dtype}) for spec in rows):
            return f"no native {op.type} for this type"
        late = [op.input(i) for i in fixed]
        if not any(v is not None and v.known is None and not v.is_const for v in late):
            return "its parameters are known: it can be planned, or not at all"
        return None

    name = f"{op_type.lower()}_late"
    run = run_late(*fixed)
    return KernelSpec(name, f"ai.onnx:{op_type}", run, supports=supports, cost=no_cost, call=True)


# Inputs whose content decides sizes, of operators without a late row of their own.
_PARAMETERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("CumSum", "CumProd", "Trilu", "CenterCropPad", "MaxUnpool"), (1,)),
    **dict.fromkeys(("Col2Im",), (1, 2)),
}


def _unranked(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    return run_late(*_PARAMETERS.get(op.type, ()))(op, inputs)


def _supports_unranked(op: OpView) -> str | None:
    from zenith.backends.cpu.kernels import all_specs

    values = [v for v in (*op.inputs, *op.outputs) if v is not None and v.name]
    if all(v.value.shape is not None for v in values):
        return "all ranks are known"
    inputs = [v for v in op.inputs if v is not None]
    if not inputs or any(v.value.dtype is None for v in inputs):
        return "a type is not known"
    for spec in all_specs():
        if spec.op == op.key and not spec.call:
            accepted = [op.input(k) for k in spec.dtypes]
            if all(
                v is None or v.dtype in names
                for v, names in zip(accepted, spec.dtypes.values(), strict=True)
            ):
                return None
    return f"no native {op.type} for these types"


SPECS = [
    _late("Reshape", _reshape),
    _late("Expand", _expand),
    _late("Slice", _slice),
    _late("Range", _range),
    _late("ConstantOfShape", _constant_of_shape),
    _late("Tile", _tile),
    _late("Split", _split),
    _late("Squeeze", _squeeze),
    _late("Unsqueeze", _unsqueeze),
    _late("Shape", _shape),
    _late("Size", _size),
    _planned("Pad", 1, 3),
    _planned("TopK", 1),
    _planned("OneHot", 1),
    _planned("DFT", 1, 2),
    _planned("STFT", 1, 3),
    _planned("Resize", 1, 2, 3),
    KernelSpec("late", "*", _unranked, supports=_supports_unranked, cost=no_cost, call=True),
]
