"""The way back: GraphIR as a plain ONNX model that any tool reads."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from zenith.errors import ValidationError
from zenith.ir._describe import describe
from zenith.ir.inline import inline_calls

__all__ = ["LOWEST_OPSET", "exported"]

# From here on operators changed by taking more types and more optional inputs and attributes only:
# a node that uses none of them means the same in an older opset.
LOWEST_OPSET = 21


def exported(model: ir.Model, *, inline: bool, opset: int | None) -> ir.Model:
    """A copy of `model`, sharing its tensors.

    inline: zenith operators become the standard operators they stand for.
    opset: ai.onnx version to declare, 21 or newer.

    Raises `ValidationError` naming every node that the older opset cannot say.
    """
    copy = model.clone()
    if inline:
        inline_calls(copy)
        copy.opset_imports.pop("zenith", None)
    scopes = [copy.graph, *(f.graph for f in copy.functions.values())]
    for scope in scopes:
        for node in scope.all_nodes():
            for value in node.outputs:
                value.metadata_props.pop(SYM_DATA_KEY, None)
    if opset is not None:
        _declare(copy, scopes, opset)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in copy.opset_imports.items()]
    copy.ir_version = max(10, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return copy


def _declare(model: ir.Model, scopes: list[ir.Graph], opset: int) -> None:
    newest = model.opset_imports[""]
    if not LOWEST_OPSET <= opset <= newest:
        raise ValidationError(f"opset {opset}: GraphIR can be written as {LOWEST_OPSET}..{newest}")
    failures = []
    for scope in scopes:
        for node in scope.all_nodes():
            if node.domain in ("", "ai.onnx"):
                reason = _fit(node, opset, newest)
                if reason is not None:
                    failures.append(f"  {describe(node)}\n    {reason}")
    if failures:
        raise ValidationError(
            f"{len(failures)} node(s) cannot be written in opset {opset}\n" + "\n".join(failures)
        )
    model.opset_imports[""] = opset
    for function in model.functions.values():
        function.opset_imports[""] = opset


def _fit(node: ir.Node, opset: int, newest: int) -> str | None:
    """Make the node valid in `opset`, or say why it cannot be."""
    if not onnx.defs.has(node.op_type, opset, ""):
        return f"{node.op_type} came after opset {opset}"
    old = onnx.defs.get_schema(node.op_type, opset, "")
    new = onnx.defs.get_schema(node.op_type, newest, "")
    if old.since_version == new.since_version:
        return None
    for name, attribute in list(node.attributes.items()):
        if name in old.attributes:
            continue
        default = new.attributes[name].default_value
        value = attribute.value.encode() if isinstance(attribute.value, str) else attribute.value
        if default.type and onnx.helper.get_attribute_value(default) == value:
            del node.attributes[name]
        else:
            return f"its attribute {name} came after opset {opset}"
    if len(node.inputs) > old.max_input:
        return f"its input {old.max_input} came after opset {opset}"
    for index, value in enumerate(node.inputs):
        if value is not None and isinstance(value.type, ir.TensorType):
            text = f"tensor({value.type.dtype.name.lower()})"
            allowed = _types(node.op_type, opset, min(index, len(old.inputs) - 1))
            if allowed and text not in allowed:
                return f"{value.type.dtype} of its input {index} came after opset {opset}"
    return None


@functools.cache
def _types(op_type: str, opset: int, index: int) -> frozenset[str]:
    return frozenset(onnx.defs.get_schema(op_type, opset, "").inputs[index].types)
