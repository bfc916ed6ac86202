"""Arrays that loops write: tf2onnx takes each write for the next row, whatever place it names.

So the places must be 0, 1, 2, ... and the loop must run once for each row; anything else would come
out wrong without a word and is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from zenith.errors import UnsupportedOperationError

__all__ = ["called", "check_arrays"]

_LOOPS = ("While", "StatelessWhile")
_SAME = ("Identity", "Cast")
_SET = "TensorListSetItem"


def called(graph: Any) -> list[Any]:
    """The functions that a graph calls; its library may hold others, such as those that restore."""
    functions = {f.signature.name: f for f in graph.library.function}
    found: dict[str, Any] = {}
    nodes = list(graph.node)
    while nodes:
        for value in nodes.pop().attr.values():
            for name in (f.name for f in (value.func, *value.list.func)):
                if name in functions and name not in found:
                    found[name] = functions[name]
                    nodes += functions[name].node_def
    return list(found.values())


def check_arrays(graph: Any) -> None:
    """Refuse loops of a GraphDef that fill an array in another order, or not all of it."""
    functions = {f.signature.name: f for f in graph.library.function}
    problems = [
        (_SET, f"{name}: {why}")
        for nodes in (graph.node, *(f.node_def for f in called(graph)))
        for node in nodes
        if node.op in _LOOPS
        for name, why in _problems(node, {n.name: n for n in nodes}, functions)
    ]
    if problems:
        raise UnsupportedOperationError(
            _SET,
            operations=list(dict.fromkeys(problems)),
            next="write row after row of a TensorArray, as many as it has",
        )


def _problems(
    loop: Any, outside: dict[str, Any], functions: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    body, condition = (functions[loop.attr[k].func.name] for k in ("body", "cond"))
    inside = {n.name: n for n in body.node_def}
    places = {arg.name: i for i, arg in enumerate(body.signature.input_arg)}
    results = [_source(body.ret[arg.name], inside) for arg in body.signature.output_arg]

    def number(name: str) -> Any:
        """The constant an input of a node of the body is, or None."""
        name = _source(name, inside)
        if name in places and results[places[name]] == name:
            return _constant(_source(loop.input[places[name]], outside), outside)
        return _constant(name, inside)

    for node in body.node_def:
        if node.op != _SET:
            continue
        place = places.get(_source(node.input[1], inside))
        step = None if place is None else inside.get(results[place])
        counts = (
            place is not None
            and step is not None
            and step.op in ("Add", "AddV2")
            and _source(step.input[0], inside) == body.signature.input_arg[place].name
            and number(step.input[1]) == 1
            and _constant(_source(loop.input[place], outside), outside) == 0
        )
        array = places.get(_source(node.input[0], inside))
        if not counts and array is not None and number(node.input[1]) == 0:
            counts = _only_last_is_read(loop, array, outside)
            array = None
        if not counts:
            yield node.name, "written at places other than 0, 1, 2, ..."
            continue
        if array is not None:
            reserved = outside.get(_source(loop.input[array], outside))
            yield from _not_all(node.name, reserved, loop, condition, outside)


def _not_all(
    name: str, reserved: Any, loop: Any, condition: Any, outside: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """The loop goes on while counters are below limits, one of which may be the array's size."""
    nodes = {n.name: n for n in condition.node_def}
    places = {arg.name: i for i, arg in enumerate(condition.signature.input_arg)}
    open_, limits = list(condition.ret.values()), []
    while open_:
        node = nodes.get(_source(open_.pop(), nodes))
        if node is None or node.op not in ("LogicalAnd", "Less"):
            yield name, "the loop may end before the array is full"
            return
        if node.op == "LogicalAnd":
            open_ += node.input
            continue
        limit = _source(node.input[1], nodes)
        inner = _constant(limit, nodes)
        outer = places.get(limit)
        if outer is not None:
            inner = _constant(_source(loop.input[outer], outside), outside)
        limits.append(inner)
    size = None
    if reserved is not None and reserved.op == "TensorListReserve":
        size = _constant(_source(reserved.input[1], outside), outside)
    if size is not None and None not in limits and min(limits) < size:
        yield name, f"{min(limits)} rows are written of an array of {size}"


def _only_last_is_read(loop: Any, array: int, outside: dict[str, Any]) -> bool:
    """Keras writes the outputs of a layer that returns the last one over each other."""
    stacks = {
        n.name
        for n in outside.values()
        if n.op == "TensorListStack" and _edge(n.input[0], outside) in _results(loop, array)
    }
    readers = [
        n
        for n in outside.values()
        if n.op not in _SAME and any(_source(edge, outside) in stacks for edge in n.input)
    ]
    return bool(readers) and all(
        n.op == "StridedSlice" and _constant(_source(n.input[1], outside), outside) == -1
        for n in readers
    )


def _results(loop: Any, place: int) -> set[str]:
    """How a result of a loop is written, in a graph and in a function."""
    plain = {loop.name} if place == 0 else set()
    return {f"{loop.name}:{place}", f"{loop.name}:output:{place}", *plain}


def _edge(name: str, nodes: dict[str, Any]) -> str:
    """The edge behind another, through what leaves values as they are."""
    while (node := nodes.get(name.split(":")[0])) is not None and node.op in _SAME:
        name = node.input[0]
    return name


def _source(name: str, nodes: dict[str, Any]) -> str:
    """The node or argument behind an edge, through what leaves values as they are."""
    return _edge(name.lstrip("^"), nodes).split(":")[0]


def _constant(name: str, nodes: dict[str, Any]) -> Any:
    """The number of a constant of one element; None of any other node."""
    node = nodes.get(name)
    if node is None or node.op != "Const":
        return None
    value: Any = np.asarray(tf.make_ndarray(node.attr["value"].tensor))
    return value.item() if value.size == 1 else None
