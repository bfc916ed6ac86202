"""What is joined again with more behind it is joined to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, attr, is_op

_Inputs = tuple[ir.Value | None, ...]


@dataclass(frozen=True)
class ShareConcat:
    """Concat(a, b) and later Concat(a, b, c) -> the latter joins the former's result and c.

    As much is copied as before, unless memory is planned so that the longer one begins as the
    shorter one: then a dense block, which joins all it has at every layer, copies nothing twice.
    """

    name: ClassVar[str] = "share_concat"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        known: dict[object, list[tuple[_Inputs, ir.Value]]] = {}  # by axis and first input
        changed = 0
        for node in graph.nodes:
            if not is_op(node, "Concat") or len(node.inputs) < 2:
                continue
            axis, inputs, result = attr(node, "axis", 0), tuple(node.inputs), node.outputs[0]
            alike = known.setdefault((axis, inputs[0]), [])
            begins = [(len(some), value) for some, value in alike if inputs[: len(some)] == some]
            length, shared = max(begins, key=lambda found: found[0], default=(len(inputs), None))
            if length < len(inputs):
                new = rewriter.op("Concat", [shared, *inputs[length:]], {"axis": axis})
                if rewriter.replace([node], {result: new.outputs[0]}, [new]):
                    result = new.outputs[0]
                    changed += 1
            alike.append((inputs, result))
        return changed
