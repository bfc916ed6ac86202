"""Constant nodes become initializers, so that every pass sees one kind of constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir.passes.common as common

from zenith.ir import GraphIR


@dataclass(frozen=True)
class LiftConstants:
    """Constant nodes of the graph and its subgraphs -> initializers."""

    name: ClassVar[str] = "lift_constants"

    def run(self, graph: GraphIR) -> int:
        before = len(graph.initializers)
        model = graph.model
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        return len(graph.initializers) - before
