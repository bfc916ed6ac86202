"""Resize of known sizes: rows and columns picked by Gather, and blended where the mode asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from zenith.ir import GraphIR
from zenith.passes.rewrite import Array, Rewriter, array, attr, dims, float_type, is_op

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
_ROUNDING = ("floor", "round_prefer_ceil")


@dataclass(frozen=True)
class LowerResize:
    """Resize, nearest or linear without antialiasing, of axes with known sizes becomes per axis
    one Gather (nearest) or a + (b - a) * t of two (linear)."""

    name: ClassVar[str] = "lower_resize"

    def run(self, graph: GraphIR) -> int:
        rewriter = Rewriter(graph)
        return sum(_lower(rewriter, node) for node in graph.nodes if is_op(node, "Resize"))


def _lower(rw: Rewriter, node: ir.Node) -> bool:
    x, before, after = node.inputs[0], dims(node.inputs[0]), dims(node.outputs[0])
    mode, coordinates = attr(node, "mode", "nearest"), _coordinates(node)
    if x is None or before is None or after is None or mode not in ("nearest", "linear"):
        return False
    if coordinates not in _COORDINATES or attr(node, "antialias", 0):
        return False
    if attr(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    rounding = attr(node, "nearest_mode", "round_prefer_floor")
    if rounding not in _ROUNDING if mode == "nearest" else not float_type(x):
        return False
    axes = [axis % len(before) for axis in attr(node, "axes", range(len(before)))]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    factors = array(given)
    if given is not None and factors is None:
        return False  # the true factor is not the ratio of the sizes
    new: list[ir.Node] = []
    for position, axis in enumerate(axes):
        n, m = before[axis], after[axis]
        factor = None if factors is None or not factors.size else float(factors[position])
        if n == m and factor in (None, 1.0):
            continue
        if not isinstance(n, int) or not isinstance(m, int) or n == 0 or m == 0:
            return False
        at = _positions(n, m, factor, coordinates)
        new += _pick(rw, x, axis, at, n, rounding if mode == "nearest" else "")
        x = new[-1].outputs[0]
    if not new:  # every axis keeps its size
        new = [rw.op("Identity", [x], dtype=x.dtype, shape=after)]
        x = new[0].outputs[0]
    return rw.replace([node], {node.outputs[0]: x}, new)


def _coordinates(node: ir.Node) -> str:
    return str(attr(node, "coordinate_transformation_mode", "half_pixel"))


def _positions(n: int, m: int, factor: float | None, coordinates: str) -> Array:
    """Where each of `m` results lies among the `n` elements it is made from."""
    out = np.arange(m, dtype=np.float64)
    scale = m / n if factor is None else factor
    if coordinates == "align_corners":
        return out * ((n - 1) / (m - 1) if m > 1 else 0.0)
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "pytorch_half_pixel" and m == 1:
        return out
    return (out + 0.5) / scale - 0.5


def _pick(rw: Rewriter, x: ir.Value, axis: int, at: Array, n: int, rounding: str) -> list[ir.Node]:
    before, dtype = dims(x), x.dtype
    assert before is not None and dtype is not None
    shape = (*before[:axis], len(at), *before[axis + 1 :])

    def op(kind: str, inputs: list[ir.Value], attributes: dict[str, ir.Attr]) -> ir.Node:
        return rw.op(kind, inputs, attributes, dtype=dtype, shape=shape)

    def gather(index: Array) -> ir.Node:
        places = rw.constant(np.clip(index, 0, n - 1).astype(np.int64), "resize_places")
        return op("Gather", [x, places], {"axis": ir.AttrInt64("axis", axis)})

    if rounding:
        return [gather(np.floor(at + 1e-9 if rounding == "floor" else at + 0.5))]
    at = np.clip(at, 0, n - 1)
    low = np.floor(at)
    share = (at - low).astype(dtype.numpy()).reshape(-1, *[1] * (len(shape) - 1 - axis))
    a, b = gather(low), gather(low + 1)
    step = op("Sub", [b.outputs[0], a.outputs[0]], {})
    part = op("Mul", [step.outputs[0], rw.constant(share, "resize_share")], {})
    return [a, b, step, part, op("Add", [a.outputs[0], part.outputs[0]], {})]
