"""The Gradient operator of ai.onnx.preview.training as the graph that computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from zenith.errors import UnsupportedOperationError, ValidationError
from zenith.ir import GraphIR, describe
from zenith.ir.control import rebound
from zenith.passes.rewrite import Rewriter, attr, dims, float_type

__all__ = ["LowerGradient"]

_DOMAIN = "ai.onnx.preview.training"


@dataclass(frozen=True)
class LowerGradient:
    """Gradient(xs, zs; y) becomes the reverse-mode derivative of the sum of y with respect to xs,
    in standard operators. Where the node is fed with other values than those its attributes name,
    the nodes from xs and zs to y are computed for these once more.

    Raises `UnsupportedOperationError` for every operator on the way that has no rule here.
    """

    name: ClassVar[str] = "lower_gradient"

    def run(self, graph: GraphIR) -> int:
        found = [n for n in graph.nodes if n.op_type == "Gradient" and n.domain == _DOMAIN]
        for node in found:  # in topological order: one may differentiate what another computes
            _lower(Rewriter(graph), node)
            graph.infer_shapes()
        return len(found)


def _lower(rw: Rewriter, node: ir.Node) -> None:
    named = _by_name(rw.graph)
    sources = [_find(named, node, name) for name in (*attr(node, "xs", ()), *attr(node, "zs", ()))]
    y = _find(named, node, attr(node, "y", ""))
    given = [v for v in node.inputs if v is not None]
    if len(given) != len(sources):
        raise ValidationError(
            f"Gradient has {len(given)} input(s) for {len(sources)} names\n  {describe(node)}"
        )
    path = _between(sources, y, node)
    tape = _Tape(rw)
    values = dict(zip(sources, given, strict=True))
    if any(a is not b for a, b in values.items()):
        path = [_copied(tape, n, values) for n in path]
        sources, y = given, values.get(y, y)
    wanted = sources[: len(attr(node, "xs", ()))]
    slopes = tape.backward(_differentiable(path, wanted), y, wanted)
    results = {}
    for out, slope in zip(node.outputs, slopes, strict=False):
        if out.name:
            results[out] = tape.op("Identity", slope)  # two results may be one value
    rw.replace([node], results, tape.nodes)


def _by_name(graph: GraphIR) -> dict[str, ir.Value]:
    values: Iterable[ir.Value] = (
        *graph.inputs,
        *graph.initializers.values(),
        *(v for n in graph.nodes for v in n.outputs),
    )
    return {str(v.name): v for v in values}


def _find(named: Mapping[str, ir.Value], node: ir.Node, name: str) -> ir.Value:
    if name not in named:
        raise ValidationError(f"Gradient names '{name}', which does not exist\n  {describe(node)}")
    return named[name]


def _between(sources: Sequence[ir.Value], y: ir.Value, node: ir.Node) -> list[ir.Node]:
    """The nodes that compute y from the sources, in topological order."""
    reached, needed = set(sources), set()
    stack = [y]
    while stack:  # backwards from y, up to the sources
        value = stack.pop()
        producer = value.producer()
        if value in reached or producer is None or producer in needed:
            continue
        needed.add(producer)
        stack += [v for v in producer.inputs if v is not None]
    path = []
    for each in node.graph or ():
        if each in needed and any(v in reached for v in each.inputs):
            reached.update(each.outputs)
            path.append(each)
    return path


def _differentiable(path: Sequence[ir.Node], wanted: Sequence[ir.Value]) -> list[ir.Node]:
    """Those that small changes of `wanted` go through: integers and conditions do not change."""
    flows, found = set(wanted), []
    for node in path:
        if float_type(node.outputs[0]) and any(v in flows for v in node.inputs):
            flows.update(node.outputs)
            found.append(node)
    missing = {f"gradient of {n.op_type}": describe(n) for n in found if n.op_type not in _RULES}
    if missing:
        raise UnsupportedOperationError(", ".join(missing), operations=list(missing.items()))
    return found


def _copied(tape: _Tape, node: ir.Node, values: dict[ir.Value, ir.Value]) -> ir.Node:
    """`node` computed once more, for other values."""
    inputs = [None if v is None else values.get(v, v) for v in node.inputs]
    attributes = rebound(node, values)
    copy = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        values[old] = new
    tape.nodes.append(copy)
    return copy


_Rule = Callable[["_Tape", ir.Node, ir.Value], Sequence[Callable[[], ir.Value] | None]]
_RULES: dict[str, _Rule] = {}


class _Tape:
    """New nodes, in order, and what flows back through them."""

    def __init__(self, rw: Rewriter) -> None:
        self.rw = rw
        self.nodes: list[ir.Node] = []

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = self.rw.op(kind, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def number(self, value: float, like: ir.Value) -> ir.Value:
        """A scalar of the dtype of `like`."""
        assert like.dtype is not None
        return self.rw.constant(np.asarray(value, like.dtype.numpy()), "gradient_number")

    def ints(self, values: Sequence[int]) -> ir.Value:
        return self.rw.constant(np.asarray(values, np.int64), "gradient_ints")

    def backward(
        self, path: Sequence[ir.Node], y: ir.Value, wanted: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """The derivative of the sum of y with respect to each of `wanted`."""
        flows = {*wanted, *(v for node in path for v in node.outputs)}
        slopes = {y: self.op("Expand", self.number(1, y), self.op("Shape", y))}
        for node in reversed(path):
            slope = slopes.get(node.outputs[0])
            if slope is None:
                continue
            terms = _RULES[node.op_type](self, node, slope)
            for value, term in zip(node.inputs, terms, strict=False):
                if value is None or term is None or value not in flows:
                    continue
                before = slopes.get(value)
                part = term()
                slopes[value] = part if before is None else self.op("Add", before, part)
        return [slopes[v] if v in slopes else self.zeros(v) for v in wanted]

    def zeros(self, like: ir.Value) -> ir.Value:
        return self.op("Expand", self.number(0, like), self.op("Shape", like))

    def shaped(self, slope: ir.Value, like: ir.Value) -> ir.Value:
        """The same elements in the shape of `like`."""
        return self.op("Reshape", slope, self.op("Shape", like), allowzero=1)

    def unbroadcast(self, slope: ir.Value, result: ir.Value, value: ir.Value) -> ir.Value:
        """The sum over the axes along which `value` was repeated to the shape of `result`."""
        wide, narrow = dims(result), dims(value)
        if wide is None or narrow is None:
            raise UnsupportedOperationError(f"gradient of '{result.name}', whose sizes are unknown")
        lead = len(wide) - len(narrow)
        axes = list(range(lead))
        for axis, (a, b) in enumerate(zip(wide[lead:], narrow, strict=True), lead):
            if b == 1 and a != 1:
                axes.append(axis)
            elif a != b:
                raise UnsupportedOperationError(
                    f"gradient of '{result.name}', where {b} may be repeated to {a}"
                )
        if not axes:
            return slope
        total = self.op("ReduceSum", slope, self.ints(axes), keepdims=1)
        return self.op("Squeeze", total, self.ints(range(lead))) if lead else total


def _rule(*types: str) -> Callable[[_Rule], _Rule]:
    def register(rule: _Rule) -> _Rule:
        for kind in types:
            _RULES[kind] = rule
        return rule

    return register


def _operands(node: ir.Node) -> tuple[ir.Value, ...]:
    assert all(v is not None for v in node.inputs)
    return tuple(v for v in node.inputs if v is not None)


# Elementwise functions of one value: the slope times a factor.

_Factor = Callable[[_Tape, ir.Value, ir.Value], ir.Value]
_FACTORS: dict[str, _Factor] = {
    "Exp": lambda g, x, y: y,
    "Log": lambda g, x, y: g.op("Reciprocal", x),
    "Sqrt": lambda g, x, y: g.op("Div", g.number(0.5, y), y),
    "Reciprocal": lambda g, x, y: g.op("Neg", g.op("Mul", y, y)),
    "Sigmoid": lambda g, x, y: g.op("Mul", y, g.op("Sub", g.number(1, y), y)),
    "Tanh": lambda g, x, y: g.op("Sub", g.number(1, y), g.op("Mul", y, y)),
    "Relu": lambda g, x, y: g.op("CastLike", g.op("Greater", x, g.number(0, x)), x),
    "Abs": lambda g, x, y: g.op("Sign", x),
    "Sin": lambda g, x, y: g.op("Cos", x),
    "Cos": lambda g, x, y: g.op("Neg", g.op("Sin", x)),
    "Softplus": lambda g, x, y: g.op("Sigmoid", x),
    "Erf": lambda g, x, y: g.op(
        "Mul", g.number(2 / math.sqrt(math.pi), x), g.op("Exp", g.op("Neg", g.op("Mul", x, x)))
    ),
}


@_rule(*_FACTORS)
def _elementwise(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    (x,), y = _operands(node), node.outputs[0]
    return [lambda: g.op("Mul", slope, _FACTORS[node.op_type](g, x, y))]


@_rule("Identity", "Neg", "Cast", "CastLike")
def _copy(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    if node.op_type.startswith("Cast"):
        return [lambda: g.op("CastLike", slope, node.inputs[0])]
    return [lambda: slope if node.op_type == "Identity" else g.op("Neg", slope)]


# Arithmetic of several values, with broadcasting.


@_rule("Add", "Sub", "Sum", "Mul", "Div", "Pow", "Where")
def _arithmetic(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    inputs, y = _operands(node), node.outputs[0]
    kind = node.op_type

    def term(index: int) -> ir.Value:
        a, b = inputs[0], inputs[-1]
        first = index == 0
        if kind == "Mul":
            part = g.op("Mul", slope, b if first else a)
        elif kind == "Div":
            part = g.op("Div", slope, b)
            part = part if first else g.op("Neg", g.op("Mul", part, y))
        elif kind == "Pow" and first:
            less = g.op("Sub", b, g.number(1, b))
            part = g.op("Mul", slope, g.op("Mul", g.op("CastLike", b, a), g.op("Pow", a, less)))
        elif kind == "Pow":
            part = g.op("CastLike", g.op("Mul", slope, g.op("Mul", y, g.op("Log", a))), b)
        elif kind == "Where":
            zero = g.number(0, y)
            part = g.op("Where", a, *((slope, zero) if index == 1 else (zero, slope)))
        else:
            part = g.op("Neg", slope) if kind == "Sub" and not first else slope
        return g.unbroadcast(part, y, inputs[index])

    terms: list[Any] = [lambda i=i: term(i) for i in range(len(inputs))]
    return [None, *terms[1:]] if kind == "Where" else terms


# Products of matrices.


def _turned(g: _Tape, value: ir.Value) -> ir.Value:
    assert value.shape is not None
    rank = len(value.shape)
    return g.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


@_rule("MatMul")
def _matmul(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    (a, b), y = _operands(node), node.outputs[0]
    if a.shape is None or b.shape is None or min(len(a.shape), len(b.shape)) < 2:
        raise UnsupportedOperationError("gradient of MatMul with a vector")

    def term(part: ir.Value, value: ir.Value) -> ir.Value:
        """Batch axes of `part` are those of y, its last two those of `value`."""
        batch, own = dims(y), dims(value)
        if batch is None or own is None:
            raise UnsupportedOperationError(f"gradient of '{y.name}', whose sizes are unknown")
        whole = ir.Value(name=y.name, shape=ir.Shape([*batch[:-2], *own[-2:]]))
        return g.unbroadcast(part, whole, value)

    return [
        lambda: term(g.op("MatMul", slope, _turned(g, b)), a),
        lambda: term(g.op("MatMul", _turned(g, a), slope), b),
    ]


@_rule("Gemm")
def _gemm(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    (a, b, *c), y = _operands(node), node.outputs[0]
    turn_a, turn_b = attr(node, "transA", 0), attr(node, "transB", 0)
    alpha, beta = attr(node, "alpha", 1.0), attr(node, "beta", 1.0)

    def left() -> ir.Value:
        if turn_a:
            return g.op("Gemm", b, slope, alpha=alpha, transA=turn_b, transB=1)
        return g.op("Gemm", slope, b, alpha=alpha, transB=1 - turn_b)

    def right() -> ir.Value:
        if turn_b:
            return g.op("Gemm", slope, a, alpha=alpha, transA=1, transB=turn_a)
        return g.op("Gemm", a, slope, alpha=alpha, transA=1 - turn_a)

    def bias() -> ir.Value:
        return g.unbroadcast(g.op("Mul", slope, g.number(beta, y)), y, c[0])

    return [left, right, bias]


# Other forms of the same elements, sums of them, and softmax.


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    return [lambda: g.shaped(slope, _operands(node)[0])]


@_rule("Transpose")
def _transpose(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    (x,) = _operands(node)
    assert x.shape is not None
    perm = list(attr(node, "perm", range(len(x.shape))[::-1]))
    return [lambda: g.op("Transpose", slope, perm=[perm.index(i) for i in range(len(perm))])]


@_rule("Expand")
def _expand(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    return [lambda: g.unbroadcast(slope, node.outputs[0], _operands(node)[0])]


@_rule("Concat")
def _concat(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    inputs, axis = _operands(node), attr(node, "axis", 0)

    def term(index: int) -> ir.Value:
        def length(values: Sequence[ir.Value]) -> ir.Value:
            total = g.ints([0])
            for value in values:
                size = g.op("Gather", g.op("Shape", value), g.ints([axis]))
                total = g.op("Add", total, size)
            return total

        edges = length(inputs[:index]), length(inputs[: index + 1])
        return g.op("Slice", slope, *edges, g.ints([axis]))

    return [lambda i=i: term(i) for i in range(len(inputs))]


@_rule("ReduceSum", "ReduceMean")
def _reduce(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    axes = node.inputs[1] if len(node.inputs) > 1 else None

    def term() -> ir.Value:
        part = slope
        if node.op_type == "ReduceMean":
            count = g.op("Div", g.op("Size", x), g.op("Size", y))
            part = g.op("Div", part, g.op("CastLike", count, x))
        if axes is not None and not attr(node, "keepdims", 1):
            part = g.op("Unsqueeze", part, axes)
        return g.op("Expand", part, g.op("Shape", x))

    if axes is None and attr(node, "noop_with_empty_axes", 0):
        return [lambda: slope]
    return [term]


@_rule("Softmax", "LogSoftmax")
def _softmax(g: _Tape, node: ir.Node, slope: ir.Value) -> Sequence[Any]:
    y, axis = node.outputs[0], g.ints([attr(node, "axis", -1)])

    def soft() -> ir.Value:
        total = g.op("ReduceSum", g.op("Mul", slope, y), axis, keepdims=1)
        return g.op("Mul", y, g.op("Sub", slope, total))

    def log() -> ir.Value:
        total = g.op("ReduceSum", slope, axis, keepdims=1)
        return g.op("Sub", slope, g.op("Mul", g.op("Exp", y), total))

    return [soft if node.op_type == "Softmax" else log]
