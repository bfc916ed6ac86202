"""What handlers say in GraphIR's own operators, whichever opset tf2onnx writes.

Note [Functions]: tf2onnx writes ONNX of opset 18, and a rule for an operation that needs a newer
operator, or a loop, or the sizes of its operands, writes a function instead: by the builder of all
adapters, with an opset import of its own. The node calls it, the functions go with the model, and
the ONNX adapter puts their bodies in place when everything has GraphIR's opset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from zenith.ir import OPSET
from zenith.ir.builder import GraphBuilder
from zenith.ir.dims import Dim, symbol

__all__ = ["DOMAIN", "Facts", "Functions", "Write"]

DOMAIN = "zenith.tf"

Facts: TypeAlias = tuple[ir.DataType, Sequence[int]]
"""Element type and sizes, -1 where open, of an operand or a result."""

Write: TypeAlias = Callable[..., ir.Value | Sequence[ir.Value]]
"""(builder, operands) to one result or several."""


class Functions:
    """The functions of one model."""

    def __init__(self) -> None:
        self._made: list[onnx.FunctionProto] = []

    def add(self, label: str, operands: Sequence[Facts], write: Write) -> tuple[str, list[Facts]]:
        """Write a function; its name, in DOMAIN, and the facts of its results."""
        b = GraphBuilder()
        inputs = [
            b.input(f"x{i}", kind, [_size(i, axis, n) for axis, n in enumerate(shape)])
            for i, (kind, shape) in enumerate(operands)
        ]
        found = write(b, *inputs)
        results = [found] if isinstance(found, ir.Value) else list(found)
        computed = [v for node in b.nodes for v in node.outputs]
        results = [
            v if any(v is c for c in computed) else b.op("Identity", v) for v in results
        ]  # operands and constants are no results of a function
        facts: list[Facts] = [(_kind(v), [*map(_plain, b.shape_of(v))]) for v in results]
        b.drop_unused(results)
        constants = [_constant(v) for v in b.initializers(results)]
        graph = ir.Graph(inputs, results, nodes=[*constants, *b.nodes], opset_imports={"": OPSET})
        _forget_sizes(graph)
        name = f"TensorFlow.{label}.{len(self._made)}"
        function = ir.Function(DOMAIN, name, graph=graph, attributes=[])
        self._made.append(ir.to_proto(function))
        return name, facts

    def go_with(self, model: onnx.ModelProto) -> None:
        """Give the model its functions."""
        if self._made:
            model.functions.extend(self._made)
            names = {function.name for function in self._made}
            for node in _all_nodes(model.graph):
                if node.op_type in names:  # tf2onnx forgets domains when it moves nodes into loops
                    node.domain = DOMAIN
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
            model.ir_version = max(model.ir_version, 10)  # the first with value infos in functions


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _size(place: int, axis: int, size: int) -> Dim:
    return size if size >= 0 else symbol(f"x{place}_{axis}")


def _plain(size: Dim) -> int:
    return size if isinstance(size, int) else -1


def _kind(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype


def _constant(value: ir.Value) -> ir.Node:
    assert value.const_value is not None
    given = {"value": ir.AttrTensor("value", value.const_value)}
    value.const_value = None
    return ir.Node("", "Constant", [], given.values(), outputs=[value])


def _forget_sizes(graph: ir.Graph) -> None:
    """Sizes have names of this function only: in the model they would be other ones'."""
    for value in graph.inputs:
        value.shape = None
    for node in RecursiveGraphIterator(graph):
        inner = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for value in (*node.outputs, *(v for g in inner for v in g.inputs)):
            value.shape = None
            value.metadata_props.clear()
