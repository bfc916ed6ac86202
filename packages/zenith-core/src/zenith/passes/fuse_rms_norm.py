"""x / sqrt(mean(x^2) + eps) * w -> RMSNormalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.normalise import match_normalised, match_scaled, scale_input, with_row
from zenith.passes.rewrite import Rewriter


@dataclass(frozen=True)
class FuseRmsNorm:
    """float32, over the last axis; the [N] scale on either side, or in the factor, or none."""

    name: ClassVar[str] = "fuse_rms_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if n.graph is not None)


def _fuse(rw: Rewriter, root: ir.Node) -> bool:
    within = match_scaled(root)
    found = match_normalised(root) if within is None else within[0]
    if found is None or found.x.dtype != ir.DataType.FLOAT:
        return False
    nodes, result = found.nodes, root.outputs[0]
    row = None if within is None else within[1]
    if row is None and (scaled := with_row(result, "Mul")) is not None:
        nodes, result, row = [*nodes, scaled[0]], scaled[0].outputs[0], scaled[1]
    scale = scale_input(rw, found.x, row)
    if scale is None:
        return False
    new = rw.op("RMSNormalization", [found.x, scale], {"axis": -1, "epsilon": found.epsilon})
    return rw.replace(nodes, {result: new.outputs[0]}, [new])
