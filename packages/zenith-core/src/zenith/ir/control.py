"""Control flow: the subgraphs of If, Loop, Scan and SequenceMap, and what they capture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

__all__ = [
    "CONTROL",
    "captured",
    "closed",
    "is_control",
    "reads",
    "rebound",
    "settle_condition",
    "subgraphs",
]

CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def is_control(node: ir.Node) -> bool:
    """Whether the node runs subgraphs."""
    return node.op_type in CONTROL and node.domain in ("", "ai.onnx")


def subgraphs(node: ir.Node) -> dict[str, ir.Graph]:
    """The node's subgraphs by attribute name."""
    return {
        name: attribute.as_graph()
        for name, attribute in node.attributes.items()
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref()
    }


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Values of outer scopes that a subgraph reads, itself or in subgraphs of its own."""
    inner = {*graph.inputs, *graph.initializers.values()}
    found: dict[ir.Value, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        inner.update(node.outputs)
        for nested in subgraphs(node).values():
            inner.update(nested.inputs, nested.initializers.values())
    for used in _used(graph):
        if used not in inner:
            found[used] = None
    return list(found)


def reads(node: ir.Node) -> list[ir.Value]:
    """Everything a node needs: its inputs, and what its subgraphs capture."""
    values = dict.fromkeys(v for v in node.inputs if v is not None)
    for graph in subgraphs(node).values():
        values.update(dict.fromkeys(captured(graph)))
    return list(values)


def closed(graph: ir.Graph, model: ir.Model) -> tuple[ir.Model, list[ir.Value]]:
    """A copy of a subgraph as a model of its own, and the outer values it captures.

    Captured values become inputs after the subgraph's own, captured constants initializers.
    """
    copy = graph.clone(allow_outer_scope_values=True)
    outer: list[ir.Value] = []
    stand_in: dict[ir.Value, ir.Value] = {}
    for value in captured(graph):
        mine = ir.Value(name=value.name, shape=value.shape, type=value.type)
        mine.metadata_props.update(value.metadata_props)
        if value.const_value is not None and not value.is_graph_input():
            mine.const_value = value.const_value
            copy.register_initializer(mine)
        else:
            copy.inputs.append(mine)
            outer.append(value)
        stand_in[value] = mine
    _substitute(copy, stand_in)
    copy.opset_imports.update(model.graph.opset_imports)
    copy.name = graph.name or "body"
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(copy, ir_version=model.ir_version, functions=functions), outer


def settle_condition(body: ir.Graph) -> None:
    """A body of Loop runs while the condition holds: whoever reads it there reads a constant."""
    condition = body.inputs[1]
    shape = [d if isinstance(d, int) else 1 for d in condition.shape or ()]
    holds = ir.tensor(np.ones(shape, bool), name=f"{condition.name}.holds")
    known = ir.Value(
        name=holds.name,
        shape=ir.Shape(shape),
        type=ir.TensorType(ir.DataType.BOOL),
        const_value=holds,
    )
    body.register_initializer(known)
    _substitute(body, {condition: known})


def rebound(node: ir.Node, values: Mapping[ir.Value, ir.Value]) -> list[ir.Attr]:
    """The node's attributes for a copy of it; subgraphs read `values[v]` where they read v."""
    found = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            graph = attribute.as_graph().clone(allow_outer_scope_values=True)
            _substitute(graph, values)
            attribute = ir.AttrGraph(attribute.name, graph)
        found.append(attribute)
    return found


def _substitute(graph: ir.Graph, values: Mapping[ir.Value, ir.Value]) -> None:
    """Let a subgraph, and those in it, read `values[v]` where they read v."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for index, source in enumerate(node.inputs):
            if source is not None and source in values:
                node.replace_input_with(index, values[source])
        for nested in subgraphs(node).values():
            _pass_through(nested, values)
    _pass_through(graph, values)


def _used(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (v for v in node.inputs if v is not None)
        for nested in subgraphs(node).values():
            yield from _used(nested)
    yield from graph.outputs


def _pass_through(graph: ir.Graph, stand_in: Mapping[ir.Value, ir.Value]) -> None:
    """Outputs that are outer values, or one value twice, become outputs of an Identity."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        source = stand_in.get(value, value)
        if source is value and value not in seen:
            seen.add(value)
            continue
        node = ir.node("Identity", [source])
        node.outputs[0].shape, node.outputs[0].type = source.shape, source.type
        node.outputs[0].name = f"{source.name}.out{index}"
        graph.append(node)
        graph.outputs[index] = node.outputs[0]
