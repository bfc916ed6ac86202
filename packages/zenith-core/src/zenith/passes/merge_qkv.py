"""Linears of one input -> one Linear with concatenated weights, and a Split."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import DOMAIN, GraphIR
from zenith.passes.rewrite import Array, Rewriter, array


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
            if plain and node.overload in ("", "bias") and node.inputs[0] is not None:
                if all(array(v) is not None for v in node.inputs[1:]):
                    groups[node.inputs[0], node.overload].append(node)
        merged = [nodes for nodes in groups.values() if len(nodes) > 1]
        return sum(_merge(rewriter, nodes) for nodes in merged)


def _merge(rw: Rewriter, nodes: list[ir.Node]) -> bool:
    first = nodes[0]
    weights, biases = _arrays(nodes, 1), _arrays(nodes, 2) if first.overload else []
    if len({(w.dtype, w.shape[0]) for w in weights}) > 1:
        return False
    sizes = [w.shape[1] for w in weights]
    out, dtype = first.outputs[0].shape, first.outputs[0].dtype
    if out is None or dtype is None:
        return False
    inputs = [first.inputs[0], rw.constant(np.concatenate(weights, axis=1), "merged_weight")]
    if biases:
        inputs.append(rw.constant(np.concatenate(biases), "merged_bias"))
    linear = rw.fused("Linear", first.overload, inputs)
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


def _arrays(nodes: list[ir.Node], index: int) -> list[Array]:
    found = [array(node.inputs[index]) for node in nodes]
    return [a for a in found if a is not None]
