"""The ONNX adapter: a model of any opset becomes GraphIR, called with numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx_ir.passes import PassError
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from zenith.errors import UnsupportedOperationError, ValidationError
from zenith.ir import OPSET, GraphIR
from zenith.ir.proto import from_proto
from zenith.runtime.adapter import ImportedModel
from zenith.runtime.numpy_signature import NumpySignature
from zenith_onnx.check import guarded
from zenith_onnx.contrib import add_functions, expand_contrib, knows
from zenith_onnx.dims import name_sizes
from zenith_onnx.load import forget_metadata, load
from zenith_onnx.upgrade import needs_types, upgrade

__all__ = ["import_model"]

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model


def import_model(
    source: Source, dynamic: Mapping[str | int, Mapping[int, str]] | None = None
) -> ImportedModel:
    """GraphIR and call signature of an ONNX model; `source` is left as it was."""
    with guarded("reading the ONNX model"):
        model = _read(source)
        forget_metadata(model)
        constants = _drop_default_inputs(model, dynamic or {})
        name_sizes(model.graph.inputs, dynamic)
        _to_graph_opset(model)
        graph = GraphIR(model)
        graph.forget_results()  # declared sizes are often of another batch, or stale
        return ImportedModel(graph, NumpySignature(graph, constants))


def _read(source: Source) -> ir.Model:
    if isinstance(source, ir.Model):
        return source.clone()
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    loaded = load(source)
    model = from_proto(loaded.model)
    for position, piece in loaded.apart.items():
        tensor = loaded.model.graph.initializer[position]
        dtype, shape = ir.DataType(tensor.data_type), list(tensor.dims)
        model.graph.initializers[tensor.name].const_value = piece.tensor(dtype, shape, tensor.name)
    return model


def _drop_default_inputs(
    model: ir.Model, dynamic: Mapping[str | int, Mapping[int, str]]
) -> list[str]:
    """Inputs with a value of their own are constants, but for those that `dynamic` names: these
    stay inputs, and every call gives them. The names of the constants that a call could have given.

    Before IR version 4 every weight was an input too, and no default.
    """
    graph = model.graph
    defaults = [str(v.name) for v in graph.inputs if v.name in graph.initializers]
    for name in defaults:
        if name in dynamic:
            value = graph.initializers.pop(name)
            value.const_value = None
    constants = [name for name in defaults if name in graph.initializers]
    kept = [v for v in graph.inputs if v.name not in graph.initializers]
    if len(kept) != len(graph.inputs):
        graph.inputs.clear()
        graph.inputs.extend(kept)
    return constants if (model.ir_version or 0) >= 4 else []


def _to_graph_opset(model: ir.Model) -> None:
    """All operators of the model in today's form, functions inlined."""
    _check_operators(model)
    opset = _opset(model.opset_imports)
    if needs_types(model, opset):
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    upgrade(model.graph, opset)
    model.opset_imports.pop("ai.onnx", None)
    model.opset_imports[""] = OPSET
    for function in model.functions.values():
        upgrade(function, _opset(function.opset_imports, opset))
        function.opset_imports.pop("ai.onnx", None)
        function.opset_imports[""] = OPSET
        expand_contrib(function)
    expand_contrib(model.graph)
    if model.functions:
        try:
            InlinePass()(model)
        except (PassError, ValueError) as error:
            cause = error.__cause__ or error
            raise ValidationError(f"the model's functions cannot be inlined: {cause}") from error
    add_functions(model)
    model.ir_version = max(model.ir_version or 0, 13)


def _opset(imports: Mapping[str, int], default: int | None = None) -> int:
    version = imports.get("", imports.get("ai.onnx", default))
    if version is None:
        version = OPSET  # a model of custom functions only
    if version > OPSET:
        raise ValidationError(
            f"the model uses ai.onnx opset {version}; this version of Zenith knows up to {OPSET}"
        )
    if version < 1:
        raise ValidationError(f"the model uses ai.onnx opset {version}, which does not exist")
    return version


def _check_operators(model: ir.Model) -> None:
    """Raise one error that names every operator Zenith does not know."""
    unknown: dict[str, list[tuple[str, str]]] = {}
    scopes: list[tuple[ir.Graph | ir.Function, Mapping[str, int]]]
    scopes = [(model.graph, model.opset_imports)]
    scopes += [(f, f.opset_imports) for f in model.functions.values()]
    for graph, imports in scopes:
        for node in graph.all_nodes():
            if node.op_identifier() in model.functions or _known(node, imports):
                continue
            if knows(node.domain, node.op_type):
                continue
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
            name = f"{domain}{node.op_type}"
            outputs = ", ".join(str(v.name) for v in node.outputs)
            where = f"{outputs} = {name}" + (f" (node '{node.name}')" if node.name else "")
            unknown.setdefault(name, []).append((where, ""))
    if unknown:
        places = [place for rows in unknown.values() for place in rows]
        raise UnsupportedOperationError(", ".join(unknown), operations=places)


def _known(node: ir.Node, imports: Mapping[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain == "":
        return onnx.defs.has(node.op_type)
    version = imports.get(domain)
    return version is not None and onnx.defs.has(node.op_type, version, domain)
