"""An Add of a transposed product is done before the Transpose, where the product can take it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    attr,
    commuted,
    const_shape,
    dims,
    is_op,
    produced_by,
    same_shape,
    sole_user,
)

_STEPS = 3  # between a product and the Transpose: bias, activation, scale


@dataclass(frozen=True)
class SinkTranspose:
    """MatMul or Gemm with a constant matrix [-> bias, activation, scale] -> Transpose -> Add of a
    computed tensor of that shape, which is transposed the other way round. That is a view where it
    lies in memory as the product does: channels last, as behind a convolution."""

    name: ClassVar[str] = "sink_transpose"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            any(_sink(rewriter, node, *pair) for pair in commuted(node))
            for node in graph.nodes
            if is_op(node, "Add")
        )


def _sink(rw: Rewriter, add: ir.Node, value: ir.Value | None, other: ir.Value | None) -> bool:
    transpose = produced_by(value, "Transpose")
    if transpose is None or value is None or other is None or sole_user(value) is not add:
        return False
    flat = transpose.inputs[0]
    if flat is None or sole_user(flat) is not transpose or not _ends_product(flat):
        return False
    before, after = dims(flat), dims(value)
    if before is None or after is None or const_shape(other) is not None:
        return False
    if not (same_shape(value, add.outputs[0]) and same_shape(other, add.outputs[0])):
        return False
    perm = list(attr(transpose, "perm", range(len(before) - 1, -1, -1)))
    inverse = [perm.index(axis) for axis in range(len(perm))]
    turned = rw.op("Transpose", [other], {"perm": inverse}, dtype=flat.dtype, shape=before)
    early = rw.op("Add", [flat, turned.outputs[0]], dtype=flat.dtype, shape=before)
    late = rw.op("Transpose", [early.outputs[0]], {"perm": perm})
    return rw.replace([transpose, add], {add.outputs[0]: late.outputs[0]}, [turned, early, late])


def _ends_product(value: ir.Value) -> bool:
    """Whether it is a product with constant weights, or an epilogue of constants behind one."""
    for _ in range(_STEPS + 1):
        node = value.producer()
        if node is None or sole_user(value) is None:
            return False
        if is_op(node, "MatMul", "Gemm"):
            return const_shape(node.inputs[1]) is not None
        computed = [v for v in node.inputs if v is not None and const_shape(v) is None]
        if node.domain or len(computed) != 1 or not same_shape(computed[0], node.outputs[0]):
            return False
        value = computed[0]
    return False
