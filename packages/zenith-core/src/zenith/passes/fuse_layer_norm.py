"""(x - mean) / sqrt(var + eps) * w + b -> LayerNormalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.normalise import match_normalised, scale_input, with_row
from zenith.passes.rewrite import Rewriter, produced_by, reduced_axis, sole_user


@dataclass(frozen=True)
class FuseLayerNorm:
    """float32, over the last axis; scale and bias of [N] are optional."""

    name: ClassVar[str] = "fuse_layer_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if n.graph is not None)


def _fuse(rw: Rewriter, root: ir.Node) -> bool:
    found = match_normalised(root)
    if found is None or found.x.dtype != ir.DataType.FLOAT:
        return False
    centred = produced_by(found.x, "Sub")
    mean = produced_by(centred.inputs[1], "ReduceMean") if centred is not None else None
    if centred is None or mean is None or mean.inputs[0] is not centred.inputs[0]:
        return False
    x = centred.inputs[0]
    if x is None or x.shape is None or reduced_axis(mean) != x.shape.rank() - 1:
        return False
    inside = {found.nodes[0], root}
    if found.x.is_graph_output() or not {u.node for u in found.x.uses()} <= inside:
        return False
    if sole_user(mean.outputs[0]) is not centred:
        return False
    nodes, result = [mean, centred, *found.nodes], root.outputs[0]
    scaled = with_row(result, "Mul")
    if scaled is not None:
        nodes, result = [*nodes, scaled[0]], scaled[0].outputs[0]
    shifted = with_row(result, "Add")
    if shifted is not None:
        nodes, result = [*nodes, shifted[0]], shifted[0].outputs[0]
    scale = scale_input(rw, x, scaled[1] if scaled else None)
    if scale is None:
        return False
    inputs = [x, scale, *([shifted[1]] if shifted else [])]
    new = rw.op("LayerNormalization", inputs, {"axis": -1, "epsilon": found.epsilon})
    return rw.replace(nodes, {result: new.outputs[0]}, [new])
