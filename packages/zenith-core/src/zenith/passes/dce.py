"""Dead code: nodes, initializers and functions nothing uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir.passes.common as common

from zenith.ir import GraphIR


@dataclass(frozen=True)
class RemoveUnused:
    """Remove what no graph output depends on. Inputs and outputs stay."""

    name: ClassVar[str] = "dce"

    def run(self, graph: GraphIR) -> int:
        def size() -> int:
            return len(graph) + len(graph.initializers) + len(graph.model.functions)

        before = size()
        common.RemoveUnusedNodesPass()(graph.model)
        common.RemoveUnusedFunctionsPass()(graph.model)
        return before - size()
