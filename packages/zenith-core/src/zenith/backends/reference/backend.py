"""One kernel row for every standard operator: numpy, by onnx's reference evaluator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from zenith.ir.control import captured
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
        node = _with_constants(op.node)
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
        if op.domain != "ai.onnx":
            opsets.append(onnx.helper.make_opsetid(op.domain, _version(op)))
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        found = _evaluators[op] = reference_evaluator(model)
    return found


def _with_constants(node: ir.Node) -> onnx.NodeProto:
    """The node as a proto; constants that its subgraphs read from outside move into them."""
    proto = ir.to_proto(node)
    for attribute in proto.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        for value in captured(node.attributes[attribute.name].as_graph()):
            if value.const_value is not None:
                tensor = ir.Tensor(value.const_value.numpy(), name=value.name)
                attribute.g.initializer.append(ir.to_proto(tensor))
    return proto


def _run(op: OpView, inputs: Sequence[Any]) -> list[Any]:
    if op.key in _OPTIONALS:
        return [_OPTIONALS[op.key](*inputs)]
    feeds = {
        str(v.name): array for v, array in zip(op.node.inputs, inputs, strict=True) if v is not None
    }
    results = iter(_evaluator(op).run(None, feeds))
    return [_result(next(results)) if v.name else np.empty(0) for v in op.node.outputs]


def _result(value: Any) -> Any:
    """An array; a sequence stays a list, an empty optional None, strings are objects."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_result(item) for item in value]
    return as_array(value)


def _element(value: Any = None) -> Any:
    if value is None:
        raise ValueError("the optional has no value")
    return value


# An optional is its value, or None; onnx's evaluator wraps some in lists.
_OPTIONALS: dict[str, Callable[..., Any]] = {
    "ai.onnx:Optional": lambda value=None: value,
    "ai.onnx:OptionalGetElement": _element,
    "ai.onnx:OptionalHasElement": lambda value=None: np.array(value is not None),
}


def _supports(op: OpView) -> str | None:
    if op.domain == "ai.onnx":
        return None if onnx.defs.has(op.type) else f"ONNX has no operator {op.type}"
    if op.body is not None or not onnx.defs.has(op.type, _version(op), op.domain):
        return f"operators of domain '{op.domain}' are inlined before they reach it"
    return None


def _version(op: OpView) -> int:
    """The version of the node's domain that its model imports."""
    graph = op.node.graph
    return 1 if graph is None else graph.opset_imports.get(op.domain, 1)


def _cost(op: OpView) -> Cost:
    return Cost()


REFERENCE_ROW = KernelSpec(
    "onnx_reference", "*", _run, supports=_supports, cost=_cost, tensors_only=False
)
