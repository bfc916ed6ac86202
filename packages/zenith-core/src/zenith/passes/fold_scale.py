"""A constant per-feature factor after a linear layer goes into the layer's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Array,
    Rewriter,
    array,
    commuted,
    const_shape,
    is_op,
    produced_by,
    sole_user,
)


@dataclass(frozen=True)
class FoldScale:
    """(x @ W [+ b]) * s, with constant W [K, N], b [N] and s [N], = x @ (W*s) [+ b*s].

    Layer scale of vision models. Computed in float64; no intermediate may have another user.
    """

    name: ClassVar[str] = "fold_scale"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fold(rewriter, n) for n in graph.nodes if is_op(n, "Mul"))


def _fold(rw: Rewriter, mul: ir.Node) -> bool:
    return any(_fold_pair(rw, mul, product, scale) for product, scale in commuted(mul))


def _fold_pair(
    rw: Rewriter, mul: ir.Node, product: ir.Value | None, scale: ir.Value | None
) -> bool:
    if product is None or sole_user(product) is not mul:
        return False
    bias: Array | None = None
    matmul, add = produced_by(product, "MatMul"), produced_by(product, "Add")
    if add is not None:
        for left, right in commuted(add):
            inner = produced_by(left, "MatMul")
            if inner is not None and left is not None and sole_user(left) is add:
                matmul, bias = inner, array(right)
        if bias is None:
            return False
    if matmul is None:
        return False
    shape = const_shape(matmul.inputs[1])
    factor = _row(scale, shape)
    weight = array(matmul.inputs[1]) if factor is not None else None
    if factor is None or weight is None or weight.dtype != np.float32:
        return False
    if bias is not None and bias.shape != factor.shape:
        return False
    wide = factor.astype(np.float64)
    name = matmul.inputs[1].name if matmul.inputs[1] is not None else "weight"
    scaled = rw.constant((weight * wide).astype(np.float32), f"{name}_scaled")
    old_product = matmul.outputs[0]
    new = [
        rw.op(
            "MatMul", [matmul.inputs[0], scaled], dtype=old_product.dtype, shape=old_product.shape
        )
    ]
    old = [matmul, mul]
    if bias is not None and add is not None:
        moved = rw.constant((bias * wide).astype(np.float32), f"{name}_scaled_bias")
        new.append(rw.op("Add", [new[0].outputs[0], moved]))
        old.insert(1, add)
    return rw.replace(old, {mul.outputs[0]: new[-1].outputs[0]}, new)


def _row(scale: ir.Value | None, weight: tuple[int, ...] | None) -> Array | None:
    """The factor as [N] when it is a float32 constant of shape [N] for a [K, N] weight."""
    if weight is None or len(weight) != 2 or const_shape(scale) != (weight[1],):
        return None
    data = array(scale)
    return data if data is not None and data.dtype == np.float32 else None
