"""Contents of small tables of sizes: rows of vectors that are made one vector again."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from zenith.ir.shape_rules import corrects

__all__: list[str] = []


@corrects("Reshape")
def _flat_again(ctx: Any, node: ir.Node, own: Any) -> None:
    """How tf2onnx hands on what to pad before and behind each axis."""
    own(ctx, node)
    flat, table = node.outputs[0], node.inputs[0]
    if flat.shape is None or len(flat.shape) != 1 or ctx.get_symbolic_value(flat) is not None:
        return
    content = None if table is None else _rows(ctx, table)
    if content is not None:
        ctx.set_symbolic_value(flat, content)


def _rows(ctx: Any, table: ir.Value) -> list[Any] | None:
    """Row by row, of a table put together from vectors; None if it is none, or they are unknown."""
    together = table.producer()
    if together is None or together.op_type != "Concat":
        return None
    axis = together.attributes.get("axis")
    if axis is None or axis.as_int() != 0:
        return None
    content: list[Any] = []
    for row in together.inputs:
        made = None if row is None else row.producer()
        if made is None or made.op_type != "Unsqueeze":
            return None
        vector, axes = made.inputs[0], made.inputs[1]
        where = None if axes is None else ir.convenience.get_const_tensor(axes)
        known = None if vector is None else ctx.get_symbolic_value(vector)
        if where is None or where.numpy().tolist() != [0] or known is None:
            return None
        content += known
    return content
