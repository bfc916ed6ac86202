"""One kernel row for every standard operator: numpy, by onnx's reference evaluator."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from zenith.ir.reference import as_array, reference_evaluator
from zenith.runtime.backend import CallableBackend
from zenith.runtime.kernel_registry import Cost, KernelSpec
from zenith.runtime.op_view import OpView

__all__ = ["REFERENCE_ROW", "ReferenceBackend"]


class ReferenceBackend(CallableBackend):
    """Slow and complete: the last resort of every target, and the oracle of the tests."""

    name = "reference"


_evaluators: weakref.WeakKeyDictionary[OpView, ReferenceEvaluator] = weakref.WeakKeyDictionary()


def _evaluator(op: OpView) -> ReferenceEvaluator:
    found = _evaluators.get(op)
    if found is None:
        node = ir.to_proto(op.node)
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_value_info(n, onnx.TypeProto())
                for n in dict.fromkeys(node.input)
                if n
            ],
            [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n],
        )
        opsets = [onnx.helper.make_opsetid("", 28)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        found = _evaluators[op] = reference_evaluator(model)
    return found


def _run(op: OpView, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    feeds = {
        str(v.name): array
        for v, array in zip(op.node.inputs, inputs, strict=True)
        if v is not None and array is not None
    }
    results = iter(_evaluator(op).run(None, feeds))
    return [as_array(next(results)) if v.name else np.empty(0) for v in op.node.outputs]


def _supports(op: OpView) -> str | None:
    if op.domain != "ai.onnx":
        return f"operators of domain '{op.domain}' are inlined before they reach it"
    if not onnx.defs.has(op.type):
        return f"ONNX has no operator {op.type}"
    return None


def _cost(op: OpView) -> Cost:
    return Cost()


REFERENCE_ROW = KernelSpec("onnx_reference", "*", _run, supports=_supports, cost=_cost)
