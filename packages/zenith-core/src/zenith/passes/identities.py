"""Nodes that change nothing, and views of views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    array,
    attr,
    commuted,
    dims,
    ints,
    is_op,
    produced_by,
    same_shape,
)

_Rule = Callable[[Rewriter, ir.Node], bool]
_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class RemoveIdentities:
    """Bypass nodes whose output provably equals an input; merge Transpose of Transpose and Reshape
    of reshapes."""

    name: ClassVar[str] = "identities"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        changed = 0
        for node in graph.nodes:
            rule = _RULES.get(node.op_type) if node.domain == "" else None
            if rule is not None and node.graph is not None:
                changed += rule(rewriter, node)
        return changed


def _first(rw: Rewriter, node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is not None and rw.bypass(node, x)


def _dropout(rw: Rewriter, node: ir.Node) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None:
        flag = array(training)
        if flag is None or bool(flag.reshape(())[()]):
            return False
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return False
    return _first(rw, node)


def _cast(rw: Rewriter, node: ir.Node) -> bool:
    x = node.inputs[0]
    if x is None or x.dtype is None:
        return False
    if x.dtype == node.outputs[0].dtype:
        return rw.bypass(node, x)
    if node.op_type == "CastLike" and node.outputs[0].dtype is not None:
        how = {n: a.value for n, a in node.attributes.items()}  # saturate, round_mode
        cast = rw.op("Cast", [x], {"to": int(node.outputs[0].dtype), **how})
        return rw.replace([node], {node.outputs[0]: cast.outputs[0]}, [cast])
    return False


def _transpose(rw: Rewriter, node: ir.Node) -> bool:
    x = node.inputs[0]
    if x is None or x.shape is None:
        return False
    rank = x.shape.rank()
    perm = list(attr(node, "perm", range(rank - 1, -1, -1)))
    if perm == list(range(rank)):
        return rw.bypass(node, x)
    inner = produced_by(x, "Transpose")
    if inner is None or inner.inputs[0] is None:
        return False
    before = list(attr(inner, "perm", range(rank - 1, -1, -1)))
    merged = [before[p] for p in perm]
    if merged == list(range(rank)):
        return rw.replace([inner, node], {node.outputs[0]: inner.inputs[0]}, [])
    new = rw.op("Transpose", [inner.inputs[0]], {"perm": merged})
    return rw.replace([inner, node], {node.outputs[0]: new.outputs[0]}, [new])


def _reshape(rw: Rewriter, node: ir.Node) -> bool:
    """A chain of reshapes that ends in the shape of one of its sources is that source."""
    chain, source = [node], node.inputs[0]
    while source is not None:
        if same_shape(source, node.outputs[0]):
            return rw.replace(chain[::-1], {node.outputs[0]: source}, [])
        inner = produced_by(source, *_RESHAPES)
        if inner is None:
            break
        chain.append(inner)
        source = inner.inputs[0]
    if len(chain) > 1 and node.op_type == "Reshape":
        target = ints(node.inputs[1])
        if target is not None and 0 not in target:
            new = rw.op("Reshape", [source, node.inputs[1]])
            return rw.replace(chain[::-1], {node.outputs[0]: new.outputs[0]}, [new])
    return False


def _same_shape(rw: Rewriter, node: ir.Node) -> bool:
    return same_shape(node.inputs[0], node.outputs[0]) and _first(rw, node)


def _slice(rw: Rewriter, node: ir.Node) -> bool:
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = ints(node.inputs[4])
        if steps is None or any(s != 1 for s in steps):
            return False
    return _same_shape(rw, node)


def _pad(rw: Rewriter, node: ir.Node) -> bool:
    pads = ints(node.inputs[1])
    return pads is not None and not any(pads) and _first(rw, node)


def _all_equal(value: ir.Value | None, number: float) -> bool:
    data = array(value)
    return data is not None and data.size > 0 and bool(np.all(data == number))


def _neutral(number: float, *, both: bool) -> _Rule:
    """x op number = x; `both`: also number op x. Of a number that is expanded, x is expanded."""

    def rule(rw: Rewriter, node: ir.Node) -> bool:
        for x, other in list(commuted(node))[: 2 if both else 1]:
            if x is not None and _all_equal(other, number) and same_shape(x, node.outputs[0]):
                return rw.bypass(node, x)
            inner = produced_by(other, "Expand")
            if inner is not None and _all_equal(inner.inputs[0], number):
                new = rw.op("Expand", [x, inner.inputs[1]])
                return rw.replace([node], {node.outputs[0]: new.outputs[0]}, [new])
        return False

    return rule


def _where(rw: Rewriter, node: ir.Node) -> bool:
    for flag, x in ((True, node.inputs[1]), (False, node.inputs[2])):
        if x is not None and _all_equal(node.inputs[0], flag) and same_shape(x, node.outputs[0]):
            return rw.bypass(node, x)
    inner = produced_by(node.inputs[0], "Expand")
    if inner is None or not any(same_shape(x, node.outputs[0]) for x in node.inputs[1:]):
        return False
    new = rw.op("Where", [inner.inputs[0], *node.inputs[1:]])  # it would be broadcast anyway
    return rw.replace([node], {node.outputs[0]: new.outputs[0]}, [new])


def _tile(rw: Rewriter, node: ir.Node) -> bool:
    """What repeats axes of size 1 only is an Expand: no element is written twice."""
    if _same_shape(rw, node):
        return True
    sizes, repeats = dims(node.inputs[0]), ints(node.inputs[1])
    if sizes is None or repeats is None or 0 in repeats:
        return False
    if any(size != 1 and count != 1 for size, count in zip(sizes, repeats, strict=True)):
        return False
    new = rw.op("Expand", [node.inputs[0], node.inputs[1]])
    return rw.replace([node], {node.outputs[0]: new.outputs[0]}, [new])


def _shape(rw: Rewriter, node: ir.Node) -> bool:
    """Of a result whose sizes are those of the graph's inputs: it is not read for its shape."""
    x, sizes = node.inputs[0], dims(node.inputs[0])
    graph = rw.model.graph
    if x is None or x.producer() is None or sizes is None or node.graph is not graph:
        return False
    wanted = sizes[attr(node, "start", 0) : attr(node, "end", None)]
    homes: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, size in enumerate(dims(value) or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                homes.setdefault(size.value, (value, axis))
    names = [size.value for size in wanted if isinstance(size, ir.SymbolicDim)]
    if not names or any(name not in homes for name in names):
        return False
    parts: list[ir.Value] = []
    nodes = []
    for size in wanted:
        if isinstance(size, int):
            parts.append(rw.constant(np.array([size], np.int64), "size"))
            continue
        home, axis = homes[str(size.value)]
        nodes.append(rw.op("Shape", [home], {"start": axis, "end": axis + 1},
                           dtype=ir.DataType.INT64, shape=[1]))  # fmt: skip
        parts.append(nodes[-1].outputs[0])
    nodes.append(rw.op("Concat", parts, {"axis": 0}))
    return rw.replace([node], {node.outputs[0]: nodes[-1].outputs[0]}, nodes)


def _concat(rw: Rewriter, node: ir.Node) -> bool:
    if len(node.inputs) == 1:
        return _first(rw, node)
    axis = attr(node, "axis", 0)
    kept = [v for v in node.inputs if (d := dims(v)) is None or d[axis] != 0]
    if len(kept) == len(node.inputs) or not kept:
        return False
    if len(kept) == 1 and kept[0] is not None:
        return rw.bypass(node, kept[0])
    new = rw.op("Concat", kept, {"axis": axis})
    return rw.replace([node], {node.outputs[0]: new.outputs[0]}, [new])


def _clip(rw: Rewriter, node: ir.Node) -> bool:
    return all(v is None for v in node.inputs[1:]) and _first(rw, node)


def _single(rw: Rewriter, node: ir.Node) -> bool:
    return len(node.inputs) == 1 and _first(rw, node)


def _split(rw: Rewriter, node: ir.Node) -> bool:
    return len(node.outputs) == 1 and _same_shape(rw, node)


def _not(rw: Rewriter, node: ir.Node) -> bool:
    inner = produced_by(node.inputs[0], "Not")
    if inner is None or inner.inputs[0] is None or not is_op(inner, "Not"):
        return False
    return rw.replace([inner, node], {node.outputs[0]: inner.inputs[0]}, [])


_RULES: dict[str, _Rule] = {
    "Add": _neutral(0, both=True),
    "And": _neutral(True, both=True),
    "Cast": _cast,
    "CastLike": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _neutral(1, both=False),
    "Dropout": _dropout,
    "Expand": _same_shape,
    "Flatten": _reshape,
    "Identity": _first,
    "Max": _single,
    "Mean": _single,
    "Min": _single,
    "Mul": _neutral(1, both=True),
    "Not": _not,
    "Or": _neutral(False, both=True),
    "Pad": _pad,
    "Pow": _neutral(1, both=False),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "Sub": _neutral(0, both=False),
    "Sum": _single,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "Where": _where,
}
