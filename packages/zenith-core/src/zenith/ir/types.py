"""Element types as the operators' schemas demand them: what kernels rely on."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir._describe import describe
from zenith.ir.verifier import schema

__all__ = ["check_types", "constant_data", "item_bytes"]

# Of an operator: the type variable of each input, whether the last one repeats, and whether those
# repeats have one type; and the types each variable may have.
_Types = tuple[tuple[str, ...], bool, bool, dict[str, frozenset[str]]]


def constant_data(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    """A constant as it takes part in calls: text is `str` there, in a tensor it is bytes."""
    array: np.ndarray[Any, Any] = tensor.numpy()
    if tensor.dtype != ir.DataType.STRING:
        return array
    texts = [
        t.decode("utf-8", "surrogateescape") if isinstance(t, bytes) else t for t in array.flat
    ]
    return np.array([*texts, None], object)[:-1].reshape(array.shape)


def item_bytes(dtype: ir.DataType | None) -> int:
    """Bytes of an element in memory: of text the reference, 0 where there is no type."""
    if dtype is None:
        return 0
    return 8 if dtype == ir.DataType.STRING else max(int(dtype.itemsize), 1)


@functools.cache
def _types(op_type: str) -> _Types | None:
    found = schema(op_type)
    if found is None:
        return None
    last = found.inputs[-1] if found.inputs else None
    variadic = last is not None and last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    homogeneous = last is None or last.is_homogeneous
    allowed = {c.type_param_str: frozenset(c.allowed_type_strs) for c in found.type_constraints}
    return tuple(p.type_str for p in found.inputs), variadic, homogeneous, allowed


def check_types(model: ir.Model) -> None:
    """Raise `ValidationError` for a node whose inputs have types its schema does not take."""
    for node in model.graph.all_nodes():
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype == ir.DataType.UNDEFINED:
                raise ValidationError(f"'{value.name}' has no element type\n  {describe(node)}")
        types = _types(node.op_type) if node.domain in ("", "ai.onnx") else None
        if types is not None:
            _check(node, types)


def _check(node: ir.Node, types: _Types) -> None:
    names, variadic, homogeneous, allowed = types
    bound: dict[str, str] = {}
    for index, value in enumerate(node.inputs):
        if value is None or not isinstance(value.type, ir.TensorType):
            continue
        repeated = index >= len(names) - 1 and variadic
        name = names[-1] if repeated else names[index]
        mine = f"tensor({value.type.dtype.name.lower()})"
        if mine not in allowed.get(name, {name}):
            raise ValidationError(
                f"input {index} of {node.op_type} is {mine}, which it does not take\n"
                f"  {describe(node)}"
            )
        if name in allowed and not (repeated and not homogeneous):
            other = bound.setdefault(name, mine)
            if other != mine:
                raise ValidationError(
                    f"inputs of {node.op_type} that share a type are {other} and {mine}\n"
                    f"  {describe(node)}"
                )
