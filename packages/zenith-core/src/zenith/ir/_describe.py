"""How a node reads in an error message."""

from __future__ import annotations

import onnx_ir as ir

SOURCE_KEY = "zenith.source"  # metadata_props key of a node: "file.py:88 (module.path)"


def _type(value: ir.Value) -> str:
    if value.dtype is None:
        return ""
    shape = "" if value.shape is None else f"[{','.join(_dim(d) for d in value.shape)}]"
    return f"{value.dtype.name.lower()}{shape} "


def _dim(dim: int | ir.SymbolicDim) -> str:
    return str(dim) if isinstance(dim, int) else dim.value or "?"


def describe(node: ir.Node) -> str:
    """One line: ``float[2,4] y = MatMul(x, w)    # encoder.py:88``."""
    outs = ", ".join(f"{_type(v)}{v.name}" for v in node.outputs)
    ins = ", ".join("" if v is None else f"{_type(v)}{v.name}" for v in node.inputs)
    domain = f"{node.domain}." if node.domain else ""
    overload = f":{node.overload}" if node.overload else ""
    attrs = ", ".join(
        f"{a.name}={a.value}"
        for a in node.attributes.values()
        if a.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.INTS)
    )
    source = node.metadata_props.get(SOURCE_KEY)
    where = f"    # {source}" if source else ""
    return f"{outs} = {domain}{node.op_type}{overload}{f'<{attrs}>' if attrs else ''}({ins}){where}"
