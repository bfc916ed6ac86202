"""softmax(q k^T * scale + mask) v, written out -> Attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Dims,
    Rewriter,
    commuted,
    dims,
    is_op,
    last_axis,
    produced_by,
    same_dim,
    scalar,
    sole_user,
)


@dataclass(frozen=True)
class FuseAttention:
    """MatMul -> [scale] -> [+ mask | Where(mask, s, lowest)] -> Softmax -> MatMul, of rank 3 or 4,
    float32. The scale may sit on the scores, on q or on k; k may be transposed in any way."""

    name: ClassVar[str] = "fuse_attention"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if is_op(n, "MatMul"))


@dataclass
class _Scores:
    """What the scores are made of; `nodes` from the first to the softmax."""

    product: ir.Node
    scale: float
    mask: ir.Value | None
    where: tuple[ir.Value, float] | None
    nodes: list[ir.Node]


def _fuse(rw: Rewriter, root: ir.Node) -> bool:
    softmax = produced_by(root.inputs[0], "Softmax")
    if softmax is None or root.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    if sole_user(softmax.outputs[0]) is not root or not last_axis(softmax, softmax.inputs[0]):
        return False
    scores = _scores(softmax)
    if scores is None:
        return False
    q, kt, v = scores.product.inputs[0], scores.product.inputs[1], root.inputs[1]
    new: list[ir.Node] = []
    q, q_scale, q_nodes = _unscaled(rw, q, new)
    kt, k_scale, k_nodes = _unscaled(rw, kt, new)
    scale = scores.scale * q_scale * k_scale
    shapes = dims(q), dims(kt), dims(v)
    if not _fits(*shapes) or not math.isfinite(scale):
        return False
    query, keys, values = shapes
    assert q is not None and kt is not None and v is not None
    assert query is not None and keys is not None and values is not None
    mask = scores.mask if scores.where is None else scores.where[0]
    if mask is not None and not _mask_fits(mask, scores.product):
        return False
    if scores.where is not None:
        zero = rw.constant(np.zeros((), np.float32), "mask_open")
        low = rw.constant(np.array(scores.where[1], np.float32), "mask_closed")
        new.append(
            rw.op("Where", [mask, zero, low], dtype=ir.DataType.FLOAT, shape=dims(mask) or ())
        )
        mask = new[-1].outputs[0]
    order = [*range(len(keys) - 2), len(keys) - 1, len(keys) - 2]
    key_shape = (*keys[:-2], keys[-1], keys[-2])
    new.append(rw.op("Transpose", [kt], {"perm": order}, dtype=kt.dtype, shape=key_shape))
    inputs: list[ir.Value | None] = [q, new[-1].outputs[0], v, *([mask] if mask else [])]
    flat = len(query) == 3
    if flat:
        axis = rw.constant(np.array([0], np.int64), "attention_axis")
        for index, value in enumerate(inputs):
            shape = dims(value)
            if value is not None and shape is not None and len(shape) == 3:
                wide = rw.op("Unsqueeze", [value, axis], dtype=value.dtype, shape=(1, *shape))
                new.append(wide)
                inputs[index] = wide.outputs[0]
    attention = rw.op("Attention", inputs, {"scale": scale})
    new.append(attention)
    if flat:
        out = dims(root.outputs[0])
        attention.outputs[0].type = root.outputs[0].type
        attention.outputs[0].shape = ir.Shape((1, *(out or ())))
        new.append(rw.op("Squeeze", [attention.outputs[0], axis]))
    nodes = [*q_nodes, *k_nodes, *scores.nodes, root]
    return rw.replace(nodes, {root.outputs[0]: new[-1].outputs[0]}, new)


def _scores(softmax: ir.Node) -> _Scores | None:
    """Read upwards from the softmax to the product of q and k; every value has one user."""
    nodes, value, user = [softmax], softmax.inputs[0], softmax
    mask: ir.Value | None = None
    where: tuple[ir.Value, float] | None = None
    scale, scaled = 1.0, False
    for _ in range(3):
        node = value.producer() if value is not None else None
        if node is None or value is None or sole_user(value) is not user:
            return None
        nodes.insert(0, node)
        user = node
        if is_op(node, "MatMul"):
            return _Scores(node, scale, mask, where, nodes)
        if is_op(node, "Where") and mask is None and where is None and not scaled:
            low = scalar(node.inputs[2])
            if low is None or low > -1e30 or node.inputs[0] is None:
                return None
            # Where(m, s, low) is s + Where(m, 0, low) in float32: low absorbs any finite s.
            where, value = (node.inputs[0], low), node.inputs[1]
        elif is_op(node, "Add") and mask is None and where is None and not scaled:
            found = [(s, m) for s, m in commuted(node) if _is_scores(s)]
            if not found:
                return None
            value, mask = found[0]
        elif is_op(node, "Mul", "Div") and not scaled:
            factor = _factor(node)
            if factor is None:
                return None
            value, scale = factor
            scaled = True
        else:
            return None
    return None


def _is_scores(value: ir.Value | None) -> bool:
    """Does this side of the mask's Add lead to a MatMul, at most one scaling away?"""
    node = value.producer() if value is not None else None
    if is_op(node, "Mul", "Div"):
        factor = _factor(node) if node is not None else None
        node = factor[0].producer() if factor is not None and factor[0] is not None else None
    return is_op(node, "MatMul")


