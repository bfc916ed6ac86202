"""A lower and an upper bound become Clip, which fuses as one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    commuted,
    is_op,
    produced_by,
    same_shape,
    scalar,
    sole_user,
)


@dataclass(frozen=True)
class FuseClip:
    """float32: Min(Max(x, low), high), or of Relu(x), low <= high numbers, = Clip(x, low, high)."""

    name: ClassVar[str] = "fuse_clip"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if is_op(n, "Min"))


def _fuse(rw: Rewriter, upper: ir.Node) -> bool:
    if len(upper.inputs) != 2:
        return False
    for value, bound in commuted(upper):
        high, lower = scalar(bound), produced_by(value, "Relu", "Max")
        if high is None or lower is None or sole_user(lower.outputs[0]) is not upper:
            continue
        found = _bounded_below(lower)
        if found is None or not found[1] <= high:
            continue
        x, low = found
        if x.dtype != ir.DataType.FLOAT or not same_shape(x, upper.outputs[0]):
            continue
        limits = [
            rw.constant(np.array(n, np.float32), name) for n, name in ((low, "low"), (high, "high"))
        ]
        new = rw.op("Clip", [x, *limits])
        return rw.replace([lower, upper], {upper.outputs[0]: new.outputs[0]}, [new])
    return False


def _bounded_below(node: ir.Node) -> tuple[ir.Value, float] | None:
    """(x, low) where the node is the larger of the two."""
    if node.op_type == "Relu":
        return None if node.inputs[0] is None else (node.inputs[0], 0.0)
    if len(node.inputs) != 2:
        return None
    for x, bound in commuted(node):
        low = scalar(bound)
        if low is not None and x is not None:
            return x, low
    return None
