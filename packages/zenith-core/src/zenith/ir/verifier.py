"""What valid GraphIR is. Every pass takes valid IR and gives valid IR."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir._describe import describe
from zenith.ir.control import is_control

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OPSET", "schema", "verify"]

OPSET = 28  # ai.onnx operators of GraphIR; raised by ADR only
DOMAIN = "zenith"
DOMAIN_VERSION = 1

_BODIES = {
    "If": ("then_branch", "else_branch"),
    "Loop": ("body",),
    "Scan": ("body",),
    "SequenceMap": ("body",),
}
_Functions = Mapping[tuple[str, str, str], ir.Function]
_Signature = tuple[int, int, int, int, frozenset[str], frozenset[str]]


@functools.cache
def schema(op_type: str) -> onnx.defs.OpSchema | None:
    """The operator's schema at GraphIR's opset; None when it does not exist or is deprecated."""
    try:
        found = onnx.defs.get_schema(op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


@functools.cache
def _signature(op_type: str, domain: str = "", version: int = OPSET) -> _Signature | None:
    """(min inputs, max inputs, min outputs, max outputs, attributes, required attributes)."""
    if not onnx.defs.has(op_type, version, domain):
        return None
    found = onnx.defs.get_schema(op_type, version, domain)
    if found.deprecated:
        return None
    required = frozenset(n for n, a in found.attributes.items() if a.required)
    return (
        found.min_input,
        found.max_input,
        found.min_output,
        found.max_output,
        frozenset(found.attributes),
        required,
    )


def verify(model: ir.Model, *, types: bool) -> None:
    """Raise `ValidationError` unless `model` is valid; see `GraphIR.verify`."""
    imports = model.opset_imports
    if imports.get("") != OPSET:
        raise ValidationError(f"the graph imports ai.onnx opset {imports.get('')}, not {OPSET}")
    if imports.get(DOMAIN, DOMAIN_VERSION) != DOMAIN_VERSION:
        raise ValidationError(f"the graph imports {DOMAIN} {imports[DOMAIN]}, not {DOMAIN_VERSION}")
    _Verifier(model.functions, imports, types).graph(model.graph, frozenset())
    for function in model.functions.values():
        _Verifier(model.functions, imports, False).graph(function.graph, frozenset())


def check_bodies(node: ir.Node) -> None:
    """Raise unless the inner graphs of control flow take and give as many values as their node."""
    inputs = 0 if node.op_type == "If" else len(node.inputs)
    outputs = len(node.outputs) + (node.op_type == "Loop")
    for name in _BODIES[node.op_type]:
        attribute = node.attributes[name]
        if attribute.is_ref() or attribute.type != ir.AttributeType.GRAPH:
            raise ValidationError(f"'{name}' is not a graph\n  {describe(node)}")
        body = attribute.as_graph()
        if (len(body.inputs), len(body.outputs)) != (inputs, outputs):
            raise ValidationError(
                f"'{name}' must take {inputs} and give {outputs} values, not {len(body.inputs)} "
                f"and {len(body.outputs)}\n  {describe(node)}"
            )
    if node.op_type == "Scan":
        _check_scan(node)


def _check_scan(node: ir.Node) -> None:
    scanned = node.attributes["num_scan_inputs"].as_int()
    if not 1 <= scanned <= len(node.inputs) <= len(node.outputs) + scanned:
        raise ValidationError(
            f"{scanned} of {len(node.inputs)} inputs are scanned\n  {describe(node)}"
        )
    stacked = len(node.outputs) - len(node.inputs) + scanned
    for side, count in (("input", scanned), ("output", stacked)):
        for what in ("axes", "directions"):
            given = node.attributes.get(f"scan_{side}_{what}")
            if given is not None and len(given.as_ints()) != count:
                raise ValidationError(
                    f"'{given.name}' has {len(given.as_ints())} items, not {count}\n"
                    f"  {describe(node)}"
                )


class _Verifier:
    def __init__(self, functions: _Functions, imports: Mapping[str, int], types: bool) -> None:
        self.functions = functions
        self.imports = imports
        self.types = types

    def graph(self, graph: ir.Graph, outer: frozenset[ir.Value]) -> None:
        """Check nodes in order: a use before a definition also shows cycles."""
        defined: set[ir.Value] = set(outer)
        names: dict[str, ir.Value] = {}

        def define(values: Iterable[ir.Value], where: str) -> None:
            for value in values:
                if value.name and names.setdefault(value.name, value) is not value:
                    raise ValidationError(f"{where} defines '{value.name}' a second time")
                defined.add(value)

        define(graph.inputs, "the list of inputs")
        for name, weight in graph.initializers.items():
            if weight.const_value is None and weight not in defined:
                raise ValidationError(f"initializer '{name}' has no data")
            if weight.name != name:
                raise ValidationError(f"initializer '{name}' is registered as '{weight.name}'")
        define(graph.initializers.values(), "the list of initializers")
        if self.types:
            for value in defined - outer:
                self.type(value, "graph input or initializer")
        for node in graph:
            for used in node.inputs:
                if used is not None and used not in defined:
                    raise ValidationError(
                        f"'{used.name}' is used before it is defined, or never is\n"
                        f"  {describe(node)}"
                    )
            self.node(node)
            if is_control(node):
                check_bodies(node)
            for attr in node.attributes.values():
                if attr.is_ref():
                    continue
                if attr.type == ir.AttributeType.GRAPH:
                    self.graph(attr.as_graph(), frozenset(defined))
                elif attr.type == ir.AttributeType.GRAPHS:
                    for inner in attr.as_graphs():
                        self.graph(inner, frozenset(defined))
            define(node.outputs, f"node '{node.name}' ({node.op_type})")
        for value in graph.outputs:
            if value not in defined:
                raise ValidationError(f"graph output '{value.name}' is never computed")

        for value in graph.inputs:
            if isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.UNDEFINED:
                raise ValidationError(f"input '{value.name}' has no element type")

    def type(self, value: ir.Value, where: str) -> None:
        if value.type is None:
            raise ValidationError(f"'{value.name}' has no type\n  {where}")
        if value.shape is None and isinstance(value.type, ir.TensorType):
            raise ValidationError(f"'{value.name}' has no shape\n  {where}")

    def node(self, node: ir.Node) -> None:
        if self.types:
            for value in node.outputs:
                if (value.shape is None or value.type is None) and (value.name or value.uses()):
                    self.type(value, describe(node))
        if node.domain in ("", "ai.onnx"):
            self.standard(node, _signature(node.op_type), f"ai.onnx opset {OPSET}")
            return
        version = self.imports.get(node.domain, 0)
        signature = _signature(node.op_type, node.domain, version)
        if signature is not None:  # ONNX's other domains: ai.onnx.ml, ai.onnx.preview...
            self.standard(node, signature, f"{node.domain} opset {version}")
            return
        function = self.functions.get((node.domain, node.op_type, node.overload or ""))
        if function is None:
            raise ValidationError(
                f"no function in the model says what '{node.domain}.{node.op_type}' "
                f"(overload '{node.overload or ''}') means\n  {describe(node)}"
            )
        if len(node.inputs) != len(function.inputs) or None in node.inputs:
            raise ValidationError(
                f"{node.op_type} takes {len(function.inputs)} inputs, all of them\n"
                f"  {describe(node)}"
            )
        if len(node.outputs) > len(function.outputs):
            raise ValidationError(
                f"{node.op_type} gives {len(function.outputs)} outputs\n  {describe(node)}"
            )
        required = {n for n, a in function.attributes.items() if a.value is None}
        self.attributes(node, frozenset(function.attributes), frozenset(required))

    def standard(self, node: ir.Node, signature: _Signature | None, where: str) -> None:
        if signature is None:
            raise ValidationError(f"{where} has no operator '{node.op_type}'\n  {describe(node)}")
        min_in, max_in, min_out, max_out, allowed, required = signature
        count = len(node.inputs)
        if not min_in <= count <= max_in:
            raise ValidationError(
                f"{node.op_type} takes {min_in} to {max_in} inputs, not {count}\n  {describe(node)}"
            )
        if None in node.inputs[:min_in]:
            found = schema(node.op_type)
            index = node.inputs.index(None)
            single = onnx.defs.OpSchema.FormalParameterOption.Single
            if found is not None and found.inputs[index].option == single:
                raise ValidationError(f"input {index} is missing\n  {describe(node)}")
        if not min_out <= len(node.outputs) <= max_out:
            raise ValidationError(
                f"{node.op_type} gives {min_out} to {max_out} outputs, not {len(node.outputs)}\n"
                f"  {describe(node)}"
            )
        self.attributes(node, allowed, required)

    def attributes(self, node: ir.Node, allowed: frozenset[str], required: frozenset[str]) -> None:
        given = node.attributes.keys()
        if given - allowed:
            raise ValidationError(
                f"{node.op_type} has no attribute {', '.join(sorted(given - allowed))}\n"
                f"  {describe(node)}"
            )
        if required - given:
            raise ValidationError(
                f"{node.op_type} needs attribute {', '.join(sorted(required - given))}\n"
                f"  {describe(node)}"
            )
