"""The QDQ form: what passes ask about QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import onnx_ir as ir

from zenith.passes.rewrite import array, attr, const_shape, produced_by, scalar

__all__ = ["BYTES", "MOVES", "dequantized", "quantizer", "same_scale", "weight"]

# Operators whose results are elements of their first input, chosen by place or as the largest.
MOVES = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
BYTES: frozenset[ir.DataType | None] = frozenset({ir.DataType.UINT8, ir.DataType.INT8})


def dequantized(value: ir.Value | None) -> list[ir.Value] | None:
    """[integers, scale, zero point] when `value` is a DequantizeLinear of 8-bit integers with one
    constant scale and zero point, to float32."""
    node = produced_by(value, "DequantizeLinear")
    q = node.inputs[0] if node is not None else None
    if node is None or q is None or q.dtype not in BYTES or not _per_tensor(node):
        return None
    return [v for v in node.inputs if v is not None]


def quantizer(node: ir.Node | None) -> list[ir.Value] | None:
    """[scale, zero point] of a QuantizeLinear from float32 to 8-bit integers, with one constant
    scale and zero point."""
    if node is None or node.domain or node.op_type != "QuantizeLinear" or not _per_tensor(node):
        return None
    if node.outputs[0].dtype not in BYTES or attr(node, "precision", 0) not in (0, 1):
        return None
    return [v for v in node.inputs[1:] if v is not None]


def same_scale(a: list[ir.Value], b: list[ir.Value]) -> bool:
    """Do two pairs [scale, zero point] hold equal numbers of equal types?"""
    return all(x.dtype == y.dtype and scalar(x) == scalar(y) for x, y in zip(a, b, strict=True))


def _per_tensor(node: ir.Node) -> bool:
    if len(node.inputs) != 3 or attr(node, "block_size", 0):
        return False
    scale, zero = node.inputs[1:]
    if scale is None or zero is None or scale.dtype != ir.DataType.FLOAT:
        return False
    return scalar(scale) is not None and scalar(zero) is not None


def weight(value: ir.Value | None, axis: int) -> tuple[ir.Value, ir.Value] | None:
    """(integers, scale) when `value` is a DequantizeLinear of constant int8 with zero points 0 and
    one scale, or one per channel along `axis`."""
    node = produced_by(value, "DequantizeLinear")
    if node is None or attr(node, "block_size", 0):
        return None
    q, scale = node.inputs[:2]
    sizes, scales = const_shape(q), const_shape(scale)
    if q is None or scale is None or sizes is None or scales is None:
        return None
    if q.dtype != ir.DataType.INT8 or scale.dtype != ir.DataType.FLOAT:
        return None
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero is not None and zero.any():
        return None
    along = attr(node, "axis", 1) % len(sizes)
    per_channel = along == axis % len(sizes) and scales == (sizes[along],)
    return (q, scale) if per_channel or scales in ((), (1,)) else None
