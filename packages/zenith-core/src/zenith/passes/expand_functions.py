"""Replace standard operators by the bodies ONNX defines for them, where that makes them native.

Many operators are functions: their schema says them in terms of others. Where a backend has no
kernel for such a node but for every node of its body, it runs the body.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir

from zenith.ir import OPSET, GraphIR
from zenith.ir.control import is_control, rebound
from zenith.passes.manager import PassManager
from zenith.passes.rewrite import Rewriter, array, const_shape
from zenith.passes.widen_half import widen_half, would_widen

__all__ = ["expand_functions"]

_CLEAN = ("lift_constants", "infer_shapes", "fold_constants", "identities", "dce", "infer_shapes")
_LIMIT = 4096  # elements of a constant input whose data may matter to the body
_DEPTH = 4  # bodies within bodies


def expand_functions(
    graph: GraphIR, claims: Callable[[ir.Node], bool], *, depth: int = _DEPTH
) -> int:
    """Expand the nodes of `graph` that `claims` refuses and whose whole body it accepts; how many.

    A node in half precision that `widen_half` makes native is left to it.

    claims: whether the backend has a kernel for a node, which need not be in the graph.
    """
    rewriter = Rewriter(graph)
    changed = 0
    for node in graph.nodes:
        if not _is_function(node) or claims(node) or would_widen(graph, node, claims):
            continue
        body = _body(node, claims, depth)
        if body is not None:
            changed += _transplant(rewriter, node, body)
    return changed


def _is_function(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, OPSET, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def _body(node: ir.Node, claims: Callable[[ir.Node], bool], depth: int) -> GraphIR | None:
    """The body as a graph of its own, its inputs those of the node that are given and not small
    constants; None if it cannot be made or some node of it has no kernel."""
    try:
        body = GraphIR(ir.from_proto(_inlined(node)))
        PassManager(_CLEAN).run(body)
    except Exception as error:  # noqa: BLE001  the inliner and inference raise anything
        logging.getLogger("zenith").info("'%s' is not expanded: %s", node.op_type, error)
        return None
    if any(n.op_type == node.op_type for n in body.nodes):
        return None
    if any(is_control(n) for n in body.nodes):
        return None  # bodies of control flow read values of this graph by name
    widen_half(body, claims)
    if depth > 1:
        expand_functions(body, claims, depth=depth - 1)
    return body if all(claims(n) for n in body.nodes) else None


def _inlined(node: ir.Node) -> onnx.ModelProto:
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    graph = onnx.GraphProto(name="body")
    for k, value in enumerate(node.inputs):
        name = "" if value is None else f"i{k}"
        proto.input.append(name)
        if value is None:
            continue
        shape = const_shape(value)
        if shape is not None and _size(shape) <= _LIMIT:
            data = array(value)
            assert data is not None
            tensor = ir.to_proto(ir.Tensor(data, dtype=value.dtype, name=name))
            graph.initializer.append(tensor)
            graph.value_info.append(_info(value, name))  # the inliner asks for its type
        else:
            graph.input.append(_info(value, name))
    for k, value in enumerate(node.outputs):
        name = f"o{k}" if value.name else ""
        proto.output.append(name)
        if name:
            graph.output.append(_info(value, name))
    present = {a.name for a in proto.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, OPSET, "").attributes.items():
        if name not in present and attribute.default_value.type:  # the inliner leaves them out
            proto.attribute.append(attribute.default_value)
    graph.node.append(proto)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    return onnx.inliner.inline_selected_functions(
        model, [("", node.op_type)], exclude=False, inline_schema_functions=True
    )


def _info(value: ir.Value, name: str) -> onnx.ValueInfoProto:
    copy = ir.Value(name=name, type=value.type, shape=value.shape)
    return ir.to_proto(copy)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _transplant(rewriter: Rewriter, node: ir.Node, body: GraphIR) -> bool:
    """Put the nodes of `body` in place of `node`."""
    values: dict[ir.Value, ir.Value] = {}
    for value in body.inputs:
        given = node.inputs[int(str(value.name)[1:])]
        assert given is not None
        values[value] = given
    for value in body.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        name = f"{node.name or node.op_type}_{value.name}"
        values[value] = rewriter.adopt(tensor, name)
    new = []
    for inner in body.nodes:
        copy = ir.Node(
            inner.domain,
            inner.op_type,
            [None if v is None else values[v] for v in inner.inputs],
            rebound(inner, values),
            num_outputs=len(inner.outputs),
            name=f"{node.name}/{inner.name or inner.op_type}" if node.name else None,
        )
        for old, out in zip(inner.outputs, copy.outputs, strict=True):
            out.type, out.shape = old.type, old.shape
            out.metadata_props.update(old.metadata_props)
            if not old.name:
                out.name = ""
            values[old] = out
        new.append(copy)
    outputs = {f"o{k}": v for k, v in enumerate(node.outputs)}
    results = {outputs[str(v.name)]: values[v] for v in body.outputs}
    return rewriter.replace([node], results, new)
