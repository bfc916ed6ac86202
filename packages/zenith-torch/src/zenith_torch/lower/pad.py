"""Padding, and cutting by negative padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from zenith.ir.dims import Dim, exactly
from zenith_torch.builder import Builder
from zenith_torch.lower.registry import lower


@lower("aten.constant_pad_nd.default")
def constant_pad(b: Builder, x: ir.Value, pad: Sequence[Dim], value: Any = 0) -> ir.Value:
    return _pad(b, x, pad, "constant", value)


@lower("aten.pad.default")
def pad_any(
    b: Builder, x: ir.Value, pad: Sequence[Dim], mode: str = "constant", value: Any = None
) -> ir.Value:
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return _pad(b, x, pad, names[mode], value or 0)


@lower(
    "aten.reflection_pad1d.default",
    "aten.reflection_pad2d.default",
    "aten.reflection_pad3d.default",
)
def reflection_pad(b: Builder, x: ir.Value, pad: Sequence[Dim]) -> ir.Value:
    return _pad(b, x, pad, "reflect", 0)


@lower(
    "aten.replication_pad1d.default",
    "aten.replication_pad2d.default",
    "aten.replication_pad3d.default",
)
def replication_pad(b: Builder, x: ir.Value, pad: Sequence[Dim]) -> ir.Value:
    return _pad(b, x, pad, "edge", 0)


def _pad(b: Builder, x: ir.Value, pad: Sequence[Dim], mode: str, value: Any) -> ir.Value:
    if all(p == 0 for p in pad):
        return x
    rank, count = b.rank_of(x), len(pad) // 2
    begins: list[Dim] = [0] * rank
    ends: list[Dim] = [0] * rank
    for i in range(count):  # torch counts axes from the last
        begins[rank - 1 - i], ends[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    for axis in range(rank):  # a negative pad cuts
        size, before, after = b.shape_of(x)[axis], begins[axis], ends[axis]
        cut = [max(0, -p) if isinstance(p, int) else 0 for p in (before, after)]
        if not any(cut):
            continue
        if mode != "constant" and all(isinstance(d, int) for d in (size, before, after)):
            # What is repeated may have been cut: each element is looked up where it comes from.
            places = _repeated(np.arange(-before, size + after), size, mode)
            x = b.gather(x, b.constant(places), axis)
            begins[axis] = ends[axis] = 0
            continue
        x = b.slice(x, axis, cut[0], exactly(size - cut[1]))
        begins[axis], ends[axis] = before + cut[0], after + cut[1]
    if all(p == 0 for p in begins + ends) or (0 in b.out_shape and mode != "constant"):
        return x if 0 not in b.out_shape else b.expand(b.number(0, b.out_dtype), b.out_shape)
    fill = b.operand(value, b.out_dtype) if mode == "constant" and value else None
    return b.op("Pad", x, b.size_vector(begins + ends), fill, shape=b.out_shape, mode=mode)


def _repeated(places: Any, size: int, mode: str) -> Any:
    """Places inside an axis for those outside of it."""
    if mode == "edge":
        return places.clip(0, size - 1)
    if mode == "wrap":
        return places % size
    return size - 1 - np.abs(size - 1 - np.abs(places))
