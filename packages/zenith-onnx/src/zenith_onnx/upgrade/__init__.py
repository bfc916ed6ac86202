"""Old opsets to GraphIR's: every operator is rewritten to what it means today.

`upgrade` walks the nodes of a graph and its subgraphs once. What changed between versions of an
operator, beyond more element types, is a step in one of the modules here; the test
`test_every_change_is_known` compares the steps with the history that onnx keeps of all operators.
"""

from __future__ import annotations

import onnx_ir as ir

from zenith_onnx.upgrade import arithmetic, norm, recurrent, resize, shape
from zenith_onnx.upgrade._table import STEPS, Site

__all__ = ["STEPS", "needs_types", "upgrade"]

_FAMILIES = (arithmetic, norm, recurrent, resize, shape)

# Operators whose steps are simpler when the rank or element type of an input is known.
_TYPED = {
    "Softmax": 13,
    "LogSoftmax": 13,
    "Hardmax": 13,
    "Clip": 11,
    "Pad": 11,
    "PRelu": 7,
    "BatchNormalization": 9,
    "GroupNormalization": 21,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor"), 7),
    **dict.fromkeys(("Equal", "Greater", "Less"), 7),
}


def needs_types(model: ir.Model, opset: int) -> bool:
    """Whether `upgrade` wants types and ranks that the model does not declare."""
    for node in model.graph.all_nodes():
        if opset < _TYPED.get(node.op_type, 0) and any(
            v is not None and (v.shape is None or v.dtype is None) for v in node.inputs
        ):
            return True
    return False


def upgrade(graph: ir.Graph | ir.Function, opset: int) -> None:
    """Rewrite all nodes of the standard domain, written for `opset`, in place."""
    for node in list(graph):
        for attribute in list(node.attributes.values()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                upgrade(attribute.as_graph(), opset)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    upgrade(inner, opset)
        if node.domain in ("", "ai.onnx"):
            _upgrade_node(node, opset)


def _upgrade_node(node: ir.Node, opset: int) -> None:
    site = Site(node)
    if opset < 6:
        node.attributes.pop("consumed_inputs", None)
    for before, step in STEPS.get(node.op_type, ()):
        if opset < before:
            step(site, opset)
            if node.graph is None:  # replaced
                return
