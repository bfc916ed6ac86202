"""QuantizeLinear(move(DequantizeLinear(x))) -> move(x), for operators that only pick elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.quantized import MOVES, dequantized, quantizer, same_scale
from zenith.passes.rewrite import Rewriter, is_op, sole_user


@dataclass(frozen=True)
class LowerQuantizedMoves:
    """A MaxPool, Reshape, Transpose and the like between a DequantizeLinear and a QuantizeLinear of
    the same scale and zero point works on the integers: it gives elements of its input, and
    dequantizing keeps their order. The result in between has one user.
    """

    name: ClassVar[str] = "lower_quantized_moves"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _lower(rewriter, node)
            for node in graph.nodes
            if is_op(node, *MOVES) and node.graph is not None
        )


def _lower(rw: Rewriter, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    last = sole_user(node.outputs[0])
    ends = quantizer(last)
    if x is None or last is None or ends is None or last.inputs[0] is not node.outputs[0]:
        return False
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    if not same_scale(x[1:], ends):
        return False
    attributes = {a.name: a.value for a in node.attributes.values()}
    new = rw.op(node.op_type, [x[0], *node.inputs[1:]], attributes)
    return rw.replace([node, last], {last.outputs[0]: new.outputs[0]}, [new])
