"""Where a ModelProto becomes a model."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.serde import SerdeError

from zenith.errors import ValidationError

__all__ = ["from_proto"]


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """The model of a ModelProto; `ValidationError` with what is wrong if it contradicts itself."""
    try:
        model = ir.from_proto(proto)
    except (SerdeError, ValueError, KeyError, TypeError) as error:
        cause: BaseException = error  # SerdeError quotes whole protos; what happened is behind it
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValidationError(
            f"the model cannot be read: {type(cause).__name__}: {cause}",
            next="check it with onnx.checker.check_model, or export it again",
        ) from error
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():
            if node.op_type == "Constant":
                _text_as_tensor(node)
    return model


def _text_as_tensor(node: ir.Node) -> None:
    """A constant of text in the form that holds any letter: onnx_ir reads the others as ASCII."""
    for name in ("value_string", "value_strings"):
        given = node.attributes.get(name)
        if given is not None and not given.is_ref():
            words = [given.as_string()] if name == "value_string" else given.as_strings()
            shape = ir.Shape([] if name == "value_string" else [len(words)])
            tensor = ir.StringTensor([word.encode() for word in words], shape=shape)
            del node.attributes[name]
            node.attributes.add(ir.AttrTensor("value", tensor))
