"""Constant nodes become initializers, so that every pass sees one kind of constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from zenith.ir import GraphIR


@dataclass(frozen=True)
class LiftConstants:
    """Constant nodes of the graph and its subgraphs -> initializers."""

    name: ClassVar[str] = "lift_constants"

    def run(self, graph: GraphIR) -> int:
        before = len(graph.initializers)
        model = graph.model
        for node in model.graph.all_nodes():
            _encode(node)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        return len(graph.initializers) - before


def _encode(node: ir.Node) -> None:
    """Text of a Constant as a tensor of UTF-8: the package's own pass takes ASCII only."""
    for name in ("value_string", "value_strings") if node.op_type == "Constant" else ():
        given = node.attributes.get(name)
        if given is None or given.is_ref():
            continue
        del node.attributes[name]
        texts = [given.as_string()] if name == "value_string" else given.as_strings()
        shape = ir.Shape(() if name == "value_string" else (len(texts),))
        tensor = ir.StringTensor([text.encode() for text in texts], shape=shape)
        node.attributes["value"] = ir.AttrTensor("value", tensor)