def _factor(node: ir.Node) -> tuple[ir.Value | None, float] | None:
    """(value, factor) of a product with, or division by, a constant number."""
    if node.op_type == "Div":
        number = scalar(node.inputs[1])
        pair = (node.inputs[0], 1.0 / number) if number else None
    else:
        pair = next(((v, n) for v, c in commuted(node) if (n := scalar(c)) is not None), None)
    if pair is None or dims(pair[0]) is None or dims(pair[0]) != dims(node.outputs[0]):
        return None
    return pair


def _unscaled(
    rw: Rewriter, value: ir.Value | None, new: list[ir.Node]
) -> tuple[ir.Value | None, float, list[ir.Node]]:
    """(v, factor, nodes) where `value` is v * factor and nothing else uses it, or is that with its
    axes in another order: then v with this order is among the `new` nodes."""
    outer = produced_by(value, "Transpose")
    turned = outer is not None and value is not None and _used_once(value)
    scaled = outer.inputs[0] if turned and outer is not None else value
    node = produced_by(scaled, "Mul", "Div")
    if node is None or scaled is None or not _used_once(scaled):
        return value, 1.0, []
    factor = _factor(node)
    if factor is None or factor[0] is None:
        return value, 1.0, []
    if not turned or outer is None or value is None:
        return factor[0], factor[1], [node]
    how = {name: a.value for name, a in outer.attributes.items()}
    order = rw.op("Transpose", [factor[0]], how, dtype=value.dtype, shape=dims(value))
    new.append(order)
    return order.outputs[0], factor[1], [node, outer]


def _used_once(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _fits(q: Dims | None, kt: Dims | None, v: Dims | None) -> bool:
    """[B,H,S,D], [B,H,D,T], [B,H,T,E], or all without B; leading dims equal, not broadcast."""
    if q is None or kt is None or v is None or not len(q) == len(kt) == len(v) or len(q) < 3:
        return False
    if len(q) > 4:
        return False
    lead = all(
        same_dim(a, b) and same_dim(a, c) for a, b, c in zip(q[:-2], kt[:-2], v[:-2], strict=True)
    )
    return lead and same_dim(q[-1], kt[-2]) and same_dim(kt[-1], v[-2])


def _mask_fits(mask: ir.Value, product: ir.Node) -> bool:
    """Does it broadcast to the scores as Attention's mask does? Its last dim must be all keys."""
    shape, full = dims(mask), dims(product.outputs[0])
    if shape is None or full is None or len(shape) < 2 or len(shape) > len(full):
        return False
    if not same_dim(shape[-1], full[-1]):
        return False
    return all(
        s == 1 or same_dim(s, f) for s, f in zip(shape[:-1], full[-len(shape) : -1], strict=True)
    )
