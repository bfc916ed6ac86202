"""(x - mean) / sqrt(var + eps) * w + b -> LayerNormalization.

The variance may be mean((x - mean)^2), or mean(x^2) - mean^2 as JAX's libraries write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.normalise import (
    match_normalised,
    scale_input,
    spread,
    square_of,
    with_row,
)
from zenith.passes.rewrite import (
    Rewriter,
    commuted,
    dims,
    is_op,
    produced_by,
    reduced_axis,
    same_dim,
    same_shape,
    scalar,
    sole_user,
)


@dataclass(frozen=True)
class FuseLayerNorm:
    """float32, over the last axis; scale and bias of [N] are optional."""

    name: ClassVar[str] = "fuse_layer_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fuse(rewriter, n) or _fuse_by_squares(rewriter, n)
            for n in graph.nodes
            if n.graph is not None
        )


def _fuse(rw: Rewriter, root: ir.Node) -> bool:
    found = match_normalised(root)
    if found is None or found.x.dtype != ir.DataType.FLOAT:
        return False
    centred = produced_by(found.x, "Sub")
    mean = produced_by(centred.inputs[1], "ReduceMean") if centred is not None else None
    if centred is None or mean is None or mean.inputs[0] is not centred.inputs[0]:
        return False
    x = centred.inputs[0]
    if x is None or x.shape is None or reduced_axis(mean) != x.shape.rank() - 1:
        return False
    inside = {found.nodes[0], root}
    if found.x.is_graph_output() or not {u.node for u in found.x.uses()} <= inside:
        return False
    if sole_user(mean.outputs[0]) is not centred:
        return False
    nodes, result = [mean, centred, *found.nodes], root.outputs[0]
    scaled = with_row(result, "Mul")
    if scaled is not None:
        nodes, result = [*nodes, scaled[0]], scaled[0].outputs[0]
    shifted = with_row(result, "Add")
    if shifted is not None:
        nodes, result = [*nodes, shifted[0]], shifted[0].outputs[0]
    scale = scale_input(rw, x, scaled[1] if scaled else None)
    if scale is None:
        return False
    inputs = [x, scale, *([shifted[1]] if shifted else [])]
    new = rw.op("LayerNormalization", inputs, {"axis": -1, "epsilon": found.epsilon})
    return rw.replace(nodes, {result: new.outputs[0]}, [new])


def _fuse_by_squares(rw: Rewriter, root: ir.Node) -> bool:
    """The same with the variance as mean(x^2) - mean^2; the scale may be on either factor."""
    if not is_op(root, "Mul", "Div") or root.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    pairs = commuted(root) if root.op_type == "Mul" else [(root.inputs[0], root.inputs[1])]
    for centred_value, factor in pairs:
        centred = produced_by(centred_value, "Sub")
        mean = produced_by(centred.inputs[1], "ReduceMean") if centred is not None else None
        if centred is None or mean is None or mean.inputs[0] is not centred.inputs[0]:
            continue
        found = _by_squares(factor, root.op_type == "Div", mean)
        if found is None:
            continue
        epsilon, scale, inner = found
        x, result = mean.inputs[0], root.outputs[0]
        if x is None or not same_shape(x, result):
            return False
        nodes = [mean, centred, *inner, root]
        members = set(nodes)
        if any(
            value.is_graph_output() or not {use.node for use in value.uses()} <= members
            for node in nodes[:-1]
            for value in node.outputs
        ):
            return False
        if scale is None and (scaled := with_row(result, "Mul")) is not None:
            nodes, scale, result = [*nodes, scaled[0]], scaled[1], scaled[0].outputs[0]
        shifted = with_row(result, "Add")
        if shifted is not None:
            nodes, result = [*nodes, shifted[0]], shifted[0].outputs[0]
        row = scale_input(rw, x, scale)
        if row is None:
            return False
        inputs = [x, row, *([shifted[1]] if shifted else [])]
        new = rw.op("LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon})
        return rw.replace(nodes, {result: new.outputs[0]}, [new])
    return False


def _by_squares(
    factor: ir.Value | None, divides: bool, mean: ir.Node
) -> tuple[float, ir.Value | None, list[ir.Node]] | None:
    """(epsilon, scale, nodes) where `factor` is [scale] / sqrt(mean(x^2) - mean^2 + epsilon), or
    the square root itself if it divides; a negative difference may be cut to 0."""
    x = mean.inputs[0]
    shape = dims(x)
    if x is None or shape is None or reduced_axis(mean) != len(shape) - 1:
        return None
    scale: ir.Value | None = None
    nodes: list[ir.Node] = []
    found = spread(factor, divides)
    product = produced_by(factor, "Mul") if not divides else None
    if found is None and product is not None:
        for root, row in commuted(product):
            size = dims(row)
            if row is None or size is None or len(size) != 1 or not same_dim(size[0], shape[-1]):
                continue
            found = spread(root, False)
            if found is not None:
                scale, nodes = row, [product]
                break
    if found is None:
        return None
    total, tail = found
    add = produced_by(total, "Add")
    for value, number in commuted(add) if add is not None else ():
        epsilon = scalar(number)
        positive = produced_by(value, "Relu", "Max")
        inner = value
        if positive is not None:
            if positive.op_type == "Max" and scalar(positive.inputs[0]) == 0:
                inner = positive.inputs[1]
            elif positive.op_type == "Relu" or scalar(positive.inputs[1]) == 0:
                inner = positive.inputs[0]
        difference = produced_by(inner, "Sub")
        if epsilon is None or difference is None or add is None:
            continue
        squares = produced_by(difference.inputs[0], "ReduceMean")
        squared_mean = square_of(difference.inputs[1], mean.outputs[0])
        square = square_of(squares.inputs[0], x) if squares is not None else None
        if squares is None or square is None or squared_mean is None:
            continue
        if reduced_axis(squares) != len(shape) - 1:
            continue
        cut = [positive] if positive is not None and inner is not value else []
        return epsilon, scale, [
            square, squares, squared_mean, difference, *cut, add, *tail, *nodes
        ]  # fmt: skip
    return None
