"""Linears of one input -> one Linear with concatenated weights, and a Split."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import DOMAIN, GraphIR
from zenith.passes.rewrite import Array, Rewriter, const_shape


@dataclass(frozen=True)
class MergeQkv:
    """Two or more ``zenith.Linear`` of the same x and epilogue "" or "bias" become one.

    The parts are views of its result, so nothing is copied at run time; x is read once.
    """

    name: ClassVar[str] = "merge_qkv"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        groups: dict[tuple[ir.Value, str], list[ir.Node]] = defaultdict(list)
        for node in graph.nodes:
            plain = node.domain == DOMAIN and node.op_type == "Linear"
            x = node.inputs[0] if plain and node.overload in ("", "bias") else None
            if x is not None and all(const_shape(v) is not None for v in node.inputs[1:]):
                groups[x, node.overload].append(node)
        merged = [nodes for nodes in groups.values() if len(nodes) > 1]
        return sum(_merge(rewriter, nodes) for nodes in merged)


def _merge(rw: Rewriter, nodes: list[ir.Node]) -> bool:
    first = nodes[0]
    shapes = [const_shape(node.inputs[1]) or () for node in nodes]
    out, dtype = first.outputs[0].shape, first.outputs[0].dtype
    if out is None or dtype is None or any(n.outputs[0].dtype != dtype for n in nodes):
        return False
    sizes = [shape[1] for shape in shapes]
    weight = _joined(rw, nodes, 1, dtype, (shapes[0][0], sum(sizes)))
    bias = [_joined(rw, nodes, 2, dtype, (sum(sizes),))] if first.overload else []
    linear = rw.fused("Linear", first.overload, [first.inputs[0], weight, *bias])
    linear.outputs[0].type = ir.TensorType(dtype)
    linear.outputs[0].shape = ir.Shape([*out.dims[:-1], sum(sizes)])
    split = rw.op(
        "Split",
        [linear.outputs[0], rw.constant(np.array(sizes, np.int64), "merged_sizes")],
        {"axis": -1},
        outputs=len(nodes),
    )
    values = {node.outputs[0]: v for node, v in zip(nodes, split.outputs, strict=True)}
    return rw.replace(nodes, values, [linear, split], at=first)


def _joined(
    rw: Rewriter, nodes: list[ir.Node], index: int, dtype: ir.DataType, shape: tuple[int, ...]
) -> ir.Value:
    """Input `index` of all nodes side by side: made when a kernel packs it, so that weights are
    not held twice."""
    tensors = [v.const_value for node in nodes if (v := node.inputs[index]) is not None]

    def join() -> Array:
        return np.concatenate([t.numpy() for t in tensors if t is not None], axis=-1)

    return rw.lazy(join, dtype, shape, "merged_bias" if len(shape) == 1 else "merged_weight")
