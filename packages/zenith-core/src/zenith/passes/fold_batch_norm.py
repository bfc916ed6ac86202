"""BatchNormalization after Conv goes into the convolution's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, array, attr, is_op, produced_by, sole_user


@dataclass(frozen=True)
class FoldBatchNorm:
    """Conv -> BatchNormalization (inference, constant statistics) = Conv with other constants.

    Computed in float64. The convolution must have no other user.
    """

    name: ClassVar[str] = "fold_batch_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fold(rewriter, n) for n in graph.nodes if is_op(n, "BatchNormalization"))


def _fold(rw: Rewriter, norm: ir.Node) -> bool:
    conv = produced_by(norm.inputs[0], "Conv")
    if conv is None or sole_user(conv.outputs[0]) is not norm:
        return False
    if attr(norm, "training_mode", 0) or any(v.uses() for v in norm.outputs[1:]):
        return False
    weight = array(conv.inputs[1])
    scale, shift, mean, variance = (array(v) for v in norm.inputs[1:5])
    if weight is None or scale is None or shift is None or mean is None or variance is None:
        return False
    bias = np.zeros(1)
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        given = array(conv.inputs[2])
        if given is None:
            return False
        bias = given
    factor = scale.astype(np.float64) / np.sqrt(
        variance.astype(np.float64) + attr(norm, "epsilon", 1e-5)
    )
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    new_bias = (bias.astype(np.float64) - mean) * factor + shift
    name = conv.inputs[1].name if conv.inputs[1] is not None else "weight"
    new = rw.op(
        "Conv",
        [
            conv.inputs[0],
            rw.constant(new_weight.astype(weight.dtype), f"{name}_bn"),
            rw.constant(new_bias.astype(weight.dtype), f"{name}_bn_bias"),
        ],
        dict(conv.attributes),
    )
    return rw.replace([conv, norm], {norm.outputs[0]: new.outputs[0]}, [new])
