"""x * k + (b - mean * k) with k = w / sqrt(var + eps) -> LayerNormalization.

A normalisation of channels that stand second, as images have them, is done on a transposed view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.normalise import scale_input, spread
from zenith.passes.rewrite import (
    Rewriter,
    array,
    commuted,
    const_shape,
    dims,
    is_op,
    produced_by,
    reduced_axis,
    scalar,
)


@dataclass(frozen=True)
class FuseLayerNormAffine:
    """float32, over one axis; w and b are constants of its size (axes of 1 around it), both
    optional. TensorFlow computes its normalisations in this form."""

    name: ClassVar[str] = "fuse_layer_norm_affine"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        position = {node: i for i, node in enumerate(graph.nodes)}
        return sum(
            _fuse(rewriter, node, position)
            for node in graph.nodes
            if node.graph is not None and is_op(node, "Add", "Sub")
        )


def _fuse(rw: Rewriter, root: ir.Node, position: dict[ir.Node, int]) -> bool:
    for scaled, offset in commuted(root) if root.op_type == "Add" else [root.inputs[:2]]:
        product = produced_by(scaled, "Mul")
        if product is None:
            continue
        for x, k in commuted(product):
            if x is None or k is None or x.dtype != ir.DataType.FLOAT:
                continue
            nodes = {root: None, product: None}
            bias = _offset(offset, k, nodes, negated=root.op_type == "Sub")
            if bias is not None and _rewrite(rw, root, x, k, bias, nodes, position):
                return True
    return False


@dataclass(frozen=True)
class _Offset:
    """bias - mean * k; no bias is None."""

    mean: ir.Value
    bias: ir.Value | None


def _offset(
    value: ir.Value | None, k: ir.Value, nodes: dict[ir.Node, None], *, negated: bool
) -> _Offset | None:
    """`value` as b - mean * k, or as mean * k when `negated`; the nodes it takes go to `nodes`."""
    if negated:
        mean = _times(value, k, nodes, negative=False)
        return None if mean is None else _Offset(mean, None)
    mean = _times(value, k, nodes, negative=True)
    if mean is not None:
        return _Offset(mean, None)
    node = produced_by(value, "Add", "Sub")
    if node is None:
        return None
    if node.op_type == "Sub":
        mean = _times(node.inputs[1], k, nodes, negative=False)
        bias = node.inputs[0]
        nodes[node] = None
        return None if mean is None else _Offset(mean, bias)
    for part, bias in commuted(node):
        mean = _times(part, k, nodes, negative=True)
        if mean is not None:
            nodes[node] = None
            return _Offset(mean, bias)
    return None


def _times(
    value: ir.Value | None, k: ir.Value, nodes: dict[ir.Node, None], *, negative: bool
) -> ir.Value | None:
    """m where `value` is m * k, or -(m) * k when `negative`."""
    product = produced_by(value, "Mul")
    if product is None:
        return None
    for m, other in commuted(product):
        if other is not k or m is None:
            continue
        if not negative:
            nodes[product] = None
            return m
        negation = produced_by(m, "Neg")
        if negation is not None:
            nodes[product] = nodes[negation] = None
            return negation.inputs[0]
    return None


def _rewrite(
    rw: Rewriter,
    root: ir.Node,
    x: ir.Value,
    k: ir.Value,
    offset: _Offset,
    nodes: dict[ir.Node, None],
    position: dict[ir.Node, int],
) -> bool:
    shape = dims(x)
    mean = produced_by(offset.mean, "ReduceMean")
    if shape is None or mean is None or mean.inputs[0] is not x:
        return False
    for root_of, weight in _factors(k, nodes):
        inner = dict(nodes)
        inner.update(dict.fromkeys(root_of[1]))
        epsilon_add = produced_by(root_of[0], "Add")
        if epsilon_add is None:
            continue
        for variance, eps in commuted(epsilon_add):
            epsilon, average = scalar(eps), produced_by(variance, "ReduceMean")
            if epsilon is None or average is None:
                continue
            square = _centred_square(average.inputs[0], x, offset.mean)
            axis = reduced_axis(mean)
            if square is None or axis is None or axis != reduced_axis(average):
                continue
            inner.update(dict.fromkeys([epsilon_add, average, mean, *square]))
            return _replace(rw, root, x, axis, weight, offset.bias, epsilon, inner, position)
    return False


def _factors(
    k: ir.Value, nodes: dict[ir.Node, None]
) -> Iterator[tuple[tuple[ir.Value | None, list[ir.Node]], ir.Value | None]]:
    """k as 1 / sqrt(v) alone, or times a weight."""
    alone = spread(k, False)
    if alone is not None:
        yield alone, None
    product = produced_by(k, "Mul")
    for part, weight in commuted(product) if product is not None else ():
        root = spread(part, False)
        if root is not None and product is not None:
            nodes[product] = None
            yield root, weight


def _centred_square(
    value: ir.Value | None, x: ir.Value, mean: ir.Value
) -> tuple[ir.Node, ir.Node] | None:
    """(subtraction, square) when `value` is (x - mean) squared."""
    square = produced_by(value, "Mul", "Pow")
    centred = produced_by(square.inputs[0], "Sub") if square is not None else None
    if square is None or centred is None or list(centred.inputs) != [x, mean]:
        return None
    twice = square.inputs[1] is square.inputs[0]
    if not (twice if square.op_type == "Mul" else scalar(square.inputs[1]) == 2.0):
        return None
    return centred, square


def _replace(
    rw: Rewriter,
    root: ir.Node,
    x: ir.Value,
    axis: int,
    weight: ir.Value | None,
    bias: ir.Value | None,
    epsilon: float,
    inner: dict[ir.Node, None],
    position: dict[ir.Node, int],
) -> bool:
    closed = all(
        not v.is_graph_output() and all(use.node in inner for use in v.uses())
        for node in inner
        if node is not root
        for v in node.outputs
    )
    shape = dims(x)
    if shape is None or not closed or any(node not in position for node in inner):
        return False
    rows = [_row(rw, v, axis, shape) for v in (weight, bias)]
    if any(v is not None and r is None for v, r in zip((weight, bias), rows, strict=True)):
        return False
    order = [*(a for a in range(len(shape)) if a != axis), axis]
    turned = [shape[a] for a in order]
    there = rw.op("Transpose", [x], {"perm": order}, dtype=x.dtype, shape=turned)
    apart = axis != len(shape) - 1
    last = there.outputs[0] if apart else x
    scale = scale_input(rw, last, rows[0])
    if scale is None:
        return False
    inputs = [last, scale, *([rows[1]] if rows[1] is not None else [])]
    how = {"axis": -1, "epsilon": epsilon}
    norm = rw.op("LayerNormalization", inputs, how, dtype=x.dtype, shape=turned)
    inverse = [order.index(a) for a in range(len(order))]
    back = rw.op("Transpose", [norm.outputs[0]], {"perm": inverse})
    new = [there, norm, back] if apart else [norm]
    nodes = sorted(inner, key=position.__getitem__)
    return rw.replace(nodes, {root.outputs[0]: new[-1].outputs[0]}, new)


def _row(
    rw: Rewriter, value: ir.Value | None, axis: int, shape: Sequence[object]
) -> ir.Value | None:
    """The constant as [N], when it is broadcast along this axis alone."""
    found = const_shape(value)
    if value is None or found is None or len(found) > len(shape):
        return None
    full = [1] * (len(shape) - len(found)) + list(found)
    if full[axis] != shape[axis] or any(d != 1 for a, d in enumerate(full) if a != axis):
        return None
    if len(found) == 1:
        return value
    data = array(value)
    if data is None or data.dtype != np.float32:
        return None
    return rw.constant(data.reshape(-1), f"{value.name}_row")
