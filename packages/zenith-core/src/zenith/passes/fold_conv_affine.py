"""Constant per-channel factors and offsets after a convolution go into its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import (
    Array,
    Rewriter,
    array,
    attr,
    commuted,
    const_shape,
    is_op,
    produced_by,
    sole_user,
)


@dataclass(frozen=True)
class FoldConvAffine:
    """conv(x, W[, b]) * s + t, with constants of one number per channel, = conv(x, W*s, b*s + t).

    Batch normalisation that an exporter took apart. Mul, Add and Sub, each on its own; s and t are
    [C, 1, ...], [1, C, 1, ...] or single numbers. Computed in float64; the convolution must have
    no other user.
    """

    name: ClassVar[str] = "fold_conv_affine"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(
            _fold(rewriter, node)
            for node in graph.nodes
            if node.graph is not None and is_op(node, "Mul", "Add", "Sub")
        )


def _fold(rw: Rewriter, node: ir.Node) -> bool:
    pairs = [(node.inputs[0], node.inputs[1])] if node.op_type == "Sub" else list(commuted(node))
    for result, constant in pairs:
        conv = produced_by(result, "Conv", "ConvTranspose")
        if conv is not None and sole_user(conv.outputs[0]) is node:
            return _fold_into(rw, conv, node, constant)
    return False


def _fold_into(rw: Rewriter, conv: ir.Node, node: ir.Node, constant: ir.Value | None) -> bool:
    size = const_shape(conv.inputs[1])
    if size is None or len(size) < 3:
        return False
    axis = 1 if conv.op_type == "ConvTranspose" else 0  # of the weight: output channels
    if axis == 1 and attr(conv, "group", 1) != 1:
        return False
    channels = _per_channel(constant, len(size), size[axis])
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = array(given)
    if channels is None or (given is not None and bias is None):
        return False
    weight, name = array(conv.inputs[1]), str(conv.inputs[1].name)  # type: ignore[union-attr]
    if weight is None or weight.dtype != np.float32:
        return False
    wide = channels.astype(np.float64)
    inputs = [conv.inputs[0], conv.inputs[1]]
    if node.op_type == "Mul":
        along = [1] * len(size)
        along[axis] = -1
        inputs[1] = rw.constant((weight * wide.reshape(along)).astype(np.float32), f"{name}_scaled")
        moved = None if bias is None else bias * wide
    else:
        shift = -wide if node.op_type == "Sub" else wide
        moved = shift if bias is None else bias + shift
    if moved is not None:
        inputs.append(rw.constant(moved.astype(np.float32), f"{name}_bias"))
    new = rw.op(conv.op_type, inputs, dict(conv.attributes))
    return rw.replace([conv, node], {node.outputs[0]: new.outputs[0]}, [new])


def _per_channel(value: ir.Value | None, rank: int, channels: int) -> Array | None:
    """The constant as [channels] when it varies along the channels of a result of `rank` only."""
    shape = const_shape(value)
    if shape is None or len(shape) > rank:
        return None
    whole = (1,) * (rank - len(shape)) + shape
    if whole[1] not in (1, channels) or any(n != 1 for i, n in enumerate(whole) if i != 1):
        return None
    data = array(value)
    if data is None or data.dtype != np.float32:
        return None
    return np.broadcast_to(data.reshape(-1), (channels,))
