"""exp(x - max) / sum -> Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, is_op, produced_by, rank, reduced_axis


@dataclass(frozen=True)
class FuseSoftmax:
    """Div(e, ReduceSum(e)), e = Exp(Sub(x, ReduceMax(x))), both over one equal axis, kept."""

    name: ClassVar[str] = "fuse_softmax"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if is_op(n, "Div"))


def _fuse(rw: Rewriter, div: ir.Node) -> bool:
    exp, total = produced_by(div.inputs[0], "Exp"), produced_by(div.inputs[1], "ReduceSum")
    if exp is None or total is None or total.inputs[0] is not exp.outputs[0]:
        return False
    sub = produced_by(exp.inputs[0], "Sub")
    top = produced_by(sub.inputs[1], "ReduceMax") if sub is not None else None
    if sub is None or top is None or top.inputs[0] is not sub.inputs[0]:
        return False
    axis = reduced_axis(total)
    if axis is None or axis != reduced_axis(top) or rank(sub.inputs[0]) is None:
        return False
    if any(not _only(n, users) for n, users in ((exp, {div, total}), (total, {div}), (sub, {exp}))):
        return False
    new = rw.op("Softmax", [sub.inputs[0]], {"axis": axis})
    return rw.replace([top, sub, exp, total, div], {div.outputs[0]: new.outputs[0]}, [new])


def _only(node: ir.Node, users: set[ir.Node]) -> bool:
    value = node.outputs[0]
    return not value.is_graph_output() and {u.node for u in value.uses()} <= users
