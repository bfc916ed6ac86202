"""Nodes that can be planned only when their inputs are there: axes or ranks that data decides.

`run_late(...)` is ``run`` of a row of kind "call". It plans the one node for the shapes, and the
content of its parameters, that it is called with; the last plans of every node are kept.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from zenith.backends.cpu.program import NativeProgram
from zenith.config import CompileConfig
from zenith.errors import KernelError
from zenith.ir import OPSET, GraphIR
from zenith.runtime.context import ExecutionContext, current_threads
from zenith.runtime.dispatcher import Selection
from zenith.runtime.op_view import OpView

__all__ = ["run_late"]

Array: TypeAlias = np.ndarray[Any, Any]

_KEPT = 64  # plans of one node

_plans: weakref.WeakKeyDictionary[OpView, OrderedDict[Any, NativeProgram]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


def run_late(*parameters: int) -> Callable[[OpView, Sequence[Array | None]], list[Array]]:
    """What runs a node by native kernels planned for the inputs of the call.

    parameters: positions of inputs whose content is part of the plan: axes, sizes, scales.
        Constants are in any case.
    """

    def run(op: OpView, inputs: Sequence[Array | None]) -> list[Array]:
        weights = {k for k, v in enumerate(op.inputs) if v is not None and v.is_const}
        key = tuple(
            None
            if x is None or k in weights
            else (x.dtype.name, x.shape, x.tobytes() if k in parameters else b"")
            for k, x in enumerate(inputs)
        )
        with _lock:
            kept = _plans.setdefault(op, OrderedDict())
            program = kept.get(key)
            if program is not None:
                kept.move_to_end(key)
        if program is None:
            program = _plan(op, inputs, {*parameters, *weights})
            with _lock:
                kept[key] = program
                while len(kept) > _KEPT:
                    kept.popitem(last=False)
        fixed = {*parameters, *weights}
        given = [x for k, x in enumerate(inputs) if x is not None and k not in fixed]
        context = ExecutionContext(threads=current_threads.get())
        results = iter(program.run_arrays(given, context))
        return [next(results) if v.name else np.empty(0) for v in op.node.outputs]

    return run


def _plan(op: OpView, inputs: Sequence[Array | None], parameters: Collection[int]) -> NativeProgram:
    from zenith.backends.cpu.backend import CpuBackend
    from zenith.backends.cpu.kernels import all_specs

    values: list[ir.Value | None] = []
    for k, x in enumerate(inputs):
        if x is None:
            values.append(None)
            continue
        like = op.node.inputs[k]
        assert like is not None and like.dtype is not None
        value = ir.Value(name=f"i{k}", type=ir.TensorType(like.dtype), shape=ir.Shape(x.shape))
        if k in parameters:
            value.const_value = ir.Tensor(np.array(x), name=value.name)
        values.append(value)
    attributes = list(op.node.attributes.values())
    node = ir.Node("", op.type, values, attributes, num_outputs=len(op.node.outputs))
    for k, (old, new) in enumerate(zip(op.node.outputs, node.outputs, strict=True)):
        new.name = f"o{k}" if old.name else ""
    present = [v for v in values if v is not None]
    graph = ir.Graph(
        [v for v in present if v.const_value is None],
        [v for v in node.outputs if v.name],
        nodes=[node],
        initializers=[v for v in present if v.const_value is not None],
        opset_imports={"": OPSET},
        name="late",
    )
    built = GraphIR(ir.Model(graph, ir_version=10)).infer_shapes()
    view = OpView(node)
    planned = (s for s in all_specs() if not s.call and not s.tags)  # tagged ones are less exact
    for spec in planned:
        if spec.matches(view.key, "") and spec.reason_against(view) is None:
            return CpuBackend().build(built, [Selection(view, spec, "")], CompileConfig())
    shapes = ", ".join("_" if x is None else f"{x.dtype.name}{list(x.shape)}" for x in inputs)
    raise KernelError(f"no kernel for {op.key} of {shapes}")
