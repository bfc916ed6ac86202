"""Adapter stage, first step: is this ModelProto a model at all?

A model file is untrusted input. Everything that the onnx and onnx_ir packages, shape inference or
a kernel would take for granted is looked at here, before any of them sees the model, in one walk
that is linear in the size of the file and allocates nothing but names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from zenith.errors import (
    CompilationError,
    DeviceOutOfMemoryError,
    UnsupportedOperationError,
    ValidationError,
    ZenithError,
)
from zenith_onnx import contrib
from zenith_onnx.check_growth import (
    LIMITS,
    Body,
    FunctionKey,
    Limits,
    check_expansion,
    complain_of_order,
)
from zenith_onnx.check_tensor import (
    check_element_type,
    check_name,
    check_sparse_tensor,
    check_tensor,
    check_type,
    holds_map,
    quoted,
)
from zenith_onnx.upgrade import STEPS

__all__ = ["Limits", "check", "guarded"]


_STANDARD = ("", "ai.onnx")

_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
_MESSAGES = ("t", "g", "sparse_tensor", "tp")
_SINGLE = (*_MESSAGES, "f", "i", "s")
_BESIDES = frozenset({"name", "type", "doc_string", "ref_attr_name"})


@contextmanager
def guarded(stage: str) -> Iterator[None]:
    """Turn whatever a library raises on a malformed model into an error of Zenith.

    stage: what was being done, for the message: "converting the model to opset 28".
    """
    try:
        yield
    except ZenithError:
        raise
    except MemoryError as error:
        raise DeviceOutOfMemoryError(
            f"no memory left while {stage}", next="use a machine with more memory"
        ) from error
    except RecursionError as error:
        raise ValidationError(
            f"the model is nested too deeply: it came up while {stage}",
            next="inline or flatten its functions and subgraphs",
        ) from error
    except Exception as error:
        raise CompilationError(
            f"{stage} failed: {type(error).__name__}: {error}",
            next="check the file with onnx.checker.check_model, or export it again",
        ) from error


def check(model: onnx.ModelProto, limits: Limits = LIMITS) -> None:
    """Raise `ValidationError` or `UnsupportedOperationError` unless `model` is well formed.

    Tensors whose data lies in other files are checked as far as the proto tells.
    """
    with guarded("checking the model"):
        _Checker(model, limits).run()


_OF_MAPS = frozenset({"CastMap", "DictVectorizer", "ZipMap"})  # GraphIR has no maps


@functools.cache
def _schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _attributes(op_type: str, version: int, domain: str) -> tuple[dict[str, int], frozenset[str]]:
    """Attribute types by name, and the names of those that must be given."""
    schema = onnx.defs.get_schema(op_type, version, domain)
    types = {name: int(a.type) for name, a in schema.attributes.items()}  # type: ignore[call-overload]
    return types, frozenset(n for n, a in schema.attributes.items() if a.required)


@dataclass
class _Context:
    """Where the walk is: the operators' versions, the enclosing function's attributes."""

    where: str
    opsets: Mapping[str, int]
    body: Body
    attributes: frozenset[str] | None = None  # None outside of functions


class _Checker:
    def __init__(self, model: onnx.ModelProto, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.functions: dict[FunctionKey, onnx.FunctionProto] = {}
        self.unknown: dict[str, list[str]] = {}  # operator -> nodes

    def run(self) -> None:
        model = self.model
        if not model.HasField("graph"):
            raise ValidationError(
                "there is no graph in this model: the file is empty, cut short or no ONNX model",
                next="check that the file arrived whole",
            )
        self.versions()
        for function in model.functions:
            self.declare(function)
        bodies: dict[FunctionKey, Body] = {}
        for key, function in self.functions.items():
            bodies[key] = self.function(function)
        main = Body()
        context = _Context("the graph", _opsets(model.opset_import, "the model"), main)
        if not model.graph.output:
            raise ValidationError("the graph has no outputs: there is nothing to compute")
        self.graph(model.graph, [], context, 0)
        self.report_unknown()
        for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if holds_map(info.type):
                raise ValidationError(
                    f"'{info.name}' is a map, which no operator here takes or gives",
                    next="convert the model without maps: skl2onnx leaves them out with "
                    "zipmap=False",
                )
        check_expansion(main, bodies, self.limits)

    def versions(self) -> None:
        newest = onnx.IR_VERSION
        if not 1 <= self.model.ir_version <= newest:
            raise ValidationError(
                f"IR version {self.model.ir_version} does not exist: the installed onnx knows "
                f"1 to {newest}",
                next="install a newer onnx, or export the model for an older version",
            )
        opsets = _opsets(self.model.opset_import, "the model")
        if not opsets and self.model.ir_version >= 3:
            raise ValidationError(
                "the model does not say which operator set it uses", next="export it again"
            )

    def declare(self, function: onnx.FunctionProto) -> None:
        where = f"function {quoted(function.name)}"
        check_name(function.name, "a function's name", where, empty=False)
        check_name(function.domain, "a function's domain", where)
        check_name(function.overload, "a function's overload", where)
        if function.domain in _STANDARD:
            raise ValidationError(
                f"{where} would replace a standard operator: its domain is ai.onnx",
                next="give it a domain of its own",
            )
        key = (function.domain, function.name, function.overload)
        if key in self.functions:
            raise ValidationError(f"{where} of domain {quoted(function.domain)} is there twice")
        self.functions[key] = function

    def function(self, function: onnx.FunctionProto) -> Body:
        where = f"function '{function.name}'"
        body = Body()
        declared = [*function.attribute, *(a.name for a in function.attribute_proto)]
        if len(set(declared)) != len(declared):
            raise ValidationError(f"{where} declares an attribute twice")
        opsets = _opsets(function.opset_import, where)
        context = _Context(where, opsets, body, frozenset(declared))
        for attribute in function.attribute_proto:
            self.attribute(attribute, [], context, f"{where}: default", 0)
        names: set[str] = set()
        for name in function.input:
            check_name(name, "an input's name", where, empty=False)
            _define(names, name, f"{where}: the list of inputs")
        self.nodes(function.node, names, [], context, 0)
        for name in function.output:
            if name not in names:
                raise ValidationError(f"{where}: output {quoted(name)} is never computed")
        return body

    def graph(
        self, graph: onnx.GraphProto, outer: list[set[str]], context: _Context, depth: int
    ) -> None:
        """outer: names defined so far in the graphs around this one."""
        context.body.depth = max(context.body.depth, depth)
        if depth > self.limits.depth:
            raise ValidationError(
                f"{context.where}: graphs are nested more than {self.limits.depth} deep",
                next="flatten the bodies of If, Loop and Scan",
            )
        where = context.where if depth == 0 else f"{context.where}, inner graph '{graph.name}'"
        check_name(graph.name, "a graph's name", context.where)
        names: set[str] = set()
        for info in graph.input:
            check_name(info.name, "an input's name", where, empty=False)
            _define(names, info.name, f"{where}: the list of inputs")
            if depth == 0 and not info.HasField("type"):
                raise ValidationError(
                    f"input '{info.name}' has no type", next="declare its element type and shape"
                )
            check_type(info.type, f"input '{info.name}'", required=depth == 0)
        weights: set[str] = set()
        for tensor in graph.initializer:
            check_name(tensor.name, "an initializer's name", where, empty=False)
            _define(weights, tensor.name, f"{where}: the list of initializers")
            check_tensor(tensor, f"initializer '{tensor.name}'")
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            check_name(name, "an initializer's name", where, empty=False)
            _define(weights, name, f"{where}: the list of initializers")
            check_sparse_tensor(sparse, f"sparse initializer '{name}'")
        names |= weights
        for info in graph.value_info:
            check_name(info.name, "a value's name", where)
            check_type(info.type, f"value '{info.name}'", required=False)
        self.nodes(graph.node, names, outer, context, depth)
        seen: set[str] = set()
        for info in graph.output:
            check_name(info.name, "an output's name", where, empty=False)
            _define(seen, info.name, f"{where}: the list of outputs")
            check_type(info.type, f"output '{info.name}'", required=False)
            if info.name not in names and not any(info.name in scope for scope in outer):
                raise ValidationError(
                    f"{where}: output '{info.name}' is never computed",
                    next="check the name, or remove the output",
                )

    def nodes(
        self,
        nodes: Iterable[onnx.NodeProto],
        names: set[str],
        outer: list[set[str]],
        context: _Context,
        depth: int,
    ) -> None:
        scopes = [names, *outer]
        all_nodes = list(nodes)
        for index, node in enumerate(all_nodes):
            where = self.label(node, index, context)
            for name in node.input:
                if name and not any(name in scope for scope in scopes):
                    check_name(name, "an input's name", where)
                    complain_of_order(name, all_nodes, where)
            self.operator(node, scopes, context, where, depth)
            for name in node.output:
                check_name(name, "an output's name", where)
                if name:
                    _define(names, name, where)

    def label(self, node: onnx.NodeProto, index: int, context: _Context) -> str:
        for text in (node.name, node.op_type, node.domain, node.overload):
            check_name(text, "a name", f"{context.where}, node number {index}")
        name = f"'{node.name}'" if node.name else f"number {index}"
        inside = "" if context.attributes is None else f" of {context.where}"
        return f"node {name} ({node.op_type}){inside}"

    def operator(
        self,
        node: onnx.NodeProto,
        scopes: list[set[str]],
        context: _Context,
        where: str,
        depth: int,
    ) -> None:
        if not node.op_type:
            raise ValidationError(f"{where} does not name an operator")
        edges = max(len(node.input), len(node.output))
        if edges > self.limits.edges:
            raise ValidationError(
                f"{where} has {len(node.input)} inputs and {len(node.output)} outputs; the limit "
                f"is {self.limits.edges}"
            )
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (node.domain, node.op_type, node.overload)
        function = self.functions.get(key)
        names: set[str] = set()
        for attribute in node.attribute:
            check_name(attribute.name, "an attribute's name", where, empty=False)
            _define(names, attribute.name, f"{where}: attributes")
            self.attribute(attribute, scopes, context, where, depth)
        if function is not None:
            count, deepest = context.body.calls.get(key, (0, 0))
            context.body.calls[key] = (count + 1, max(deepest, depth))
            _check_call(node, function, names, where)
            return
        context.body.nodes += 1
        if contrib.knows(domain, node.op_type) and domain != "ai.onnx.ml":
            contrib.check_contrib(node, where)
            return
        version = context.opsets.get(domain)
        if version is None and domain == "" and self.model.ir_version < 3:
            version = 1
        if version is None:
            if domain and not _known_domain(domain):
                self.unknown.setdefault(f"{domain}.{node.op_type}", []).append(where)
                return
            raise ValidationError(
                f"{where}: {context.where} imports no version of domain '{domain or 'ai.onnx'}'",
                next="add the domain to opset_import",
            )
        schema = _schema(node.op_type, version, domain)
        if domain == "ai.onnx.ml" and node.op_type in _OF_MAPS:
            label = f"{domain}.{node.op_type} (a map: skl2onnx leaves it out with zipmap=False)"
            self.unknown.setdefault(label, []).append(where)
            return
        if schema is None or (schema.deprecated and node.op_type not in STEPS):
            label = f"{domain}.{node.op_type}" if domain else f"{node.op_type} (opset {version})"
            self.unknown.setdefault(label, []).append(where)
            return
        if schema.inputs or not schema.deprecated:
            self.standard(node, schema, names, version, domain, where)

    def standard(
        self,
        node: onnx.NodeProto,
        schema: onnx.defs.OpSchema,
        given: set[str],
        version: int,
        domain: str,
        where: str,
    ) -> None:
        inputs = list(node.input)
        while inputs and not inputs[-1]:
            inputs.pop()
        low, high = schema.min_input, schema.max_input
        if not low <= len(inputs) <= high:
            raise ValidationError(f"{where} takes {_span(low, high)} inputs, not {len(inputs)}")
        single = onnx.defs.OpSchema.FormalParameterOption.Single
        for index, name in enumerate(inputs[: len(schema.inputs)]):
            if not name and schema.inputs[index].option == single:
                raise ValidationError(f"{where}: input {index} must not be left out")
        low, high = schema.min_output, schema.max_output
        if not low <= len(node.output) <= high:
            raise ValidationError(
                f"{where} gives {_span(low, high)} outputs, not {len(node.output)}"
            )
        types, required = _attributes(node.op_type, version, domain)
        for attribute in node.attribute:
            if attribute.name not in types:
                raise ValidationError(
                    f"{where}: {node.op_type} has no attribute '{attribute.name}' in opset "
                    f"{version}"
                )
            if attribute.type != types[attribute.name]:
                raise ValidationError(
                    f"{where}: attribute '{attribute.name}' is {_type_name(attribute.type)}, "
                    f"{node.op_type} takes {_type_name(types[attribute.name])}"
                )
            if node.op_type != "Constant":
                learned = domain == "ai.onnx.ml"
                most = self.limits.model_items if learned else self.limits.list_items
                self.size(attribute, most, where)
            if attribute.name in ("to", "dtype") and not attribute.ref_attr_name:
                check_element_type(attribute.i, f"{where}: attribute '{attribute.name}'")
        if node.op_type == "Constant" and domain == "" and len(given) != 1:
            raise ValidationError(f"{where} needs exactly one attribute, its value")
        if domain == "" and node.op_type in ("If", "Loop", "Scan"):
            _check_bodies(node, version, where)
        if required - given:
            raise ValidationError(
                f"{where}: attribute {', '.join(sorted(required - given))} is missing"
            )

    def size(self, attribute: AttributeProto, most: int, where: str) -> None:
        longest = max(len(attribute.ints), len(attribute.floats), len(attribute.strings))
        if longest > most or len(attribute.s) > self.limits.text_bytes:
            raise ValidationError(
                f"{where}: attribute '{attribute.name}' is too long: {longest} items, "
                f"{len(attribute.s)} bytes of text; the limits are {most} and "
                f"{self.limits.text_bytes}"
            )

    def attribute(
        self,
        attribute: AttributeProto,
        scopes: list[set[str]],
        context: _Context,
        where: str,
        depth: int,
    ) -> None:
        at = f"{where}: attribute '{attribute.name}'"
        fields = {descriptor.name for descriptor, _ in attribute.ListFields()} - _BESIDES
        wanted = _FIELDS.get(attribute.type)
        if wanted is None:
            raise ValidationError(f"{at} has no type, or one that does not exist")
        if attribute.ref_attr_name:
            check_name(attribute.ref_attr_name, "a reference", at)
            if context.attributes is None:
                raise ValidationError(f"{at} refers to a function's attribute outside a function")
            if attribute.ref_attr_name not in context.attributes:
                raise ValidationError(
                    f"{at} refers to '{attribute.ref_attr_name}', which {context.where} "
                    "does not declare"
                )
            wanted_fields: set[str] = set()
        else:
            wanted_fields = {wanted}
        if fields - wanted_fields:
            raise ValidationError(
                f"{at} says {_type_name(attribute.type)} and holds "
                f"{', '.join(sorted(fields - wanted_fields))}"
            )
        if not fields:
            if wanted in _MESSAGES and not attribute.ref_attr_name:
                raise ValidationError(f"{at} says {_type_name(attribute.type)} and holds nothing")
            return
        value: Any = getattr(attribute, wanted)
        for item in [value] if wanted in _SINGLE else value:
            if isinstance(item, TensorProto):
                check_tensor(item, at)
            elif isinstance(item, onnx.SparseTensorProto):
                check_sparse_tensor(item, at)
            elif isinstance(item, onnx.TypeProto):
                check_type(item, at, required=True)
            elif isinstance(item, onnx.GraphProto):
                self.graph(item, scopes, context, depth + 1)
            else:
                return

    def report_unknown(self) -> None:
        if not self.unknown:
            return
        places = [
            (op, nodes[0] + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""))
            for op, nodes in sorted(self.unknown.items())
        ]
        raise UnsupportedOperationError(
            ", ".join(op for op, _ in places[:100]),
            operations=places[:100],
            next="export the model with standard operators (ai.onnx), or give the operators as "
            "functions in the model",
        )


def _opsets(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    """Version by domain; ai.onnx is ''."""
    found: dict[str, int] = {}
    for entry in imports:
        check_name(entry.domain, "a domain", f"{where}: opset_import")
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if found.setdefault(domain, entry.version) != entry.version:
            raise ValidationError(f"{where} imports domain '{domain or 'ai.onnx'}' twice")
        newest = onnx.defs.onnx_opset_version() if domain == "" else 1 << 31
        if not 1 <= entry.version <= newest:
            known = f"1 to {newest} are known" if domain == "" else "it must be 1 or more"
            raise ValidationError(
                f"{where} imports version {entry.version} of '{domain or 'ai.onnx'}': {known}",
                next="install a newer onnx, or export the model for an older opset",
            )
    return found


@functools.cache
def _known_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


def _known_domain(domain: str) -> bool:
    return domain in _known_domains()


def _define(names: set[str], name: str, where: str) -> None:
    if name in names:
        raise ValidationError(
            f"{where} defines {quoted(name)} a second time", next="every value needs its own name"
        )
    names.add(name)


def _span(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"at least {low}" if high >= 1 << 30 else f"{low} to {high}"


def _type_name(kind: int) -> str:
    name: str = AttributeProto.AttributeType.Name(kind)
    return name


def _check_bodies(node: onnx.NodeProto, version: int, where: str) -> None:
    """Inner graphs take and give as many values as their node."""
    scan8 = node.op_type == "Scan" and version < 9  # its first input is not the body's
    before = {"If": len(node.input), "Loop": 0, "Scan": int(scan8)}[node.op_type]
    inputs = len(node.input) - before
    outputs = len(node.output) + (node.op_type == "Loop")
    for attribute in node.attribute:
        if attribute.name == "num_scan_inputs" and not 1 <= attribute.i <= inputs:
            raise ValidationError(f"{where}: {attribute.i} of its {inputs} inputs are scanned")
        if attribute.type == AttributeProto.GRAPH:
            found = (len(attribute.g.input), len(attribute.g.output))
            if found != (inputs, outputs):
                raise ValidationError(
                    f"{where}: '{attribute.name}' must take {inputs} and give {outputs} values, "
                    f"not {found[0]} and {found[1]}"
                )


def _check_call(
    node: onnx.NodeProto, function: onnx.FunctionProto, given: set[str], where: str
) -> None:
    if len(node.input) > len(function.input) or len(node.output) > len(function.output):
        raise ValidationError(
            f"{where} has {len(node.input)} inputs and {len(node.output)} outputs, its function "
            f"has {len(function.input)} and {len(function.output)}"
        )
    declared = {*function.attribute, *(a.name for a in function.attribute_proto)}
    if given - declared:
        raise ValidationError(
            f"{where}: the function has no attribute {', '.join(sorted(given - declared))}"
        )
