"""Element types as the operators' schemas demand them: what kernels rely on."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from zenith.errors import ValidationError
from zenith.ir._describe import describe
from zenith.ir.verifier import schema

__all__ = ["check_types"]

# Of an operator: the type variable of each input, whether the last one repeats, and whether those
# repeats have one type; and the types each variable may have.
_Types = tuple[tuple[str, ...], bool, bool, dict[str, frozenset[str]]]


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
