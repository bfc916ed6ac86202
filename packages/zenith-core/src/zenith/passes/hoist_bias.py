"""A bias added to heads of a product, [..., H, D], goes before the Reshape that made the heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    array,
    commuted,
    const_shape,
    dims,
    is_op,
    produced_by,
    same_shape,
    sole_user,
)


@dataclass(frozen=True)
class HoistBias:
    """MatMul [..., K] -> Reshape [..., *tail] with prod(tail) = K -> Add of a constant that differs
    along the tail only. The Add comes first, as a row of K numbers, where it can be fused."""

    name: ClassVar[str] = "hoist_bias"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            any(_hoist(rewriter, node, *pair) for pair in commuted(node))
            for node in graph.nodes
            if is_op(node, "Add")
        )


def _hoist(rw: Rewriter, add: ir.Node, value: ir.Value | None, bias: ir.Value | None) -> bool:
    reshape, shape = produced_by(value, "Reshape"), const_shape(bias)
    if reshape is None or shape is None or value is None or sole_user(value) is not add:
        return False
    flat = reshape.inputs[0]
    product = produced_by(flat, "MatMul", "Gemm")
    if flat is None or product is None or sole_user(flat) is not reshape:
        return False
    before, after = dims(flat), dims(value)
    if before is None or after is None or not same_shape(value, add.outputs[0]):
        return False
    lead = len(before) - 1
    tail = [d for d in after[lead:] if isinstance(d, int)]
    if (
        after[:lead] != before[:-1]
        or len(tail) != len(after) - lead
        or math.prod(tail) != before[-1]
        or any(n != 1 for n in shape[: -len(tail)])
    ):
        return False
    data = array(bias)
    assert data is not None
    row = np.broadcast_to(data.reshape(shape[-len(tail) :]), tail).reshape(-1)
    early = rw.op(
        "Add", [flat, rw.constant(row, f"{add.name}_row")], dtype=flat.dtype, shape=before
    )
    late = rw.op("Reshape", [early.outputs[0], *reshape.inputs[1:]], dict(reshape.attributes))
    return rw.replace([reshape, add], {add.outputs[0]: late.outputs[0]}, [early, late])
