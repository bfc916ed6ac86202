"""Gradients of resampling, padding by the edge, and sampling at places that are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from zenith.ir.dims import Dim, product
from zenith_torch.builder import Builder, NotSupportedError
from zenith_torch.lower.create import filled
from zenith_torch.lower.pool import along_axes
from zenith_torch.lower.registry import lower
from zenith_torch.lower.resize import RESAMPLES, resampling


def _register(name: str, has_corners: bool) -> None:
    """A resampling is linear, axis by axis: its gradient is the product with the matrix turned."""

    @lower(f"aten.{name}_backward.default")
    def backward(
        b: Builder, grad: ir.Value, counts: Sequence[Dim], shape: Sequence[Dim], *rest: Any
    ) -> ir.Value:
        corners, scales = (rest[0], rest[1:]) if has_corners else (False, rest)
        matrices = resampling(name, shape[2:], counts, bool(corners), scales)
        return along_axes(b, grad, [matrix.T for matrix in matrices])


for _name, (_, has_corners) in RESAMPLES.items():
    _register(_name, has_corners)


@lower(*(f"aten.replication_pad{axes}d_backward.default" for axes in (1, 2, 3)))
def replication_pad_backward(
    b: Builder, grad: ir.Value, x: ir.Value, pad: Sequence[int]
) -> ir.Value:
    """What was copied from the edge adds up there."""
    axes = len(pad) // 2
    sizes, counts = b.shape_of(x)[-axes:], b.shape_of(grad)[-axes:]
    if not all(isinstance(d, int) for d in (*sizes, *counts)):
        raise NotSupportedError("an axis of dynamic size")
    matrices = []
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        before = pad[2 * (axes - 1 - axis)]  # torch counts axes from the last
        places = np.clip(np.arange(count) - before, 0, size - 1)
        matrices.append(np.eye(size)[places])
    return along_axes(b, grad, matrices)


# --- sampling -------------------------------------------------------------------------------------

_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER = 0, 1


@lower("aten.grid_sampler_2d_backward.default")
def grid_sample_backward(
    b: Builder,
    grad: ir.Value,
    x: ir.Value,
    grid: ir.Value,
    mode: int,
    padding: int,
    align_corners: bool,
    output_mask: Sequence[bool],
) -> list[ir.Value | None]:
    """To the image each of the four neighbours' share; to the grid, how the shares change."""
    if mode not in (_BILINEAR, _NEAREST) or padding not in (_ZEROS, _BORDER):
        raise NotSupportedError("cubic sampling, or reflection at the border")
    batch, channels, high, wide = b.shape_of(x)
    rows, columns = b.shape_of(grid)[1:3]
    points, plane = (batch, 1, product([rows, columns])), product([high, wide])
    flat_grad = b.reshape(grad, (batch, channels, points[2]))
    places = [
        _Places(b, b.reshape(b.slice(grid, 3, axis, axis + 1), points), size, padding,
                align_corners, mode)
        for axis, size in enumerate((wide, high))
    ]  # fmt: skip
    across, down = places
    pixels = b.reshape(x, (batch, channels, plane))
    to_x = filled(b, 0, (batch, channels, plane), b.out_dtype)
    to_grid: list[ir.Value | None] = [None, None]
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)) if mode == _BILINEAR else ((0, 0),):
        flat = b.op("Mul", down.index[i], b.operand(wide, torch.int64))
        flat = b.expand(b.op("Add", flat, across.index[j]), (batch, channels, points[2]))
        share = b.op("Mul", down.share[i], across.share[j])
        to_x = b.op(
            "ScatterElements", to_x, flat, b.op("Mul", flat_grad, share),
            shape=b.shape_of(to_x), axis=2, reduction="add",
        )  # fmt: skip
        if mode == _NEAREST or not output_mask[1]:
            continue
        value = b.op("GatherElements", pixels, flat, shape=b.shape_of(flat), axis=2)
        value = b.reduce("ReduceSum", b.op("Mul", value, flat_grad), [1], keepdims=True)
        for axis, slope in enumerate(
            (b.op("Mul", down.share[i], across.slope[j]),
             b.op("Mul", down.slope[i], across.share[j]))
        ):  # fmt: skip
            part, total = b.op("Mul", value, slope), to_grid[axis]
            to_grid[axis] = part if total is None else b.op("Add", total, part)
    shape = b.shape_of(grid)
    if to_grid[0] is None:
        grid_result = filled(b, 0, shape, b.out_dtype)
    else:
        columns_of = [b.reshape(v, (*shape[:3], 1)) for v in to_grid if v is not None]
        grid_result = b.concat(columns_of, 3)
    return [b.reshape(to_x, b.shape_of(x)) if output_mask[0] else None, grid_result]


class _Places:
    """Where along one axis the samples fall.

    index: the neighbours below and above, inside the image. share: how much each counts, none
    where it is outside. slope: how the shares change with the grid.
    """

    def __init__(
        self, b: Builder, grid: ir.Value, size: Dim, padding: int, corners: bool, mode: int
    ) -> None:
        kind = grid.dtype
        one, zero, half = (b.number(v, kind) for v in (1, 0, 0.5))
        length = b.operand(size, kind)
        last = b.op("Sub", length, one)
        factor = b.op("Mul", last if corners else length, half)
        place = b.op("Mul", b.op("Add", grid, one), factor)
        place = place if corners else b.op("Sub", place, half)
        slope = b.expand(factor, b.shape_of(grid))
        if padding == _BORDER:
            inside = self._within(b, place, zero, last, strict=True)
            slope = b.op("Mul", slope, b.cast(inside, kind))
            place = b.op("Min", b.op("Max", place, zero), last)
        below = b.op("Round" if mode == _NEAREST else "Floor", place)
        part = b.op("Sub", place, below)
        self.index, self.share, self.slope = [], [], []
        shares = b.op("Sub", one, part) if mode == _BILINEAR else b.expand(one, b.shape_of(grid))
        for at, share, change in (
            (below, shares, b.op("Neg", slope)),
            (b.op("Add", below, one), part, slope),
        ):
            inside = b.cast(self._within(b, at, zero, last), kind)
            clamped = b.op("Min", b.op("Max", at, zero), last)
            self.index.append(b.cast(clamped, torch.int64))
            self.share.append(b.op("Mul", share, inside))
            self.slope.append(b.op("Mul", change, inside))

    @staticmethod
    def _within(
        b: Builder, at: ir.Value, low: ir.Value, high: ir.Value, strict: bool = False
    ) -> ir.Value:
        kinds = ("Greater", "Less") if strict else ("GreaterOrEqual", "LessOrEqual")
        above, under = (
            b.op(kind, at, limit, dtype=torch.bool)
            for kind, limit in zip(kinds, (low, high), strict=True)
        )
        return b.op("And", above, under)
