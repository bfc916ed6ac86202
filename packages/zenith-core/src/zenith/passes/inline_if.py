"""An If whose condition is a constant is its branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.ir.control import subgraphs
from zenith.passes.rewrite import Rewriter, array, is_op


@dataclass(frozen=True)
class InlineIf:
    """Puts the nodes of the branch that is taken in place of the If."""

    name: ClassVar[str] = "inline_if"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        changed = 0
        for node in graph.nodes:
            condition = array(node.inputs[0]) if is_op(node, "If") else None
            if condition is not None and condition.size == 1:
                name = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
                changed += _inline(rewriter, node, subgraphs(node)[name])
        return changed


def _inline(rewriter: Rewriter, node: ir.Node, branch: ir.Graph) -> bool:
    copy = branch.clone(allow_outer_scope_values=True)
    for value in list(copy.initializers.values()):
        del copy.initializers[str(value.name)]
        value.name = f"{node.name}.{value.name}"
        rewriter.model.graph.register_initializer(value)
    results = list(copy.outputs)
    nodes = list(copy)
    copy.outputs.clear()
    copy.remove(nodes)
    made = {v for n in nodes for v in n.outputs}
    for index, value in enumerate(results):
        if value not in made or value in results[:index]:  # a result of its own for each output
            identity = rewriter.op("Identity", [value])
            nodes.append(identity)
            results[index] = identity.outputs[0]
    for inner in nodes:
        inner.name = f"{node.name}.{inner.name}"
    return rewriter.replace([node], dict(zip(node.outputs, results, strict=True)), nodes)
