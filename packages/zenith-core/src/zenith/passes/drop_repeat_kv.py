"""Grouped-query attention: keys and values repeated for each query head need not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Rewriter, dims, is_op, produced_by, same_dim


@dataclass(frozen=True)
class DropRepeatKv:
    """Attention of K and V [B,H*G,S,D] made from [B,H,S,D] by Unsqueeze(2), Expand, Reshape, both
    by one G: Attention repeats heads itself."""

    name: ClassVar[str] = "drop_repeat_kv"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_drop(rewriter, n) for n in graph.nodes if is_op(n, "Attention"))


def _drop(rw: Rewriter, node: ir.Node) -> bool:
    if len(node.outputs) > 1 or any(v is not None for v in node.inputs[4:]):
        return False  # caches hold the repeated heads
    query, k, v = (dims(x) for x in node.inputs[:3])
    key, value = (_repeated(x) for x in node.inputs[1:3])
    if query is None or k is None or v is None or key is None or value is None or len(query) != 4:
        return False
    if key[1] != value[1] or not same_dim(k[1], query[1]) or not same_dim(v[1], query[1]):
        return False
    new = rw.op(
        "Attention", [node.inputs[0], key[0], value[0], *node.inputs[3:4]], dict(node.attributes)
    )
    nodes = [*dict.fromkeys([*key[2], *value[2]]), node]
    return rw.replace(nodes, {node.outputs[0]: new.outputs[0]}, [new])


def _repeated(value: ir.Value | None) -> tuple[ir.Value, int, list[ir.Node]] | None:
    """(source, repeats, nodes) where `value` is `source` with each head repeated in place."""
    reshape = produced_by(value, "Reshape")
    expand = produced_by(reshape.inputs[0], "Expand") if reshape is not None else None
    single = produced_by(expand.inputs[0], "Unsqueeze", "Reshape") if expand is not None else None
    if reshape is None or expand is None or single is None:
        return None
    source = single.inputs[0]
    one, many, out = dims(single.outputs[0]), dims(expand.outputs[0]), dims(value)
    start = dims(source)
    if source is None or start is None or one is None or many is None or out is None:
        return None
    if len(start) != 4 or len(one) != 5 or len(many) != 5 or len(out) != 4:
        return None
    if one != (*start[:2], 1, *start[2:]):
        return None
    repeats, heads = many[2], start[1]
    if not isinstance(repeats, int) or not isinstance(heads, int):
        return None
    if many != (*start[:2], repeats, *start[2:]):
        return None
    if out != (start[0], heads * repeats, *start[2:]):
        return None
    return source, repeats, [single, expand, reshape]
