"""A sixth of x + 3 between 0 and 6 becomes HardSigmoid, as frameworks spell it without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Rewriter,
    commuted,
    is_op,
    produced_by,
    scalar,
    sole_user,
)

_SIXTH = 1 / 6


@dataclass(frozen=True)
class FuseHardSigmoid:
    """Clip(x + 3, 0, 6) / 6 = HardSigmoid(x), also where the product with x comes before the
    division: (x * Clip(x + 3, 0, 6)) / 6 = x * HardSigmoid(x)."""

    name: ClassVar[str] = "fuse_hard_sigmoid"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fuse(rewriter, n) for n in graph.nodes if is_op(n, "Mul", "Div"))


def _fuse(rw: Rewriter, node: ir.Node) -> bool:
    value = _of_a_sixth(node)
    if value is None:
        return False
    found = _clipped(value, node)
    if found is not None:
        x, inner = found
        new = _hard_sigmoid(rw, x)
        return rw.replace([*inner, node], {node.outputs[0]: new.outputs[0]}, [new])
    product = produced_by(value, "Mul")
    if product is None or sole_user(value) is not node:
        return False
    for other, clip in commuted(product):
        found = None if clip is None else _clipped(clip, product)
        if found is None or other is None:
            continue
        x, inner = found
        gate = _hard_sigmoid(rw, x)
        new = rw.op("Mul", [other, gate.outputs[0]])
        done = {node.outputs[0]: new.outputs[0]}
        return rw.replace([*inner, product, node], done, [gate, new])
    return False


def _hard_sigmoid(rw: Rewriter, x: ir.Value) -> ir.Node:
    how = {"alpha": _SIXTH, "beta": 0.5}
    return rw.op("HardSigmoid", [x], how, dtype=x.dtype, shape=x.shape)


def _of_a_sixth(node: ir.Node) -> ir.Value | None:
    """v where the node is v / 6."""
    if node.op_type == "Div":
        return node.inputs[0] if _is(scalar(node.inputs[1]), 6) else None
    for value, factor in commuted(node):
        if _is(scalar(factor), _SIXTH):
            return value
    return None


def _clipped(value: ir.Value, user: ir.Node) -> tuple[ir.Value, list[ir.Node]] | None:
    """x and the nodes, where `value` is Clip(x + 3, 0, 6) and only `user` reads it."""
    clip = produced_by(value, "Clip")
    if clip is None or sole_user(value) is not user or len(clip.inputs) != 3:
        return None
    if not (_is(scalar(clip.inputs[1]), 0) and _is(scalar(clip.inputs[2]), 6)):
        return None
    add = produced_by(clip.inputs[0], "Add")
    if add is None or sole_user(add.outputs[0]) is not clip:
        return None
    for x, three in commuted(add):
        if x is None or x.dtype is None or x.shape is None or not x.dtype.is_floating_point():
            continue
        if _is(scalar(three), 3):
            return x, [add, clip]
    return None


def _is(number: float | None, wanted: float) -> bool:
    """Up to the rounding of float32."""
    return number is not None and abs(number - wanted) <= 1e-7 * wanted
