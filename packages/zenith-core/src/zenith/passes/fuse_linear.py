"""MatMul or Gemm with a constant matrix, and what follows it -> zenith.Linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.epilogues import grow
from zenith.passes.rewrite import Rewriter, attr, const_shape, float_type, is_op, rank, transposed


@dataclass(frozen=True)
class FuseLinear:
    """MatMul(x, constant w[K,N]) [+ b[N]] [activation] [+ or * a tensor of the output's shape].

    Also Gemm of a constant B with alpha = beta = 1. Intermediates have one user.
    """

    name: ClassVar[str] = "fuse_linear"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fuse(rewriter, node)
            for node in graph.nodes
            if is_op(node, "MatMul", "Gemm") and node.graph is not None
        )


def _fuse(rw: Rewriter, node: ir.Node) -> bool:
    x, w = node.inputs[0], node.inputs[1]
    size = const_shape(w)
    if size is None or len(size) != 2 or (rank(x) or 0) < 2 or not float_type(x):
        return False
    inputs, steps = [x, w], []
    if node.op_type == "Gemm":
        if attr(node, "transA", 0) or attr(node, "alpha", 1.0) != 1:
            return False
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            outputs = size[0] if attr(node, "transB", 0) else size[1]
            if const_shape(bias) != (outputs,) or attr(node, "beta", 1.0) != 1:
                return False
            inputs.append(bias)
            steps.append("bias")
        if attr(node, "transB", 0):
            inputs[1] = transposed(rw, w)
    chain = grow(node, allow_mul=True, steps=steps, bias="bias" not in steps)
    overload = ".".join([*steps, *chain.steps])
    new = rw.fused("Linear", overload, [*inputs, *chain.operands])
    return rw.replace([node, *chain.nodes], {chain.result: new.outputs[0]}, [new])
