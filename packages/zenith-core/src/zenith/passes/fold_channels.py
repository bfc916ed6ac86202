"""Constant per-channel arithmetic after a convolution goes into its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Array, Rewriter, array, attr, is_op, rank, same_shape, sole_user


@dataclass(frozen=True)
class FoldChannels:
    """Conv or ConvTranspose without groups -> BatchNormalization (inference, constant statistics),
    or Add, Sub, Mul, Div by constants with one number per channel, or one number, = the
    convolution alone.

    The latter is how a batch normalisation reads when it is written out. Computed in float64; a
    constant bias alone becomes the convolution's own. No inner value may have another user.
    """

    name: ClassVar[str] = "fold_channels"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_fold(rewriter, n) for n in graph.nodes if is_op(n, "Conv", "ConvTranspose"))


def _fold(rw: Rewriter, conv: ir.Node) -> bool:
    weight = array(conv.inputs[1])
    transposed = conv.op_type == "ConvTranspose"
    if weight is None or transposed and attr(conv, "group", 1) != 1:
        return False
    axis = 1 if transposed else 0  # of the weight: output channels
    channels = weight.shape[axis]
    shift: Array = np.zeros(channels)
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        bias = array(conv.inputs[2])
        if bias is None:
            return False
        shift = bias.astype(np.float64)
    scale: Array = np.ones(channels)
    nodes, value = [conv], conv.outputs[0]
    while (node := sole_user(value)) is not None:
        step = _step(node, value, channels)
        if step is None or not same_shape(value, node.outputs[0]):
            break
        factor, term = step
        scale, shift = scale * factor, shift * factor + term
        nodes.append(node)
        value = node.outputs[0]
    if len(nodes) == 1 or not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return False
    name = conv.inputs[1].name if conv.inputs[1] is not None else "weight"
    inputs = [*conv.inputs[:2], rw.constant(shift.astype(weight.dtype), f"{name}_bias")]
    if (scale != 1).any():
        wide = weight * np.expand_dims(scale, [k for k in range(weight.ndim) if k != axis])
        inputs[1] = rw.constant(wide.astype(weight.dtype), f"{name}_scaled")
    new = rw.op(conv.op_type, inputs, dict(conv.attributes))
    return rw.replace(nodes, {nodes[-1].outputs[0]: new.outputs[0]}, [new])


def _step(node: ir.Node, value: ir.Value, channels: int) -> tuple[Array, Array] | None:
    """(factor, term), each [channels], where the node is value * factor + term."""
    if is_op(node, "BatchNormalization"):
        return normalisation(node, value)
    if not is_op(node, "Add", "Sub", "Mul", "Div"):
        return None
    first = node.inputs[0] is value
    other = array(node.inputs[1] if first else node.inputs[0])
    length = rank(value)
    if other is None or length is None or other.ndim > length:
        return None
    shape = (1,) * (length - other.ndim) + other.shape
    if any(d != 1 for axis, d in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    row = np.broadcast_to(other.astype(np.float64).reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Add":
        return one, row
    if node.op_type == "Sub":
        return (one, -row) if first else (-one, row)
    if node.op_type == "Mul":
        return row, zero
    return (1 / row, zero) if first and row.all() else None


def normalisation(node: ir.Node, value: ir.Value) -> tuple[Array, Array] | None:
    """(factor, term) of a BatchNormalization of `value` whose statistics are constants."""
    if attr(node, "training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return None
    rows = [array(v) for v in node.inputs[1:5]]
    if node.inputs[0] is not value or any(row is None for row in rows):
        return None
    scale, shift, mean, variance = (row.astype(np.float64) for row in rows if row is not None)
    factor = scale / np.sqrt(variance + attr(node, "epsilon", 1e-5))
    return factor, shift - mean * factor
