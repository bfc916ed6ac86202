"""A batch normalisation that no convolution takes is a product and a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zenith.ir import GraphIR
from zenith.passes.fold_channels import normalisation
from zenith.passes.rewrite import Rewriter, is_op


@dataclass(frozen=True)
class LowerBatchNorm:
    """BatchNormalization (inference, constant statistics) -> Mul and Add of one number per channel,
    which other elementwise operators then join: in nets that normalise before they convolve.
    Factor and term are computed in float64 and rounded to the type of x."""

    name: ClassVar[str] = "lower_batch_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        changed = 0
        for node in graph.nodes:
            x = node.inputs[0] if is_op(node, "BatchNormalization") else None
            found = None if x is None else normalisation(node, x)
            if x is None or found is None or x.dtype is None or x.shape is None:
                continue
            per_channel = (-1, *(1,) * (len(x.shape) - 2))
            factor, term = (
                rewriter.constant(
                    row.reshape(per_channel).astype(x.dtype.numpy()), node.name or "batch_norm"
                )
                for row in found
            )
            product = rewriter.op("Mul", [x, factor], dtype=x.dtype, shape=x.shape)
            new = rewriter.op("Add", [product.outputs[0], term])
            changed += rewriter.replace([node], {node.outputs[0]: new.outputs[0]}, [product, new])
        return changed
