"""Identity of a graph: a digest of what it computes, independent of inner names."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

__all__ = ["fingerprint", "tensor_digest"]


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Hex digest of a tensor's dtype, shape and bytes."""
    h = hashlib.blake2b(digest_size=16)
    h.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.dtype == ir.DataType.STRING:
        h.update(repr(tensor.numpy().tolist()).encode())
    else:
        array = np.ascontiguousarray(tensor.numpy())
        h.update(array.view(np.uint8).data if array.size else b"")
    return h.hexdigest()


class _Hasher:
    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=20)
        self.ids: dict[ir.Value, int] = {}

    def add(self, *parts: object) -> None:
        self.hash.update(("\x1f".join(map(str, parts)) + "\x1e").encode())

    def value(self, value: ir.Value | None) -> str:
        if value is None:
            return "-"
        known = self.ids.get(value)
        if known is not None:
            return f"%{known}"
        self.ids[value] = len(self.ids)
        if value.const_value is not None and value.producer() is None:
            return f"const:{tensor_digest(value.const_value)}"
        return f"free:{value.name}"

    def attribute(self, attr: ir.Attr) -> None:
        self.add(attr.name, attr.type, attr.ref_attr_name or "")
        if attr.ref_attr_name:
            return
        if attr.type == ir.AttributeType.GRAPH:
            self.graph(attr.as_graph(), named=False)
        elif attr.type == ir.AttributeType.TENSOR:
            self.add(tensor_digest(attr.as_tensor()))
        elif attr.type == ir.AttributeType.GRAPHS:
            for graph in attr.as_graphs():
                self.graph(graph, named=False)
        elif attr.type == ir.AttributeType.TENSORS:
            self.add(*(tensor_digest(t) for t in attr.as_tensors()))
        else:
            self.add(repr(attr.value))

    def graph(self, graph: ir.Graph | ir.Function, *, named: bool) -> None:
        for value in graph.inputs:
            self.ids[value] = len(self.ids)
            self.add("in", value.name if named else "", value.type, value.shape)
        for node in graph:
            self.add(
                node.domain, node.op_type, node.overload, *(self.value(v) for v in node.inputs)
            )
            for name in sorted(node.attributes):
                self.attribute(node.attributes[name])
            for value in node.outputs:
                self.ids[value] = len(self.ids)
            self.add("to", len(node.outputs))
        for value in graph.outputs:
            self.add("out", value.name if named else "", self.value(value))


def fingerprint(model: ir.Model) -> str:
    """Digest of the model; see `GraphIR.fingerprint`."""
    hasher = _Hasher()
    hasher.graph(model.graph, named=True)
    for key in sorted(model.functions):
        hasher.add("function", *key)
        hasher.graph(model.functions[key], named=False)
    return hasher.hash.hexdigest()
