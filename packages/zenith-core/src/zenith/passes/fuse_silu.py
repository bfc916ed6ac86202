"""x * sigmoid(x) -> Swish; x * hardsigmoid(x) -> HardSwish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.epilogues import activation
from zenith.passes.rewrite import Rewriter, commuted, is_op, produced_by, sole_user


@dataclass(frozen=True)
class FuseSilu:
    """The gate must be of the same x and have no other user."""

    name: ClassVar[str] = "fuse_silu"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if is_op(n, "Mul"))


def _fuse(rw: Rewriter, product: ir.Node) -> bool:
    for x, gate in commuted(product):
        inner = produced_by(gate, "Sigmoid", "HardSigmoid")
        if inner is None or x is None or inner.inputs[0] is not x:
            continue
        if sole_user(inner.outputs[0]) is not product:
            continue
        kind = {"sigmoid": "Swish", "hardsigmoid": "HardSwish"}.get(activation(inner) or "")
        if kind is not None:
            new = rw.op(kind, [x])
            return rw.replace([inner, product], {product.outputs[0]: new.outputs[0]}, [new])
    return False
