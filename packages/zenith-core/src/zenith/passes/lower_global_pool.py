"""Pooling over everything is a reduction, which frameworks write in other ways too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, is_op, rank

_REDUCTIONS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@dataclass(frozen=True)
class LowerGlobalPool:
    """GlobalAveragePool and GlobalMaxPool of a tensor of known rank become ReduceMean and ReduceMax
    over the spatial axes, which stay as sizes of 1."""

    name: ClassVar[str] = "lower_global_pool"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        changed = 0
        for node in graph.nodes:
            if not is_op(node, *_REDUCTIONS):
                continue
            x = node.inputs[0]
            axes = np.arange(2, rank(x) or 0, dtype=np.int64)
            if axes.size:
                spatial = rewriter.constant(axes, f"{node.name}_axes")
                new = rewriter.op(_REDUCTIONS[node.op_type], [x, spatial], {"keepdims": 1})
                changed += rewriter.replace([node], {node.outputs[0]: new.outputs[0]}, [new])
        return changed
