"""Operators whose sizes or parameters are computed from data: calls between two plans.

Those that only move data are numpy's own views and copies. The others become a plan of one node,
made for the sizes and parameters of the call; the plans of the last calls are kept.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.backends.cpu.kernels.compose import REDUCTIONS
from zenith.backends.cpu.kernels.pointwise_program import TEMPLATES, Unsupported, translate
from zenith.errors import KernelError
from zenith.ir import OPSET, GraphIR
from zenith.runtime.context import ExecutionContext
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["SPECS"]

Array = np.ndarray[Any, Any]
KEPT = 64  # plans of one node


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
    _bounded(math.prod(shape) * x.itemsize)
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
    _bounded(count * start.dtype.itemsize)
    steps = np.arange(count).astype(start.dtype)
    return [np.asarray(start + steps * delta, start.dtype)]


def _constant_of_shape(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    value = op.attr("value")
    fill = np.zeros((), np.float32) if value is None else value.numpy().reshape(())
    shape = _ints(inputs[0])
    _bounded(math.prod(shape) * fill.itemsize)
    return [np.broadcast_to(fill, shape)]


def _tile(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
    assert inputs[0] is not None
    repeats = _ints(inputs[1])
    _bounded(inputs[0].nbytes * math.prod(repeats))
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


def _bounded(nbytes: int) -> None:
    """Sizes from data are checked before memory is asked for."""
    if nbytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise MemoryError(f"a result of {nbytes} bytes does not fit in memory")


class _Plans:
    """Plans of one node by types, sizes and parameters of the call; the last `KEPT` are kept."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, op: OpView, inputs: Sequence[Array | None], fixed: Sequence[int]) -> list[Array]:
        present = [(i, x) for i, x in enumerate(inputs) if x is not None]
        key = tuple(
            (i, x.dtype.name, x.shape, x.tobytes() if i in fixed else b"") for i, x in present
        )
        with self._lock:
            program = self._plans.get(key)
            if program is None:
                program = self._plans[key] = _plan(op, inputs, fixed)
            self._plans.move_to_end(key)
            if len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        arguments = [x for i, x in present if i not in fixed]
        results = iter(program.run_arrays(arguments, ExecutionContext()))
        return [next(results) if v.name else np.empty(0) for v in op.outputs]


_plans: weakref.WeakKeyDictionary[OpView, _Plans] = weakref.WeakKeyDictionary()


def _plan(op: OpView, inputs: Sequence[Array | None], fixed: Sequence[int]) -> Any:
    """A program of this one node with the inputs at `fixed` as constants."""
    from zenith.backends.cpu.backend import CpuBackend
    from zenith.config import CompileConfig
    from zenith.runtime.dispatcher import KernelDispatcher, Selection
    from zenith.runtime.kernel_registry import KernelRegistry

    values: list[ir.Value | None] = []
    for index, array in enumerate(inputs):
        if array is None:
            values.append(None)
            continue
        value = ir.Value(name=f"x{index}", shape=ir.Shape(array.shape))
        source = op.node.inputs[index]
        value.type = source.type if source is not None else None
        if index in fixed:
            value.const_value = ir.Tensor(np.array(array), name=value.name)
        values.append(value)
    node = ir.Node("", op.type, values, list(op.node.attributes.values()),
                   num_outputs=len(op.outputs), name=op.node.name)  # fmt: skip
    for index, output in enumerate(node.outputs):
        output.name = f"y{index}" if op.outputs[index].name else ""
    free = [v for v in values if v is not None and v.const_value is None]
    constants = [v for v in values if v is not None and v.const_value is not None]
    results = [v for v in node.outputs if v.name]
    graph = GraphIR(
        ir.Model(
            ir.Graph(free, results, nodes=[node], initializers=constants,
                     opset_imports={"": OPSET}, name="call"),
            ir_version=10,
        )
    )  # fmt: skip
    graph.infer_shapes()
    registry = KernelRegistry()
    from zenith.backends.cpu.kernels import all_specs

    registry.add("cpu", *all_specs())
    backend = CpuBackend()
    answer = KernelDispatcher(registry).select("cpu", OpView(node), call=False)
    if not isinstance(answer, Selection):
        reasons = "; ".join(reason for _, reason in answer) or "there is no kernel"
        raise KernelError(f"{op.type} cannot be planned for this call: {reasons}")
    return backend.build(graph, [answer], CompileConfig())


def _no_cost(op: OpView) -> Cost:
    return Cost()


def _late(op_type: str, run: Any) -> KernelSpec:
    return KernelSpec(
        f"{op_type.lower()}_late", f"ai.onnx:{op_type}", run, cost=_no_cost, call=True
    )


def _planned(op_type: str, *fixed: int) -> KernelSpec:
    """A row that plans the node per call, with the inputs at `fixed` as parameters."""

    def run(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
        return _plans.setdefault(op, _Plans()).run(op, inputs, fixed)

    def supports(op: OpView) -> str | None:
        from zenith.backends.cpu.kernels import all_specs

        x = op.input(0)
        rows = [spec for spec in all_specs() if spec.op == op.key and not spec.call]
        if x is None or not any(x.dtype in spec.dtypes.get(0, {x.dtype}) for spec in rows):
            return f"no native {op.type} for this type"
        late = [op.input(i) for i in fixed]
        values = [v for v in (*op.inputs, *op.outputs) if v is not None]
        if any(v.value.shape is None for v in values):
            return None
        if not any(v is not None and v.known is None and v.const is None for v in late):
            return "its parameters are known: it can be planned, or not at all"
        return None

    name = f"{op_type.lower()}_late"
    return KernelSpec(name, f"ai.onnx:{op_type}", run, supports=supports, cost=_no_cost, call=True)


def _elementwise(op_type: str) -> KernelSpec:
    """A row for operands whose ranks are known when they are there."""

    def run(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
        return _plans.setdefault(op, _Plans()).run(op, inputs, ())

    def supports(op: OpView) -> str | None:
        values = [v for v in (*op.inputs, *op.outputs) if v is not None]
        if all(v.value.shape is not None for v in values):
            return "all ranks are known: it can be planned, or not at all"
        try:
            translate(op)
        except Unsupported as reason:
            return str(reason)
        return None

    name = f"pointwise_{op_type.lower()}_late"
    return KernelSpec(name, f"ai.onnx:{op_type}", run, supports=supports, cost=_no_cost, call=True)


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
    _planned("Resize", 1, 2, 3),
    *(_planned(name, 1) for name in (*REDUCTIONS, "ReduceLogSumExp", "CumSum", "CumProd")),
    *(_elementwise(name) for name in TEMPLATES),
]
