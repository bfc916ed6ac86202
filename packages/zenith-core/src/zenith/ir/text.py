"""Text form of GraphIR: ONNX's own, with big weights as comments and overloads made identifiers.

The ONNX text parser accepts only identifiers as overload, so ``bias.gelu`` is written
``bias__gelu``. Types of inner values are left out: `infer_shapes` gives them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir.fingerprint import tensor_digest
from zenith.ir.proto import from_proto

__all__ = ["from_text", "to_text"]

_ELIDED = re.compile(r"^# weight ('(?:[^'\\]|\\.)*'|\S+) (\w+)(\[[\d,]*\]) ([0-9a-f]+)$", re.M)


def to_text(model: ir.Model, *, limit: int) -> str:
    """Text of the model; initializers above `limit` elements as ``# weight`` comments."""
    graph = model.graph
    kept = list(graph.initializers.values())
    elided = [v for v in kept if v.const_value is not None and v.const_value.size > limit]
    graph.initializers.clear()
    try:
        for value in kept:
            if value.const_value is None or value.const_value.size <= limit:
                graph.register_initializer(value)
        proto = ir.to_proto(model)
    finally:
        graph.initializers.clear()
        for value in kept:
            graph.initializers[value.name or ""] = value
    del proto.graph.value_info[:]
    for node in _nodes(proto):
        node.ClearField("name")
        node.overload = node.overload.replace(".", "__")
    for function in proto.functions:
        function.overload = function.overload.replace(".", "__")
        del function.value_info[:]
    lines = [
        f"# weight {value.name} {value.const_value.dtype.name}"
        f"[{','.join(str(d) for d in value.const_value.shape)}] {tensor_digest(value.const_value)}"
        for value in elided
        if value.const_value is not None
    ]
    return "\n".join([*lines, onnx.printer.to_text(proto)]).rstrip() + "\n"


def from_text(text: str, weights: Mapping[str, np.ndarray[Any, Any]]) -> ir.Model:
    """Model of a text; elided weights come from `weights`."""
    try:
        proto = onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raw = error.args[0] if error.args else error
        message = raw.decode() if isinstance(raw, bytes) else str(raw)
        raise ValidationError(f"this is not a graph's text: {message}") from error
    for name, dtype, shape, digest in _ELIDED.findall(text):
        if name not in weights:
            raise ValidationError(
                f"the text leaves out the data of weight '{name}' ({dtype}{shape})",
                next="pass it in weights=, or write the text with a larger limit=",
            )
        tensor = ir.Tensor(weights[name], name=name)
        if tensor_digest(tensor) != digest:
            raise ValidationError(f"weight '{name}' is not the one the text was written with")
        proto.graph.initializer.append(ir.to_proto(tensor))
    for node in _nodes(proto):
        node.overload = node.overload.replace("__", ".")
    for function in proto.functions:
        function.overload = function.overload.replace("__", ".")
    return from_proto(proto)


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    stack: list[Any] = [proto.graph.node, *(f.node for f in proto.functions)]
    while stack:
        for node in stack.pop():
            yield node
            for attr in node.attribute:
                if attr.type == onnx.AttributeProto.GRAPH:
                    stack.append(attr.g.node)
