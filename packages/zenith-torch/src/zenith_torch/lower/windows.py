"""Windows as gathered elements: for types, divisors and places that ONNX's pools do not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith_torch.builder import Builder, NotSupportedError

__all__ = ["maxima", "over_windows", "window_positions", "windows"]


def window_positions(
    sizes: Sequence[Any],
    counts: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> list[Any]:
    """For each axis [count, k] places in it, before padding; outside of it too."""
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("windows over axes of dynamic size in this type or form")
    axes = zip(counts, kernel, strides, pads, dilations, strict=True)
    return [np.arange(n)[:, None] * s + np.arange(k) * d - p for n, k, s, p, d in axes]


def windows(b: Builder, x: ir.Value, positions: Sequence[Any], fill: Any = 0) -> ir.Value:
    """(n, c, *sizes) to (n, c, o1, k1, o2, k2, ...); outside the image stands `fill`."""
    for axis in reversed(range(len(positions))):
        place, taken = axis + 2, positions[axis]
        size = b.shape_of(x)[place]
        before, after = max(0, -taken.min()), max(0, taken.max() + 1 - size)
        if before or after:
            rank, shape = b.rank_of(x), list(b.shape_of(x))
            ends = np.zeros(2 * rank, np.int64)
            ends[place], ends[rank + place] = before, after
            shape[place] = size + int(before + after)
            x = b.op("Pad", x, b.ints(ends.tolist()), b.number(fill, x.dtype), shape=shape)
        x = b.gather(x, b.constant((taken + before).astype(np.int64)), place)
    return x


def maxima(
    b: Builder, x: ir.Value, positions: Sequence[Any], fill: Any, with_indices: bool
) -> list[ir.Value]:
    """The largest of each window and, where asked for, its place in the plane of its channel."""
    axes, sizes = len(positions), b.static_shape_of(x)[2:]
    found = windows(b, x, positions, fill)
    results = [over_windows(b, "ReduceMax", found, axes)]
    if not with_indices:
        return results
    place: Any = np.zeros((1,) * 2 * axes, np.int64)
    for axis, (size, taken) in enumerate(zip(sizes, positions, strict=True)):
        form = [1] * (2 * axes)
        form[axis], form[axes + axis] = taken.shape
        place = place * size + taken.reshape(form)
    counts = [len(taken) for taken in positions]
    shape = (*b.shape_of(x)[:2], *counts)
    table = b.constant(place.reshape(*counts, -1))
    table = b.expand(table, (*shape, b.shape_of(table)[-1]))
    which = b.unsqueeze(over_windows(b, "ArgMax", found, axes, arg=True), len(shape))
    picked = b.op("GatherElements", table, which, shape=b.shape_of(which), axis=len(shape))
    return [*results, b.squeeze(picked, len(shape))]


def over_windows(
    b: Builder, op_type: str, gathered: ir.Value, axes: int, *, arg: bool = False
) -> ir.Value:
    """Reduce what `windows` gave to (n, c, o1, o2, ...)."""
    taps = [3 + 2 * i for i in range(axes)]
    if not arg:
        return b.reduce(op_type, gathered, taps, keepdims=False)
    order = [0, 1, *(2 + 2 * i for i in range(axes)), *taps]
    moved = b.transpose(gathered, order)
    lead = b.shape_of(moved)[: 2 + axes]
    flat = b.reshape(moved, (*lead, int(np.prod(b.static_shape_of(gathered)[3::2]))))
    return b.op(op_type, flat, shape=lead, dtype=torch.int64, axis=len(lead), keepdims=0)
