"""Axis attributes lie within the rank: inference takes them modulo the rank or not at all."""

from __future__ import annotations

import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir._describe import describe

__all__ = ["check_axes"]

# Operators whose attribute `axis` counts the axes of their first input.
_OF_FIRST_INPUT = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "Compress",
        "Concat",
        "Gather",
        "GatherElements",
        "Hardmax",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "RMSNormalization",
        "ScatterElements",
        "Softmax",
        "Split",
        "TopK",
        "Unique",
    }
)


def check_axes(model: ir.Model) -> None:
    """Raise `ValidationError` for an axis beyond a rank that is known."""
    for node in model.graph.all_nodes():
        if node.op_type not in _OF_FIRST_INPUT or node.domain not in ("", "ai.onnx"):
            continue
        attribute, value = node.attributes.get("axis"), node.inputs[0] if node.inputs else None
        if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
            continue
        if value is None or value.shape is None:
            continue
        rank, axis = value.shape.rank(), attribute.as_int()
        if not -rank <= axis < rank and rank > 0:
            raise ValidationError(
                f"axis {axis} is outside of the {rank} axes of '{value.name}'\n  {describe(node)}",
                next=f"an axis is between {-rank} and {rank - 1}",
            )
