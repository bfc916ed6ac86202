"""Sliding windows as gathered elements: for types and divisors that ONNX's pools do not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith_torch.builder import Builder, NotSupportedError

__all__ = ["over_windows", "window_positions", "windows"]


def window_positions(size: int, out: int, k: int, step: int, gap: int, pad: int) -> Any:
    """[out, k] places in an axis of `size` that was padded by `pad` in front."""
    return np.arange(out)[:, None] * step + np.arange(k) * gap - pad


def windows(
    b: Builder,
    x: ir.Value,
    counts: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    fill: Any,
) -> ir.Value:
    """(n, c, *sizes) to (n, c, o1, k1, o2, k2, ...); outside the image stands `fill`."""
    sizes = b.shape_of(x)[2:]
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("windows over axes of dynamic size in this type or form")
    for axis in reversed(range(len(sizes))):
        place, size = axis + 2, int(sizes[axis])
        positions = window_positions(
            size, counts[axis], kernel[axis], strides[axis], dilations[axis], pads[axis]
        )
        before, after = max(0, -positions.min()), max(0, positions.max() + 1 - size)
        if before or after:
            rank, shape = b.rank_of(x), list(b.shape_of(x))
            ends = np.zeros(2 * rank, np.int64)
            ends[place], ends[rank + place] = before, after
            shape[place] = size + int(before + after)
            x = b.op("Pad", x, b.ints(ends.tolist()), b.number(fill, x.dtype), shape=shape)
        x = b.gather(x, b.constant((positions + before).astype(np.int64)), place)
    return x


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
