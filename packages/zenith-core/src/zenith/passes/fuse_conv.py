"""Conv with what follows it -> zenith.ConvBiasAct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.epilogues import grow
from zenith.passes.rewrite import Rewriter, attr, const_shape, is_op


@dataclass(frozen=True)
class FuseConv:
    """Conv(x, constant w[, constant b]) [+ residual] [activation] [+ residual].

    Explicit padding only. A residual has the output's shape; intermediates have one user.
    """

    name: ClassVar[str] = "fuse_conv"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fuse(rewriter, node)
            for node in graph.nodes
            if is_op(node, "Conv") and node.graph is not None
        )


def _fuse(rw: Rewriter, conv: ir.Node) -> bool:
    size = const_shape(conv.inputs[1])
    if size is None or len(size) < 3 or attr(conv, "auto_pad", "NOTSET") != "NOTSET":
        return False
    spatial = len(size) - 2
    attributes = {
        "strides": list(attr(conv, "strides", [1] * spatial)),
        "pads": list(attr(conv, "pads", [0] * 2 * spatial)),
        "dilations": list(attr(conv, "dilations", [1] * spatial)),
        "group": attr(conv, "group", 1),
    }
    inputs, steps = list(conv.inputs[:2]), []
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        inputs.append(conv.inputs[2])
        steps.append("bias")
    chain = grow(conv, allow_mul=False)
    inputs += chain.operands
    overload = ".".join([*steps, *chain.steps])
    new = rw.fused("ConvBiasAct", overload, inputs, attributes)
    return rw.replace([conv, *chain.nodes], {chain.result: new.outputs[0]}, [new])
