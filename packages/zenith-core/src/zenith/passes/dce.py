"""Dead code: nodes, initializers and functions nothing uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
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
        unused_functions: ir.passes.PassBase = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
        unused_functions(graph.model)
        return before - size()
