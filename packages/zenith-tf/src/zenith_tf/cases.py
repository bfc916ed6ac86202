"""tf.switch_case: a Case of many branches becomes If in If, which is what ONNX has.

An index that no branch has means the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorflow.core.framework import function_pb2, node_def_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import convert_to_constants

__all__ = ["cases_to_ifs", "keeping_cases"]

_CASES = {"Case": "If", "StatelessCase": "StatelessIf"}


@contextmanager
def keeping_cases() -> Iterator[None]:
    """TensorFlow's freezing, told to keep control flow, forgets Case; here it keeps it too."""
    kept = convert_to_constants._CONTROL_FLOW_OPS
    convert_to_constants._CONTROL_FLOW_OPS = {*kept, *_CASES}
    try:
        yield
    finally:
        convert_to_constants._CONTROL_FLOW_OPS = kept


def cases_to_ifs(graph: Any) -> None:
    """Rewrite every Case of a GraphDef and its functions, in place."""
    library = graph.library.function
    for function in list(library):
        _rewrite(function.node_def, graph, inside=True)
    _rewrite(graph.node, graph, inside=False)


def _rewrite(nodes: Any, graph: Any, inside: bool) -> None:
    for node in [n for n in nodes if n.op in _CASES]:
        branches = [f.name for f in node.attr["branches"].list.func]
        functions = {f.signature.name: f for f in graph.library.function}
        parts = [_with_index(functions[name], graph) for name in branches]
        if len(parts) == 1:
            parts *= 2
        index, *arguments = node.input
        last = parts.pop()
        for place in range(len(parts) - 1, 0, -1):
            last = _choice(node, functions[branches[place]], place, parts[place], last, graph)
        made = _if(node, index, arguments, 0, parts[0], last, inside)
        nodes.remove(node)
        nodes.extend(made)


def _name(base: str, graph: Any) -> str:
    taken = {f.signature.name for f in graph.library.function}
    return next(n for i in range(len(taken) + 1) if (n := f"{base}_{i}") not in taken)


def _with_index(function: Any, graph: Any) -> str:
    """A copy of a branch that also takes the index: all branches of an If take the same."""
    copy = function_pb2.FunctionDef()
    copy.CopyFrom(function)
    name = copy.signature.name = _name(f"{function.signature.name}_of", graph)
    _take_index(copy.signature, function.signature)
    _shift_attributes(copy, function)
    graph.library.function.append(copy)
    return name


def _take_index(signature: Any, source: Any) -> None:
    del signature.input_arg[:]
    signature.input_arg.add(name="zenith_index", type=types_pb2.DT_INT32)
    signature.input_arg.extend(source.input_arg)


def _shift_attributes(copy: Any, source: Any) -> None:
    """Attributes of arguments (their shapes among them) go by place, which is one later now."""
    copy.arg_attr.clear()
    for place, attributes in source.arg_attr.items():
        copy.arg_attr[place + 1].CopyFrom(attributes)


def _choice(case: Any, branch: Any, place: int, here: str, rest: str, graph: Any) -> str:
    """A function of (index, arguments): the branch of one place, or the rest."""
    made = function_pb2.FunctionDef()
    name = _name(f"{branch.signature.name}_or", graph)
    made.signature.CopyFrom(op_def_pb2.OpDef(name=name))
    _take_index(made.signature, branch.signature)
    _shift_attributes(made, branch)
    made.signature.output_arg.extend(branch.signature.output_arg)
    arguments = [arg.name for arg in branch.signature.input_arg]
    made.node_def.extend(_if(case, "zenith_index", arguments, place, here, rest, inside=True))
    chosen = made.node_def[-1].name
    for i, result in enumerate(branch.signature.output_arg):
        made.ret[result.name] = f"{chosen}:output:{i}"
    graph.library.function.append(made)
    return name


def _if(
    case: Any, index: str, arguments: list[str], place: int, here: str, rest: str, inside: bool
) -> list[Any]:
    """Nodes for: index == place ? here : rest, of which the last has the name of the Case."""
    number = node_def_pb2.NodeDef(name=f"{case.name}/place", op="Const")
    number.attr["dtype"].type = types_pb2.DT_INT32
    number.attr["value"].tensor.dtype = types_pb2.DT_INT32
    number.attr["value"].tensor.tensor_shape.SetInParent()
    number.attr["value"].tensor.int_val.append(place)
    equal = node_def_pb2.NodeDef(name=f"{case.name}/here", op="Equal")
    equal.input.extend([index, f"{number.name}:output:0" if inside else number.name])
    equal.attr["T"].type = types_pb2.DT_INT32
    chosen = node_def_pb2.NodeDef(name=case.name, op=_CASES[case.op])
    chosen.input.extend([f"{equal.name}:z:0" if inside else equal.name, index, *arguments])
    for key in ("Tin", "Tout", "output_shapes"):
        chosen.attr[key].CopyFrom(case.attr[key])
    chosen.attr["Tin"].list.type.insert(0, types_pb2.DT_INT32)
    chosen.attr["Tcond"].type = types_pb2.DT_BOOL
    chosen.attr["then_branch"].func.name = here
    chosen.attr["else_branch"].func.name = rest
    chosen.attr["_lower_using_switch_merge"].b = False
    return [number, equal, chosen]
