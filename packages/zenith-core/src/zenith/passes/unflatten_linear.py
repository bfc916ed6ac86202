"""Reshape [...,K] -> [rows,K], MatMul, Reshape back: the product of the tensor as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    attr,
    commuted,
    const_shape,
    dims,
    is_op,
    produced_by,
    same_dim,
    sole_user,
    transposed,
)


@dataclass(frozen=True)
class UnflattenLinear:
    """Reshape -> MatMul or plain Gemm by a constant [K,N] -> [Add constant [N]] -> Reshape, where
    the last shape is the first with N in place of K, needs no reshapes. It opens the way for a
    residual to be fused."""

    name: ClassVar[str] = "unflatten_linear"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _unflatten(rewriter, node)
            for node in graph.nodes
            if is_op(node, "MatMul", "Gemm") and node.graph is not None
        )


def _unflatten(rw: Rewriter, product: ir.Node) -> bool:
    reshape = produced_by(product.inputs[0], "Reshape")
    size = const_shape(product.inputs[1])
    if reshape is None or size is None or len(size) != 2:
        return False
    x, flat = reshape.inputs[0], product.inputs[0]
    outer, inner = dims(x), dims(flat)
    if outer is None or inner is None or len(outer) < 2 or not same_dim(outer[-1], inner[-1]):
        return False
    nodes, w, bias = [product], product.inputs[1], None
    if product.op_type == "Gemm":
        if any(attr(product, n, d) != d for n, d in _PLAIN.items()):
            return False
        bias = product.inputs[2] if len(product.inputs) > 2 else None
        if attr(product, "transB", 0):
            size, w = size[::-1], None
    user = sole_user(nodes[-1].outputs[0])
    if bias is None and user is not None and is_op(user, "Add"):
        for value, other in commuted(user):
            if value is nodes[-1].outputs[0] and _is_row(other, size[1]):
                bias = other
        if bias is None:
            return False
        nodes.append(user)
        user = sole_user(user.outputs[0])
    if bias is not None and not _is_row(bias, size[1]):
        return False
    if user is None or not is_op(user, "Reshape"):
        return False
    result = dims(user.outputs[0])
    if result is None or result != (*outer[:-1], size[1]):
        return False
    if w is None:
        w = transposed(rw, product.inputs[1])
    new = [rw.op("MatMul", [x, w], dtype=product.outputs[0].dtype, shape=result)]
    if bias is not None:
        new.append(rw.op("Add", [new[0].outputs[0], bias]))
    values = {user.outputs[0]: new[-1].outputs[0]}
    return rw.replace([reshape, *nodes, user], values, new)


_PLAIN = {"transA": 0, "alpha": 1.0, "beta": 1.0}


def _is_row(value: ir.Value | None, size: int) -> bool:
    return const_shape(value) == (size,)
