"""Bodies of functions in the place of their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from zenith.ir.control import subgraphs

__all__ = ["inline_calls"]


def inline_calls(model: ir.Model, wanted: Callable[[ir.Node], bool] = lambda call: True) -> None:
    """Replace every call of a model's function that is wanted, those in bodies too, and drop the
    functions that nothing calls any more."""
    _inline_in(model, model.graph, list(model.graph), wanted)
    called = set()
    waiting = [node.op_identifier() for node in model.graph.all_nodes()]
    while waiting:
        identifier = waiting.pop()
        if identifier in model.functions and identifier not in called:
            called.add(identifier)
            waiting += [n.op_identifier() for n in model.functions[identifier].all_nodes()]
    for identifier in model.functions.keys() - called:
        del model.functions[identifier]


def _inline_in(
    model: ir.Model,
    graph: ir.Graph,
    nodes: Sequence[ir.Node],
    wanted: Callable[[ir.Node], bool],
) -> None:
    for node in nodes:
        if node.op_identifier() in model.functions and wanted(node):
            new, results = _instance(model, node)
            ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, results)
            _inline_in(model, graph, new, wanted)
        else:
            for body in subgraphs(node).values():
                _inline_in(model, body, list(body), wanted)


def _instance(model: ir.Model, call: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes of a call's function, with its arguments, and their values for its results."""
    function = model.functions[call.op_identifier()].clone()
    arguments = dict(zip(function.inputs, call.inputs, strict=False))
    results: list[ir.Value] = []
    for value in function.outputs:
        if value in arguments or value in results:  # it has a name of its own already
            copy = ir.node("Identity", [value])
            function.append(copy)
            value = copy.outputs[0]
        results.append(value)
    scope = next(v.name for v in call.outputs if v.name)  # values' names are unique
    given = {**function.attributes, **call.attributes}
    for node in function.all_nodes():
        _settle_attributes(node, given)
        node.name = f"{scope}/{next((v.name for v in node.outputs if v.name), node.op_type)}"
        node.metadata_props.update(call.metadata_props)
        for value in node.outputs:
            value.name = value.name and f"{scope}/{value.name}"
    for formal in function.inputs:
        for user, index in list(formal.uses()):
            user.replace_input_with(index, arguments.get(formal))
    nodes = list(function)
    function.outputs.clear()
    function.graph.remove(nodes)
    for domain, version in function.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
    return nodes, results


def _settle_attributes(node: ir.Node, given: dict[str, ir.Attr]) -> None:
    """Attributes that refer to the function's get what the call says; absent ones go."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        found = given.get(str(attribute.ref_attr_name))
        if found is None or found.value is None:
            del node.attributes[name]
        else:
            node.attributes[name] = ir.Attr(name, found.type, found.value)
