"""Residual Add before a normalisation -> zenith.AddLayerNorm, zenith.AddRMSNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    attr,
    const_shape,
    is_op,
    last_axis,
    produced_by,
    same_shape,
)

_FUSED = {"LayerNormalization": "AddLayerNorm", "RMSNormalization": "AddRMSNorm"}


@dataclass(frozen=True)
class FuseAddNorm:
    """Add(a, b) of one shape -> normalisation over the last axis with constant [N] scale (and
    bias). The sum may have other users: it is the fused node's second output."""

    name: ClassVar[str] = "fuse_add_norm"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fuse(rewriter, node)
            for node in graph.nodes
            if is_op(node, *_FUSED) and node.graph is not None
        )


def _fuse(rw: Rewriter, norm: ir.Node) -> bool:
    total = norm.inputs[0]
    add = produced_by(total, "Add")
    if add is None or total is None or not last_axis(norm, total) or len(norm.outputs) > 1:
        return False
    a, b = add.inputs
    if not (same_shape(a, total) and same_shape(b, total)):
        return False
    if attr(norm, "stash_type", 1) != 1:
        return False
    size = const_shape(norm.inputs[1])
    if size is None or total.shape is None or size != (total.shape[-1],) or total.dtype is None:
        return False
    inputs = [a, b, norm.inputs[1]]
    if norm.op_type == "LayerNormalization":
        bias = norm.inputs[2] if len(norm.inputs) > 2 else None
        if bias is None:
            bias = rw.constant(np.zeros(size, total.dtype.numpy()), "zero_bias")
        if const_shape(bias) != size:
            return False
        inputs.append(bias)
    new = rw.fused(
        _FUSED[norm.op_type],
        "",
        inputs,
        {"epsilon": float(attr(norm, "epsilon", 1e-5))},
        outputs=2,
    )
    values = {norm.outputs[0]: new.outputs[0], total: new.outputs[1]}
    return rw.replace([add, norm], values, [new], at=add)
