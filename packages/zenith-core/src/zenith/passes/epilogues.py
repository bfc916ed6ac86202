"""Finds the epilogue (`zenith.ops.epilogue`) that follows a product, convolution or norm."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from zenith.passes.quantized import dequantized
from zenith.passes.rewrite import attr, commuted, const_shape, is_op, same_shape, scalar, sole_user

__all__ = ["Chain", "activation", "grow"]


@dataclass
class Chain:
    """The nodes an epilogue replaces, its steps and operands, and the value it computes."""

    result: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    operands: list[ir.Value | None] = field(default_factory=list)


def activation(node: ir.Node) -> str | None:
    """The epilogue step a unary node is, if any."""
    if node.domain or not node.inputs:
        return None
    kind = node.op_type
    if kind in ("Relu", "Tanh", "Sigmoid", "HardSwish"):
        return kind.lower()
    if kind == "Gelu":
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(attr(node, "approximate", "none"))
    if kind == "Swish" and attr(node, "alpha", 1.0) == 1.0:
        return "silu"
    if kind == "HardSigmoid":
        alpha, beta = attr(node, "alpha", 0.2), attr(node, "beta", 0.5)
        return "hardsigmoid" if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5 else None
    if kind == "Clip" and len(node.inputs) == 3:
        bounds = scalar(node.inputs[1]), scalar(node.inputs[2])
        return "relu6" if bounds == (0.0, 6.0) else None
    return None


def grow(
    root: ir.Node,
    *,
    allow_mul: bool,
    steps: list[str] | None = None,
    bias: bool = False,
    quantized: bool = False,
) -> Chain:
    """The longest epilogue after `root`: [bias] then at most one activation, one add and (if
    `allow_mul`) one mul, in any order, each step the only user of the one before. Operands are all
    computed before the last step, which is where the fused node goes.

    bias: look for Add of a constant [N] first.
    quantized: a dequantized tensor added to the bare product is taken as the integers it is.
    """
    value = root.outputs[0]
    chain = Chain(value)
    seen: set[str] = set(steps or ())
    while (user := sole_user(value)) is not None and user.graph is root.graph:
        step, operand = _step(user, value, allow_bias=bias and not chain.nodes)
        if step is None or (step == "mul" and not allow_mul):
            break
        kind = step if step in ("bias", "add", "mul") else "activation"
        if kind in seen:
            break
        bare = quantized and step == "add" and seen <= {"bias"}
        integers = dequantized(operand) if bare else None
        seen.add(kind)
        chain.nodes.append(user)
        chain.steps.append("addq" if integers else step)
        chain.operands += integers or ([operand] if kind != "activation" else [])
        value = chain.result = user.outputs[0]
    return chain


def _step(
    node: ir.Node, value: ir.Value, *, allow_bias: bool
) -> tuple[str | None, ir.Value | None]:
    unary = activation(node)
    if unary is not None:
        return (unary, None) if node.inputs[0] is value else (None, None)
    if not is_op(node, "Add", "Mul"):
        return None, None
    for x, other in commuted(node):
        if x is not value or other is None or other is value:
            continue
        if allow_bias and node.op_type == "Add" and _is_bias(other, value):
            return "bias", other
        if same_shape(other, node.outputs[0]) and same_shape(value, node.outputs[0]):
            return node.op_type.lower(), other
    return None, None


def _is_bias(other: ir.Value, value: ir.Value) -> bool:
    """A constant [N] along the last axis of `value` (of rank above 1)."""
    if value.shape is None or value.shape.rank() < 2:
        return False
    return const_shape(other) == (value.shape[-1],)
