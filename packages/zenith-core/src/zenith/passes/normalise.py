"""What decomposed LayerNorm and RMSNorm share: x / sqrt(mean(square) + eps) and the scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from zenith.passes.rewrite import (
    Rewriter,
    commuted,
    dims,
    is_op,
    produced_by,
    reduced_axis,
    same_dim,
    same_shape,
    scalar,
    sole_user,
)

__all__ = [
    "Normalised",
    "match_normalised",
    "match_scaled",
    "scale_input",
    "spread",
    "square_of",
    "with_row",
]


@dataclass
class Normalised:
    """`root` computes x / sqrt(mean(x^2, last axis) + epsilon); `nodes` in topological order."""

    x: ir.Value
    epsilon: float
    root: ir.Node
    nodes: list[ir.Node]


def match_normalised(root: ir.Node) -> Normalised | None:
    """Match `root` (Mul or Div) as the last node of a normalisation; inner values have one user."""
    if is_op(root, "Div"):
        pairs = [(root.inputs[0], root.inputs[1], True)]
    elif is_op(root, "Mul"):
        pairs = [(a, b, False) for a, b in commuted(root)]
    else:
        return None
    found = (_match(x, factor, divides, [root]) for x, factor, divides in pairs)
    return next((match for match in found if match is not None), None)


def match_scaled(root: ir.Node) -> tuple[Normalised, ir.Value] | None:
    """Match x * (row / sqrt(...)), where the scale is with the factor, and that row."""
    if not is_op(root, "Mul"):
        return None
    for x, factor in commuted(root):
        product, shape = produced_by(factor, "Mul"), dims(x)
        if product is None or shape is None:
            continue
        for inverse, row in commuted(product):
            size = dims(row)
            if x is None or row is None or size is None or len(size) != 1 or row.dtype != x.dtype:
                continue
            found = _match(x, inverse, False, [product, root])
            if found is not None and same_dim(size[0], shape[-1]):
                return found, row
    return None


def _match(
    x: ir.Value | None, factor: ir.Value | None, divides: bool, last: list[ir.Node]
) -> Normalised | None:
    """x times or by `factor`, which is followed by the nodes `last`."""
    found = spread(factor, divides)
    if found is None or x is None:
        return None
    total, tail = found
    epsilon_add = produced_by(total, "Add")
    if epsilon_add is None:
        return None
    for mean_value, eps in commuted(epsilon_add):
        epsilon, mean = scalar(eps), produced_by(mean_value, "ReduceMean")
        if epsilon is None or mean is None:
            continue
        square = square_of(mean.inputs[0], x)
        shape = dims(x)
        if square is None or shape is None or reduced_axis(mean) != len(shape) - 1:
            continue
        nodes = [square, mean, epsilon_add, *tail, *last]
        if same_shape(x, last[-1].outputs[0]) and all(
            sole_user(n.outputs[0]) is f for n, f in zip(nodes, nodes[1:], strict=False)
        ):
            return Normalised(x, epsilon, last[-1], nodes)
    return None


def spread(value: ir.Value | None, divides: bool) -> tuple[ir.Value | None, list[ir.Node]] | None:
    """(v, nodes) where `value` is sqrt(v) (divides) or 1 / sqrt(v)."""
    if divides:
        root = produced_by(value, "Sqrt")
        if root is not None:
            return root.inputs[0], [root]
        power = produced_by(value, "Pow")
        if power is not None and scalar(power.inputs[1]) == 0.5:
            return power.inputs[0], [power]
        return None
    power = produced_by(value, "Pow")
    if power is not None and scalar(power.inputs[1]) == -0.5:
        return power.inputs[0], [power]
    inverse = produced_by(value, "Reciprocal")
    if inverse is None:
        inverse = produced_by(value, "Div")
        if inverse is None or scalar(inverse.inputs[0]) != 1.0:
            return None
    inner = spread(inverse.inputs[-1], True)
    return None if inner is None else (inner[0], [*inner[1], inverse])


def square_of(value: ir.Value | None, x: ir.Value) -> ir.Node | None:
    node = produced_by(value, "Pow", "Mul")
    if node is None or node.inputs[0] is not x:
        return None
    if node.op_type == "Pow":
        return node if scalar(node.inputs[1]) == 2.0 else None
    return node if node.inputs[1] is x else None


def with_row(value: ir.Value, kind: str) -> tuple[ir.Node, ir.Value] | None:
    """The sole user of `value` if it is `kind` (Mul or Add) with a [N] tensor, and that tensor."""
    user, shape = sole_user(value), dims(value)
    if user is None or shape is None or not is_op(user, kind):
        return None
    for x, row in commuted(user):
        size = dims(row)
        if x is not value or row is None or row is value or size is None or len(size) != 1:
            continue
        if row.dtype == value.dtype and same_dim(size[0], shape[-1]):
            return user, row
    return None


def scale_input(rw: Rewriter, x: ir.Value, row: ir.Value | None) -> ir.Value | None:
    """`row`, or ones where the formula has no scale; None if its size is unknown."""
    if row is not None:
        return row
    shape = dims(x)
    if shape is None or not isinstance(shape[-1], int) or x.dtype is None:
        return None
    return rw.constant(np.ones(shape[-1], x.dtype.numpy()), "unit_scale")
