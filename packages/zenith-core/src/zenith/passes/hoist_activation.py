"""An activation of a product's moved result is computed before the moves, in the product's end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.epilogues import activation
from zenith.passes.rewrite import (
    Rewriter,
    commuted,
    const_shape,
    dims,
    is_op,
    produced_by,
    sole_user,
)

_MOVES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class HoistActivation:
    """Conv, MatMul or Gemm with constant weights [-> Add of a constant] -> Reshape, Transpose and
    their like -> an activation that an epilogue has: what only moves values goes behind it. So it
    is in models that have pixels as a sequence, around a convolution."""

    name: ClassVar[str] = "hoist_activation"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_hoist(rewriter, node) for node in graph.nodes if activation(node) is not None)


def _hoist(rw: Rewriter, node: ir.Node) -> bool:
    moves: list[ir.Node] = []  # from the activation up
    value = node.inputs[0]
    while (move := produced_by(value, *_MOVES)) is not None:
        if value is None or sole_user(value) is not (moves[-1] if moves else node):
            return False
        moves.append(move)
        value = move.inputs[0]
    if not moves or value is None or sole_user(value) is not moves[-1] or not _is_product(value):
        return False
    if any(dims(move.inputs[0]) is None for move in moves):
        return False
    dtype = value.dtype
    early = rw.op(
        node.op_type,
        [value, *node.inputs[1:]],
        dict(node.attributes),
        dtype=dtype,
        shape=dims(value),
    )
    new = [early]
    for move in reversed(moves):
        inputs = [new[-1].outputs[0], *move.inputs[1:]]
        shape = dims(move.outputs[0])
        new.append(rw.op(move.op_type, inputs, dict(move.attributes), dtype=dtype, shape=shape))
    values = {node.outputs[0]: new[-1].outputs[0]}
    return rw.replace([*reversed(moves), node], values, new)


def _is_product(value: ir.Value) -> bool:
    """Whether it is one with constant weights, perhaps with a constant added."""
    node = produced_by(value, "Conv", "MatMul", "Gemm", "Add")
    if node is not None and is_op(node, "Add"):
        for summand, other in commuted(node):
            if (
                summand is not None
                and const_shape(other) is not None
                and sole_user(summand) is node
            ):
                node = produced_by(summand, "Conv", "MatMul", "Gemm")
                break
    return node is not None and node.op_type != "Add" and const_shape(node.inputs[1]) is not None
